"""From records to the table: entries with their intervals, marks and comparisons, and the order of the rows."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from ssl_bench.errors import RecordError
from ssl_bench.records import MeasurementRecord, RunRow
from ssl_bench.report.agreement import agreements
from ssl_bench.report.columns import base_name, columns_of, is_stage
from ssl_bench.report.few_labels import saved_section
from ssl_bench.report.frame import Found, Results
from ssl_bench.report.legend import legend_of, title_of, warnings_of
from ssl_bench.report.published import load_published, published_blocks
from ssl_bench.report.statistics import (
    FEWEST_SEEDS,
    SIGNIFICANT,
    Comparison,
    compare_crossed,
    compare_drawn,
    compare_seeds,
    holm,
    t_interval,
    wilson_interval,
)
from ssl_bench.report.table import Column, Entry, Line, PairwiseResult, Section, Table

TRUTH = "target"  # name of the array of true labels among the predictions
DRAWN = "drawn/"  # before a metric: its values on resamples of the test images, the same resamples for every row and seed
_SHARE = re.compile(r"(top\d+|acc|accuracy)(@|_|$)", re.IGNORECASE)  # metrics that are a share of the images


def build(results: Results, wide: bool, classic: bool) -> Table:
    """The table of a run."""
    sections = []
    for entry in results.data_sets():
        data = str(entry["name"])
        columns = columns_of(results, data, len(entry.get("classes", [])), wide, classic)
        lines = [line for line in _lines(results, data, columns) if line.failures or line.applies]
        section = Section(data, columns, lines)
        for column in columns:
            if column.unit == "%" and column.split == results.split:
                section.comparisons += _compare(results, data, column, lines)
                _mark_below(column, lines)
        _sort(section)
        section.saved = saved_section(results, section)
        sections.append(section)
    published = published_blocks(load_published(), {c.labels for section in sections for c in section.columns if c.labels is not None})

    def compare(section: Section, column: Column, first: Line, second: Line) -> Comparison | None:
        seeds = sorted(set(first.cells[column.key].values) & set(second.cells[column.key].values))
        return _compared(results, section.data, column, (first, second), seeds) if len(seeds) >= FEWEST_SEEDS else None

    for block in published:
        block.agreement = agreements(block, results.run.rows, sections, compare)
    return Table(
        results.run.name, title_of(results), not results.run.final, sections, legend_of(results, sections), warnings_of(results), published
    )


def _lines(results: Results, data: str, columns: list[Column]) -> list[Line]:
    frame = results.frame
    frame = frame[frame["data"].isin({data, *(column.data for column in columns)})]
    lines = []
    for row in results.run.rows:
        own = frame[frame["row"] == row.row]
        name = row.row + (" †" if row.uses_labels and row.block != "labels" else "")
        base = Line(row.row, name, row.task, row.block, row.uses_labels, failures=_failures(results, row, data))
        base.cells = {column.key: _entry(results, row, data, _on(own[own["variant"] == ""], data, column), column) for column in columns}
        lines.append(base)
        for variant in dict.fromkeys(own["variant"]):
            if variant:
                shown = f"{name}, {'3x longer' if variant == 'longer' else variant}"
                cells = {c.key: _measured(_on(own[own["variant"] == variant], data, c), c) if c.evaluator else Entry() for c in columns}
                lines.append(Line(row.row, shown, row.task, row.block, row.uses_labels, variant, cells))
    return lines


def _on(frame: pd.DataFrame, data: str, column: Column) -> pd.DataFrame:
    return frame[frame["data"] == (column.data or data)]


def _entry(results: Results, row: RunRow, data: str, own: pd.DataFrame, column: Column) -> Entry:
    if not column.evaluator:
        return _cost(results, row, column)
    entry = _measured(own, column)
    entry.saw_labels = entry.status == "value" and row.uses_labels and column.labels is not None and column.labels < 1
    elsewhere = own[(own["evaluator"] == column.evaluator) & (own["split"] == column.split)]
    if entry.status == "none" and elsewhere.empty:  # what the seeds that are there do not have, the others will not have either
        absent = [m for m in results.missing if m.row == row.row and m.what == column.evaluator and m.data == (column.data or data)]
        if absent:
            entry.status = "failed" if any(m.failure for m in absent) else "missing"
    return entry


def _select(own: pd.DataFrame, column: Column) -> pd.DataFrame:
    own = own[(own["evaluator"] == column.evaluator) & (own["split"] == column.split) & (own["metric"] == column.metric)]
    if column.labels is not None:
        own = own[np.isclose(own["labels"].astype(float), column.labels)]
    if column.stage == "best":
        # Pixels and PCA have one representation: there is no stage to choose.
        return own[own["best"].astype(bool)] if sum(map(is_stage, set(own["stage"]))) > 1 else own.iloc[:0]
    if column.stage == "code":
        return own[[not is_stage(stage) for stage in own["stage"]]]
    return own[own["stage"] == column.stage] if column.stage else own


def _measured(own: pd.DataFrame, column: Column) -> Entry:
    """Draws are averaged within a seed first: they are no replications of the pretraining."""
    own = _select(own, column)
    if column.stage == "code" and len(own):  # a task may offer several codes; the first named one stands for it
        own = own[own["stage"] == own["stage"].iloc[0]]
    if own.empty:
        return Entry()
    values = {int(str(seed)): float(value) for seed, value in own.groupby("seed")["value"].mean().items()}
    entry = Entry("value", values, images=int(own["n"].min()), draws=int(own["draw"].nunique()))
    if column.stage in ("best", "code"):
        stages = sorted(set(own["stage"]), key=lambda stage: (stage == "pooled", stage))
        names = ["last" if stage == "pooled" else stage for stage in stages]
        entry.stage = names[0] + "".join(f"/{name.removeprefix('s')}" for name in names[1:])
    if own["low"].notna().all() and len(own) == len(values):
        entry.resampled = float((own["high"] - own["low"]).mean()) / 2
    numbers = list(values.values())
    if len(numbers) >= FEWEST_SEEDS:
        if len(set(numbers)) > 1:
            (entry.low, entry.high), entry.interval = t_interval(numbers), "t"
    elif len(numbers) == 1 and not math.isnan(entry.resampled):
        entry.low, entry.high, entry.interval = float(own["low"].iloc[0]), float(own["high"].iloc[0]), "bootstrap"
    elif len(numbers) == 1 and entry.images > 0 and _SHARE.match(column.metric) and 0 <= numbers[0] <= 1:
        entry.low, entry.high, entry.interval = _of_images(numbers[0], entry.images, own["value"].tolist() if entry.draws > 1 else [])
    return entry


def _of_images(share: float, images: int, draws: list[float]) -> tuple[float, float, Literal["binomial", "draws"]]:
    """Wilson's interval; widened by the spread of several draws of labels, as independent of that of the images."""
    low, high = wilson_interval(share * images, images)
    if len(draws) < 2:
        return low, high, "binomial"
    spread = (t_interval(draws)[1] - float(np.mean(draws))) ** 2
    return share - math.sqrt((share - low) ** 2 + spread), share + math.sqrt((high - share) ** 2 + spread), "draws"


