"""What stands below the table, and its first line: what was run, what every sign means, how numbers were chosen, where they were made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from ssl_bench.records.protocols import split_protocol
from ssl_bench.report.building.cautions import environment_key, made_in
from ssl_bench.report.building.classes import class_notes
from ssl_bench.report.building.columns import reference_row
from ssl_bench.report.building.few_labels import SavedEntry
from ssl_bench.report.building.remeasured import rows_tested_again, versions
from ssl_bench.report.ground.content import Entry, Section
from ssl_bench.report.ground.names import GAIN
from ssl_bench.report.ground.statistics import sampling_error
from ssl_bench.report.reading.records import RunRecords

INPUTS = {"lightness": "lightness only", "standardised": "images standardised one by one"}
PATCHES_FAIR_FROM = 64  # px; below, the tiles of an image hold too few pixels


def title_of(results: RunRecords) -> list[str]:
    """Name, backbone, budget, seeds, and what the numbers are."""
    run, count = results.run, len(results.run.seeds)
    split = "test split" if run.final else "validation split"
    return [
        run.name,
        run.backbone,
        run.budget,
        f"{count} seed{'s' if count != 1 else ''}",
        f"top-1 accuracy in %, {split}",
    ]


def legend_of(results: RunRecords, sections: list[Section]) -> list[tuple[str, str]]:
    """(sign or word, meaning), in the order printed."""
    run = results.run
    entries = [
        cell for section in sections for line in section.lines for cell in line.cells.values() if cell.status == "value"
    ]
    lines = [("±", text) for text in _intervals(results, sections, entries)]
    if any(cell.equal for cell in entries):
        with_images = {c.images > 0 for section in sections for c in section.comparisons}
        over = "seeds" if with_images == {False} else "seeds and test images"
        over += ", where predictions are stored" if len(with_images) > 1 else ""
        lines.append(("=", f"cannot be told apart from the best pretrained row (paired over {over}, Holm)"))
    if any(cell.below for cell in entries):
        longer = any(line.variant for section in sections for line in section.lines if line.task == "random")
        lines.append(
            (
                "▾",
                "mean below random's"
                + (" (fine-tuning: below the better of random and random, 3x longer)" if longer else ""),
            )
        )
    few = any(cell.saw_labels for cell in entries)
    if few or any(line.name.endswith(" †") for section in sections for line in section.lines):
        started = (
            ", or starts from weights that were, or may have been"
            if any(row.init and row.uses_labels for row in run.rows)
            else ""
        )
        more = (
            f"was given all labels in pretraining{started}: has no rank where others have a share of them, and"
            if few
            else ""
        )
        lines.append(("†", f"{more or f'was given labels in pretraining{started};'} takes no part in comparisons"))
    lines += [("×", text) for text in _saved(sections)]
    lines += [("gain", text) for text in _gain(results, sections)]
    signs = "-  does not apply.   passes  network passes per image"
    lines.append(("s1-s4", f"stage of the ResNet, chosen on validation (last: pooled output).   {signs}"))
    lines += [("classes", text) for text in class_notes(results)]
    if capped := _capped(results):
        lines.append(("k", f"capped by the smallest class: {capped}"))
    lines += [("input", text) for text in _inputs(results)]
    lines += [("elsewhere", text) for text in _elsewhere(results)]
    lines += [("plugins", text) for text in _plugins(results)]
    lines.append(("chosen", _choices(results)))
    if (control := _control(results)) is not None:
        lines.append(("control", control))
    lines += [("data", text) for text in _data(results)]
    protocols = list(dict.fromkeys(e.record.protocol for e in results.evaluations))
    opened = max((e.record.test_opened for e in (*results.evaluations, *results.earlier) if e.record.final), default=0)
    test = "not opened" if not opened else "opened once per row" if opened <= 1 else f"opened up to {opened} times"
    test += ", and not shown here" if opened and not run.final else ""
    if again := rows_tested_again(results):
        rows = f"{len(again):,} row{'s' if len(again) > 1 else ''}"
        test += f"; again for {rows} because of a new protocol version: the numbers of {' and '.join(versions(results))} stand apart"
    test += "; with other settings too, see above" if results.opened_elsewhere else ""
    lines.append(("test", test + (f".   protocol  {', '.join(protocols)}" if protocols else "")))
    made = made_in(results)
    counted = Counter(environment_key(e) for e, _ in made)
    for text, times in counted.most_common():
        code = " / ".join(dict.fromkeys(e.code for e, _ in made if environment_key(e) == text))
        computing = _duration(sum(seconds for e, seconds in made if environment_key(e) == text))
        lines.append(
            (
                "run",
                f"{text}, ssl_bench {code}, {computing} of computing"
                + (f" ({times:,} records)" if len(counted) > 1 else ""),
            )
        )
    failed = len({(m.row, m.seed) for m in results.missing if m.failure is not None})
    present = results.expected - len(results.missing)
    lines.append(
        (
            "records",
            f"{run.name} ({present:,} of {results.expected:,}"
            + (f"; cells failed: {failed}" if failed else "")
            + f"){_unchecked(results)}",
        )
    )
    return lines


def _unchecked(results: RunRecords) -> str:
    if not results.unchecked:
        return ""
    return f"; {results.unchecked:,} {'files carry' if results.unchecked > 1 else 'file carries'} no digest: not checked for damage"


def _intervals(results: RunRecords, sections: list[Section], entries: list[Entry]) -> Iterable[str]:
    percent = [
        line.cells[column.key]
        for section in sections
        for line in section.lines
        for column in section.columns
        if column.unit == "%"
    ]
    percent = [cell for cell in percent if cell.status == "value"]
    seeds = sorted({len(cell.values) for cell in percent if cell.interval == "t"})
    accuracies = [
        line.cells[column.key]
        for section in sections
        for line in section.lines
        for column in section.columns
        if column.metric.startswith("top")
    ]
    counts = sorted({cell.images for cell in accuracies if cell.status == "value" and cell.images})
    split = "test" if results.run.final else "validation"
    images = f"{' / '.join(f'{count:,}' for count in counts)} {split} images"
    lines = []
    if seeds:
        lines.append(f"95 % interval over {' or '.join(map(str, seeds))} pretraining seeds (Student t)")
    if any(len(cell.values) == 2 for cell in percent):
        lines.append("two seeds: both values, no interval")
    if any(cell.pair for cell in percent):
        lines.append("one seed and two draws of labels: both values, no interval")
    one = len(results.run.seeds) == 1
    where = "" if one else "where a row has one seed: "
    if any(cell.interval == "binomial" for cell in percent):
        lines.append(f"{where}95 % interval over {images} (Wilson, half its width)")
    if any(cell.interval == "draws" for cell in percent):
        lines.append(
            f"{where}few labels: 95 % interval over {images} and draws of labels (Wilson and Student t, half its width)"
        )
    if any(cell.interval == "classes" for cell in percent):
        lines.append(f"{where}balanced: 95 % interval over the images of each class (Wilson, half its width)")
    if any(cell.interval == "bootstrap" for cell in percent):
        lines.append(
            f"{where}detection: 95 % interval by resampling test images (bootstrap, half its width; both ends in table.csv)"
        )
    if lines and one:
        lines.append(f"One seed: the interval covers the {split} images, not training noise; so no row is marked best.")
    elif any(cell.interval in ("binomial", "draws", "bootstrap") for cell in percent):
        lines.append(f"Where a row has one seed, the interval covers the {split} images, not training noise.")
    if seeds and counts:
        half, high = (f"±{100 * sampling_error(share, counts[0]):.1f}" for share in (0.5, 0.9))
        lines.append(f"Besides, {images} leave about {half} at 50 %, {high} at 90 %.")
    lines += [f"Besides, {text}" for text in _resampled(sections)]
    if draws := _draws(sections):
        lines[:1] = ["; ".join([*lines[:1], draws])]
    return lines


def _gain(results: RunRecords, sections: list[Section]) -> Iterable[str]:
    """What a gain is, where one is shown."""
    columns = [column for section in sections for column in section.columns if column.metric.endswith(GAIN)]
    if any(
        line.cells[c.key].status == "value"
        for section in sections
        for c in section.columns
        if c in columns
        for line in section.lines
    ):
        name = reference_row(results)
        yield f"{columns[0].title}: accuracy at the row's best stage minus {name}'s at that same stage, paired by seed"


def _resampled(sections: list[Section]) -> list[str]:
    """What the test images leave open where the interval shown is one over seeds, of values that are no share of images."""
    found: dict[str, None] = {}
    for column in sections[0].columns if sections else ():
        cells = [line.cells[column.key] for line in sections[0].lines]
        halves = [cell.resampled for cell in cells if cell.interval == "t" and not math.isnan(cell.resampled)]
        if halves:
            images = max(cell.images for cell in cells)
            found[
                f"the {images:,} images of {column.data} leave about ±{100 * float(np.median(halves)):.1f} of {column.title} (bootstrap)"
            ] = None
    return list(found)


def _saved(sections: list[Section]) -> Iterable[str]:
    """How the table of labels saved is read."""
    entries = [
        cell for section in sections if section.saved for line in section.saved.lines for cell in line.cells.values()
    ]
    savings = [cell.saving for cell in entries if isinstance(cell, SavedEntry) and cell.saving is not None]
    if not savings:
        return
    longer = any(line.variant for section in sections for line in section.lines if line.task == "random")
    reference = " (fine-tuned: the better of random and random, 3x longer, at every share)" if longer else ""
    yield f"labels saved: random needs so many times the labels for the row's mean accuracy{reference}"
    yield (
        "read from random's curve, straight in the logarithm of the labels, where it first gets there; >: not with the largest share "
        "measured; none: already with the smallest"
    )
    if any(saving.range for saving in savings):
        yield "in brackets: lowest and highest seed, where they differ"


def _draws(sections: list[Section]) -> str:
    drawn: dict[int, dict[str, None]] = {}
    for section in sections:
        for column in section.columns:
            for line in section.lines:
                if line.cells[column.key].draws > 1 and not line.cells[column.key].pair:
                    drawn.setdefault(line.cells[column.key].draws, {})[column.title] = None
    parts = [
        f"{' and '.join(titles)}: each seed the mean of {draws} draws of labels" for draws, titles in drawn.items()
    ]
    return "; ".join(parts)


def _capped(results: RunRecords) -> str:
    """Which k asks fewer neighbours than it says, on which labelled set where there are several."""
    several = len(results.data_sets()) > 1
    found: dict[str, None] = {}
    for evaluation in results.evaluations:
        used = (
            evaluation.record.details.get("neighbours", {}).get(results.split, {})
            if evaluation.record.evaluator == "knn"
            else {}
        )
        for k, asked in used.items():
            if int(k) != asked:
                found[f"k={k} asks {asked}" + (f" on {evaluation.data}" if several else "")] = None
    return ", ".join(found)


def _inputs(results: RunRecords) -> Iterable[str]:
    """Rows whose network sees anything but colour images, and patch tasks on images that are too small for them."""
    parts: list[str] = []
    combined: list[str] = []
    for kind, words in INPUTS.items():
        seen = {name for (name, _), p in results.pretrainings.items() if p.describe.get("input") == kind}
        rows = [row.row for row in results.run.rows if row.row in seen and "+" not in row.task]
        if rows:
            verb = "" if parts else "sees " if len(rows) == 1 else "see "
            parts.append(f"{' and '.join(rows)} {verb}{words}")
        several = [row.row for row in results.run.rows if row.row in seen and "+" in row.task]
        if several:
            combined.append(f"{' and '.join(several)} on {words}")
    if parts:
        yield ", ".join(parts) + ", also when judged"
    if combined:
        yield f"each member of a combination sees its own; judged are {', '.join(combined)}"
    size = results.run.data.get("pretrain", {}).get("size")
    if (
        size
        and size < PATCHES_FAIR_FROM
        and any("relative_position" in row.task.split("+") for row in results.run.rows)
    ):
        yield f"patch tasks are ranked fairly from {PATCHES_FAIR_FROM} px up"


def _elsewhere(results: RunRecords) -> Iterable[str]:
    """What rows that were not pretrained here were trained on, and at which size they see images."""
    for row in results.run.rows:
        facts = next((p.describe for (name, _), p in results.pretrainings.items() if name == row.row), None)
        if row.block == "elsewhere" and facts is not None:
            size = facts.get("input_px")
            seen = f"images resized to {size} px" if isinstance(size, int) else "images at their own size"
            yield f"{row.row} is a {facts.get('network', '?')} trained on: {facts.get('trained_on', 'not known')}; it sees {seen}"
        if row.init:
            yield f"{row.row} starts from {row.init}"


def _plugins(results: RunRecords) -> Iterable[str]:
    """Rows of plugins whose checks were skipped or cut short, and rows whose network collapsed or moved in part."""
    for row in results.run.rows:
        records = [p for (name, _), p in results.pretrainings.items() if name == row.row]
        if any(p.checks == "skipped" for p in records):
            yield f"{row.row} was trained without the checks of its battery (--skip-checks)"
        if cut := next((p.checks.partition("; ")[2] for p in records if "; " in p.checks), ""):
            yield f"{row.row}: checks {cut}"
        if constant := next(
            (p.describe["constant_features"] for p in records if "constant_features" in p.describe), ""
        ):
            yield f"{row.row} has collapsed: {constant} gives every image the same features"


def _choices(results: RunRecords) -> str:
    sizes = list(dict.fromkeys(f"{entry['validation']:,}" for entry in results.data_sets() if entry.get("validation")))
    tried = Counter(row.choices for row in results.run.rows)
    usual = tried.most_common(1)[0][0] if tried else 1
    others = [f"{row.row} {row.choices}" for row in results.run.rows if row.choices != usual]
    folded, by_loss = _probe_choice(results)
    names = [] if folded else ["probe strength and stage by log loss"] if by_loss else ["probe strength", "stage"]
    names.append("task options")
    if any(e.record.evaluator == "finetune" and len(_rates(e.record.spec)) > 1 for e in results.evaluations):
        names.append("learning rate of fine-tuning")
    text = f"on {' / '.join(sizes) or 'the'} validation images: {', '.join(names)}"
    text += f" (settings tried: {', '.join([*others, f'all others {usual}' if others else f'{usual} for every row'])})"
    taken = [
        f"{row.row} {', '.join(f'{key}={value}' for key, value in row.chosen.items())}"
        for row in results.run.rows
        if row.chosen
    ]
    text += f"; taken: {'; '.join(taken)}" if taken else ""
    failed = ", ".join(f"{row} {count}" for row, count in results.failed_candidates.items())
    text += f"; failed, so not compared: {failed}" if failed else ""
    text += f"; probe strength and stage by log loss in {folded}" if folded else ""
    if results.run.final and any(
        "final_fit" in fit for e in results.evaluations for fit in e.record.details.get("fits", ())
    ):
        text += "; the linear probe that is tested with all labels is fitted on train and validation"
    if detectors := _detector_rates(results):
        text += f"; learning rate of detection {detectors}"
    if inside := _chosen_inside(results):
        text += f"; with a share of the labels, {inside}"
    return text


def _probe_choice(results: RunRecords) -> tuple[str, bool]:
    """How the probe's strength and stage were chosen with all labels: the folds, "" where validation was held out; and whether by log loss."""
    records = [e.record for e in results.evaluations if e.record.evaluator == "linear"]
    on = dict.fromkeys(
        str(fit.get("chosen_on", ""))
        for record in records
        for fit in record.details.get("fits", ())
        if fit.get("labels", 1) == 1
    )
    return " / ".join(where for where in on if "cross-validation" in where), any(
        split_protocol(record.protocol)[1] > 1 for record in records
    )


