"""Several processes for one run: what they compute does not depend on their number, and the end of any of them is no
one else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import TINY, Ended, Running, call, start, task, written
from ssl_bench.console.commands import running as running_command
from ssl_bench.errors import SpecError
from ssl_bench.plan import jobs as jobs_module
from ssl_bench.plan.estimate import Estimate, RowEstimate
from ssl_bench.plan.jobs import PROCESS_BYTES, Jobs, jobs_of, jobs_requested
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.records.schema import EvaluationRecord, Pretraining, read_record
from ssl_bench.system import processors
from ssl_bench.system.digests import tell_unchecked

# Notes which processes begin a training, and trains once there are as many as a file says.
MEETING = (
    task("meeting", "time.sleep(float(open('pause').read()))")
    + """
    def before_training(self):
        with open(f'pids/{os.getpid()}', 'a') as file:
            file.write('begun\\n')
        deadline = time.monotonic() + 60
        while len(os.listdir('pids')) < int(open('processes').read()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

class Failing(Meeting):
    'Fails before it trains.'
    name = "failing"
    def before_training(self):
        with open('tries', 'a') as file:
            file.write('once\\n')
        raise RuntimeError('broken')
"""
)


def meeting(folder: Path, processes: int, pause: float = 0.0, **changes: Any) -> list[str]:
    """The words of a run whose processes wait for each other."""
    (folder / "pids").mkdir(exist_ok=True)
    for name, value in (("processes", processes), ("pause", pause)):
        (folder / name).write_text(str(value))
    spec = {"tasks": ["meeting"], "baselines": [], "seeds": [0, 1]} | changes
    return ["run", *written(folder, MEETING, **spec), "--jobs", str(processes)]


def spoken_notices() -> None:
    """Let notices be lines on stderr, as outside of tests, which collect warnings; those of earlier tests are over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tell_unchecked()
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)


def started(folder: Path, **settings: Any) -> tuple[Running, int]:
    """A run of two processes under way, each with a cell that takes long, and the number of the other process."""

    def first() -> None:
        os.setsid()
        spoken_notices()

    running = start(folder, *meeting(folder, 2, **settings), first=first)
    running.until(lambda: len(list(folder.glob("pids/*"))) == 2)
    (other,) = {int(path.name) for path in folder.glob("pids/*")} - {running.pid}
    return running, other


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def measured(run: Path) -> dict[str, Any]:
    """What is to be equal to the bit, weights included, by cell."""
    records = {}
    for path in run.glob("cells/*/*/pretrain.json"):
        record = read_record(path, Pretraining)
        records[path.parent.name, "pretraining"] = (record.weights, record.curves, record.metrics, record.diagnose)
    for path in run.glob("cells/*/*/knn-*.json"):
        records[path.parent.name, path.name] = (read_record(path, EvaluationRecord).measurements,)  # type: ignore[assignment]
    return records


def test_records_do_not_depend_on_the_number_of_processes_and_a_failure_is_met_once(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tasks": ["meeting", "failing"]}
    ends: list[Ended] = []

    def first() -> None:
        spoken_notices()
        running_command.write_table_files = lambda *_, **__: None  # figures take longer than the cells

    for processes in (2, 1):
        ends.append(call(tmp_path, *meeting(tmp_path, processes, **changes), "--out", f"runs/{processes}", first=first))
        assert len(list(tmp_path.glob("pids/*"))) == processes, ends[-1].err
        assert (tmp_path / "tries").read_text().split() == ["once", "once"], "one try for each seed"
        for path in (tmp_path / "tries", *tmp_path.glob("pids/*")):
            path.unlink()
    both, alone = ends
    assert both.code == alone.code == 1 and "2 cells side by side, one thread each" in both.out
    assert all(f"\n[{number}/4] " in end.out for number in range(1, 5) for end in ends), both.out
    assert both.out.count("failed in pretraining: broken") == alone.out.count("failed in pretraining: broken") == 2
    assert measured(tmp_path / "runs/2") == measured(tmp_path / "runs/1") and len(measured(tmp_path / "runs/2")) == 4
    assert not both.err and not alone.err


def test_sigterm_to_one_process_stops_all_with_checkpoints(tmp_path: Path) -> None:
    running, other = started(tmp_path, pause=0.05, pretrain={"images": 32_000, "batch_size": 32, "monitor": 0})
    running.send(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 75 and is_gone(other)
    assert "stopped at step" in ended.err and len(ended.err.splitlines()) == 1, ended.err
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))) == 2
    assert not list(tmp_path.glob("runs/tiny/cells/*/*/failed*"))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_all_processes_stops_them_with_checkpoints(tmp_path: Path, number: signal.Signals) -> None:
    running, other = started(tmp_path, pause=0.05, pretrain={"images": 32_000, "batch_size": 32, "monitor": 0})
    os.killpg(running.pid, number)
    ended = running.wait()
    assert ended.code == (130 if number == signal.SIGINT else 75) and is_gone(other)
    assert "stopped at step" in ended.err and len(ended.err.splitlines()) == 1, ended.err
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))) == 2


