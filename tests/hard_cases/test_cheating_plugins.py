"""Small plugins that cheat or err: each is caught by one check, told once; honest ones of unusual shape pass."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.sources.shapes import render
from ssl_bench.errors import TrainingError
from ssl_bench.evaluators.knn import KNN
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import TASKS
from ssl_bench.runner import prechecks, pretraining
from ssl_bench.tasks.base import PretextTask, TaskOptions
from ssl_bench.testing import CheckResult, in_order, task_checks
from ssl_bench.testing.battery import going_on

SIZE = 16
SLOW = ("processes", "devices", "loss_falls", "views_cost")


class Honest(PretextTask):
    """Predict which half of an image was darkened."""

    name = "honest"

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 2)

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (len(images),), device=images.device)

    def views(self, batch: Any) -> Any:
        target = self.draw(batch.images)
        right = torch.arange(batch.images.shape[3]) * 2 // batch.images.shape[3]
        return torch.where((right == target[:, None])[:, None, None], batch.images * 0.5, batch.images), target

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.head(self.backbone(views[0])), views[1])}


class Contrastive(Honest):
    """Tell two views of an image from all others."""

    def views(self, batch: Any) -> Any:
        return self.noisy(batch.images), self.noisy(batch.images)

    def noisy(self, images: Tensor) -> Tensor:
        return (images + 0.1 * torch.randn_like(images)).clamp(0, 1)

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        first, second = (F.normalize(self.head(self.backbone(view)), dim=1) for view in views)
        return {"loss": F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))}


# What errs or cheats, with the one check that finds it and some words of what it says.


class Counts(Honest):
    """Counts its steps in Python, and learns by them."""

    steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"] * (1 + self.steps % 2)}


class LateCounter(Counts):
    """Its counter matters from the third step on."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": Honest.forward(self, views)["loss"] * (1.0 if self.steps < 3 else 2.0)}


class ListQueue(Honest):
    """Keeps a queue of features in a list."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.queue: list[Tensor] = []

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        features = self.backbone(views[0])
        pull = (
            (features - self.queue[-1].mean(0)).square().mean() if self.queue and self.training else features.sum() * 0
        )
        if self.training and torch.is_grad_enabled():
            self.queue.append(features.detach())
        return {"loss": super().forward(views)["loss"] + pull}


class OwnGenerator(Honest):
    """Draws from a generator of its own, seeded once."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.generator = np.random.RandomState(0)

    def draw(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.generator.randint(0, 2, len(images)))


class Clock(Honest):
    """Draws from a clock."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (len(images),), generator=torch.Generator().manual_seed(time.perf_counter_ns()))


class LazyHead(Honest):
    """Makes a head when it first needs one."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        if not hasattr(self, "more"):
            self.more = nn.Linear(self.backbone.num_features, 2)
        return {
            "loss": F.cross_entropy(self.more(self.backbone(views[0])) + self.head(self.backbone(views[0])), views[1])
        }


class LazyLayer(Honest):
    """Leaves the size of a layer open."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.head = nn.LazyLinear(2)


class Detached(Honest):
    """Trains the head alone."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.head(self.backbone(views[0]).detach()), views[1])}


class UntrainedCopy(Honest):
    """Offers what it was built with."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.kept = copy.deepcopy(self.backbone).requires_grad_(False)

    def evaluated(self) -> nn.Module:
        return self.kept


class PutBack(Honest):
    """Undoes every step."""

    def before_training(self) -> None:
        self.first = copy.deepcopy(self.backbone.state_dict())

    def after_step(self) -> None:
        self.backbone.load_state_dict(self.first)


class Wider(Honest):
    """Adds a layer to the network that is judged."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.backbone.network.layer4.add_module("more", nn.Conv2d(64, 64, 3, padding=1))


class Projected(Honest):
    """Offers its network with a trained head on it."""

    def evaluated(self) -> nn.Module:
        judged = nn.Sequential(self.backbone, self.head)
        judged.num_features = 2
        return judged


