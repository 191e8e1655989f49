"""Throughput beside lightly's own recipe, and what the loop adds to the bare network: ratios measured in one run, sides interleaved.

    python benchmarks/speed/compare.py            # about ten minutes on two cores; writes results.json and RESULTS.md beside this file

Both sides hold decoded images of 32 px in memory and train the same ResNet-18 (width 0.25, scaled stem of stride 1) at batch 256 on
random pixels: what an image shows does not change the time it takes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ssl_bench.backbones import Backbone, InputSpec
from ssl_bench.data.batches import Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.environment import device_name, versions
from ssl_bench.fit import build_optimizer, seed_everything
from ssl_bench.registry import TASKS
from ssl_bench.spec import BackboneSpec
from ssl_bench.tasks.base import Setup

BATCH, SIZE, IMAGES = 256, 32, 4096
SPEC = BackboneSpec(name="resnet18", width=0.25)
TASK_NAMES = ("autoencoder", "denoising_autoencoder", "vae", "rotation", "relative_position", "colorization", "simclr", "supervised")
HERE = Path(__file__).parent


def image_set() -> ImageSet:
    """Smooth random colour images (pure noise would make colour operations unrealistically uniform)."""
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.random((IMAGES, 3, 8, 8), dtype=np.float32))
    pixels = (torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return ImageSet(pixels, np.arange(IMAGES), np.arange(IMAGES) % 10, tuple("abcdefghij"), "speed", "speed")


class Side:
    """One task with its optimiser, stepped by hand so that each part can be timed."""

    def __init__(self, name: str, images: ImageSet) -> None:
        task_class = TASKS.get(name)
        options = task_class.Options()
        seed_everything(0)
        sample = Batches(images, 512, 0).batch(0).images
        setup = Setup(SIZE, 100, BATCH, IMAGES, 10 if task_class.uses_labels else None, lambda n: sample[:n])
        backbone = task_class.build_backbone(lambda input="rgb", **_: Backbone(SPEC, SIZE, InputSpec(kind=input)), options)
        self.task = task_class(backbone, options, setup).train().to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.task.phase_parameters("main"), task_class.short_recipe(options, SIZE))
        self.batches = Batches(images, BATCH, 0, labels=task_class.uses_labels)
        self.at = 0
        self.ready = self.views()

    def views(self) -> Any:
        self.at += 1
        with torch.no_grad():
            return self.task.views(self.batches.batch(self.at))

    def learn(self, views: Any) -> None:
        loss = self.task(views)["loss"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        float(loss)

    def bare(self) -> float:
        return timed(lambda: self.learn(self.ready))

    def whole(self) -> float:
        def step() -> None:
            seed_everything(0, self.at)
            self.learn(self.views())
            self.task.after_step()

        return timed(step)


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def steps(rounds: int) -> dict[str, Any]:
    """Each task's whole step against the same step on views that are ready."""
    images, found = image_set(), {}
    for name in TASK_NAMES:
        side = Side(name, images)
        side.bare(), side.whole()
        pairs = [(side.bare(), side.whole()) for _ in range(rounds)]
        found[name] = {
            "share_of_bare_speed": median(bare / whole for bare, whole in pairs),
            "images_per_second": BATCH / median(whole for _, whole in pairs),
        }
        print(f"{name:24} {100 * found[name]['share_of_bare_speed']:.0f} % of the bare network's speed", flush=True)
    return found


def ours(rounds: int) -> None:
    """Worker: SimCLR through this library; prints seconds a step for each line it is sent."""
    side = Side("simclr", image_set())
    _serve(rounds, side.whole, lambda: timed(side.views))


