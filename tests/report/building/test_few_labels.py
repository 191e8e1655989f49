"""Labels saved: worked by hand, against numpy's interpolation, and as every format prints them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ssl_bench.errors import SSLBenchError
from ssl_bench.report import Table, load, write_report
from ssl_bench.report.building.few_labels import Needed, label_counts, labels_needed
from ssl_bench.report.ground import escape
from ssl_bench.report.rendering.csv_files import labels_saved_csv

MakeRun = Callable[..., Path]
ROWS = {
    "simclr": ("simclr", "pretext", (0.5, 0.6)), "rotation": ("rotation", "pretext", (0.5, 0.6)),
    "random": ("random", "baseline", (0.4, 0.3)),
    "pixels": ("pixels", "baseline", ()), "supervised": ("supervised", "labels", (0.6, 0.9)),
}  # fmt: skip
SHARES = (0.01, 0.1, 1.0)  # 40, 400 and 4,000 labels
#: (row, variant) -> fine-tuned accuracy at 1 %, 10 % and 100 %; the better of random's two is 0.3, 0.4, 0.7
TUNED = {
    ("random", ""): (0.2, 0.4, 0.6), ("random", "longer"): (0.3, 0.35, 0.7), ("simclr", ""): (0.35, 0.55, 0.8),
    ("rotation", ""): (0.25, 0.75, 0.8),
    ("supervised", ""): (0.8, 0.8, 0.8),
}  # fmt: skip


def _few_labels(
    run_folder: MakeRun,
    tuned: Callable[[str, str, int, float, int], float],
    seeds: tuple[int, ...] = (0, 1, 2),
    **run: Any,
) -> Path:
    """A run whose fine-tuned accuracies are ``tuned(row, variant, seed, share, draw)``."""
    folder = run_folder(ROWS, seeds=seeds, shares=SHARES, predictions=False, **run)
    for path in folder.glob("cells/*/*/finetune-*.json"):
        record = json.loads(path.read_text())
        for m in record["measurements"]:
            m["value"] = tuned(record["row"], m["row"], record["seed"], m["labels"], m["draw"])
        path.write_text(json.dumps(record))
    return folder


def _plain(row: str, variant: str, seed: int, share: float, draw: int) -> float:
    return TUNED[row, variant][SHARES.index(share)]


def _texts(table: Table) -> dict[tuple[str, str], str]:
    """(row, title of a fine-tuned column) to what the table of labels saved prints."""
    saved = table.sections[0].saved
    assert saved is not None
    return {
        (line.row, c.title): line.cells[c.key].text(c)
        for line in saved.lines
        for c in saved.columns
        if c.evaluator == "finetune"
    }


@pytest.mark.parametrize(
    ("accuracy", "needed"),
    [
        (0.3, Needed(100 * math.sqrt(10))), (0.4, Needed(1_000)), (0.55, Needed(1_000 * 10**0.75)),
        (0.6, Needed(10_000)),
        (0.61, Needed(10_000, ">")), (0.2, Needed(100, "<=")), (0.1, Needed(100, "<=")),
    ],
)  # fmt: skip
def test_labels_needed_by_hand(accuracy: float, needed: Needed) -> None:
    found = labels_needed(accuracy, [100, 1_000, 10_000], [0.2, 0.4, 0.6])
    assert found.bound == needed.bound and found.labels == pytest.approx(needed.labels)


@pytest.mark.parametrize(
    ("accuracy", "needed"),
    [
        (0.35, Needed(10**0.5)),
        (0.45, Needed(10 ** (0.25 / 0.3))),
        (0.5, Needed(10)),
        (0.55, Needed(100 * 10**0.75)),
        (0.7, Needed(1_000, ">")),
    ],
)
def test_a_curve_that_dips_counts_where_it_first_gets_there(accuracy: float, needed: Needed) -> None:
    found = labels_needed(accuracy, [1, 10, 100, 1_000], [0.2, 0.5, 0.4, 0.6])
    assert found.bound == needed.bound and found.labels == pytest.approx(needed.labels)


def test_a_falling_curve_reaches_what_it_began_with_and_nothing_else() -> None:
    assert labels_needed(0.4, [10, 100], [0.5, 0.3]) == Needed(10, "<=")
    assert labels_needed(0.6, [10, 100], [0.5, 0.3]) == Needed(100, ">")


@pytest.mark.parametrize(
    ("labels", "accuracies"), [([], []), ([10, 10], [0.1, 0.2]), ([0, 10], [0.1, 0.2]), ([10, 100], [0.1])]
)
def test_what_is_no_curve_is_refused(labels: list[float], accuracies: list[float]) -> None:
    with pytest.raises(SSLBenchError, match="rising"):
        labels_needed(0.15, labels, accuracies)


accuracies = st.floats(0, 1).map(lambda value: round(value, 4))
curves = st.lists(
    st.tuples(st.floats(1, 1e6).map(round), accuracies), min_size=1, max_size=6, unique_by=lambda point: point[0]
).map(sorted)


@given(curves, accuracies)
def test_the_curve_has_the_accuracy_there_and_not_before(curve: list[tuple[int, float]], accuracy: float) -> None:
    labels, heights = (list(values) for values in zip(*curve, strict=True))
    found = labels_needed(accuracy, labels, heights)
    assert labels[0] <= found.labels <= labels[-1]  # never extrapolated
    at = np.log(labels)

    def height(x: np.ndarray | float) -> np.ndarray:
        return np.interp(x, at, heights)

    if found.bound == "<=":
        assert accuracy <= heights[0] and found.labels == labels[0]
    elif found.bound == ">":
        assert accuracy > max(heights) and found.labels == labels[-1]
    else:
        assert height(math.log(found.labels)) == pytest.approx(accuracy, abs=1e-7)
        before = np.linspace(at[0], math.log(found.labels), 200)[:-1]
        assert (height(before) < accuracy + 1e-7).all()


@given(curves, accuracies, accuracies)
def test_more_accuracy_never_needs_fewer_labels(curve: list[tuple[int, float]], one: float, other: float) -> None:
    labels, heights = (list(values) for values in zip(*curve, strict=True))
    low, high = (labels_needed(accuracy, labels, heights) for accuracy in sorted((one, other)))
    order = ("<=", "", ">")
    assert low.labels <= high.labels and order.index(low.bound) <= order.index(high.bound)


@given(curves, accuracies, st.floats(0.01, 100), st.floats(0.1, 10))
def test_units_of_labels_and_of_accuracy_do_not_matter(
    curve: list[tuple[int, float]], accuracy: float, scale: float, unit: float
) -> None:
    labels, heights = (list(values) for values in zip(*curve, strict=True))
    found = labels_needed(accuracy, labels, heights)
    moved = labels_needed(accuracy, [scale * n for n in labels], heights)
    assert moved.bound == found.bound and moved.labels == pytest.approx(scale * found.labels)
    assume(all(abs(accuracy - height) > 1e-6 for height in heights))
    rescaled = labels_needed(unit * accuracy, labels, [unit * height for height in heights])
    assert rescaled.bound == found.bound and rescaled.labels == pytest.approx(found.labels)


def test_savings_against_the_better_of_random_and_its_longer_run_by_hand(run_folder: MakeRun) -> None:
    """simclr: 0.35 lies half-way from 0.3 to 0.4, 0.55 from 0.4 to 0.7: sqrt(10) times the labels. rotation: below, and
    out of reach."""
    texts = _texts(load(_few_labels(run_folder, _plain)).table())
    assert texts == {
        ("simclr", "1 %"): "3.2×",
        ("simclr", "10 %"): "3.2×",
        ("rotation", "1 %"): "none",
        ("rotation", "10 %"): ">10×",
    }


def test_the_probe_is_compared_with_plain_random(run_folder: MakeRun) -> None:
    def halved(accuracy: float, share: float) -> float:
        return accuracy * (1 + 0.25 * math.log10(share))  # 0.5, 0.75 and 1 times

    rows = {"simclr": ("simclr", "pretext", (0.7, 0.75)), "random": ("random", "baseline", (0.6, 0.3))}
    folder = run_folder(
        rows, seeds=(0,), shares=(1.0,), probe_shares=SHARES, few=halved, noise=0.0, n=2_000, predictions=False
    )
    saved = load(folder).table().sections[0].saved
    assert saved is not None and [column.title for column in saved.columns] == ["1 %", "10 %"]
    # simclr's best stage: 0.375 and 0.5625; random's, 0.3, 0.45, 0.6: half-way, and three quarters of the way to the
    # last.
    (line,) = saved.lines
    assert [line.cells[column.key].text(column) for column in saved.columns] == ["3.2×", "5.6×"]


def test_seeds_are_compared_one_by_one_and_those_beyond_reach_are_kept(run_folder: MakeRun) -> None:
    def tuned(row: str, variant: str, seed: int, share: float, draw: int) -> float:
        if (row, share) == ("simclr", 0.01):
            return (0.35, 0.4, 0.75)[seed] + (0.02 if draw else -0.02)  # two draws, one accuracy a seed
        return _plain(row, variant, seed, share, draw)

    table = load(_few_labels(run_folder, tuned)).table()
    # The mean, 0.5, lies a third of the way from 0.4 (400 labels) to 0.7: 400 * 10^(1/3) / 40 = 21.5.
    assert _texts(table)["simclr", "1 %"] == "22× (3.2 to >100)"
    rows = {
        (row["row"], row["evaluator"], row["share"]): row
        for row in csv.DictReader(io.StringIO(labels_saved_csv(table)))
    }
    assert set(rows) == {(row, "finetune", share) for row in ("simclr", "rotation") for share in ("0.01", "0.1")}
    row = rows["simclr", "finetune", "0.01"]
    assert (row["labels"], row["bound"], row["low_bound"], row["high"], row["high_bound"], row["seeds"]) == (
        "40.0",
        "",
        "",
        "100.0",
        ">",
        "3",
    )
    assert float(row["factor"]) == pytest.approx(10 * 10 ** (1 / 3)) and float(row["low"]) == pytest.approx(
        math.sqrt(10)
    )
    assert float(row["random_needs"]) == pytest.approx(400 * 10 ** (1 / 3))


def test_only_shared_seeds_count_and_two_of_them_have_no_range(run_folder: MakeRun) -> None:
    def tuned(row: str, variant: str, seed: int, share: float, draw: int) -> float:
        value = _plain(row, variant, seed, share, draw)
        return value + (0.2 if (row, seed) == ("simclr", 2) else 0.0)

    folder = _few_labels(run_folder, tuned)
    assert _texts(load(folder).table())["simclr", "1 %"] != "3.2×"
    for path in folder.glob("cells/random/2-*/finetune-*.json"):
        path.unlink()
    table = load(folder).table()
    assert _texts(table)["simclr", "1 %"] == "3.2×"
    rows = list(csv.DictReader(io.StringIO(labels_saved_csv(table))))
    assert {row["seeds"] for row in rows} == {"2"} and {row["low"] for row in rows} == {""}


def test_which_run_of_random_is_better_is_not_chosen_seed_by_seed(run_folder: MakeRun) -> None:
    """At 1 % the runs of random swap places from seed to seed; the higher one of each seed would be picked by luck."""

    def tuned(row: str, variant: str, seed: int, share: float, draw: int) -> float:
        if row == "random" and share == 0.01:
            return {"": (0.38, 0.22, 0.27), "longer": (0.25, 0.35, 0.3)}[variant][seed]  # means 0.29 and 0.3
        return 0.33 if (row, share) == ("simclr", 0.01) else _plain(row, variant, seed, share, draw)

    table = load(_few_labels(run_folder, tuned)).table()
    # Seed 0 against the longer run: from 0.25 to 0.4, 0.33 is 8/15 of the way. Seed 1: 0.35 is above already.
    assert _texts(table)["simclr", "1 %"] == f"{10**0.3:.1f}× (none to {10 ** (8 / 15):.1f})"


def test_labels_are_counted_as_the_records_tell(run_folder: MakeRun) -> None:
    """The probe's test number with all labels is of a fit on train and validation, and draws are rounded."""
    folder = run_folder(ROWS, seeds=(0,), shares=SHARES, probe_shares=SHARES)
    for path in folder.glob("cells/*/*/linear-*.json"):
        record = json.loads(path.read_text())
        fits = [{"labels": 0.01, "fit": {"images": 44}}, {"labels": 0.1, "fit": {"images": 400}}]
        record["details"] = {"fits": [*fits, {"labels": 1.0, "fit": {"images": 4_000}, "final_fit": {"images": 4_400}}]}
        path.write_text(json.dumps(record))
    results = load(folder)
    assert label_counts(results, "toy", "linear") == {0.01: 44, 0.1: 400, 1.0: 4_400}
    assert label_counts(results, "toy", "finetune") == {0.01: 40, 0.1: 400, 1.0: 4_000}  # nothing told: shares of 4,000
    results.run.final = False
    assert label_counts(results, "toy", "linear")[1.0] == 4_000


