"""Which device a run is on, and in which precision it multiplies."""

from __future__ import annotations

import torch

from ssl_bench.errors import SpecError, quoted


def choose_precision(requested: str, device: torch.device) -> str:
    """ "auto" to "bf16" where the hardware multiplies bf16 natively, else "fp32" (without it bf16 is several times
    slower)."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"
    return "fp32"


def choose_device(requested: str | None = None) -> torch.device:
    """The device asked for, or the best there is. Raises SpecError when it is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if requested is None or requested == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if present[name]))
    try:
        device = torch.device(requested) if isinstance(requested, (str, torch.device)) else None
    except RuntimeError:
        device = None
    if device is None or device.type not in present:
        raise SpecError(f"device must be auto, cpu, cuda, cuda:N or mps, got {quoted(requested)}")
    if not present[device.type]:
        raise SpecError(
            f"device {requested!r} is not available here; available: "
            f"{', '.join(n for n, there in present.items() if there)}"
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise SpecError(
            f"device {requested!r} is not available here; there are cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return device