class ConstantTarget(Honest):
    """Gives every image one label."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), dtype=torch.int64)


class LabelOfTheBatch(Honest):
    """Gives all images of a batch the label of its first."""

    def draw(self, images: Tensor) -> Tensor:
        return (images[:1].mean((1, 2, 3)) * 1000).long().expand(len(images)) % 2


class OneDraw(Honest):
    """Draws once for the whole batch."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (1,)).expand(len(images)).clone()


class EqualViews(Contrastive):
    """Forgets to draw the second view."""

    def views(self, batch: Any) -> Any:
        view = self.noisy(batch.images)
        return view, view.clone()


class SeededViews(Contrastive):
    """Seeds the random functions itself."""

    def noisy(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().noisy(images)


class LeftInEval(Honest):
    """Takes features in eval mode, and stays there."""

    def after_step(self) -> None:
        self.backbone.eval()


class EvalWhenAsked(Honest):
    """Hands out its network in eval mode."""

    def evaluated(self) -> nn.Module:
        return self.backbone.eval()


class InPlaceLabels(Honest):
    """Mirrors its images in place."""

    def views(self, batch: Any) -> Any:
        found = super().views(batch)
        batch.images.copy_(batch.images.flip(3))
        return found


class InPlaceWhenJudged(Honest):
    """Changes images while it diagnoses."""

    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        return {"brightness": float(images.sub_(images.mean()).mean())}


class DefaultDtype(Honest):
    """Computes its loss in double precision, for everybody."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        torch.set_default_dtype(torch.float64)
        return {"loss": super().forward(views)["loss"] * torch.ones(()).float()}


class Threads(Honest):
    """Takes more threads than it is given."""

    def after_step(self) -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)


class NoGradient(Honest):
    """Switches gradients off, and never on."""

    def after_step(self) -> None:
        torch.set_grad_enabled(False)


class LabelsByIndex(Honest):
    """Looks the class of every image up."""

    def draw(self, images: Tensor) -> Tensor:
        return self.looked_up % 2

    def views(self, batch: Any) -> Any:
        self.looked_up = torch.from_numpy(render("train", 32, 512).labels)[batch.index]
        return super().views(batch)


class MixesTheBatch(Honest):
    """Normalises features over whatever stands in a batch, when it is judged too."""

    def evaluated(self) -> nn.Module:
        class Whitened(nn.Module):
            def __init__(self, network: Any) -> None:
                super().__init__()
                self.network, self.num_features = network, network.num_features

            def forward(self, images: Tensor) -> Tensor:
                features = self.network(images)
                return (features - features.mean(0)) / (features.std(0) + 1e-3)

        return Whitened(self.backbone)


class EveryTimeAnother(Honest):
    """Offers a network that is drawn anew at every call."""

    def evaluated(self) -> nn.Module:
        judged = copy.deepcopy(self.backbone)
        with torch.no_grad():
            judged.network.conv1.weight.normal_()
        return judged


class Replaces(Honest):
    """Puts a new parameter in the place of one that the optimiser holds."""

    def after_step(self) -> None:
        self.head.weight = nn.Parameter(self.head.weight.detach().clone())


class FailsAfterStep(Honest):
    """Divides by nothing between two steps."""

    def after_step(self) -> None:
        self.share = 1 / int(self.progress)


class SwapsHalfway(Honest):
    """Goes on with a copy of its network from the middle of a run."""

    def after_step(self) -> None:
        if self.progress > 0.5 and not hasattr(self, "swapped"):
            self.swapped, self.backbone = True, copy.deepcopy(self.backbone)


def elsewhere(network: nn.Module) -> nn.Module:
    """A network with weights that come from elsewhere, as from a file."""
    drawn = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=drawn))
    return network


class FromAFile(Honest):
    """Starts from weights of its own."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        elsewhere(self.backbone)


class FromAFileLate(Honest):
    """Ends with weights of its own."""

    def after_step(self) -> None:
        if self.progress > 0.5:
            elsewhere(self.backbone)


class DictState(Honest):
    """Keeps a dict in its state."""

    def get_extra_state(self) -> Any:
        return {"drawn": 3}

    def set_extra_state(self, state: Any) -> None:
        self.drawn = state["drawn"]


class PatchesTheSuite(Honest):
    """Leaves the statistics of BatchNorm as they are, for every row."""

    def after_step(self) -> None:
        pretraining.reestimate_batchnorm = lambda *words: None


class PatchesAnEvaluator(Honest):
    """Judges itself."""

    def after_step(self) -> None:
        KNN.evaluate = lambda self, subject: None  # type: ignore[method-assign]


CHEATS: dict[type[PretextTask], tuple[str, str]] = {
    Counts: ("interruption", "something is kept where no checkpoint reaches it"),
    LateCounter: ("interruption", "stopped after 3 of 6 steps .* ended elsewhere .*self.register_buffer"),
    ListQueue: ("same_seed|state|interruption", "."),
    OwnGenerator: ("state|interruption", "."),
    Clock: ("same_seed", "do not depend on time"),
    LazyHead: ("parameters", "parameter more.weight appears during training, .* make it in __init__"),
    LazyLayer: ("builds", "head.weight has no shape before the first forward"),
    Detached: ("gradients", "no gradient reaches backbone"),
    UntrainedCopy: ("trained", "none of the .* parameters of the judged network moved"),
    PutBack: ("trained", "weights that after_step puts back"),
    Wider: ("network", r"and the matrix's network has .*not among them: network.layer4.more.weight"),
    Projected: ("network", r"not among them: 0.network.conv1.weight"),
    ConstantTarget: ("draws", "every image of a batch gets the same target .0 in the first"),
    LabelOfTheBatch: ("draws", "every image of a batch gets the same target"),
    OneDraw: ("draws", "every image of a batch gets the same target|got the same draw"),
    EqualViews: ("draws", "two views of every image are the same, bit for bit"),
    SeededViews: ("draws", "see that nothing seeds the random functions"),
    LeftInEval: ("modes", "backbone is left in eval mode .* call .train"),
    EvalWhenAsked: ("modes", "left in eval mode"),
    InPlaceLabels: ("input_unchanged", "views changed batch.images in place"),
    InPlaceWhenJudged: ("input_unchanged", "diagnose changed the images it was given in place"),
    DefaultDtype: ("global_state", "changes torch's default dtype .torch.float32 to torch.float64."),
    Threads: ("global_state", "changes torch's number of threads"),
    NoGradient: ("global_state", "changes whether gradients are recorded"),
    LabelsByIndex: ("labels", "follows the class labels image by image"),
    MixesTheBatch: ("builds", "other features beside other images"),
    EveryTimeAnother: ("builds|trained", "."),
    Replaces: ("parameters", "is another object after a step, and the optimiser steps the old one"),
    SwapsHalfway: (
        "trained|interruption",
        "after step .* parameters that the optimiser steps are no longer the task's .first: backbone.* x.data.copy_",
    ),
    FromAFile: ("same_seed", "starts from the same weights with every seed"),
    FromAFileLate: ("trained", "after training, the judged network is the same with every seed"),
    DictState: ("state", "holds _extra_state, which is a dict, and tensors alone are saved"),
    PatchesTheSuite: (
        "global_state",
        "changes functions of ssl_bench .ssl_bench.runner.pretraining.reestimate_batchnorm. for the whole program",
    ),
    PatchesAnEvaluator: ("global_state", "changes functions of ssl_bench .ssl_bench.evaluators.knn.KNN.evaluate."),
    FailsAfterStep: ("parameters|modes|trained", "ZeroDivisionError"),
}  # fmt: skip


def battery(task: type[PretextTask]) -> list[CheckResult]:
    """All but what takes seconds: other processes, devices, longer training."""
    return in_order(check for check in task_checks(task, image_size=SIZE) if check.name not in SLOW)


@pytest.mark.parametrize("task", CHEATS, ids=lambda task: task.__name__)
def test_each_is_caught_by_one_check_and_told_once(task: type[PretextTask]) -> None:
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    failed = [result for result in battery(task) if result.status == "failed"]
    name, words = CHEATS[task]
    assert len(failed) == 1, failed
    assert failed[0].name in name.split("|"), failed
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failed[0].message)
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before


