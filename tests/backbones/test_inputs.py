"""Kinds of input: those of the suite as before, those of plugins with channels of their own, saved with the weights by
name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_bench import load_backbone, save_backbone
from ssl_bench.backbones import inputs
from ssl_bench.backbones.inputs import InputSpec, input_kind, keeps_most
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.errors import SpecError, SSLBenchError
from toys import TINY


@pytest.fixture(autouse=True)
def _kinds_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(inputs, "_KINDS", dict(inputs._KINDS))
    yield


def halves(images: Tensor) -> Tensor:
    return torch.cat([images / 2, images.mean(1, keepdim=True)], 1)


def test_a_kind_of_four_channels_is_built_normalised_saved_and_loaded(tmp_path: Path) -> None:
    input_kind("halves", channels=4)(halves)
    spec = InputSpec(kind="halves", mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0))
    backbone, images = Backbone(TINY, 32, spec).eval(), torch.rand(2, 3, 32, 32)
    assert backbone.network.conv1.in_channels == 4
    expected = (halves(images) - torch.tensor(spec.mean).view(1, 4, 1, 1)) / torch.tensor(spec.std).view(1, 4, 1, 1)
    assert torch.equal(backbone.prepare(images), expected)
    save_backbone(backbone, tmp_path / "b.safetensors")
    assert torch.equal(load_backbone(tmp_path / "b.safetensors")(images), backbone(images))
    del inputs._KINDS["halves"]
    with pytest.raises(SSLBenchError, match="unknown input kind 'halves'.* once the plugin is loaded"):
        load_backbone(tmp_path / "b.safetensors")


def test_without_numbers_other_channels_are_taken_as_they_are() -> None:
    input_kind("halves", channels=4)(halves)
    assert InputSpec(kind="halves").mean == (0.0,) * 4 and InputSpec(kind="halves").std == (1.0,) * 4
    assert InputSpec(kind="lightness").mean == (0.5,) * 3
    with pytest.raises(ValueError, match="mean must have 4 values, one for every channel of halves"):
        InputSpec(kind="halves", mean=(0.5, 0.5, 0.5))


def test_names_are_taken_once_and_channels_are_whole_numbers() -> None:
    with pytest.raises(SpecError, match="an input kind named 'rgb' exists already"):
        input_kind("rgb")(halves)
    input_kind("halves", channels=4)(halves)
    input_kind("halves", channels=4)(halves)  # the module was loaded once more
    assert keeps_most(["halves", "lightness", "standardised"]) == "standardised"
    for channels in (0, 65, 2.0):
        with pytest.raises(SpecError, match="channels must be 1 to 64"):
            input_kind("other", channels=channels)  # type: ignore[arg-type]


def test_one_network_is_shown_inputs_of_its_channels_only() -> None:
    input_kind("halves", channels=4)(halves)
    with pytest.raises(SpecError, match=r"a network for rgb \(3 channels\) cannot be shown halves \(4\)"):
        Backbone(TINY, 32).with_input(InputSpec(kind="halves"))
