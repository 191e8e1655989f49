"""What a run shows while it works: one live view in a terminal, plain lines in a log; and the small printed reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ssl_bench.plan.estimate import Estimate
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.score import validation_score
from ssl_bench.plan.stored import HOW
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining
from ssl_bench.runner.observer import Observer
from ssl_bench.spec.schedule import cut_schedule_words
from ssl_bench.system.amounts import bytes_text, duration
from ssl_bench.system.terminal import escape

BLOCKED_SHOWN = 5  # cells of a plan, by name
HEARTBEAT_SECONDS = 60.0  # between lines of progress in a log


class Lane(Observer):
    """The line of one process: the cell that it computes. Safe to use from several threads.

    Parameters
    ----------
    live : the view that it is a line of.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self.task: TaskID | None = None
        self.spoken = self.started = time.monotonic()
        self.label = ""

    def show(self, description: str, done: float, total: float, note: str) -> None:
        """Set the line to something under way; in a log, say it now and then."""
        bar = self.live.bar
        with self.live.lock:
            if self.task is None:
                self.task = bar.add_task(escape(description), total=total, note=escape(note))
            bar.update(
                self.task,
                description=escape(description),
                completed=done,
                total=total,
                note=escape(note),
                visible=True,
            )
            if not self.live.console.is_terminal and time.monotonic() - self.spoken > HEARTBEAT_SECONDS:
                self.spoken = time.monotonic()
                self.live.say(f"  {description} {100 * done / max(total, 1):.0f} %  {note}")

    def cell_started(self, cell: Any, number: int, total: int) -> None:
        which = f" ({cell.candidate.settings})" if len(cell.row.candidates) > 1 else ""
        self.label = f"[{number}/{total}] {cell.row.name}{which} seed {cell.seed}"
        self.started = time.monotonic()
        self.show(self.label, 0, 1, "starting")

    def progressed(self, progress: Any) -> None:
        loss = progress.metrics.get("loss", float("nan"))
        accuracy = f"  accuracy {100 * progress.metrics['accuracy']:.1f} %" if "accuracy" in progress.metrics else ""
        note = (
            f"loss {loss:.4g}{accuracy}  {progress.images_per_second:,.0f} images/s  "
            f"{duration(progress.seconds_left)} left"
        )
        self.show(self.label, progress.step, progress.steps, note)

    def noted(self, text: str) -> None:
        self.show(self.label, 1, 1, text)

    def cell_finished(self, cell: Any, pretraining: Pretraining, evaluations: list[EvaluationRecord]) -> None:
        parts = [text for record in evaluations if (text := headline(record))]
        trend = f"  kNN {pretraining.trend}" if pretraining.trend else ""
        took = duration(time.monotonic() - self.started)
        with self.live.lock:
            self._hide()
            self.live.say(f"{self.label}: {took}  validation: {'  '.join(parts) or 'none'}{trend}")
            for what, told in (
                (cell.row.name, pretraining.changed),
                *((record.evaluator, record.changed) for record in evaluations),
            ):
                if told:
                    self.live.say(f"  {what} changed, for the whole program, {told}; this was set back", "yellow")

    def cell_failed(self, cell: Any, failure: Failure) -> None:
        with self.live.lock:
            self._hide()
            self.live.say(f"{self.label} failed in {failure.where}: {failure.message}", "red")
            if failure.traceback:
                self.live.say(failure.traceback, "dim")

    def closed(self) -> None:
        with self.live.lock:
            self._hide()

    def _hide(self) -> None:
        """Until the process has something else to show."""
        if self.task is not None:
            self.live.bar.update(self.task, visible=False)


class Live(Lane):
    """The observer of the command line. A context manager; ``close`` ends the moving part early."""

    def __init__(self, console: Console) -> None:
        super().__init__(self)
        self.console, self.lock = console, threading.RLock()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.open = False

    def __enter__(self) -> Live:
        self.bar.start()
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.open:
            self.bar.stop()
            self.open = False

    def say(self, text: str, style: str = "") -> None:
        """Print a line above what moves."""
        self.console.print(escape(text), style=style or None, soft_wrap=True)

    def beside(self) -> Lane:
        return Lane(self)

    def packing(self, text: str, done: int, total: int) -> None:
        self.show(text, done, max(total, 1), f"{done:,}/{total:,}")

    def nothing_to_do(self, run_plan: RunPlan) -> None:
        trained = [stored for cell in run_plan.cells() if (stored := run_plan.snapshot.pretraining(cell)) is not None]
        versions = ", ".join(sorted({stored.code for stored in trained}))
        since = f", since {run_plan.created[:10]}" if run_plan.created else ""
        every = "the one cell is" if len(trained) == 1 else f"all {len(trained)} cells are"
        self.say(f"nothing to do: {every} in {run_plan.out}{since}, made by ssl_bench {versions}")

    def chose(self, row: Any, winner: Any, scores: Mapping[str, float]) -> None:
        tried = ", ".join(f"{name}: {100 * score:.1f}" for name, score in scores.items())
        failed = len(row.candidates) - len(scores)
        left_out = f"; failed, and left out: {failed} of {len(row.candidates)}" if failed else ""
        self.say(f"{row.name}: chose {winner.settings} on validation ({tried}{left_out})")