# Honest ones of unusual shape.


class Teacher(Contrastive):
    """A momentum teacher with a centre, a queue and a counter, all in the state_dict; the teacher is judged."""

    class Options(TaskOptions):
        """Named as a recipe's settings."""

        momentum: float = 0.9  #: of the teacher

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(self.backbone.num_features))
        self.register_buffer("queue", F.normalize(torch.rand(32, 2), dim=1))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        found = super().forward(views)
        with torch.no_grad():
            target = self.teacher(views[1]) - self.centre
            if self.training and torch.is_grad_enabled():
                self.centre.lerp_(target.mean(0), 0.1)
        pull = (self.backbone(views[0]) - target).square().mean() + (
            self.head(self.backbone(views[0])) @ self.queue.T
        ).mean()
        return {"loss": found["loss"] + pull * (self.steps_seen + 1)}

    def after_step(self) -> None:
        self.steps_seen += 1
        for mine, slow in zip(self.backbone.parameters(), self.teacher.parameters(), strict=True):
            slow.data.lerp_(mine.data, 1 - self.options.momentum)

    def evaluated(self) -> nn.Module:
        return self.teacher


class SelfDistilled(Honest):
    """Student and teacher see the same view, which is one tensor;
    the target is drawn by NumPy's and Python's global functions."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)

    def draw(self, images: Tensor) -> Tensor:
        return torch.from_numpy(np.random.randint(0, 2, len(images))) ^ torch.tensor(
            [random.randrange(2) for _ in images]
        )

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        pull = (self.backbone(views[0]) - self.teacher(views[0]).detach() - 1).square().mean()
        return {"loss": super().forward(views)["loss"] + pull}


class TwoPhases(Honest):
    """A critic and the network that it criticises, one after another."""

    phases = ("critic", "network")

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.critic = nn.Linear(self.backbone.num_features, 1)

    def forward(self, views: Any, phase: str = "network") -> dict[str, Tensor]:
        features = self.backbone(views[0])
        if phase == "critic":
            return {
                "loss": self.critic(features.detach()).square().mean() - self.critic(features.detach().flip(0)).mean()
            }
        return {"loss": super().forward(views)["loss"] + self.critic(features).mean()}

    def phase_parameters(self, phase: str) -> Any:
        return [
            (name, parameter)
            for name, parameter in self.named_parameters()
            if name.startswith("critic") == (phase == "critic")
        ]


class Reconstructs(Honest):
    """Its input is its target: the same tensor twice, of which one goes through the network."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.head = nn.Linear(self.backbone.num_features, 3)

    def views(self, batch: Any) -> Any:
        images = torch.where(torch.rand(len(batch.images), 1, 1, 1) < 0.5, batch.images, batch.images.flip(3))
        return images, images.clone()

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.head(self.backbone(views[0])), views[1].mean((2, 3)))}


