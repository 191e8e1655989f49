"""How fast this machine computes, timed on one step of the backbone, or how fast a known one does."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from ssl_bench.errors import SpecError, did_you_mean, quoted
from ssl_bench.plan.context import RunContext
from ssl_bench.training.device import choose_precision

_CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class Hardware:
    """A machine that a plan can be made for from another one."""

    title: str
    flops: float  #: a second, reached in training a ResNet in the precision that it multiplies fastest
    source: str


_RESNET50 = 3 * 2 * 4.09e9  # FLOPs of one training step of ResNet-50 on one image of 224 px
_NVIDIA = "NVIDIA's published ResNet-50 training in mixed precision: {} images/s"
HARDWARE = {
    "v100": Hardware("one V100 16 GB", 1_200 * _RESNET50, _NVIDIA.format("1,200")),
    "a100": Hardware("one A100 80 GB", 2_470 * _RESNET50, _NVIDIA.format("2,470")),
}


def known_hardware(name: str | None) -> Hardware | None:
    """The machine of that name in ``HARDWARE``; None for None. Raises SpecError for another name."""
    if name is None:
        return None
    if name.lower() not in HARDWARE:
        raise SpecError(f"--on {quoted(name)}: {did_you_mean(name, HARDWARE)}")
    return HARDWARE[name.lower()]


@dataclass(frozen=True)
class Speed:
    """FLOPs a second."""

    training: float  #: of a training step of the backbone
    products: float  #: of matrix products as large as those of probes


def speed_of(hardware: Hardware | None, context: RunContext) -> Speed:
    """That of a known machine, or of this one, timed."""
    if hardware is not None:
        return Speed(hardware.flops, hardware.flops)
    return Speed(_training_rate(context), _product_rate(context.device))


def _training_rate(context: RunContext) -> float:
    """FLOPs a second of one training step of the bare backbone."""
    backbone = context.make_backbone().to(context.device).train()
    images = torch.rand(_CALIBRATION_IMAGES, 3, context.data.size, context.data.size, device=context.device).to(
        memory_format=torch.channels_last
    )
    bf16 = choose_precision(context.precision, context.device) == "bf16"
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(context.device.type, torch.bfloat16, enabled=bf16):
            loss = backbone(images).square().mean()
        loss.backward()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 3 * forward_flops(backbone, context.data.size) * _CALIBRATION_IMAGES / best


def _product_rate(device: torch.device) -> float:
    """FLOPs a second of a product of matrices as large as those of probes."""
    left, right = (torch.rand(size, device=device) for size in ((4_096, 1_024), (1_024, 128)))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * left.numel() * right.shape[1] / best


def forward_flops(backbone: nn.Module, size: int) -> float:
    """FLOPs of one image's way through a backbone."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(backbone.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.rand(2, 3, size, size, device=device))
    return counter.get_total_flops() / 2