def headline(record: EvaluationRecord) -> str:
    """What a record says in short: accuracy on validation by which choices are made, or mAP on which set; "" where it
    has neither."""
    validation = [m for m in record.measurements if m.split == "validation"]
    score = validation_score(record)
    if score is not None:
        return f"{record.evaluator} {100 * score:.1f}"
    precision = next((m for m in validation if m.metric.startswith("map")), None)
    if precision is None:
        return ""
    stage = f", {precision.stage}" if precision.stage else ""
    return f"{record.evaluator} {record.data}{stage} {100 * precision.value:.1f}"


def print_plan(console: Console, run_plan: RunPlan, plan: Estimate) -> None:
    """The plan as a small table."""

    def say(text: str, style: str | None = None) -> None:
        console.print(escape(text), style=style, soft_wrap=True)

    data = run_plan.data
    console.print(
        escape(
            f"{run_plan.matrix.name}: {data.pretrain.name}, {len(data.pretrain):,} images of {data.size} px to "
            "pretrain on; "
            f"seeds {', '.join(map(str, run_plan.matrix.seeds))}; {run_plan.device.type}"
        )
    )
    if words := cut_schedule_words(run_plan.matrix.pretrain.model_dump()):
        console.print(words)
    for note in data.notes:
        console.print(escape(note), style="yellow")
    if run_plan.unpacked:
        what = f"{', '.join(run_plan.unpacked)}: {bytes_text(sum(run_plan.unpacked.values()))}"
        console.print(
            escape(f"not packed yet ({what}): whatever needs these images counts as missing"),
            style="yellow",
            soft_wrap=True,
        )
    for name, why in run_plan.unseen.items():
        console.print(escape(f"not in this plan: {name}: {why}"), style="yellow", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("row", "done", "missing", "recipe", "steps", "passes", "time", "memory"):
        table.add_column(name, justify="left" if name in ("row", "recipe") else "right", no_wrap=True)
    for row in plan.rows:
        table.add_row(
            escape(row.row),
            str(row.done),
            str(row.missing),
            escape(row.recipe),
            f"{row.steps:,}" if row.steps else "",
            f"{row.passes:.1f}" if row.passes else "",
            duration(row.seconds) if row.seconds else "",
            bytes_text(row.memory) if row.memory else "",
        )
    console.print(table)
    for row in plan.rows:
        if row.problem:
            say(f"{row.row} cannot be estimated, its own code fails: {row.problem}", "red")
    for text in plan.blocked[:BLOCKED_SHOWN]:
        say(text, "yellow")
    if plan.blocked:
        more = len(plan.blocked) - BLOCKED_SHOWN
        shown = f"... and {more:,} more. " if more > 0 else ""
        need = "1 cell needs it" if len(plan.blocked) == 1 else f"{len(plan.blocked):,} cells need it"
        say(f"{shown}{HOW}; {need}, and {'fails' if len(plan.blocked) == 1 else 'fail'} without", "yellow")
    if plan.missing:
        divided = f", {plan.jobs.words}" if plan.jobs.words else ""
        say(
            f"{plan.done} cells done, {plan.missing} to compute: about {duration(plan.seconds)} "
            f"({duration(plan.evaluation_share * plan.seconds)} of it evaluation){divided}; records go to "
            f"{run_plan.out}"
        )
        if plan.advice:
            say(f"more than a week; to bring it down: {'; '.join(plan.advice)}", "yellow")
        if plan.hardware:
            say(f"times are for {plan.hardware}; narrow networks run slower than their FLOPs suggest")
        disk = f"disk: decoded images {bytes_text(plan.packed)}, weights about {bytes_text(plan.results)}"
        console.print(f"{disk}; memory: features of frozen evaluators {bytes_text(plan.features)}")
    else:
        console.print(f"nothing to do: {plan.done} cells done in {escape(str(run_plan.out))}")