class PositiveFirst(Contrastive):
    """Contrastive logits have the positive first, so every target is 0, and ``views`` makes them."""

    def views(self, batch: Any) -> Any:
        return *super().views(batch), torch.zeros(len(batch.images), dtype=torch.int64)

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        first, second = (F.normalize(self.head(self.backbone(view)), dim=1) for view in views[:2])
        others = (first @ second.T)[~torch.eye(len(first), dtype=torch.bool)].view(len(first), -1)
        return {"loss": F.cross_entropy(torch.cat([(first * second).sum(1, keepdim=True), others], 1) / 0.5, views[2])}


class WithLengths(Honest):
    """Beside its target it has a number that never varies."""

    def views(self, batch: Any) -> Any:
        return *super().views(batch), torch.full((len(batch.images),), 49)


class SameForTheTeacher(Contrastive):
    """A frozen teacher is shown the student's images, one tensor under two names."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)

    def views(self, batch: Any) -> Any:
        images = self.noisy(batch.images)
        return {"student": images, "teacher": images}

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        target = self.teacher(views["teacher"]).roll(1, 1)
        features = self.backbone(views["student"])
        return {"loss": F.mse_loss(features, target) + self.head(features).square().mean()}


class DropoutTwins(Contrastive):
    """The two views are one image, told apart by dropout."""

    def views(self, batch: Any) -> Any:
        return batch.images, batch.images

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        first, second = (F.normalize(self.head(F.dropout(self.backbone(view), 0.2)), dim=1) for view in views)
        return {"loss": F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))}


class HeadFirst(Honest):
    """The backbone waits until its new head has been trained for a tenth of the run."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        features = self.backbone(views[0])
        return {"loss": F.cross_entropy(self.head(features.detach() if self.progress < 0.1 else features), views[1])}


