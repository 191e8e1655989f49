"""Functions of torch, NumPy, Pillow and of the suite that somebody has put others in the place of."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssl_bench.system.setting import Setting, differing_keys

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


def _foreign_functions() -> dict[str, Any]:
    """Functions that somebody has put in the place of the libraries' own."""
    now = {place: vars(owner).get(name, _MISSING) for place, (owner, name, original) in _FUNCTIONS.items()}
    return {place: value for place, value in now.items() if value is not _FUNCTIONS[place][2] and _is_foreign(value)}


def _set_foreign_functions(before: dict[str, Any]) -> None:
    for place in _foreign_functions().keys() | before.keys():
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


#: what it is called -> how it is read, set back and told
FUNCTIONS: dict[str, Setting] = {
    "functions of torch, NumPy or Pillow": Setting(
        _foreign_functions, _set_foreign_functions, lasting=True, words=differing_keys
    ),
    "functions of ssl_bench": Setting(
        lambda: _OwnFunctions(_own_functions()),
        _set_own_functions,
        words=lambda before, now: ", ".join(_replaced(before, now)),
    ),
}
