"""What every network that is judged offers, and how a file says which class builds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_bench.errors import SSLBenchError, WeightsError, did_you_mean, text_of
from ssl_bench.plugins.identity import identity
from ssl_bench.plugins.loading import origin_of
from ssl_bench.plugins.registry import NETWORKS
from ssl_bench.system.interruption import is_interruption

_NAME, _ARGUMENTS = "network", "arguments"  # the keys of a network's description


class Network(nn.Module):
    """Base of the networks that are judged. The suite's ResNet is ``Backbone``; a plugin may bring its own.

    A subclass sets ``name`` and ``num_features``, and writes ``forward`` and ``arguments``; then it is saved, loaded,
    returned by ``pretrain`` and judged as a ResNet is, by every evaluator that supports it. It may be made of other
    networks (two of half the width, a backbone and the first layer of its head), which are among its ``arguments``.

    Attributes
    ----------
    name : under which it is registered, by a plugin file or the entry-point group "ssl_bench.networks"; stands in
        weights files.
    num_features : D, the width of its output.
    image_size : side of the images it was trained on, in pixels.
    """

    name: ClassVar[str]
    num_features: int
    image_size: int

    def forward(self, images: Tensor) -> Tensor:
        """RGB [B, 3, H, W] in [0, 1] to features [B, num_features]."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, images)")

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """RGB in [0, 1] to intermediate features, first to last: "s1", "s2", ... to [B, C, h, w] or [B, D]; {} where
        there are none."""
        return {}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """All that frozen evaluators judge: the stages, then "pooled", what ``forward`` gives.

        Override it to compute both in one pass.
        """
        return {**self.stages(images), "pooled": self(images)}

    def arguments(self) -> Mapping[str, Any]:
        """The arguments that build such a network again, untrained: JSON values, or networks among them."""
        raise NotImplementedError(f"{type(self).__name__} must define arguments(self)")

    @classmethod
    def built(cls, arguments: Mapping[str, Any]) -> Network:
        """The network of ``arguments()`` as they come back from JSON."""
        return cls(**arguments)


def described(network: Network) -> dict[str, Any]:
    """A network without its weights: the registered name of its class, and its arguments. Plain JSON, no code.

    Raises
    ------
    WeightsError : its class is not registered, or an argument does not fit into JSON.
    """
    name = getattr(type(network), "name", None)
    if not isinstance(name, str) or name not in NETWORKS or NETWORKS.get(name) is not type(network):
        raise WeightsError(
            f"{type(network).__name__} cannot be saved, because no plugin registers it: give it a `name`, and define "
            "it in the plugin's file"
        )
    arguments = {
        key: described(value) if isinstance(value, Network) else value for key, value in network.arguments().items()
    }
    try:
        json.dumps(arguments)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"network {name!r}: arguments() must give JSON values or networks ({error})") from None
    return {_NAME: name, _ARGUMENTS: arguments}


def origins_of(description: Mapping[str, Any]) -> dict[str, str]:
    """Which class of which plugin builds each kind of network in a description; the suite's own is left out."""
    kinds = [
        description[_NAME],
        *(kind for part in _nested_descriptions(description).values() for kind in origins_of(part)),
    ]
    return {kind: origin_of(NETWORKS.get(kind)) for kind in kinds if not NETWORKS.is_builtin(kind)}


def code_of_network(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What of the code that builds a description belongs to an id."""
    parts = (code for part in _nested_descriptions(description).values() for code in code_of_network(part))
    return [identity(NETWORKS, description[_NAME]), *parts]


def _nested_descriptions(description: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The descriptions among the arguments of another."""
    return {
        key: value
        for key, value in description[_ARGUMENTS].items()
        if isinstance(value, Mapping) and set(value) == {_NAME, _ARGUMENTS}
    }


def build_network(
    description: Mapping[str, Any], where: str, origins: Mapping[str, str] = MappingProxyType({})
) -> Network:
    """The untrained network of a description.

    Parameters
    ----------
    where : the file it comes from, for messages.
    origins : which class of which plugin built each kind of network, as ``origins_of``, for messages.

    Raises
    ------
    WeightsError : no class of this name is registered (its plugin has to be loaded first), or it cannot be built of
        these arguments.
    """
    name, arguments = description[_NAME], description[_ARGUMENTS]
    if name not in NETWORKS:
        defined = f" ({origins[name]})" if name in origins else ""
        raise WeightsError(
            f"{where} holds a network of the kind {name!r}, which a plugin defines{defined}; give its file: --plugin "
            f"FILE, or plugins=[FILE] in Python ({did_you_mean(name, NETWORKS.names())})"
        )
    parts = {key: build_network(part, where, origins) for key, part in _nested_descriptions(description).items()}
    try:
        return NETWORKS.get(name).built({**arguments, **parts})  # type: ignore[no-any-return]
    except BaseException as error:  # of a plugin
        if is_interruption(error) or isinstance(error, SSLBenchError):
            raise
        raise WeightsError(
            f"{where}: network {name!r} cannot be built of its arguments ({type(error).__name__}: {text_of(error)}); "
            "is this another version of its plugin?"
        ) from error


def refuse_unbuildable(network: Network) -> None:
    """Raise WeightsError for a network that a file could not hold: what ``arguments`` build has to have its tensors."""
    with torch.random.fork_rng(devices=[]):
        again = build_network(described(network), type(network).__name__)
    wanted, built = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} for module in (network, again)
    )
    if wanted != built:
        other = sorted(name for name in wanted.keys() | built.keys() if wanted.get(name) != built.get(name))
        raise WeightsError(
            f"network {type(network).name!r}: its arguments() build another network ({len(other)} tensors differ, "
            f"first: {other[0]}); "
            "give all that decides its layers"
        )
