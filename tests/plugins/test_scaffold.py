"""What `new-task` and `new-evaluator` write works, is clean, and never replaces anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench.errors import SpecError
from ssl_bench.plugins.scaffold import new_evaluator, new_task

ROOT = Path(__file__).parents[2]


def _python(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_written_task_passes_its_own_test_and_the_linter(tmp_path: Path) -> None:
    files = new_task("odd_quarter", tmp_path / "mine")
    assert [file.name for file in files] == ["odd_quarter.py", "test_odd_quarter.py"]
    task, test = (file.read_text() for file in files)
    assert (
        "class OddQuarter(PretextTask)" in task
        and 'name = "odd_quarter"' in task
        and "new_task" not in (task + test).lower()
    )
    tested = _python("pytest", "-q", "-p", "no:cacheprovider", "test_odd_quarter.py", folder=tmp_path / "mine")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "25 passed" in tested.stdout and "warning" not in tested.stdout
    rules = ("--isolated", "--no-cache", "--line-length=140", "--select=E,F,W,I,B,UP,SIM")
    linted = _python("ruff", "check", *rules, ".", folder=tmp_path / "mine")
    assert linted.returncode == 0, linted.stdout


def test_the_written_evaluator_passes_its_own_test_and_the_linter(tmp_path: Path) -> None:
    files = new_evaluator("odd_means", tmp_path / "mine")
    assert [file.name for file in files] == ["odd_means.py", "test_odd_means.py"]
    text = "".join(file.read_text() for file in files)
    assert "class OddMeans(Evaluator)" in text and 'name = "odd_means"' in text and "new_evaluator" not in text.lower()
    tested = _python("pytest", "-q", "-p", "no:cacheprovider", "test_odd_means.py", folder=tmp_path / "mine")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "10 passed" in tested.stdout and "warning" not in tested.stdout
    rules = ("--isolated", "--no-cache", "--line-length=140", "--select=E,F,W,I,B,UP,SIM")
    linted = _python("ruff", "check", *rules, ".", folder=tmp_path / "mine")
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be called ''"),
        ("two words", "use letters, digits and underscores"),
        ("../up", "use letters, digits and underscores"),
        ("1st", "cannot be called"),
        ("_", "cannot be called"),
        ("class", "cannot be called"),
        ("größe", "cannot be called"),
        ("rotation", "'rotation' is the name of a task already"),
        ("linear", "'linear' is the name of an evaluator already"),
        ("torch", "would hide the module 'torch'"),
        ("pretext_task", "would make a class called PretextTask"),
    ],
)
def test_names_that_cannot_work_are_refused_and_nothing_is_written(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        new_task(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", ["mine.py", "test_mine.py"])
def test_a_file_that_exists_is_kept(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(SpecError, match="exists already; nothing was written"):
        new_task("mine", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [existing] and (tmp_path / existing).read_text() == "precious"
