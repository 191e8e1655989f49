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
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError, SSLBenchError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.identity import identity
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import TASKS
from ssl_bench.records.schema import Pretraining, read_record
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.tasks.combine import _combine
from ssl_bench.testing import check_task
from ssl_bench.training.cost import measure_cost
from ssl_bench.transforms import lightness

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)
SIZE = 32


def make_backbone(input: str = "rgb", width: float = 1.0) -> Backbone:
    statistics: dict[str, Any] = {"rgb": {}, "standardised": {}, "lightness": {"mean": (0.5,) * 3, "std": (0.2,) * 3}}[
        input
    ]
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
    task.backbone.judged.network.conv1.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].detach())
    )
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
    assert all(member.network is copied.backbone.judged.network for member in copied.backbone.member_backbones)
    assert isinstance(task.evaluated(), Backbone) and task.evaluated().input.kind == "rgb"


def test_every_member_has_a_forward_of_its_own_and_the_cost_is_their_sum() -> None:
    task = make_task("rotation+relative_position")
    seen = network_inputs(task)
    task(task.views(batch()))
    assert [len(images) for images in seen] == [32, 72], "four turns and nine tiles of 8 images, apart"
    alone = sum(measure_cost(make_member(name), batch()).passes for name in ("rotation", "relative_position"))
    assert measure_cost(task, batch()).passes == pytest.approx(alone)
    assert measure_cost(make_task("rotation+relative_position", images="split"), batch()).passes == pytest.approx(
        alone / 2
    )


def test_the_cost_of_divided_images_counts_all_members_alike() -> None:
    three = "rotation+relative_position+simclr"
    alone = sum(measure_cost(make_member(name), batch(16)).passes for name in three.split("+"))
    for images in (16, 5, 3):  # of which five, or one, would be a member's
        assert measure_cost(make_task(three, batch_size=16, images="split"), batch(16), images).passes == pytest.approx(
            alone / 3
        )


def make_member(name: str) -> Any:
    member = TASKS.get(name)
    return member(
        member.build_backbone(make_backbone, member.Options()),
        member.Options(),
        Setup(SIZE, 100, 8, 1_000, None, lambda n: batch(n).images),
    )


def test_losses_are_divided_by_what_a_guess_costs() -> None:
    task = make_task("rotation+autoencoder+vae")
    assert task.scales[:2].tolist() == pytest.approx([math.log(4), 1.0])
    assert task.tasks[2].chance_loss() is None
    task.before_training()
    found = task(task.views(batch()))
    names = ("rotation", "autoencoder", "vae")
    parts = [
        float(found[f"{name}/loss"].detach()) / float(scale) for name, scale in zip(names, task.scales, strict=True)
    ]
    assert float(found["loss"].detach()) == pytest.approx(sum(parts), rel=1e-5)
    assert parts[2] == pytest.approx(1, abs=0.3), "measured on other images of the same kind, before training"
    assert task.chance_loss() == 3


def test_a_loss_is_measured_only_when_training_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = Setup.parts
    monkeypatch.setattr(Setup, "parts", lambda self, *sizes: (asked.append(sizes[0]), original(self, *sizes))[1])
    task = make_task("rotation+vae")
    assert math.isfinite(measure_cost(task, batch()).passes) and "vae/loss_divided_by" not in task.describe()
    assert not asked, "neither a plan nor weights that are loaded need it"
    task.before_training()
    assert asked == [20 * 8] and task.describe()["vae/loss_divided_by"] == round(float(task.scales[1]), 4) > 0
    loaded = make_task("rotation+vae")
    loaded.load_state_dict(task.state_dict())
    loaded.before_training()
    assert len(asked) == 1 and torch.equal(loaded.scales, task.scales)


def test_measuring_a_loss_leaves_the_network_as_it_is() -> None:
    task = make_task("rotation+vae")
    before = {name: tensor.clone() for name, tensor in task.state_dict().items() if name != "scales"}
    task.before_training()
    assert all(torch.equal(task.state_dict()[name], tensor) for name, tensor in before.items())


