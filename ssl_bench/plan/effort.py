"""What a matrix spends on a bare backbone, counted from shapes alone: the same on every machine, so that what is
decided by it is, too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench.backbones.resnet import Backbone, pool_stage
from ssl_bench.evaluators.base import Effort
from ssl_bench.evaluators.features import STAGE_LIMIT_CPU
from ssl_bench.plan.evaluations import EvaluatorOnSets
from ssl_bench.spec.matrix import BackboneSpec


@functools.lru_cache(maxsize=8)
def effort_of(spec: BackboneSpec, image_size: int, images: int, stage_values: int | None = None) -> Effort:
    """Of ``images`` images trained on, and of features with at most ``stage_values`` values a stage (None: as many as a
    CPU gets)."""
    with torch.device("meta"), torch.no_grad():
        backbone = Backbone(spec, image_size).eval()
        image = torch.empty(1, 3, image_size, image_size)
        with FlopCounterMode(display=False) as counter:
            backbone(image)
        maps = backbone.stages(image)
        widths = tuple(pool_stage(x, stage_values or STAGE_LIMIT_CPU).shape[1] for x in maps.values())
    return Effort(3.0 * counter.get_total_flops() * images, (*widths, backbone.num_features))


def resolved(evaluators: Sequence[EvaluatorOnSets], effort: Callable[[], Effort]) -> list[EvaluatorOnSets]:
    """The evaluators set by set, with the options that each has on it: what they left open is decided."""
    settled = []
    for selected in evaluators:
        for judged in selected.sets:
            settled.append(
                replace(
                    selected, sets=(judged,), options=selected.evaluator.resolve(selected.options, judged, effort())
                )
            )
    return settled
