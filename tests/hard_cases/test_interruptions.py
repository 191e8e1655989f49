"""Ctrl-C and schedulers: what a signal asks for, when it is done, and what the exit code says."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from commands import call, evaluator, start, task, written
from ssl_bench.errors import Interrupted
from ssl_bench.records.schema import EvaluationRecord, Pretraining, read_record
from ssl_bench.system import interruption

COMMAND = Path(sys.executable).with_name("ssl-bench")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
SLOW = task("slow", "open('step', 'w').close(); time.sleep(0.05)")
LONG = {"images": 32_000, "batch_size": 32, "monitor": 0}


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 75, "SIGTERM", marks=pytest.mark.long),
        (signal.SIGUSR1, 75, "SIGUSR1"),
    ],
)
def test_a_signal_stops_a_run_at_its_next_step(tmp_path: Path, number: signal.Signals, code: int, word: str) -> None:
    running = start(tmp_path, "run", *written(tmp_path, SLOW, tasks=["slow"], baselines=[], pretrain=LONG))
    running.until(lambda: list(tmp_path.glob("runs/tiny/cells/*/*/.lock")))  # steps before that are the plan's
    (tmp_path / "step").unlink()
    running.until((tmp_path / "step").exists)
    running.send(number)
    ended = running.wait()
    assert (
        ended.code == code and word in ended.err and "stopped at step" in ended.err and "Traceback" not in ended.err
    ), ended
    assert len(list(tmp_path.glob("runs/tiny/cells/slow/*/checkpoint.safetensors"))) == 1
    assert not list(tmp_path.glob("runs/tiny/cells/slow/*/failed*"))


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    stuck = evaluator("stuck", "open('there', 'w').close(); time.sleep(600)")
    running = start(tmp_path, "run", *written(tmp_path, stuck, evaluate=["stuck"]))
    running.until((tmp_path / "there").exists)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # a scheduler that repeats itself changes nothing
        time.sleep(0.2)  # Python hears signals that come at the same moment in the order of their numbers
        running.send(number)
    ended = running.wait()
    assert ended.code == 130 and ended.err.startswith("interrupted") and "Traceback" not in ended.err, ended


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_scheduler_that_repeats_itself_does_not_cut_off_what_the_first_signal_began(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Neither the table that is brought up to date nor the sentence and the exit code at the end."""

    def first() -> None:
        from ssl_bench import __main__, report

        def repeated(function: Any) -> Any:
            def repeat(*arguments: Any) -> Any:
                os.kill(os.getpid(), signal.SIGTERM)
                return function(*arguments)

            return repeat

        report.write_report, __main__._report_error = repeated(report.write_report), repeated(__main__._report_error)

    asks = task("asks", f"os.kill(os.getpid(), {int(number)})", "diagnose")
    ended = call(tmp_path, "run", *written(tmp_path, asks, tasks=["asks"], baselines=[]), first=first)
    assert (
        ended.code == code
        and ": stopped " in ended.err
        and ended.err.endswith("; the same command goes on from here\n")
    ), ended
    assert len(ended.err.splitlines()) == 1 and (tmp_path / "runs/tiny/table.md").is_file(), ended


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("run tiny.yaml --smoke --skip-checks", signal.SIGINT),
        ("run tiny.yaml --smoke --skip-checks", signal.SIGTERM),
        ("plan tiny.yaml", signal.SIGTERM),
    ],
)
def test_commands_that_keep_nothing_do_not_promise_to_go_on(tmp_path: Path, words: str, number: signal.Signals) -> None:
    written(tmp_path, task("asks", f"os.kill(os.getpid(), {int(number)})"), tasks=["asks"], baselines=[])
    ended = call(tmp_path, *words.split(), "--plugin", "plugin.py")
    assert (
        ended.code == (130 if number == signal.SIGINT else 75)
        and "goes on" not in ended.err
        and len(ended.err.splitlines()) == 1
    ), ended
    assert ("starts over" in ended.err) == (number == signal.SIGTERM), ended


def test_a_run_goes_on_also_where_it_was_stopped_while_it_started(tmp_path: Path) -> None:
    """What earlier runs finished is there, and a log must not say otherwise."""

    class Starting(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)

    def first() -> None:
        sys.modules["ssl_bench.console.live"] = Starting("ssl_bench.console.live")

    ended = call(tmp_path, "run", *written(tmp_path), first=first)
    assert (ended.code, ended.err) == (75, "stopped by SIGTERM; the same command goes on from here\n"), ended


