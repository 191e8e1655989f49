"""A task that trains nothing does not stand in the table as pretrained: its cell fails and says why."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batches
from ssl_bench.errors import Interrupted, TrainingError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.tasks.base import Setup, TaskOptions
from ssl_bench.training.loop import fit
from ssl_bench.training.movement import Movement, constant_features
from ssl_bench.training.seeding import seed_everything
from toys import TINY, Brightness, noise_set

RECIPE = Recipe(batch_size=16, learning_rate=1e-3)
STEPS = 3


class Detached(Brightness):
    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.head(self.backbone(views[0]).detach())[:, 0], views[1])}


class UntrainedCopy(Brightness):
    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.kept = copy.deepcopy(self.backbone)

    def evaluated(self) -> nn.Module:
        return self.kept


class HeadOnly(Brightness):
    def phase_parameters(self, phase: str) -> Any:
        return list(self.head.named_parameters())


class Frozen(Brightness):
    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.backbone.requires_grad_(False)


class InAList(Brightness):
    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.hidden = [self.backbone]
        del self.backbone

    def __getattr__(self, name: str) -> Any:
        return self.hidden[0] if name == "backbone" and "hidden" in vars(self) else super().__getattr__(name)


class PutBack(Brightness):
    def before_training(self) -> None:
        self.first = copy.deepcopy(self.backbone.state_dict())

    def after_step(self) -> None:
        self.backbone.load_state_dict(self.first)


class NoSlope(Brightness):
    """AdamW's weight decay shrinks the weights, and nothing else happens to them:
    BatchNorm takes the factor out again."""

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.head(self.backbone(views[0]) * 0)[:, 0], views[1])}


class EveryTimeAnother(Brightness):
    def evaluated(self) -> nn.Module:
        return Backbone(TINY, 32)


class TurnsWhenAsked(Brightness):
    def evaluated(self) -> nn.Module:
        with torch.no_grad():
            self.backbone.network.conv1.weight.neg_()
        return self.backbone


class UnseededList(InAList):
    """Drawn anew by every process that builds it, and held by no checkpoint."""

    def __init__(self, backbone: Any, *words: Any) -> None:
        torch.seed()
        super().__init__(Backbone(TINY, 32), *words)


def make(task: type[Brightness], seed: int = 0) -> Any:
    seed_everything(seed)
    return task(Backbone(TINY, 32), TaskOptions(), Setup(32, STEPS, 16, 64, None, lambda n: torch.rand(n, 3, 32, 32)))


def train(task: type[Brightness], recipe: Recipe = RECIPE, checkpoint: Path | None = None) -> str:
    """A whole run; with a checkpoint, one that is stopped after its first step and continued in a new object."""
    for stopping in (True, False) if checkpoint is not None else (False,):
        built, movement = make(task), Movement()
        try:
            fit(
                built,
                Batches(noise_set(), 16, 0),
                recipe,
                STEPS,
                seed=0,
                precision="fp32",
                cost=False,
                movement=movement,
                checkpoint=checkpoint,
                stop=lambda stopping=stopping: stopping,
            )
        except Interrupted:
            assert checkpoint is not None and checkpoint.is_file()
    return movement.check(built, recipe.learning_rate, built.role is TaskRole.CONTROL)


FAULTS = [
    (Detached, "The optimiser holds them: look for .detach"),
    (UntrainedCopy, "none of the .* parameters .* moved in training, so this row would be an untrained network"),
    (HeadOnly, "No optimiser holds them: .* listed by phase_parameters"),
    (Frozen, "No optimiser holds them: .* with requires_grad"),
    (InAList, "not in a list or a copy"),
    (PutBack, "weights that after_step puts back"),
    (NoSlope, "training only shrank the judged network .* by weight decay"),
    (TurnsWhenAsked, "gives another network at every call"),
    (EveryTimeAnother, "gives another network at every call"),
]


@pytest.mark.parametrize(("task", "reason"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_network_that_training_left_alone_is_refused(task: type[Brightness], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        train(task)


@pytest.mark.parametrize("task", [Detached, UntrainedCopy, InAList, UnseededList], ids=lambda task: task.__name__)
def test_a_run_that_goes_on_knows_its_start_too(task: type[Brightness], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="moved in training"):
        train(task, checkpoint=tmp_path / "checkpoint.safetensors")


def test_what_trains_passes_whole_or_stopped(tmp_path: Path) -> None:
    whole = len(list(make(Brightness).evaluated().parameters()))
    assert (
        train(Brightness) == train(Brightness, checkpoint=tmp_path / "checkpoint.safetensors") == f"{whole} of {whole}"
    )


class Teacher(Brightness):
    """Judges a slow average of the network, kept in buffers, so that it has no parameter at all."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.teacher = copy.deepcopy(self.backbone)
        for module in self.teacher.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach().clone())

    def after_step(self) -> None:
        mine = dict(self.backbone.named_parameters())
        for name, buffer in self.teacher.named_buffers():
            if name in mine:
                buffer.lerp_(mine[name].detach(), 0.01)

    def evaluated(self) -> nn.Module:
        return self.teacher