def test_shares_rounded_to_the_same_number_of_labels_are_one_point(run_folder: MakeRun) -> None:
    folder = _few_labels(run_folder, _plain)
    for path in folder.glob("cells/*/*/finetune-*.json"):
        record = json.loads(path.read_text())
        record["details"] = {
            "runs": [
                {"labels": share, "images": images} for share, images in zip(SHARES, (100, 100, 1_000), strict=True)
            ]
        }
        path.write_text(json.dumps(record))
    # Random's better one: 0.4 at 100 labels, 0.7 at 1,000.
    texts = _texts(load(folder).table())
    assert (texts["simclr", "1 %"], texts["simclr", "10 %"], texts["rotation", "10 %"]) == ("none", "3.2×", ">10×")


def test_rows_that_were_given_labels_and_baselines_save_nothing(run_folder: MakeRun) -> None:
    saved = load(_few_labels(run_folder, _plain)).table().sections[0].saved
    assert saved is not None and {line.row for line in saved.lines} == {"simclr", "rotation"}


def test_failed_rows_are_shown_as_failed(run_folder: MakeRun) -> None:
    fails = {("simclr", seed, "finetune"): "no memory" for seed in (0, 1, 2)}
    texts = _texts(load(_few_labels(run_folder, _plain, fails=fails)).table())
    assert texts["simclr", "1 %"] == texts["simclr", "10 %"] == "failed" and texts["rotation", "10 %"] == ">10×"


