"""A setting that holds for the whole program: how it is read, set back and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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


def attribute_setting(owner: Any, name: str, **facts: Any) -> Setting:
    """The attribute of a module, class or object; ``facts`` as in `Setting`."""
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), **facts)


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which entries differ; not their values, which may be secrets."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))
