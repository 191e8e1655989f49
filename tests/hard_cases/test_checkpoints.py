"""Checkpoints of other programs: the network in them whole or nothing, tensors alone,
and what to do where it does not fit."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from ssl_bench.backbones import weights as module
from ssl_bench.backbones.convert import convert, network_in
from ssl_bench.backbones.recognise import nearest_resnet
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.backbones.saving import load_backbone, save_backbone
from ssl_bench.backbones.weights import open_weights
from ssl_bench.console.commands import app
from ssl_bench.errors import NoRoomError, SSLBenchError, WeightsError
from ssl_bench.spec.matrix import BackboneSpec

NARROW = BackboneSpec(name="resnet18", width=0.125, stem="timm")


@pytest.fixture(scope="module")
def network() -> dict[str, Tensor]:
    """Tensors of a narrow ResNet-18, each with values of its own."""
    torch.manual_seed(0)
    found = Backbone(NARROW, 64).network.state_dict()
    return {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor + 7 for name, tensor in found.items()
    }


@pytest.fixture(scope="module")
def other(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in network.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def in_places(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Names as nn.Sequential(*network.children()) gives them; ``layers``: the place of the first stage."""
    places = {"conv1": "0", "bn1": "1"} | {f"layer{number}": str(layers + number - 1) for number in range(1, 5)}
    return {f"{places[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor for name, tensor in tensors.items()}


HEAD = {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
OPTIMIZER = {
    "state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}},
    "param_groups": [{"lr": 0.1, "params": [0]}],
}


def checkpoints(own: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, tuple[Any, str, dict[str, int]]]:
    """How programs save: the checkpoint, what stands before the names, and what is left out."""
    return {
        "torchvision": ({**own, **HEAD}, "", {"fc": 2}),
        "DataParallel": (under("module.", {**own, **HEAD}), "module.", {"module.fc": 2}),
        "Lightning": (
            {
                "epoch": 3, "state_dict": {**under("model.backbone.", own), "model.head.weight": torch.zeros(2, 2)},
                "optimizer_states": [OPTIMIZER],
            },
            "state_dict.model.backbone.", {"state_dict.model.head": 1},
        ),
        "MoCo": (
            {
                "state_dict": {
                    **under("module.encoder_q.", {**own, **HEAD}), **under("module.encoder_k.", second),
                    "module.queue": torch.zeros(4, 8),
                },
                "optimizer": OPTIMIZER, "arch": "resnet18", "epoch": 200,
            },
            "state_dict.module.encoder_q.",
            {
                "optimizer.state": 2, "state_dict.module": 1, "state_dict.module.encoder_k.": 120,
                "state_dict.module.encoder_q": 2,
            },
        ),
        "BYOL": ({"online_encoder": own, "target_encoder": second}, "online_encoder.", {"target_encoder.": 120}),
        "lightly": (
            {"state_dict": {**under("backbone.", in_places(own, 4)), "head.0.weight": torch.zeros(2, 2)}},
            "state_dict.backbone.", {"state_dict.head": 1},
        ),
        "Sequential without pooling": (under("encoder.", in_places(own, 3)), "encoder.", {}),
        "shortcuts": ({name.replace("downsample", "shortcut"): tensor for name, tensor in own.items()}, "", {}),
        "arguments beside it": ({"model": own, "args": argparse.Namespace(lr=0.1)}, "model.", {}),
        "without counts": (
            {name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")}, "", {},
        ),
        "saved twice": ({"model": own, "ema": dict(own)}, "ema.", {"model.": 120}),
        "halved": (
            {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in own.items()}, "", {},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("program", checkpoints({}, {}))
def test_a_network_is_found_whole_whatever_stands_around_it(
    program: str, network: dict[str, Tensor], other: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint, prefix, dropped = checkpoints(network, other)[program]
    torch.save(checkpoint, tmp_path / "given.ckpt")
    path, found = convert(tmp_path / "given.ckpt")
    assert path == tmp_path / "given.safetensors" and found.prefix == prefix and dict(found.dropped) == dropped
    assert found.spec == NARROW
    loaded = load_backbone(path).network.state_dict()
    assert loaded.keys() == network.keys()
    for name, tensor in loaded.items():
        if program != "without counts" or not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(
                tensor, network[name], rtol=1e-2 if program == "halved" else 0, atol=1e-2 if program == "halved" else 0
            )
    weights = open_weights(f"file:{path}")
    assert weights.spec == NARROW and weights.trained_on == ""


def test_what_is_whole_nowhere_is_never_half_loaded(
    network: dict[str, Tensor], other: dict[str, Tensor], tmp_path: Path
) -> None:
    nan = {**network, "layer2.0.conv1.weight": torch.full_like(network["layer2.0.conv1.weight"], float("nan"))}
    vit = {"cls_token": torch.zeros(1, 1, 8), "blocks.0.attn.qkv.weight": torch.zeros(24, 8)}
    reshaped = {**network, "layer3.0.conv1.weight": torch.zeros(3, 3, 3, 3)}
    for checkpoint, message in (
        (
            {name: tensor for name, tensor in network.items() if "layer4.1." not in name},
            "nearest is resnet18, of which 108 of 120 tensors are there",
        ),
        (
            {**under("a.", dict(list(network.items())[:60])), **under("b.", dict(list(network.items())[60:]))},
            "'a.': nearest is resnet18",
        ),
        (reshaped, r"1 have another shape \['layer3.0.conv1.weight'\]"),
        ({**network, "layer1.2.conv1.weight": torch.zeros(8, 8, 3, 3)}, "not its own"),
        (nan, "values that are not finite, such as layer2.0.conv1.weight"),
        (
            {**network, **in_places(network, 4)},
            "'0.weight' and another tensor are both conv1.weight: two networks stand under one beginning",
        ),
        (
            {"student": under("module.backbone.", network), "teacher": under("backbone.", other)},
            "holds 2 ResNets: .* choose one with --prefix",
        ),
        (vit, "holds no ResNet under the names of timm"),
        ({"epoch": 3}, "holds no tensors under names; it has: 'epoch'"), ({}, "it has: nothing"),
        ([network], "holds a list, not tensors under names"), (torch.zeros(3), "holds a Tensor, not tensors"),
    ):  # fmt: skip
        torch.save(checkpoint, tmp_path / "given.pth")
        with pytest.raises(WeightsError, match=message):
            convert(tmp_path / "given.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.pth"]


def test_one_of_several_is_taken_by_its_prefix(network: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    checkpoint = {"student": under("module.backbone.", network), "teacher": under("backbone.", other)}
    for prefix in ("teacher.backbone.", "teacher.backbone"):
        found = network_in(checkpoint, "x", prefix=prefix)
        assert torch.equal(found.tensors["conv1.weight"], other["conv1.weight"]) and found.dropped == {
            "student.module.backbone": 120
        }
    with pytest.raises(
        WeightsError,
        match="no whole ResNet stands behind 'techer'; known are: student.module.backbone., teacher.backbone.",
    ):
        network_in(checkpoint, "x", prefix="techer")


class Runs:
    """A pickle that would make a file if it were opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_nothing(network: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": network, "x": Runs(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(
        WeightsError,
        match=r"evil.pth: holds more than tensors \(posix.mkdir\), and is not opened, because that can run code",
    ):
        convert(tmp_path / "evil.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(
        WeightsError, match=r"holds more than tensors \(torch.nn.modules.linear.Linear\).*model.state_dict\(\)"
    ):
        convert(tmp_path / "whole.pt")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    with pytest.raises(WeightsError, match="TorchScript program"):
        convert(tmp_path / "program.pt")
    assert not (tmp_path / "ran").exists()


def test_files_of_every_kind_are_told(network: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(network, tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    for content in (
        b"hello" * 10,
        b"\x89PNG" + b"x" * 100,
        b"PK\x03\x04" + b"x" * 100,
        b"\x80\x02}q\x00.",
        good[:5_000],
        good[:-2_000],
        b"\x1f\x8bx",
    ):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(
            WeightsError, match="bad.pth.*(is damaged, cut off, or no checkpoint|holds more than tensors)"
        ):
            convert(tmp_path / "bad.pth")
    (tmp_path / "bad.pth").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "taken.safetensors").write_text("mine")
    for path, out, message in (
        (tmp_path / "bad.pth", None, "is empty"), (tmp_path, None, "is a folder"),
        (tmp_path / "none.pth", None, "does not exist"),
        (tmp_path / "pipe.pth", None, "no file but a pipe"), (tmp_path / ("x" * 300), None, "File name too long"),
        (tmp_path / "good.pth", tmp_path / "taken.safetensors", "exists already; nothing was written"),
    ):  # fmt: skip
        with pytest.raises(WeightsError, match=message):
            convert(path, out)
    assert (tmp_path / "taken.safetensors").read_text() == "mine"


def test_a_full_disk_is_no_fault_of_the_file(
    network: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise NoRoomError("cannot be written: No space left on device")

    torch.save(network, tmp_path / "good.pth")
    monkeypatch.setattr("ssl_bench.backbones.convert.save_tensors", full)
    with pytest.raises(NoRoomError) as caught:
        convert(tmp_path / "good.pth")
    assert caught.value.exit_code == 1


def test_networks_are_known_by_their_shapes() -> None:
    for name in ("resnet50", "resnet18d", "resnext50_32x4d"):
        with torch.device("meta"):
            tensors = timm.create_model(name, num_classes=0).state_dict()
        assert nearest_resnet(tensors)[0] == name
    small = Backbone(BackboneSpec(name="resnet10t", width=0.25, stem="3x3", stem_stride=1), 32).network.state_dict()
    found = network_in({"model": small}, "x")
    assert found.spec == BackboneSpec(name="resnet10t", width=0.25, stem="3x3", stem_stride=1) and any(
        "stride 1" in note for note in found.notes
    )
    with pytest.raises(WeightsError, match="nearest is resnet34, .*leave --backbone out to have it found"):
        network_in(small, "x", backbone="resnet34")
    with pytest.raises(SSLBenchError, match="did you mean"):
        network_in(small, "x", backbone="resnet19")


def test_the_command_says_what_was_kept_and_what_was_not(network: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": under("module.", {**network, **HEAD})}, tmp_path / "given.pth.tar")
    told = CliRunner().invoke(
        app, ["convert", str(tmp_path / "given.pth.tar"), "--out", str(tmp_path / "sub" / "w.safetensors")]
    )
    assert told.exit_code == 0, told.output
    text = " ".join(told.output.split())
    assert (
        "kept: resnet18, width 0.125, 120 tensors behind 'state_dict.module.'" in text
        and "left out: state_dict.module.fc (2)" in text
    )
    assert (
        "ImageNet's mean and deviation" in text
        and f"weights: ['file:{tmp_path / 'sub' / 'w.safetensors'}']" in text.replace("\n", "")
    )
    assert load_file(tmp_path / "sub" / "w.safetensors").keys() == network.keys()


def test_weights_that_do_not_fit_say_what_would_make_them_fit(network: dict[str, Tensor], tmp_path: Path) -> None:
    module._OPENED.clear()
    target = Backbone(BackboneSpec(name="resnet10t", width=0.25), 32).network
    plain = {name: tensor.contiguous() for name, tensor in network.items()}
    save_file(under("module.", plain), tmp_path / "prefixed.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    save_file({"patch.weight": torch.zeros(3)}, tmp_path / "vit.safetensors")
    save_file({name: tensor for name, tensor in plain.items() if "layer4" not in name}, tmp_path / "half.safetensors")
    save_backbone(Backbone(NARROW, 64, InputSpec()), tmp_path / "own.safetensors")
    for name, message in {
        "prefixed": (
            "'module.' stands before the names of its network: "
            r"`ssl-bench convert \S+prefixed.safetensors` writes them without"
        ),
        "plain": (
            r"they are those of a resnet18: write backbone: \{name: resnet18, width: 0.125, stem: timm\}, "
            "or `ssl-bench convert"
        ),
        "own": r"they are those of a resnet18: write backbone: \{name: resnet18, width: 0.125, stem: timm\}",
        "vit": "not named as a ResNet's",
        "half": "nearest is resnet",
    }.items():  # fmt: skip
        with pytest.raises(WeightsError, match=message):
            open_weights(f"file:{tmp_path / name}.safetensors").into(target)
    open_weights(f"file:{tmp_path / 'plain'}.safetensors").into(Backbone(NARROW, 64).network)  # as it says
    torch.save(network, tmp_path / "pickled.pth")
    with pytest.raises(
        WeightsError, match="pickled checkpoints are not opened.*`ssl-bench convert .*pickled.pth` reads the tensors"
    ):
        open_weights(f"file:{tmp_path / 'pickled.pth'}")
