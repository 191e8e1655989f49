"""What a script, a scheduler and `make` are told: the exit code of every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Ended, call, evaluator, task, written

COMMAND = Path(sys.executable).with_name("ssl-bench")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
PLAIN = task("plain", "pass")


def installed(folder: Path, *arguments: str) -> Ended:
    done = subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",), ("run",), ("run", "quick", "--nonsense"), ("status", "nowhere"), ("show", "nowhere/rotation/0"), ("show", "rotation"),
        ("list", "fruit"), ("report", "nowhere"),
    ],
)  # fmt: skip
def test_what_was_typed_wrongly_ends_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = call(tmp_path, *arguments)
    assert ended.code == 2 and ended.err and "Traceback" not in ended.err, ended


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
    for command in ("versions", "list tasks", "list evaluators", "list sources", "list matrices", "new-task mine", "plan tiny.yaml --plugin plugin.py"):
        assert installed(tmp_path, *command.split()).code == (1 if command.startswith("plan") else 0), command


def test_a_run_ends_with_0_only_when_every_cell_asked_for_has_its_records(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no \\x1b[31mgood')"), tasks=["broken"])
    failed = call(tmp_path, "run", *words)
    assert failed.code == 1 and "failed in pretraining: no \\x1b[31mgood" in failed.out and "\x1b" not in failed.out + failed.err, failed
    assert "records" in failed.out and (tmp_path / "runs/tiny/table.md").is_file(), "the rest is finished, and in the table"
    assert call(tmp_path, "run", *words, "--only", "random").code == 0, "what failed was not asked for"
    for command in ("status", "report"):
        assert call(tmp_path, command, "tiny").code == 0
    assert call(tmp_path, "show", "tiny/broken/0").code == 0 and call(tmp_path, "show", "tiny/broken/1").code == 2
    (tmp_path / "plugin.py").write_text(task("broken", "pass"))
    assert call(tmp_path, "run", *words).code == 0
    again = call(tmp_path, "run", *words)
    assert again.code == 0 and "nothing to do" in again.out


def test_a_choice_of_which_nothing_is_left_is_no_success(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no')"), tasks=[{"broken": {"learning_rate": {"choose": [1e-3, 1e-2]}}}])
    assert [call(tmp_path, "run", *words, "--val").code for _ in range(2)] == [1, 1]


def test_smoke_plan_and_check_task_fail_aloud(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no')", init="first"), tasks=["broken"])
    assert call(tmp_path, "run", *words, "--smoke").code == 1
    planned = call(tmp_path, "plan", *words)
    assert planned.code == 1 and "broken cannot be estimated, its own code fails: RuntimeError: no" in planned.out, planned
    checked = call(tmp_path, "check-task", "broken", "--plugin", "plugin.py")
    assert checked.code == 1 and "RuntimeError: no" in checked.out, checked


@pytest.mark.parametrize("end", ["sys.exit(0)", "sys.exit('done')", "raise KeyboardInterrupt", "raise GeneratorExit", "raise BaseException('odd')"])
def test_a_plugin_that_wants_to_end_the_process_only_fails(tmp_path: Path, end: str) -> None:
    where = {"sys.exit(0)": "forward", "raise KeyboardInterrupt": "views"}.get(end, "diagnose")
    plugin = task("ender", end, **{where: "first"}) + evaluator("judge", end)
    ended = call(tmp_path, "run", *written(tmp_path, plugin, tasks=["ender"], evaluate=["judge", {"knn": {"k": [5]}}]))
    assert ended.code == 1 and "interrupted" not in ended.err, ended
    assert "ender seed 0 failed in pretraining" in ended.out and "random seed 0 failed in judge" in ended.out, ended
    assert len(list(tmp_path.glob("runs/tiny/cells/random/*/knn-*.json"))) == 1
    (tmp_path / "plugin.py").write_text(f"import sys\n{end}\n")
    listed = call(tmp_path, "list", "tasks", "--plugin", "plugin.py")
    assert listed.code == 2 and "plugin 'plugin.py' cannot be imported" in listed.err, listed


def test_check_task_reports_a_task_that_wants_to_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(task("ender", "sys.exit(0)", init="first"))
    ended = call(tmp_path, "check-task", "ender", "--plugin", "plugin.py")
    assert ended.code == 1 and "SystemExit" in ended.out, ended


def test_an_error_whose_text_cannot_be_made_is_recorded_all_the_same(tmp_path: Path) -> None:
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError('no text')\n" + task("odd", "raise Odd")
    long = task("long", "raise RuntimeError('x' * 50_000_000 + chr(0xdc80))").replace("class Task", "class Other")
    ended = call(tmp_path, "run", *written(tmp_path, odd + long, tasks=["odd", "long"]))
    assert ended.code == 1 and "Odd, whose text cannot be made: ValueError" in ended.out and len(ended.out) < 100_000, ended.err
    assert call(tmp_path, "status", "tiny").code == 0


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    for words in ("list tasks", "--help"):
        command = f"set -o pipefail; {COMMAND} {words} | true"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
        assert (done.returncode, done.stderr) == (0, ""), done
