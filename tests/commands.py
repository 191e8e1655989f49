"""The command line in a process of its own, ready at once: a fork of the tests' process, which has imported everything
already."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ssl_bench.console.live

# What commands import when they are run, so that no fork does it again.
import ssl_bench.evaluators.knn
import ssl_bench.plan.estimate
import ssl_bench.report.building.verdict
import ssl_bench.report.files
import ssl_bench.runner.scheduler
import ssl_bench.tasks.baselines
import ssl_bench.testing
import ssl_bench.training.fabric  # noqa: F401

TINY: dict[str, Any] = {
    "name": "tiny", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}},
    "backbone": {"name": "resnet10t", "width": 0.125, "stem_stride": 2},
    "pretrain": {"images": 64, "batch_size": 32, "monitor": 0},
    "tasks": [], "baselines": ["random"], "evaluate": [{"knn": {"k": [5]}}],
}  # fmt: skip


@dataclass
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


class Running:
    """``ssl-bench ARGUMENTS`` under way in a folder."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], first: Callable[[], None]) -> None:
        self.out, self.err = (folder / f".{name}-{time.monotonic_ns()}" for name in ("stdout", "stderr"))
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(folder, arguments, first, self.out, self.err)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def until(self, happened: Callable[[], Any], seconds: float = 60) -> None:
        """Wait for something that the command is to do."""
        deadline = time.monotonic() + seconds
        while not happened():
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
            assert not ended, self.err.read_text()
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.01)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), self.out.read_text(), self.err.read_text())


def _become(folder: Path, arguments: tuple[str, ...], first: Callable[[], None], out: Path, err: Path) -> None:
    code = 99
    try:
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, encoding="utf-8") for number in (1, 2))  # noqa: SIM115
        sys.argv = ["ssl-bench", *arguments]
        first()
        from ssl_bench.__main__ import main

        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def start(folder: Path, *arguments: str, first: Callable[[], None] = lambda: None) -> Running:
    """Start a command. ``first`` is called in its process, to break something there."""
    return Running(folder, arguments, first)


def call(folder: Path, *arguments: str, first: Callable[[], None] = lambda: None) -> Ended:
    """Run a command to its end."""
    return start(folder, *arguments, first=first).wait()


def written(folder: Path, plugin: str = "", **changes: Any) -> list[str]:
    """The words of a command after ``run``: a tiny matrix, with some changes, and perhaps a plugin."""
    (folder / "tiny.yaml").write_text(json.dumps(TINY | changes))  # JSON is YAML
    if not plugin:
        return ["tiny.yaml"]
    (folder / "plugin.py").write_text(plugin)
    # the battery would find most of what these plugins do before they train
    return ["tiny.yaml", "--plugin", "plugin.py", "--skip-checks"]


def task(name: str, body: str, where: str = "forward") -> str:
    """The source of a task that regresses the mean of an image, with ``body`` at the start of one of its methods."""
    bodies = dict.fromkeys(("init", "views", "forward", "diagnose"), "pass") | {where: body}
    return f'''
import os, signal, sys, time
import torch
from ssl_bench import PretextTask

class {name.title()}(PretextTask):
    """Regresses the mean of an image."""
    name = {name!r}
    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.head = torch.nn.Linear(backbone.num_features, 1)
        {bodies["init"]}
    def views(self, batch):
        {bodies["views"]}
        return batch.images
    def forward(self, views):
        {bodies["forward"]}
        return {{"loss": (self.head(self.backbone(views))[:, 0] - views.mean((1, 2, 3))).square().mean()}}
    def diagnose(self, images):
        {bodies["diagnose"]}
        return {{}}
'''


def evaluator(name: str, body: str) -> str:
    """The source of an evaluator that answers 0.5, with ``body`` before its answer."""
    return f'''
import os, signal, sys, time
import torch
from ssl_bench import Evaluation, Evaluator, EvaluatorOptions, Measurement

class {name.title()}(Evaluator):
    """Answers one half."""
    name, protocol, Options, accuracy = {name!r}, {name!r}, EvaluatorOptions, False
    def evaluate(self, subject):
        {body}
        splits = ["validation"] + (["test"] if subject.test is not None else [])
        return Evaluation([Measurement("half", split, 0.5, 10) for split in splits])
'''