class LowRank(Honest):
    """A change of low rank is trained, and written into the last layer of a network that is frozen itself."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.backbone.requires_grad_(False)
        *_, self.adapted = (module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        weight = self.adapted.weight
        self.register_buffer("start", weight.detach().clone())
        self.down = nn.Parameter(torch.randn(len(weight), 2))
        self.up = nn.Parameter(torch.zeros(2, weight[0].numel()))

    def change(self) -> Tensor:
        return (self.down @ self.up).view_as(self.start)

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        hook = self.adapted.register_forward_hook(
            lambda layer, inputs, _: layer._conv_forward(inputs[0], self.start + self.change(), None)
        )
        try:
            return super().forward(views)
        finally:
            hook.remove()

    def after_step(self) -> None:
        self.adapted.weight.data.copy_(self.start + self.change().detach())


class Control(Detached):
    """Trains a head on a network that stays as it is, and says so."""

    role = "control"

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.backbone.requires_grad_(False)


class OneHeadOfMany(Honest):
    """Draws which head is asked, for each step."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.head = nn.ModuleList(nn.Linear(self.backbone.num_features, 2) for _ in range(4))

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.head[int(torch.randint(4, ()))](self.backbone(views[0])), views[1])}


class OwnDraws(Honest):
    """Its generator's state is in its state_dict."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.generator = np.random.default_rng(0)

    def get_extra_state(self) -> Any:
        return torch.frombuffer(
            bytearray(json.dumps(self.generator.bit_generator.state).ljust(400).encode()), dtype=torch.uint8
        )

    def set_extra_state(self, state: Any) -> None:
        self.generator.bit_generator.state = json.loads(bytes(state.numpy()))

    def draw(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.generator.integers(0, 2, len(images)))


HONEST = [
    Honest,
    Contrastive,
    Teacher,
    SelfDistilled,
    TwoPhases,
    Reconstructs,
    PositiveFirst,
    WithLengths,
    SameForTheTeacher,
    DropoutTwins,
    HeadFirst,
    LowRank,
    Control,
    OneHeadOfMany,
    OwnDraws,
]


#: of the honest ones, those that every run of the tests tries; the others take as long again and are left to the long
#: tests
ALWAYS = (Honest, Contrastive, Teacher, TwoPhases, Control, OwnDraws)


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, id=task.__name__, marks=() if task in ALWAYS else pytest.mark.long) for task in HONEST],
)
def test_the_honest_pass(task: type[PretextTask]) -> None:
    results = battery(task)
    assert {result.status for result in results} <= {"passed", "skipped"}, [
        result for result in results if result.status not in ("passed", "skipped")
    ]
    assert not [result for result in results if "needs what" in result.message]


class EarlyStage(Honest):
    """Asks the second stage alone."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.head = nn.LazyLinear(2)
        with torch.no_grad():
            self.head(self.early(self.setup.sample(2)))

    def early(self, images: Tensor) -> Tensor:
        return self.backbone.stages(images)["s2"].mean((2, 3))

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.head(self.early(views[0])), views[1])}


class Mixup(Contrastive):
    """Mixes images by one share a batch, as the paper does."""

    def views(self, batch: Any) -> Any:
        share = torch.rand(())
        return share * batch.images + (1 - share) * batch.images.flip(0), batch.images, share.expand(len(batch.images))

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        mixed, plain = (F.normalize(self.head(self.backbone(view)), dim=1) for view in views[:2])
        logits, own = mixed @ plain.T / 0.5, torch.arange(len(mixed))
        both = [F.cross_entropy(logits, target, reduction="none") for target in (own, own.flip(0))]
        return {"loss": torch.lerp(both[1], both[0], views[2]).mean()}


