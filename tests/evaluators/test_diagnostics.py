"""Ranks with known answers, and dimensions that are known to be dead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.errors import Interrupted
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.diagnostics import Diagnostics
from ssl_bench.evaluators.representation import alignment, alpha_req, dead_dimensions, rankme, uniformity

Make = Callable[..., Subject]


def ask(subject: Subject, **options: Any) -> Evaluation:
    return Diagnostics(Diagnostics.Options(**options)).evaluate(subject)


def test_identical_rows_have_rank_one() -> None:
    assert rankme(torch.randn(1, 64).expand(500, 64)) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(50, 8)) == 1.0


@pytest.mark.parametrize("dimensions", [2, 16, 128])
def test_equally_used_orthonormal_directions_have_full_rank(dimensions: int) -> None:
    basis = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64))[0]
    assert rankme(basis.repeat(3, 1)) == pytest.approx(dimensions, rel=1e-3)


@settings(max_examples=20)
@given(n=st.integers(2, 60), d=st.integers(1, 40), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_rankme_is_its_formula(n: int, d: int, scale: float, seed: int) -> None:
    z = scale * np.random.default_rng(seed).standard_normal((n, d))
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    found = rankme(torch.from_numpy(z))
    assert found == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert 1 - 1e-4 <= found <= min(n, d) * (1 + 1e-4)


def test_rankme_is_not_centred() -> None:
    """A common offset is one strong direction; taking it away would hide a collapse onto it."""
    z = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    assert rankme(z + 100) < 2 < rankme(z)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_dead_dimensions_are_counted_at_any_scale(scale: float) -> None:
    z = torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    z[:, 3], z[:, 7] = 0.0, 2.5
    assert dead_dimensions(scale * z) == pytest.approx(0.2)
    assert dead_dimensions(torch.zeros(5, 4)) == 1.0


def test_the_number_of_images_is_fixed_and_stated(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.1}, sizes=(100, 90, 100), dimensions=30)
    found, few = ask(subject), ask(subject, n=20)
    assert (
        {m.n for m in found.measurements} == {90}
        and found.details["images"] == 90
        and found.details["dimensions"] == 30
    )
    assert {m.n for m in few.measurements} == {20}
    values = [{m.metric: m.value for m in e.measurements}["rankme"] for e in (found, few)]
    assert values[0] == pytest.approx(rankme(subject.features.get("validation", "pooled")))
    assert values[1] <= 20.01 < values[0]


def test_sorted_sets_are_looked_at_throughout(make_subject: Make) -> None:
    labels = {split: np.repeat(np.arange(4), 25) for split in ("train", "validation", "test")}
    subject = make_subject({"pooled": 50.0}, sizes=(100, 100, 100), labels=labels)
    found = {m.metric: m.value for m in ask(subject, n=8).measurements}
    assert found["rankme"] > 2  # the first eight are of one class, nearly one direction


def test_test_is_never_opened_and_the_task_speaks_for_itself(make_subject: Make) -> None:
    seen: list[torch.Tensor] = []

    def diagnose(images: torch.Tensor) -> dict[str, float]:
        seen.append(images)
        return {"active_units": 7, "rankme": -1.0}

    subject = make_subject({"pooled": 0.5}, diagnose=diagnose)
    found = ask(subject)
    features: Any = subject.features
    assert {split for split, _ in features.asked} == {"validation"} and not found.predictions
    assert {m.metric: m.value for m in found.measurements}["active_units"] == 7
    assert [m.value > 0 for m in found.measurements if m.metric == "rankme"] == [True], (
        "a task cannot overwrite what is measured"
    )
    assert seen[0].shape == (100, 3, 8, 8) and seen[0].dtype == torch.float32


def test_spread_tells_collapse(make_subject: Make) -> None:
    healthy = make_subject({"pooled": 0.0}, dimensions=40)
    collapsed = make_subject({"pooled": 0.0}, dimensions=40)
    features: Any = collapsed.features
    features.values["validation"]["pooled"] = 1 + 1e-3 * features.values["validation"]["pooled"]
    spread = [{m.metric: m.value for m in ask(subject).measurements}["spread"] for subject in (healthy, collapsed)]
    assert spread[0] == pytest.approx(1, abs=0.1) and spread[1] < 0.01
    assert ask(collapsed).details["collapsed"] and not ask(healthy).details["collapsed"]


def test_stop(make_subject: Make) -> None:
    with pytest.raises(Interrupted):
        ask(make_subject({"pooled": 0.5}, stop=lambda: True))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found_at_any_scale_and_rotation(exponent: float) -> None:
    """Against numpy's weighted fit of the same ranks, and on a spectrum that is a power law."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((400, 120)) - 0.0)[0]
    u = np.linalg.qr(u - u.mean(0))[0]  # centred, so that centring changes nothing
    v = np.linalg.qr(rng.standard_normal((120, 120)))[0]
    z = (u * np.arange(1, 121) ** (-exponent / 2)) @ v
    assert alpha_req(torch.from_numpy(7 * z + 3)) == pytest.approx(exponent, rel=1e-6)
    noisy = z + 0.01 * rng.standard_normal(z.shape)
    eigenvalues = np.linalg.eigvalsh(np.cov(noisy.T))[::-1]
    ranks = np.arange(4, 101)
    slope = np.polyfit(np.log(ranks), np.log(eigenvalues[3:100]), 1, w=ranks**-0.5)[0]
    assert alpha_req(torch.from_numpy(noisy)) == pytest.approx(-slope, rel=1e-6)


def test_a_spectrum_too_short_for_a_slope_has_none() -> None:
    assert math.isnan(alpha_req(torch.randn(50, 5)))
    assert math.isnan(alpha_req(torch.zeros(50, 64)))
    assert math.isfinite(alpha_req(torch.randn(50, 6)))


def test_alignment_and_uniformity_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    z, other = rng.standard_normal((40, 8)), rng.standard_normal((40, 8))
    unit, unit_other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, other))
    assert alignment(torch.from_numpy(5 * z), torch.from_numpy(other)) == pytest.approx(
        ((unit - unit_other) ** 2).sum(1).mean()
    )
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(40) for j in range(40) if i != j]
    assert uniformity(torch.from_numpy(z)) == pytest.approx(np.log(np.mean(pairs)))
    assert alignment(torch.from_numpy(z), torch.from_numpy(3 * z)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        uniformity(torch.ones(1, 4))
