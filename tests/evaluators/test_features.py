"""Frozen features: one pass, eval mode, the right numbers under the right names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_bench.backbones.resnet import Backbone, pool_stage
from ssl_bench.errors import Interrupted, SpecError, TrainingError
from ssl_bench.evaluators.features import FrozenFeatures, stage_limit
from toys import TINY, noise_set


def pixels_of(images: Any) -> Tensor:
    return torch.from_numpy(images.pixels[images.rows]).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(TINY, 32)


SPLITS = {"train": noise_set(50), "validation": noise_set(20, seed=1)}


def test_values_names_and_sizes(backbone: Backbone) -> None:
    features = FrozenFeatures(backbone, lambda images: {"mean": images.mean((2, 3))}, SPLITS, batch_size=16, limit=64)
    assert features.names() == ["s1", "s2", "s3", "s4", "pooled", "mean"]
    backbone.eval()
    with torch.no_grad():
        images = pixels_of(SPLITS["train"])
        maps, pooled = backbone.stages(images), backbone(images)
    for name, expected in {name: pool_stage(x, 64) for name, x in maps.items()}.items():
        found = features.get("train", name)
        assert found.dtype == torch.float32 and found.shape[1] <= 64 and not found.requires_grad
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.get("train", "pooled"), pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.get("train", "mean"), images.mean((2, 3)))
    assert features.get("validation", "pooled").shape == (20, backbone.num_features)


def test_one_pass_per_split_and_only_when_asked(backbone: Backbone) -> None:
    seen: list[int] = []
    backbone.network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    features = FrozenFeatures(backbone, lambda images: {}, SPLITS, batch_size=16)
    features.names()
    seen.clear()
    for name in features.names():
        features.get("train", name)
    assert seen == [16, 16, 16, 2]
    features.release("train")
    features.get("train", "s1")
    assert sum(seen) == 100


def test_the_backbone_is_only_looked_at(backbone: Backbone) -> None:
    """A training mode left on would adapt BatchNorm to the probe's images; modes come back module by module."""
    backbone.train()
    backbone.network.bn1.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    features = FrozenFeatures(backbone, lambda images: {}, SPLITS)
    first = features.get("train", "pooled").clone()
    assert backbone.training and not backbone.network.bn1.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    features.release()
    again = FrozenFeatures(backbone, lambda images: {}, SPLITS, batch_size=7).get("train", "pooled")
    torch.testing.assert_close(again, first, atol=1e-5, rtol=1e-4)


def test_features_may_be_worked_on(backbone: Backbone) -> None:
    features = FrozenFeatures(backbone, lambda images: {}, SPLITS)
    features.get("train", "pooled").clone().mul_(2).requires_grad_()  # no inference tensors


def test_a_representation_without_stages_has_pooled_only() -> None:
    features = FrozenFeatures(nn.Flatten(), lambda images: {}, SPLITS)
    assert features.names() == ["pooled"] and features.get("train", "pooled").shape == (50, 3 * 32 * 32)
    torch.testing.assert_close(features.get("train", "pooled"), pixels_of(SPLITS["train"]).flatten(1))


def test_a_feature_in_half_precision_comes_out_in_float32() -> None:
    features = FrozenFeatures(nn.Flatten(), lambda images: {"half": images.mean((2, 3)).half()}, SPLITS)
    assert features.get("train", "half").dtype == torch.float32


def test_more_than_may_stay_on_the_device_is_still_given(backbone: Backbone) -> None:
    small, large = (FrozenFeatures(backbone, lambda images: {}, SPLITS, memory=memory) for memory in (0, 1 << 30))
    torch.testing.assert_close(small.get("train", "s2"), large.get("train", "s2"))


def test_what_is_not_there_is_named(backbone: Backbone) -> None:
    features = FrozenFeatures(backbone, lambda images: {}, SPLITS)
    with pytest.raises(SpecError, match="'test'.*train, validation"):
        features.get("test", "pooled")
    with pytest.raises(SpecError, match="'s9'"):
        features.get("train", "s9")
    with pytest.raises(SpecError, match="'pooled'"):
        FrozenFeatures(backbone, lambda images: {"pooled": images.mean((2, 3))}, SPLITS).names()
    with pytest.raises(Interrupted):
        FrozenFeatures(backbone, lambda images: {}, SPLITS, stop=lambda: True).get("train", "s1")


def test_a_backbone_that_diverged_is_named(backbone: Backbone) -> None:
    backbone.network.layer3[0].conv1.weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match="'s3' is not finite for 50 of 50 images of noise"):
        FrozenFeatures(backbone, lambda images: {}, SPLITS).get("train", "pooled")


def test_limits_by_device() -> None:
    assert stage_limit(torch.device("cpu")) == 2_048 and stage_limit(torch.device("cuda")) == 9_000
