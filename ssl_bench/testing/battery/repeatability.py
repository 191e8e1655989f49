"""Checks of a task being the same again: with the same seed, and from its state."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ssl_bench.errors import WeightsError
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.testing.battery.bench import Bench, CheckFailed
from ssl_bench.training.checkpoints import load_checkpoint, refuse_other_state, save_checkpoint
from ssl_bench.training.loop import fit
from ssl_bench.training.movement import judged_tensors, same_weights


def same_seed(bench: Bench) -> str:
    """The same seed gives the same loss, bit for bit, and building the task again gives the same task."""
    first, second = (float(bench.total(bench.build(), bench.batch(), 1).detach()) for _ in range(2))
    if first != second:
        raise CheckFailed(
            f"the same seed gave losses {first!r} and {second!r}; draw with torch's, NumPy's or Python's global random "
            "functions, which the loop seeds, not with a generator of your own, and do not depend on time, ids or the "
            "order of a set"
        )
    if bench.task.role is not TaskRole.CONTROL and same_weights(
        *(judged_tensors(bench.build(seed)) for seed in (0, 1))
    ):
        raise CheckFailed(
            "the judged network starts from the same weights with every seed: they come from a file, or from a seed "
            "that the task sets itself, and no "
            "table would tell. Leave the network as it is given; a row that is to start from other weights says so: "
            "{'init': 'file:PATH'} or 'timm:NAME'"
        )
    return f"loss {first:.6g} twice"


def state(bench: Bench) -> str:
    """What the task has learned is in its state_dict:
    saved as safetensors and loaded strictly, it goes on as it was."""
    trained = bench.build(0)
    if bench.task.role.trains:
        fit(trained, bench.batches(), bench.recipes(), 2, seed=0, precision="fp32", cost=False)
    try:
        refuse_other_state(trained)
    except WeightsError as error:
        raise CheckFailed(str(error)) from None
    other = bench.build(1)
    with tempfile.TemporaryDirectory() as folder, bench.calling("saving and loading its state"):
        file = Path(folder) / "state.safetensors"
        save_checkpoint(file, trained, [], {})
        load_checkpoint(file, other, [], {})
    with torch.no_grad():
        trained.train(bench.task.role.trains), other.train(bench.task.role.trains)
        trained.progress = other.progress = 0.5
        if bench.task.role.trains:
            before, after = bench.total(trained, bench.batch(), 3), bench.total(other, bench.batch(), 3)
        else:
            before, after = (task.evaluated()(bench.images_only(8)) for task in (trained, other))
    if not torch.equal(before, after):
        raise CheckFailed(
            "a task restored from its state_dict goes on differently: something it needs is kept in a plain "
            "attribute; make "
            "tensors buffers with self.register_buffer, and derive what is fixed from setup.sample rather than from a "
            "draw in __init__"
        )
    return f"{len(trained.state_dict())} tensors"