class OneMask(Honest):
    """Hides the same patches of all images of a batch."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.head = nn.Linear(self.backbone.num_features, 3)

    def views(self, batch: Any) -> Any:
        hidden = torch.rand(1, 1, 4, 4).repeat_interleave(SIZE // 4, 2).repeat_interleave(SIZE // 4, 3) < 0.5
        return batch.images, hidden.expand(len(batch.images), -1, -1, -1)

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        images, hidden = views
        return {"loss": F.mse_loss(self.head(self.backbone(images * ~hidden)), (images * hidden).mean((2, 3)))}


class OwnPictures(Honest):
    """Draws its pictures itself."""

    def views(self, batch: Any) -> Any:
        return super().views(dataclasses.replace(batch, images=torch.rand_like(batch.images)))


@pytest.mark.parametrize(
    ("task", "check", "note"),
    [
        (
            EarlyStage,
            "gradients",
            "no gradient reaches backbone.network.layer3.* the linear probe's best stage judges what was trained",
        ),
        (Mixup, "draws", "a draw is shared by all images of a batch, .* such as the share by which it mixes images"),
        pytest.param(OneMask, "draws", "a draw is shared by all images of a batch", marks=pytest.mark.long),
        pytest.param(
            OwnPictures, "draws", "the views show other images than those of the batch", marks=pytest.mark.long
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_may_be_meant_passes_with_a_note(task: type[PretextTask], check: str, note: str) -> None:
    results = {result.name: result for result in battery(task) if result.status not in ("passed", "skipped")}
    assert list(results) == [check] and results[check].status == "warning", results
    with pytest.raises(AssertionError, match=note):
        raise AssertionError(results[check].message)
    notes: list[str] = []
    assert prechecks._run(task, task.Options(), SIZE, notes.append) == ("", [])
    assert [one for one in notes if f"{task.name}: {check}: " in one], "told before it trains"


IMPORTED_AT = random.random()  # as a plugin would draw it when it is imported


class DrawnAtImport(Honest):
    """Uses a number that every process draws for itself."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"] * (1 + IMPORTED_AT)}


class OrderOfASet(Honest):
    """Adds up in the order of a set of words."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        first = next(iter({"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"}))
        return {"loss": super().forward(views)["loss"] * len(first)}


class KeptByTheClass(Honest):
    """What it saw first is kept by the class, where a new object in the same process finds it."""

    seen: dict[int, float] = {}

    def before_training(self) -> None:
        self.seen.setdefault(0, float(self.head.weight[0, 0]))

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"] * (1 + abs(self.seen.get(0, 5.0)))}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (DrawnAtImport, "random numbers drawn when the module is imported"),
        *(
            pytest.param(task, words, marks=pytest.mark.long)
            for task, words in [
                (OrderOfASet, "the order of a set"),
                (KeptByTheClass, "kept in a class"),
                (Honest, ""),
                (Teacher, ""),
                (TwoPhases, ""),
            ]
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_depends_on_the_process_is_found_in_others(
    task: type[PretextTask], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task is DrawnAtImport:
        monkeypatch.setattr(going_on, "HASH_SEEDS", ("1",))  # which one process shows
    checks = [check for check in task_checks(task, image_size=SIZE) if check.name in ("interruption", "processes")]
    results = in_order(checks)
    assert [result.name for result in results if result.status == "failed"] == (["processes"] if words else []), results
    assert words in results[1].message


# Before a plugin trains in a run.

PLUGIN = """
import torch
from torch import nn
from torch.nn import functional as F
from ssl_bench import PretextTask, TaskOptions

class Halves(PretextTask):
    name = "halves"

    class Options(TaskOptions):
        cheat: bool = False

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 2)

    def views(self, batch):
        target = torch.randint(2, (1 if self.options.cheat else len(batch.images),)).expand(len(batch.images))
        return batch.images * (1 - 0.5 * target[:, None, None, None]), target.clone()

    def forward(self, views):
        return {"loss": F.cross_entropy(self.head(self.backbone(views[0])), views[1])}
