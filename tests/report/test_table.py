"""What the table claims: values, intervals, marks, order, failures, and the lines below it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.records.schema import Environment, RunRow
from ssl_bench.report import Results, Table, load, write_report
from ssl_bench.report.ground.content import Entry, Line
from ssl_bench.report.ground.intervals import t_interval, wilson_interval

MakeRun = Callable[..., Path]
ROWS = {
    "rotation": ("rotation", "pretext", (0.55, 0.66, 0.80, 0.70)),
    "simclr": ("simclr", "pretext", (0.55, 0.68, 0.80, 0.88)),
    "random": ("random", "baseline", (0.53, 0.51, 0.49, 0.46)),
    "supervised": ("supervised", "labels", (0.58, 0.72, 0.88, 0.94)),
}  # fmt: skip
BEST, LAST, FEW = "linear top1 best", "linear top1 pooled", "finetune top1 0.1"
GAIN = "linear top1_gain_over_random best"
LAST_GAIN = "linear top1_gain_over_random pooled"


def _line(table: Table, name: str) -> Line:
    (line,) = [line for line in table.sections[0].lines if line.name == name]
    return line


def _cell(table: Table, row: str, column: str) -> Entry:
    return _line(table, row).cells[column]


def _values(results: Results, row: str, **where: object) -> list[float]:
    frame = results.frame[
        (results.frame["row"] == row) & (results.frame["split"] == results.split) & (results.frame["variant"] == "")
    ]
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return [float(value) for value in frame.groupby("seed")["value"].mean()]


def test_three_seeds_have_a_t_interval_over_seeds(run_folder: MakeRun) -> None:
    results = load(run_folder())
    cell = _cell(results.table(), "simclr", BEST)
    values = _values(results, "simclr", metric="top1", best=True)
    assert cell.value == pytest.approx(sum(values) / 3) and (cell.low, cell.high) == pytest.approx(t_interval(values))
    assert cell.stage == "s4" and cell.interval == "t"


def test_draws_are_averaged_within_a_seed_first(run_folder: MakeRun) -> None:
    results = load(run_folder(draws=3))
    cell = _cell(results.table(), "rotation", FEW)
    values = _values(results, "rotation", evaluator="finetune", labels=0.1)
    assert cell.draws == 3 and len(cell.values) == 3  # not nine independent values
    assert (cell.low, cell.high) == pytest.approx(t_interval(values))


def test_one_seed_has_the_binomial_interval_and_no_best_row(run_folder: MakeRun) -> None:
    table = load(run_folder(seeds=(0,), n=400)).table()
    cell = _cell(table, "simclr", BEST)
    assert (cell.low, cell.high) == pytest.approx(
        wilson_interval(cell.value * 400, 400)
    ) and cell.interval == "binomial"
    cells = [cell for line in table.sections[0].lines for cell in line.cells.values()]
    assert not any(cell.best or cell.equal for cell in cells) and table.sections[0].comparisons == []
    assert "one seed: training noise not covered" in table.terminal() and "=  " not in table.terminal()


def test_two_seeds_show_both_values(run_folder: MakeRun) -> None:
    results = load(run_folder(seeds=(0, 1)))
    cell = _cell(results.table(), "rotation", LAST)
    a, b = _values(results, "rotation", metric="top1", stage="pooled", evaluator="linear")
    assert math.isnan(cell.low) and cell.interval == "" and not cell.best
    assert f"{100 * a:.1f}, {100 * b:.1f}" in results.table().terminal()


def test_rows_that_differ_are_told_apart_and_equal_ones_are_not(run_folder: MakeRun) -> None:
    rows = {
        "a": ("rotation", "pretext", (0.5, 0.70)), "b": ("simclr", "pretext", (0.5, 0.70)),
        "c": ("vae", "pretext", (0.3, 0.40)),
        "random": ("random", "baseline", (0.2, 0.3)), "supervised": ("supervised", "labels", (0.6, 0.9)),
    }  # fmt: skip
    table = load(run_folder(rows, n=2_000)).table()
    assert [_cell(table, row, LAST).equal for row in "abc"] == [True, True, False]
    assert sum(_cell(table, row, LAST).best for row in "abc") == 1
    assert not _cell(table, "supervised", LAST).best and not _cell(table, "random", LAST).best
    (against_c,) = [c for c in table.sections[0].comparisons if c.column == LAST and c.second == "c"]
    assert against_c.images == 2_000 and against_c.seeds == 3 and against_c.p_holm <= 0.05 and against_c.low > 0.2
    assert "paired over seeds and test images, Holm-corrected" in " ".join(table.terminal(legend=True).split())


def test_a_lone_best_row_carries_no_equals_sign(run_folder: MakeRun) -> None:
    table = load(run_folder(n=2_000)).table()
    assert _cell(table, "simclr", BEST).best and not any(line.cells[BEST].equal for line in table.sections[0].lines)


def test_without_predictions_rows_are_paired_over_seeds(run_folder: MakeRun) -> None:
    table = load(run_folder(predictions=False, noise=0.03)).table()
    assert {c.images for c in table.sections[0].comparisons} == {0}
    assert "test images, Holm" not in table.terminal(legend=True)


def test_below_random_is_marked_against_the_better_of_its_two_runs(run_folder: MakeRun) -> None:
    rows = {
        "between": ("vae", "pretext", (0.5, 0.48)), "above": ("simclr", "pretext", (0.6, 0.60)),
        "random": ("random", "baseline", (0.55, 0.45)),
    }  # fmt: skip
    table = load(run_folder(rows, noise=0.001, n=400)).table()
    # Random's longer run is five points above its first one, and the row lies between the two.
    assert (
        _cell(table, "random", FEW).value
        < _cell(table, "between", FEW).value
        < _cell(table, "random, 3x longer", FEW).value
    )
    assert _cell(table, "between", FEW).below and not _cell(table, "above", FEW).below
    assert _cell(table, "between", BEST).below and not _cell(table, "between", LAST).below
    assert not _cell(table, "random", FEW).below


@pytest.mark.parametrize("classes", [4, 21])
def test_every_accuracy_is_held_against_the_better_run_of_random(run_folder: MakeRun, classes: int) -> None:
    rows = ROWS | {"vae": ("vae", "pretext", (0.50, 0.46)), "weights": ("weights", "elsewhere", (0.52, 0.47))}
    results = load(run_folder(rows, noise=0.03, classes=classes, shares=(0.01, 0.1, 1.0), probe_shares=(0.1, 1.0)))
    table = results.table(wide=True)
    marked = 0
    for column in [column for column in table.sections[0].columns if column.unit == "%" and column.stage != "code"]:
        own = results.frame.query("evaluator == @column.evaluator and split == 'test' and metric == @column.metric")
        own = own[own["labels"] == column.labels] if column.labels is not None else own
        own = own[own["best"]] if column.stage == "best" else own[own["stage"] == column.stage] if column.stage else own
        # The mean over seeds of the mean over draws, of every row and variant.
        means = own.groupby(["row", "variant", "seed"])["value"].mean().groupby(["row", "variant"]).mean()
        bar = max(value for (row, _), value in means.items() if row == "random")
        for line in table.sections[0].lines:
            expected = line.block != "baseline" and means.get((line.row, line.variant), 1.0) < bar
            unranked = line.row == "supervised" and column.labels is not None and column.labels < 1
            assert line.cells[column.key].below == (expected and not unranked), (line.row, column.key)
            marked += expected
    assert marked > 5


def test_supervised_saw_all_labels_and_is_no_match_for_rows_that_have_a_share(run_folder: MakeRun) -> None:
    # worse than random, and yet not held against it
    rows = ROWS | {"supervised": ("supervised", "labels", (0.3, 0.3, 0.3, 0.3))}
    table = load(run_folder(rows, probe_shares=(0.1, 1.0))).table()
    cells = _line(table, "supervised").cells
    few = {"linear top1 best 0.1", FEW}
    assert {key for key, cell in cells.items() if cell.saw_labels} == few and {
        key for key, cell in cells.items() if cell.below
    } >= {"finetune top1 1", BEST}
    assert not any(cells[key].below or cells[key].best or cells[key].equal for key in few)
    assert not any("supervised" in (c.first, c.second) for c in table.sections[0].comparisons)
    assert not any(
        cell.saw_labels for line in table.sections[0].lines if line.row != "supervised" for cell in line.cells.values()
    )
    for text in (table.terminal(), table.markdown(), table.html(), table.latex()):
        assert "pretrained with all labels" in " ".join(text.split())
    assert sum(line.count("†") for line in table.terminal().splitlines() if line.startswith(" supervised")) == 2
    assert "†" not in load(run_folder(ROWS, shares=(1.0,))).table().terminal()


def test_variant_of_random_has_fine_tuning_only(run_folder: MakeRun) -> None:
    table = load(run_folder()).table()
    names = [line.name for line in table.sections[0].lines]
    assert names[names.index("random") + 1] == "random, 3x longer"
    cells = _line(table, "random, 3x longer").cells
    assert {key for key, cell in cells.items() if cell.status == "value"} == {FEW, "finetune top1 1"}


def test_rows_are_sorted_by_the_best_stage_within_their_block(run_folder: MakeRun) -> None:
    table = load(run_folder()).table()
    blocks = {heading: [line.name for line in lines] for heading, lines in table.sections[0].blocks()}
    assert blocks == {
        "": ["simclr", "rotation", "autoencoder"],
        "without pretraining": ["random", "random, 3x longer", "pixels"],
        "with all labels": ["supervised"],
    }


def test_what_does_not_apply_is_a_dash(run_folder: MakeRun) -> None:
    table = load(run_folder()).table()
    pixels = _line(table, "pixels")
    shown = {column.key: pixels.cells[column.key].text(column) for column in table.sections[0].columns}
    assert {key for key, text in shown.items() if text == "-"} == {
        BEST,
        GAIN,
        LAST_GAIN,
        FEW,
        "finetune top1 1",
        "passes",
        "minutes",
    }
    random = _line(table, "random").cells
    # untrained, so the seconds of building it are no cost
    assert random["passes"].value == 0 and random["minutes"].value == 0


def test_failures_are_shown_with_their_command(run_folder: MakeRun) -> None:
    fails = {("simclr", seed, "pretraining"): "loss not finite at step 8,112\nmore" for seed in (0, 1, 2)}
    table = load(run_folder(fails={**fails, ("rotation", 1, "finetune"): "no memory"})).table()
    lines = table.terminal(140).partition("labels saved")[0].splitlines()
    (failed,) = [line for line in lines if line.startswith(" simclr")]
    assert failed.split(maxsplit=1)[1] == "failed 3/3: loss not finite at step 8,112; `ssl-bench show toy/simclr/0`"
    at = next(i for i, line in enumerate(lines) if line.startswith(" rotation"))
    assert "finetune failed 1/3: no memory; `ssl-bench show toy/rotation/1`" in lines[at + 1]
    assert len(_cell(table, "rotation", FEW).values) == 2 and len(_cell(table, "rotation", BEST).values) == 3
    for text in (table.markdown(), table.html(), table.latex()):
        assert "failed 3/3" in text and "no memory" in text


def test_long_messages_give_way_and_the_command_stays(run_folder: MakeRun) -> None:
    text = load(run_folder(seeds=(0,), fails={("simclr", 0, "pretraining"): "x" * 500})).table().terminal(100)
    (line,) = [line for line in text.splitlines() if "xxx" in line]
    assert line.endswith("…; `ssl-bench show toy/simclr/0`") and len(line) <= 100


def test_half_finished_runs_are_counted(run_folder: MakeRun) -> None:
    asked = {"evaluate": [{"evaluator": "finetune", "options": {"labels": 0.1}}]}
    table = load(run_folder(skip=lambda row, seed, what: seed == 2 or what == "finetune", matrix=asked)).table()
    assert _cell(table, "simclr", FEW).status == "missing" and "…" in table.terminal()
    assert table.warnings[0].startswith("not finished: 33 of 69") and "(36 of 69)" in table.terminal(legend=True)


def test_nothing_finished_still_gives_a_table(run_folder: MakeRun) -> None:
    results = load(
        run_folder(
            skip=lambda row, seed, what: True,
            matrix={"evaluate": [{"evaluator": "finetune", "options": {"labels": [0.1, 1.0]}}]},
        )
    )
    table = results.table()
    assert results.frame.empty and [c.title for c in table.sections[0].columns] == [
        "best stage",
        "over random",
        "last stage",
        "gain, last",
        "k=20",
        "10 %",
        "100 %",
        "passes",
        "min",
    ]
    assert _cell(table, "pixels", FEW).status == "none" and _cell(table, "simclr", FEW).status == "missing"
    assert all((table.markdown(), table.latex(), table.html(), table.csv(), table.terminal(60)))


def test_a_run_of_one_evaluator_and_a_run_without_rows(run_folder: MakeRun) -> None:
    rows = {"pixels": ("pixels", "baseline", ())}
    assert "pixels" in load(run_folder(rows, seeds=(0,))).table().terminal()
    empty = load(run_folder({}))
    assert empty.table().terminal() and empty.table().markdown() and empty.table().csv()


def test_validation_tables_say_so_and_use_validation(run_folder: MakeRun) -> None:
    results = load(run_folder(final=False))
    table = results.table()
    assert (
        table.terminal().startswith("VALIDATION")
        and "VALIDATION" in table.markdown()
        and "VALIDATION" in table.html()
        and "VALIDATION" in table.latex()
    )
    assert _cell(table, "simclr", BEST).images == 400 and "not opened" in table.terminal(legend=True)


def test_every_labelled_set_has_its_own_table(run_folder: MakeRun) -> None:
    table = load(run_folder(data=("toy", "other"), seeds=(0,))).table()
    assert [section.data for section in table.sections] == ["toy", "other"]
    values = [_line(Table("", [], False, [s], []), "simclr").cells[BEST].value for s in table.sections]
    assert values[0] != values[1]
    assert table.terminal().count("linear probe  ") >= 2 and "judged on other" in table.terminal()


def test_top5_is_shown_above_twenty_classes_only(run_folder: MakeRun) -> None:
    assert "top-5" not in load(run_folder(seeds=(0,), classes=20)).table().terminal().split("published")[0]
    table = load(run_folder(seeds=(0,), classes=21)).table()
    assert _cell(table, "simclr", "linear top5 best").value > _cell(table, "simclr", BEST).value


def test_wide_adds_k_codes_and_cost(run_folder: MakeRun) -> None:
    results = load(run_folder())
    more = {c.key for c in results.table(wide=True).sections[0].columns} - {
        c.key for c in results.table().sections[0].columns
    }
    by_stage = {f"linear top1_gain_over_random s{stage}" for stage in (1, 2, 3, 4)}
    cost = {"images_per_second", "memory_gb", "tflops", "parameters_m"}
    assert more == {"linear top1 code", "knn top1@200"} | by_stage | cost
    assert _cell(results.table(wide=True), "autoencoder", "linear top1 code").stage == "code"


def test_the_classic_columns_are_frozen_accuracy_detection_and_cost(run_folder: MakeRun) -> None:
    results = load(
        run_folder(seeds=(0,), classes=21, probe_shares=(0.1, 1.0), boxes={"cells": {"rotation": 0.5, "simclr": 0.4}})
    )
    (whole,), (classic,) = results.table().sections, results.table(classic=True).sections
    assert [c.key for c in classic.columns] == [
        BEST,
        GAIN,
        "linear top5 best",
        "cells detection map_voc07",
        "passes",
        "minutes",
    ]
    shown = {line.name: line.cells for line in whole.lines}
    for line in classic.lines:
        assert [line.cells[c.key].text(c) for c in classic.columns] == [
            shown[line.name][c.key].text(c) for c in classic.columns
        ]
    # one representation, and no network
    assert {line.row for line in whole.lines} - {line.row for line in classic.lines} == {"pixels"}


@pytest.mark.parametrize(("other", "shown"), [("s3", "s3/4"), ("pooled", "s4/last")])
def test_stages_that_differ_between_seeds_are_all_named(run_folder: MakeRun, other: str, shown: str) -> None:
    folder = run_folder()
    (path,) = folder.glob("cells/simclr/1-*/linear-*.json")
    record = json.loads(path.read_text())
    for m in record["measurements"]:
        m["best"] = m["stage"] == other
    path.write_text(json.dumps(record))
    assert _cell(load(folder).table(), "simclr", BEST).stage == shown


def test_mixed_environments_are_said(run_folder: MakeRun) -> None:
    other = Environment(device="cuda: Example", precision="bf16", versions={"torch": "2.12.0"}, code="0.1.0")
    rows = {"random": ("random", "baseline", (0.3, 0.2)), "simclr": ("simclr", "pretext", (0.3, 0.2))}
    default = Environment(device="cpu: Example", precision="fp32", versions={"torch": "2.11.0"}, code="0.1.0")
    table = load(run_folder(rows, seeds=(0,), environment=lambda row: other if row == "simclr" else default)).table()
    assert "different environments" in table.warnings[0]
    assert load(run_folder(rows, seeds=(0,))).table().warnings == []
    text = table.terminal(legend=True)
    assert "bf16, torch 2.12.0" in text and "fp32, torch 2.11.0" in text


def test_legend_tells_choices_controls_and_protocols(run_folder: MakeRun) -> None:
    rows = [
        RunRow(row="simclr", task="simclr", block="pretext", choices=3, chosen={"temperature": 0.2}),
        RunRow(row="vae", task="vae", block="pretext"),
        RunRow(row="random", task="random", block="baseline"),
    ]
    made = {
        "simclr": ("simclr", "pretext", (0.5, 0.8)),
        "vae": ("vae", "pretext", (0.5, 0.4)),
        "random": ("random", "baseline", (0.3, 0.3)),
    }
    text = " ".join(load(run_folder(made, seeds=(0,))).table().terminal(legend=True).split())
    assert (
        "400 validation images" in text
        and "linear-x v2, knn-x v2, finetune-x v2" in text
        and "6 min 09 s of computing" in text
    )
    assert "probe on shuffled labels" in text and "chance 25.0 %" in text and "AWAY" not in text
    folder = run_folder(made, seeds=(0,))
    data = load(folder).run.model_copy(update={"rows": rows})
    (folder / "run.json").write_text(data.model_dump_json())
    text = " ".join(load(folder).table().terminal(legend=True).split())
    assert "tried: simclr 3, all others 1; chosen: simclr temperature=0.2" in text


def test_a_leak_in_the_shuffled_probe_is_said(run_folder: MakeRun) -> None:
    folder = run_folder(seeds=(0,))
    for path in folder.glob("cells/simclr/*/linear-*.json"):
        text = path.read_text().split('"metric": "top1_chance"')
        path.write_text(
            text[0]
            + "".join(
                '"metric": "top1_chance"' + part.replace('"value": 0.25', '"value": 0.05', 1) for part in text[1:]
            )
        )
    assert "AWAY FROM CHANCE" in load(folder).table().terminal()


def test_a_pretext_row_that_was_given_labels_is_marked_and_not_compared(run_folder: MakeRun) -> None:
    folder = run_folder(n=1_000)
    run = load(folder).run
    rows = [row.model_copy(update={"uses_labels": row.row == "simclr" or row.uses_labels}) for row in run.rows]
    (folder / "run.json").write_text(run.model_copy(update={"rows": rows}).model_dump_json())
    table = load(folder).table()
    assert not _cell(table, "simclr †", BEST).best and _cell(table, "rotation", BEST).best
    assert "simclr" not in {name for c in table.sections[0].comparisons for name in (c.first, c.second)}
    assert "†" in table.terminal() and "†" in table.markdown()


def test_published_numbers_stand_below_in_their_own_block(run_folder: MakeRun) -> None:
    table = load(run_folder(ROWS | {"colorization": ("colorization", "pretext", (0.5, 0.6))}, seeds=(0,))).table()
    for text in (table.terminal(legend=True), table.markdown(), table.html(), table.latex()):
        assert text.index("59.21") > text.index("records") and "Doersch" in text and "ResNet-101" in text
    assert not any(block.agreement for block in table.published) and "59.21" not in table.csv()


def test_fits_its_width_and_folds_fine_tuning_below(run_folder: MakeRun) -> None:
    rows = {
        "denoising_autoencoder": ("denoising_autoencoder", "pretext", (0.5, 0.4)),
        "simclr": ("simclr", "pretext", (0.5, 0.8)),
        "random": ("random", "baseline", (0.53, 0.5)), "supervised": ("supervised", "labels", (0.7, 0.9)),
    }  # fmt: skip
    table = load(run_folder(rows)).table()
    wide, narrow = table.terminal(130), table.terminal(102)
    assert max(map(len, wide.splitlines())) <= 130 and max(map(len, narrow.splitlines())) <= 102
    head = next(line for line in wide.splitlines() if "linear probe" in line)
    assert "fine-tune" in head and "pretraining" in head
    heads = [line for line in narrow.splitlines() if "linear probe  " in line or "fine-tune," in line]
    assert len(heads) == 3 and "fine-tune" not in heads[0] and "pretraining" in heads[0] and "labels saved" in heads[2]
    assert narrow.count(" simclr ") == 3 and max(map(len, table.terminal(60).splitlines())) <= 100


@pytest.mark.parametrize(("late", "marked"), [("simclr", False), ("vae", True)])
def test_nothing_is_best_while_a_row_that_may_be_better_lacks_seeds(
    run_folder: MakeRun, late: str, marked: bool
) -> None:
    """A row far behind may wait; one that reaches into the leader's numbers may not."""
    rows = ROWS | {"vae": ("vae", "pretext", (0.40, 0.36))}
    table = load(run_folder(rows, skip=lambda row, seed, what: row == late and seed == 2)).table()
    assert _cell(table, "simclr", BEST).best is marked and not _cell(table, "rotation", BEST).best
    compared = {(c.first, c.second) for c in table.sections[0].comparisons if c.column == BEST}
    assert compared == ({("simclr", "rotation")} if marked else set())


