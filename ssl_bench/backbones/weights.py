"""Weights that were trained elsewhere: timm's by name, safetensors files, the backbones of our own cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_bench.backbones.network import Network, code_of_network, described
from ssl_bench.backbones.recognise import beginnings, nearest_resnet
from ssl_bench.backbones.resnet import Backbone, InputSpec, check_resnet, network_of
from ssl_bench.backbones.saving import NetworkDescription, load_strictly, read_weights
from ssl_bench.backbones.timm_hub import pretrained_timm
from ssl_bench.errors import WeightsError, quoted, text_of
from ssl_bench.records.places import is_stored
from ssl_bench.records.schema import Pretraining, digest, read_record
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.system.interruption import is_interruption

KINDS = ("timm:", "file:")
# what a file without a word on it is taken to expect
IMAGENET = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
#: ends of timm's tags -> what the weights were trained on
TRAINED_ON = {
    "in1k": "ImageNet-1k, with labels",
    "in12k": "ImageNet-12k, with labels",
    "in22k": "ImageNet-22k, with labels",
    "in21k": "ImageNet-21k, with labels",
}

_KEPT = 4


@dataclass(frozen=True)
class Weights:
    """Tensors of a ResNet in timm's naming, without classifier; or of a plugin's own network.

    Attributes
    ----------
    source : as written, "timm:resnet18.a1_in1k" or "file:PATH".
    tensors : name to tensor.
    spec : the network they belong to; None: the file does not say.
    input : how pixels become input; None: the file does not say.
    image_size : side of the images they were trained on, in pixels; None: not known.
    trained_on : data and labels, as far as known; "" where nothing is.
    digest : 16 digits over names, shapes and values: equal weights, equal digest, wherever they lie.
    label_free : whether it is known that no label was used.
    run_labels : whether a run of ours gave it the labels of its images, which may be those that it is judged by.
    network : which network of a plugin's they are of; None: a ResNet.
    """

    source: str
    tensors: Mapping[str, Tensor]
    spec: BackboneSpec | None
    input: InputSpec | None
    image_size: int | None
    trained_on: str
    digest: str
    label_free: bool = False
    run_labels: bool = False
    network: NetworkDescription | None = None

    @property
    def described(self) -> str:
        """The source and what is known of its training."""
        return (
            f"{self.source}, trained on {self.trained_on}"
            if self.trained_on
            else f"{self.source}, and it is not known what that was trained on"
        )

    @property
    def whole_digest(self) -> str:
        """16 digits over the tensors and over how they are used: network, image size, and how pixels become input; of
        a plugin's network, its arguments and code."""
        if self.network is not None:
            network = self.network.network
            return digest({"tensors": self.digest, "network": network, "code": code_of_network(network)})
        handling = self.input or IMAGENET
        spec = None if self.spec is None else self.spec.model_dump(mode="json")
        return digest(
            {
                "tensors": self.digest,
                "spec": spec,
                "input": handling.model_dump(mode="json"),
                "image_size": self.image_size,
            }
        )

    def into(self, network: Any) -> None:
        """Load every tensor or none.

        Raises WeightsError counting what matches, is missing and is not expected, and saying what to do.
        """
        try:
            load_strictly(network, dict(self.tensors), self.source)
        except WeightsError as error:
            raise WeightsError(f"{error}; {self._remedy()}") from None

    def _remedy(self) -> str:
        """What would make tensors fit that do not."""
        if self.network is not None:
            return "is this another version of its plugin?"
        if self.spec is not None:
            settings = {
                key: value for key, value in self.spec.model_dump(exclude_defaults=True).items() if key != "name"
            }
            written = (
                f"{{name: {self.spec.name}, {', '.join(f'{key}: {value}' for key, value in settings.items())}}}"
                if settings
                else self.spec.name
            )
            return f"they are those of a {self.spec.name}: write backbone: {written}"
        file = self.source.removeprefix("file:")
        before = [start for start in beginnings(self.tensors) if start]
        if before:
            return (
                f"{quoted(before[0])} stands before the names of its network: "
                f"`ssl-bench convert {file}` writes them without"
            )
        if "conv1.weight" not in self.tensors and "conv1.0.weight" not in self.tensors:
            return (
                "they are not named as a ResNet's of timm or torchvision; "
                f"`ssl-bench convert {file}` tells what it finds"
            )
        try:
            name, width, stem, matched, layout = nearest_resnet(self.tensors)
        except WeightsError as error:
            return str(error)
        if matched < len(layout):
            return f"nearest is {name}, of which {matched} of {len(layout)} tensors are there"
        written = ", ".join([f"name: {name}", *([f"width: {width:g}"] if width != 1 else []), f"stem: {stem}"])
        return (
            f"they are those of a {name}: write backbone: {{{written}}}, "
            f"or `ssl-bench convert {file}` to judge them as such beside another network"
        )


#: the weights opened last, by source and by a stamp that differs where a file was written anew
_OPENED: dict[tuple[str, str], Weights] = {}


def open_weights(source: str, download: bool = True) -> Weights:
    """Find, download (timm) or read (file) weights.

    Without ``download``, what is not in timm's cache is absent at once.

    Raises
    ------
    WeightsError : neither form; a file that is missing or no safetensors file (pickles are never opened); a name that
        timm lacks, that is no ResNet of timm's or has no pretrained weights.
    AbsentWeights : no way to download them, told within seconds.
    """
    if source.startswith(KINDS):
        stamp = "" if source.startswith("timm:") else _stamp(Path(source.removeprefix("file:")).expanduser())
        if (source, stamp) not in _OPENED:
            opened = _from_file(source) if source.startswith("file:") else _from_timm(source, download)
            while len(_OPENED) >= _KEPT:
                del _OPENED[next(iter(_OPENED))]
            _OPENED[source, stamp] = opened
        return _OPENED[source, stamp]
    raise WeightsError(
        f"weights must be {' or '.join(f'{kind}NAME' if kind == 'timm:' else f'{kind}PATH' for kind in KINDS)}"
    )


