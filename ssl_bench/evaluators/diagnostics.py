"""Label-free facts about a representation: effective rank, dead dimensions, and what the task says of itself."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.data.batches import ImageStore
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.representation import dead_dimensions, rankme
from ssl_bench.evaluators.scores import go_on
from ssl_bench.records.protocols import VERSIONS
from ssl_bench.spec.model import MOST_IN_SET

COLLAPSED = 5.0  # RankMe below which a representation is called collapsed
PICTURE_BYTES = 256 << 20  # images handed to the task at once


class Diagnostics(Evaluator):
    """RankMe (Garrido et al., 2023), share of dead dimensions and spread of the pooled validation features.

    The rank depends on how many images are looked at, so their number is fixed and stands with every value. It compares
    runs of one method: a high rank is needed for good features and does not make them. "spread" is the mean deviation
    of the L2-normalised features times sqrt(D): about 1 for evenly used directions, 0 when all images look alike. Test
    is never opened.
    """

    name: ClassVar[str] = "diagnostics"
    accuracy: ClassVar[bool] = False
    protocol: ClassVar[str] = "diagnostics"
    version: ClassVar[int] = VERSIONS["diagnostics"]

    class Options(EvaluatorOptions):
        """Options of the diagnostics."""

        #: validation images looked at (all, where there are fewer); the same for every row
        n: int = Field(default=2_048, ge=2, le=MOST_IN_SET)

    def evaluate(self, subject: Subject) -> Evaluation:
        go_on(subject, "diagnostics")
        subject.progress("diagnostics")
        features = subject.features.get("validation", "pooled")
        chosen = _spread_out(len(features), self.options.n)
        z = features.index_select(0, chosen.to(features.device)).double()
        values: dict[str, float] = {"rankme": rankme(z), "dead_dimensions": dead_dimensions(z)}
        values["spread"] = float(F.normalize(z, dim=1).std(0, correction=0).mean()) * z.shape[1] ** 0.5
        measurements = [
            Measurement(name, "validation", value, len(z), stage="pooled") for name, value in values.items()
        ]
        pictures = chosen[_spread_out(len(chosen), max(2, PICTURE_BYTES // (12 * subject.validation.size**2)))]
        images = ImageStore(subject.validation, subject.device, memory=0).gather(pictures)
        facts = {name: float(value) for name, value in subject.diagnose(images).items() if name not in values}
        measurements += [Measurement(name, "validation", value, len(pictures)) for name, value in facts.items()]
        details: dict[str, Any] = {
            "images": len(z),
            "dimensions": z.shape[1],
            "collapsed": values["rankme"] < COLLAPSED,
        }
        return Evaluation(measurements, {}, details)


def _spread_out(length: int, count: int) -> Tensor:
    """At most ``count`` positions evenly spread over 0..length-1: sorted sets give every class its share, and no random
    draw is needed."""
    return (
        torch.arange(length)
        if length <= count
        else torch.linspace(0, length - 1, count, dtype=torch.float64).round().long()
    )