def test_several_draws_with_one_seed_widen_the_interval(run_folder: MakeRun) -> None:
    results = load(run_folder(ROWS, seeds=(0,), shares=(0.1,), draws=5, noise=0.05))
    own = results.frame[
        (results.frame["row"] == "simclr")
        & (results.frame["evaluator"] == "finetune")
        & (results.frame["split"] == "test")
    ]
    cell, values = _cell(results.table(), "simclr", FEW), own["value"].to_numpy()
    low, high = wilson_interval(values.mean() * 500, 500)
    spread = t_interval(list(values))[1] - values.mean()
    assert cell.interval == "draws" and cell.low == pytest.approx(
        values.mean() - math.hypot(values.mean() - low, spread)
    )
    assert cell.high == pytest.approx(values.mean() + math.hypot(high - values.mean(), spread))


@pytest.mark.parametrize(
    "column", ["linear top1 best 0.1", "linear top1 best", "finetune top1 0.1", "linear top1 pooled"]
)
def test_a_comparison_is_of_the_numbers_in_the_table(run_folder: MakeRun, column: str) -> None:
    """Also where the best stage differs from draw to draw: all draws are in the cell, so all are compared."""
    folder = run_folder(draws=3, probe_shares=(0.1, 1.0))
    for path in folder.glob("cells/*/*/linear-*.json"):
        record = json.loads(path.read_text())
        for m in record["measurements"]:
            if m["labels"] == 0.1 and m["draw"] and m["metric"] == "top1":
                m["best"] = m["stage"] == ("s1" if m["draw"] == 1 else "s4")
        path.write_text(json.dumps(record))
    (section,) = load(folder).table().sections
    found = [c for c in section.comparisons if c.column == column]
    lines = {line.row: line for line in section.lines if not line.variant}
    assert len(found) == 2 and all(c.images == 500 for c in found)
    for c in found:
        first, second = (lines[row].cells[column].value for row in (c.first, c.second))
        assert c.difference == pytest.approx(first - second, abs=1e-9)


