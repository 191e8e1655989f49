"""The lines below a table say what a reader of the numbers must know, and only where it holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_bench import pretrain
from ssl_bench.report import Table, load

MakeRun = Callable[..., Path]
ROWS = {
    "colorization": ("colorization", "pretext", (0.5, 0.6)),
    "relative_position": ("relative_position", "pretext", (0.5, 0.6)),
    "simclr": ("simclr", "pretext", (0.5, 0.8)), "random": ("random", "baseline", (0.3, 0.3)),
}  # fmt: skip


def _change(folder: Path, pattern: str, change: Callable[[dict[str, Any]], Any]) -> None:
    paths = list(folder.glob(f"cells/{pattern}"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))


def _legend(table: Table, sign: str) -> list[str]:
    return [text for word, text in table.legend if word == sign]


def _few_labels(record: dict[str, Any]) -> None:
    """The probe's numbers as those of two draws of a tenth of the labels."""
    record["measurements"] = [{**m, "labels": 0.1, "draw": draw} for m in record["measurements"] for draw in (0, 1)]
    fit = {
        "labels": 0.1,
        "stage": "s1",
        "chosen_on": "5-fold cross-validation inside the draw",
        "fit": {"converged": True, "images": 400},
    }
    record["details"] = {"fits": [fit]}


def test_rows_that_see_other_input_are_named(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0,))
    # older records do not tell
    assert _legend(load(folder).table(), "input") == ["patch tasks need 64 px or more to be ranked fairly"]
    _change(folder, "colorization/*/pretrain.json", lambda record: record["describe"].update(input="lightness"))
    _change(folder, "relative_position/*/pretrain.json", lambda record: record["describe"].update(input="standardised"))
    _change(
        folder,
        "simclr/*/pretrain.json",
        lambda record: record["describe"].update(input=["what a task of one's own may say"]),
    )
    seen, _ = _legend(load(folder).table(), "input")
    assert (
        seen
        == "colorization sees lightness only, relative_position images standardised one by one, also when evaluated"
    )


def test_patch_tasks_are_warned_of_on_small_images_only(run_folder: MakeRun) -> None:
    for size, said in ((63, True), (64, False)):
        results = load(run_folder(ROWS, seeds=(0,)))
        results.run.data["pretrain"]["size"] = size
        assert bool(_legend(results.table(), "input")) is said
    without = {name: row for name, row in ROWS.items() if name != "relative_position"}
    assert not _legend(load(run_folder(without, seeds=(0,))).table(), "input")


@pytest.mark.parametrize(
    ("task", "kind"), [("colorization", "lightness"), ("relative_position", "standardised"), ("rotation", None)]
)
def test_records_tell_the_input(task: str, kind: str | None) -> None:
    data = {"source": "shapes", "size": 32, "limit": {"train": 96, "test": 32}}
    backbone = {"name": "resnet18", "width": 0.125, "stem_stride": 2}
    trained = pretrain(task, data, images=32, backbone=backbone, options={"batch_size": 32})
    assert trained.record.describe.get("input") == kind


def test_choices_inside_a_draw_are_told_from_those_on_validation(run_folder: MakeRun) -> None:
    def chosen(few: bool, rates: list[float], scarce: bool = False) -> list[str]:
        folder = run_folder(ROWS, seeds=(0,), predictions=False)
        runs: list[dict[str, Any]] = [
            {"labels": 0.1, "images": 400, "chosen_on": "a fifth of the draw"},
            {"labels": 1.0, "images": 4_000, "chosen_on": "validation"}
        ]  # fmt: skip
        if scarce:
            runs.append(
                {
                    "labels": 0.01,
                    "images": 40,
                    "chosen_on": "nothing: one image of a class cannot be both trained on and held back",
                }
            )
        _change(
            folder,
            "*/*/finetune-*.json",
            lambda record: record.update(spec={"options": {"learning_rates": rates}}, details={"runs": runs}),
        )
        if few:
            _change(folder, "*/*/linear-*.json", _few_labels)
        lines = _legend(load(folder).table(), "chosen")
        return [line for line in lines if "draw" in line or "middle" in line]

    probe = "linear probe: with fewer labels, strength and stage inside the labelled draw"
    rate = "fine-tuning: with fewer labels, learning rate inside the labelled draw"
    assert chosen(True, [0.01, 0.1]) == [probe, rate]
    assert chosen(True, [0.1]) == [probe]
    assert chosen(False, [0.01, 0.1]) == [rate]
    assert chosen(False, [0.1]) == [] == chosen(False, [0.1], scarce=True)
    middle = "fine-tuning: the middle of the grid where a class has too few images to hold any back: 1 %"
    assert chosen(False, [0.01, 0.1], scarce=True) == [rate, middle]


