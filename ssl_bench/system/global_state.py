"""What torch, NumPy and Python keep for the whole program, so that one row's code cannot change another row's
numbers."""

from __future__ import annotations

import decimal
import gc
import importlib
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

_KEPT: list[Any] = []  # guards that must not be collected: torch undoes them then


@dataclass(frozen=True)
class Setting:
    """Something that holds for the whole program.

    Attributes
    ----------
    read, write : what it is, as a value that compares, and how it is set back.
    told : whether a change is told. What everybody may use up or add to (random state, filters of warnings) is only set
        back.
    lasting : whether a plugin's import may change it for good, as a path that it adds to find its modules.
    words : a change in words, where the two values say too little or too much.
    """

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    told: bool = True
    lasting: bool = False
    words: Callable[[Any, Any], str] = lambda before, now: f"{before} to {now}"


def _attribute(owner: Any, name: str, **facts: Any) -> Setting:
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), **facts)


def _deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _device() -> torch.device | None:
    return torch.get_default_device() if _device_is_set() else None


def _device_is_set() -> bool:
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
        "_global_buffer_registration_hooks", "_global_module_registration_hooks", "_global_parameter_registration_hooks", "_global_backward_pre_hooks",
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


#: what holds the functions that other rows compute with
_OWNERS: tuple[Any, ...] = (
    torch,
    torch.nn,
    torch.nn.functional,
    torch.nn.init,
    torch.autograd,
    torch.Tensor,
    torch.nn.Module,
    torch.nn.Linear,
    torch.nn.Conv2d,
    torch.nn.modules.batchnorm._BatchNorm,
    torch.optim,
    torch.optim.Optimizer,
    torch.optim.SGD,
    torch.optim.AdamW,
    torch.linalg,
    torch.special,
    torch.fft,
    np,
    np.random,
    np.linalg,
    random,
    Image,
    Image.Image,
)
_MISSING = object()
#: their functions by name, with what stands there; what a class inherits may be overlaid, and what is added under other
#: names changes nobody's numbers
_FUNCTIONS: dict[str, tuple[Any, str, Any]] = {
    f"{f'{owner.__module__}.' if isinstance(owner, type) else ''}{owner.__name__}.{name}": (
        owner,
        name,
        vars(owner).get(name, _MISSING),
    )
    for owner in _OWNERS
    for name in dir(owner)
    if callable(getattr(owner, name, None))
}
_LIBRARIES = (
    *(f"{Path(str(library.__file__)).parent}{os.sep}" for library in (torch, np, Image)),
    str(random.__file__),
)


def _is_foreign(value: Any) -> bool:
    """Whether a function comes from elsewhere than the library itself, which replaces some of its own when more of it
    is imported."""
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    if code is not None:
        return not code.co_filename.startswith(_LIBRARIES)
    return value is _MISSING or not str(getattr(value, "__module__", None) or "").startswith(("torch", "numpy", "PIL"))


def _functions() -> dict[str, Any]:
    """Functions that somebody has put in the place of the libraries' own."""
    now = {place: vars(owner).get(name, _MISSING) for place, (owner, name, original) in _FUNCTIONS.items()}
    return {place: value for place, value in now.items() if value is not _FUNCTIONS[place][2] and _is_foreign(value)}


def _set_functions(before: dict[str, Any]) -> None:
    for place in _functions().keys() | before.keys():
        owner, name, original = _FUNCTIONS[place]
        value = before.get(place, original)
        if value is not _MISSING:
            setattr(owner, name, value)
        elif name in vars(owner):
            delattr(owner, name)


def _own_functions() -> dict[str, Any]:
    """The suite's own functions, classes and their methods, of the modules that are imported, by where they stand."""
    functions: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if module is not None and name.partition(".")[0] == "ssl_bench":
            for key, value in list(vars(module).items()):
                if isinstance(value, (FunctionType, type)):
                    functions[f"{name}.{key}"] = value
                if isinstance(value, type) and value.__module__ == name:
                    functions |= {
                        f"{name}.{key}.{method}": held
                        for method, held in vars(value).items()
                        if isinstance(held, _METHODS)
                    }
    return functions


_METHODS = (FunctionType, classmethod, staticmethod, property)


class _OwnFunctions(dict[str, Any]):
    """Equal where every place that both know holds the same: modules are imported at any time."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OwnFunctions) and not _replaced(self, other)

    def __ne__(self, other: object) -> bool:  # dict has one of its own
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _replaced(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The places that hold something else; of a class that was replaced, not its methods too."""
    places = [place for place, value in before.items() if place in now and now[place] is not value]
    return [place for place in places if place.rpartition(".")[0] not in places]


def _set_own_functions(before: Mapping[str, Any]) -> None:
    for place in _replaced(before, _own_functions()):
        owner, _, name = place.rpartition(".")
        holder = sys.modules.get(owner) or getattr(
            sys.modules.get(owner.rpartition(".")[0]), owner.rpartition(".")[2], None
        )
        setattr(holder, name, before[place])


def _signals() -> dict[str, Any]:
    return {
        name: signal.getsignal(getattr(signal, name))
        for name in ("SIGINT", "SIGTERM", "SIGUSR1")
        if hasattr(signal, name)
    }


