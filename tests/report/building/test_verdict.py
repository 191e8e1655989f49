"""The closing sentence: validation numbers, the row to beat, and honesty about a lead that may be chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from ssl_bench.report import load
from ssl_bench.report.building.verdict import verdict

Rows = dict[str, tuple[str, str, tuple[float, ...]]]
FAR: Rows = {
    "simclr": ("simclr", "pretext", (0.5, 0.8)), "rotation": ("rotation", "pretext", (0.5, 0.79)),
    "timm:x": ("weights", "elsewhere", (0.4, 0.6)),
    "random": ("random", "baseline", (0.95, 0.9)), "supervised": ("supervised", "labels", (0.5, 0.99)),
}  # fmt: skip


def test_the_best_pretext_row_is_set_against_weights_from_elsewhere(run_folder: Callable[..., Path]) -> None:
    results = load(run_folder(FAR))
    sentence = verdict(results)
    assert sentence.startswith("Best on your validation: ") and "over timm:x (interval" in sentence
    assert "random" not in sentence and "supervised" not in sentence
    frame = results.frame
    own = frame[
        (frame["evaluator"] == "linear")
        & (frame["metric"] == "top1")
        & (frame["split"] == "validation")
        & frame["best"].astype(bool)
    ]
    means = own.groupby("row")["value"].mean()
    best = means[["simclr", "rotation"]].idxmax()
    difference = means[best] - means["timm:x"]
    seeds = own[own["row"] == best].set_index("seed")["value"] - own[own["row"] == "timm:x"].set_index("seed")["value"]
    of_seeds, of_images = (
        max(seeds.var(ddof=1), (0.5 / 400) ** 2) / 3,
        sum(means[row] * (1 - means[row]) for row in (best, "timm:x")) / 400,
    )
    satterthwaite = (of_seeds + of_images) ** 2 / (of_seeds**2 / 2)  # the images' part has no end of degrees of freedom
    half = max(
        stats.t.ppf(0.975, satterthwaite) * math.sqrt(of_seeds + of_images), stats.t.ppf(0.975, 2) * math.sqrt(of_seeds)
    )
    expected = (
        f"{best}, +{100 * difference:.1f} over timm:x "
        f"(interval {100 * (difference - half):.1f} to {100 * (difference + half):.1f})"
    )
    assert sentence == f"Best on your validation: {expected}"


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_small_lead_is_none(run_folder: Callable[..., Path], seeds: tuple[int, ...]) -> None:
    rows = {name: row for name, row in FAR.items() if name != "timm:x"}
    sentence = verdict(load(run_folder(rows, seeds)))
    assert ("one seed" in sentence) is (seeds == (0,))
    assert (
        "cannot be told apart" in sentence
        and "simclr" in sentence
        and "rotation" in sentence
        and "interval −" in sentence
    )


def test_one_row_or_no_probe_needs_no_sentence(run_folder: Callable[..., Path]) -> None:
    assert verdict(load(run_folder({name: FAR[name] for name in ("simclr", "random")}))) == ""
    assert verdict(load(run_folder(FAR, skip=lambda row, seed, what: what == "linear"))) == ""


def test_one_seed_names_no_best(run_folder: Callable[..., Path]) -> None:
    sentence = verdict(load(run_folder(FAR, (0,))))
    assert sentence.startswith("Highest on your validation: ") and sentence.endswith(", of the images alone: one seed)")


def test_two_seeds_show_both_differences_and_no_interval(run_folder: Callable[..., Path]) -> None:
    """An interval from two values would reach from one end of the scale to the other."""
    results = load(run_folder(FAR, (0, 1)))
    frame = results.frame
    own = frame[
        (frame["evaluator"] == "linear")
        & (frame["metric"] == "top1")
        & (frame["split"] == "validation")
        & frame["best"].astype(bool)
    ]
    means = own.groupby("row")["value"].mean()
    best = means[["simclr", "rotation"]].idxmax()
    a, b = own[own["row"] == best].set_index("seed")["value"] - own[own["row"] == "timm:x"].set_index("seed")["value"]
    expected = f"{best}, over timm:x by +{100 * a:.1f}, +{100 * b:.1f} (two seeds: no interval)"
    assert verdict(results) == f"Highest on your validation with both seeds: {expected}"
    close = FAR | {"timm:x": ("weights", "elsewhere", (0.4, 0.8))}
    either = verdict(load(run_folder(close, (0, 1), noise=0.2)))
    assert either.endswith("(two seeds: no interval)") or "no interval)" in either
    assert "interval −" not in either and "±" not in either
