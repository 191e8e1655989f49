"""The device that a loop runs on.

Apart from the loop, since lightning takes 1.5 s to import and a run with nothing left to do needs none of it.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision


def fabric_on(device: torch.device, precision: str) -> Fabric:
    """One device, with ``precision`` "fp32" or "bf16"."""
    return Fabric(
        accelerator=device.type,
        devices=[device.index] if device.type == "cuda" and device.index is not None else 1,
        plugins=[_Autocast("bf16-mixed", device.type)] if precision == "bf16" else None,
    )


class _Autocast(MixedPrecision):
    """bf16 where a layer computes, not before: Fabric would round all views beforehand, boxes and targets in float32
    too."""

    def convert_input(self, data: Any) -> Any:
        return data
