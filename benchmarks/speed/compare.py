"""Throughput beside lightly's own recipe, and what the loop adds to the bare network: ratios measured in one run, sides
interleaved.

    python benchmarks/speed/compare.py            # about ten minutes on two idle cores; writes results.json and
    RESULTS.md beside this file

Both sides hold the decoded images in memory and train the same ResNet-18 (width 0.25, scaled stem of stride 1) at batch
256. The bare network is trunk, heads, loss and optimiser on views that lie ready.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data import load
from ssl_bench.data.batches import Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import Interrupted
from ssl_bench.evaluators.linear.logistic import TOLERANCE, SoftmaxRegression, Solution
from ssl_bench.evaluators.linear.strengths import SEARCH_TOLERANCE, STRONGEST, WEAKEST
from ssl_bench.plugins.registry import TASKS
from ssl_bench.records.environment import device_name, installed_versions
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.tasks.base import Setup
from ssl_bench.training.loop import fit
from ssl_bench.training.optimizers import build_optimizer
from ssl_bench.training.seeding import seed_everything

BATCH = 256
BACKBONE = BackboneSpec(name="resnet18", width=0.25)
TASK_NAMES = (
    "autoencoder",
    "denoising_autoencoder",
    "vae",
    "rotation",
    "relative_position",
    "colorization",
    "simclr",
    "supervised",
)
ROUNDS = 11  # a measurement is the median of so many
STEPS = 3  # steps a round beside lightly
WARM_UP = 2
HERE = Path(__file__).parent


class Side:
    """One task on one set of images, as the library builds it."""

    def __init__(self, name: str, images: ImageSet) -> None:
        task_class = TASKS.get(name)
        self.images, self.options = images, task_class.Options()
        self.recipe = task_class.short_recipe(self.options, images.size)
        self.batches = Batches(
            images if task_class.uses_labels else images.without_labels(), BATCH, 0, labels=task_class.uses_labels
        )
        sample = self.batches.store.gather(torch.arange(512))
        setup = Setup(
            image_size=images.size,
            steps=1_000,
            batch_size=BATCH,
            num_images=len(images),
            num_classes=len(images.classes) if task_class.uses_labels else None,
            sample=lambda n: sample[:n],
        )
        seed_everything(0)
        backbone = task_class.build_backbone(
            lambda input="rgb", **_: Backbone(BACKBONE, images.size, InputSpec(kind=input)), self.options
        )
        self.task = task_class(backbone, self.options, setup).train().to(memory_format=torch.channels_last)
        self.at = 0

    def views(self) -> Any:
        """Of a new batch, gathering included."""
        self.at += 1
        seed_everything(0, self.at)
        with torch.no_grad():
            return self.task.views(self.batches.batch(self.at))

    def loop(self, between: Callable[[], bool]) -> None:
        """The library's own loop over this task; ``between`` runs after every step and says whether to go on."""
        stopped = [False]

        def after(_: Any) -> None:
            stopped[0] = not between()

        with contextlib.suppress(Interrupted):
            fit(
                self.task,
                self.batches,
                self.recipe,
                1_000,
                seed=0,
                precision="fp32",
                on_progress=after,
                stop=lambda: stopped[0],
                cost=False,
            )

    def bare(self) -> Callable[[], None]:
        """A step of trunk, heads, loss and optimiser on views that lie ready."""
        optimizer, views = build_optimizer(self.task.phase_parameters("main"), self.recipe), self.views()

        def step() -> None:
            loss = self.task(views)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            float(loss.detach())

        return step


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def images_of(data: str) -> ImageSet:
    """At most 10,000 labelled images, decoded and in memory."""
    spec = DataSpec.model_validate({"source": data, "limit": {"train": 10_000, "test": 1_000}})
    return load(spec).pretrain


