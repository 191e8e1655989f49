"""A task of one's own, as a file and as an installed package, runs in a matrix; once edited, it never meets its old
records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_bench.testing import task_checks

ROOT = Path(__file__).parents[2]
INTRUDER = Path(__file__).parent / "intruder.py"

MATRIX = """
name: mine
data: {source: shapes, size: 32, limit: {train: 300, test: 200}}
backbone: {name: resnet10t, width: 0.125, stem_stride: 2}
pretrain: {images: 512, batch_size: 64, monitor: 0}
tasks: [intruder]
baselines: [random]
evaluate: [{knn: {k: [5]}}]
"""

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "ssl-bench-intruder"
version = "0.1.0"

[project.entry-points."ssl_bench.tasks"]
intruder = "ssl_bench_intruder.task:Intruder"

[tool.setuptools]
packages = ["ssl_bench_intruder"]
"""


def _ssl_bench(*words: str, folder: Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ssl_bench", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _records(out: Path) -> dict[str, list[dict]]:
    """Row to its pretraining records."""
    found: dict[str, list[dict]] = {}
    for file in sorted(out.glob("cells/*/*/pretrain.json")):
        record = json.loads(file.read_text())
        found.setdefault(record["row"], []).append(record)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed a plugin package, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "ssl_bench_intruder").mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "ssl_bench_intruder/__init__.py").write_text('"""A pretext task for ssl_bench."""\n')
    task = INTRUDER.read_text().replace("from ssl_bench import", "from .odds import NOTHING\nfrom ssl_bench import")
    (source / "ssl_bench_intruder/task.py").write_text(task)
    (source / "ssl_bench_intruder/odds.py").write_text("NOTHING = 4\n")
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.long
def test_an_installed_package_runs_in_a_matrix_and_its_edit_makes_a_new_cell(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MATRIX)
    first = _ssl_bench("run", "mine.yaml", "--out", "out", folder=tmp_path, path=(installed,))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "intruder" in first.stdout and "random" in first.stdout
    records = _records(tmp_path / "out")
    assert {row: len(found) for row, found in records.items()} == {"intruder": 1, "random": 1}
    assert "accuracy" in records["intruder"][0]["metrics"] and records["intruder"][0]["block"] == "pretext"
    assert len(records["intruder"][0]["spec"]["task"]["code"]) == 16

    with (installed / "ssl_bench_intruder/odds.py").open("a") as file:
        file.write("\nMORE = 5\n")  # not the file of the task, but one that it imports
    edited = _ssl_bench("run", "mine.yaml", "--out", "out", folder=tmp_path, path=(installed,))
    assert edited.returncode == 0, edited.stdout + edited.stderr
    after = _records(tmp_path / "out")
    assert len({record["id"] for record in after["intruder"]}) == 2 and after["random"] == records["random"]


def test_a_plugin_file_runs_in_a_matrix_and_without_it_the_name_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MATRIX)
    done = _ssl_bench(
        "run", "mine.yaml", "--plugin", str(INTRUDER), "--out", "out", "--only", "intruder", folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(_records(tmp_path / "out")) == {"intruder"}
    missing = _ssl_bench("plan", "mine.yaml", "--out", "out", folder=tmp_path)
    assert missing.returncode == 2 and "unknown task 'intruder'" in missing.stderr and "Traceback" not in missing.stderr


def test_a_broken_installed_plugin_is_named(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MATRIX)
    shadow = tmp_path / "shadow/ssl_bench_intruder"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("")
    (shadow / "task.py").write_text("class Intruder:\n    name = 'intruder'\n")
    done = _ssl_bench("plan", "mine.yaml", "--out", "out", folder=tmp_path, path=(tmp_path / "shadow", installed))
    assert (
        done.returncode == 2
        and "'intruder' must be a class derived from ssl_bench.tasks.base.PretextTask" in done.stderr
    )


def _intruder() -> type:
    from ssl_bench.plugins.loading import load_plugin
    from ssl_bench.plugins.registry import TASKS

    load_plugin(INTRUDER)
    return TASKS.get("intruder")


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, marks=pytest.mark.long) if check.name == "processes" else check
        for check in task_checks(_intruder())
    ],
)
def test_the_readme_plugin_passes_the_battery(check) -> None:
    check()


def test_the_readme_prints_the_plugin_as_it_is_tested() -> None:
    assert INTRUDER.read_text().strip() in (ROOT / "README.md").read_text()
