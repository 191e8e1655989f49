"""The battery passes what is right and finds what is wrong: for every check there is a task with just that fault."""

from __future__ import annotations

import time
import unittest
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.errors import SpecError, SSLBenchError
from ssl_bench.plugins.registry import TASKS
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, TaskOptions
from ssl_bench.testing import CheckFailed, CheckResult, CheckWarning, check_task, in_order, task_checks
from ssl_bench.testing.battery.bench import Bench, NoiseBatches


class Sound(PretextTask):
    """Predict which half of an image was darkened."""

    name = "sound"

    class Options(TaskOptions):
        """A documented option on its own line, and one above the field."""

        shade: float = 0.5  #: factor of the darkened half
        #: smaller than nothing
        unused: int = 0

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(self.backbone.num_features, 2)

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (len(images),), device=images.device)

    def views(self, batch: Any) -> Any:
        target = self.draw(batch.images)
        right = torch.arange(batch.images.shape[3], device=batch.images.device) * 2 // batch.images.shape[3]
        dark = right == target[:, None]  # [B, W]
        return torch.where(dark[:, None, None], batch.images * self.options.shade, batch.images), target

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        images, target = views
        logits = self.head(self.backbone(images))
        return {"loss": F.cross_entropy(logits, target), "accuracy": (logits.argmax(1) == target).float().mean()}


def run(task: type[PretextTask] | str, name: str, **settings: Any) -> CheckResult:
    """One check of a task."""
    return next(check for check in task_checks(task, noise=True, **settings) if check.name == name).run()


def _long(task: str, name: str) -> Any:
    """Other processes take seconds to start."""
    return pytest.param(task, name, marks=pytest.mark.long) if name == "processes" else (task, name)


@pytest.mark.parametrize(
    ("task", "name"),
    [_long(task, check.name) for task in TASKS._builtin if task != "weights" for check in task_checks(task)],
)
def test_every_built_in_passes(task: str, name: str) -> None:
    result = run(task, name)
    if name != "views_cost":  # which only warns, and depends on who else uses the machine
        assert result.status in ("passed", "skipped"), result.message


def test_a_sound_task_passes_all_with_something_to_say() -> None:
    checks = task_checks(Sound)
    results = in_order(check for check in checks if check.name != "processes")  # which is tried in tests of plugins
    assert {result.status for result in results if result.name != "views_cost"} == {"passed"}, results
    assert len(checks) == 23 and all(results) and all(result.message for result in results)


class NoDocstring(Sound):
    def draw(self, images: Tensor) -> Tensor:
        return super().draw(images)


class SilentOption(Sound):
    """An option says nothing."""

    class Options(TaskOptions):
        shade: float = 0.5  #: factor of the darkened half
        depth: int = 3  # a comment for the reader of the code, not of the documentation


class NeedyOption(Sound):
    """An option has no default."""

    class Options(TaskOptions):
        shade: float  #: factor of the darkened half


class EndlessOption(Sound):
    """An option has no finite default, so it could not be written down."""

    class Options(TaskOptions):
        shade: float = float("inf")  #: factor of the darkened half


class Unbuildable(Sound):
    """Fails in __init__."""

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.extra_head = nn.Linear(setup.num_classes, 1)


class MapAsFeatures(Sound):
    """Offers a map instead of a vector."""

    def evaluated(self) -> nn.Module:
        network = self.backbone

        class Mapped(nn.Module):
            num_features = 64

            def forward(self, images: Tensor) -> Tensor:
                return network.feature_map(images)

        return Mapped()


class MapAsCode(Sound):
    """Offers a code that is not flat."""

    def codes(self, images: Tensor) -> Mapping[str, Tensor]:
        return {"map": self.backbone.feature_map(images)}


class DarkPreview(Sound):
    """Shows pictures below zero."""

    def preview(self, batch: Any) -> Mapping[str, Tensor]:
        return {"pictures": batch.images - 1}


class ReadsLabels(Sound):
    """Lets the label decide."""

    def views(self, batch: Any) -> Any:
        images, _ = super().views(batch)
        return images, batch.labels % 2


class ReadsLabelsInLoss(Sound):
    """Hands the labels on, to be used by a loss."""

    def views(self, batch: Any) -> Any:
        return *super().views(batch), batch.labels

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.head(self.backbone(views[0])), views[2])}


