"""What one row changes for the whole program is set back before the next one computes, and told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageFile

import ssl_bench
from commands import TINY, evaluator, task, written
from ssl_bench.plan.prepare import prepare
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining, failure_files, read_record
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out
from ssl_bench.system.global_state import captured, changed, restore, restored

CHANGES: dict[str, Callable[[], Any]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "gradients": lambda: torch.set_grad_enabled(False),
    "inference mode": lambda: KEPT.append(torch.inference_mode()) or KEPT[-1].__enter__(),
    "threads": lambda: torch.set_num_threads(3),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "near zero": lambda: torch.set_flush_denormal(True),
    "CPU autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "cuDNN's deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "oneDNN": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "hooks": lambda: torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 2 if output.ndim == 2 else output
    ),
    "floating-point errors": lambda: np.seterr(all="raise"),
    "truncated images": lambda: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    "working directory": lambda: os.chdir("/"),
    "environment variables": lambda: os.environ.update(SSL_BENCH_TEST="secret"),
    "handlers of signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "functions of torch, NumPy or Pillow (torch.nn.functional.relu)": lambda: setattr(
        torch.nn.functional, "relu", lambda x, inplace=False: x
    ),
    "torch.Tensor.mean": lambda: setattr(torch.Tensor, "mean", lambda self, *words: self.sum()),
    "torch.nn.modules.conv.Conv2d.forward": lambda: setattr(torch.nn.Conv2d, "forward", lambda self, x: x),
    "numpy.random.rand": lambda: setattr(np.random, "rand", lambda *shape: np.zeros(shape)),
    "torch.randint": lambda: delattr(torch, "randint"),
    "": lambda: (warnings.simplefilter("error"), sys.path.insert(0, "/nowhere"), torch.rand(3), np.random.rand(3)),
}
KEPT: list[Any] = []


@pytest.mark.parametrize("name", CHANGES)
def test_everything_is_set_back_and_told_by_name(name: str) -> None:
    before, draw = captured(), torch.rand(3)
    torch.manual_seed(1)
    with restored() as inside:
        CHANGES[name]()
        told = changed(inside)
    assert name in told and (bool(told) == bool(name)) and "secret" not in told
    assert changed(before) == "" and torch.rand(3, dtype=draw.dtype).dtype == torch.float32
    assert ("error", None, Warning, None, 0) not in warnings.filters and "/nowhere" not in sys.path
    torch.manual_seed(1)
    drawn = torch.rand(2)
    with restored():
        torch.manual_seed(1)
        np.random.rand(3)
    assert not torch.equal(torch.rand(2), drawn), "draws go on where they were"


@pytest.mark.long
def test_functions_that_a_library_replaces_by_itself_are_not_told() -> None:
    """Importing more of torch wraps some of its functions."""
    code = (
        "import torch\nfrom ssl_bench.system.global_state import captured, changed\n"
        "before, seed = captured(), torch.manual_seed\nimport torch._dynamo\n"
    )
    code += "assert 'functions' not in changed(before), changed(before)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_setting_that_torch_refuses_to_read_is_set_back_all_the_same() -> None:
    """Once a program has used the newer settings of precision, asking for the older ones raises."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has no such setting")
    before = captured()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert "tf32" in changed(before)
    restore(before)
    assert changed(before) == "" and torch.get_float32_matmul_precision() == before["torch's float32 matmul precision"]


class Watching(Observer):
    def __init__(self) -> None:
        self.failed: list[Failure] = []

    def cell_failed(self, cell: Any, failure: Failure) -> None:
        self.failed.append(failure)


def numbers(out: Path) -> list[float]:
    (path,) = out.glob("cells/random/*/knn-*.json")
    return [m.value for m in read_record(path, EvaluationRecord).measurements]


def test_a_row_that_changes_everything_changes_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set in pretraining, in an evaluator, and by a row that then fails:
    the untrained row's numbers are those it has alone."""
    monkeypatch.chdir(tmp_path)
    spec = TINY | {"evaluate": [{"knn": {"k": [5]}}]}
    carry_out(prepare(spec, tmp_path / "alone"), Observer())
    bad = (
        "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); "
        "torch.set_num_threads(2); os.chdir('/'); os.environ['X_Y'] = '1'"
    )
    plugin = (
        task("changer", bad, "diagnose")
        + task("loser", f"{bad}; raise RuntimeError('lost')", "diagnose")
        + evaluator("meddler", bad)
    )
    written(tmp_path, plugin)
    spec |= {"tasks": ["changer", "loser"], "evaluate": ["meddler", {"knn": {"k": [5]}}]}
    before, watcher = captured(), Watching()
    carry_out(prepare(spec, tmp_path / "beside", plugins=(tmp_path / "plugin.py",), skip_checks=True), watcher)
    assert changed(before) == "" and Path.cwd() == tmp_path
    assert numbers(tmp_path / "beside") == numbers(tmp_path / "alone")
    (path,) = (tmp_path / "beside").glob("cells/changer/*/pretrain.json")
    told = read_record(path, Pretraining).changed
    assert (
        "torch's default dtype (torch.float32 to torch.float64)" in told
        and "working directory" in told
        and "environment variables (X_Y)" in told
    )
    for path in (tmp_path / "beside").glob("cells/random/*/*.json"):
        record = read_record(path, Pretraining if path.name == "pretrain.json" else EvaluationRecord)
        assert ("default dtype" in record.changed) == path.name.startswith("meddler"), path
    assert [failure.row for failure in watcher.failed] == ["loser"]
    assert "lost (before that it changed, for the whole program, torch's" in watcher.failed[0].message
    assert len(failure_files(next((tmp_path / "beside").glob("cells/loser/*")))) == 1


def test_from_python_too(tmp_path: Path) -> None:
    """A plugin that is trained or asked by itself must not change what its caller computes next."""
    (tmp_path / "plugin.py").write_text(
        task("lone", "torch.set_default_dtype(torch.float64)", "diagnose")
        + evaluator("nosy", "torch.set_num_threads(2)")
    )
    before = captured()
    settings = {"images": 32, "backbone": TINY["backbone"], "options": {"batch_size": 32}, "skip_checks": True}
    trained = ssl_bench.pretrain("lone", TINY["data"], plugins=[tmp_path / "plugin.py"], **settings)
    assert changed(before) == "" and "default dtype" in trained.record.changed
    assert len(ssl_bench.evaluate(trained.backbone, TINY["data"], ["nosy"])) == 1 and changed(before) == ""


def test_what_comes_with_the_suite_changes_nothing(tmp_path: Path) -> None:
    """Libraries that are imported under way change the program, too;
    that must not be told of the row they were first needed for."""
    spec = TINY | {"tasks": ["rotation"], "evaluate": [{"knn": {"k": [5]}}, "diagnostics"]}
    carry_out(prepare(spec, tmp_path), Observer())
    records = [read_record(path, Pretraining) for path in tmp_path.glob("cells/*/*/pretrain.json")]
    assert len(records) == 2 and {record.changed for record in records} == {""}


def test_what_the_suite_imports_later_is_told_of_no_row():
    code = """
import importlib, pkgutil, ssl_bench
from ssl_bench.system.global_state import captured, changed
before = captured()
for module in pkgutil.walk_packages(ssl_bench.__path__, "ssl_bench."):
    if not module.name.endswith("__main__") and ".templates" not in module.name:
        importlib.import_module(module.name)
print(changed(before) or "nothing")
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "nothing\n"
