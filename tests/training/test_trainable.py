"""What is trained need not be a pretext task: the loop asks for views, a loss and hooks, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batches
from ssl_bench.evaluators.detection.detector import Detector
from ssl_bench.evaluators.finetune.runs import _Classifier
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask
from ssl_bench.training.loop import fit
from ssl_bench.training.trainable import Trainable
from toys import TINY, noise_set


class Plain(Trainable):
    """A loss on a network, without options, setup or recipes."""

    name = "plain"

    def views(self, batch: Any) -> Tensor:
        return batch.images  # type: ignore[no-any-return]

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.backbone(views).mean(1), views.mean((1, 2, 3)))}


def test_a_module_with_views_and_a_loss_is_trained() -> None:
    task = Plain(Backbone(TINY, 32))
    before = task.backbone.network.conv1.weight.clone()
    result = fit(task, Batches(noise_set(), 16, 0), Recipe(batch_size=16), 3, seed=0, cost=False)
    assert result.steps == 3 and task.progress == pytest.approx(2 / 3) and not task.training
    assert not torch.equal(before, task.backbone.network.conv1.weight) and task.evaluated() is task.backbone


@pytest.mark.parametrize("kind", [Detector, _Classifier])
def test_what_evaluators_train_is_no_pretext_task(kind: type[nn.Module]) -> None:
    assert issubclass(kind, Trainable) and not issubclass(kind, PretextTask)