def _stamp(path: Path) -> str:
    try:
        facts = [file.stat() for file in (path, path.parent / "pretrain.json") if file.exists()]
    except OSError:
        return ""  # reading it will tell why
    return " ".join(f"{fact.st_ino} {fact.st_mtime_ns} {fact.st_size}" for fact in facts)


def _from_timm(source: str, download: bool) -> Weights:
    name = source.removeprefix("timm:")
    check_resnet(name.partition(".")[0])
    known = timm.list_pretrained(f"{name.partition('.')[0]}*")
    if name not in known and "." in name or not any(tag.partition(".")[0] == name.partition(".")[0] for tag in known):
        raise WeightsError(f"{source}: timm has no such pretrained weights; it has: {', '.join(known) or 'none'}")
    network: Any = pretrained_timm(source, name, download)
    config: Mapping[str, Any] = network.pretrained_cfg
    spec = BackboneSpec(name=name.partition(".")[0], stem="timm")
    handling = InputSpec(mean=tuple(config["mean"]), std=tuple(config["std"]), size=int(config["input_size"][-1]))
    trained_on = TRAINED_ON.get(str(config.get("tag") or "").rpartition("_")[2], "")
    return Weights(
        source, network.state_dict(), spec, handling, handling.size, trained_on, _tensors_digest(network.state_dict())
    )


def _from_file(source: str) -> Weights:
    path = Path(source.removeprefix("file:")).expanduser()
    stored = read_weights(path)
    tensors = stored.tensors
    if stored.resnet is None and stored.network is None:
        # a classifier is not needed
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
        return Weights(source, tensors, None, None, None, "", _tensors_digest(tensors))
    spec, size, handling = stored.resnet or (None, None, None)
    trained_on, label_free, run_labels = _of_a_cell(path)
    return Weights(
        source,
        tensors,
        spec,
        handling,
        size,
        trained_on,
        _tensors_digest(tensors),
        label_free,
        run_labels,
        stored.network,
    )


def _of_a_cell(path: Path) -> tuple[str, bool, bool]:
    """What the record beside a cell's backbone says of its training, whether that is known to be free of labels, and
    whether the run gave it some."""
    if path.name != "backbone.safetensors" or not is_stored(path.parent / "pretrain.json"):
        return "", False, False
    record = read_record(path.parent / "pretrain.json", Pretraining)
    if record.task == "weights":  # judged as it came
        known = str(record.describe.get("trained_on", "not known"))
        return "" if known == "not known" else known, False, bool(record.describe.get("run_labels", False))
    if not record.steps:
        return "nothing", not record.uses_labels, record.uses_labels
    start = ", from other weights" if "init" in record.spec else ""
    labels = "with" if record.uses_labels else "without"
    return (
        f"the images of a run by {record.task}{start}, {labels} labels",
        not record.uses_labels and not start,
        record.uses_labels,
    )


def build(weights: Weights, make: Callable[..., Any], size: int | None = None) -> Network:
    """The backbone of these weights; the network of a plugin's where they are of one.

    Parameters
    ----------
    make : gives the matrix's backbone, for files that do not say which network they hold.
    size : side that images are resized to before they enter, in pixels; None: what the weights' own configuration
        states.

    Raises
    ------
    WeightsError : tensors of another network; a network whose plugin is not loaded, or that does not take the matrix's
        images.
    """
    default: Any = make()
    if weights.network is not None:
        return _network_of_a_plugin(weights, weights.network, default.image_size, size)
    handling = weights.input or IMAGENET
    handling = handling.model_copy(update={"size": size if size is not None else handling.size})
    backbone = Backbone(weights.spec or default.spec, weights.image_size or default.image_size, handling)
    weights.into(backbone.network)
    return backbone


def _network_of_a_plugin(weights: Weights, stored: NetworkDescription, side: int, size: int | None) -> Network:
    """Built, loaded and tried on images of ``side`` pixels: what it cannot take shows before anything is trained."""
    if size is not None:
        raise WeightsError(f"{weights.source} holds {stored}, which takes images as they are; leave out size: {size}")
    network = stored.loaded(weights.tensors, weights.source).eval()
    try:
        with torch.no_grad():
            network(torch.zeros(2, 3, side, side))
    except BaseException as error:  # of a plugin
        if is_interruption(error):
            raise
        trained = getattr(network, "image_size", "other")
        raise WeightsError(
            f"{weights.source} holds {stored}, trained on images of {trained} px, which does not take images of {side} "
            f"px ({type(error).__name__}: {text_of(error)}); set data.size: {trained}"
        ) from error
    return network


def target_of(weights: Weights, backbone: nn.Module) -> nn.Module | None:
    """The network in a task's backbone that these weights can be loaded into: its one ResNet or, of weights of a
    plugin's network, its one network of the same class and arguments; None where there is none, or several."""
    if weights.network is None:
        return network_of(backbone)
    wanted = weights.network.network
    same = [
        part
        for part in backbone.modules()
        if isinstance(part, Network)
        and type(part).name == wanted["network"]
        and json.loads(json.dumps(described(part))) == wanted
    ]
    return same[0] if len(same) == 1 else None


def _tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bf16
    return hashed.hexdigest()[:16]
