"""Weights from elsewhere as a row: nothing is trained, they are judged as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import nn

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.backbones.weights import build, open_weights
from ssl_bench.errors import WeightsError
from ssl_bench.spec.model import MOST_SIDE
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.tasks.base import PretextTask, TaskOptions


class ElsewhereWeights(PretextTask):
    """A network that was pretrained elsewhere, with its own input handling; batch statistics are re-estimated as for
    every row."""

    name = "weights"
    role = TaskRole.PRETRAINED

    class Options(TaskOptions):
        """Options of ``weights``."""

        #: timm:NAME or file:PATH (safetensors); where weights lie is no part of a cell's id, what they hold is
        source: str = Field(exclude=True)
        #: side that images are resized to, in pixels; None: what the weights' configuration states
        size: int | None = Field(default=None, ge=8, le=MOST_SIDE)
        digest: str = ""  #: of the tensors and of how they are used; found by itself

    @classmethod
    def weights_needed(cls, options: Options) -> Sequence[str]:
        return (options.source,)

    @classmethod
    def resolve(cls, options: Options, make: Callable[..., nn.Module]) -> Options:
        """Open the weights and try them in their network."""
        weights = open_weights(options.source)
        build(weights, make, options.size)
        return options.model_copy(update={"digest": weights.whole_digest})

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Options) -> nn.Module:
        weights = open_weights(options.source)
        if options.digest and weights.whole_digest != options.digest:
            raise WeightsError(
                f"{options.source} has changed since this run began; run it again, and the row is judged anew"
            )
        return build(weights, make, options.size)

    @classmethod
    def saw_labels(cls, options: Options) -> bool:
        """Only what a run of ours gave counts: others' labels, such as ImageNet's, are told in the legend."""
        return open_weights(options.source).run_labels

    def describe(self) -> Mapping[str, Any]:
        """Where they come from, and what they were trained on as far as that is known."""
        weights = open_weights(self.options.source)
        resnet = self.backbone if isinstance(self.backbone, Backbone) else None
        known = {
            "weights": weights.source,
            "trained_on": weights.trained_on or "not known",
            "network": self.backbone.name if resnet is None else resnet.spec.name,
            "input_px": (resnet is not None and resnet.input.size) or "as given",
        }
        return known | ({"run_labels": True} if weights.run_labels else {})
