"""What is wrong with a plugin's file or class shows when it is loaded, in words,
and loading it once more after mending works."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ssl_bench.errors import SpecError
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS

TASK = '''
from typing import Any
from ssl_bench import PretextTask, TaskOptions
class Mine(PretextTask):
    """Ask nothing."""
    name = "mine"
    def views(self, batch):
        return batch.images
    def forward(self, views):
        return {"loss": self.backbone(views).mean()}
'''
EVALUATOR = '''
from ssl_bench import Evaluation, Evaluator, EvaluatorOptions
class Judge(Evaluator):
    """Judge nothing."""
    name = "judge"
    protocol = "judge-nothing"
    def evaluate(self, subject):
        return Evaluation([])
'''


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TASKS, "_added", {})
    monkeypatch.setattr(EVALUATORS, "_added", {})
    before = set(sys.modules)
    yield
    for name in {name for name in set(sys.modules) - before if name.startswith("ssl_bench_plugin_")}:
        del sys.modules[name]


def write(folder: Path, text: str | bytes, name: str = "mine.py") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def inside(text: str, base: str = TASK) -> str:
    """A class with one more line, which replaces what it has of that name."""
    name = text.split("=")[0].split("(")[0].split()[-1]
    lines = [line for line in base.splitlines() if f"    {name} = " not in line]
    return "\n".join([*lines, *(f"    {line}" for line in text.splitlines())]) + "\n"


NEEDS = {
    "name": ('name = "a/b"', "name = 'a/b'; a name is printable text .* without slashes"),
    "number": ("name = 7", "task class Mine has name = 7, and it must be text; give it one, such as name = 'mine'"),
    "escape": ('name = "a\\x1b[31m"', "a name is printable text"),
    "long": ('name = "a" * 300', "a name is printable text of at most 100 characters"),
    "version": ('version = "2"', "has version = '2', and it must be a whole number from 1 up"),
    "flag": ("uses_labels = 1", "has uses_labels = 1, and it must be True or False"),
    "role": (
        'role = "feature"',
        "has role = 'feature', and it must be one of 'pretext', 'control', 'untrained', 'pretrained', 'features'",
    ),
    "former flag": ("trains = False", "has trains = False, which an earlier version had; write role = "),
    "options": (
        "Options = dict", "has Options = <class 'dict'>, and it must be a class derived from ssl_bench.TaskOptions",
    ),
    "no phases": ("phases = ()", r"has phases = \(\), and it must be a tuple of one or more names"),
    "phase": ('phases = "main"', r"has phases = 'main', and it must be a tuple"),
    "twice": ('phases = ("a", "a")', "their names must differ"),
    "phase of forward": (
        'phases = ("a", "b")', r"has forward\(self, views\), and it is called as forward\(self, views, phase\)",
    ),
    "columns": ('columns = "hue"', r"has columns = 'hue', and it must be a set of names"),
    "rate": ("short_learning_rate = 0", "has short_learning_rate = 0, and it must be a positive number"),
    "size": ("min_image_size = 32.0", "has min_image_size = 32.0, and it must be a whole number"),
    "views": ("def views(self):\n    return None", r"has views\(self\), and it is called as views\(self, batch\)"),
    "built": (
        "def __init__(self, backbone):\n    pass",
        r"has __init__\(self, backbone\), and it is called as __init__\(self, backbone, options, setup\)",
    ),
    "no method": ("evaluated = 3", "has evaluated = 3, and it must be a method"),
    "of the class": (
        "def resolve(self, options, make):\n    return options",
        "has resolve without @classmethod; it is called on the class",
    ),
    "recipe": (
        "@classmethod\ndef short_recipe(cls, options):\n    return None",
        r"has short_recipe\(options\), and it is called as short_recipe\(cls, options, image_size\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), NEEDS.values(), ids=NEEDS)
def test_a_task_that_breaks_the_contract_is_refused_when_loaded(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_plugin(write(tmp_path, inside(line)))
    assert "mine" not in TASKS
    assert load_plugin(write(tmp_path, TASK)) == ["mine"]


JUDGES = {
    "protocol": (
        EVALUATOR.replace('    protocol = "judge-nothing"\n', ""),
        "has no class attribute `protocol`; say how it judges",
    ),
    "name": (
        EVALUATOR.replace('    name = "judge"\n', ""),
        "has no class attribute `name`; give it one, such as name = 'judge'",
    ),
    "evaluate": (
        EVALUATOR.replace("def evaluate", "def judged"),
        r"has no method evaluate\(self, subject\), which returns an Evaluation",
    ),
    "signature": (
        EVALUATOR.replace("(self, subject)", "(self)"),
        r"has evaluate\(self\), and it is called as evaluate\(self, subject\)",
    ),
    "accuracy": (inside('accuracy = "yes"', EVALUATOR), "has accuracy = 'yes', and it must be True or False"),
    "version": (inside("version = 1.5", EVALUATOR), "has version = 1.5, and it must be a whole number"),
    "options": (
        inside("Options = EvaluatorOptions()", EVALUATOR),
        "it must be a class derived from ssl_bench.EvaluatorOptions",
    ),
    "own sets": (
        inside("def own_sets(self, options, places):\n    return None", EVALUATOR),
        "has own_sets without @classmethod",
    ),
}


@pytest.mark.parametrize(("text", "message"), JUDGES.values(), ids=JUDGES)
def test_an_evaluator_that_breaks_the_contract_is_refused_when_loaded(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_plugin(write(tmp_path, text))
    assert load_plugin(write(tmp_path, EVALUATOR)) == ["judge"]


FILES = {
    "encoding": (
        TASK.encode() + b'GREETING = "gr\xfc\xdfe"\n',
        "line 11 holds byte 0xfc, which is not UTF-8; save the file in that encoding",
    ),
    "null": (TASK.encode() + b"\0", "cannot be imported: (SyntaxError|ValueError): .*null bytes"),
    "syntax": (TASK + "def (:\n", r"mine.py cannot be imported: SyntaxError: .*\(line 11\)"),
    "exit": (
        "import sys\nsys.exit(3)\n",
        r"ends the program when it is imported \(.*mine.py, line 2\); put that below `if __name__",
    ),
    "base exception": (
        "class Odd(BaseException): pass\nraise Odd('no')\n", r"cannot be imported: Odd: no \(.*mine.py, line 2\)",
    ),
    "recursion": ("def f(): return f()\nf()\n", "cannot be imported: RecursionError"),
    "dtype": (
        "import torch\ntorch.set_default_dtype(torch.float64)\n" + TASK,
        r"changes torch's default dtype \(torch.float32 to torch.float64\)",
    ),
    "gradients": ("import torch\ntorch.set_grad_enabled(False)\n" + TASK, "changes whether gradients are recorded"),
    "twice": (
        TASK + TASK.replace("Mine", "Other"),
        "a task named 'mine' exists already .class Mine of .*; choose another `name` for class Other of .*mine.py",
    ),
    "imported": ("from ssl_bench.tasks.rotation import Rotation\n", "defines no task, evaluator or source"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_an_odd_file_is_refused_in_words_and_leaves_nothing_behind(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    before = (torch.get_default_dtype(), torch.is_grad_enabled())
    for _ in range(2):  # the second time it is no better
        with pytest.raises(SpecError, match=message):
            load_plugin(write(tmp_path, text))
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before and "mine" not in TASKS
    assert load_plugin(write(tmp_path, TASK)) == ["mine"]


def test_another_encoding_is_read_where_it_is_declared(tmp_path: Path) -> None:
    text = "# -*- coding: latin-1 -*-\n" + TASK + 'GREETING = "grüße"\n'
    assert load_plugin(write(tmp_path, text.encode("latin-1"))) == ["mine"]
    assert load_plugin(write(tmp_path, b"\xef\xbb\xbf" + TASK.encode(), "marked.py").rename(tmp_path / "mine.py")) == [
        "mine"
    ]


def test_what_a_plugin_prints_does_not_stand_among_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_plugin(write(tmp_path, "print('hello')\n" + TASK))
    assert capsys.readouterr().out == ""


def test_paths_that_are_no_files_are_told_apart(tmp_path: Path) -> None:
    file = write(tmp_path, TASK)
    with pytest.raises(SpecError, match="is a folder; name a file in it: mine.py"):
        load_plugin(tmp_path)
    (tmp_path / "link.py").symlink_to(tmp_path / "gone.py")
    with pytest.raises(SpecError, match=r"does not exist \(a link to .*gone.py\)"):
        load_plugin(tmp_path / "link.py")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(SpecError, match="is not a file that could be read to its end"):
        load_plugin(tmp_path / "pipe.py")
    (tmp_path / "store").write_text(TASK)
    (tmp_path / "stored.py").symlink_to(tmp_path / "store")
    assert load_plugin(tmp_path / "stored.py") == ["mine"]
    TASKS._added.clear()
    (tmp_path / "same.py").symlink_to(file)
    assert load_plugin(file) == load_plugin(tmp_path / "same.py") == load_plugin(file) == ["mine"]


def test_a_base_class_without_a_name_is_not_mistaken_for_a_task(tmp_path: Path) -> None:
    text = TASK.replace('    name = "mine"\n', "") + '\nclass Named(Mine):\n    """Named."""\n    name = "mine"\n'
    assert load_plugin(write(tmp_path, text)) == ["mine"]
    with pytest.raises(SpecError, match="task class Mine has no class attribute `name`"):
        load_plugin(write(tmp_path, TASK.replace('    name = "mine"\n', "")))
