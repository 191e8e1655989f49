"""The public batteries: what every pretext task and every evaluator, ours or a plugin's, has to hold.

In a test of your own::

    import pytest
    from ssl_bench.testing import task_checks

    @pytest.mark.parametrize("check", task_checks(MyTask))
    def test_my_task(check):
        check()

From the command line: ``ssl-bench check-task my_task --plugin my_task.py``. For evaluators ``evaluator_checks`` and
``check-evaluator``.
"""

from __future__ import annotations

import time
import unittest
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ssl_bench.errors import text_of
from ssl_bench.evaluators.base import Evaluator
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.system.global_state import restored
from ssl_bench.system.interruption import is_interruption
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery import Bench, Check, CheckFailed, CheckWarning, NotApplicable, checks_for
from ssl_bench.testing.battery.bench import seeded
from ssl_bench.testing.evaluators import EvaluatorBench, evaluator_battery

__all__ = [
    "CheckFailed",
    "CheckResult",
    "CheckWarning",
    "TaskCheck",
    "check_evaluator",
    "check_task",
    "evaluator_checks",
    "task_checks",
]


@dataclass(frozen=True)
class CheckResult:
    """What one check found. ``message`` says what was seen and, unless it passed, what to do about it."""

    name: str
    status: Literal["passed", "warning", "failed", "skipped"]
    message: str
    seconds: float

    def __bool__(self) -> bool:
        return self.status != "failed"


class TaskCheck:
    """One check of one task or evaluator, ready to call; pytest shows it under the check's name.

    Raises
    ------
    CheckFailed : with what to do; a warning is issued as CheckWarning, and what does not apply to the task counts as
        skipped.
    """

    def __init__(self, check: Check, bench: Bench | EvaluatorBench) -> None:
        self.name = self.__name__ = check.name
        self.__doc__ = check.about
        self._check, self._bench = check, bench
        self.needs = check.needs

    def __call__(self) -> None:
        result = self.run()
        if result.status == "failed":
            raise CheckFailed(f"{self._bench.name}: {self.name}: {result.message}")
        if result.status == "warning":
            warnings.warn(f"{self._bench.name}: {self.name}: {result.message}", CheckWarning, stacklevel=2)
        if result.status == "skipped":
            raise unittest.SkipTest(result.message)

    def run(self) -> CheckResult:
        """The check's result, without raising."""
        started = time.perf_counter()
        status: Literal["passed", "warning", "failed", "skipped"] = "passed"
        try:
            with restored(), seeded(0):  # training draws from the global random state, which belongs to whoever calls
                message = self._check.run(self._bench)
        except NotApplicable as reason:
            status, message = "skipped", str(reason)
        except CheckWarning as warning:
            status, message = "warning", str(warning)
        except CheckFailed as failure:
            status, message = "failed", str(failure)
        # of the task's code, wherever the check met it: what the other checks found must not be lost
        except BaseException as error:
            if is_interruption(error):
                raise
            where = self._bench.own_line(error)
            status, message = (
                "failed",
                f"{self._bench.name} raised {type(error).__name__}: {text_of(error)}"
                + (f" ({where})" if where else ""),
            )
        return CheckResult(self.name, status, message, time.perf_counter() - started)

    def __repr__(self) -> str:
        return f"TaskCheck({self._bench.name!r}, {self.name!r})"


def task_checks(
    task: type[PretextTask] | str,
    options: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    *,
    noise: bool = False,
) -> list[TaskCheck]:
    """The checks that apply to a task, for ``pytest.mark.parametrize``.

    Parameters
    ----------
    task : a class, or the name of a registered task.
    options : task options that differ from the defaults.
    image_size : side in pixels of the embedded shapes it is checked on; the smallest that the task allows, at least 32,
        when None.
    noise : also train on pure noise and see whether the accuracy is that of a guess (the slowest check: some ten
        seconds more).

    Raises
    ------
    SpecError : no task of this name.
    """
    member = TASKS.get(task) if isinstance(task, str) else task
    bench = Bench(member, options, image_size)
    return [TaskCheck(check, bench) for check in checks_for(member, noise)]


def check_task(
    task: type[PretextTask] | str,
    options: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    *,
    noise: bool = False,
) -> list[CheckResult]:
    """Run the battery and return a result per check; nothing is raised for a check that fails.

    Parameters as in ``task_checks``. A check that fails skips those that would fail for the same reason: a task that
    cannot be built is told once.

    >>> from ssl_bench.testing import check_task
    >>> all(check_task("rotation"))  # doctest: +SKIP
    True
    """
    return in_order(task_checks(task, options, image_size, noise=noise))


def evaluator_checks(evaluator: type[Evaluator] | str, options: Mapping[str, Any] | None = None) -> list[TaskCheck]:
    """The checks of an evaluator, for ``pytest.mark.parametrize``.

    Parameters
    ----------
    evaluator : a class, or the name of a registered evaluator.
    options : options that differ from the defaults; they are cut down as ``smoke`` says.

    Raises
    ------
    SpecError : no evaluator of this name.
    """
    member = EVALUATORS.get(evaluator) if isinstance(evaluator, str) else evaluator
    bench = EvaluatorBench(member, options)
    return [TaskCheck(check, bench) for check in evaluator_battery()]


def check_evaluator(evaluator: type[Evaluator] | str, options: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run the battery of an evaluator and return a result per check. Parameters as in ``evaluator_checks``."""
    return in_order(evaluator_checks(evaluator, options))


def in_order(checks: Iterable[TaskCheck]) -> list[CheckResult]:
    """Run checks one after another, each only where those it needs found nothing: one cause is reported once."""
    results: list[CheckResult] = []
    blamed: dict[str, str] = {}  # a check that failed, or could say nothing for it, -> the one that failed
    for check in checks:
        cause = next((blamed[name] for name in check.needs if name in blamed), "")
        if cause:
            results.append(CheckResult(check.name, "skipped", f"needs what {cause!r} checks", 0.0))
        else:
            results.append(check.run())
            cause = check.name if results[-1].status == "failed" else ""
        if cause:
            blamed[check.name] = cause
    return results