def test_one_share_or_no_random_compares_nothing(run_folder: MakeRun) -> None:
    assert load(run_folder(ROWS, seeds=(0,), shares=(0.1,))).table().sections[0].saved is None
    without = {name: row for name, row in ROWS.items() if name != "random"}
    table = load(run_folder(without, seeds=(0,), shares=SHARES)).table()
    assert table.sections[0].saved is None and "labels saved" not in table.terminal() and labels_saved_csv(table) == ""


def test_every_format_shows_the_same_savings(run_folder: MakeRun) -> None:
    table = load(_few_labels(run_folder, _plain)).table()
    for text in (table.terminal(), table.markdown(), table.latex(), table.html()):
        # the table and its legend
        assert (
            text.index("labels saved") > text.index("supervised") and "none" in text and text.count("labels saved") == 2
        )
    assert (
        ">10×" in table.terminal()
        and escape.html(">10×") in table.html()
        and escape.latex(">10×") in table.latex()
        and r"&gt;10×" in table.markdown()
    )
    assert "how many times more labels random needs to match the row (fine-tuned: the better" in " ".join(
        table.terminal(legend=True).split()
    )
    assert max(map(len, table.terminal(80).splitlines())) <= 80


def test_the_file_is_written_where_there_is_something_to_say(run_folder: MakeRun) -> None:
    folder = _few_labels(run_folder, _plain, seeds=(0,))
    assert (
        folder / "labels_saved.csv" in write_report(folder)
        and (folder / "labels_saved.csv").read_text().count("\n") == 5
    )
    for path in folder.glob("cells/random/*/finetune-*.json"):
        path.unlink()
    assert folder / "labels_saved.csv" not in write_report(folder) and not (folder / "labels_saved.csv").exists()