@pytest.mark.parametrize(("metric", "interval"), [("top1", "binomial"), ("auroc", ""), ("f1", "")])
def test_only_shares_of_images_have_a_binomial_interval(run_folder: MakeRun, metric: str, interval: str) -> None:
    folder = run_folder({"simclr": ROWS["simclr"]}, seeds=(0,), predictions=False)
    _rename(folder, "knn", "mine")
    for path in folder.glob("cells/*/*/mine-*.json"):
        record = json.loads(path.read_text())
        record["evaluator"] = "mine"
        record["measurements"] = [m | {"metric": metric} for m in record["measurements"] if m["metric"] == "top1@20"]
        path.write_text(json.dumps(record))
    table = load(folder).table()
    (column,) = [column for column in table.sections[0].columns if column.evaluator == "mine"]
    assert column.unit == "%" and _cell(table, "simclr", column.key).interval == interval


def _rename(folder: Path, old: str, new: str) -> None:
    """Make another evaluator of one."""
    run = json.loads((folder / "run.json").read_text())
    for cell in run["cells"]:
        for evaluation in cell["evaluations"]:
            evaluation["evaluator"] = new if evaluation["evaluator"] == old else evaluation["evaluator"]
    (folder / "run.json").write_text(json.dumps(run))
    for path in folder.glob(f"cells/*/*/{old}-*.json"):
        path.rename(path.with_name(path.name.replace(old, new, 1)))