@pytest.mark.long
def test_when_the_first_process_is_killed_the_others_stop_with_checkpoints(tmp_path: Path) -> None:
    long = {"images": 32_000, "batch_size": 32, "monitor": 0, "checkpoint_seconds": 3_600}
    running, other = started(tmp_path, pause=0.05, pretrain=long)
    running.send(signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 20
    while not is_gone(other):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))) == 1


@pytest.mark.long
def test_the_cell_of_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    pretrain = {"images": 6_400, "batch_size": 32, "monitor": 0, "checkpoint_seconds": 0.01}
    running, other = started(tmp_path, pause=0.02, pretrain=pretrain)
    running.until(lambda: len(list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))) == 2)
    os.kill(other, signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 0, ended.err
    assert "at meeting/1 was killed (SIGKILL), perhaps for want of memory; the run goes on without it" in ended.err
    assert (tmp_path / "pids" / str(running.pid)).read_text() == "begun\n", "the other from its checkpoint"
    (tmp_path / "processes").write_text("1")
    assert call(tmp_path, *meeting(tmp_path, 1, pretrain=pretrain), "--out", "runs/peace").code == 0
    assert measured(tmp_path / "runs/tiny") == measured(tmp_path / "runs/peace")


@pytest.mark.parametrize("changed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_process_that_does_not_start_is_told_once_and_the_rest_is_done(tmp_path: Path, changed: bool) -> None:
    def first() -> None:
        spoken_notices()
        if changed:
            RunPlan.fingerprint = lambda self: "another"  # type: ignore[method-assign]
        else:
            sys.executable = str(tmp_path / "nowhere")

    pause = task("pausing", "time.sleep(10)", "diagnose") if changed else task("pausing", "pass")
    words = written(tmp_path, pause, tasks=["pausing"], seeds=[0, 1, 2])
    ended = call(tmp_path, "run", *words, "--jobs", "3", first=first)
    assert ended.code == 0 and ended.err.count("did not start") == 1, ended.err
    assert ("were changed since the run began" if changed else "No such file") in ended.err
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/knn-*.json"))) == 6


def test_of_plugins_that_took_each_others_names_the_latest_is_had(tmp_path: Path) -> None:
    """As in a notebook, whose process holds every version of a plugin that it ever loaded."""
    files = [tmp_path / name / "mine.py" for name in ("first", "second")]
    for file in files:
        file.parent.mkdir()
        file.write_text(task("mine", "pass"))
    code = (
        "import sys; from ssl_bench.runner.worker import _load_latest; from ssl_bench.plugins.registry import TASKS; "
        "_load_latest(sys.argv[1:]); print(sys.modules[TASKS.get('mine').__module__].__file__)"
    )
    words = [sys.executable, "-c", code, str(files[0]), str(tmp_path / "gone.py"), str(files[1])]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert Path(told.stdout.strip()) == files[1]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", 0, True, "99999"])
def test_a_number_of_processes_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="jobs must be auto or a whole number from 1 to 1024"):
        jobs_requested(value)
    assert jobs_requested("auto") is None and jobs_requested("3") == jobs_requested(3) == 3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of eight cores and much memory, on which nobody has set a number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(jobs_module, "usable_cores", lambda: 8)
    monkeypatch.setattr(jobs_module, "free_memory", lambda: 1 << 60)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    return monkeypatch


def divided(tmp_path: Path, requested: int | None = None, memory: int = 0, **changes: Any) -> Jobs:
    return jobs_of(prepare(TINY | changes, tmp_path), requested, lambda: memory)


def test_cores_are_divided_between_the_cells_of_the_whole_matrix(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    assert divided(tmp_path, seeds=[0]) == Jobs(1, 8)
    assert divided(tmp_path, seeds=[0, 1, 2]) == Jobs(3, 2)
    assert divided(tmp_path, seeds=list(range(20))) == Jobs(8, 1)
    chosen = {"rotation": {"learning_rate": {"choose": [1e-3, 1e-4, 1e-5]}}}
    evaluate = ["linear"]
    assert divided(tmp_path, baselines=[], tasks=[chosen], evaluate=evaluate) == Jobs(3, 2)
    assert divided(tmp_path, requested=4) == Jobs(4, 2) and divided(tmp_path, requested=20) == Jobs(20, 1)
    assert Jobs(2, 3).words == "2 cells side by side, 3 threads each" and not Jobs(1, 8).words


def test_a_plan_tells_the_time_of_cells_side_by_side() -> None:
    rows = [RowEstimate(name, 0, 2, "", 1, 1.0, seconds, 1) for name, seconds in (("short", 4.0), ("long", 36.0))]
    plan = Estimate(rows, 20.0, 0, 0, 0, "")
    assert [replace(plan, jobs=Jobs(count)).seconds for count in (1, 2, 3)] == [60, 30, 20]
    assert replace(plan, jobs=Jobs(9)).seconds == 18, "four cells, of which the longest takes so long"
    assert plan.evaluation_share == pytest.approx(1 / 3)


def test_memory_bounds_the_number_of_processes(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(jobs_module, "free_memory", lambda: 4 * (PROCESS_BYTES + 10**9) + 5)
    seeds = list(range(20))
    assert divided(tmp_path, memory=10**9, seeds=seeds) == Jobs(4, 2)
    assert divided(tmp_path, memory=10**12, seeds=seeds) == Jobs(1, 8)
    machine.setattr(jobs_module, "free_memory", lambda: None)
    assert divided(tmp_path, memory=10**12, seeds=seeds) == Jobs(8, 1)


def test_threads_that_somebody_has_set_stay(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    seeds = list(range(20))
    machine.setenv("OMP_NUM_THREADS", "3")
    assert divided(tmp_path, seeds=seeds) == Jobs(1) and divided(tmp_path, requested=2, seeds=seeds) == Jobs(2)
    machine.delenv("OMP_NUM_THREADS")
    machine.setattr(torch, "get_num_threads", lambda: 3)
    assert divided(tmp_path, seeds=seeds) == Jobs(1) and divided(tmp_path, requested=2, seeds=seeds) == Jobs(2)


@pytest.mark.parametrize(
    ("groups", "files", "cores", "memory"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1, None),
        ("0::/\n", {"cpu.max": "300000 100000", "memory.max": "5000", "memory.current": "3000"}, 3, 2000),
        (
            "4:memory:/x\n1:cpu,cpuacct:/x\n0::/\n",
            {
                "cpu/x/cpu.cfs_quota_us": "200000",
                "cpu/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "9000",
                "memory/x/memory.usage_in_bytes": "8000",
                "memory/x/memory.stat": "cache 1\ntotal_inactive_file 500\n",
            },
            2,
            1500,
        ),
        ("1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 64, None),
    ],
)
def test_a_container_may_use_less_than_the_machine_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    cores: int,
    memory: int | None,
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    monkeypatch.setattr(processors, "_OWN_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(processors, "_CGROUPS", tmp_path / "tree")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert processors.usable_cores() == cores
    free = processors.free_memory()
    assert free == memory if memory is not None else free is None or free > 10**6
