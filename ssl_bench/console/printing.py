"""The small printed reports: what is known of a cell, what there is to choose from. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_bench.errors import SpecError, did_you_mean
from ssl_bench.records.places import is_stored
from ssl_bench.records.schema import (
    EvaluationRecord,
    Failure,
    HealthRecord,
    Pretraining,
    Run,
    failure_files,
    read_record,
    safe_name,
)
from ssl_bench.spec.schedule import cut_schedule_words
from ssl_bench.system.amounts import bytes_text
from ssl_bench.system.terminal import escape


def print_cell(console: Console, folder: Path, row: str, seed: str) -> None:
    """Everything known of one cell. ``seed`` as it was typed: what is no seed of the run is no number that has to be
    read."""
    record = read_record(folder / "run.json", Run)
    cells = [cell for cell in record.cells if cell.row == row and str(cell.seed) == seed]
    if not cells:
        asked = f"{row}/{seed}"[:80]
        raise SpecError(
            f"{record.name} has no cell {asked!r}; "
            f"{did_you_mean(asked, [f'{cell.row}/{cell.seed}' for cell in record.cells])}"
        )
    where = folder / cells[0].folder
    for path in failure_files(where):
        failure = read_record(path, Failure)
        console.print(escape(f"failed in {failure.where}: {failure.error}: {failure.message}"), style="red")
        if failure.traceback:
            console.print(escape(failure.traceback), style="dim")
    if not is_stored(where / "pretrain.json"):
        console.print("not pretrained yet")
        return
    trained = read_record(where / "pretrain.json", Pretraining)
    console.print(escape(f"{record.name}/{row}/{seed}  {trained.task}  {where}"))
    if "schedule_steps" in trained.spec:
        console.print(f"  {cut_schedule_words(record.matrix['pretrain'])}")
    for name, values in (
        ("settings", trained.spec),
        ("says", trained.describe),
        ("after training", trained.diagnose),
        ("last values", trained.metrics),
    ):
        for key, value in values.items():
            text = (
                ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) if isinstance(value, dict) else value
            )
            console.print(
                escape(f"  {name}: {key}: {text:.4g}" if isinstance(text, float) else f"  {name}: {key}: {text}"),
                soft_wrap=True,
            )
    for name, sign in trained.health.items():
        console.print(
            escape(
                f"  health: {name}: {sign.value:.4g} ({_bounds_words(sign)}){'; OUT OF BOUNDS' if sign.alarm else ''}"
            ),
            style="red" if sign.alarm else None,
            soft_wrap=True,
        )
    split = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in trained.seconds.items())
    console.print(
        f"  cost: {trained.images_seen:,} images, {trained.passes:.2f} passes an image, {trained.flops / 1e12:.1f} "
        "TFLOP, "
        f"{trained.images_per_second:,.0f} images/s, {bytes_text(trained.peak_memory)} ({split})"
    )
    console.print(
        escape(
            f"  made: {trained.created} on {trained.environment.device}, {trained.environment.precision}, "
            f"ssl_bench {trained.environment.code}"
        )
    )
    if trained.changed:
        console.print(escape(f"  changed for the whole program, and set back: {trained.changed}"), soft_wrap=True)
    for expected in cells[0].evaluations:
        path = where / f"{safe_name(expected.evaluator)}-{expected.id}.json"
        if not is_stored(path):
            console.print(escape(f"  {expected.evaluator} on {expected.data}: missing"))
            continue
        evaluated = read_record(path, EvaluationRecord)
        opened = {0: "not opened", 1: "opened once"}.get(
            evaluated.test_opened, f"opened {evaluated.test_opened:,} times"
        )
        console.print(escape(f"  {evaluated.protocol} on {evaluated.data}: test {opened}"))
        if evaluated.changed:
            console.print(
                escape(f"    changed for the whole program, and set back: {evaluated.changed}"), soft_wrap=True
            )
        for m in evaluated.measurements:
            label = f"{m.row + ' ' if m.row else ''}{m.stage} {m.metric}".strip() + (
                f" at {100 * m.labels:g} % labels, draw {m.draw}" if m.labels < 1 else ""
            )
            console.print(escape(f"    {m.split:10} {label}: {m.value:.4f}{' (best stage)' if m.best else ''}"))


def _bounds_words(sign: HealthRecord) -> str:
    """Within which a value has to be, in words."""
    ends = (("at least", sign.low), ("at most", sign.high))
    return " and ".join(f"{word} {end:g}" for word, end in ends if end is not None) or "no bounds"


def print_list(console: Console, what: str) -> None:
    """Names with one line each."""
    entries = _entries(what)
    width = max(len(name) for name, _ in entries)
    for name, text in entries:
        console.print(escape(f"{name:{width}}  {text}"), soft_wrap=True)


def _entries(what: str) -> list[tuple[str, str]]:
    if what == "sources":
        from ssl_bench.data import list_sources

        return [
            *list_sources(),
            *((f"detection: {{source: {name}}}", f"with boxes: {line}") for name, line in list_sources("boxes")),
        ]
    if what == "matrices":
        from ssl_bench.spec.shipped import headline_comment, shipped

        return [(name, headline_comment(path)) for name, path in shipped().items()]
    from ssl_bench.plugins.registry import EVALUATORS, TASKS

    registry = TASKS if what == "tasks" else EVALUATORS
    return [(name, registry.summary(name)) for name in registry.names()]


def print_checks(console: Console, results: Any) -> bool:
    """The battery's findings; True when nothing failed."""
    marks = {"passed": "ok  ", "failed": "FAIL", "warning": "warn", "skipped": "skip"}
    for result in results:
        console.print(
            escape(f"{marks[result.status]}  {result.name}: {result.message}"),
            style="red" if result.status == "failed" else None,
            soft_wrap=True,
        )
    return not any(result.status == "failed" for result in results)
