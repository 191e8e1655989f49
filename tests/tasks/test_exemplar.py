"""Exemplar: triplets against a triple loop, embeddings normalised per view, surrogate classes that are images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import ssl_bench.tasks.exemplar as module
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError, SpecError, SSLBenchError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.exemplar import Exemplar, triplet_loss
from ssl_bench.transforms import policy

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 32, batch_size: int = 8, num_images: int = 100, **options: object) -> Exemplar:
    torch.manual_seed(0)
    given = Exemplar.Options(**options)  # type: ignore[arg-type]
    setup = Setup(size, 100, batch_size, num_images, None, lambda n: torch.rand(n, 3, size, size))
    backbone = Exemplar.build_backbone(lambda input: Backbone(TINY, size, InputSpec(kind=input)), given)
    return Exemplar(backbone, given, setup)


def batch_of(images: Tensor, first: int = 0) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)) + first)


def by_hand(z: np.ndarray, index: list[int], margin: float, mining: str) -> float:
    """The loss one triplet at a time, from embeddings of any length."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for a in range(len(z)):
        for p in range(len(z)):
            if p == a or index[p] != index[a]:
                continue
            near = 1 - z[a] @ z[p]
            far = sorted(1 - z[a] @ z[n] for n in range(len(z)) if index[n] != index[a])
            if mining == "all":
                losses += [max(0.0, near - d + margin) for d in far]
            else:
                losses.append(max(0.0, near - next((d for d in far if d > near), far[-1]) + margin))
    return float(np.mean(losses))


@pytest.mark.parametrize("mining", ["semi-hard", "all"])
@pytest.mark.parametrize("crops", [2, 3])
def test_the_loss_equals_one_triplet_at_a_time(mining: str, crops: int) -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        z, index = draw.normal(size=(5 * crops, 4)), list(range(5)) * crops
        unit = torch.nn.functional.normalize(torch.from_numpy(z), dim=1)
        found = triplet_loss(1 - unit @ unit.T, torch.tensor(index), 0.5, mining)
        assert float(found) == pytest.approx(by_hand(z, index, 0.5, mining), abs=1e-6)


def test_the_task_normalises_every_view_by_itself() -> None:
    task = make_task(crops=2).eval()
    views = task.views(batch_of(torch.rand(8, 3, 32, 32)))
    embedded: list[Tensor] = []
    task.head.register_forward_hook(lambda module, inputs, output: embedded.append(output.detach()))
    found = task(views)
    assert float(found["loss"].detach()) == pytest.approx(
        by_hand(embedded[0].double().numpy(), views["index"].tolist(), 0.5, "semi-hard"), abs=1e-5
    )
    z = torch.nn.functional.normalize(embedded[0], dim=1)
    similar = (z @ z.T).fill_diagonal_(-2)
    assert float(found["accuracy"]) == pytest.approx(
        (views["index"][similar.argmax(1)] == views["index"]).float().mean().item()
    )


@pytest.mark.parametrize(("margin", "mining"), [(0.2, "all"), (0.9, "semi-hard")])
def test_the_loss_is_of_the_margin_mining_and_dimensions_asked_for(margin: float, mining: str) -> None:
    task = make_task(crops=2, margin=margin, mining=mining, dimensions=24).eval()
    views = task.views(batch_of(torch.rand(8, 3, 32, 32)))
    embedded: list[Tensor] = []
    task.head.register_forward_hook(lambda module, inputs, output: embedded.append(output.detach()))
    loss = float(task(views)["loss"].detach())
    z, index = embedded[0].double().numpy(), views["index"].tolist()
    assert z.shape == (16, 24)
    assert loss == pytest.approx(by_hand(z, index, margin, mining), abs=1e-5)
    assert loss != pytest.approx(by_hand(z, index, 0.5, mining), abs=1e-3) and task.describe()["margin"] == margin


def test_a_view_is_cropped_distorted_with_the_strength_asked_for_made_grey_and_standardised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Any, ...]] = []
    owners = dict.fromkeys(("random_resized_crop", "color_jitter", "random_grayscale"), policy) | {
        "standardise": module
    }
    for name, owner in owners.items():

        def record(images: Tensor, *values: float, name: str = name, **named: float) -> Tensor:
            calls.append((name, *values, named))
            return images

        monkeypatch.setattr(owner, name, record)
    make_task(strength=0.4, gray=0.3).views(batch_of(torch.rand(8, 3, 32, 32)))
    s = 0.4
    one = [
        ("random_resized_crop", None, (0.08, 1.0), (3 / 4, 4 / 3), 0.5, "bilinear", {}),
        ("color_jitter", 0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, {"p": 0.8}), ("random_grayscale", 0.3, {}),
        ("standardise", {}),
    ]  # fmt: skip
    assert calls == one * 2


def test_points_that_lie_all_alike_cost_the_margin() -> None:
    for mining in ("semi-hard", "all"):
        assert float(triplet_loss(torch.zeros(8, 8), torch.arange(4).repeat(2), 0.4, mining)) == pytest.approx(0.4)
    assert make_task(margin=0.4).chance_loss() == pytest.approx(0.4)


