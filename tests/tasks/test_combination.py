"""Combinations: one network, every member as it is alone, losses scaled, nothing leaked between members."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ssl_bench
from ssl_bench.backbones import Backbone, InputSpec
from ssl_bench.cost import measure_cost
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError, SSLBenchError
from ssl_bench.registry import TASKS, identity, load_plugin
from ssl_bench.spec import BackboneSpec, parse
from ssl_bench.tasks.base import PretextTask, Setup
from ssl_bench.testing import check_task
from ssl_bench.transforms import lightness
from ssl_bench.work import prepare

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)
SIZE = 32


def make_backbone(input: str = "rgb", width: float = 1.0) -> Backbone:
    statistics: dict[str, Any] = {"rgb": {}, "standardised": {}, "lightness": {"mean": (0.5,) * 3, "std": (0.2,) * 3}}[input]
    return Backbone(TINY, SIZE, InputSpec(kind=input, **statistics))  # type: ignore[arg-type]


def make_task(name: str, batch_size: int = 8, classes: int | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    combined = TASKS.get(name)
    given = parse(combined.Options, options, name)
    colours = torch.rand(600, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    images = nn.functional.interpolate(colours, SIZE, mode="bilinear").contiguous(memory_format=torch.channels_last)
    setup = Setup(SIZE, 100, batch_size, 1_000, classes, lambda n: images[:n])
    return combined(combined.build_backbone(make_backbone, given), given, setup).train()


def batch(count: int = 8, labels: Tensor | None = None) -> Batch:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = nn.functional.interpolate(coarse, SIZE, mode="bilinear").contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.arange(count), labels)


def network_inputs(task: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    task.backbone.judged.network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    return seen


def test_gradients_are_the_sum_of_the_members_own_each_scaled() -> None:
    task = make_task("rotation+autoencoder")
    views = task.views(batch())
    found = task(views)
    found["loss"].backward()
    combined = {name: p.grad.clone() for name, p in task.backbone.judged.network.named_parameters()}
    expected: dict[str, Tensor] = {}
    for number, own in enumerate(views):
        member = copy.deepcopy(task.tasks[number])  # with a network of its own from here on
        network = member.backbone.network
        assert network is not task.backbone.judged.network
        network.zero_grad()
        loss = member(own)["loss"]
        torch.testing.assert_close(loss, found[f"{('rotation', 'autoencoder')[number]}/loss"])
        (loss / task.scales[number]).backward()
        for name, parameter in network.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad
    for name, gradient in combined.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_the_network_is_stored_and_trained_once() -> None:
    task = make_task("rotation+colorization+simclr")
    names = list(task.state_dict())
    assert sum(name.endswith("network.conv1.weight") for name in names) == 1
    stepped = [id(parameter) for _, parameter in task.phase_parameters("main")]
    assert len(stepped) == len(set(stepped)) and set(stepped) == {id(p) for p in task.parameters()}
    copied = copy.deepcopy(task)
    assert all(face.network is copied.backbone.judged.network for face in copied.backbone.faces)
    assert isinstance(task.evaluated(), Backbone) and task.evaluated().input.kind == "rgb"


def test_every_member_has_a_forward_of_its_own_and_the_cost_is_their_sum() -> None:
    task = make_task("rotation+relative_position")
    seen = network_inputs(task)
    task(task.views(batch()))
    assert [len(images) for images in seen] == [32, 72], "four turns and nine tiles of 8 images, apart"
    alone = sum(measure_cost(make_member(name), batch()).passes for name in ("rotation", "relative_position"))
    assert measure_cost(task, batch()).passes == pytest.approx(alone)
    assert measure_cost(make_task("rotation+relative_position", images="split"), batch()).passes == pytest.approx(alone / 2)


def make_member(name: str) -> Any:
    member = TASKS.get(name)
    return member(member.build_backbone(make_backbone, member.Options()), member.Options(), Setup(SIZE, 100, 8, 1_000, None, lambda n: batch(n).images))


def test_losses_are_divided_by_what_a_guess_costs() -> None:
    task = make_task("rotation+relative_position+autoencoder")
    assert task.scales[:2].tolist() == pytest.approx([math.log(4), math.log(8)])
    assert task.tasks[2].chance_loss() is None
    found = task(task.views(batch()))
    names = ("rotation", "relative_position", "autoencoder")
    parts = [float(found[f"{name}/loss"].detach()) / float(scale) for name, scale in zip(names, task.scales, strict=True)]
    assert float(found["loss"].detach()) == pytest.approx(sum(parts), rel=1e-5)
    assert parts[2] == pytest.approx(1, abs=0.3), "measured on other images of the same kind, before training"
    assert task.chance_loss() == 3


def test_images_are_given_to_each_or_divided() -> None:
    seen: dict[str, list[int]] = {}
    for mode in ("each", "split"):
        task = make_task("rotation+simclr", images=mode)
        for member in task.tasks:
            original = member.views
            member.views = lambda own, name=f"{mode} {member.name}", original=original: (seen.update({name: own.index.tolist()}), original(own))[1]
        task(task.views(batch()))
    assert seen["each rotation"] == seen["each simclr"] == list(range(8))
    assert seen["split rotation"] == [0, 1, 2, 3] and seen["split simclr"] == [4, 5, 6, 7]
    with pytest.raises(SpecError, match="batch_size 3 leaves 1 images a member; allowed is 4"):
        make_task("rotation+simclr", batch_size=3, images="split")


def test_labels_reach_only_the_member_that_declares_them() -> None:
    task = make_task("rotation+supervised", classes=10)
    assert type(task).uses_labels
    given: dict[str, Any] = {}
    for member in task.tasks:
        original = member.views
        member.views = lambda own, name=member.name, original=original: (given.update({name: own.labels}), original(own))[1]
    labels = torch.arange(8)
    task(task.views(batch(labels=labels)))
    assert given["rotation"] is None and torch.equal(given["supervised"], labels)
    assert task.tasks[0].setup.num_classes is None and task.tasks[1].setup.num_classes == 10


def test_harmonised_members_all_see_lightness() -> None:
    task = make_task("simclr+rotation+colorization+relative_position", harmonise=True)
    assert task.evaluated().input.kind == "lightness"
    seen = network_inputs(task)
    given = batch()
    views = task.views(given)
    task(views)
    assert len(seen) == 4
    for images in seen:
        torch.testing.assert_close(images[:, 0], images[:, 1])
        torch.testing.assert_close(images[:, 0], images[:, 2])
    upright = make_task("rotation+colorization", harmonise=True, rotation={"pad": 0})
    rotated, _ = upright.views(given)[0]
    expected = (lightness(given.images) / 100).expand(-1, 3, -1, -1)
    mirrored = (rotated[:8] - expected).abs().flatten(1).amax(1) > 1e-5
    torch.testing.assert_close(torch.where(mirrored[:, None, None, None], rotated[:8].flip(3), rotated[:8]), expected)
    torch.testing.assert_close(upright.backbone.faces[0].prepare(expected), upright.backbone.faces[1].prepare(given.images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("colorization+rotation", "rgb"), ("colorization+relative_position", "standardised"), ("relative_position+colorization", "standardised"),
     ("colorization+autoencoder", "rgb")],
)
def test_it_is_judged_with_the_input_that_keeps_most(name: str, kind: str) -> None:
    task = make_task(name)
    assert task.evaluated().input.kind == kind
    wanted = {"colorization": "lightness", "relative_position": "standardised"}
    assert [face.input.kind for face in task.backbone.faces] == [wanted.get(part, "rgb") for part in name.split("+")]


class TwoPhases(PretextTask):
    """In two phases."""

    name = "two_phases"
    phases = ("one", "two")


class OwnBackbone(PretextTask):
    """With a narrower network."""

    name = "own_backbone"

    @classmethod
    def build_backbone(cls, make: Any, options: Any) -> nn.Module:
        return make(width=0.5)  # type: ignore[no-any-return]


class Teacher(PretextTask):
    """With a momentum teacher."""

    name = "teacher"

    def evaluated(self) -> nn.Module:
        return self.backbone  # type: ignore[no-any-return]


class HiddenTeacher(PretextTask):
    """With a copy of the network."""

    name = "hidden_teacher"

    def __init__(self, backbone: nn.Module, options: Any, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.teacher = copy.deepcopy(backbone)

    def chance_loss(self) -> float:
        return 1.0


@pytest.fixture
def odd_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_added", {**TASKS._added, **{t.name: t for t in (TwoPhases, OwnBackbone, Teacher, HiddenTeacher)}})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rotation+", "combines 1 task; write two or more"), ("+", "combines 0 tasks"), ("rotation+rotation", "names 'rotation' twice"),
        ("rotation+colourisation", "did you mean 'colorization'"), ("rotation+random", "random is not trained"),
        ("rotation+two_phases", "trains in 2 phases"), ("teacher+rotation", "judges a network of its own"),
    ],
)
@pytest.mark.usefixtures("odd_tasks")
def test_what_cannot_be_combined_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TASKS.get(name)


@pytest.mark.usefixtures("odd_tasks")
def test_a_network_of_its_own_is_refused_before_training(tmp_path: Path) -> None:
    spec = matrix("rotation+own_backbone")
    with pytest.raises(SpecError, match="own_backbone builds a backbone of its own"):
        prepare(spec, tmp_path)


@pytest.mark.usefixtures("odd_tasks")
def test_a_member_may_keep_a_slow_copy_of_the_network() -> None:
    task = make_task("rotation+hidden_teacher")
    teacher = [name for name in task.state_dict() if "teacher" in name]
    assert teacher and task.tasks[1].teacher.network is not task.backbone.judged.network
    other = make_task("rotation+hidden_teacher")
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.normal_()
    other.load_state_dict(task.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), other.parameters(), strict=True))
    assert other.tasks[0].backbone.network is other.backbone.judged.network


def matrix(*tasks: Any) -> dict[str, Any]:
    return {
        "name": "combined", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}}, "backbone": TINY.model_dump(),
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "tasks": list(tasks), "baselines": [], "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip


def test_a_matrix_runs_combinations_and_takes_every_members_options(tmp_path: Path) -> None:
    long_form = {"task": "rotation+autoencoder", "row": "divided", "options": {"rotation": {"pad": 2}, "images": "split", "learning_rate": 1e-3}}
    results = ssl_bench.run(matrix("rotation+autoencoder", long_form), tmp_path)
    assert not results.failures and not results.missing
    own = results.pretraining.set_index("row")
    assert own.loc["divided", "passes"] == pytest.approx(own.loc["rotation+autoencoder", "passes"] / 2)
    assert {"rotation/accuracy", "autoencoder/loss", "diagnose.autoencoder/mse"} <= set(own.columns)
    (weights,) = tmp_path.glob("cells/divided/*/backbone.safetensors")
    assert ssl_bench.load_backbone(weights).num_features == 64
    for changes, message in (
        ({"rotation": {"pads": 2}}, "did you mean 'pad'"), ({"rotatoin": {}}, "did you mean 'rotation'"), ({"images": "all"}, "each"),
        ({"rotation": {"pad": -1}}, "pad"),
    ):  # fmt: skip
        with pytest.raises(SSLBenchError, match=message):
            prepare(matrix({"rotation+autoencoder": changes}), tmp_path / "other")
    assert TASKS.get("rotation+relative_position").min_image_size == TASKS.get("relative_position").min_image_size > TASKS.get("rotation").min_image_size


def test_a_member_that_is_edited_makes_another_cell(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    source = '''
from ssl_bench import PretextTask

class Mine(PretextTask):
    """A loss."""
    name = "mine_combined"
    def views(self, batch):
        return batch.images
    def forward(self, views):
        return {"loss": self.backbone(views).square().mean() + 1}
'''
    plugin.write_text(source)
    load_plugin(plugin)
    before = identity(TASKS, "rotation+mine_combined")
    assert identity(TASKS, "rotation + mine_combined") == before
    assert "mine_combined+rotation" in TASKS and "mine_combined+nothing" not in TASKS
    plugin.write_text(source.replace("+ 1", "+ 2"))
    load_plugin(plugin)
    after = identity(TASKS, "rotation+mine_combined")
    assert before != after and before["members"][0] == after["members"][0]
    assert make_task("rotation+mine_combined").scales[1] > 2
    with pytest.raises(SpecError, match="plus sign"):
        TASKS.add(type("Plus", (PretextTask,), {"name": "a+b"}))


def test_it_is_a_task_like_any_other() -> None:
    results = check_task("rotation+autoencoder")
    assert all(results), "\n".join(str(result) for result in results if not result)
