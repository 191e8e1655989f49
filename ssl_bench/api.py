"""The suite from Python: ``run`` a matrix, ``pretrain`` one backbone, ``evaluate`` one backbone."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_bench.backbones.network import Network
from ssl_bench.backbones.saving import load_backbone
from ssl_bench.errors import DamagedRecord, DamagedWeights, SpecError, WeightsError
from ssl_bench.runner.cell_lock import holding_cell
from ssl_bench.runner.scheduler import run

if TYPE_CHECKING:
    import pandas as pd

    from ssl_bench.plan.cells import Cell
    from ssl_bench.plan.run_plan import RunPlan
    from ssl_bench.records.schema import Pretraining

__all__ = ["Pretrained", "evaluate", "pretrain", "run"]


@dataclass(frozen=True)
class Pretrained:
    """A pretrained backbone with the record of how it came to be."""

    backbone: Network
    record: Pretraining


def pretrain(
    task: str,
    data: Any = "shapes",
    *,
    epochs: float | None = None,
    images: int | None = None,
    passes: int | None = None,
    schedule_epochs: float | None = None,
    backbone: Any = "resnet18",
    seed: int = 0,
    options: dict[str, Any] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (),
    recompute: bool = False,
    skip_checks: bool = False,
) -> Pretrained:
    """Pretrain one backbone on one task.

    Parameters
    ----------
    task : a task's name.
    data : a source's name or anything a matrix's ``data`` may be. Images without labels: ``{"pretrain":
        "folder:PHOTOS", "evaluate": []}``, or with labelled ones beside them, on which the progress is watched:
        ``{"pretrain": "folder:PHOTOS", "evaluate": "cifar10"}``.
    epochs, images, passes : the budget, exactly one of them; ``passes`` are whole images through the network.
    schedule_epochs : of the run whose schedules are followed and cut where the budget ends; None: they end with it.
    backbone : a timm ResNet's name or anything a matrix's ``backbone`` may be.
    options : task options and recipe settings.
    out : folder for record and weights; nothing is kept on disk without it.
    recompute : train again where ``out`` holds the record of this training and not its weights (they are damaged or
        gone, or the record is).
    data_root, plugins, skip_checks : as for ``run``.

    Examples
    --------
    >>> from ssl_bench import pretrain                                                    # doctest: +SKIP
    >>> backbone = pretrain("rotation", "shapes", epochs=4, backbone={"name": "resnet18", "width": 0.25}).backbone
    """
    from ssl_bench.plan.prepare import prepare

    matrix = {
        "name": "pretrain",
        "data": data,
        "backbone": backbone,
        "seeds": [seed],
        "pretrain": {"epochs": epochs, "images": images, "passes": passes, "schedule_epochs": schedule_epochs},
        "tasks": [{"task": task, "options": options or {}}],
        "baselines": [],
        "evaluate": ["knn"],
    }
    with tempfile.TemporaryDirectory() as scratch:
        run_plan = prepare(
            matrix,
            out or scratch,
            device=device,
            judged=False,
            data_root=data_root,
            plugins=plugins,
            skip_checks=skip_checks,
        )
        cells = run_plan.cells()
        if not cells:
            raise SpecError("pretrain trains one setting; a choice of options needs a matrix")
        with holding_cell(cells[0], blocking=True):  # another process may be training it: then it is done afterwards
            return _pretrained(run_plan, cells[0], recompute)


def _pretrained(run_plan: RunPlan, cell: Cell, recompute: bool) -> Pretrained:
    from ssl_bench.plan.context import RunContext
    from ssl_bench.plan.stored import has_weights, read_pretraining
    from ssl_bench.records.files import BACKBONE_FILE
    from ssl_bench.runner.pretraining import pretrain_cell

    file = cell.folder / BACKBONE_FILE
    record, backbone, lost = None, None, ""
    try:
        record = read_pretraining(cell)
        if record is not None:
            backbone = load_backbone(file) if file.is_file() else None
            lost = "" if backbone is not None or has_weights(cell) else f"{file} is gone"
    except (DamagedRecord, DamagedWeights) as error:
        lost = str(error)
    if lost and not recompute:
        raise WeightsError(f"{lost}; recompute=True trains it again")
    if lost or record is None or backbone is None:
        context = RunContext(
            data=run_plan.data,
            backbone=run_plan.matrix.backbone,
            device=run_plan.device,
            precision=run_plan.matrix.precision,
            skip_checks=run_plan.skip_checks,
        )
        with context.guarded():
            record, _ = pretrain_cell(cell, context)
        if not file.is_file():
            raise SpecError(
                f"task {cell.row.name!r} trains no network that could be returned: what evaluated() gives is no "
                "ssl_bench.Network"
            )
        backbone = load_backbone(file)
    return Pretrained(backbone, record)


def evaluate(
    backbone: Network | str | Path,
    data: Any = "shapes",
    evaluators: Sequence[Any] = ("linear", "knn"),
    *,
    seed: int = 0,
    test: bool = False,
    device: str | None = None,
    data_root: str | Path | None = None,
) -> pd.DataFrame:
    """Judge one network: a Backbone, a Network of a plugin, or the path of a safetensors file (``load_backbone`` takes
    its plugins).

    Test stays closed unless ``test`` is set. Returns one line per measurement: evaluator, data, stage, labels, draw,
    split, metric, value, n.

    Examples
    --------
    >>> from ssl_bench import evaluate                                                    # doctest: +SKIP
    >>> evaluate("runs/quick/cells/simclr/0-1a2b3c4d/backbone.safetensors", "shapes", ["linear"])
    """
    import pandas as pd

    from ssl_bench.data import load, places_of
    from ssl_bench.evaluators.base import Subject
    from ssl_bench.evaluators.features import FrozenFeatures
    from ssl_bench.plan.evaluations import evaluators_of, on_data
    from ssl_bench.spec.data import DataSpec
    from ssl_bench.spec.model import parse
    from ssl_bench.spec.rows import EvaluatorSpec
    from ssl_bench.system.global_state import restored
    from ssl_bench.training.device import choose_device
    from ssl_bench.training.seeding import seed_everything

    network = backbone if isinstance(backbone, Network) else load_backbone(backbone)
    chosen_device = choose_device(device)
    network = network.to(chosen_device).eval()
    spec = parse(DataSpec, data, "data")
    if spec.size is None:
        spec = spec.model_copy(update={"size": network.image_size})
    (seed,) = parse(EvaluatorSpec, {"evaluator": "any", "seeds": [seed]}, "evaluate").seeds or (0,)
    listed = [evaluators] if isinstance(evaluators, (str, Mapping)) else evaluators
    specs = [parse(EvaluatorSpec, written, "evaluator") for written in listed]
    chosen_evaluators = evaluators_of(specs, (seed,), places_of(data_root))
    loaded = load(spec, data_root=Path(data_root) if data_root else None)
    features: dict[tuple[str, ...], FrozenFeatures] = {}
    rows = []
    on_sets = on_data(chosen_evaluators, loaded.evaluate)
    for selected, judged in ((asked, judged) for asked in on_sets for judged in asked.sets):
        splits = {"train": judged.train, "validation": judged.validation} | ({"test": judged.test} if test else {})
        key = tuple(split.fingerprint for split in splits.values())
        subject = Subject(
            backbone=network,
            fresh_backbone=lambda: copy.deepcopy(network),
            features=features.setdefault(key, FrozenFeatures(network, lambda images: {}, splits, chosen_device)),
            train=judged.train,
            validation=judged.validation,
            test=judged.test if test else None,
            seed=seed,
            device=chosen_device,
            precision="auto",
        )
        if reason := selected.evaluator.supports(selected.options, network):
            raise SpecError(f"evaluator {selected.evaluator.name!r} cannot judge this network: {reason}")
        with restored():
            seed_everything(seed, 0xE7)
            if why := selected.evaluator.supports(selected.options, network):
                raise SpecError(f"evaluator {selected.evaluator.name!r} cannot judge this network: {why}")
            if missing := sorted(selected.evaluator.needs):
                raise SpecError(
                    f"evaluator {selected.evaluator.name!r} needs {missing[0]!r} of a task, and a network is all "
                    "there is; judge it in a run"
                )
            evaluation = selected.evaluator(selected.options).evaluate(subject)
        rows += [
            {"evaluator": selected.evaluator.name, "data": judged.name, **vars(m)} for m in evaluation.measurements
        ]
    return pd.DataFrame(rows)