class ReadsColumn(Sound):
    """Uses a column that it does not declare."""

    def views(self, batch: Any) -> Any:
        return super().views(batch)[0], (batch.extra["hue"] > 0.5).long()


class IdleLabels(Sound):
    """Declares labels without using them."""

    uses_labels = True


class InPlace(Sound):
    """Darkens the batch itself."""

    def views(self, batch: Any) -> Any:
        found = super().views(batch)
        batch.images.mul_(0.5)
        return found


class InfiniteViews(Sound):
    """Divides by nothing."""

    def views(self, batch: Any) -> Any:
        images, target = super().views(batch)
        return images / (images.amin() * 0), target


class NoViews(Sound):
    """Gives no tensor."""

    def views(self, batch: Any) -> Any:
        return "nothing"


class OneDraw(Sound):
    """Draws once for the whole batch."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (1,)).expand(len(images)).clone()


class OneColour(Sound):
    """Draws the half per sample, but one brightness for all."""

    def views(self, batch: Any) -> Any:
        images, target = super().views(batch)
        return images * torch.rand(()), target


class ListLoss(Sound):
    """Gives a tensor instead of a dict."""

    def forward(self, views: Any, phase: str = "main") -> Any:
        return super().forward(views)["loss"]


class LossPerSample(Sound):
    """Forgets to take the mean."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": self.head(self.backbone(views[0]))[:, 0]}


class NanLoss(Sound):
    """Takes the logarithm of nothing."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"] * torch.zeros(()).log()}


class ConstantLoss(Sound):
    """Detaches the loss."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"].detach()}


class Detached(Sound):
    """Trains the head alone."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        images, target = views
        return {"loss": F.cross_entropy(self.head(self.backbone(images).detach()), target)}


class DeadEnd(Sound):
    """Multiplies the backbone's features by zero."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        images, target = views
        return {"loss": F.cross_entropy(self.head(self.backbone(images) * 0), target)}


class UnusedHead(Sound):
    """Has a head that nothing uses."""

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.forgotten = nn.Linear(2, 2)


class OwnGenerator(Sound):
    """Draws from a clock."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (len(images),), generator=torch.Generator().manual_seed(time.perf_counter_ns()))


class HiddenState(Sound):
    """Keeps what it learned beside the state_dict."""

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.steps_done = 1.0

    def after_step(self) -> None:
        self.steps_done += 1

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        return {"loss": super().forward(views)["loss"] * self.steps_done}


class RandomPrior(Sound):
    """Draws a fixed direction when it is built, and does not keep it as a buffer."""

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.direction = torch.randn(self.backbone.num_features)

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        found = super().forward(views)
        return found | {"loss": found["loss"] + (self.backbone(views[0]).float() @ self.direction).square().mean()}


class LeftOnTheCPU(Sound):
    """Draws its target without saying where."""

    def draw(self, images: Tensor) -> Tensor:
        return torch.randint(2, (len(images),))


class Delicate(Sound):
    """Divides by a difference that bf16 cannot see."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        found = super().forward(views)
        features = self.backbone(views[0])
        one = features @ torch.zeros(features.shape[1], 1, device=features.device) + 1  # bf16 under autocast
        return found | {"loss": found["loss"] / (one + 1e-3 - 1).mean()}


class Heated(Sound):
    """Loses its senses after thirty steps."""

    def __init__(self, backbone: nn.Module, options: Any, setup: Any) -> None:
        super().__init__(backbone, options, setup)
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    def after_step(self) -> None:
        self.steps_seen += 1

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        found = super().forward(views)
        return found | {"loss": found["loss"] * torch.where(self.steps_seen < 30, 1.0, torch.nan)}


class FailsAfterStep(Sound):
    """Divides by nothing between two steps."""

    def after_step(self) -> None:
        self.share = 1 / int(self.progress)


class FailsBeforeTraining(Sound):
    """Measures what is not there."""

    def before_training(self) -> None:
        self.measured = self.setup.no_such_thing