class StillTeacher(Teacher):
    """Its BatchNorm statistics move, and its weights do not."""

    def after_step(self) -> None:
        with torch.no_grad():
            self.teacher.train()(torch.rand(4, 3, 32, 32))


def test_a_teacher_in_buffers_is_looked_at_too() -> None:
    moved, _, whole = train(Teacher).partition(" of ")
    # mean and std of the pixels
    assert int(moved) > 10 and int(whole) == 2 + len(list(make(Brightness).evaluated().parameters()))
    with pytest.raises(TrainingError, match="moved in training"):
        train(StillTeacher)


@pytest.mark.parametrize("rate", [1e-30, 1e-12])
def test_a_learning_rate_that_moves_nothing_is_named(rate: float) -> None:
    with pytest.raises(
        TrainingError, match=f"less than float32 resolves .learning_rate {rate:g}.*larger learning_rate"
    ):
        train(Brightness, RECIPE.model_copy(update={"learning_rate": rate}))


@pytest.mark.parametrize(
    "recipe",
    [{"learning_rate": 1e-6}, {"optimizer": "sgd", "learning_rate": 1e-4}, {"optimizer": "lars", "learning_rate": 0.1}],
)
def test_a_small_learning_rate_that_moves_something_is_fine(recipe: dict[str, Any]) -> None:
    assert int(train(Brightness, Recipe(batch_size=16, **recipe)).partition(" ")[0]) > 0


class Diverged(Brightness):
    def after_step(self) -> None:
        with torch.no_grad():
            self.backbone.network.conv1.weight[0, 0] = torch.nan

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.nan_to_num_()
        return super().forward(views)


def test_weights_that_are_not_finite_are_named() -> None:
    with pytest.raises(
        TrainingError, match=r"1 of \d+ parameters of the judged network are not finite .first: network.conv1.weight"
    ):
        train(Diverged)


def test_a_control_declares_that_its_network_stays_and_is_held_to_it() -> None:
    class Control(Detached):
        role = "control"

    class Broken(Brightness):
        role = "control"

    assert train(Control).startswith("0 of ")
    with pytest.raises(TrainingError, match='declares role = "control", and training moved'):
        train(Broken)


def test_a_collapsed_network_is_told_and_one_without_numbers_refused() -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32))
    network = Backbone(TINY, 32).eval()
    assert constant_features(network, images, "task") == ""
    with torch.no_grad():
        for parameter in network.network.layer4.parameters():
            parameter.zero_()
    assert constant_features(network, images, "task") == "s4, pooled"
    with torch.no_grad():
        network.network.layer3[0].bn1.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="the features of s3 are not finite on 4 images"):
        constant_features(network, images, "task")