def test_images_are_given_to_each_or_divided() -> None:
    seen: dict[str, list[int]] = {}
    for mode in ("each", "split"):
        task = make_task("rotation+simclr", images=mode)
        for member in task.tasks:
            original = member.views
            member.views = lambda own, name=f"{mode} {member.name}", original=original: (
                seen.update({name: own.index.tolist()}),
                original(own),
            )[1]
        task(task.views(batch()))
    assert seen["each rotation"] == seen["each simclr"] == list(range(8))
    assert seen["split rotation"] == [0, 1, 2, 3] and seen["split simclr"] == [4, 5, 6, 7]
    uneven = make_task("rotation+simclr+autoencoder", images="split")
    parts = [uneven._batch_of(number, batch(), uneven._part(number, 8)).index.tolist() for number in range(3)]
    assert parts == [[0, 1], [2, 3, 4], [5, 6, 7]], "no image is dropped, because all are counted as seen"
    assert [member.setup.batch_size for member in uneven.tasks] == [2, 3, 3]
    assert len(uneven.views(batch())[1]) == 6
    with pytest.raises(SpecError, match="batch_size must be at least 4, two images a member, got 3"):
        make_task("rotation+simclr", batch_size=3, images="split")


def test_labels_reach_only_the_member_that_declares_them() -> None:
    task = make_task("rotation+supervised", classes=10)
    assert type(task).uses_labels
    given: dict[str, Any] = {}
    for member in task.tasks:
        original = member.views
        member.views = lambda own, name=member.name, original=original: (
            given.update({name: own.labels}),
            original(own),
        )[1]
    labels = torch.arange(8)
    task(task.views(batch(labels=labels)))
    assert given["rotation"] is None and torch.equal(given["supervised"], labels)
    assert task.tasks[0].setup.num_classes is None and task.tasks[1].setup.num_classes == 10


MEMBERS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in TASKS._builtin if TASKS.get(name).role.trains]
MEMBERS += [("exemplar", {"form": "surrogate"}), ("denoising_autoencoder", {"noise": "mask"})]


@pytest.mark.parametrize(("name", "options"), MEMBERS)
def test_harmonised_members_all_see_lightness(name: str, options: dict[str, Any]) -> None:
    other = "rotation" if name == "colorization" else "colorization"
    task = make_task(f"{other}+{name}", harmonise=True, classes=10, **{name: options})
    judged = task.evaluated().input
    assert judged.kind == "lightness"
    given, seen = batch(labels=torch.arange(8)), network_inputs(task)
    task(task.views(given))
    assert len(seen) == 2
    task.eval()
    with torch.no_grad():
        codes, facts = task.codes(given.images), task.diagnose(given.images)
        assert len(seen) >= 2 + len({key.split("/")[0] for key in codes}) + len({key.split("/")[0] for key in facts})
        task.preview(given)
    for images in seen:  # in training, for codes, for facts and for pictures
        torch.testing.assert_close(images[:, 0], images[:, 1])
        torch.testing.assert_close(images[:, 0], images[:, 2])


def test_harmonised_members_convert_colours_where_the_network_begins() -> None:
    task = make_task(
        "rotation+autoencoder+exemplar", harmonise=True, exemplar={"gray": 0.0}, rotation={"pad": 0, "flip": False}
    )
    given = batch()
    rotated, _, exemplar = task.views(given)
    assert torch.equal(rotated[0][:8], given.images), "views are of colours"
    expected = (lightness(given.images) / 100).expand(-1, 3, -1, -1)
    for member in task.backbone.member_backbones[:2]:
        assert member.input == task.evaluated().input
        torch.testing.assert_close(member.prepare(given.images), (expected - 0.5) / 0.2, atol=1e-4, rtol=1e-4)
    # standardised before the network is met
    torch.testing.assert_close(exemplar["images"][:, 0], exemplar["images"][:, 1], atol=1e-4, rtol=0)
    found = task.eval().diagnose(given.images)
    constant = copy.deepcopy(task)
    nn.init.zeros_(constant.tasks[1].decoder.last.weight)
    with torch.no_grad():
        mean = constant.backbone.judged.prepare(given.images).mean()
        constant.tasks[1].decoder.last.bias.fill_(float(mean))
    assert constant.diagnose(given.images)["autoencoder/variance_explained"] == pytest.approx(0, abs=1e-4), (
        "of lightness, not of colours"
    )
    assert set(found) == {"autoencoder/mse", "autoencoder/variance_explained"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("colorization+rotation", "rgb"),
        ("colorization+relative_position", "standardised"),
        ("relative_position+colorization", "standardised"),
        ("colorization+autoencoder", "rgb"),
    ],
)
def test_it_is_judged_with_the_input_that_keeps_most(name: str, kind: str) -> None:
    task = make_task(name)
    assert task.evaluated().input.kind == kind
    wanted = {"colorization": "lightness", "relative_position": "standardised"}
    assert [member.input.kind for member in task.backbone.member_backbones] == [
        wanted.get(part, "rgb") for part in name.split("+")
    ]


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
    monkeypatch.setattr(
        TASKS, "_added", {**TASKS._added, **{t.name: t for t in (TwoPhases, OwnBackbone, Teacher, HiddenTeacher)}}
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rotation+", "combines 1 task; write two or more"),
        ("+", "combines 0 tasks"),
        ("rotation+rotation", "names 'rotation' twice"),
        ("rotation+colourisation", "did you mean 'colorization'"),
        ("rotation+random", "random is not trained"),
        ("rotation+two_phases", "trains in 2 phases"),
        ("teacher+rotation", "judges a network of its own"),
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
        "name": "combined", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}},
        "backbone": TINY.model_dump(),
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "tasks": list(tasks), "baselines": [],
        "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip


