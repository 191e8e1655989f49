"""The quick part of a plugin's battery, before its first cell trains: hours on a task that cheats itself are not worth
having.

A pass is kept in the cache, by everything that can change it: the plugin's code, its options, the images' size, package
versions.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssl_bench.errors import NoRoomError, SSLBenchError, TrainingError
from ssl_bench.plugins.identity import code_in, identity
from ssl_bench.plugins.registry import TASKS
from ssl_bench.records.environment import installed_versions
from ssl_bench.records.schema import digest
from ssl_bench.system.disk import write_bytes
from ssl_bench.system.global_state import captured, restore

BUDGET_SECONDS = 10.0  #: after which no further check is begun
LARGEST_SIDE = 96  #: larger images make the same checks slow
FOLDER = "checked_tasks"
PASSED, SKIPPED = "passed", "skipped"

_failed: dict[str, str] = {}  # in this process: the other seeds of a row need not be told anew


def checks_before_training(
    task: type[Any],
    options: Any,
    image_size: int,
    cache: Path,
    skip: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> str:
    """What to record of a task's checks: "" for a built-in task, "passed", "skipped", or "passed; not made: ..." where
    time ran out.

    Of a combination, the members that are plugins are checked, each by itself.

    Parameters
    ----------
    options : the validated options of the cell.
    image_size : side of the images in pixels.
    cache : folder that keeps what passed; one that cannot be written is no error.
    skip : check nothing.

    Raises
    ------
    TrainingError : a check failed; it says which, why, and what to do.
    """
    outcomes = [
        _of_one(member, getattr(options, member.name) if task is not member else options, image_size, cache, skip, note)
        for member in getattr(task, "members", ()) or (task,)
        if not TASKS.is_builtin(member.name)
    ]
    return next((told for told in outcomes if told != PASSED), PASSED) if outcomes else ""


def _of_one(
    task: type[Any], options: Any, image_size: int, cache: Path, skip: bool, note: Callable[[str], None]
) -> str:
    if skip:
        return SKIPPED
    size = max(task.min_image_size, min(image_size, LARGEST_SIDE))
    operations = code_in(options)
    key = digest(
        {
            "task": _identity(task),
            "options": options.model_dump(mode="json"),
            "size": size,
            "versions": installed_versions(),
        }
        | ({"operations": operations} if operations else {})
    )
    if key in _failed:
        raise TrainingError(_failed[key])
    kept = cache / FOLDER / f"{key}.json"
    with suppress(OSError, ValueError):
        if json.loads(kept.read_text()) == {"task": task.name, "checks": PASSED}:
            return PASSED
    note(f"{task.name}: checking the plugin before it trains (once)")
    failure, left = _run(task, options, size, note)
    if failure:
        _failed[key] = (
            f"{task.name} fails its check {failure}. Nothing was trained. All checks: ssl-bench check-task "
            f"{task.name} --plugin FILE; "
            "to train it all the same: --skip-checks"
        )
        raise TrainingError(_failed[key])
    if left:
        note(
            f"{task.name}: {len(left)} checks could not be made within {BUDGET_SECONDS:g} s: {', '.join(left)}; "
            "ssl-bench check-task makes them"
        )
        return f"{PASSED}; not made: {', '.join(left)}"
    with suppress(OSError, SSLBenchError):  # checked again next time
        write_bytes(kept, json.dumps({"task": task.name, "checks": PASSED}).encode())
    return PASSED


def _identity(task: type[Any]) -> Any:
    if task.name in TASKS and TASKS.get(task.name) is task:
        return identity(TASKS, task.name)
    return {"name": task.name, "class": f"{task.__module__}.{task.__qualname__}"}


def _run(
    task: type[Any], options: Any, size: int, note: Callable[[str], None] = lambda text: None
) -> tuple[str, list[str]]:
    """The first failed check in words ("" for none), and the checks that could not be made.

    What the task's own code raises goes through as it is: it would be raised in training too, and is told as that.
    """
    from ssl_bench.testing.battery import Bench, CheckFailed, CheckWarning, NotApplicable, checks_for
    from ssl_bench.testing.battery.bench import seeded

    bench = Bench(task, None, size)
    bench.options = options
    started, left = time.monotonic(), []
    for check in [check for check in checks_for(task) if check.quick]:
        if time.monotonic() - started > BUDGET_SECONDS:
            left.append(check.name)
            continue
        before = captured()
        try:
            with seeded(0):
                check.run(bench)
        except NotApplicable:
            pass
        except CheckWarning as warning:
            note(f"{task.name}: {check.name}: {warning}")
        except CheckFailed as failure:
            if failure.__cause__ is None:
                restore(before)
                return f"{check.name!r}: {failure}", left
            if not _is_ours(failure.__cause__):
                raise failure.__cause__ from failure.__cause__.__cause__
            left.append(check.name)
        except OSError as error:
            if not _is_ours(error):
                raise
            left.append(check.name)
        restore(before)  # not after an error, whose cell is told what was changed before
    return "", left


def _is_ours(error: BaseException) -> bool:
    """Whether a check's own temporary file could not be written, which says nothing of the task."""
    place = str(getattr(error, "filename", None) or "")
    return isinstance(error, NoRoomError) or (isinstance(error, OSError) and place.startswith(tempfile.gettempdir()))


__all__ = ["checks_before_training"]