def test_a_row_at_the_longest_length_is_a_lower_bound_and_never_said_to_be_no_help(run_folder: MakeRun) -> None:
    """Without the mark, rotation at 1 % is worse than random (▾) and saves nothing ("none")."""
    folder = _few_labels(run_folder, _plain)
    plain = load(folder).table()
    assert _texts(plain)["rotation", "1 %"] == "none" and "↑" not in plain.terminal(legend=True)
    for path in folder.glob("cells/*/*/finetune-*.json"):
        record = json.loads(path.read_text())
        longest = record["row"] in ("rotation", "simclr") and record["seed"] == 1  # one seed makes the mean a bound
        record["details"] = {
            "runs": [{"labels": share, "images": 4_000 * share, "longest": longest and share < 1} for share in SHARES]
        }
        record["spec"] = {"options": {"learning_rates": [0.1], "lengths": [10, 30]}}
        path.write_text(json.dumps(record))
    table = load(folder).table()
    few, all_labels = "finetune top1 0.01", "finetune top1 1"
    cells, before = ({line.name: line.cells for line in t.sections[0].lines} for t in (table, plain))
    assert before["rotation"][few].below and not cells["rotation"][few].below
    assert cells["rotation"][few].longest and not cells["rotation"][all_labels].longest
    assert not cells["random"][few].longest and not cells["random"][few].below
    assert cells["rotation"][few].text(next(c for c in table.sections[0].columns if c.key == few)).endswith("↑")
    texts = _texts(table)
    assert texts["rotation", "1 %"] == "-" and texts["simclr", "1 %"].startswith(">")
    assert not any(row[2:4] == ["rotation", "0.01"] for row in csv.reader(io.StringIO(labels_saved_csv(table))))
    legend = dict(table.legend)
    assert "lower bound" in legend["↑"] and "lower bound (↑)" in " ".join(text for _, text in table.legend)
    chosen = [text for sign, text in table.legend if sign == "chosen"]
    assert "fine-tuning: length on validation" in chosen
    assert any(text.endswith("simclr at 1 %, simclr at 10 %, rotation at 1 %, rotation at 10 %") for text in chosen), (
        chosen
    )
    assert "↑" in table.terminal() and r"$\uparrow$" in table.latex() and "longest_length" in table.csv()
