"""What the class of a plugin must be, looked at when it is loaded: a mistake shows before any training, not after."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.task_role import FORMER_FLAGS, TaskRole

LONGEST_NAME = 100
NEEDS = {"codes", "missing", "decode", "sample"}  # of a task, which an evaluator may call

_FLAGS = {
    "task": ("uses_labels", "reads_borders"),
    "evaluator": ("accuracy", "needs_training", "opens_test"),
}
#: methods -> how many values they are called with, without the object or class
_CALLED_ON_OBJECTS = {
    "task": {
        "__init__": 3,
        "views": 1,
        "forward": 1,
        "phase_parameters": 1,
        "before_training": 0,
        "phases_at": 2,
        "before_step": 0,
        "after_step": 0,
        "chance_loss": 0,
        "chance_accuracy": 0,
        "evaluated": 0,
        "codes": 1,
        "describe": 0,
        "diagnose": 1,
        "decode": 1,
        "sample": 1,
        "health": 0,
        "preview": 1,
    },
    "evaluator": {"__init__": 1, "evaluate": 1},
    "source": {"__init__": 0, "settings": 1, "check": 2, "open": 2, "open_boxes": 2},
    "network": {"forward": 1, "stages": 1, "features": 1, "arguments": 0},
    "operation": {"__call__": 1},
}
_CALLED_ON_CLASSES = {
    "task": {
        "recipe": 3, "phase_recipe": 3, "short_recipe": 2, "paper_recipe": 2, "build_backbone": 2, "network_input": 1,
        "weights_needed": 1, "resolve": 2, "saw_labels": 1, "check": 2,
    },
    "evaluator": {
        "declared": 0, "supports": 2, "own_sets": 2, "smoke": 1, "training_passes": 4, "fitting_flops": 3, "check": 3,
    },
    "source": {},
    "network": {"built": 1},
    "operation": {},
}  # fmt: skip
#: methods that are given the phase where there are several and they have a parameter ``phase``
_OF_PHASES = ("views", "before_step", "after_step")


def contract_problem(member: type[Any], base: type[Any], kind: str) -> str:
    """What is wrong with the class of a plugin, in words, with what to write instead; "" where nothing is.

    Parameters
    ----------
    member : a class derived from ``base``.
    kind : "task", "evaluator", "source", "network" or "operation".
    """
    looks_of: dict[str, tuple[Callable[[type[Any], type[Any], str], str], ...]] = {
        "task": (_flags_problem, _version_problem, _options_problem, _task_problem),
        "evaluator": (_flags_problem, _version_problem, _options_problem, _evaluator_problem),
        "source": (_source_problem,),
        "network": (_network_problem,),
        "operation": (_operation_problem,),
    }
    looks = (_name_problem, *looks_of[kind], _methods_problem)
    for look in looks:
        if told := look(member, base, kind):
            return told
    return ""


def _name_problem(member: type[Any], base: type[Any], kind: str) -> str:
    name = getattr(member, "name", None)
    if not isinstance(name, str) or not name:
        given = "has no class attribute `name`" if name is None else f"has name = {_short(name)}, and it must be text"
        return f"{given}; give it one, such as name = {member.__name__.lower()!r}"
    if (
        "/" in name
        or "\\" in name
        or not name.isprintable()
        or name != name.strip()
        or len(name) > LONGEST_NAME
        or name in (".", "..")
    ):
        return (
            f"has name = {_short(name)}; a name is printable text of at most {LONGEST_NAME} characters without "
            "slashes or spaces around it"
        )
    return ""


def _flags_problem(member: type[Any], base: type[Any], kind: str) -> str:
    for name in _FLAGS[kind]:
        if not isinstance(getattr(member, name), bool):
            return f"has {name} = {_short(getattr(member, name))}, and it must be True or False"
    return ""


def _version_problem(member: type[Any], base: type[Any], kind: str) -> str:
    return _positive_integer_problem(member, "version") or (
        _positive_integer_problem(member, "min_image_size") or _positive_integer_problem(member, "divides")
        if kind == "task"
        else ""
    )


def _positive_integer_problem(member: type[Any], name: str) -> str:
    value = getattr(member, name)
    if isinstance(value, property) and name == "divides":  # of an object, as a combination's is
        return ""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return f"has {name} = {_short(value)}, and it must be a whole number from 1 up, such as {name} = 1"
    return ""


def _options_problem(member: type[Any], base: type[Any], kind: str) -> str:
    wanted = base.Options
    if not (isinstance(member.Options, type) and issubclass(member.Options, wanted)):
        return (
            f"has Options = {_short(member.Options)}, and it must be a class derived from ssl_bench.{wanted.__name__}"
        )
    return ""


def _task_problem(member: type[Any], base: type[Any], kind: str) -> str:
    for flag, role in FORMER_FLAGS.items():
        if isinstance(getattr(member, flag, None), bool):
            return (
                f"has {flag} = {_short(getattr(member, flag))}, which an earlier version had; write {role} in its place"
            )
    if not isinstance(member.role, TaskRole):
        return (
            f"has role = {_short(member.role)}, and it must be one of "
            f"{', '.join(repr(role.value) for role in TaskRole)}"
        )
    phases = member.phases
    if (
        isinstance(phases, str)
        or not isinstance(phases, tuple)
        or not phases
        or not all(isinstance(phase, str) and phase for phase in phases)
    ):
        return f'has phases = {_short(phases)}, and it must be a tuple of one or more names, such as phases = ("main",)'
    if len(set(phases)) != len(phases):
        return f"has phases = {_short(phases)}, and their names must differ"
    if taken := sorted(set(phases) & set(Recipe.model_fields)):
        return f"has phases = {_short(phases)}, and {taken[0]!r} is a setting of every recipe; choose another name"
    columns = member.columns
    if not isinstance(columns, (set, frozenset)) or not all(isinstance(column, str) for column in columns):
        return f'has columns = {_short(columns)}, and it must be a set of names, such as columns = frozenset({{"hue"}})'
    rate = member.short_learning_rate
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not (math.isfinite(rate) and rate > 0):
        return f"has short_learning_rate = {_short(rate)}, and it must be a positive number, such as 1e-3"
    if member.role.trains:
        for name, parameter in (("views", "batch"), ("forward", "views")):
            if getattr(member, name) is getattr(base, name):
                return f"has no method {name}(self, {parameter}), which a task that trains needs"
    return ""


def _evaluator_problem(member: type[Any], base: type[Any], kind: str) -> str:
    if not isinstance(member.needs, (set, frozenset)) or not member.needs <= NEEDS:
        return f"has needs = {_short(member.needs)}, and it must be a set of some of {', '.join(sorted(NEEDS))}"
    protocol = getattr(member, "protocol", None)
    if not isinstance(protocol, str) or not protocol or not protocol.isprintable():
        given = (
            "has no class attribute `protocol`"
            if protocol is None
            else f"has protocol = {_short(protocol)}, and it must be text"
        )
        return f'{given}; say how it judges, as tables print it, such as protocol = "{member.name}-mine"'
    if member.evaluate is base.evaluate:
        return "has no method evaluate(self, subject), which returns an Evaluation"
    return ""


def _source_problem(member: type[Any], base: type[Any], kind: str) -> str:
    if ":" in member.name:
        return (
            f"has name = {_short(member.name)}, and a colon ends it where a matrix writes it; say what follows "
            "in `argument`"
        )
    for attribute in ("argument", "images", "boxes"):
        value = getattr(member, attribute)
        if not isinstance(value, str) or not (value.isprintable() or not value):
            return f"has {attribute} = {_short(value)}, and it must be one line of text"
    for attribute, method in (("images", "open"), ("boxes", "open_boxes")):
        defined = getattr(member, method) is not getattr(base, method)
        if getattr(member, attribute) and not defined:
            return f"says in `{attribute}` what it gives, and has no method {method}(self, spec, places)"
        if defined and not getattr(member, attribute):
            return (
                f'has {method} and no `{attribute}`: say in one line what it gives, such as {attribute} = "300 '
                'photographs of 3 classes"'
            )
    if not member.images and not member.boxes:
        return (
            "gives nothing: define open(self, spec, places) and `images`, or open_boxes(self, spec, places) and `boxes`"
        )
    return ""


def _network_problem(member: type[Any], base: type[Any], kind: str) -> str:
    for name in ("forward", "arguments"):
        if getattr(member, name) is getattr(base, name):
            return f"has no method {name}(self{', images' if name == 'forward' else ''}), which a network needs"
    return ""


def _operation_problem(member: type[Any], base: type[Any], kind: str) -> str:
    if member.__call__ is base.__call__:
        return "has no method __call__(self, images), which an operation needs"
    if needed := next((name for name, field in member.model_fields.items() if field.is_required()), None):
        return f"has the setting {needed!r} without a default; give it one, so that a policy can name it alone"
    return ""


def _methods_problem(member: type[Any], base: type[Any], kind: str) -> str:
    several = kind == "task" and len(member.phases) > 1
    for name, count in _CALLED_ON_OBJECTS[kind].items():
        with_phase = several and (name == "forward" or (name in _OF_PHASES and _has_phase(getattr(member, name))))
        if told := _signature(getattr(member, name), count + 1 + with_phase, f"{name}({_parameter_names(base, name)})"):
            return told
    for name, count in _CALLED_ON_CLASSES[kind].items():
        if not isinstance(inspect.getattr_static(member, name), (classmethod, staticmethod)):
            return f"has {name} without @classmethod; it is called on the class, before there is an object"
        if told := _signature(getattr(member, name), count, f"{name}({_parameter_names(base, name)})"):
            return told
    return ""


def _parameter_names(base: type[Any], name: str) -> str:
    method = inspect.getattr_static(base, name)
    return ", ".join(inspect.signature(getattr(method, "__func__", method)).parameters)


def _signature(method: Any, count: int, wanted: str) -> str:
    name = wanted.partition("(")[0]
    if not callable(method):
        return f"has {name} = {_short(method)}, and it must be a method {wanted}"
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # of compiled code
        return ""
    return "" if _takes_positional(signature, count) else f"has {name}{signature}, and it is called as {wanted}"


def _has_phase(method: Any) -> bool:
    try:
        return "phase" in inspect.signature(method).parameters
    except (TypeError, ValueError):  # no method, which is told, or compiled code
        return False


def _takes_positional(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
