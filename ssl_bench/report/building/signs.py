"""The part of the legend that explains signs: intervals, marks, savings, gains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ssl_bench.report.building.columns import reference_row
from ssl_bench.report.building.few_labels import SavedEntry
from ssl_bench.report.building.ranks import pair_lines
from ssl_bench.report.ground.content import Column, Entry, LegendLine, Section
from ssl_bench.report.ground.intervals import sampling_error
from ssl_bench.report.ground.names import GAIN
from ssl_bench.report.reading.records import RunRecords


def sign_lines(results: RunRecords, sections: list[Section]) -> Iterator[LegendLine]:
    """What every sign in the cells means, in the order printed."""
    yield from _intervals(results, sections)
    yield from _equal_line(sections)
    yield from pair_lines(sections)
    yield from _below_random_line(sections)
    yield from _longest_line(sections)
    yield from _saw_labels(results, sections)
    yield from _saved(sections)
    yield from _gain(results, sections)
    text = "ResNet stage, chosen on validation (last: pooled output)"
    yield LegendLine(
        "s1-s4", f"{text}.   -  does not apply.   passes  network passes per image", f"{text};  -  does not apply"
    )


def _shown(sections: list[Section]) -> Iterator[tuple[Column, Entry]]:
    """Columns and the entries with a value in them."""
    for section in sections:
        for column in section.columns:
            for line in section.lines:
                if line.cells[column.key].status == "value":
                    yield column, line.cells[column.key]


def _intervals(results: RunRecords, sections: list[Section]) -> Iterator[LegendLine]:
    percent = [(column, entry) for column, entry in _shown(sections) if column.unit == "%"]
    seeds = sorted({len(entry.values) for _, entry in percent if entry.interval == "t"})
    counts = sorted({entry.images for column, entry in percent if entry.images and column.share_of_images})
    split = "test" if results.run.final else "validation"
    images = f"{' / '.join(f'{count:,}' for count in counts)} {split} images"
    one_seed = len(results.run.seeds) == 1
    where = "" if one_seed else "rows with one seed: "
    kinds = {entry.interval for _, entry in percent}
    texts: list[str] = []
    if seeds:
        texts.append(f"95 % interval over {' or '.join(map(str, seeds))} pretraining seeds (Student t)")
    if any(len(entry.values) == 2 for _, entry in percent):
        texts.append("two seeds: both values, no interval")
    if any(entry.pair for _, entry in percent):
        texts.append("one seed, two label draws: both values, no interval")
    if "binomial" in kinds:
        texts.append(f"{where}95 % interval over {images} (Wilson, half its width)")
    if "draws" in kinds:
        texts.append(f"{where}few labels: 95 % interval over {images} and label draws (Wilson and Student t)")
    if "classes" in kinds:
        texts.append(f"{where}balanced: 95 % interval over the images of each class (Wilson)")
    if "bootstrap" in kinds:
        titles = dict.fromkeys(column.title for column, entry in percent if entry.interval == "bootstrap")
        texts.append(
            f"{where}{', '.join(titles)}: 95 % bootstrap interval over {split} images (both ends in table.csv)"
        )
    brief = texts[0] if texts else ""
    if texts and one_seed:
        texts.append(f"one seed: intervals cover the {split} images, not training noise, so no row is marked best")
        brief += "; one seed: training noise not covered"
    elif kinds & {"binomial", "draws", "bootstrap"}:
        texts.append(f"rows with one seed: intervals cover the {split} images, not training noise")
    if seeds and counts:
        half, high = (f"±{100 * sampling_error(share, counts[0]):.1f}" for share in (0.5, 0.9))
        texts.append(f"sampling error of {images}: about {half} points at 50 %, {high} at 90 %")
    texts += _resampled(sections)
    if draws := _draws(sections):
        texts[:1] = ["; ".join([*texts[:1], draws])]
    for at, text in enumerate(texts):
        yield LegendLine("±", text, brief if at == 0 else "")


def _resampled(sections: list[Section]) -> list[str]:
    """Sampling error of the images of a set that an evaluator brings, by resampling, where the interval shown is one
    over seeds."""
    told: dict[str, None] = {}
    for column in sections[0].columns if sections else ():
        entries = [line.cells[column.key] for line in sections[0].lines]
        halves = [entry.resampled for entry in entries if entry.interval == "t" and not math.isnan(entry.resampled)]
        if halves:
            images, half = max(entry.images for entry in entries), 100 * float(np.median(halves))
            told[
                f"sampling error of {images:,} images of {column.data}: about ±{half:.1f} points of {column.title} "
                "(bootstrap)"
            ] = None
    return list(told)


def _draws(sections: list[Section]) -> str:
    titles_of: dict[int, dict[str, None]] = {}
    for column, entry in _shown(sections):
        if entry.draws > 1 and not entry.pair:
            titles_of.setdefault(entry.draws, {})[column.title] = None
    return "; ".join(
        f"{' and '.join(titles)}: mean of {draws} label draws per seed" for draws, titles in titles_of.items()
    )


def _equal_line(sections: list[Section]) -> Iterator[LegendLine]:
    if any(entry.equal for _, entry in _shown(sections)):
        with_images = {c.images > 0 for section in sections for c in section.comparisons}
        over = "seeds" if with_images == {False} else "seeds and test images"
        over += ", where predictions are stored" if len(with_images) > 1 else ""
        text = "cannot be told apart from the best pretrained row"
        yield LegendLine("=", f"{text} (paired over {over}, Holm-corrected)", text)


def _longer(sections: list[Section]) -> bool:
    """Whether the untrained network was also fine-tuned for longer."""
    return any(line.variant for section in sections for line in section.lines if line.task == "random")


def _below_random_line(sections: list[Section]) -> Iterator[LegendLine]:
    if any(entry.below for _, entry in _shown(sections)):
        longer = " (fine-tuning: than the better of random and random, 3x longer)" if _longer(sections) else ""
        yield LegendLine("▾", f"worse than random{longer}", f"worse than random{longer}")


def _any_longest(sections: list[Section]) -> bool:
    return any(entry.longest for _, entry in _shown(sections))


def _longest_line(sections: list[Section]) -> Iterator[LegendLine]:
    if _any_longest(sections):
        brief = "longest length chosen: a lower bound, and so never called worse than random"
        text = "longest length chosen, and more steps might give more: a row's gain is a lower bound, and not marked ▾"
        yield LegendLine("↑", f"{text}; above random's number with this sign, a gain may be smaller", brief)


def _saw_labels(results: RunRecords, sections: list[Section]) -> Iterator[LegendLine]:
    few = any(entry.saw_labels for _, entry in _shown(sections))
    if not few and not any(line.name.endswith(" †") for section in sections for line in section.lines):
        return
    started = any(row.init and row.uses_labels for row in results.run.rows)
    given = f"pretrained with {'all ' if few else ''}labels"
    given += ", or from weights that may have seen labels" if started else ""
    text = f"{given}: {'not ranked in few-label columns, ' if few else ''}excluded from comparisons"
    yield LegendLine("†", text, text)


def _saved(sections: list[Section]) -> Iterator[LegendLine]:
    """How the table of labels saved is read."""
    entries = (
        entry for section in sections if section.saved for line in section.saved.lines for entry in line.cells.values()
    )
    savings = [entry.saving for entry in entries if isinstance(entry, SavedEntry) and entry.saving is not None]
    if not savings:
        return
    brief = "labels saved: how many times more labels random needs to match the row"
    longer = " (fine-tuned: the better of random and random, 3x longer)" if _longer(sections) else ""
    yield LegendLine("×", brief + longer, brief)
    yield LegendLine(
        "×",
        "interpolated on random's curve (linear in log labels) at the first crossing; >: not reached with the largest "
        f"share measured{', or the row is a lower bound (↑)' if _any_longest(sections) else ''}; "
        "none: reached with the smallest",
    )
    if any(saving.range for saving in savings):
        yield LegendLine("×", "in brackets: lowest and highest seed, where they differ")


def _gain(results: RunRecords, sections: Iterable[Section]) -> Iterator[LegendLine]:
    shown = [column for column, _ in _shown(list(sections)) if column.metric.endswith(GAIN)]
    name = reference_row(results)
    title = next((column.title for column in shown if column.stage == "best"), None)
    if title is not None:
        text = f"{title}: accuracy at the row's best stage minus {name}'s at the same stage"
        yield LegendLine("gain", f"{text}, paired by seed", text)
    title = next((column.title for column in shown if column.stage == "pooled"), None)
    if title is not None:
        yield LegendLine("gain", f"{title}: the same at the last stage, which an untrained network leaves weak")
