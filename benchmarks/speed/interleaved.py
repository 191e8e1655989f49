"""Ratios of one run: sides that take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

REPEATS = 5
NOT_HERE = "not measured: {}"


@dataclass(frozen=True)
class Ratio:
    """How a side compares with another: above 1 it is faster, or does more."""

    part: str
    name: str
    against: str
    ratios: Sequence[float] = ()  #: of each repeat; () where it could not be measured
    note: str = ""
    absolute: Mapping[str, float] = field(default_factory=dict)  #: such as images/s of both sides

    @property
    def middle(self) -> float:
        return median(self.ratios) if self.ratios else float("nan")

    @property
    def low(self) -> float:
        return min(self.ratios, default=float("nan"))

    @property
    def high(self) -> float:
        return max(self.ratios, default=float("nan"))


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(
    first: Callable[[], float], second: Callable[[], float], repeats: int = REPEATS
) -> list[tuple[float, float]]:
    """What both sides say, one after the other, ``repeats`` times; which begins changes."""
    first(), second()  # what is made once
    pairs = []
    for at in range(repeats):
        if at % 2:
            later, sooner = second(), first()
            pairs.append((sooner, later))
        else:
            pairs.append((first(), second()))
    return pairs


class Side:
    """A process that waits for a line, does its work and prints the seconds that it took."""

    def __init__(self, script: Path, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, str(script), *words]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment) if environment is not None else None,
        )

    def __call__(self) -> float:
        self.start()
        return self.answer()

    def start(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)

    def answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise RuntimeError(self.process.stderr.read().strip().splitlines()[-1:] or ["it ended"])
        return float(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def answer_lines(work: Callable[[], float]) -> None:
    """The other end of ``Side``."""
    for _ in sys.stdin:
        print(work(), flush=True)
