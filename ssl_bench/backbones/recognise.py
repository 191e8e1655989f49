"""Which of timm's ResNets tensors belong to, by their names and shapes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import timm
import torch
from torch import Tensor

from ssl_bench.backbones.resnet import build_resnet
from ssl_bench.errors import WeightsError
from ssl_bench.spec.matrix import BackboneSpec

# tried first, of those of equal shapes
PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")


@contextmanager
def without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def beginnings(tensors: Mapping[str, Tensor]) -> list[str]:
    """What may stand before the names of a ResNet, so that its stem and first block follow."""
    # named, or the places in a Sequential of the network's parts
    firsts = (r"layer1\.0\.conv1\.weight", r"[1-9]\.0\.conv1\.weight")
    starts = {
        match.group(1) for name in tensors for first in firsts if (match := re.fullmatch(rf"(|.*\.){first}", name))
    }
    stems = ("conv1.weight", "conv1.0.weight", "0.weight", "0.0.weight")
    return sorted(start for start in starts if any(f"{start}{stem}" in tensors for stem in stems))


def nearest_resnet(
    tensors: Mapping[str, Tensor], backbone: str | None = None
) -> tuple[str, float, str, int, dict[str, tuple[int, ...]]]:
    """(name, width, stem "3x3" or "timm", matching tensors, name to shape of all) of the ResNet that tensors in timm's
    naming fit best."""
    first = tensors.get("conv1.weight")
    stem = "3x3" if first is not None and first.ndim == 4 and tuple(first.shape[1:]) == (3, 3, 3) else "timm"
    width = 1.0
    norm = tensors.get("bn1.weight")
    if (
        first is not None
        and norm is not None
        and norm.ndim == 1
        and len(norm) != 64
        and len(norm) % 2 == 0
        and 8 <= len(norm) <= 256
    ):
        width = len(norm) / 64
    best: tuple[str, float, str, int, dict[str, tuple[int, ...]]] | None = None
    score = 0.0
    trunk = {name for name in tensors if re.match(r"(conv1|bn1|layer\d)\.", name)}
    for name in [backbone] if backbone is not None else names_with(blocks_of(tensors)):
        layout = _tensor_shapes(name, width, stem)
        if layout is None:
            continue
        matched = sum(key in tensors and tuple(tensors[key].shape) == shape for key, shape in layout.items())
        share = matched / len(trunk | layout.keys())
        if best is None or share > score:
            best, score = (name, width, stem, matched, layout), share
        if all(tuple(tensors[key].shape) == layout.get(key) for key in trunk):
            break  # this one, whole or not
    if best is None:
        channels = len(norm) if norm is not None and norm.ndim else "as many"
        raise WeightsError(
            f"no ResNet of timm's can be made with a stem of {channels} channels; give --backbone if it is one"
        )
    return best


def are_twins(name: str, other: str) -> bool:
    """Whether two networks differ in what has no tensors:
    resnetaa50 and resnetblur50 are resnet50 with other pooling."""
    return re.sub(r"^resnet(aa|blur)", "resnet", other) == re.sub(r"^resnet(aa|blur)", "resnet", name)


def blocks_of(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How many blocks the four stages have."""
    places = {match.group(1, 2) for name in tensors if (match := re.match(r"layer([1-4])\.(\d+)\.", name))}
    return tuple(sum(stage == str(number) for stage, _ in places) for number in range(1, 5))


#: blocks a stage by the number in a network's name; basic and bottleneck blocks share them
_DEPTHS = {
    10: (1, 1, 1, 1), 14: (1, 1, 1, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
    200: (3, 24, 36, 3), 269: (3, 30, 48, 8), 270: (4, 29, 53, 4), 350: (4, 36, 72, 4), 420: (4, 44, 87, 4),
}  # fmt: skip


def names_with(blocks: tuple[int, ...]) -> list[str]:
    """timm's ResNets with so many blocks, the plain ones first; the plain ones where there are none."""
    known = [*PLAIN, *(name for name in timm.list_models(module="resnet") if name not in PLAIN)]
    deep = {
        name: int(match.group(1))
        for name in known
        if (match := re.search(r"(?:resnet|resnext|resnetrs|resnetaa|resnetblur|light)(\d+)", name))
    }
    return [name for name in known if _DEPTHS.get(deep.get(name, 0)) == blocks] or list(PLAIN[:5])


@cache
def _tensor_shapes(name: str, width: float, stem: str) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of a network's tensors, made without memory for them; None where it cannot be made."""
    try:
        with torch.device("meta"), without_warnings():  # of tensors without entries, where a width is odd
            network = build_resnet(BackboneSpec(name=name, width=width, stem="3x3" if stem == "3x3" else "timm"), 32)
    except Exception:  # an odd width, another norm, an odd block
        return None
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
