"""The network that every task trains and every evaluator sees: a timm ResNet that knows how to read pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, downsample_conv
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.backbones.inputs import InputSpec, as_network_input
from ssl_bench.backbones.network import Network
from ssl_bench.errors import SpecError, did_you_mean, quoted
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse

STAGES = ("s1", "s2", "s3", "s4")
FEWEST_CHANNELS = 8  # of a stage; with 4, the backward pass on a CPU corrupts memory (torch 2.15)


class Backbone(Network):
    """A ResNet from timm with a stem that suits the image size.

    Parameters
    ----------
    spec : name, width and stem.
    image_size : side of the images it is meant for, in pixels; decides an "auto" stem.
    input : how pixels become input.

    Raises
    ------
    SpecError : not a ResNet of timm's, or a width that leaves a layer without channels.
    """

    name = "resnet"

    def __init__(self, spec: BackboneSpec, image_size: int, input: InputSpec = InputSpec()) -> None:
        super().__init__()
        self.spec, self.image_size, self.input = spec, image_size, input
        self.network = build_resnet(spec, image_size, input.channels)
        self.num_features = int(self.network.num_features)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(input.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(1, -1, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(self, images: Tensor) -> Tensor:
        """RGB [B, 3, H, W] in [0, 1] to network input, resized where the input handling says so."""
        size = self.input.size
        if size is not None and images.shape[2:] != (size, size):
            images = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return self.normalise(images)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB [B, 3, H, W] in [0, 1] to network input [B, C, H, W];
        C is 3 unless the kind of input has other channels."""
        return as_network_input(images, self.input.kind, self.mean, self.std)

    def forward(self, images: Tensor) -> Tensor:
        """RGB [B, 3, H, W] in [0, 1] to pooled features [B, num_features]."""
        return self.trunk(self.prepare(images))

    def trunk(self, x: Tensor) -> Tensor:
        """Input that is ready (normalised by the task) to pooled features [B, num_features]."""
        return self.network.forward_features(x).mean((2, 3))

    def feature_map(self, images: Tensor) -> Tensor:
        """RGB in [0, 1] to the last feature map [B, C, h, w]."""
        return self.network.forward_features(self.prepare(images))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The stages, and "pooled", in one pass."""
        maps = self.stages(images)
        return {**maps, "pooled": next(reversed(maps.values())).mean((2, 3))}

    def arguments(self) -> dict[str, Any]:
        """Network, image size and input handling."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "image_size": self.image_size,
            "input": self.input.model_dump(mode="json"),
        }

    @classmethod
    def built(cls, arguments: Mapping[str, Any]) -> Backbone:
        """The untrained ResNet of ``arguments()``."""
        where = f"network {cls.name!r}"
        spec, handling = parse(BackboneSpec, arguments["spec"], where), parse(InputSpec, arguments["input"], where)
        return Backbone(spec, int(arguments["image_size"]), handling)

    def with_input(self, input: InputSpec) -> Backbone:
        """This very network, its weights shared, for images that are handled in another way.

        Raises SpecError for other channels.
        """
        if input.channels != self.input.channels:
            raise SpecError(
                f"a network for {self.input.kind} ({self.input.channels} channels) cannot be shown {input.kind} "
                f"({input.channels})"
            )
        return _WithInput(self, input)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """RGB in [0, 1] to the output of every stage, first to last: name -> [B, C, h, w]."""
        return self.stage_maps(self.prepare(images))

    def stage_maps(self, x: Tensor) -> dict[str, Tensor]:
        """``stages`` from input that is ready."""
        net: Any = self.network
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        maps = {}
        for name, layer in zip(STAGES, (net.layer1, net.layer2, net.layer3, net.layer4), strict=True):
            x = maps[name] = layer(x)
        return maps