def test_the_consequences_of_an_interruption_are_no_failures(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches worker processes, too, and a plugin turns their death into errors of its own."""
    fragile = task("fragile", "os.kill(os.getpid(), signal.SIGINT); raise RuntimeError('worker died')", "diagnose")
    ended = call(tmp_path, "run", *written(tmp_path, fragile, tasks=["fragile"]))
    assert ended.code == 130 and "worker died" in ended.err, ended
    assert not list(tmp_path.glob("runs/tiny/cells/*/*/failed*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_while_images_are_prepared(tmp_path: Path, number: signal.Signals, code: int) -> None:
    def press(*_: Any) -> None:
        os.kill(os.getpid(), number)

    def first() -> None:
        import ssl_bench.data.packs.writing

        ssl_bench.data.packs.writing._decode_chunk = press

    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for at in range(20):
            Image.new("RGB", (32, 32), (at, 0, 0)).save(tmp_path / "photos" / name / f"{at}.png")
    ended = call(
        tmp_path, "run", *written(tmp_path, data={"source": "folder:photos", "size": 32, "test": 0.2}), first=first
    )
    assert ended.code == code and "Traceback" not in ended.err and len(ended.err.splitlines()) == 1, ended


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 75, "stopped by SIGTERM;")]
)
def test_a_signal_while_a_plugin_is_imported(tmp_path: Path, number: signal.Signals, code: int, told: str) -> None:
    (tmp_path / "plugin.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\nexcept BaseException:\n    raise ImportError('x')\n"
    )
    ended = call(tmp_path, "list", "tasks", "--plugin", "plugin.py")
    assert ended.code == code and ended.err.startswith(told), ended


def test_a_scheduler_that_repeats_itself_while_the_command_ends(tmp_path: Path) -> None:
    """Telling why takes imports, and Python's own end takes a second, in which handlers of its own are gone."""

    def again() -> None:
        import ssl_bench.system.terminal

        def harmless(text: str) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN, (
                "no handler of Python's, which goes before it ends"
            )
            os.kill(os.getpid(), signal.SIGINT)
            return text

        ssl_bench.system.terminal.harmless = harmless

    (tmp_path / "plugin.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    ended = call(tmp_path, "list", "tasks", "--plugin", "plugin.py", first=again)
    assert (ended.code, ended.err) == (75, "stopped by SIGTERM; the same command starts over\n"), ended


def test_ctrl_c_before_anything_is_imported(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [COMMAND, "versions"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    maps = Path(f"/proc/{running.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see what a process has loaded")
    while "libtorch" not in maps.read_text() and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "interrupted\n")


def test_from_python_the_handlers_of_whoever_calls_come_back() -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGUSR1, mine)
    try:
        with interruption.between_steps() as stop:
            assert signal.getsignal(signal.SIGUSR1) is mine, "somebody else's signal stays theirs"
            assert not stop() and not interruption.is_interruption(KeyboardInterrupt()), "nobody pressed Ctrl-C"
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() and interruption.is_interruption(Interrupted("stopped"))
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before[0] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert interruption.is_interruption(KeyboardInterrupt()) and not interruption.is_interruption(SystemExit())
    finally:
        signal.signal(signal.SIGUSR1, before[1])


@pytest.mark.long
def test_a_hundred_kills_change_no_number(tmp_path: Path) -> None:
    """SIGKILL at any moment, start-up, training, evaluation and report included: records stay whole,
    and the numbers are those of a run in peace."""
    spec = {
        "tasks": ["rotation"],
        "pretrain": {"images": 1_600, "batch_size": 32, "monitor": 2, "checkpoint_seconds": 0.01},
    }
    words = written(tmp_path, **spec)
    assert call(tmp_path, "run", *words, "--out", "runs/peace").code == 0
    moments = random.Random(0)
    for _ in range(100):
        running = start(tmp_path, "run", *words)
        time.sleep(moments.uniform(0.05, 2.5))
        if os.waitpid(running.pid, os.WNOHANG) == (0, 0):
            running.send(signal.SIGKILL)
            os.waitpid(running.pid, 0)
        for path in tmp_path.glob("runs/tiny/cells/*/*/pretrain.json"):
            read_record(path, Pretraining)
        if len(list(tmp_path.glob("runs/tiny/cells/*/*/knn-*.json"))) == 2:  # all there: once more from the beginning
            assert measured(tmp_path / "runs/tiny") == measured(tmp_path / "runs/peace")
            shutil.rmtree(tmp_path / "runs/tiny")
    assert call(tmp_path, "run", *words).code == 0
    assert measured(tmp_path / "runs/tiny") == measured(tmp_path / "runs/peace")
    assert not list(tmp_path.glob("runs/tiny/**/*.part"))


def measured(run: Path) -> dict[str, Any]:
    """Every number of a run, by row."""
    records = [read_record(path, EvaluationRecord) for path in run.glob("cells/*/*/knn-*.json")]
    curves = [read_record(path, Pretraining) for path in run.glob("cells/*/*/pretrain.json")]
    return {r.row: [m.value for m in r.measurements] for r in records} | {
        f"{p.row} loss": p.metrics.get("loss") for p in curves
    }