def _set_signals(before: dict[str, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler if handler is not None else signal.SIG_DFL)


def _set_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _names(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which entries differ; not their values, which may be secrets."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _filters() -> list[Any]:
    return list(warnings.filters)


def _set_filters(before: list[Any]) -> None:
    warnings.filters[:] = before  # type: ignore[index]
    with suppress(AttributeError):
        warnings._filters_mutated()  # type: ignore[attr-defined]


def _numpy_random() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return name, np.asarray(keys).tobytes(), *rest


def _set_numpy_random(value: tuple[Any, ...]) -> None:
    np.random.set_state((value[0], np.frombuffer(value[1], np.uint32), *value[2:]))


def _set_torch_random(value: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(value), dtype=torch.uint8))


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
            settings[f"torch's float32 precision{' of ' if place else ''}{place}"] = _attribute(owner, "fp32_precision")
    return settings


#: what it is called -> how it is read, set back and told
_SETTINGS: dict[str, Setting] = {
    "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": Setting(_device, torch.set_default_device),
    "whether torch is in inference mode": Setting(torch.is_inference_mode_enabled, _set_inference),
    "whether gradients are recorded": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _deterministic,
    ),
    "whether torch fills memory that is not initialised": _attribute(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "torch's float32 matmul precision": Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **_backends(),  # after the former, whose setting changes these
    "torch's anomaly detection": Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "whether numbers near zero are rounded to it": Setting(_flushes, torch.set_flush_denormal),
    "CPU autocast": _autocast("cpu"),
    "CUDA autocast": _autocast("cuda"),
    "cuDNN's deterministic flag": _attribute(torch.backends.cudnn, "deterministic"),
    "cuDNN's benchmark flag": _attribute(torch.backends.cudnn, "benchmark"),
    "cuDNN's enabled flag": _attribute(torch.backends.cudnn, "enabled"),
    "oneDNN's enabled flag": _attribute(torch.backends.mkldnn, "enabled"),
    "hooks for every module": Setting(_hooks, _set_hooks, words=_hook_names),
    "functions of torch, NumPy or Pillow": Setting(_functions, _set_functions, lasting=True, words=_names),
    "functions of ssl_bench": Setting(
        lambda: _OwnFunctions(_own_functions()),
        _set_own_functions,
        words=lambda before, now: ", ".join(_replaced(before, now)),
    ),
    "NumPy's handling of floating-point errors": Setting(np.geterr, lambda value: np.seterr(**value)),
    "whether Pillow reads truncated images": _attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"),
    "Pillow's limit on pixels": _attribute(Image, "MAX_IMAGE_PIXELS"),
    "the working directory": Setting(lambda: os.getcwd(), os.chdir),
    "environment variables": Setting(lambda: dict(os.environ), _set_environment, lasting=True, words=_names),
    "handlers of signals": Setting(_signals, _set_signals, words=_names),
    "the locale": Setting(
        lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
    "where modules are found": Setting(
        lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value), told=False, lasting=True
    ),
    "filters of warnings": Setting(_filters, _set_filters, told=False),
    "decimal arithmetic": Setting(lambda: decimal.getcontext().copy(), decimal.setcontext, told=False),
    "NumPy's print options": Setting(np.get_printoptions, lambda value: np.set_printoptions(**value), told=False),
    "garbage collection": Setting(gc.isenabled, lambda value: gc.enable() if value else gc.disable(), told=False),
    "the recursion limit": Setting(sys.getrecursionlimit, sys.setrecursionlimit, told=False),
    "standard output": _attribute(sys, "stdout", told=False),
    "standard error": _attribute(sys, "stderr", told=False),
    "Python's random state": Setting(random.getstate, random.setstate, told=False),
    "NumPy's random state": Setting(_numpy_random, _set_numpy_random, told=False),
    "torch's random state": Setting(lambda: bytes(torch.get_rng_state().numpy()), _set_torch_random, told=False),
}


# what cannot be read: torch refuses while its older and newer settings of precision are mixed, a working directory is
# gone
_UNKNOWN = object()


def _read(name: str) -> Any:
    try:
        return _SETTINGS[name].read()
    except (RuntimeError, OSError, ValueError, locale.Error):
        return _UNKNOWN


def captured() -> dict[str, Any]:
    """The value of every setting, by the name it is told under."""
    return {name: _read(name) for name in _SETTINGS}


def changed(before: Mapping[str, Any], lasting: bool = True) -> str:
    """The settings that are not what they were, in words: "torch's default dtype (torch.float32 to torch.float64)"; ""
    for none.

    ``lasting``: False leaves out what a plugin's import may change for good.
    """
    differing = []
    for name, value in before.items():
        setting, now = _SETTINGS[name], _read(name)
        if (
            setting.told
            and (lasting or not setting.lasting)
            and value is not _UNKNOWN
            and now is not _UNKNOWN
            and now != value
        ):
            differing.append(f"{name} ({setting.words(value, now)})")
    return ", ".join(differing)


def restore(before: Mapping[str, Any], lasting: bool = True) -> None:
    """Set back whatever differs, as far as it can be."""
    for name, value in before.items():
        if value is not _UNKNOWN and (lasting or not _SETTINGS[name].lasting) and _read(name) != value:
            with suppress(RuntimeError, OSError, ValueError, locale.Error):
                _SETTINGS[name].write(value)


@contextmanager
def restored(lasting: bool = True) -> Iterator[dict[str, Any]]:
    """Whatever is changed inside is set back at the end, also after an error. Gives the settings as they were."""
    before = captured()
    try:
        yield before
    finally:
        restore(before, lasting)