def test_the_semi_hard_negative_is_not_the_hardest() -> None:
    distance = torch.tensor([[0.0, 0.3, 0.1, 0.4], [0.3, 0.0, 0.9, 0.9], [0.1, 0.9, 0.0, 0.2], [0.4, 0.9, 0.2, 0.0]])
    index = torch.tensor([0, 0, 1, 1])
    # the nearest beyond the partner, for each anchor
    terms = [0.3 - 0.4 + 0.5, 0.3 - 0.9 + 0.5, 0.2 - 0.9 + 0.5, 0.2 - 0.4 + 0.5]
    assert float(triplet_loss(distance, index, 0.5, "semi-hard")) == pytest.approx(np.mean([max(0, t) for t in terms]))


def test_views_are_drawn_per_image_and_standardised() -> None:
    task = make_task(crops=3, gray=0.0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    views = task.views(batch_of(image.expand(6, -1, -1, -1)))
    assert views["images"].shape == (18, 3, 32, 32) and views["index"].tolist() == list(range(6)) * 3
    flat = views["images"].flatten(1)
    assert flat.mean(1).abs().max() < 1e-4 and (flat.std(1, correction=0) - 1).abs().max() < 1e-2
    assert len(torch.unique(flat.round(decimals=3), dim=0)) == 18, "equal images have views of their own"
    grey = make_task(batch_size=200, gray=0.66).views(batch_of(torch.rand(200, 3, 32, 32)))["images"]
    count = int((grey[:, 0] - grey[:, 1]).abs().flatten(1).amax(1).lt(1e-4).sum())
    assert stats.binomtest(count, 400, 0.66).pvalue > 1e-3


def test_one_pass_for_all_views_of_the_backbone_that_standardises() -> None:
    task = make_task(crops=2)
    assert task.backbone.input.kind == "standardised" and make_task(form="surrogate").backbone.input.kind == "rgb"
    passes: list[int] = []
    task.backbone.network.conv1.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    task(task.views(batch_of(torch.rand(8, 3, 32, 32))))["loss"].backward()
    assert passes == [16] and all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_surrogate_classes_are_the_images_of_the_set() -> None:
    task = make_task(form="surrogate", crops=2, num_images=40)
    assert task.head.out_features == 40 and task.chance_loss() == pytest.approx(math.log(40))
    views = task.views(batch_of(torch.rand(8, 3, 32, 32), first=30))
    assert views["index"].tolist() == list(range(30, 38)) * 2
    assert ((views["images"] >= 0) & (views["images"] <= 1)).all()
    found = task(views)
    logits = task.head(task.backbone(views["images"]))
    torch.testing.assert_close(
        found["loss"], -logits.log_softmax(1)[torch.arange(16), views["index"]].mean(), rtol=1e-3, atol=1e-3
    )
    few = ImageSet(np.zeros((50_001, 8, 8, 3), np.uint8), np.arange(50_001), None, (), "photos", "f")
    with pytest.raises(DataError, match="takes at most 50,000; photos has 50,001"):
        Exemplar.check(Exemplar.Options(form="surrogate"), few)
    Exemplar.check(Exemplar.Options(), replace(few))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SpecError, match="crops 1 leaves a view without a partner"):
        parse(Exemplar.Options, {"crops": 1}, "exemplar")
    assert parse(Exemplar.Options, {"crops": 1, "form": "surrogate"}, "exemplar").crops == 1
    with pytest.raises(SpecError, match=r"batch_size must be at least 2 \(got 1\)"):
        make_task(batch_size=1)
    for idle in ({"margin": 0.4}, {"mining": "all"}, {"dimensions": 64}, {"gray": 0.5}, {"strength": 0.5}):
        with pytest.raises(
            SpecError, match=f"{next(iter(idle))} = .* changes nothing: it is a setting of form: triplet"
        ):
            parse(Exemplar.Options, {"form": "surrogate", **idle}, "exemplar")
        for given in (parse(Exemplar.Options, idle, "exemplar"), Exemplar.Options(form="surrogate")):
            assert parse(Exemplar.Options, given.model_dump(mode="json"), "a record") == given
    for wrong in ({"margin": 0}, {"mining": "hard"}, {"form": "pairs"}):
        with pytest.raises(SSLBenchError, match=next(iter(wrong))):
            parse(Exemplar.Options, wrong, "exemplar")


def test_recipe_of_the_authors() -> None:
    long = Exemplar.recipe(Exemplar.Options(), 32, 70_000)
    assert (long.optimizer, long.learning_rate, long.weight_decay, long.batch_size, long.schedule) == (
        "sgd",
        0.1,
        1e-4,
        256,
        "cosine",
    )
    assert Exemplar.recipe(Exemplar.Options(), 224, 70_000).milestones == (15 / 35, 25 / 35)
    assert Exemplar.recipe(Exemplar.Options(), 32, 1_000).optimizer == "adamw"