def test_rates_of_detectors_are_told_with_the_images_they_were_chosen_on(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0,), boxes={"cells": {"rotation": 0.5, "simclr": 0.4}})
    _change(folder, "*/*/detection-*.json", lambda record: record.update(details={"tried": {}}))
    assert not any("detection" in line for line in _legend(load(folder).table(), "chosen"))
    _change(folder, "*/*/detection-*.json", lambda record: record.update(details={"tried": {"0.01": 0.3, "0.02": 0.5}}))
    assert "detection: learning rate on validation: 60 images of cells" in _legend(load(folder).table(), "chosen")


def test_a_set_that_two_evaluators_bring_is_described_once(run_folder: MakeRun) -> None:
    results = load(run_folder(ROWS, seeds=(0,), boxes={"cells": {"rotation": 0.5, "simclr": 0.4}}))
    once = _legend(results.table(), "data")
    results.run.data["own"] *= 2
    assert _legend(results.table(), "data") == once and once[-1].count("cells: 300 train") == 1


def test_members_of_a_combination_see_their_own_input(run_folder: MakeRun) -> None:
    rows = {**ROWS, "relative_position+colorization": ("relative_position+colorization", "pretext", (0.4, 0.5))}
    folder = run_folder(rows, seeds=(0,))
    _change(
        folder, "relative_position*/*/pretrain.json", lambda record: record["describe"].update(input="standardised")
    )
    seen, combined, _ = _legend(load(folder).table(), "input")
    assert seen == "relative_position sees images standardised one by one, also when evaluated"
    assert combined == (
        "members of a combination see their own input; evaluated: "
        "relative_position+colorization on images standardised one by one"
    )
    alone = {"relative_position+rotation": ("relative_position+rotation", "pretext", (0.4, 0.5))}
    assert any(
        "patch tasks need 64 px" in text for text in _legend(load(run_folder(alone, seeds=(0,))).table(), "input")
    )


def test_rows_that_start_from_labelled_weights_are_not_said_to_have_been_given_all_labels(run_folder: MakeRun) -> None:
    folder = run_folder({**ROWS, "supervised": ("supervised", "labels", (0.5, 0.9))}, seeds=(0,))
    (given,) = _legend(load(folder).table(), "†")
    assert given.startswith("pretrained with all labels: not ranked")
    run = json.loads((folder / "run.json").read_text())
    run["rows"][0] |= {"uses_labels": True, "init": "timm:resnet18.a1_in1k, trained on ImageNet-1k, with labels"}
    (folder / "run.json").write_text(json.dumps(run))
    (started,) = _legend(load(folder).table(), "†")
    assert started.startswith("pretrained with all labels, or from weights that may have seen labels: not ranked")


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_draws_are_told_whatever_the_number_of_seeds(run_folder: MakeRun, seeds: tuple[int, ...]) -> None:
    lines = _legend(load(run_folder(ROWS, seeds=seeds, draws=4)).table(), "±")
    assert [line.endswith("; 10 %: mean of 4 label draws per seed") for line in lines] == [True] + [False] * (
        len(lines) - 1
    )
    assert not any("draws" in line for line in _legend(load(run_folder(ROWS, seeds=seeds, draws=1)).table(), "±"))


def test_fewer_neighbours_than_asked_are_told(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0, 1))
    neighbours = {"validation": {"20": 8, "200": 8}, "test": {"20": 20, "200": 20}}
    assert not _legend(load(folder).table(), "k")
    _change(folder, "*/*/knn-*.json", lambda record: record.update(details={"neighbours": neighbours}))
    # as on the split that is shown
    assert _legend(load(folder).table(), "k") == ["capped at the size of the smallest class: k=200 uses 20"]