def _chosen_inside(results: RunRecords) -> str:
    """What is chosen without validation, because labels outside of a draw count as unknown, and where that could not be; "" where nothing is."""
    names: dict[str, None] = {}
    nothing: dict[str, None] = {}
    for record in (e.record for e in results.evaluations):
        made = {"linear": record.details.get("fits", []), "finetune": record.details.get("runs", [])}.get(
            record.evaluator, []
        )
        what = (
            ("strength", "stage")
            if record.evaluator == "linear"
            else ("learning rate",)
            if len(_rates(record.spec)) > 1
            else ()
        )
        for one in made:
            if one.get("labels", 1) < 1:
                chosen = not str(one.get("chosen_on", "")).startswith("nothing")
                (names if chosen else nothing).update(
                    dict.fromkeys(what if chosen else [f"{100 * one['labels']:g} %"] if what else [])
                )
    *first, last = names or [""]
    text = (
        f"{', '.join(first)} and {last} are chosen inside the draw"
        if first
        else f"the {last} is chosen inside the draw"
        if last
        else ""
    )
    if nothing:
        middle = f"at {' and '.join(nothing)}, where a class has too few, the middle of the grid is taken"
        text = f"{text} ({middle})" if text else middle
    return text


def _detector_rates(results: RunRecords) -> str:
    """On how many images the learning rates of detectors were chosen, where there was more than one."""
    found: dict[str, None] = {}
    for record in (e.record for e in results.evaluations if e.record.evaluator == "detection"):
        if len(record.details.get("tried", {})) > 1:
            images = max((m.n for m in record.measurements if m.split == "validation"), default=0)
            found[f"on {images:,} of {record.data}"] = None
    return " and ".join(found)


