"""The battery behind ``ssl_bench.testing``, in the order in which it runs."""

from __future__ import annotations

from collections.abc import Callable

from ssl_bench.plugins.registry import summary_of
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import Bench, Check, CheckFailed, CheckWarning, NotApplicable
from ssl_bench.testing.battery.devices import devices
from ssl_bench.testing.battery.going_on import interruption, processes
from ssl_bench.testing.battery.gradients import gradients, loss
from ssl_bench.testing.battery.inputs import input_unchanged, labels
from ssl_bench.testing.battery.outputs import builds, preview
from ssl_bench.testing.battery.phases import hooks, phases
from ssl_bench.testing.battery.repeatability import same_seed, state
from ssl_bench.testing.battery.runs import loss_falls, noise_at_chance, views_cost
from ssl_bench.testing.battery.training import global_state, modes, network, parameters, trained
from ssl_bench.testing.battery.views import draws
from ssl_bench.testing.battery.written import documented, options

__all__ = ["Bench", "Check", "CheckFailed", "CheckWarning", "NotApplicable", "checks_for"]

#: check -> the checks without whose pass it says nothing, so that one cause is reported once
_NEEDS: dict[Callable[[Bench], str], tuple[str, ...]] = {
    documented: (),
    options: (),
    builds: ("options",),
    preview: ("builds",),
    global_state: ("builds",),
    labels: ("global_state",),
    input_unchanged: ("labels",),
    loss: ("input_unchanged",),
    draws: ("input_unchanged",),
    same_seed: ("loss",),
    parameters: ("loss",),
    gradients: ("parameters",),
    phases: ("gradients",),
    hooks: ("gradients",),
    modes: ("parameters",),
    trained: ("gradients", "same_seed", "modes", "phases"),
    network: ("parameters",),
    state: ("trained",),
    interruption: ("state",),
    processes: ("interruption",),
    devices: ("loss", "state"),
    loss_falls: ("trained", "interruption", "draws"),
    views_cost: ("loss",),
    noise_at_chance: ("loss_falls",),
}
#: before a plugin trains in a run, which sets back and tells by itself what changes for the whole program
_QUICK = (
    options,
    builds,
    labels,
    input_unchanged,
    loss,
    draws,
    same_seed,
    parameters,
    gradients,
    phases,
    hooks,
    modes,
    trained,
    state,
    interruption,
)
_OF_BASELINES: dict[Callable[[Bench], str], tuple[str, ...]] = {
    documented: (),
    options: (),
    builds: ("options",),
    preview: ("builds",),
    state: ("builds",),
}


def checks_for(task: type[PretextTask], noise: bool = False) -> list[Check]:
    """The checks that apply to a task; baselines that do not train are held to what they offer for judging."""
    needs = _NEEDS if task.role.trains else _OF_BASELINES
    chosen = [check for check in needs if noise or check is not noise_at_chance]
    return [Check(check.__name__, summary_of(check.__doc__), check, needs[check], check in _QUICK) for check in chosen]