def steps_of(images: ImageSet, rounds: int) -> dict[str, Any]:
    """Each task's step in the loop against the same step on ready views: one of this, one of that, in turn."""
    found: dict[str, Any] = {}
    for name in TASK_NAMES:
        twin = Side(name, images).bare()
        loop: list[float] = []
        bare: list[float] = []
        resumed = [time.perf_counter()]

        def between(
            loop: list[float] = loop, bare: list[float] = bare, resumed: list[float] = resumed, twin: Any = twin
        ) -> bool:
            loop.append(time.perf_counter() - resumed[0])
            bare.append(timed(twin))
            resumed[0] = time.perf_counter()
            return len(loop) < WARM_UP + rounds

        Side(name, images).loop(between)
        pairs = list(zip(bare[WARM_UP:], loop[WARM_UP:], strict=True))
        found[name] = {
            "share_of_bare_speed": median(bare for bare, _ in pairs) / median(loop for _, loop in pairs),
            "images_per_second": BATCH / median(loop for _, loop in pairs),
        }
        print(f"{name:24} {100 * found[name]['share_of_bare_speed']:.0f} % of the bare network's speed", flush=True)
    return found


class Answers:
    """A worker's side of the conversation: "step", "views" or "memory" a line in, a number a line out."""

    def __init__(self, views: Callable[[], Any], settle: Callable[[], None] = lambda: None) -> None:
        self.views, self.settle = views, settle

    def until_step(self) -> bool:
        """Answer until a step is asked for; False when nothing more is asked."""
        for line in sys.stdin:
            kind = line.strip()
            if kind == "step":
                self.settle()
                return True
            if kind == "views":
                self.settle()
                self.say(sum(timed(self.views) for _ in range(STEPS)) / STEPS)
            elif kind == "memory":
                self.say(tree_memory())
        return False

    @staticmethod
    def say(value: float) -> None:
        print(value, flush=True)


def ours(images: ImageSet) -> None:
    """Worker: SimCLR by this library's loop."""
    side = Side("simclr", images)
    answers = Answers(side.views)
    taken: list[float] = []
    if not answers.until_step():
        return
    resumed = [time.perf_counter()]

    def between() -> bool:
        taken.append(time.perf_counter() - resumed[0])
        go_on = True
        if len(taken) == STEPS:
            answers.say(sum(taken) / STEPS)
            taken.clear()
            go_on = answers.until_step()
        resumed[0] = time.perf_counter()
        return go_on

    side.loop(between)


def lightlys(images: ImageSet) -> None:
    """Worker: lightly's recipe for SimCLR: its SimCLRTransform in a DataLoader of two workers, one forward a view, its
    loss and head."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    pixels = np.array(images.pixels)
    transform = SimCLRTransform(input_size=images.size, gaussian_blur=0.0, cj_strength=0.5)

    class Decoded(Dataset[Any]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> Any:
            return transform(Image.fromarray(pixels[index % len(pixels)]))

    batches: Iterator[Any] = iter(DataLoader(Decoded(), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True))
    backbone = Backbone(BACKBONE, images.size).train().to(memory_format=torch.channels_last)
    head = SimCLRProjectionHead(backbone.num_features, backbone.num_features, 128)
    criterion = NTXentLoss(0.5)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], 1e-3)

    def step() -> None:
        first, second = next(batches)
        loss = criterion(
            *(head(backbone(view.contiguous(memory_format=torch.channels_last))) for view in (first, second))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())

    def settle() -> None:
        for _ in range(5):  # two batches a worker were made while nobody waited for them, and one more is under way
            next(batches)

    answers = Answers(lambda: next(batches), settle)
    while answers.until_step():
        answers.say(sum(timed(step) for _ in range(STEPS)) / STEPS)


def tree_memory() -> int:
    """Bytes of this process and its children; pages that they share count once (proportional set size)."""

    def share(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return share(os.getpid()) + sum(share(int(child)) for child in children)


def beside_lightly(data: str, rounds: int) -> dict[str, Any]:
    """A few steps of ours, a few of theirs, and again; the side that waits is stopped."""
    workers = {name: _Worker(name, data) for name in ("ours", "lightly")}
    for worker in workers.values():
        worker.ask("step")
    found: dict[tuple[str, str], list[float]] = {}
    memory = dict.fromkeys(workers, 0.0)
    for _ in range(rounds):
        for kind in ("step", "views"):
            for name, worker in workers.items():
                found.setdefault((kind, name), []).append(worker.ask(kind))
                memory[name] = max(memory[name], worker.ask("memory"))
                # its workers fill their queues and fall idle before the other side runs
                time.sleep(4.0 if name == "lightly" else 0.0)
    for worker in workers.values():
        worker.process.terminate()
    result: dict[str, Any] = {"peak_memory": memory, "memory_ratio": memory["ours"] / memory["lightly"]}
    for kind, label in (("step", "simclr"), ("views", "views")):
        seconds = {name: median(found[kind, name]) for name in workers}
        result[f"{label}_images_per_second"] = {name: BATCH / seconds[name] for name in workers}
        result[f"{label}_ratio"] = seconds["lightly"] / seconds["ours"]
    ratios = (f"{result[key]:.2f} x" for key in ("simclr_ratio", "views_ratio", "memory_ratio"))
    print("beside lightly: SimCLR images/s {}, views {}, memory {}".format(*ratios), flush=True)
    return result


class _Worker:
    def __init__(self, name: str, data: str) -> None:
        command = [sys.executable, __file__, "--worker", name, "--data", data]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind: str) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(kind, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def probe() -> dict[str, float]:
    """Nine strengths and the last fit on 50,000 x 512 correlated, standardised features of 10 classes, half of which
    can be told."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (50_000,), generator=generator)
    hidden = torch.randn(10, 64, generator=generator)[labels] * 0.35 + torch.randn(50_000, 64, generator=generator)
    mixing = torch.randn(64, 512, generator=generator) * torch.linspace(1, 0.05, 64)[:, None]
    features = (hidden @ mixing + 0.5 * torch.randn(50_000, 512, generator=generator)).relu_()
    features = (features - features.mean(0)) / features.std(0)

    def path() -> None:
        problem = SoftmaxRegression(features, labels, 10)
        solution: Solution | None = None
        for penalty in np.geomspace(STRONGEST, WEAKEST, 9):
            solution = problem.fit(float(penalty) / len(features), solution, SEARCH_TOLERANCE)
        problem.fit(WEAKEST / len(features), solution, TOLERANCE)

    seconds = timed(path)
    print(f"probe: {seconds:.1f} s", flush=True)
    return {"seconds": seconds}