_COST = {
    "images_k": ("images_seen", 1e3), "passes": ("passes", 1.0), "minutes": ("seconds", 60.0), "images_per_second": ("images_per_second", 1.0),
    "memory_gb": ("peak_memory", 1e9), "tflops": ("flops", 1e12), "parameters_m": ("parameters", 1e6),
}


def _cost(results: Results, row: RunRow, column: Column) -> Entry:
    source, unit = _COST[column.metric]
    own = results.pretraining
    own = own[own["row"] == row.row]
    if own.empty:
        absent = [m for m in results.missing if m.row == row.row and m.what == "pretraining"]
        return Entry("failed" if any(m.failure for m in absent) else "missing") if absent else Entry()
    if (own["parameters"] == 0).all():  # pixels and PCA: there is no network whose training could cost something
        return Entry()
    if row.block == "elsewhere" and column.metric in ("images_k", "passes", "minutes", "tflops", "images_per_second"):
        return Entry()  # what others spent is not known
    values = {int(seed): float(value) / unit for seed, value in zip(own["seed"], own[source], strict=True) if not math.isnan(value)}
    if (own["steps"] == 0).all() and column.metric in ("images_k", "passes", "minutes", "tflops"):
        values = dict.fromkeys(values, 0.0)  # building an untrained network takes time that is not training
    return Entry("value", values) if values else Entry()