def test_detectors_are_compared_over_seeds_and_resampled_images(run_folder: MakeRun) -> None:
    """Three seeds that agree, and images that do not: seeds alone would call the rows different."""
    folder = run_folder(ROWS, boxes={"cells": {"simclr": 0.60, "rotation": 0.58}}, noise=0.001, predictions=False)
    column = "cells detection map_voc07"

    def compared() -> object:
        (found,) = [c for c in load(folder).table().sections[0].comparisons if c.column == column]
        return found

    alone: Any = compared()
    rng = np.random.default_rng(0)
    for row in ("simclr", "rotation"):
        drawn = rng.normal(0.6, 0.03, 500)  # alike at every seed: what is hard for a row depends on the images
        for path in folder.glob(f"cells/{row}/*/detection-*.json"):
            np.savez(path.with_suffix(".npz"), **{"drawn/map_voc07": drawn})
    both: Any = compared()
    assert (
        (alone.images, both.images) == (0, 60)
        and alone.p < 0.05 < both.p
        and both.high - both.low > 3 * (alone.high - alone.low)
    )
    assert _cell(load(folder).table(), "rotation", column).equal


def test_codes_are_compared_image_by_image_whatever_their_tasks_call_them(run_folder: MakeRun) -> None:
    rows = {"autoencoder": ("autoencoder", "pretext", (0.5, 0.47)), "vae": ("vae", "pretext", (0.5, 0.6))}
    (found,) = [
        c for c in load(run_folder(rows)).table(wide=True).sections[0].comparisons if c.column == "linear top1 code"
    ]
    assert (found.first, found.second, found.images) == ("vae", "autoencoder", 500)


def test_what_does_not_apply_is_not_waited_for(run_folder: MakeRun) -> None:
    """Pixels have no stages: nothing to choose, and nothing to wait for while a seed is missing."""
    rows = ROWS | {"pixels": ("pixels", "baseline", ())}
    folder = run_folder(rows, skip=lambda row, seed, what: row in ("pixels", "random") and seed == 2)
    table = load(folder).table()
    assert (_cell(table, "pixels", BEST).status, _cell(table, "pixels", LAST).status) == ("none", "value")
    nothing = load(run_folder(rows, skip=lambda row, seed, what: row == "pixels")).table()
    assert _cell(nothing, "pixels", BEST).status == "missing"


def test_files_that_say_the_same_already_are_left_as_they_are_where_that_is_asked(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS)
    written = write_report(folder)
    figure = next(path for path in written if path.suffix == ".png")
    figure.write_bytes(b"mine")
    assert write_report(folder, redraw=False) == [] and figure.read_bytes() == b"mine"
    (folder / "table.md").write_text("another table")
    assert write_report(folder, redraw=False) == written and figure.read_bytes() != b"mine"
    (folder / "table.html").unlink()
    assert folder / "table.html" in write_report(folder, redraw=False)
