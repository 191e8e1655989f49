"""ssl_bench: compare pretext tasks by what one common backbone learns from them.

The public names are imported when they are first used, so that ``ssl-bench --help`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Backbone": "ssl_bench.backbones.resnet", "Network": "ssl_bench.backbones.network",
    "load_backbone": "ssl_bench.backbones.saving", "save_backbone": "ssl_bench.backbones.saving",
    "input_kind": "ssl_bench.backbones.inputs",
    "Augmentation": "ssl_bench.transforms.policy", "Batch": "ssl_bench.data.batches",
    "EvaluatorOptions": "ssl_bench.evaluators.base", "Evaluation": "ssl_bench.evaluators.base",
    "Evaluator": "ssl_bench.evaluators.base",
    "Measurement": "ssl_bench.evaluators.base", "Subject": "ssl_bench.evaluators.base",
    "Metric": "ssl_bench.records.declarations", "Note": "ssl_bench.records.declarations",
    "TableColumn": "ssl_bench.records.declarations",
    "SSLBenchError": "ssl_bench.errors",
    "BackboneSpec": "ssl_bench.spec.matrix", "Matrix": "ssl_bench.spec.matrix", "Recipe": "ssl_bench.spec.recipe",
    "Health": "ssl_bench.tasks.base", "PretextTask": "ssl_bench.tasks.base", "Setup": "ssl_bench.tasks.base",
    "TaskOptions": "ssl_bench.tasks.base",
    "RawBoxes": "ssl_bench.data.boxes.raw", "BoxedImage": "ssl_bench.data.boxes.ragged",
    "RawSet": "ssl_bench.data.readers", "RawSplit": "ssl_bench.data.readers", "Source": "ssl_bench.data.sources.base",
    "Results": "ssl_bench.report", "load": "ssl_bench.report",
    "evaluate": "ssl_bench.api", "pretrain": "ssl_bench.api", "run": "ssl_bench.api",
}  # fmt: skip

if TYPE_CHECKING:
    from ssl_bench.api import evaluate, pretrain, run
    from ssl_bench.backbones.inputs import input_kind
    from ssl_bench.backbones.network import Network
    from ssl_bench.backbones.resnet import Backbone
    from ssl_bench.backbones.saving import load_backbone, save_backbone
    from ssl_bench.data.batches import Batch
    from ssl_bench.data.boxes.ragged import BoxedImage
    from ssl_bench.data.boxes.raw import RawBoxes
    from ssl_bench.data.readers import RawSet, RawSplit
    from ssl_bench.data.sources.base import Source
    from ssl_bench.errors import SSLBenchError
    from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
    from ssl_bench.records.declarations import Metric, Note, TableColumn
    from ssl_bench.report import Results, load
    from ssl_bench.spec.matrix import BackboneSpec, Matrix
    from ssl_bench.spec.recipe import Recipe
    from ssl_bench.tasks.base import Health, PretextTask, Setup, TaskOptions
    from ssl_bench.transforms.policy import Augmentation

__all__ = [
    "Augmentation", "Backbone", "BackboneSpec", "Batch", "BoxedImage", "Evaluation", "Evaluator", "EvaluatorOptions",
    "Health", "Matrix", "Measurement", "Metric", "Network", "Note", "PretextTask", "RawBoxes", "RawSet", "RawSplit",
    "Recipe", "Results", "SSLBenchError", "Setup", "Source", "Subject", "TableColumn", "TaskOptions", "__version__",
    "evaluate", "input_kind", "load", "load_backbone", "pretrain", "run", "save_backbone",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ssl_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