def _failures(results: Results, row: RunRow, data: str) -> list[str]:
    """One sentence for each thing that failed in a row, with the command that shows the whole of it."""
    seeds = len({cell.seed for cell in results.run.cells if cell.row == row.row})
    shown = {"", data, *(entry["name"] for entry in results.own_sets())}
    found: dict[str, tuple[set[int], str]] = {}
    for missing in results.missing:
        if missing.row == row.row and missing.failure is not None and missing.data in shown:
            message = missing.failure.message.strip().splitlines()
            found.setdefault(missing.failure.where, (set(), message[0] if message else missing.failure.error))[0].add(missing.seed)
    sentences = []
    for where, (failed, first_line) in found.items():
        command = f"ssl-bench show {shlex.quote(f'{results.run.name}/{row.row}/{min(failed)}')}"
        sentences.append(f"{'' if where == 'pretraining' else where + ' '}failed {len(failed)}/{seeds}: {first_line}; {command}")
    return sentences


def _sort(section: Section) -> None:
    """By the first column that has a number in a row, the best first; a variant stays below its row."""
    order = [column.key for column in section.columns if column.evaluator]
    base = {line.row: line for line in section.lines if not line.variant}
    place = {line.row: at for at, line in enumerate(section.lines)}

    def key(line: Line) -> tuple[float, ...]:
        values = [base[line.row].cells[name].value for name in order]
        first = next((at for at, value in enumerate(values) if not math.isnan(value)), len(values))
        return (float(first), -values[first] if first < len(values) else 0.0, float(place[line.row]), float(bool(line.variant)))

    section.lines.sort(key=key)


def _mark_below(column: Column, lines: list[Line]) -> None:
    """Against the better of random and its longer variant: a gain over an undertrained baseline is none."""
    random = [line.cells[column.key].value for line in lines if line.task == "random" and line.block == "baseline"]
    random = [value for value in random if not math.isnan(value)]
    for line in lines:
        cell = line.cells[column.key]
        if random and line.block != "baseline" and not cell.saw_labels and cell.value < max(random):
            cell.below = True


def _compare(results: Results, data: str, column: Column, lines: list[Line]) -> list[PairwiseResult]:
    """The best pretrained row against every other, over three shared seeds or more; marks it and those that cannot be told from it.

    Which row is best is read from the same numbers. Holm's correction over the comparisons with it keeps the truly best row
    among the marked ones in 95 % of tables (multiple comparisons with the best, Hsu 1984). Nothing is marked while a row of too
    few seeds reaches into the best one's numbers: it might be the best.
    """
    rows = [line for line in lines if line.block == "pretext" and not line.variant and not line.uses_labels]
    rows = [line for line in rows if not math.isnan(line.cells[column.key].value)]
    if not rows:
        return []
    best = max(rows, key=lambda line: line.cells[column.key].value)
    a = best.cells[column.key].values
    shared = [(other, b, sorted(set(a) & set(b))) for other in rows if other is not best for b in [other.cells[column.key].values]]
    if len(a) < FEWEST_SEEDS or any(len(seeds) < FEWEST_SEEDS and max(b.values()) >= min(a.values()) for _, b, seeds in shared):
        return []
    best.cells[column.key].best = True
    compared = [(other, _compared(results, data, column, (best, other), seeds)) for other, _, seeds in shared if len(seeds) >= FEWEST_SEEDS]
    found = []
    for (other, c), p in zip(compared, holm([c.p for _, c in compared]), strict=True):
        found.append(PairwiseResult(column.key, best.row, other.row, c.difference, c.low, c.high, c.p, p, c.seeds, c.images))
        if p > SIGNIFICANT:
            best.cells[column.key].equal = other.cells[column.key].equal = True
    return found


