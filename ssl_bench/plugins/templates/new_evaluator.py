"""NewEvaluator: the class whose mean features are nearest, among frozen features.

A working example to change. Check it, then ask for it:

    ssl-bench check-evaluator new_evaluator --plugin new_evaluator.py
    ssl-bench run quick --plugin new_evaluator.py --set "evaluate=[new_evaluator, knn]" --out runs/new_evaluator
"""

from __future__ import annotations

from typing import Any

import torch
from ssl_bench import Evaluation, Evaluator, EvaluatorOptions, Measurement, Metric, Subject, TableColumn
from torch import Tensor, nn
from torch.nn import functional as F


class NewEvaluator(Evaluator):
    """Accuracy of the nearest class mean, by cosine similarity of the pooled features."""

    name = "new_evaluator"  # as a matrix writes it
    protocol = "new_evaluator-cosine"  # printed under the table; raise `version` when a change moves numbers
    title = "class means"  # above its columns
    metrics = (
        # The share of n images that were right: shown in per cent, with a binomial interval where there is one seed.
        Metric(name="top1", share_of_images=True),
        # Any other number says its unit, its bounds, and whether higher is better.
        Metric(name="margin", low=-2, high=2, digits=3),
    )
    columns = (TableColumn(metric="top1", title="nearest"), TableColumn(metric="margin", wide=True))

    class Options(EvaluatorOptions):
        """Every option gets a type, a default, and a comment after `#:`. Matrices set them, and records keep them."""

        centred: bool = True  #: subtract the mean of the training features first

    @classmethod
    def supports(cls, options: Any, network: nn.Module) -> str:
        """Why a network cannot be judged, or "" where it can; its row shows "-"."""
        return ""

    def evaluate(self, subject: Subject) -> Evaluation:
        """Measure on validation always, and on test where it is given. Features must not be changed in place."""
        train = subject.features.get("train", "pooled")  # float32 [N, D]
        labels = torch.from_numpy(subject.labels("train")).to(train.device)
        middle = train.mean(0) if self.options.centred else torch.zeros_like(train[0])
        means = torch.stack([train[labels == label].mean(0) for label in range(subject.num_classes)])
        measurements, predictions = [], {}
        for split in ("validation", "test") if subject.test is not None else ("validation",):
            truth = torch.from_numpy(subject.labels(split)).to(train.device)
            scores = similarities(subject.features.get(split, "pooled") - middle, means - middle)
            answers = scores.argmax(1)
            best = scores.topk(2, 1).values
            values = {
                "top1": float((answers == truth).float().mean()),
                "margin": float((best[:, 0] - best[:, 1]).mean()),
            }
            measurements += [Measurement(name, split, value, len(truth), "pooled") for name, value in values.items()]
            if split == "test":
                predictions["pooled"] = answers.cpu().numpy()  # of top1 at this stage: rows are compared image by image
        return Evaluation(measurements, predictions)


def similarities(features: Tensor, means: Tensor) -> Tensor:
    """Cosine similarity of features [N, D] with class means [K, D], as [N, K]."""
    return F.normalize(features, dim=1) @ F.normalize(means, dim=1).T