class FailsInBackward(Sound):
    """Breaks off while gradients are made."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        found = super().forward(views)
        found["loss"].register_hook(self.refuse)
        return found

    def refuse(self, gradient: Tensor) -> Tensor:
        raise KeyError("no such gradient")


class TensorFacts(Sound):
    """Describes itself by a tensor."""

    def describe(self) -> Mapping[str, Any]:
        return {"weight": torch.ones(2)}


class ListDiagnosis(Sound):
    """Diagnoses without names."""

    def diagnose(self, images: Tensor) -> Any:
        return [1.0]


class InfiniteDiagnosis(Sound):
    """Diagnoses a share of nothing."""

    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        return {"ok": 1.0, "share": float((images.mean() * 0).log())}


class VectorDiagnosis(Sound):
    """Diagnoses one value an image."""

    def diagnose(self, images: Tensor) -> Any:
        return {"brightness": images.mean((1, 2, 3))}


class FailingDiagnosis(Sound):
    """Diagnoses by what it has not."""

    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        return {"loss": float(self.decoder(images))}


class Backwards(Sound):
    """Descends the wrong way."""

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        loss = super().forward(views)["loss"]
        return {"loss": 2 * loss.detach() - loss}

    @classmethod
    def short_recipe(cls, options: Any, image_size: int) -> Recipe:
        return super().short_recipe(options, image_size).model_copy(update={"learning_rate": 1e-3})


class Slow(Sound):
    """Takes its time with views."""

    def views(self, batch: Any) -> Any:
        time.sleep(0.2)
        return super().views(batch)


@pytest.mark.parametrize(
    ("task", "check", "advice"),
    [
        (NoDocstring, "documented", "has no docstring; say in one line"),
        (SilentOption, "documented", "option 'depth' says nowhere what it does; write `depth: "),
        (NeedyOption, "options", "'shade' is missing; give every option a default"),
        (EndlessOption, "options", "shade = inf: should be a finite number"),
        (Unbuildable, "builds", r"building it raised TypeError: .*test_testing.py, line \d+"),
        (MapAsFeatures, "builds", r"must give finite features \[B, num_features\]; 8 images gave \(8, 64, \d, \d\)"),
        (MapAsCode, "builds", "code 'map' must be finite .* flatten it"),
        (DarkPreview, "preview", r"preview 'pictures' must be \[N, 3, H, W\] in \[0, 1\]"),
        (ReadsLabels, "labels", "batch.labels is read, .* set uses_labels = True"),
        (ReadsLabelsInLoss, "labels", "batch.labels is read"),
        (ReadsColumn, "labels", r"batch.extra\['hue'\] is read but not declared; set columns = "),
        (IdleLabels, "labels", "other labels give the same loss; remove uses_labels"),
        (InPlace, "input_unchanged", "views changed batch.images in place; work on a copy"),
        (InfiniteViews, "input_unchanged", "views gave values that are not finite"),
        (NoViews, "input_unchanged", "views returned str without a tensor"),
        (OneDraw, "draws", r"16 copies of one image got the same draw, .* torch.rand\(len\(images\), ...\)"),
        (
            ListLoss,
            "loss",
            r"forward must return a dict of tensors with the key 'loss', not Tensor; return \{'loss': loss\}",
        ),
        (LossPerSample, "loss", r"'loss' must be a scalar tensor, not \(32,\); take its mean"),
        (NanLoss, "loss", "'loss' is (nan|-inf) on the first batch; look for"),
        (ConstantLoss, "loss", "does not depend on any parameter"),
        (Detached, "gradients", "no gradient reaches backbone.*; use it in forward, or freeze it"),
        (DeadEnd, "gradients", "the gradient of backbone.* is zero everywhere"),
        (UnusedHead, "gradients", "no gradient reaches forgotten.weight; use it in forward, or freeze it"),
        (OwnGenerator, "same_seed", "the same seed gave losses .* and .*; draw with torch's"),
        (HiddenState, "state", "is kept in a plain attribute; make tensors buffers"),
        (RandomPrior, "state", "derive what is fixed from setup.sample"),
        (
            LeftOnTheCPU,
            "devices",
            r"on a GPU it would fail: .*Make new tensors where the images are|forward raised RuntimeError",
        ),
        (RandomPrior, "devices", r"on a GPU it would fail: .*keep tensors as buffers|forward raised RuntimeError"),
        (Delicate, "devices", "under bf16 autocast the loss or a gradient is not finite"),
        (TensorFacts, "builds", r"describe\(\) must give numbers and text .*; make tensors numbers with float\(x\)"),
        (ListDiagnosis, "builds", r"diagnose\(images\) must return a dict of name and number, not list"),
        (InfiniteDiagnosis, "builds", r"diagnose\(images\) gave 'share': -inf, .* a finite number; return float\(x\)"),
        (VectorDiagnosis, "builds", r"diagnose\(images\) gave 'brightness': tensor.* of one value"),
        (FailingDiagnosis, "builds", r"diagnose\(images\) raised AttributeError: .*test_testing.py, line \d+"),
        (FailsBeforeTraining, "builds", r"before_training raised AttributeError: .*test_testing.py, line \d+"),
        (Heated, "loss_falls", r"sound raised TrainingError: sound: loss not finite at step 31; last finite values: "),
        (
            FailsAfterStep,
            "loss_falls",
            r"sound raised ZeroDivisionError: division by zero \(.*test_testing.py, line \d+\)",
        ),
        (FailsInBackward, "gradients", r"sound raised KeyError: 'no such gradient' \(.*test_testing.py, line \d+\)"),
        (Backwards, "loss_falls", r"after 80 steps the loss is .*, and it was .*; try another learning rate"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:24],
)
def test_a_fault_is_found_and_the_message_says_what_to_do(task: type[PretextTask], check: str, advice: str) -> None:
    result = run(task, check)
    assert result.status == "failed", f"{check} did not find the fault: {result}"
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(result.message)


@pytest.mark.parametrize(
    ("task", "check", "advice"),
    [
        (OneColour, "draws", "part of the draws is shared by a whole batch"),
        (Slow, "views_cost", r"views take \d+% of a step .*; work on the whole batch at once"),
        (Sound, "noise_at_chance", r"chance_accuracy\(\) is not given"),
    ],
    ids=["OneColour", "Slow", "Sound"],
)
def test_what_is_only_worth_a_look_is_a_warning(task: type[PretextTask], check: str, advice: str) -> None:
    result = run(task, check)
    assert result.status == "warning" and result, result
    with pytest.warns(CheckWarning, match=advice):
        next(each for each in task_checks(task, noise=True) if each.name == check)()


class Blind(Sound):
    """Asks for a draw that leaves no trace in the image."""

    def views(self, batch: Any) -> Any:
        return batch.images, self.draw(batch.images)

    def chance_accuracy(self) -> float:
        return 1 / 2


class Leaky(Blind):
    """The same question with its answer written into a border."""

    def views(self, batch: Any) -> Any:
        images, target = batch.images.clone(), self.draw(batch.images)
        images[:, :, :2] *= target[:, None, None, None]
        return images, target


@pytest.mark.long
def test_on_noise_a_guess_is_a_guess_and_a_planted_leak_is_found() -> None:
    assert run(Blind, "noise_at_chance").status == "passed"
    leaky = run(Leaky, "noise_at_chance")
    assert leaky.status == "failed" and "on noise after 300 steps; a guess gives" in leaky.message, leaky
    assert "gives the answer away" in leaky.message


def test_noise_shows_images_that_there_are() -> None:
    bench = Bench(Sound, None, None)
    batches = NoiseBatches(bench, 16, 1)
    seen = [batches.batch(step).index for step in range(40)]
    assert all(len(index.unique()) == 16 and index.max() < len(bench.images) for index in seen)


def test_what_one_check_raises_does_not_cost_the_others_and_is_told_once() -> None:
    found = {result.name: result for result in check_task(FailsAfterStep)}
    assert {name for name, result in found.items() if result.status == "failed"} == {"parameters"}
    assert (
        len(found) == 23 and found["same_seed"].status == found["preview"].status == found["draws"].status == "passed"
    )
    assert found["loss_falls"].message == "needs what 'parameters' checks" and found["loss_falls"].status == "skipped"


def test_a_task_that_cannot_be_built_is_told_once() -> None:
    results = check_task(Unbuildable)
    assert [result.name for result in results if result.status == "failed"] == ["builds"]
    assert all("needs what 'builds' checks" in result.message for result in results[3:]) and len(results) == 23


def test_checks_are_named_for_pytest_and_leave_the_random_state_alone() -> None:
    checks = {check.__name__: check for check in task_checks(Sound)}
    before = torch.get_rng_state()
    checks["loss_falls"]()
    checks["state"]()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(CheckFailed, match=r"needy|NeedyOption|sound: options: "):
        next(check for check in task_checks(NeedyOption) if check.name == "options")()
    assert issubclass(CheckFailed, SSLBenchError) and issubclass(CheckFailed, AssertionError)


def test_what_does_not_apply_is_skipped() -> None:
    class Fixed(Sound):
        """Nothing is drawn."""

        def draw(self, images: Tensor) -> Tensor:
            return torch.arange(len(images), device=images.device) % 2

    assert run(Fixed, "draws").status == "skipped"
    with pytest.raises(unittest.SkipTest, match="not random"):
        next(check for check in task_checks(Fixed) if check.name == "draws")()
    assert "loss" not in [check.name for check in task_checks("pixels")], "a baseline that does not train has no loss"


def test_options_and_sizes_are_those_asked_for() -> None:
    result = next(check for check in task_checks(Sound, {"shade": 0.25}, 40) if check.name == "options").run()
    assert "shade=0.25" in result.message
    unknown = next(check for check in task_checks(Sound, {"shadow": 1}) if check.name == "options").run()
    assert unknown.status == "failed" and "did you mean 'shade'?" in unknown.message
    with pytest.raises(SpecError, match="did you mean 'rotation'"):
        task_checks("rotatin")


class TwoPhases(Sound):
    """Two heads in turn, each with an optimiser."""

    phases = ("first", "second")

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.second = nn.Linear(self.backbone.num_features, 1)

    def forward(self, views: Any, phase: str = "first") -> dict[str, Tensor]:
        if phase == "first":
            return super().forward(views)
        return {"loss": self.second(self.backbone(views[0])).square().mean()}

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if name.startswith("second.") == (phase == "second")]


class ForgottenPhase(TwoPhases):
    """One of its phases is never stepped."""

    def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
        return ("first",)


class MovingPhases(TwoPhases):
    """Which phase comes is drawn."""

    def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
        return ("first",) if torch.rand(()) < 0.5 else ("second",)


class SwappedPhases(TwoPhases):
    """The optimiser of each phase holds what the other one trains."""

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        named = [(name, p) for name, p in self.named_parameters() if not name.startswith("backbone.")]
        return [(name, p) for name, p in named if name.startswith("second.") == (phase == "first")]


class OtherBatch(TwoPhases):
    """One of its phases wants a batch of its own."""

    @classmethod
    def phase_recipe(cls, phase: str, recipe: Recipe, options: Any) -> Recipe:
        return recipe.model_copy(update={"batch_size": 8}) if phase == "second" else recipe


class NoGradientLeft(Sound):
    """Its hook removes every gradient."""

    def before_step(self) -> None:
        self.zero_grad()


class HookSteps(Sound):
    """Its hook does the optimiser's work."""

    @torch.no_grad()
    def before_step(self) -> None:
        for parameter in self.parameters():
            parameter.mul_(0.99)


@pytest.mark.parametrize(
    ("task", "check", "advice"),
    [
        (ForgottenPhase, "phases", "phases_at never gives 'second' in a run of 80 steps; remove it from phases"),
        (MovingPhases, "phases", "other phases when it is asked again"),
        (SwappedPhases, "phases", "the loss of phase 'first' reaches none of the parameters"),
        (OtherBatch, "phases", "changes batch_size of 'second'; phases share a batch"),
        (NoGradientLeft, "hooks", "removes every gradient of phase 'main', at any time of a run"),
        (HookSteps, "hooks", "before_step changes backbone.*; change gradients there, and parameters in after_step"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:24],
)
def test_faults_of_phases_and_hooks_are_found(task: type[PretextTask], check: str, advice: str) -> None:
    result = run(task, check)
    assert result.status == "failed", f"{check} did not find the fault: {result}"
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(result.message)


def test_a_sound_task_of_two_phases_passes() -> None:
    named = {check.name: check for check in task_checks(TwoPhases)}
    assert named["phases"].run().message == "first 80 of 80 steps, second 80 of 80 steps"
    assert named["hooks"].run() and named["trained"].run()