def _compared(results: Results, data: str, column: Column, pair: tuple[Line, Line], seeds: list[int]) -> Comparison:
    """Image by image where predictions are stored, by resampled images where those are, else over seeds alone."""
    first, second = ([line.cells[column.key].values[seed] for seed in seeds] for line in pair)
    images = min(line.cells[column.key].images for line in pair)
    x, y = (_stack(_correct(results, data, column, line), seeds) for line in pair)
    if x is not None and y is not None and x.shape == y.shape and x.shape[1] > 1:
        return compare_crossed(x, y)
    x, y = (_stack(_drawn(results, data, column, line), seeds) for line in pair)
    if x is not None and y is not None and x.shape == y.shape and x.shape[1] > 1 and images > 0:
        return compare_drawn(first, second, x, y, images)
    return compare_seeds(first, second, images if _SHARE.match(column.metric) else 0)


def _drawn(results: Results, data: str, column: Column, line: Line) -> dict[int, np.ndarray]:
    """Seed to values float [draws] on resamples of the test images, of evaluations that store them."""
    if column.split != "test":
        return {}
    own = [e for e in results.evaluations if e.row.row == line.row and e.evaluator == column.evaluator and e.data == (column.data or data)]
    stored = {e.seed: results.predictions(e).get(DRAWN + column.metric) for e in own if any(_belongs(m, column) for m in e.measurements("test"))}
    return {seed: array for seed, array in stored.items() if array is not None}


def _stack(correct: dict[int, np.ndarray], seeds: Sequence[int]) -> np.ndarray | None:
    arrays = [correct[seed] for seed in seeds if seed in correct]
    return np.stack(arrays) if len(arrays) == len(seeds) and len({len(array) for array in arrays}) == 1 else None


def _correct(results: Results, data: str, column: Column, line: Line) -> dict[int, np.ndarray]:
    """Seed to correctness per test image, [N] in [0, 1], averaged over draws; only seeds whose predictions are all there."""
    if column.split != "test" or not column.metric.startswith("top1"):
        return {}
    found: dict[int, np.ndarray] = {}
    for evaluation in results.evaluations:
        if evaluation.row.row != line.row or evaluation.evaluator != column.evaluator or evaluation.data != (column.data or data):
            continue
        wanted = [m for m in evaluation.measurements("test") if _belongs(m, column)]
        if column.stage == "code":
            wanted = [m for m in wanted if m.stage == wanted[0].stage]  # of several the first named, as in the table
        draws = [array for m in wanted if (array := _correct_of(results, evaluation, m)) is not None]
        if wanted and len(draws) == len(wanted):
            found[evaluation.seed] = np.mean(draws, axis=0)
    return found


def _belongs(m: MeasurementRecord, column: Column) -> bool:
    if m.row or m.metric != column.metric or (column.labels is not None and not math.isclose(m.labels, column.labels)):
        return False
    if column.stage == "code":
        return not is_stage(m.stage)
    return m.best if column.stage == "best" else not column.stage or m.stage == column.stage


def _correct_of(results: Results, found: Found, m: MeasurementRecord) -> np.ndarray | None:
    arrays = results.predictions(found)
    name = prediction_name(base_name(found.evaluator), m)
    if TRUTH not in arrays or name not in arrays:
        return None
    correct = (arrays[name] == arrays[TRUTH]).astype(np.float64)
    if len(correct) != m.n or abs(correct.mean() - m.value) > 0.5 / max(1, m.n) + 1e-6:
        path = found.path.with_suffix(".npz")
        raise RecordError(
            f"{path}: predictions {name!r} give {correct.mean():.4f} over {len(correct):,} images, "
            f"the record says {m.value:.4f} over {m.n:,}; delete both and run again"
        )
    return correct


def prediction_name(evaluator: str, m: MeasurementRecord) -> str:
    """The name under which an evaluator stores the predictions behind a top-1 measurement."""
    if evaluator == "finetune":
        return f"{m.labels:g}/{m.draw}" + (f"/{m.row}" if m.row else "")
    name = m.stage + m.metric.removeprefix("top1")
    return name if m.labels == 1 else f"{name}@{m.labels:g}/{m.draw}"