def test_a_matrix_runs_combinations_and_takes_every_members_options(tmp_path: Path) -> None:
    long_form = {
        "task": "rotation+autoencoder",
        "row": "divided",
        "options": {"rotation": {"pad": 2}, "images": "split", "learning_rate": 1e-3},
    }
    results = ssl_bench.run(matrix("rotation+autoencoder", long_form, "rotation+vae"), tmp_path)
    assert not results.failures and not results.missing
    own = results.pretraining.set_index("row")
    assert own.loc["divided", "passes"] == pytest.approx(own.loc["rotation+autoencoder", "passes"] / 2)
    assert {"rotation/accuracy", "autoencoder/loss", "diagnose.autoencoder/mse"} <= set(own.columns)
    described = read_record(next(tmp_path.glob("cells/rotation_vae*/*/pretrain.json")), Pretraining).describe
    assert described["rotation/loss_divided_by"] == round(math.log(4), 4) and described["vae/loss_divided_by"] > 0
    (weights,) = tmp_path.glob("cells/divided/*/backbone.safetensors")
    assert ssl_bench.load_backbone(weights).num_features == 64
    for changes, message in (
        ({"rotation": {"pads": 2}}, "did you mean 'pad'"), ({"rotatoin": {}}, "did you mean 'rotation'"),
        ({"images": "all"}, "each"),
        ({"rotation": {"pad": -1}}, "pad"),
    ):  # fmt: skip
        with pytest.raises(SSLBenchError, match=message):
            prepare(matrix({"rotation+autoencoder": changes}), tmp_path / "other")
    assert (
        TASKS.get("rotation+relative_position").min_image_size
        == TASKS.get("relative_position").min_image_size
        > TASKS.get("rotation").min_image_size
    )


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
    changed = make_task("rotation+mine_combined")
    changed.before_training()
    assert changed.scales[1] > 2
    with pytest.raises(SpecError, match="plus sign"):
        TASKS.add(type("Plus", (PretextTask,), {"name": "a+b"}))


def test_what_a_members_option_stands_for_is_in_the_combinations_id(tmp_path: Path) -> None:
    """A file that an option names, say: its digest, not its path, decides the result."""

    class Filed(PretextTask):
        """A loss with a file."""

        name = "filed"

        class Options(TaskOptions):
            file: str
            digest: str = ""

        @classmethod
        def resolve(cls, options: Any, make: Any) -> Any:
            return options.model_copy(update={"digest": Path(options.file).read_text()})

    file = tmp_path / "colours.txt"
    combined = _combine((TASKS.get("rotation"), Filed))
    options = parse(combined.Options, {"filed": {"file": str(file)}}, "rotation+filed")
    dumps = []
    for text in ("one", "two"):
        file.write_text(text)
        resolved = combined.resolve(options, make_backbone)
        assert resolved.filed.digest == text and resolved.rotation == options.rotation
        dumps.append(resolved.model_dump(mode="json"))
    assert dumps[0] != dumps[1]


def test_it_is_a_task_like_any_other() -> None:
    results = check_task("rotation+autoencoder")
    assert all(results), "\n".join(str(result) for result in results if not result)
