"""Checkpoints of other programs to weights that rows can be made of: the ResNet in them, under timm's names, in one
safetensors file.

Tensors alone are read: a pickle is opened with ``weights_only``, which refuses everything else, and in no other way.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_bench.backbones.recognise import are_twins, beginnings, blocks_of, names_with, nearest_resnet, without_warnings
from ssl_bench.backbones.resnet import InputSpec, check_resnet
from ssl_bench.backbones.saving import FORMAT, KIND, read_weights
from ssl_bench.backbones.weights import IMAGENET
from ssl_bench.errors import NoRoomError, WeightsError, did_you_mean, quoted
from ssl_bench.records.tensors import save_tensors
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.reading import missing_file

DEEPEST = 4  # of mappings in a checkpoint
#: of two networks that follow each other: the part of the name of the one that is trained, and of the one that follows
#: it
FOLLOWED = (
    ("encoder_q", "encoder_k"),
    ("base_encoder", "momentum_encoder"),
    ("online", "target"),
    ("backbone", "backbone_momentum"),
)


@dataclass(frozen=True)
class NetworkInFile:
    """A ResNet in a checkpoint.

    Attributes
    ----------
    spec : the network, as timm calls it.
    tensors : name in timm's naming to tensor, all of the network's.
    prefix : what stood before the names.
    dropped : what was left out: the beginning of the names to the number of tensors.
    notes : what was decided for want of a word in the file.
    """

    spec: BackboneSpec
    tensors: Mapping[str, Tensor]
    prefix: str
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def convert(
    file: str | Path, out: str | Path | None = None, backbone: str | None = None, prefix: str | None = None
) -> tuple[Path, NetworkInFile]:
    """Write the ResNet of a checkpoint as a safetensors file that ``weights: file:PATH`` takes; nothing is overwritten.

    Parameters
    ----------
    file : a .pth, .pt, .ckpt, .bin or .safetensors file.
    out : file to write; beside ``file``, with the ending .safetensors, unless given.
    backbone : a ResNet of timm's; found by the tensors' shapes unless given.
    prefix : what stands before the names of the network to take, where there are several.

    Raises
    ------
    WeightsError : no such file, more than tensors in it, no ResNet, several, or one with tensors missing; ``out``
        exists.
    """
    path = Path(file).expanduser()
    target = (
        Path(out).expanduser()
        if out is not None
        else path.with_name(f"{path.stem}{'.converted' if path.suffix == '.safetensors' else ''}.safetensors")
    )
    network = network_in(read_checkpoint(path), str(file), backbone, prefix)
    if target.exists() or target.is_symlink():
        raise WeightsError(f"{target} exists already; nothing was written. Remove it, or give another --out")
    meta = {
        "format": str(FORMAT),
        "spec": network.spec.model_dump_json(),
        "input": InputSpec(mean=IMAGENET.mean, std=IMAGENET.std).model_dump_json(),
        "image_size": "32" if network.spec.stem == "3x3" else "224",
    }
    try:
        save_tensors(target, network.tensors, KIND, meta)
    except NoRoomError:
        raise
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror or error}") from None
    return target, network


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """What a checkpoint holds, as nested mappings.

    Raises WeightsError for a file that holds more than tensors and plain values.
    """
    why = missing_file(path)
    if why:
        raise WeightsError(f"weights file {quoted(str(path))} {why}")
    with open(path, "rb") as opened:
        head = opened.read(16)
    if not head:
        raise WeightsError(f"{path} is empty")
    if not (head[:2] in (b"PK", b"\x1f\x8b") or head[:1] == b"\x80") and head[8:9] == b"{":
        stored = read_weights(path)
        if stored.network is not None:
            raise WeightsError(
                f"{path} holds {stored.network}, and a ResNet is needed here; `weights: file:{path}` and --plugin FILE "
                "judge it as it is"
            )
        return stored.tensors
    try:
        # Namespaces are plain values under names, which many programs save beside the tensors.
        with without_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any kind can fail in any way
        raise WeightsError(f"{path}: {_unread(str(error))}") from None
    if isinstance(checkpoint, argparse.Namespace):
        checkpoint = vars(checkpoint)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(
            f"{path} holds a {type(checkpoint).__name__}, not tensors under names; save model.state_dict()"
        )
    return checkpoint


def _unread(message: str) -> str:
    unsafe = re.search(r"(?:GLOBAL|global:|class) (?!GLOBAL)([A-Za-z_][\w.]*)", message)
    if "TorchScript" in message:
        return (
            "holds a TorchScript program; save the tensors where it was made: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'tensors.pth')"
        )
    if unsafe:
        what = unsafe.group(1).rstrip(".")
        return (
            f"holds more than tensors ({what}), and is not opened, because that can run code; "
            "save the tensors where it was made: model.state_dict()"
        )
    return "is damaged, cut off, or no checkpoint of torch or safetensors"


def _state_dicts(value: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors in a checkpoint, with its place; tensors in nested ones have dotted names in
    the outer ones too."""
    if not isinstance(value, Mapping) or depth > DEEPEST:
        return
    tensors = {
        str(name): tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    if tensors:
        yield where, tensors
    for name, inner in value.items():
        if isinstance(inner, argparse.Namespace):
            inner = vars(inner)
        if hasattr(inner, "state_dict") and not isinstance(inner, Mapping):
            continue
        yield from _state_dicts(inner, f"{where}{name}.", depth + 1)


def network_in(
    checkpoint: Mapping[Any, Any], where: str, backbone: str | None = None, prefix: str | None = None
) -> NetworkInFile:
    """The ResNet in a checkpoint, whole, or a WeightsError that says what is there instead."""
    if backbone is not None:
        check_resnet(backbone)
    dicts = list(_state_dicts(checkpoint))
    if not dicts:
        raise WeightsError(
            f"{where} holds no tensors under names; it has: "
            f"{', '.join(quoted(key) for key in list(checkpoint)[:8]) or 'nothing'}"
        )
    networks: dict[str, tuple[BackboneSpec, dict[str, Tensor], tuple[str, ...]]] = {}
    kept: dict[str, set[str]] = {}  # names as the checkpoint has them
    problems: list[tuple[int, str]] = []
    for place, tensors in dicts:
        for start in beginnings(tensors):
            names = [name for name in tensors if name.startswith(start)]
            try:
                renamed_tensors = _timm_names({name[len(start) :]: tensors[name] for name in names})
                networks[place + start] = _whole(renamed_tensors, backbone)
                kept[place + start] = {
                    f"{place}{name}"
                    for name, renamed in zip(names, renamed_tensors, strict=True)
                    if renamed in networks[place + start][1]
                }
            except WeightsError as error:
                problems.append((-len(names), f"{quoted(place + start) if place + start else 'its names'}: {error}"))
    if prefix is not None:
        known = [*networks, *(text.partition(": ")[0].strip("'") for _, text in problems)]
        chosen = next((start for start in networks if start.rstrip(".") == prefix.rstrip(".")), None)
        if chosen is None:
            raise WeightsError(
                f"{where}: no whole ResNet stands behind {quoted(prefix)}; {did_you_mean(prefix, known)}"
            )
        networks = {chosen: networks[chosen]}
    if not networks:
        names = [name for _, tensors in dicts for name in tensors]
        if problems:
            raise WeightsError(f"{where}: " + "; ".join(text for _, text in sorted(problems)[:2]))
        raise WeightsError(
            f"{where} holds no ResNet under the names of timm or torchvision (conv1.weight, layer1.0.conv1.weight, "
            f"...); its {len(names):,} tensors are "
            f"called {', '.join(quoted(name) for name in names[:3])} ..."
        )
    taken = _one_of(networks, where)
    spec, tensors, notes = networks[taken]
    others = [start for start in networks if start != taken]
    if others:
        notes = (
            *notes,
            f"other networks are there too ({', '.join(quoted(start) for start in others)}); --prefix takes one of "
            "them",
        )
    left = {f"{place}{name}" for place, tensors in dicts for name in tensors} - kept[taken]
    dropped = Counter(next((other for other in others if name in kept[other]), None) or _group(name) for name in left)
    return NetworkInFile(spec, tensors, taken, dict(sorted(dropped.items())), notes)


def _one_of(networks: Mapping[str, tuple[BackboneSpec, Mapping[str, Tensor], Any]], where: str) -> str:
    """The network to take: the only one, one of equal ones,
    or of two that follow each other the one that is trained."""
    ways = sorted(networks, key=lambda start: (len(start), start))
    first = networks[ways[0]][1]
    if all(
        other.keys() == first.keys() and all(torch.equal(other[name], first[name]) for name in first)
        for _, other, _ in networks.values()
    ):
        return ways[0]
    for trained, follower in FOLLOWED:
        led = [way for way in ways if trained in way and follower not in way]
        followers = [way for way in ways if follower in way]
        if len(led) == 1 and followers and len(led) + len(followers) == len(ways):
            return led[0]
    raise WeightsError(
        f"{where} holds {len(ways)} ResNets: {', '.join(quoted(way) for way in ways)}; choose one with --prefix"
    )


def _group(name: str) -> str:
    """The beginning of a name by which what is left out is told: "state_dict.module.fc", "optimizer.state"."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    return ".".join(parts[: max(1, min(3, len(parts) - 1))])


def _timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as timm and torchvision have them: parts of a Sequential by what they are, and shortcuts as downsample.

    Raises WeightsError where two tensors get one name.
    """
    places = sorted({int(match.group(1)) for name in tensors if (match := re.match(r"(\d+)\.0\.conv1\.", name))})
    parts = (
        {"0": "conv1", "1": "bn1"} | {str(place): f"layer{number + 1}" for number, place in enumerate(places[:4])}
        if len(places) >= 4
        else {}
    )
    renamed: dict[str, Tensor] = {}
    for written, tensor in tensors.items():
        first, _, rest = written.partition(".")
        name = (f"{parts[first]}.{rest}" if first in parts else written).replace(".shortcut.", ".downsample.")
        if name in renamed:
            raise WeightsError(
                f"{quoted(written)} and another tensor are both {name}: two networks stand under one beginning; keep "
                "one of them"
            )
        renamed[name] = tensor
    return renamed


def _whole(
    tensors: Mapping[str, Tensor], backbone: str | None
) -> tuple[BackboneSpec, dict[str, Tensor], tuple[str, ...]]:
    """The network, its tensors alone, and notes.

    Raises WeightsError unless every tensor of some ResNet is there in its shape.
    """
    name, width, stem, matched, layout = nearest_resnet(tensors, backbone)
    absent = [key for key in layout if key not in tensors and not key.endswith("num_batches_tracked")]
    reshaped = [key for key, shape in layout.items() if key in tensors and tuple(tensors[key].shape) != shape]
    # of the trunk: another architecture
    extra = [key for key in tensors if re.match(r"(conv1|bn1|layer\d)\.", key) and key not in layout]
    if absent or reshaped or extra:
        asked = "" if backbone is None else "; leave --backbone out to have it found by the shapes"
        raise WeightsError(
            f"nearest is {name}, of which {matched} of {len(layout)} tensors are there; {len(absent)} are missing "
            f"{absent[:3]}, {len(reshaped)} have "
            f"another shape {reshaped[:3]}, and {len(extra)} are not its own {extra[:3]}{asked}"
        )
    whole = {key: tensors.get(key, torch.zeros((), dtype=torch.int64)) for key in layout}
    bad = [
        key for key, tensor in whole.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise WeightsError(
            f"{len(bad)} tensors hold values that are not finite, such as {bad[0]}; the training behind them had failed"
        )
    notes = []
    if any(key not in tensors for key in layout):
        notes.append("it does not count its batches (num_batches_tracked), which changes nothing")
    if stem == "3x3":
        notes.append(
            "its stem is a 3x3 convolution, taken as one of stride 1 without max-pooling, as is usual at 32 px: "
            "tensors do not tell"
        )
    twins = [
        other
        for other in (names_with(blocks_of(tensors)) if backbone is None else [])
        if other != name and are_twins(name, other)
    ]
    if twins:
        notes.append(
            f"{' and '.join(twins)} {'has' if len(twins) == 1 else 'have'} the same tensors; --backbone takes another "
            f"than {name}"
        )
    notes.append("how pixels become input is taken to be ImageNet's mean and deviation: tensors do not tell")
    return (
        BackboneSpec(
            name=name, width=width, stem="3x3" if stem == "3x3" else "timm", stem_stride=1 if stem == "3x3" else None
        ),
        whole,
        tuple(notes),
    )
