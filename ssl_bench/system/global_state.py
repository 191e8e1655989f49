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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

from ssl_bench.system.replaced_functions import FUNCTIONS
from ssl_bench.system.setting import Setting, attribute_setting, differing_keys
from ssl_bench.system.torch_settings import TORCH_SETTINGS


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


#: what it is called -> how it is read, set back and told
_SETTINGS: dict[str, Setting] = {
    **TORCH_SETTINGS,
    **FUNCTIONS,
    "NumPy's handling of floating-point errors": Setting(np.geterr, lambda value: np.seterr(**value)),
    "whether Pillow reads truncated images": attribute_setting(ImageFile, "LOAD_TRUNCATED_IMAGES"),
    "Pillow's limit on pixels": attribute_setting(Image, "MAX_IMAGE_PIXELS"),
    "the working directory": Setting(lambda: os.getcwd(), os.chdir),
    "environment variables": Setting(lambda: dict(os.environ), _set_environment, lasting=True, words=differing_keys),
    "handlers of signals": Setting(_signals, _set_signals, words=differing_keys),
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
    "standard output": attribute_setting(sys, "stdout", told=False),
    "standard error": attribute_setting(sys, "stderr", told=False),
    "Python's random state": Setting(random.getstate, random.setstate, told=False),
    "NumPy's random state": Setting(_numpy_random, _set_numpy_random, told=False),
    "torch's random state": Setting(lambda: bytes(torch.get_rng_state().numpy()), _set_torch_random, told=False),
}


# what cannot be read: torch refuses while its older and newer settings of precision are mixed, a working directory is
# gone
_UNREADABLE = object()


def _value_of(name: str) -> Any:
    try:
        return _SETTINGS[name].read()
    except (RuntimeError, OSError, ValueError, locale.Error):
        return _UNREADABLE


def captured(lasting: bool = True) -> dict[str, Any]:
    """The value of every setting, by the name it is told under.

    ``lasting``: False leaves out what a plugin's import may change for good.
    """
    if lasting:
        # The training loop imports it when it first runs. Its import wraps torch.compile and sets variables of the
        # environment: what the suite does is not to be told of a row.
        importlib.import_module("lightning_fabric")
    return {name: _value_of(name) for name, setting in _SETTINGS.items() if lasting or not setting.lasting}


def changed(before: Mapping[str, Any], lasting: bool = True) -> str:
    """The settings that are not what they were, in words: "torch's default dtype (torch.float32 to torch.float64)"; ""
    for none.

    ``lasting``: False leaves out what a plugin's import may change for good.
    """
    differing = []
    for name, value in before.items():
        setting, now = _SETTINGS[name], _value_of(name)
        if (
            setting.told
            and (lasting or not setting.lasting)
            and value is not _UNREADABLE
            and now is not _UNREADABLE
            and now != value
        ):
            differing.append(f"{name} ({setting.words(value, now)})")
    return ", ".join(differing)


def restore(before: Mapping[str, Any], lasting: bool = True) -> None:
    """Set back whatever differs, as far as it can be."""
    for name, value in before.items():
        if value is not _UNREADABLE and (lasting or not _SETTINGS[name].lasting) and _value_of(name) != value:
            with suppress(RuntimeError, OSError, ValueError, locale.Error):
                _SETTINGS[name].write(value)


@contextmanager
def restored(lasting: bool = True) -> Iterator[dict[str, Any]]:
    """Whatever is changed inside is set back at the end, also after an error. Gives the settings as they were."""
    before = captured(lasting)
    try:
        yield before
    finally:
        restore(before, lasting)
