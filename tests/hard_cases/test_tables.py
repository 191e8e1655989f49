"""What a table may not show: two protocols in one column, intervals from two values, damaged numbers,
or no table for one damaged file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_bench.data import Labelled
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import WriteError
from ssl_bench.evaluators import diagnostics, knn
from ssl_bench.evaluators.detection import evaluator as detection
from ssl_bench.evaluators.finetune.evaluator import Finetune
from ssl_bench.evaluators.linear import probe as linear
from ssl_bench.plan.run_record import _majority_class
from ssl_bench.plan.stored import times_opened_before
from ssl_bench.records import protocols
from ssl_bench.records.schema import EvaluationRecord, Pretraining, Run, read_record, write_record
from ssl_bench.report import Results, Table, load, write_report
from ssl_bench.report.building.classes import per_class_csv
from ssl_bench.report.ground.content import Line
from ssl_bench.report.ground.intervals import balanced_interval, difference_interval, t_interval, wilson_interval
from ssl_bench.report.rendering.csv_files import comparisons_csv, labels_saved_csv, remeasured_csv
from ssl_bench.report.rendering.figures import cost_figure, stages_figure
from ssl_bench.report.rendering.label_figure import labels_figure
from tests.report.conftest import make_run

ROWS = {
    "rotation": ("rotation", "pretext", (0.55, 0.66, 0.80, 0.70)),
    "simclr": ("simclr", "pretext", (0.55, 0.68, 0.80, 0.88)),
    "random": ("random", "baseline", (0.53, 0.51, 0.49, 0.46)),
    "supervised": ("supervised", "labels", (0.58, 0.72, 0.88, 0.94)),
}  # fmt: skip
BEST, LAST, GAIN = "linear top1 best", "linear top1 pooled", "linear top1_gain_over_random best"
SHIFT = 0.05  # what the next version adds to every accuracy


def _line(table: Table, name: str) -> Line:
    return next(line for line in table.sections[0].lines if line.name == name)


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def _lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _remeasure(
    folder: Path, evaluator: str = "linear", rows: tuple[str, ...] = tuple(ROWS), listed: tuple[str, ...] | None = None
) -> None:
    """What `ssl-bench run` does once an evaluator's version was raised: run.json lists new ids,
    records of ``rows`` lie beside the old ones."""
    run = json.loads((folder / "run.json").read_text())
    for cell in run["cells"]:
        for expected in [e for e in cell["evaluations"] if e["evaluator"] == evaluator]:
            old = folder / cell["folder"] / f"{evaluator}-{expected['id']}.json"
            if listed is None or cell["row"] in listed:
                expected["id"] = expected["id"][:-4] + "0002"
            if cell["row"] in rows:
                record = json.loads(old.read_text())
                name, version = record["protocol"].split(" v")
                record |= {
                    "id": expected["id"],
                    "protocol": f"{name} v{int(version) + 1}",
                    "created": "2026-06-01T00:00:00+00:00",
                }
                for m in record["measurements"]:
                    if m["metric"] == "top1":
                        m["value"] = min(1.0, m["value"] + SHIFT)
                old.with_name(f"{evaluator}-{expected['id']}.json").write_text(json.dumps(record))
    (folder / "run.json").write_text(json.dumps(run))


@pytest.fixture
def remeasured(tmp_path: Path) -> tuple[Table, Path]:
    """The table before, and the folder after the probe was measured again under another version."""
    folder = make_run(tmp_path / "run", ROWS, predictions=False, probe_shares=(0.1, 1.0))
    before = load(folder).table()
    _remeasure(folder)
    return before, folder


def test_versions_known_to_reports_are_those_of_the_evaluators() -> None:
    classes = (linear.Linear, knn.KNN, Finetune, detection.Detection, diagnostics.Diagnostics)
    assert {one.name: one.version for one in classes} == protocols.VERSIONS


def test_numbers_of_two_versions_never_share_a_column(remeasured: tuple[Table, Path]) -> None:
    before, folder = remeasured
    results = load(folder)
    table = results.table()
    for old, new in ((_line(before, row), _line(table, row)) for row in ROWS):
        for seed in (0, 1, 2):
            assert new.cells[LAST].values[seed] == pytest.approx(min(1.0, old.cells[LAST].values[seed] + SHIFT))
            assert new.cells["knn top1@20"].values[seed] == old.cells["knn top1@20"].values[seed]
    for frame in (results.frame, results.gains):
        assert frame.groupby(["evaluator", "data"])["protocol"].nunique().max() == 1
    assert set(results.frame["value"]).isdisjoint(set(results.earlier_frame["value"]) - set(results.frame["value"]))
    by_column: dict[tuple[str, str], set[str]] = {}
    for text in (table.csv(), comparisons_csv(table), labels_saved_csv(table)):
        for line in _lines(text):
            by_column.setdefault((line["data"], line.get("column") or f"{line['evaluator']} saved"), set()).add(
                line["protocol"]
            )
    assert len(by_column) > 8 and all(len(versions) == 1 for versions in by_column.values())
    saved = {line["evaluator"]: line["protocol"] for line in _lines(labels_saved_csv(table))}
    assert saved["linear"] == results.protocols["linear", "toy"] != before.sections[0].columns[0].protocol


def test_a_remeasurement_is_counted_and_shown_apart(remeasured: tuple[Table, Path]) -> None:
    before, folder = remeasured
    results = load(folder)
    table = results.table()
    (test,) = [text for sign, text in table.legend if sign == "test"]
    old = before.sections[0].columns[0].protocol.split()[1]
    assert f"again for 4 rows because of a new protocol version ({old} shown separately)" in test
    assert not table.warnings  # nothing is missing, and these are no other settings
    part = table.sections[0].earlier
    assert part is not None and part.title == "measured before" and {line.row for line in part.lines} == set(ROWS)
    titles = [column.title for column in part.columns if column.group == "linear probe, last stage"]
    assert titles == [old, f"v{int(old[1:]) + 1}", "change"] and not any(
        "kNN" in column.group for column in part.columns
    )
    first, second, change = (column for column in part.columns if column.group == "linear probe, last stage")
    for line in part.lines:
        was, now = _line(before, line.row).cells[LAST], _line(table, line.row).cells[LAST]
        assert (line.cells[first.key].value, line.cells[second.key].value) == (
            pytest.approx(was.value),
            pytest.approx(now.value),
        )
        assert line.cells[change.key].text(change) == f"+{100 * (now.value - was.value):.1f}"
    for text in (table.terminal(), table.markdown(), table.html(), table.latex(), results.table(wide=True).terminal()):
        assert "measured before" in text
    keys = {line["column"] for line in _lines(table.csv())}
    assert first.key in keys and change.key in keys and second.key not in keys  # which stands above


def test_every_remeasured_number_is_written_beside_the_old_one(remeasured: tuple[Table, Path]) -> None:
    _, folder = remeasured
    lines = _lines(remeasured_csv(load(folder)))
    assert {line["evaluator"] for line in lines} == {"linear"} and {line["split"] for line in lines} == {
        "validation",
        "test",
    }
    for line in lines:
        expected = min(1.0, float(line["before"]) + SHIFT) - float(line["before"]) if line["metric"] == "top1" else 0
        assert float(line["difference"]) == pytest.approx(expected) and line["protocol"] != line["protocol_before"]
    (best,) = [
        line
        for line in lines
        if (line["row"], line["seed"], line["stage"], line["split"], line["labels"])
        == ("rotation", "1", "best", "test", "1.0")
    ]
    assert (best["stage_before"], best["stage_now"]) == ("s3", "s3")
    assert remeasured_csv(load(make_run(folder.parent / "once", ROWS, seeds=(0,)))) == ""


@pytest.mark.parametrize("listed", [None, ("simclr", "random")])
def test_an_interrupted_remeasurement_never_falls_back_on_old_numbers(
    tmp_path: Path, listed: tuple[str, ...] | None
) -> None:
    """Rows that wait for the new version show that they wait,
    whether run.json lists their new ids already or still the old ones."""
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    _remeasure(folder, rows=("simclr", "random"), listed=listed)
    results = load(folder)
    table = results.table()
    for row in ("rotation", "supervised"):
        cells = _line(table, row).cells
        assert {cells[key].status for key in (BEST, LAST)} == {"missing"} and cells["knn top1@20"].status == "value"
    assert _line(table, "simclr").cells[BEST].status == "value" and _line(table, "simclr").cells[GAIN].status == "value"
    assert table.warnings[0].startswith("not finished: 2 of 16 records")
    part = table.sections[0].earlier
    assert part is not None and {line.row for line in part.lines} == set(ROWS)
    text = {
        column.title: next(line for line in part.lines if line.row == "rotation").cells[column.key].text(column)
        for column in part.columns[:3]
    }
    assert list(text.values())[1:] == ["…", "-"] and re.match(r"\d", next(iter(text.values())))
    (test,) = [text for sign, text in table.legend if sign == "test"]
    assert "again for 2 rows" in test


def test_other_settings_of_the_same_version_are_no_remeasurement(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    (path,) = folder.glob("cells/simclr/0-*/linear-*.json")
    _edit(path, lambda record: record.update(id="0123456789abcdef"))
    path.rename(path.with_name("linear-0123456789abcdef.json"))
    make_run(tmp_path, ROWS, seeds=(0,))
    results = load(folder)
    assert not results.earlier and results.opened_elsewhere == {"simclr": 1}


def test_of_several_old_records_the_one_with_the_same_options_stands_beside_the_new_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    for path in folder.glob("cells/*/*/linear-*.json"):
        _edit(path, lambda record: record.update(spec={"options": {"strengths": 9, "search_images": 600}}))
        other = json.loads(path.read_text()) | {
            "id": "feedfeedfeedfeed",
            "spec": {"options": {"strengths": 3}},
            "measurements": [],
        }
        path.with_name("linear-feedfeedfeedfeed.json").write_text(json.dumps(other))
    _remeasure(folder)
    results = load(folder)
    assert len(results.earlier) == 4 and all(found.record.measurements for found in results.earlier)
    assert results.opened_elsewhere == dict.fromkeys(ROWS, 1)


def test_numbers_of_weights_before_these_do_not_stand_beside_them(tmp_path: Path) -> None:
    """A cell trained again, and its probe measured by a newer version:
    the difference to the old number would be that of two networks."""
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    _remeasure(folder)
    (home,) = folder.glob("cells/simclr/0-*")
    run = json.loads((folder / "run.json").read_text())
    listed = {expected["id"] for cell in run["cells"] for expected in cell["evaluations"]}
    for path in home.glob("*.json"):
        if path.name == "pretrain.json" or path.stem.rpartition("-")[2] in listed:
            _edit(path, lambda record: record.update(weights="another"))
    results = load(folder)
    assert {found.row.row for found in results.earlier} == set(ROWS) - {"simclr"} and results.opened_elsewhere == {
        "simclr": 1
    }
    assert _line(results.table(), "simclr").cells[BEST].status == "value" and set(results.remeasured["row"]) == set(
        ROWS
    ) - {"simclr"}


def test_an_evaluator_asked_twice_looks_once_more_under_a_new_version(tmp_path: Path) -> None:
    """`knn` with k=5 and with k=7, each opened once: measured again,
    each has been opened twice, and not three times."""
    folder = make_run(tmp_path, ROWS, seeds=(0,), predictions=False)
    (path,) = folder.glob("cells/simclr/0-*/knn-*.json")
    record = json.loads(path.read_text())
    for at, identity in enumerate(("0000000000000005", "0000000000000007")):
        spec = {"data": "toy", "evaluator": {"name": "knn", "version": 1}, "options": {"k": [5 + 2 * at]}}
        path.with_name(f"knn-{identity}.json").write_text(json.dumps(record | {"id": identity, "spec": spec}))
    cell: Any = SimpleNamespace(id=record["pretraining"], folder=path.parent)
    for version, before in ((1, 1), (2, 1)):
        identity = "0000000000000005" if version == 1 else "0000000000000025"
        spec = {"data": "toy", "evaluator": {"name": "knn", "version": version}, "options": {"k": [5]}}
        planned: Any = SimpleNamespace(id=identity, name="knn", file_name=f"knn-{identity}", spec=spec)
        assert times_opened_before(cell, planned) == before


def test_columns_of_an_older_version_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path, ROWS, probe_shares=(0.1, 1.0))
    for path in folder.glob("cells/*/*/linear-*.json"):
        _edit(path, lambda record: record.update(protocol="linear-lbfgs v1"))
    monkeypatch.setitem(protocols.VERSIONS, "linear", 2)
    table = load(folder).table()
    for text in (table.terminal(), table.markdown(), table.html(), table.latex()):
        assert (
            "linear probe, protocol v1" in text
            and "kNN, protocol" not in text
            and "fine-tune, share of labels, protocol" not in text
        )
    assert [text for text in _told_by_figures(load(folder)) if "protocol" in text] == [
        "Linear probe by stage, protocol v1:\ntoy, top-1 in %, test",
        "linear probe, protocol v1, best stage: top-1 in %, test",
        "toy: linear probe, best stage\nprotocol v1",
    ]  # fmt: skip
    monkeypatch.setitem(protocols.VERSIONS, "linear", 1)
    assert "protocol v1" not in load(folder).table().markdown() and not any(
        "protocol" in text for text in _told_by_figures(load(folder))
    )


def _told_by_figures(results: Results) -> list[str]:
    found = []
    for draw in (stages_figure, cost_figure, labels_figure):
        figure = draw(results, "toy")
        assert figure is not None
        found += [
            text for ax in figure.axes for text in (ax.get_title(), ax.get_title(loc="left"), ax.get_ylabel()) if text
        ]
    return found


@pytest.mark.parametrize(("seeds", "draws"), [((0,), 2), ((0, 1), 1), ((0, 1), 2)])
def test_two_values_are_both_shown_and_have_no_interval(tmp_path: Path, seeds: tuple[int, ...], draws: int) -> None:
    """A t interval from two values is as good as none: it printed 28.9 ±43.3."""
    results = load(make_run(tmp_path, ROWS, seeds, draws=draws, shares=(0.1,), probe_shares=(0.1,), noise=0.05))
    table = results.table()
    frame = results.frame[
        (results.frame["row"] == "simclr") & (results.frame["split"] == "test") & (results.frame["variant"] == "")
    ]
    for key, own in (
        ("finetune top1 0.1", frame[frame["evaluator"] == "finetune"]),
        (BEST, frame[(frame["metric"] == "top1") & frame["best"].astype(bool)]),
    ):  # fmt: skip
        values = own.groupby("seed" if len(seeds) == 2 else "draw")["value"].mean().tolist()
        (column,) = [column for column in table.sections[0].columns if column.key == key]
        cell = _line(table, "simclr").cells[key]
        assert cell.text(column).startswith(f"{100 * values[0]:.1f}, {100 * values[1]:.1f}") and "±" not in cell.text(
            column
        )
        (line,) = [line for line in _lines(table.csv()) if (line["row"], line["column"]) == ("simclr", key)]
        assert (line["low"], line["high"], line["interval"]) == ("", "", "")
        assert [float(value) for value in line["values"].split()] == pytest.approx(values)
    (column,) = [column for column in table.sections[0].columns if column.key == GAIN]
    assert re.fullmatch(r"[+−]\d+\.\d, [+−]\d+\.\d", _line(table, "simclr").cells[GAIN].text(column))
    assert "no interval" in table.terminal()


def test_the_gain_is_over_random_at_the_same_stage_and_seed(tmp_path: Path) -> None:
    """The best stage of `random` is its first; a row whose best stage is its third is held against the third."""
    results = load(make_run(tmp_path, ROWS, noise=0.02))
    table = results.table()
    frame = results.frame[
        (results.frame["evaluator"] == "linear")
        & (results.frame["metric"] == "top1")
        & (results.frame["split"] == "test")
    ]
    for row, stage in (("rotation", "s3"), ("simclr", "s4"), ("supervised", "s4")):
        at = [
            frame[(frame["row"] == name) & (frame["stage"] == stage)].set_index("seed")["value"]
            for name in (row, "random")
        ]
        gains = (at[0] - at[1]).tolist()
        cell = _line(table, row).cells[GAIN]
        assert list(cell.values.values()) == pytest.approx(gains) and (cell.low, cell.high) == pytest.approx(
            t_interval(gains)
        )
    (own,) = [line for line in _lines(table.csv()) if (line["row"], line["column"]) == ("rotation", GAIN)]
    assert (
        float(own["value"]) == pytest.approx(_line(table, "rotation").cells[GAIN].value) and own["unit"] == "fraction"
    )
    assert _line(table, "random").cells[GAIN].status == "none"
    assert "over random: accuracy at the row's best stage minus random's at the same stage" in table.markdown()
    alone = load(make_run(tmp_path / "alone", {"simclr": ROWS["simclr"]}, seeds=(0,))).table()
    assert GAIN not in _line(alone, "simclr").cells and "over random" not in alone.terminal()


@pytest.mark.parametrize("waiting", [(2,), (0, 1, 2)])
def test_only_rows_that_will_have_a_gain_wait_for_random(tmp_path: Path, waiting: tuple[int, ...]) -> None:
    """`random` over itself, and pixels, which have one representation, never have one: no "…" that nothing fills."""
    rows = ROWS | {"pixels": ("pixels", "baseline", ())}
    table = load(
        make_run(tmp_path, rows, skip=lambda row, seed, what: row == "random" and seed in waiting and what == "linear")
    ).table()
    told = {name: _line(table, name).cells[GAIN].status for name in rows}
    measured = "missing" if len(waiting) == 3 else "value"
    assert told["pixels"] == "none" and told["rotation"] == told["simclr"] == measured
    assert told["random"] == ("missing" if len(waiting) == 3 else "none")  # all of its probe is missing then


def test_with_one_seed_the_gain_is_of_paired_images(tmp_path: Path) -> None:
    """Images that are hard for one row are hard for the other: the interval is narrower than without the predictions,
    and never wider than theirs."""
    halves = []
    for predictions in (True, False):
        results = load(make_run(tmp_path / str(predictions), ROWS, (0,), predictions=predictions, n=2_000))
        cell = _line(results.table(), "rotation").cells[GAIN]
        halves.append((cell.high - cell.low) / 2)
        assert cell.interval == "paired" and cell.low < cell.value < cell.high
    assert halves[0] < 0.9 * halves[1]
    (own,) = results.gains.query("row == 'rotation' and split == 'test' and metric == 'top1'").to_dict("records")
    assert halves[1] == pytest.approx(np.diff(difference_interval(own["value"], own["random"], 2_000))[0] / 2)


def test_a_gain_on_validation_takes_nothing_from_test(tmp_path: Path) -> None:
    """`--val` after a final run: predictions are stored of test alone,
    and how alike two rows are there is no fact about validation."""
    folder = make_run(tmp_path, ROWS, (0,))
    _edit(folder / "run.json", lambda run: run.update(final=False))
    results = load(folder)
    cell = _line(results.table(), "rotation").cells[GAIN]
    (own,) = results.gains.query("row == 'rotation' and split == 'validation' and metric == 'top1'").to_dict("records")
    assert (cell.low, cell.high) == pytest.approx(difference_interval(own["value"], own["random"], 400))


@pytest.mark.parametrize(("first", "second", "both"), [(0.6, 0.5, 0.45), (0.3, 0.3, 0.15), (0.9, 0.1, 0.1)])
def test_the_interval_of_a_paired_difference_covers_it(first: float, second: float, both: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1_000):
        cells = rng.multinomial(200, [both, first - both, second - both, 1 - first - second + both])
        x, y = np.repeat([1, 1, 0, 0], cells), np.repeat([1, 0, 1, 0], cells)
        low, high = difference_interval(x.mean(), y.mean(), 200, float(np.corrcoef(x, y)[0, 1]))
        covered += low <= first - second <= high
    assert 930 <= covered <= 985
    apart = difference_interval(first, second, 200)
    # about as wide as two
    assert apart[0] <= first - second - np.hypot(*(p - wilson_interval(p * 200, 200)[0] for p in (first, second))) * 0.9


def test_with_one_seed_the_legend_says_what_the_interval_leaves_out(tmp_path: Path) -> None:
    said = "intervals cover the {} images, not training noise"
    for final, split in ((True, "test"), (False, "validation")):
        text = " ".join(load(make_run(tmp_path / split, ROWS, (0,), final=final)).table().terminal(legend=True).split())
        assert f"one seed: {said.format(split)}" in text
    several = make_run(tmp_path / "three", ROWS, (0, 1, 2))
    assert "training noise" not in load(several).table().terminal(legend=True)
    one_row = make_run(tmp_path / "some", ROWS, (0, 1, 2), skip=lambda row, seed, what: row == "simclr" and seed > 0)
    text = " ".join(load(one_row).table().terminal(legend=True).split())
    assert f"rows with one seed: {said.format('test')}" in text


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("knn", "no json"),
        ("knn", "empty"),
        ("pretrain", "other id"),
        ("pretrain", "unknown field"),
        ("pretrain", "not a record"),
    ],
)
def test_a_damaged_record_costs_its_cell_and_nothing_else(tmp_path: Path, what: str, damage: str) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    whole = load(folder).table()
    (path,) = folder.glob(f"cells/simclr/0-*/{what}*.json")
    if damage == "no json":
        path.write_text(path.read_text()[:200])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other id":
        _edit(path, lambda record: record.update(id="0123456789abcdef"))
    elif damage == "unknown field":
        _edit(path, lambda record: record.update(surprise=1))
    else:
        path.write_text("[]")
    results = load(folder)
    table = results.table()
    assert len(results.damaged) == 1 and str(path) in results.damaged[0] and str(path) in table.warnings[0]
    hit = {"knn top1@20"} if what == "knn" else {"passes", "minutes"}
    for old, new in zip(whole.sections[0].lines, table.sections[0].lines, strict=True):
        for column in table.sections[0].columns:
            expected = "damaged" if (new.row == "simclr" and column.key in hit) else old.cells[column.key].text(column)
            assert new.cells[column.key].text(column) == expected
    for text in (table.terminal(), table.markdown(), table.html(), table.latex()):
        assert "damaged" in text
    assert {line["status"] for line in _lines(table.csv()) if line["row"] == "simclr" and line["column"] in hit} == {
        "damaged"
    }


def test_a_damaged_failure_record_costs_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,), fails={("simclr", 0, "pretraining"): "no memory"})
    (path,) = folder.glob("cells/simclr/0-*/failed.json")
    path.write_text("{")
    results = load(folder)
    assert str(path) in results.damaged[0] and {m.row for m in results.missing} == {"simclr"}
    assert _line(results.table(), "rotation").cells[BEST].status == "value"


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """A file where the folder of figures belongs stands for a folder without permission,
    which root would not notice."""
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    (folder / "figures").write_text("in the way")
    with pytest.raises(WriteError, match=re.escape(str(folder / "figures"))) as error:
        write_report(folder)
    assert error.value.exit_code == 1  # nothing was asked wrongly


def _imbalanced(folder: Path, draws: bool = False) -> None:
    """Records as of a set where one class has 95 % of the images: a balanced accuracy beside each,
    accuracies within classes, changed draws."""
    for path in folder.glob("cells/*/*/*-*.json"):
        record = json.loads(path.read_text())
        found = [m for m in record["measurements"] if m["metric"].partition("@")[0] == "top1"]
        record["measurements"] += [m | {"metric": "balanced_" + m["metric"], "value": m["value"] / 2} for m in found]
        if record["evaluator"] == "linear":
            recalls = [record["seed"] / 10, 0.5, None, 1.0]
            record["details"]["per_class"] = {
                stage: {"validation": [0.0] * 4, "test": recalls} for stage in ("s3", "pooled")
            }
        if draws and record["evaluator"] == "finetune":
            record["details"]["draw_changes_proportions"] = {"0.1": {"class": "class 1", "train": 0.95, "draw": 0.5}}
        path.write_text(json.dumps(record))
    _edit(
        folder / "run.json",
        lambda run: run["data"]["evaluate"][0].update(
            majority={"class": "class 1", "train": 0.95, "validation": 0.948, "test": 0.952}
        ),
    )


def test_unequal_classes_have_balanced_accuracy_beside_accuracy(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, predictions=False)
    assert "balanced" not in load(folder).table(wide=True).terminal() and "classes" not in {
        sign for sign, _ in load(folder).table().legend
    }
    _imbalanced(folder)
    results = load(folder)
    shown = [column.title for column in results.table().sections[0].columns if column.evaluator == "linear"]
    assert shown == ["best stage", "balanced", "over random", "last stage", "gain, last"]
    wide = results.table(wide=True)
    titles = [column.title for column in wide.sections[0].columns]
    assert {"last, balanced", "k=20, balanced", "k=200, balanced", "10 %, balanced", "100 %, balanced"} <= set(titles)
    pairs = [
        (BEST, "linear balanced_top1 best"),
        ("knn top1@20", "knn balanced_top1@20"),
        ("finetune top1 0.1", "finetune balanced_top1 0.1"),
    ]
    for row in ROWS:
        for plain, balanced in pairs:
            cells = _line(wide, row).cells
            assert cells[balanced].value == pytest.approx(cells[plain].value / 2) and cells[balanced].interval in (
                "",
                "t",
            )
    lines = {(line["row"], line["column"]): line for line in _lines(wide.csv())}
    assert lines["simclr", "knn balanced_top1@20"]["unit"] == "fraction"
    (note,) = [text for sign, text in results.table().legend if sign == "classes"]
    assert "always answering the largest (class 1) scores 95.2 %" in note and "per_class.csv" in note


def test_balanced_accuracy_of_one_seed_has_an_interval_of_its_own(tmp_path: Path) -> None:
    """That of a share of all images would be far too narrow where a class has few of them."""
    folder = make_run(tmp_path, ROWS, seeds=(0,))
    _imbalanced(folder)
    for path in folder.glob("cells/*/*/linear-*.json"):
        with np.load(path.with_suffix(".npz")) as arrays:
            truth, predicted = arrays["target"], {name: arrays[name] for name in arrays.files}
        record = json.loads(path.read_text())
        for m in record["measurements"]:
            if m["metric"] == "balanced_top1" and m["split"] == "test":
                m["value"] = float(np.mean([(predicted[m["stage"]] == truth)[truth == k].mean() for k in range(4)]))
        path.write_text(json.dumps(record))
    table = load(folder).table()
    cell = _line(table, "simclr").cells["linear balanced_top1 best"]
    assert cell.interval == "classes" and cell.low < cell.value < cell.high
    assert "balanced: 95 % interval over the images of each class" in table.markdown()


@pytest.mark.parametrize(("sizes", "recalls"), [((1_900, 100), (0.9, 0.5)), ((300, 60, 40), (0.8, 0.6, 0.3))])
def test_the_interval_of_a_balanced_accuracy_covers_it(sizes: tuple[int, ...], recalls: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    covered = 0
    for _ in range(500):
        _, low, high = balanced_interval(rng.random(len(classes)) < np.repeat(recalls, sizes), classes)
        covered += low <= np.mean(recalls) <= high
    assert 460 <= covered <= 493


def test_draws_that_change_the_proportions_say_so(tmp_path: Path) -> None:
    """95 % by chance with all labels, beside 58 % after a balanced draw, looks like a loss and is none."""
    folder = make_run(tmp_path, ROWS, seeds=(0,), predictions=False)
    _imbalanced(folder, draws=True)
    table = load(folder).table()
    assert "few-label draws change their proportions (at 10 % class 1 is 50 %" in " ".join(table.terminal().split())
    text = " ".join(table.terminal(legend=True).split())
    assert (
        "few-label draws hold the classes in other proportions than train (at 10 % class 1 is 50 % of the draw, 95 % "
        "of train)" in text
    )


def test_accuracies_within_classes_are_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0, 3), predictions=False)
    assert per_class_csv(load(folder)) == ""
    _imbalanced(folder)
    lines = _lines(per_class_csv(load(folder)))
    assert len(lines) == len(ROWS) * 2 * 2 * 4 and {line["split"] for line in lines} == {"test"}
    own = {
        line["class"]: line["value"]
        for line in lines
        if (line["row"], line["seed"], line["of"]) == ("simclr", "3", "pooled")
    }
    assert own == {"class 0": "0.3", "class 1": "0.5", "class 2": "", "class 3": "1.0"}


@pytest.mark.parametrize(("counts", "told"), [((90, 5, 5), 0.9), ((40, 35, 25), None)])
def test_the_run_tells_its_largest_class(counts: tuple[int, ...], told: float | None) -> None:
    labels = np.repeat(np.arange(3), counts)
    images = ImageSet(np.zeros((100, 8, 8, 3), np.uint8), np.arange(100), labels, ("a", "b", "c"), "toy", "")
    described = _majority_class(Labelled("toy", images, images, images))
    assert described.get("majority") == (
        None if told is None else {"class": "a", "train": told, "validation": told, "test": told}
    )


def test_a_value_that_cannot_be_is_damage(tmp_path: Path) -> None:
    """A kNN of 7.5 printed 750.0."""
    folder = make_run(tmp_path, ROWS, seeds=(0,), predictions=False)
    (path,) = folder.glob("cells/simclr/0-*/knn-*.json")
    _edit(path, lambda record: record["measurements"][1].update(value=7.5))
    table = load(folder).table()
    assert str(path) in table.warnings[0] and "7.5" in table.warnings[0] and "750" not in table.csv()
    assert {row: _line(table, row).cells["knn top1@20"].status for row in ROWS} == dict.fromkeys(ROWS, "value") | {
        "simclr": "damaged"
    }


def test_a_record_that_is_not_what_was_written_is_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,), predictions=False)
    for path in folder.glob("cells/simclr/0-*/*.json"):
        write_record(path, read_record(path, Pretraining if path.name == "pretrain.json" else EvaluationRecord))
    assert not load(folder).damaged
    (path,) = folder.glob("cells/simclr/0-*/knn-*.json")
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    table = load(folder).table()
    assert str(path) in table.warnings[0] and _line(table, "simclr").cells["knn top1@20"].status == "damaged"


def test_files_without_a_digest_are_told_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ROWS, seeds=(0,), predictions=False)
    (text,) = [text for sign, text in load(folder).table().legend if sign == "records"]
    assert text.endswith("(16 of 16); 17 files have no digest: not checked for damage")  # run.json among them
    for path in folder.rglob("*.json"):
        kind = {"run.json": Run, "pretrain.json": Pretraining}.get(path.name, EvaluationRecord)
        write_record(path, read_record(path, kind))
    moved = folder.rename(tmp_path.with_name(tmp_path.name + "-sealed"))
    assert [text for sign, text in load(moved).table().legend if sign == "records"] == ["toy (16 of 16)"]