def test_headings_say_the_share_of_the_labels_and_all_fits_120_columns(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, predictions=False)
    assert "% of the labels" not in {column.group for column in load(folder).table().sections[0].columns}
    _change(folder, "*/*/linear-*.json", _few_labels)
    _change(
        folder, "*/*/finetune-*.json", lambda record: record.update(spec={"options": {"learning_rates": [0.01, 0.1]}})
    )
    _change(
        folder, "*/*/knn-*.json", lambda record: record.update(details={"neighbours": {"test": {"20": 9, "200": 9}}})
    )
    _change(folder, "*/*/pretrain.json", lambda record: record["describe"].update(input="lightness"))
    table = load(folder).table()
    first, last = table.sections[0].columns[:2]
    assert first.group == last.group == "linear probe, 10 % of the labels" and first.labels == 0.1
    text = table.terminal(120, legend=True)
    assert max(map(len, text.splitlines())) <= 120 and "linear probe, 10 % of the labels  " in text
    assert {"k", "input", "chosen"} <= {sign for sign, _ in table.legend}


def test_minutes_taken_on_a_busy_machine_are_said(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0, 1))
    assert not load(folder).table().warnings  # older records do not tell
    _change(folder, "*/*/pretrain.json", lambda record: record["seconds"].update(total=100.0, cpu=99.0))
    assert not load(folder).table().warnings
    _change(folder, "simclr/1-*/pretrain.json", lambda record: record["seconds"].update(cpu=60.0))
    assert load(folder).table().warnings == ["minutes of simclr include waiting: other processes used the CPU"]
    # there the processor only watches
    _change(folder, "simclr/1-*/pretrain.json", lambda record: record["environment"].update(device="cuda: Example"))
    assert not any("waiting" in warning for warning in load(folder).table().warnings)


def test_commits_of_one_environment_stand_in_one_line(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0,))
    _change(folder, "simclr/0-*/pretrain.json", lambda record: record["environment"].update(code="0.1.0 (b2c3d4e)"))
    table = load(folder).table()
    (line,) = _legend(table, "run")
    assert "0.1.0 (a1b2c3d)" in line and "0.1.0 (b2c3d4e)" in line and not table.warnings


def test_images_with_boxes_do_not_count_as_images_that_are_right_or_wrong(run_folder: MakeRun) -> None:
    boxes = {"cells": dict.fromkeys(ROWS, 0.5)}
    told = [
        line
        for line in _legend(load(run_folder(ROWS, boxes=boxes, predictions=False)).table(), "±")
        if line.startswith("sampling error")
    ]
    assert told[0].startswith("sampling error of 500 test images: about ±4.4 points at 50 %")
    # as stored beside each value
    assert told[1] == "sampling error of 60 images of cells: about ±4.0 points of mAP (bootstrap)"


def test_labels_saved_are_explained_where_they_are_shown(run_folder: MakeRun) -> None:
    first, second, third = _legend(load(run_folder(ROWS)).table(), "×")
    assert (
        "the better of random and random, 3x longer" in first
        and "at the first crossing" in second
        and "lowest and highest seed" in third
    )
    assert len(_legend(load(run_folder(ROWS, seeds=(0,))).table(), "×")) == 2 and not _legend(
        load(run_folder(ROWS, shares=(0.1,))).table(), "×"
    )


def test_a_setting_that_saw_test_and_is_not_in_the_table_is_told(run_folder: MakeRun) -> None:
    """A row whose settings were changed after its first test numbers has had more than one look."""
    folder = run_folder(ROWS)
    assert not load(folder).table().warnings and _legend(load(folder).table(), "test")[0].startswith(
        "opened once per row."
    )
    home = next(folder.glob("cells/simclr/0-*"))
    shutil.copytree(home, home.with_name("0-00000000"))
    (told,) = load(folder).table().warnings
    assert told == "other settings of these rows were evaluated on test: simclr (3 records)"
    assert "also with other settings" in _legend(load(folder).table(), "test")[0]
    for path in home.with_name("0-00000000").glob("*-*.json"):  # one that was chosen against on validation has not
        path.write_text(path.read_text().replace('"test_opened": 1', '"test_opened": 0'))
    assert not load(folder).table().warnings