class _WithInput(Backbone):
    """Another input handling for a network that another Backbone has already."""

    def __init__(self, owner: Backbone, input: InputSpec) -> None:
        nn.Module.__init__(self)
        self.spec, self.image_size, self.input = owner.spec, owner.image_size, input
        self.num_features = owner.num_features
        self.network = owner.network
        self.register_buffer("mean", torch.tensor(input.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(1, -1, 1, 1), persistent=False)


def check_resnet(name: str) -> Any:
    """timm's constructor of a ResNet.

    Raises SpecError for a name that timm lacks, or that is another kind of network.
    """
    if not timm.is_model(name):
        raise SpecError(
            f"backbone: unknown network {quoted(name)}; {did_you_mean(name, timm.list_models(module='resnet'))}"
        )
    entry = timm.model_entrypoint(name)
    if entry.__module__ != "timm.models.resnet":
        raise SpecError(
            f"backbone: {name!r} is not one of timm's ResNets; {did_you_mean(name, timm.list_models(module='resnet'))}"
        )
    return entry


def build_resnet(spec: BackboneSpec, image_size: int, channels: int = 3) -> ResNet:
    """timm's network with the stem and widths of ``spec``, for input of some channels; layer names stay timm's."""
    entry = check_resnet(spec.name)
    small = spec.stem == "3x3" or (spec.stem == "auto" and image_size <= 96)
    if not small and spec.stem_stride is not None:
        raise SpecError(
            f"backbone: stem_stride is a setting of the 3x3 stem, and {image_size}-px images get timm's own; set "
            "stem: 3x3"
        )
    plain: Any = entry(num_classes=0)
    if not isinstance(plain.bn1, nn.BatchNorm2d):
        raise SpecError(
            f"backbone: {spec.name!r} has {type(plain.bn1).__name__} in place of BatchNorm, which the suite is not "
            "made for; choose another"
        )
    widths = tuple(_scaled_channels(c, spec.width) for c in (64, 128, 256, 512))
    deep = isinstance(plain.conv1, nn.Sequential)
    options: dict[str, Any] = {"num_classes": 0, "channels": widths}
    if channels != 3:
        options["in_chans"] = channels
    if deep and spec.width != 1:
        options["stem_width"] = _scaled_channels(plain.conv1[3].out_channels, spec.width, fewest=4)
    network: Any = entry(**options) if spec.width != 1 or channels != 3 else plain
    old_stem = network.bn1.num_features
    stem = old_stem if spec.width == 1 or deep else _scaled_channels(64, spec.width)
    if small:
        stride = spec.stem_stride or (1 if image_size <= 32 else 2)
        network.conv1 = nn.Conv2d(channels, stem, 3, stride=stride, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif stem != old_stem:
        network.conv1 = nn.Conv2d(channels, stem, 7, stride=2, padding=3, bias=False)
    if stem != old_stem:
        network.bn1 = type(network.bn1)(stem)
        _change_input(network.layer1[0], stem)
    for module in (network.conv1, network.layer1[0].conv1, network.layer1[0].downsample):
        for conv in [m for m in (module.modules() if module is not None else ()) if isinstance(m, nn.Conv2d)]:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm does
    if spec.width != 1:
        _try(network, spec, channels)
    return cast(ResNet, network)


@torch.no_grad()
def _try(network: nn.Module, spec: BackboneSpec, channels: int) -> None:
    """Whether all layers fit together: some of timm's (blurred pooling) have sizes of their own that do not follow a
    width."""
    try:
        network.eval()(torch.zeros(1, channels, 64, 64))
    except RuntimeError as error:
        raise SpecError(
            f"backbone: {spec.name!r} cannot be made {spec.width} times as wide ({error}); use width 1, or a plain "
            "one such as resnet18"
        ) from None
    network.train()


def _scaled_channels(channels: int, width: float, fewest: int = FEWEST_CHANNELS) -> int:
    scaled = channels * width
    if scaled < fewest or scaled != int(scaled):
        allowed = f"whole numbers of at least {fewest}, such as 0.25, 0.5 or 2"
        raise SpecError(
            f"backbone: width {width} makes {scaled:g} of {channels} channels; choose one that gives {allowed}"
        )
    return int(scaled)


def _change_input(block: BasicBlock | Bottleneck, stem: int) -> None:
    old = block.conv1
    block.conv1 = nn.Conv2d(stem, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)  # type: ignore[arg-type]
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    if stem == last.out_channels:
        block.downsample = None
    else:
        block.downsample = downsample_conv(stem, last.out_channels, kernel_size=1, stride=1, norm_layer=nn.BatchNorm2d)


def network_of(module: nn.Module) -> nn.Module | None:
    """The one ResNet of a task's backbone, whatever stands around it; None where there is none, or several."""
    networks = {id(part.network): part.network for part in module.modules() if isinstance(part, Backbone)}
    return next(iter(networks.values())) if len(networks) == 1 else None


@torch.no_grad()
def reestimate_batchnorm(backbone: nn.Module, images: Any) -> None:
    """Set BatchNorm statistics to the plain average over ``images`` (an iterable of [B, 3, H, W] in [0, 1]), without
    labels.

    Done alike for every row, so that it is no hidden choice of a method. Networks without BatchNorm stay as they are.
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = backbone.training
    backbone.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    for chunk in images:
        if len(chunk) > 1:
            backbone(chunk)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    backbone.train(was_training)


def pool_stage(x: Tensor, limit: int) -> Tensor:
    """A feature map [B, C, h, w] averaged to the largest s x s with s*s*C <= ``limit`` (at least 1 x 1), flattened to
    [B, s*s*C]; vectors pass."""
    if x.ndim == 2:
        return x
    side = max(1, min(int((limit / x.shape[1]) ** 0.5), *x.shape[2:]))
    return F.adaptive_avg_pool2d(x, side).flatten(1)
