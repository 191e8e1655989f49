"""The backbone: timm's network where timm can express it, scaled stems, strict weights, label-free statistics."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ssl_bench.backbones.resnet import Backbone, InputSpec, pool_stage, reestimate_batchnorm
from ssl_bench.backbones.saving import load_backbone, save_backbone
from ssl_bench.errors import SpecError, WeightsError
from ssl_bench.spec.matrix import BackboneSpec
from toys import TINY

INPUT = InputSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def test_weights_load_in_timm_with_equal_features(tmp_path: Path) -> None:
    backbone = Backbone(BackboneSpec(name="resnet18"), 128, INPUT).eval()
    save_backbone(backbone, tmp_path / "b.safetensors")
    from safetensors.torch import load_file

    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(load_file(tmp_path / "b.safetensors"), strict=True)
    images = torch.rand(2, 3, 128, 128)
    ready = (images - torch.tensor(INPUT.mean).view(1, 3, 1, 1)) / torch.tensor(INPUT.std).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), plain.eval()(ready), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "size", "stem", "features", "map_side"),
    [
        ("resnet18", 0.25, 32, 16, 128, 4),
        ("resnet50", 0.25, 64, 16, 512, 4),
        ("resnet10t", 0.5, 32, 32, 256, 4),
        ("resnet34", 0.5, 128, 32, 256, 4),
    ],
)
def test_width_scales_every_layer_and_the_stem(
    name: str, width: float, size: int, stem: int, features: int, map_side: int
) -> None:
    backbone = Backbone(BackboneSpec(name=name, width=width), size)
    assert backbone.network.bn1.num_features == stem
    images = torch.rand(2, 3, size, size)
    stages = backbone.eval().stages(images)
    assert list(stages) == ["s1", "s2", "s3", "s4"]
    assert stages["s4"].shape == (2, features, map_side, map_side)
    torch.testing.assert_close(backbone.feature_map(images), stages["s4"])
    torch.testing.assert_close(backbone(images), stages["s4"].mean((2, 3)))
    torch.testing.assert_close(backbone(images), backbone.trunk(backbone.prepare(images)))


def test_stems_follow_the_image_size() -> None:
    assert Backbone(TINY.model_copy(update={"stem_stride": None}), 32).network.conv1.stride == (1, 1)
    assert Backbone(TINY.model_copy(update={"stem_stride": None}), 64).network.conv1.stride == (2, 2)
    large = Backbone(BackboneSpec(name="resnet18", width=0.25), 128).network
    assert large.conv1.kernel_size == (7, 7) and isinstance(large.maxpool, nn.MaxPool2d)


def test_round_trip_keeps_weights_and_input_handling(tmp_path: Path) -> None:
    backbone = Backbone(TINY, 32, InputSpec(kind="lightness", mean=(0.5,) * 3, std=(0.2,) * 3)).eval()
    save_backbone(backbone, tmp_path / "b.safetensors")
    again = load_backbone(tmp_path / "b.safetensors").eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(backbone(images), again(images))
    assert again.input == backbone.input and again.spec == backbone.spec
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    x = again.prepare(grey)
    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])


def test_wrong_weights_are_refused_with_counts(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "b.safetensors"
    save_backbone(Backbone(TINY, 32), path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        meta = opened.metadata()
    with pytest.raises(WeightsError, match="damaged"):  # its digest is of other tensors
        save_file(
            {f"backbone.{name}": t for name, t in load_file(path).items()}, tmp_path / "c.safetensors", metadata=meta
        )
        load_backbone(tmp_path / "c.safetensors")
    del meta["ssl_bench_digest"]
    tensors = load_file(path)
    save_file({f"backbone.{name}": t for name, t in tensors.items()}, path, metadata=meta)
    with pytest.raises(WeightsError, match=r"0 of \d+ tensors match; \d+ missing .* \d+ unexpected"):
        load_backbone(path)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="no ssl_bench backbone"):
        load_backbone(path)
    save_file(tensors, path, metadata={**meta, "format": "99"})
    with pytest.raises(WeightsError, match="newer than this version"):
        load_backbone(path)
    path.write_bytes(pickle.dumps(dict.fromkeys("ab")))
    with pytest.raises(WeightsError, match="pickled checkpoints are not opened"):
        load_backbone(path)
    with pytest.raises(WeightsError, match="does not exist"):
        load_backbone(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("spec", "size", "message"),
    [
        (BackboneSpec(name="resnet19"), 32, "did you mean"),
        (BackboneSpec(name="vit_tiny_patch16_224"), 32, "not one of timm's ResNets"),
        (BackboneSpec(width=0.01), 32, "whole numbers"),
        (BackboneSpec(width=0.0625), 32, "at least 8"),
        (BackboneSpec(stem_stride=2), 224, "stem: 3x3"),
        (BackboneSpec(name="resnet50_gn"), 64, "has GroupNorm in place of BatchNorm"),
        (BackboneSpec(name="resnetblur18", width=0.5, stem="timm"), 64, "cannot be made 0.5 times as wide"),
    ],
)
def test_impossible_networks_are_refused(spec: BackboneSpec, size: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Backbone(spec, size)


def test_statistics_are_the_plain_average_over_the_images() -> None:
    torch.manual_seed(0)
    backbone = Backbone(TINY, 32)
    chunks = [torch.rand(8, 3, 32, 32) for _ in range(4)]
    with torch.no_grad():
        first = [backbone.network.conv1(backbone.prepare(chunk)) for chunk in chunks]
    backbone.eval()
    reestimate_batchnorm(backbone, iter(chunks))
    expected = torch.stack([x.mean((0, 2, 3)) for x in first]).mean(0)
    torch.testing.assert_close(backbone.network.bn1.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert not backbone.training and backbone.network.bn1.momentum == 0.1
    again = backbone.network.layer4[1].bn2.running_var.clone()
    reestimate_batchnorm(backbone, iter(chunks))  # nothing of the old statistics remains
    torch.testing.assert_close(backbone.network.layer4[1].bn2.running_var, again)


@pytest.mark.parametrize(
    ("channels", "limit", "side"), [(16, 2048, 11), (64, 2048, 5), (512, 2048, 2), (4096, 2048, 1), (16, 100_000, 16)]
)
def test_stages_are_pooled_to_the_largest_square_within_the_limit(channels: int, limit: int, side: int) -> None:
    x = torch.rand(2, channels, 16, 16)
    assert pool_stage(x, limit).shape == (2, side * side * channels)
    vector = torch.rand(2, 5)
    assert pool_stage(vector, limit) is vector