"""


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(TASKS, "_added", {})
    monkeypatch.setattr(prechecks, "_failed", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "halves.py").write_text(PLUGIN)
    load_plugin(tmp_path / "halves.py")
    return tmp_path


def check(halves: Path, cheat: bool, **settings: Any) -> tuple[str, list[str]]:
    task, notes = TASKS.get("halves"), []  # type: ignore[var-annotated]
    told = prechecks.checks_before_training(
        task, task.Options(cheat=cheat), SIZE, halves / "cache", note=notes.append, **settings
    )
    return told, notes


def test_a_pass_is_kept_and_a_failure_is_not(halves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, notes = check(halves, False)
    assert told == "passed" and len(notes) == 1
    assert check(halves, False) == ("passed", []), "made once"
    (kept,) = (halves / "cache/checked_tasks").iterdir()
    kept.write_text("{damaged")
    monkeypatch.setattr(prechecks, "_run", lambda *words: ("", []))
    assert check(halves, False)[1], "a damaged note is no pass"
    monkeypatch.undo()


def test_a_cheat_is_refused_with_the_reason_and_the_way_out(halves: Path) -> None:
    for _ in range(2):
        with pytest.raises(
            TrainingError,
            match=(
                "halves fails its check 'draws': .* Nothing was trained. "
                ".*check-task halves --plugin FILE; .*--skip-checks"
            ),
        ):
            check(halves, True)
    assert check(halves, True, skip=True) == ("skipped", [])
    assert not list((halves / "cache").glob("checked_tasks/*"))


def test_edited_or_cut_short_it_is_checked_again(halves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(prechecks, "_run", lambda task, options, size, note: asked.append(task.name) or ("", []))
    check(halves, False)
    (halves / "halves.py").write_text(PLUGIN.replace("0.5", "0.4"))
    load_plugin(halves / "halves.py")
    check(halves, False), check(halves, False)
    assert len(asked) == 2
    monkeypatch.setattr(prechecks, "_run", lambda task, options, size, note: ("", ["interruption"]))
    (halves / "halves.py").write_text(PLUGIN.replace("0.5", "0.3"))
    load_plugin(halves / "halves.py")
    assert check(halves, False)[0] == "passed; not made: interruption"
    assert check(halves, False)[1], "what was not made was not passed"


def test_what_the_task_s_code_raises_goes_through_as_it_is(halves: Path) -> None:
    (halves / "halves.py").write_text(
        PLUGIN + "\n    def diagnose(self, images):\n        raise KeyError('no such thing') from OSError(28, 'full')\n"
    )
    load_plugin(halves / "halves.py")
    with pytest.raises(KeyError, match="no such thing") as raised:
        check(halves, False)
    assert isinstance(raised.value.__cause__, OSError), "its cause may be a full disk"


def test_built_in_tasks_are_not_checked_and_members_of_combinations_are(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(prechecks, "_run", lambda task, options, size, note: asked.append(task.name) or ("", []))
    for name, told in (("rotation", ""), ("rotation+colorization", ""), ("rotation+halves", "passed")):
        task = TASKS.get(name)
        assert prechecks.checks_before_training(task, task.Options(), SIZE, halves / "cache") == told
    assert asked == ["halves"]


def test_its_row_fails_with_the_reason_and_the_others_go_on(halves: Path) -> None:
    import ssl_bench

    matrix = {
        "name": "cheating",
        "data": {"source": "shapes", "size": 32, "limit": {"train": 120, "test": 60}},
        "backbone": {"name": "resnet10t", "width": 0.125},
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0},
        "tasks": [{"halves": {"cheat": True}}],
        "baselines": ["random"],
        "evaluate": [{"knn": {"k": [5]}}],
    }
    results = ssl_bench.run(matrix, halves / "out", report=False)
    (failure,) = [json.loads(file.read_text()) for file in (halves / "out").glob("cells/*/*/failed-*.json")]
    assert (
        failure["row"] == "halves"
        and failure["where"] == "pretraining"
        and "fails its check 'draws'" in failure["message"]
    )
    assert not failure["traceback"]
    assert {
        record["row"]
        for record in map(json.loads, (file.read_text() for file in (halves / "out").glob("cells/*/*/pretrain.json")))
    } == {"random"}
    results = ssl_bench.run(matrix, halves / "out", report=False, skip_checks=True)
    assert not results.missing
    assert "halves was trained without the checks of its battery" in results.table().terminal(200, legend=True)
