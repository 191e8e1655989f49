"""The battery behind ``ssl_bench.testing``, in the order in which it runs."""

from __future__ import annotations

from ssl_bench._battery.bench import Bench, Check, CheckFailed, CheckWarning, NotApplicable
from ssl_bench._battery.contract import builds, draws, gradients, input_unchanged, labels, loss, preview, same_seed, state
from ssl_bench._battery.devices import devices
from ssl_bench._battery.runs import loss_falls, noise_at_chance, views_cost
from ssl_bench._battery.written import documented, options
from ssl_bench.tasks.base import PretextTask

__all__ = ["Bench", "Check", "CheckFailed", "CheckWarning", "NotApplicable", "checks_for"]


def checks_for(task: type[PretextTask], noise: bool) -> list[Check]:
    """The checks that apply to a task; baselines that do not train are held to what they offer for judging."""
    chosen = [documented, options, builds, preview, state]
    if task.trains:
        chosen += [labels, input_unchanged, draws, loss, gradients, same_seed, devices, loss_falls, views_cost]
    if task.trains and noise:
        chosen.append(noise_at_chance)
    return [Check(check.__name__, (check.__doc__ or "").splitlines()[0], check) for check in chosen]
