"""What goes through the networks of a task: the FLOPs computed in each, and the images that enter each ResNet."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.training.trainable import Trainable

MOST_IMAGE_CHANNELS = 3
_OTHER_NETWORK = -1  # stands for all networks that are not ResNets of ours


class NetworkMeter:
    """Counts network passes while a task computes.

    A pass is one whole image once through the network that is judged (``task.evaluated()``). Counted is every network
    that images go through, with gradient or without: ``task.backbone``, the judged network, every ResNet of ours
    wherever the task keeps it, copies of these, and any other module that is called on images [B, 1..3, H, W]. Each
    weighs as many passes as its forward FLOPs are of the judged network's: a momentum teacher 1, each half of a pair
    that is judged together 1/2. What enters a ResNet counts by its area, so that a crop or tile of a quarter of the
    area is a quarter of a pass, whatever its borders cost; of other networks the FLOPs count. Heads and decoders that
    see features or codes are no networks in this sense.

    The unit is the row's own network and not the matrix's, so that a linear encoder is given as many images as a ResNet
    is, not a thousand times as many. What rows compute in all is told by their FLOPs.

    Parameters
    ----------
    task : is given hooks, so a copy; in whatever mode.
    images : whole images [B, 3, H, W] in [0, 1], of which one or two are sent through the networks to weigh them.
    """

    def __init__(self, task: Trainable, images: Tensor) -> None:
        judged = task.evaluated()
        modules = list(dict.fromkeys([*task.modules(), *judged.modules()]))
        resnets = {id(module.network): module for module in modules if isinstance(module, Backbone)}
        if isinstance(judged, Backbone):
            resnets[id(judged.network)] = judged
        self._owners = self._networks(task, judged, modules)  # module -> the network that it is a part of
        # a task, or a member of a combination, is called on images too and hands them to its network
        self._around = {module for module in modules if any(part in self._owners for part in module.modules())}
        self._pixels: Counter[int] = Counter()  # that entered, by ResNet
        self._flops: Counter[int] = Counter()  # by network
        self._stack: list[int | None] = []  # the networks of the modules under way
        self._counter: FlopCounterMode | None = None
        self._attributed = 0  # FLOPs of the counter
        for number, resnet in resnets.items():
            first = next(layer for layer in resnet.network.modules() if isinstance(layer, nn.Conv2d))
            first.register_forward_pre_hook(self._entering(number))
        few = images[:2]
        self.unit = _flops_of(judged, few) / len(few)
        self._weights = {}  # ResNet -> FLOPs of one whole image, and how many pixels of it enter
        for number, resnet in resnets.items():
            self._pixels.clear()
            flops = _flops_of(resnet, few) / len(few)
            self._weights[number] = flops, self._pixels[number] / len(few)
        self._pixels.clear()
        for module in modules:
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave, always_call=True)

    @staticmethod
    def _networks(task: Trainable, judged: nn.Module, modules: list[nn.Module]) -> dict[nn.Module, int]:
        owners: dict[nn.Module, int] = {}
        layouts = [layout for layout in (_parameter_shapes(task.backbone), _parameter_shapes(judged)) if layout]
        for module in modules:
            a_copy = (
                module is not task
                and next(module.children(), None) is not None
                and _parameter_shapes(module) in layouts
            )
            if module is task.backbone or module is judged or a_copy:
                owners |= dict.fromkeys(module.modules(), _OTHER_NETWORK)
        for module in modules:
            if isinstance(module, Backbone):
                owners |= dict.fromkeys([module, *module.network.modules()], id(module.network))
        return owners

    @contextmanager
    def counting(self, counter: FlopCounterMode) -> Iterator[None]:
        """Count what is computed in the block; the FLOPs are those that ``counter``, which is active, counts."""
        self._counter, self._attributed, self._stack = counter, counter.get_total_flops(), []
        try:
            yield
        finally:
            self._attribute()
            self._counter = None

    @property
    def network_flops(self) -> int:
        """FLOPs computed within networks, in all blocks."""
        return sum(self._flops.values())

    @property
    def by_area(self) -> bool:
        """Whether images went through networks as large as the judged one alone: its width then does not decide the
        passes."""
        used = {number for number, flops in self._flops.items() if flops}
        return _OTHER_NETWORK not in used and all(self._weights[number][0] == self.unit for number in used)

    @property
    def passes(self) -> float:
        """Whole images that went through the judged network, other networks by their FLOPs; 0 where it computes
        nothing."""
        if not self.unit:
            return 0.0
        total = self._flops[_OTHER_NETWORK] / self.unit
        for number, (flops, pixels) in self._weights.items():
            if pixels:
                total += self._pixels[number] * flops / (pixels * self.unit)
        return total

    def _entering(self, number: int) -> Any:
        def entered(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._pixels[number] += inputs[0].numel() // inputs[0].shape[1]

        return entered

    def _attribute(self) -> None:
        """Give the FLOPs counted since the last call to the network under way."""
        if self._counter is None:
            return
        total = self._counter.get_total_flops()
        owner = self._stack[-1] if self._stack else None
        if owner is not None:
            self._flops[owner] += total - self._attributed
        self._attributed = total

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._attribute()
        owner = self._owners.get(module, self._stack[-1] if self._stack else None)
        if owner is None and module not in self._around and inputs and _are_images(inputs[0]):
            owner = _OTHER_NETWORK
        self._stack.append(owner)

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._attribute()
        if self._stack:
            self._stack.pop()


def _are_images(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim == 4
        and value.shape[1] <= MOST_IMAGE_CHANNELS
    )


def _parameter_shapes(module: nn.Module) -> list[tuple[str, torch.Size]]:
    """Names and shapes of a module's parameters: those of a copy are equal."""
    return [(name, parameter.shape) for name, parameter in module.named_parameters()]


@contextmanager
def countable(task: nn.Module) -> Iterator[None]:
    """Compute recurrent layers and attention by operations that a FLOP counter knows, where a task has such layers."""
    with ExitStack() as stack:
        fast = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in task.modules()):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of torch, on its way of setting precision
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _flops_of(network: nn.Module, images: Tensor) -> int:
    """Forward FLOPs of a network on whole images, without those of making pixels a ResNet's input; its modes are left
    as they were."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            x = network.prepare(images) if isinstance(network, Backbone) else images
            with FlopCounterMode(display=False) as counter:
                network.trunk(x) if isinstance(network, Backbone) else network(images)
    finally:
        for module, training in modes:
            module.training = training
    return int(counter.get_total_flops())
