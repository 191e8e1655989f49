"""Two networks at once: stacked into one, and in two processes, against one after the other."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.spec.matrix import BackboneSpec

HERE = Path(__file__)
sys.path.insert(0, str(HERE.parent))
from interleaved import NOT_HERE, REPEATS, Ratio, Side, answer_lines, in_turn, seconds_of  # noqa: E402

BATCH, STEPS = 256, 4


def _network(seed: int, width: float, buffers: bool = True) -> torch.nn.Module:
    torch.manual_seed(seed)
    spec = BackboneSpec(name="resnet18", width=width, stem_stride=2)
    network = torch.nn.Sequential(Backbone(spec, 32), torch.nn.LazyLinear(10)).train()
    network(torch.rand(2, 3, 32, 32))
    if not buffers:  # vmap keeps no running statistics
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
                module.num_batches_tracked = None
    return network.to(memory_format=torch.channels_last)


def apart(batch: int, width: float) -> Callable[[], None]:
    """A step of each of two networks, one after the other."""
    steps = [_step(seed, batch, width) for seed in (0, 1)]
    return lambda: [step() for step in steps][0]


def _step(seed: int, batch: int, width: float) -> Callable[[], None]:
    network = _network(seed, width, buffers=False)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images = torch.rand(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))

    def step() -> None:
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def stacked(batch: int, width: float) -> Callable[[], None]:
    """A step of both at once: ``torch.func.vmap`` makes their convolutions grouped ones."""
    networks = [_network(seed, width, buffers=False) for seed in (0, 1)]
    parameters, buffers = stack_module_state(networks)
    optimizer = torch.optim.AdamW(list(parameters.values()), 1e-3)
    images, labels = torch.rand(2, batch, 3, 32, 32), torch.randint(10, (2, batch))

    def loss_of(
        own: dict[str, torch.Tensor], fixed: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        return F.cross_entropy(functional_call(networks[0], (own, fixed), (x,)), y)

    gradients = vmap(grad(loss_of), randomness="different")

    def step() -> None:
        for name, gradient in gradients(parameters, buffers, images, labels).items():
            parameters[name].grad = gradient
        optimizer.step()

    return step


def measure_stacked(
    batch: int = BATCH, steps: int = STEPS, repeats: int = REPEATS, width: float = 0.25
) -> Iterator[Ratio]:
    """Both networks by vmap against one after the other, in this process."""
    name, against = "two seeds stacked (vmap)", "two seeds, one after the other"
    try:
        sides = [make(batch, width) for make in (stacked, apart)]
        timed = [lambda side=side: seconds_of(lambda: [side() for _ in range(steps)]) for side in sides]
        pairs = in_turn(timed[0], timed[1], repeats)
    except RuntimeError as error:
        yield Ratio("stacked", name, against, note=NOT_HERE.format(str(error).splitlines()[0]))
        return
    yield Ratio("stacked", name, against, [other / seconds for seconds, other in pairs])


def measure_processes(
    batch: int = BATCH, steps: int = STEPS, repeats: int = REPEATS, width: float = 0.25
) -> Iterator[Ratio]:
    """Two processes of one thread each against one of two threads: steps an hour of two cells."""
    name, against = "two processes of one thread", "one process of two threads"
    if (os.cpu_count() or 1) < 2:
        yield Ratio("processes", name, against, note=NOT_HERE.format("there is one core"))
        return
    words = ["--batch", str(batch), "--steps", str(steps), "--width", str(width)]
    ones = [Side(HERE, ["1", *words], {**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(2)]
    two = Side(HERE, ["2", *words], {**os.environ, "OMP_NUM_THREADS": "2"})

    def both() -> float:
        for side in ones:
            side.start()
        return max(side.answer() for side in ones)

    try:
        pairs = in_turn(both, lambda: two() + two(), repeats)
    finally:
        for side in (*ones, two):
            side.close()
    hourly = {
        "steps_per_hour": 3600 * 2 * steps * len(pairs) / sum(seconds for seconds, _ in pairs),
        "against_steps_per_hour": 3600 * 2 * steps * len(pairs) / sum(other for _, other in pairs),
    }
    yield Ratio("processes", name, against, [other / seconds for seconds, other in pairs], absolute=hourly)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", type=int)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--width", type=float, default=0.25)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    one_step = _step(0, asked.batch, asked.width)
    answer_lines(lambda: seconds_of(lambda: [one_step() for _ in range(asked.steps)]))
