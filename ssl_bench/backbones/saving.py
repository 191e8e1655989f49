"""Networks on disk: tensors and a description of the network, in one safetensors file that can run no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_bench.backbones.inputs import InputSpec
from ssl_bench.backbones.network import Network, build_network, described, origins_of, refuse_unbuildable
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.errors import DamagedWeights, WeightsError
from ssl_bench.plugins.loading import load_plugins
from ssl_bench.records.tensors import read_tensors, save_tensors
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse

FORMAT = 1  # of a ResNet's file
NETWORK_FORMAT = 2  # of any other network's, which names its class
KIND = "ssl_bench.backbone"


def save_backbone(backbone: Network, path: str | Path) -> None:
    """Weights, network and input handling in one safetensors file (written beside and renamed).

    Of a network that is no ``Backbone`` the file has the registered name of its class and its arguments.

    Raises
    ------
    WeightsError : a network that could not be loaded again: not registered, or built otherwise than ``arguments`` say.
    """
    if not isinstance(backbone, Backbone):
        refuse_unbuildable(backbone)
        description = described(backbone)
        header = {
            "format": str(NETWORK_FORMAT),
            "network": json.dumps(description, sort_keys=True),
            "plugins": json.dumps(origins_of(description), sort_keys=True),
        }
        save_tensors(Path(path), backbone.state_dict(), KIND, header)
        return
    meta = {
        "format": str(FORMAT),
        "spec": backbone.spec.model_dump_json(),
        "input": backbone.input.model_dump_json(),
        "image_size": str(backbone.image_size),
    }
    save_tensors(Path(path), backbone.network.state_dict(), KIND, meta)


def load_backbone(path: str | Path, plugins: Sequence[str | Path] = ()) -> Network:
    """The network of a file written by ``save_backbone``, strictly, in eval mode: a ``Backbone``, unless a plugin
    brought its own.

    Parameters
    ----------
    plugins : Python files that are imported first. A file of weights names a class and never brings code.

    Raises
    ------
    WeightsError : no such file, not safetensors (a pickle is never opened), another layout (matched, missing and
        unexpected are counted), a network whose plugin is not loaded.
    """
    load_plugins(plugins)
    stored = read_weights(path)
    if stored.network is not None:
        return stored.network.loaded(stored.tensors, str(path)).eval()
    if stored.resnet is None:
        raise WeightsError(
            f"{path} holds tensors but no ssl_bench backbone; it has to be written by ssl_bench.save_backbone"
        )
    backbone = Backbone(*stored.resnet)
    load_strictly(backbone.network, stored.tensors, str(path))
    return backbone.eval()


@dataclass(frozen=True)
class NetworkDescription:
    """Which network of a plugin's a file holds.

    Attributes
    ----------
    network : its class and arguments, as ``described``.
    origins : kind of network -> the class and plugin that built it, as ``origins_of``; {} in older files.
    """

    network: Mapping[str, Any]
    origins: Mapping[str, str]

    def __str__(self) -> str:
        kind = self.network["network"]
        return f"a network of the kind {kind!r}" + (f" ({self.origins[kind]})" if kind in self.origins else "")

    def loaded(self, tensors: Mapping[str, Tensor], where: str) -> Network:
        """The network with its weights. Raises WeightsError where its plugin is not loaded or they do not fit."""
        network = build_network(self.network, where, self.origins)
        load_strictly(network, dict(tensors), where)
        return network


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a file, and what it says of their network.

    Attributes
    ----------
    resnet : of one that ``save_backbone`` wrote of a ResNet: network, image size and input handling.
    network : of one that it wrote of another network.
    """

    tensors: dict[str, Tensor]
    resnet: tuple[BackboneSpec, int, InputSpec] | None = None
    network: NetworkDescription | None = None


def read_weights(path: str | Path) -> StoredWeights:
    """What a safetensors file holds. No plugin is needed.

    Raises
    ------
    WeightsError : no such file, not safetensors, one of a newer ssl_bench; DamagedWeights for one of ours that is not
        what was written.
    """
    tensors, meta = _read_weights(path)
    if "network" in meta:
        description = NetworkDescription(json.loads(meta["network"]), json.loads(meta.get("plugins", "{}")))
        return StoredWeights(tensors, network=description)
    return StoredWeights(tensors, _facts(meta, path))


def _read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file; its metadata where it is one of ours, else {}."""
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"weights file {str(path)!r} does not exist")
    try:
        tensors, meta = read_tensors(file)
    except DamagedWeights as error:
        why = "pickled checkpoints are not opened, because opening one can run any code in it"
        remedy = f"`ssl-bench convert {path}` reads the tensors of one alone and writes them as safetensors"
        raise DamagedWeights(f"{error}; {why}; {remedy}") from None
    if meta.get("kind") != KIND:
        return tensors, {}
    if int(meta["format"]) > NETWORK_FORMAT:
        raise WeightsError(
            f"{path} is of format {meta['format']}, newer than this version's {NETWORK_FORMAT}; update ssl_bench"
        )
    return tensors, meta


def _facts(meta: dict[str, str], path: str | Path) -> tuple[BackboneSpec, int, InputSpec] | None:
    """Network, image size and input handling of a ResNet; None of a file that is none of ours."""
    if not meta:
        return None
    spec, handling = (
        parse(BackboneSpec, json.loads(meta["spec"]), str(path)),
        parse(InputSpec, json.loads(meta["input"]), str(path)),
    )
    return spec, int(meta["image_size"]), handling


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load every tensor or none: a prefix gone wrong must not leave a random network with a plausible score."""
    wanted = module.state_dict()
    matched = [n for n in wanted if n in tensors and wanted[n].shape == tensors[n].shape]
    missing = [n for n in wanted if n not in tensors]
    unexpected = [n for n in tensors if n not in wanted]
    reshaped = [
        f"{n} {tuple(tensors[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in wanted
        if n in tensors and wanted[n].shape != tensors[n].shape
    ]
    if missing or unexpected or reshaped:
        raise WeightsError(
            f"{where}: {len(matched)} of {len(wanted)} tensors match; {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(reshaped)} of another shape {reshaped[:3]}"
        )
    module.load_state_dict(tensors)
