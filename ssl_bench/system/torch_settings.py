"""What torch keeps for the whole program: modes, precision, hooks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from ssl_bench.system.setting import Setting, attribute_setting

_KEPT: list[Any] = []  # guards that must not be collected: torch undoes them then


def _deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _default_device() -> torch.device | None:
    return torch.get_default_device() if _default_device_is_set() else None


def _default_device_is_set() -> bool:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is not None  # type: ignore[attr-defined]


def _set_inference(value: bool) -> None:
    """Whoever has entered inference mode holds the way out of it; another mode can only be entered on top."""
    gradients = torch.is_grad_enabled()
    _KEPT.append(torch.inference_mode(value))
    _KEPT[-1].__enter__()
    torch.set_grad_enabled(gradients)


def _autocast(device: str) -> Setting:
    def read() -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def write(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])
        torch.clear_autocast_cache()

    return Setting(read, write)


def _flushes() -> bool:
    """Whether numbers near zero are rounded to it; torch has no function that says so."""
    return float(torch.full((), 1e-310, dtype=torch.float64, device="cpu") * 1) == 0


#: modules and names of the hooks that torch calls for every module or optimiser of the program
_HOOKS = {
    "torch.nn.modules.module": (
        "_global_buffer_registration_hooks", "_global_module_registration_hooks",
        "_global_parameter_registration_hooks", "_global_backward_pre_hooks",
        "_global_backward_hooks", "_global_is_full_backward_hook", "_global_forward_pre_hooks", "_global_forward_hooks",
        "_global_forward_hooks_always_called", "_global_forward_hooks_with_kwargs",
    ),
    "torch.optim.optimizer": ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),
}  # fmt: skip


def _hooks() -> dict[tuple[str, str], Any]:
    hooks = {
        (module, name): getattr(importlib.import_module(module), name, None)
        for module, names in _HOOKS.items()
        for name in names
    }
    return {place: dict(value) if isinstance(value, dict) else value for place, value in hooks.items()}


def _set_hooks(before: dict[tuple[str, str], Any]) -> None:
    for (module, name), value in before.items():
        held = getattr(importlib.import_module(module), name, None)
        if isinstance(held, dict):
            held.clear()
            held.update(value)
        elif held is not None or value is not None:
            setattr(importlib.import_module(module), name, value)


def _hook_names(before: Mapping[tuple[str, str], Any], now: Mapping[tuple[str, str], Any]) -> str:
    return ", ".join(
        name.removeprefix("_global_").replace("_", " ")
        for (module, name) in before
        if before[module, name] != now[module, name]
    )


def _backends() -> dict[str, Setting]:
    """The precision of products, by backend, where this torch has such settings: the older ones cannot be read once
    these were used."""
    settings = {}
    for place in (
        "",
        "cuda.matmul",
        "cudnn",
        "cudnn.conv",
        "cudnn.rnn",
        "mkldnn",
        "mkldnn.matmul",
        "mkldnn.conv",
        "mkldnn.rnn",
    ):
        owner: Any = torch.backends
        for part in filter(None, place.split(".")):
            owner = getattr(owner, part, None)
        if hasattr(owner, "fp32_precision"):
            settings[f"torch's float32 precision{' of ' if place else ''}{place}"] = attribute_setting(
                owner, "fp32_precision"
            )
    return settings


#: what it is called -> how it is read, set back and told
TORCH_SETTINGS: dict[str, Setting] = {
    "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": Setting(_default_device, torch.set_default_device),
    "whether torch is in inference mode": Setting(torch.is_inference_mode_enabled, _set_inference),
    "whether gradients are recorded": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _deterministic,
    ),
    "whether torch fills memory that is not initialised": attribute_setting(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "torch's float32 matmul precision": Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **_backends(),  # after the former, whose setting changes these
    "torch's anomaly detection": Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "whether numbers near zero are rounded to it": Setting(_flushes, torch.set_flush_denormal),
    "CPU autocast": _autocast("cpu"),
    "CUDA autocast": _autocast("cuda"),
    "cuDNN's deterministic flag": attribute_setting(torch.backends.cudnn, "deterministic"),
    "cuDNN's benchmark flag": attribute_setting(torch.backends.cudnn, "benchmark"),
    "cuDNN's enabled flag": attribute_setting(torch.backends.cudnn, "enabled"),
    "oneDNN's enabled flag": attribute_setting(torch.backends.mkldnn, "enabled"),
    "hooks for every module": Setting(_hooks, _set_hooks, words=_hook_names),
}