def test_validation_shown_after_test_was_seen_says_so(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"final": False}))
    table = load(folder).table()
    assert table.validation and _legend(table, "test")[0].startswith("opened once per row, and not shown here")
    assert _legend(load(run_folder(ROWS, final=False)).table(), "test")[0].startswith("not opened")


def test_probes_that_did_not_converge_are_named(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS)
    fits = [
        {"stage": "s1", "fit": {"converged": True}, "final_fit": {"converged": False}},
        {"stage": "s2", "fit": {"converged": True}},
    ]
    _change(folder, "simclr/*/linear-*.json", lambda record: record.update(details={"fits": fits}))
    assert load(folder).table().warnings == ["linear probes that did not converge: simclr s1 (3 times)"]


def test_a_row_that_starts_from_other_weights_says_from_which(run_folder: MakeRun) -> None:
    """Weights that may have seen labels make a row one that saw labels: marked, and out of every comparison."""
    start = "timm:resnet18.a1_in1k, trained on ImageNet-1k, with labels"
    folder = run_folder(ROWS)
    run = load(folder).run
    rows = [
        row.model_copy(update={"uses_labels": True, "init": start}) if row.row == "simclr" else row for row in run.rows
    ]
    (folder / "run.json").write_text(run.model_copy(update={"rows": rows}).model_dump_json())
    table = load(folder).table()
    assert _legend(table, "elsewhere") == [f"simclr starts from {start}"]
    assert "simclr †" in {line.name for line in table.sections[0].lines} and "simclr" not in {
        c.first for c in table.sections[0].comparisons
    }


def test_what_is_known_of_the_data_is_told(run_folder: MakeRun) -> None:
    results = load(run_folder(ROWS, seeds=(0,)))
    before = _legend(results.table(), "data")
    results.run.data["notes"] = [
        "toy: 3 unreadable train images are left out",
        "toy: 3 unreadable train images are left out",
    ]
    assert _legend(results.table(), "data") == [*before, "toy: 3 unreadable train images are left out"]


def test_a_last_fit_on_validation_images_too_is_told(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS, seeds=(0,))
    said = "linear probe: refitted on train and validation before test, where all labels are used"
    assert said not in _legend(load(folder).table(), "chosen")
    fit = {"stage": "s1", "labels": 1.0, "fit": {"converged": True}, "final_fit": {"converged": True}}
    _change(folder, "*/*/linear-*.json", lambda record: record.update(details={"fits": [fit]}))
    assert said in _legend(load(folder).table(), "chosen")


def test_the_choice_of_the_probe_is_told_as_it_was_made(run_folder: MakeRun) -> None:
    """The first protocol chose by accuracy on validation; later ones choose by log loss, there or on folds."""
    folder = run_folder(ROWS, seeds=(0,), predictions=False)

    def chosen(protocol: str, on: str) -> list[str]:
        fit = {"stage": "s1", "labels": 1.0, "chosen_on": on, "fit": {"converged": True}}
        _change(folder, "*/*/linear-*.json", lambda record: record.update(protocol=protocol, details={"fits": [fit]}))
        return _legend(load(folder).table(), "chosen")

    task = "task settings on 400 validation images; tried: 1 for every row"
    assert chosen("linear-lbfgs v1", "validation") == [task, "linear probe: strength and stage on validation"]
    by_loss = "linear probe: strength and stage by log loss"
    assert chosen("linear-lbfgs v2", "validation") == [task, f"{by_loss} on validation"]
    folds = "5-fold cross-validation of train and validation"
    assert chosen("linear-lbfgs v2", folds) == [task, f"{by_loss} in {folds}"]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_terminal_shows_at_most_eight_short_lines_and_the_whole_legend_on_request(
    run_folder: MakeRun, seeds: tuple[int, ...]
) -> None:
    table = load(run_folder(seeds=seeds)).table()
    brief, whole = table.terminal(120), table.terminal(120, legend=True)
    assert len(table.brief) <= 8 and all(len(sign) + len(text) <= 110 for sign, text in table.brief)
    assert table.brief[-1][1].endswith("--legend, table.md or table.html")
    for sign, text in table.legend:
        assert " ".join(text.split()) in " ".join(whole.split()) and sign in whole
    assert "shuffled labels" in whole and "shuffled labels" not in brief and "shuffled labels" in table.markdown()
    assert len(brief.splitlines()) < len(whole.splitlines())
