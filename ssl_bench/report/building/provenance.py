"""The part of the legend that says what rows saw, how settings were chosen, and where numbers were made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from scipy import stats

from ssl_bench.report.building.cautions import environment_key, made_in
from ssl_bench.report.building.remeasured import earlier_versions, rows_tested_again
from ssl_bench.report.ground.content import LegendLine
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.spec.schedule import cut_schedule_words

INPUTS = {"lightness": "lightness only", "standardised": "images standardised one by one"}
PATCHES_FAIR_FROM = 64  # px; below, the tiles of an image hold too few pixels


def evaluator_lines(results: RunRecords) -> Iterator[LegendLine]:
    """Notes of evaluators, but for those on choices."""
    yield from (line for line in _notes(results) if line.sign != "chosen")


def _notes(results: RunRecords) -> list[LegendLine]:
    """Notes alike in sign and text become one line, with their items listed; on which set, where there are several."""
    several = len(results.data_sets()) > 1
    items: dict[tuple[str, str], dict[str, None]] = {}
    for evaluation, note in results.notes:
        if not note.warning:
            listed = items.setdefault((note.sign, note.text), {})
            own_set = evaluation.data in {entry["name"] for entry in results.own_sets()}
            if note.item:
                listed[note.item + (f" on {evaluation.data}" if several and not own_set else "")] = None
    return [
        LegendLine(sign, f"{text}: {', '.join(listed)}" if listed else text) for (sign, text), listed in items.items()
    ]


def input_lines(results: RunRecords) -> Iterator[LegendLine]:
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
        yield LegendLine("input", ", ".join(parts) + ", also when evaluated")
    if combined:
        yield LegendLine("input", f"members of a combination see their own input; evaluated: {', '.join(combined)}")
    size = results.run.data.get("pretrain", {}).get("size")
    patches = any("relative_position" in row.task.split("+") for row in results.run.rows)
    if size and size < PATCHES_FAIR_FROM and patches:
        yield LegendLine("input", f"patch tasks need {PATCHES_FAIR_FROM} px or more to be ranked fairly")


def row_lines(results: RunRecords) -> Iterator[LegendLine]:
    """What rows started from, weights from elsewhere,
    and plugins whose checks were skipped or whose network collapsed."""
    for row in results.run.rows:
        facts = next((p.describe for (name, _), p in results.pretrainings.items() if name == row.row), None)
        if row.block == "elsewhere" and facts is not None:
            size = facts.get("input_px")
            seen = f"images resized to {size} px" if isinstance(size, int) else "images at their own size"
            trained_on = facts.get("trained_on", "not known")
            yield LegendLine(
                "elsewhere", f"{row.row} is a {facts.get('network', '?')} trained on: {trained_on}; it sees {seen}"
            )
        if row.init:
            yield LegendLine("elsewhere", f"{row.row} starts from {row.init}")
    for row in results.run.rows:
        records = [p for (name, _), p in results.pretrainings.items() if name == row.row]
        if any(p.checks == "skipped" for p in records):
            yield LegendLine("plugins", f"{row.row} was trained without the checks of its battery (--skip-checks)")
        if cut := next((p.checks.partition("; ")[2] for p in records if "; " in p.checks), ""):
            yield LegendLine("plugins", f"{row.row}: checks {cut}")
        if constant := next(
            (p.describe["constant_features"] for p in records if "constant_features" in p.describe), ""
        ):
            yield LegendLine("plugins", f"{row.row} has collapsed: {constant} gives every image the same features")


def health_lines(results: RunRecords) -> Iterator[LegendLine]:
    """Values that tasks watch over and that ended out of their bounds, cell by cell."""
    alarms = [
        f"{row}, seed {seed}: {name} {sign.alarm}"
        for (row, seed), record in results.pretrainings.items()
        for name, sign in record.health.items()
        if sign.alarm
    ]
    more = f"; {len(alarms) - 1:,} more alarms" if len(alarms) > 2 else "; one more alarm" if len(alarms) == 2 else ""
    for at, alarm in enumerate(alarms):
        yield LegendLine("health", alarm, alarm + more if at == 0 else "")


def choice_lines(results: RunRecords) -> Iterator[LegendLine]:
    """How task settings were chosen, and then what evaluators chose."""
    sizes = list(dict.fromkeys(f"{entry['validation']:,}" for entry in results.data_sets() if entry.get("validation")))
    tried = Counter(row.choices for row in results.run.rows)
    usual = tried.most_common(1)[0][0] if tried else 1
    others = [f"{row.row} {row.choices}" for row in results.run.rows if row.choices != usual]
    text = f"task settings on {' / '.join(sizes) or 'the'} validation images; tried: "
    text += ", ".join([*others, f"all others {usual}" if others else f"{usual} for every row"])
    chosen = [
        f"{row.row} {', '.join(f'{key}={value}' for key, value in row.chosen.items())}"
        for row in results.run.rows
        if row.chosen
    ]
    text += f"; chosen: {'; '.join(chosen)}" if chosen else ""
    failed = ", ".join(f"{row} {count}" for row, count in results.failed_candidates.items())
    yield LegendLine("chosen", text + (f"; failed and not compared: {failed}" if failed else ""))
    yield from (line for line in _notes(results) if line.sign == "chosen")


def control_line(results: RunRecords) -> Iterator[LegendLine]:
    """A probe on shuffled labels must be at chance: what the same answers score on images dealt out at random."""
    frame = results.frame[results.frame["split"] == results.split]
    where = ["data", "row", "seed", "evaluator"]
    values = {
        metric: frame[frame["metric"] == metric].groupby(where)[["value", "n"]].mean()
        for metric in ("top1_shuffled", "top1_chance")
    }
    both = values["top1_shuffled"].join(values["top1_chance"]["value"].rename("chance"), how="inner")
    if both.empty:
        return
    # A bound that all values together pass with 999 in 1,000 where the labels say nothing.
    z = float(stats.norm.isf(0.0005 / len(both)))
    distances = np.abs(both["value"] - both["chance"]) / np.sqrt(both["chance"] * (1 - both["chance"]) / both["n"])
    away = float(distances.max()) > z
    span = (
        f"{100 * both['value'].min():.1f} to {100 * both['value'].max():.1f} %, "
        f"chance {100 * both['chance'].mean():.1f} %"
    )
    text = f"probe on shuffled labels: {span}" + (": AWAY FROM CHANCE, suspect a leak" if away else "")
    yield LegendLine("control", text, text if away else "")


def schedule_line(results: RunRecords) -> Iterator[LegendLine]:
    """A schedule that was cut short: such a row is not what a whole run of its length would give."""
    if words := cut_schedule_words(results.run.matrix.get("pretrain") or {}):
        text = "learning rate, warm-up and all that follows a run's progress are those of the whole run's beginning"
        yield LegendLine("schedule", f"{words}: {text}", words)


def data_lines(results: RunRecords) -> Iterator[LegendLine]:
    """Images pretrained and evaluated on."""
    pretrain = results.run.data.get("pretrain", {})
    size = f", {pretrain['size']} px" if pretrain.get("size") else ""
    images = f": {pretrain['images']:,} images{size}" if pretrain.get("images") else ""
    sets = []
    for entry in [*results.data_sets(), *results.own_sets()]:
        counts = [f"{entry[split]:,} {split}" for split in ("train", "validation", "test") if entry.get(split)]
        counts += [f"{len(entry['classes'])} classes"] if entry.get("classes") else []
        sets.append(f"{entry['name']}{': ' if counts else ''}{', '.join(counts)}")
    once = dict.fromkeys(sets)  # several evaluators may bring one set
    yield LegendLine("data", f"pretrained on {pretrain.get('name', '?')}{images}; evaluated on {'; '.join(once)}")
    yield from (LegendLine("data", note) for note in dict.fromkeys(results.run.data.get("notes", ())))


def test_line(results: RunRecords) -> Iterator[LegendLine]:
    """How often test was opened, and the protocols."""
    final = [e.record for e in (*results.evaluations, *results.earlier) if e.record.final]
    opened = max((record.test_opened for record in final), default=0)
    text = "not opened" if not opened else "opened once per row" if opened <= 1 else f"opened up to {opened} times"
    text += ", and not shown here" if opened and not results.run.final else ""
    if again := rows_tested_again(results):
        rows = f"{len(again):,} row{'s' if len(again) > 1 else ''}"
        earlier = " and ".join(earlier_versions(results))
        text += f"; again for {rows} because of a new protocol version ({earlier} shown separately)"
    text += "; also with other settings, see above" if results.opened_elsewhere else ""
    protocols = list(dict.fromkeys(e.record.protocol for e in results.evaluations))
    yield LegendLine("test", text + (f".   protocol  {', '.join(protocols)}" if protocols else ""))


def run_lines(results: RunRecords) -> Iterator[LegendLine]:
    """Where the records were made, an environment a line."""
    made = made_in(results)
    counted = Counter(environment_key(environment) for environment, _ in made)
    for key, times in counted.most_common():
        code = " / ".join(dict.fromkeys(e.code for e, _ in made if environment_key(e) == key))
        computing = _duration(sum(seconds for e, seconds in made if environment_key(e) == key))
        records = f" ({times:,} records)" if len(counted) > 1 else ""
        yield LegendLine("run", f"{key}, ssl_bench {code}, {computing} of computing{records}")


def record_lines(results: RunRecords) -> Iterator[LegendLine]:
    """How many records are there."""
    failed = len({(missing.row, missing.seed) for missing in results.missing if missing.failure is not None})
    text = f"{results.run.name} ({results.expected - len(results.missing):,} of {results.expected:,}"
    text += (f"; cells failed: {failed}" if failed else "") + ")"
    if results.unchecked:
        have = "files have" if results.unchecked > 1 else "file has"
        text += f"; {results.unchecked:,} {have} no digest: not checked for damage"
    yield LegendLine("records", text)


def _duration(seconds: float) -> str:
    if math.isnan(seconds) or seconds < 0:
        return "time unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
