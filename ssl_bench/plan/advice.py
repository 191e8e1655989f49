"""What would bring a plan of more than a week down."""

from __future__ import annotations

from collections.abc import Mapping

from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.speed import HARDWARE
from ssl_bench.system.amounts import duration

WEEK = 7 * 24 * 3600.0  # seconds
NARROW = 0.25  # of the channels: a width at which tasks still rank as at full width on small images


def advice_for(run_plan: RunPlan, training: float, judging: Mapping[str, float], rate: float) -> tuple[str, ...]:
    """What would bring an estimate of more than a week down, each with where it would lead, what helps most first; ()
    for a shorter one.

    Parameters
    ----------
    training, judging : seconds; the latter by evaluator.
    rate : FLOPs a second that the estimate counts with.
    """
    matrix, evaluation = run_plan.matrix, sum(judging.values())
    total = training + evaluation
    if total <= WEEK:
        return ()
    ways: list[tuple[float, str]] = []
    for known in HARDWARE.values():
        if known.flops > 1.5 * rate:
            ways.append((total * rate / known.flops, f"{known.title} (about {duration(total * rate / known.flops)})"))
    if training > WEEK - evaluation > 0:
        name = next(key for key in ("epochs", "images", "passes") if getattr(matrix.pretrain, key) is not None)
        value = getattr(matrix.pretrain, name)
        fits = float(f"{value * (WEEK - evaluation) / training:.1e}")
        if name == "epochs" or fits >= 1:
            change = f"{_amount_words(value)} -> {_amount_words(fits)}"
            ways.append((WEEK, f"a smaller budget (pretrain.{name} {change} fits in a week)"))
    if len(matrix.seeds) > 1:
        ways.append(
            (
                total / len(matrix.seeds),
                f"one seed in place of {len(matrix.seeds)} (about {duration(total / len(matrix.seeds))})",
            )
        )
    if matrix.backbone.width > NARROW:
        # of the FLOPs; narrow networks keep a processor less busy
        least = total * (NARROW / matrix.backbone.width) ** 2
        ways.append(
            (
                least,
                f"a narrower network (backbone.width {matrix.backbone.width:g} -> {NARROW}: {duration(least)} or "
                "somewhat more)",
            )
        )
    if judging and evaluation > total / 4:
        name, seconds = max(judging.items(), key=lambda item: item[1])
        ways.append(
            (
                total - seconds,
                f"less for the evaluator {name}, which takes {duration(seconds)}: fewer labels, draws, steps or sets",
            )
        )
    return tuple(text for _, text in sorted(ways))


def _amount_words(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"
