"""What torch and NumPy keep for the whole program, so that one row's code cannot change another row's numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def _deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _device() -> torch.device | None:
    return torch.get_default_device() if _device_is_set() else None


def _device_is_set() -> bool:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is not None  # type: ignore[attr-defined]


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


#: what it is called -> (read it, set it)
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (_device, torch.set_default_device),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()), _deterministic,
    ),
    "torch's float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "CPU autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)),
    "CUDA autocast": (lambda: torch.is_autocast_enabled("cuda"), lambda value: torch.set_autocast_enabled("cuda", value)),
    "cuDNN's deterministic flag": _attribute(torch.backends.cudnn, "deterministic"),
    "cuDNN's benchmark flag": _attribute(torch.backends.cudnn, "benchmark"),
    "cuDNN's enabled flag": _attribute(torch.backends.cudnn, "enabled"),
    "NumPy's handling of floating-point errors": (np.geterr, lambda value: np.seterr(**value)),
    "the working directory": (os.getcwd, os.chdir),
}


def captured() -> dict[str, Any]:
    """The value of every setting, by the name it is told under."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def changed(before: Mapping[str, Any]) -> str:
    """The settings that are not what they were, in words: "torch's default dtype (torch.float32 to torch.float64)"; "" for none."""
    now = captured()
    return ", ".join(f"{name} ({before[name]} to {now[name]})" for name in before if before[name] != now[name])


def restore(before: Mapping[str, Any]) -> None:
    """Set back whatever differs."""
    for name, value in before.items():
        read, write = _SETTINGS[name]
        if read() != value:
            write(value)


@contextmanager
def restored() -> Iterator[dict[str, Any]]:
    """Whatever is changed inside is set back at the end, also after an error. Gives the settings as they were."""
    before = captured()
    try:
        yield before
    finally:
        restore(before)
