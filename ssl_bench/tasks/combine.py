"""From the name ``a+b`` to the task that it means."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field, create_model

from ssl_bench.errors import SpecError
from ssl_bench.plugins.registry import TASKS
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.tasks.base import PretextTask
from ssl_bench.tasks.combination import Combination


def combine(name: str) -> type[Combination]:
    """The task called ``a+b``.

    Raises SpecError for one member, the same twice, and tasks that cannot share a network.
    """
    names = [part.strip() for part in name.split("+")]
    members = tuple(TASKS.get(part) for part in names if part)
    if len(members) < 2 or len(members) != len(names):
        raise SpecError(
            f"{name!r} combines {len(members)} task{'s' if len(members) != 1 else ''}; write two or more, such as "
            "rotation+colorization"
        )
    for member in members:
        if members.count(member) > 1:
            raise SpecError(f"{name!r} names {member.name!r} twice; a task combines with other tasks")
        if not member.role.trains:
            raise SpecError(f"{name!r}: {member.name} is not trained, so there is nothing to combine")
        if member.role is TaskRole.CONTROL:
            raise SpecError(
                f"{name!r}: {member.name} is a control that leaves the network as it starts, and a combination trains "
                "it"
            )
        if member.phases != ("main",):
            raise SpecError(
                f"{name!r}: {member.name} trains in {len(member.phases)} phases ({', '.join(member.phases)}); members "
                "have one"
            )
        if member.evaluated is not PretextTask.evaluated:
            raise SpecError(
                f"{name!r}: {member.name} judges a network of its own, and a combination has only the shared one"
            )
        if member.name in Combination.Options.model_fields:
            raise SpecError(
                f"{name!r}: a task called {member.name!r} cannot be combined, because that is the name of an option"
            )
    return _combine(members)


@cache
def _combine(members: tuple[type[PretextTask], ...]) -> type[Combination]:
    fields: Any = {
        member.name: (member.Options, Field(default_factory=member.Options, description=f"options of {member.name}"))
        for member in members
    }
    name = "+".join(member.name for member in members)
    options = create_model(
        "".join(member.__name__ for member in members) + "Options",
        __base__=Combination.Options,
        __doc__=f"Options of ``{name}``.",
        **fields,
    )
    return type(
        "".join(member.__name__ for member in members), (Combination,),
        {
            "name": name, "members": members, "Options": options, "__doc__": Combination.__doc__,
            "__module__": __name__,
            "version": Combination.version, "uses_labels": any(member.uses_labels for member in members),
            "columns": frozenset().union(*(member.columns for member in members)),
            "parts": tuple(f"{member.name}/{part}" for member in members for part in member.parts),
            "reads_borders": any(member.reads_borders for member in members),
            "min_image_size": max(member.min_image_size for member in members),
        },
    )  # fmt: skip
