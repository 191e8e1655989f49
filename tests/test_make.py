"""`make` in an environment that it is given: the torch in it stays, and what is no environment is left alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(ROOT), *words], capture_output=True, text=True)


def test_the_torch_of_an_environment_is_kept(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, lines in (
        ("python", f'test "$1" = -m || exec {sys.executable} "$@"\necho "$@" >> {tmp_path}/asked'),
        ("ssl-bench", f'echo "$@" >> {tmp_path}/asked'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tools / name).chmod(0o755)
    ended = make("quick", f"VENV={tmp_path}", "ARGS=--out there")
    assert ended.returncode == 0, ended.stderr
    installed, ran = (tmp_path / "asked").read_text().splitlines()
    assert f"--constraint {tmp_path}/.constraints" in installed and ran == "run quick --out there"
    kept = set((tmp_path / ".constraints").read_text().split())
    assert kept == {f"{name}=={version(name)}" for name in ("torch", "torchvision")}
    assert make("quick", f"VENV={tmp_path}").returncode == 0
    assert (tmp_path / "asked").read_text().splitlines()[2:] == ["run quick"], "a second call finds it ready"
    assert f"rm -rf {tmp_path}" not in make("clean", "-n", f"VENV={tmp_path}").stdout


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = make("quick", f"VENV={tmp_path}")
    assert ended.returncode != 0 and "is no environment" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