def _rates(spec: dict[str, Any]) -> list[float]:
    rates = spec.get("options", {}).get("learning_rates", [])
    return list(rates) if isinstance(rates, (list, tuple)) else [rates]


def _control(results: RunRecords) -> str | None:
    """The probe on shuffled labels must be at chance: what the same answers score on images dealt out at random."""
    frame = results.frame[results.frame["split"] == results.split]
    where = ["data", "row", "seed", "evaluator"]
    values = {
        metric: frame[frame["metric"] == metric].groupby(where)[["value", "n"]].mean()
        for metric in ("top1_shuffled", "top1_chance")
    }
    both = values["top1_shuffled"].join(values["top1_chance"]["value"].rename("chance"), how="inner")
    if both.empty:
        return None
    # A bound that all values together pass with 999 in 1,000 where the labels say nothing.
    z = float(stats.norm.isf(0.0005 / len(both)))
    worst = float(
        (np.abs(both["value"] - both["chance"]) / np.sqrt(both["chance"] * (1 - both["chance"]) / both["n"])).max()
    )
    span = f"{100 * both['value'].min():.1f} to {100 * both['value'].max():.1f} %, chance {100 * both['chance'].mean():.1f} %"
    return f"linear probe on shuffled labels: {span}" + (": AWAY FROM CHANCE, suspect a leak" if worst > z else "")


def _data(results: RunRecords) -> Iterable[str]:
    pretrain = results.run.data.get("pretrain", {})
    size = f", {pretrain['size']} px" if pretrain.get("size") else ""
    images = f": {pretrain['images']:,} images{size}" if pretrain.get("images") else ""
    judged = []
    for entry in [*results.data_sets(), *results.own_sets()]:
        counts = [f"{entry[split]:,} {split}" for split in ("train", "validation", "test") if entry.get(split)]
        counts += [f"{len(entry['classes'])} classes"] if entry.get("classes") else []
        judged.append(f"{entry['name']}{': ' if counts else ''}{', '.join(counts)}")
    once = dict.fromkeys(judged)  # several evaluators may bring one set
    yield f"pretrained on {pretrain.get('name', '?')}{images}; judged on {'; '.join(once)}"
    yield from dict.fromkeys(results.run.data.get("notes", ()))


def _duration(seconds: float) -> str:
    if math.isnan(seconds) or seconds < 0:
        return "time unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