def write(found: dict[str, Any]) -> None:
    """Write results.json and the tables made of it."""
    environment = {
        "device": device_name(torch.device("cpu")),
        "versions": installed_versions(),
        "platform": platform.platform(terse=True),
    }
    (HERE / "results.json").write_text(json.dumps({"environment": environment, **found}, indent=1) + "\n")
    lines = [
        "# Speed", "",
        f"Written by `compare.py` on {environment['device']}, torch {installed_versions()['torch']}: "
        f"ratios of one run, sides interleaved; {found['data']}, "
        f"ResNet-18 of width 0.25 with a stem of stride 1, batch {BATCH}.", "",
        "| step | share of the bare network's speed | images/s |", "|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {name} | {100 * row['share_of_bare_speed']:.0f} % | {row['images_per_second']:.0f} |"
        for name, row in found["steps"].items()
    ]
    beside = found["beside_lightly"]
    lines += ["", "| beside lightly's recipe | ours | lightly | ratio |", "|---|---|---|---|"]
    for label, kind in (("SimCLR, images/s", "simclr"), ("two views, images/s", "views")):
        each = beside[f"{kind}_images_per_second"]
        lines.append(f"| {label} | {each['ours']:,.0f} | {each['lightly']:,.0f} | {beside[f'{kind}_ratio']:.2f} |")
    memory = beside["peak_memory"]
    lines.append(
        f"| peak memory of the process tree, MB | {memory['ours'] / 2**20:.0f} | {memory['lightly'] / 2**20:.0f} | "
        f"{beside['memory_ratio']:.2f} |"
    )
    lines += [
        "",
        "Linear probe, nine strengths and the last fit on 50,000 x 512 features of 10 classes: "
        f"{found['probe']['seconds']:.1f} s.",
        "",
    ]
    (HERE / "RESULTS.md").write_text("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--data", default="cifar10", help="any labelled source; SSL_BENCH_DATA is searched first")
    parser.add_argument("--worker", choices=("ours", "lightly"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        {"ours": ours, "lightly": lightlys}[arguments.worker](images_of(arguments.data))
    else:
        images = images_of(arguments.data)
        name = images.name
        steps, beside = steps_of(images, arguments.rounds), beside_lightly(arguments.data, arguments.rounds)
        write({"data": f"{name}, {images.size} px", "steps": steps, "beside_lightly": beside, "probe": probe()})
