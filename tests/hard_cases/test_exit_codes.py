"""What a script, a scheduler and `make` are told: the exit code of every command."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssl_bench.plugins.loading
from commands import Ended, call, evaluator, task, written

COMMAND = Path(sys.executable).with_name("ssl-bench")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def installed(folder: Path, *arguments: str) -> Ended:
    done = subprocess.run(
        [COMMAND, *arguments], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",), ("run",), ("run", "quick", "--nonsense"), ("status", "nowhere"),
        ("show", "nowhere/rotation/0"), ("show", "rotation"),
        ("list", "fruit"), ("report", "nowhere"),
    ],
)  # fmt: skip
def test_what_was_typed_wrongly_ends_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = call(tmp_path, *arguments)
    assert ended.code == 2 and ended.err and "Traceback" not in ended.err, ended


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("new-task", "mine_too", "--folder", "/proc/results"), 2, "/proc/results cannot be written to"),
        (("new-task", "mine_too", "--folder", "file"), 2, "file cannot be written to"),
        (("duplicates", "tiny.yaml", "--out", "."), 2, "--out . is a folder"),
        (("duplicates", "tiny.yaml", "--out", "/proc/copies.csv"), 1, "--out /proc/copies.csv cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    written(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    ended = call(tmp_path, *arguments)
    assert (
        ended.code == code and ended.err.startswith("error: ") and told in ended.err and "Traceback" not in ended.err
    ), ended
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["file", "tiny.yaml"]


def test_a_path_without_permission_is_no_fault_of_the_program(tmp_path: Path) -> None:
    def closed() -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "closed/plugin.py")

        ssl_bench.plugins.loading._plugin_file = refuse

    ended = call(tmp_path, "list", "tasks", "--plugin", "plugin.py", first=closed)
    assert (
        ended.code == 2
        and ended.err.startswith("error: closed/plugin.py: Permission denied; ")
        and "Traceback" not in ended.err
    ), ended


def test_the_installed_command_says_2_and_0(tmp_path: Path) -> None:
    wrong = installed(tmp_path, "status", "nowhere")
    assert (wrong.code, wrong.err.startswith("error: no run at nowhere")) == (2, True), wrong
    assert installed(tmp_path, "--help").code == 0


@pytest.mark.long
def test_the_installed_command_says_1_after_a_failure(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no')"), tasks=["broken"])
    assert installed(tmp_path, "run", *words).code == 1
    assert installed(tmp_path, "run", *words, "--smoke").code == 1
    assert installed(tmp_path, "run", *words, "--only", "random").code == 0
    assert installed(tmp_path, "check-task", "broken", "--plugin", "plugin.py").code == 1
    assert installed(tmp_path, "check-task", "nobody").code == 2
    for command in (
        "versions",
        "list tasks",
        "list evaluators",
        "list sources",
        "list matrices",
        "new-task mine",
        "plan tiny.yaml --plugin plugin.py",
    ):
        assert installed(tmp_path, *command.split()).code == (1 if command.startswith("plan") else 0), command


def test_a_run_ends_with_0_only_when_every_cell_asked_for_has_its_records(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no \\x1b[31mgood')"), tasks=["broken"])
    failed = call(tmp_path, "run", *words)
    assert (
        failed.code == 1
        and "failed in pretraining: no \\x1b[31mgood" in failed.out
        and "\x1b" not in failed.out + failed.err
    ), failed
    assert "records" in failed.out and (tmp_path / "runs/tiny/table.md").is_file(), (
        "the rest is finished, and in the table"
    )
    others = call(tmp_path, "run", *words, "--only", "random")
    assert others.code == 0 and "nothing to do" in others.out, "what failed was not asked for"
    for command in ("status", "report"):
        assert call(tmp_path, command, "tiny").code == 0
    assert call(tmp_path, "show", "tiny/broken/0").code == 0 and call(tmp_path, "show", "tiny/broken/1").code == 2
    (tmp_path / "plugin.py").write_text(task("broken", "pass"))
    assert call(tmp_path, "run", *words).code == 0


def test_smoke_plan_and_check_task_fail_aloud(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no')", "init"), tasks=["broken"], baselines=[])
    assert call(tmp_path, "run", *words, "--smoke").code == 1
    planned = call(tmp_path, "plan", *words[:3])
    assert planned.code == 1 and "broken cannot be estimated, its own code fails: RuntimeError: no" in planned.out, (
        planned
    )
    checked = call(tmp_path, "check-task", "broken", "--plugin", "plugin.py")
    assert checked.code == 1 and "RuntimeError: no" in checked.out, checked


ENDS = {
    "exit": "sys.exit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "generator": "raise GeneratorExit",
    "odd": "raise Textless",
    "long": "raise RuntimeError(LONG)",
}
ODD = """
LONG = "x" * 50_000_000 + chr(0xdc80)
class Textless(BaseException):
    def __str__(self):
        raise ValueError("no text")
"""


def test_a_plugin_that_wants_to_end_the_process_only_fails(tmp_path: Path) -> None:
    """SystemExit, a KeyboardInterrupt that no signal announced, errors without a text or with an endless one:
    each is a failure of its cell."""
    wheres = ("forward", "views", "diagnose", "forward", "init")
    plugin = (
        "".join(task(name, body, where) for (name, body), where in zip(ENDS.items(), wheres, strict=True))
        + evaluator("judge", "sys.exit(0)")
        + ODD
    )
    ended = call(tmp_path, "run", *written(tmp_path, plugin, tasks=list(ENDS), evaluate=["judge", {"knn": {"k": [5]}}]))
    assert ended.code == 1 and "interrupted" not in ended.err and len(ended.out) < 200_000, ended.err
    for name, told in zip(
        ENDS,
        ("0", "KeyboardInterrupt", "GeneratorExit", "Textless, whose text cannot be made: ValueError", "xxx"),
        strict=True,
    ):
        assert f"{name} seed 0 failed in pretraining: {told}" in ended.out, ended.out
    assert "random seed 0 failed in judge: 0" in ended.out, ended.out
    assert len(list(tmp_path.glob("runs/tiny/cells/random/*/knn-*.json"))) == 1, (
        "and the evaluator after it is asked all the same"
    )
    assert call(tmp_path, "status", "tiny").code == 0
    for end in ("import sys; sys.exit(0)", "raise KeyboardInterrupt"):
        (tmp_path / "plugin.py").write_text(end)
        listed = call(tmp_path, "list", "tasks", "--plugin", "plugin.py")
        assert listed.code == 2 and "error: plugin 'plugin.py'" in listed.err, listed


def test_check_task_reports_a_task_that_wants_to_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(task("ender", "sys.exit(0)", "init"))
    ended = call(tmp_path, "check-task", "ender", "--plugin", "plugin.py")
    assert ended.code == 1 and "SystemExit" in ended.out, ended


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    for words in ("list matrices | true", "run --help | true", "list matrices >&-"):
        command = f"set -o pipefail; {COMMAND} {words}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("words", [("--out", "there"), ("--limit", "9"), ("--val",), ("--recompute",), ("--wide",)])
def test_a_smoke_run_refuses_what_has_no_effect_on_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = call(tmp_path, "run", "quick", "--smoke", *words)
    assert ended.code == 2 and f"{words[0]} has no effect with --smoke" in ended.err, ended
    assert not (tmp_path / "there").exists()
