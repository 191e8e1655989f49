"""Everything before training: plugins, matrix, data, checks. Every mistake that needs no training to be found is found
here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssl_bench.data import load, places_of
from ssl_bench.data.loading import check
from ssl_bench.errors import DamagedRecord, RecordError, SpecError, did_you_mean, quoted
from ssl_bench.plan.choices import choose
from ssl_bench.plan.effort import effort_of, resolved
from ssl_bench.plan.evaluations import evaluators_of, judged_elsewhere, on_data
from ssl_bench.plan.rows import budget_images, rows_of, why_absent
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plugins.loading import load_plugins
from ssl_bench.records.schema import (
    Run,
    read_record,
)
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import missing_file
from ssl_bench.spec.shipped import as_matrix
from ssl_bench.system.digests import notice
from ssl_bench.system.disk import refuse_unwritable
from ssl_bench.training.device import choose_device


def prepare(
    matrix: Matrix | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    sets: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    val: bool = False,
    limit: int | None = None,
    device: str | None = None,
    data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (),
    smoke: bool = False,
    judged: bool = True,
    pack: bool = True,
    recompute: bool = False,
    skip_checks: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunPlan:
    """Everything before training: plugins, matrix, data, checks. Every mistake that can be found without training is
    found here.

    ``judged``: whether there must be labelled images to judge on. ``pack``: False lets noise stand in for images that
    are not packed yet, to check and to plan from their counts, labels and sizes; nothing of them is then known to be
    done. Nor are weights downloaded for it: rows of those that are not here are left out, and told as ``unseen``.
    ``recompute``: train cells again whose record is damaged, or whose weights are damaged or gone while evaluations are
    missing; without it such cells fail, and nothing is replaced. ``skip_checks``: train tasks of plugins without the
    quick part of their battery; their records and the table tell.
    """
    load_plugins(plugins)
    spec = as_matrix(matrix, sets)
    if limit is not None:
        both = parse(DataSpec, {"source": "any", "limit": limit}, "--limit").limit
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"limit": both})})
    only = (only,) if isinstance(only, str) else tuple(only)
    _check_only(spec, only)
    if judged and not spec.data.evaluate:
        raise SpecError(
            f"matrix {spec.name!r}: data.evaluate is empty, and rows are compared on labelled images; name a "
            "labelled source"
        )
    chosen_device = choose_device(device)
    folder = Path(out) if out is not None else Path("runs") / spec.name
    created = _refuse_newer(folder)
    if pack and not smoke:
        refuse_unwritable(folder)
    unpacked: dict[str, int] | None = None if pack else {}
    places = places_of(data_root, progress=progress, unpacked=unpacked)
    check(spec.data, places)
    # before the data: a folder of boxes that is missing shows before much is packed
    evaluators = evaluators_of(spec.evaluate, spec.seeds, places, smoke)
    data = load(
        spec.data, data_root=places.root, progress=progress, judged=judged_elsewhere(evaluators), unpacked=unpacked
    )
    unseen: dict[str, str] = {}
    rows = rows_of(spec, data, None if pack else unseen)
    absent = why_absent(spec, data)
    data.notes.extend(absent)
    here = {name for row in rows for name in (row.name, row.spec.task)}
    if gone := [name for name in only if name not in here and not unseen]:
        raise SpecError(f"--only {quoted(gone[0])}: {'; '.join(absent)}")
    if spec.pretrain.passes is not None:
        from ssl_bench.plan.equal_passes import at_equal_passes

        rows = at_equal_passes(rows, spec, data, spec.pretrain.passes)
    if not rows and not unseen:
        raise SpecError(f"matrix {spec.name!r} has no rows: give it `tasks` or `baselines`")
    evaluators = on_data(evaluators, data.evaluate)
    images = budget_images(spec, len(data.pretrain))
    evaluators = resolved(evaluators, lambda: effort_of(spec.backbone, data.size, images, spec.stage_values))
    data.notes.extend(
        dict.fromkeys(
            note
            for selected in evaluators
            if selected.brings_sets
            for judged in selected.sets
            for note in getattr(judged, "notes", ())
        )
    )
    run_plan = RunPlan(
        spec,
        folder,
        data,
        rows,
        evaluators,
        chosen_device,
        final=not val,
        only=only,
        recompute=recompute,
        skip_checks=skip_checks,
        data_root=places.root,
        unpacked=unpacked or {},
        unseen=unseen,
        created=created,
    )
    if not smoke:
        for row in rows:
            if len(row.candidates) > 1:
                choose(run_plan, row, give_up=False)
    return run_plan


def _check_only(spec: Matrix, only: tuple[str, ...]) -> None:
    known = {name for row in (*spec.tasks, *spec.baselines, *spec.weights) for name in (row.row, row.task)}
    for name in only:
        if name not in known:
            raise SpecError(f"--only {quoted(name)}: no such row in matrix {spec.name!r}; {did_you_mean(name, known)}")


def _refuse_newer(folder: Path) -> str:
    """When the run in a folder was begun, "" where there is none; raises RecordError for a folder that cannot be
    used."""
    why = missing_file(folder)
    if why.startswith("cannot be read"):
        raise RecordError(f"--out {quoted(str(folder))} {why}; give another folder")
    if (folder / "run.json").is_file():
        try:
            return read_record(folder / "run.json", Run).created
        except DamagedRecord as error:
            notice(f"{error}; it is written anew")
    elif not why or folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file; --out needs a folder")
    return ""