def lightlys(rounds: int) -> None:
    """Worker: lightly's recipe, its SimCLRTransform in a DataLoader of two workers, its loss and head, the same network and optimiser."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    images = image_set()
    transform = SimCLRTransform(input_size=SIZE, gaussian_blur=0.0, cj_strength=0.5)

    class Decoded(Dataset[Any]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> Any:
            return transform(Image.fromarray(images.pixels[index % IMAGES]))

    loader = iter(DataLoader(Decoded(), batch_size=BATCH, num_workers=2, drop_last=True, prefetch_factor=2))
    side = Side("simclr", images)

    def step() -> None:
        first, second = next(loader)
        side.learn(_as_views(side, torch.cat([first, second]).contiguous(memory_format=torch.channels_last)))

    _serve(rounds, lambda: timed(step), lambda: timed(lambda: next(loader)), drain=5)


def _as_views(side: Side, both: torch.Tensor) -> Any:
    """lightly's two views in the shape this library's task takes."""
    return both if isinstance(side.ready, torch.Tensor) else type(side.ready)(both.chunk(len(side.ready)))


def _serve(rounds: int, step: Any, views: Any, drain: int = 0) -> None:
    """Answer "step", "views" and "memory" lines; ``drain`` calls go untimed first, until what was prefetched while idle is used up."""
    for line in sys.stdin:
        kind = line.strip()
        if kind == "memory":
            print(_tree_memory(), flush=True)
        elif kind in ("step", "views"):
            call = step if kind == "step" else views
            for _ in range(drain):
                call()
            print(sum(call() for _ in range(rounds)) / rounds, flush=True)


def _tree_memory() -> int:
    """Bytes of this process and its children; pages that they share count once (proportional set size)."""
    import os

    def share(pid: int) -> int:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return share(os.getpid()) + sum(share(int(child)) for child in children)


def beside_lightly(rounds: int) -> dict[str, Any]:
    """Interleaved: a few steps of ours, a few of theirs, and again."""
    workers = {name: _start(name) for name in ("ours", "lightly")}
    for name in workers:
        _ask(workers[name], "step"), _ask(workers[name], "views")
    found: dict[str, list[float]] = {}
    memory = dict.fromkeys(workers, 0.0)
    for _ in range(rounds):
        for kind in ("step", "views"):
            for name, worker in workers.items():
                found.setdefault(f"{kind} {name}", []).append(_ask(worker, kind))
                memory[name] = max(memory[name], _ask(worker, "memory"))
                time.sleep(1.0 if name == "lightly" else 0.0)  # let its workers refill their queue and fall idle before the other side runs
    for worker in workers.values():
        worker.terminate()
    result = {
        "simclr_images_per_second": {name: BATCH / median(found[f"step {name}"]) for name in workers},
        "views_images_per_second": {name: BATCH / median(found[f"views {name}"]) for name in workers},
        "simclr_ratio": median(b / a for a, b in zip(found["step ours"], found["step lightly"], strict=True)),
        "views_ratio": median(b / a for a, b in zip(found["views ours"], found["views lightly"], strict=True)),
        "peak_memory": memory,
        "memory_ratio": memory["ours"] / memory["lightly"],
    }
    ratios = (f"{result[key]:.2f} x" for key in ("simclr_ratio", "views_ratio", "memory_ratio"))
    print("beside lightly: SimCLR images/s {}, views {}, memory {}".format(*ratios), flush=True)
    return result


def _start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, "--worker", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen[str], kind: str) -> float:
    assert worker.stdin is not None and worker.stdout is not None
    print(kind, file=worker.stdin, flush=True)
    return float(worker.stdout.readline())


def probe() -> dict[str, float]:
    """The L-BFGS path of nine strengths on 50,000 x 512 features of 10 classes."""
    from ssl_bench.evaluators.linear import Linear
    from ssl_bench.evaluators.logistic import fit_path

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (50_000,), generator=generator)
    centres = torch.randn(10, 512, generator=generator)
    features = (centres[labels] * 0.1 + torch.randn(50_000, 512, generator=generator)).relu()
    seconds = timed(lambda: fit_path(features, labels, 10, Linear.Options().strengths_list()))
    print(f"probe: {seconds:.1f} s", flush=True)
    return {"seconds": seconds}


def write(found: dict[str, Any]) -> None:
    environment = {"device": device_name(torch.device("cpu")), "versions": versions(), "platform": platform.platform(terse=True)}
    (HERE / "results.json").write_text(json.dumps({"environment": environment, **found}, indent=1) + "\n")
    lines = [
        "# Speed", "", f"Written by `compare.py` on {environment['device']}, torch {versions()['torch']}. Ratios of one run, sides interleaved.", "",
        "| step | share of the bare network's speed | images/s |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | {100 * row['share_of_bare_speed']:.0f} % | {row['images_per_second']:.0f} |" for name, row in found["steps"].items()]
    beside = found["beside_lightly"]
    lines += ["", "| beside lightly's recipe | ours | lightly | ratio |", "|---|---|---|---|"]
    for label, kind in (("SimCLR, images/s", "simclr"), ("two views, images/s", "views")):
        key, ratio = f"{kind}_images_per_second", f"{kind}_ratio"
        lines.append(f"| {label} | {beside[key]['ours']:.0f} | {beside[key]['lightly']:.0f} | {beside[ratio]:.2f} |")
    memory = beside["peak_memory"]
    lines.append(f"| peak memory of the process tree, MB | {memory['ours'] / 2**20:.0f} | {memory['lightly'] / 2**20:.0f} | {beside['memory_ratio']:.2f} |")
    lines += ["", f"Probe, nine strengths on 50,000 x 512 features, 10 classes: {found['probe']['seconds']:.1f} s.", ""]
    (HERE / "RESULTS.md").write_text("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", choices=("ours", "lightly"))
    arguments = parser.parse_args()
    if arguments.worker:
        {"ours": ours, "lightly": lightlys}[arguments.worker](3)
    else:
        write({"steps": steps(arguments.rounds), "beside_lightly": beside_lightly(arguments.rounds), "probe": probe()})
