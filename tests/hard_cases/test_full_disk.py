"""When nothing more can be written: told once, with the path and the room, and what was finished is whole."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import TINY, call, start, task, written
from ssl_bench.errors import DataError, NoRoomError, RecordError
from ssl_bench.plan.prepare import prepare
from ssl_bench.records.schema import Pretraining, read_record
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out
from ssl_bench.system import disk
from ssl_bench.system.amounts import bytes_text
from ssl_bench.system.disk import is_locked, no_room, remove_leftovers, write_bytes

TWO = {"tasks": ["first", "second"], "baselines": ["random"]}
PLUGIN = task("first", "pass") + task("second", "pass")
DEEP = 2_000_000  # bytes: more than any record, less than weights with a head of a million values
HEAD = "torch.nn.Linear(backbone.num_features, 1)"
LARGE = PLUGIN.replace(
    HEAD, "torch.nn.Sequential(torch.nn.Linear(backbone.num_features, 9_000), torch.nn.Linear(9_000, 1))"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes, where this process may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_run_at_the_first_and_leaves_what_was_finished(tmp_path: Path, small_disk: Path) -> None:
    words = written(tmp_path, PLUGIN)
    assert call(tmp_path, "run", *words, "--out", "disk/run").code == 0
    before = {path: path.read_bytes() for path in small_disk.glob("run/**/*") if path.is_file()}
    written(tmp_path, PLUGIN, **TWO)
    filled = small_disk / "filler"
    filled.write_bytes(bytes(shutil.disk_usage(small_disk).free - 40_000))  # room for records, not for weights
    ended = call(tmp_path, "run", *words, "--out", "disk/run")
    assert ended.code == 1 and "Traceback" not in ended.out + ended.err and ended.out.count("failed in") == 0, ended
    assert (
        "cannot be written: No space left on device" in ended.err
        and "are free in" in ended.err
        and "disk/run/cells/first" in ended.err
    ), ended.err
    after = {path: path.read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} <= {small_disk / "run/run.json"}
    assert not list(small_disk.glob("run/**/*.part")) and not list(small_disk.glob("run/cells/second/*/*.json"))
    filled.unlink()
    assert call(tmp_path, "run", *words, "--out", "disk/run", "--only", "first").code == 0, "the same command goes on"


def test_a_limit_on_the_size_of_files_is_no_room_either(tmp_path: Path) -> None:
    words = written(tmp_path, LARGE, **TWO)
    prepare(TINY, tmp_path / "other")  # packs, which are larger than the limit

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DEEP, DEEP))

    ended = call(tmp_path, "run", *words, first=limited)
    assert (
        ended.code == 1
        and "File too large" in ended.err
        and "cells/first" in ended.err
        and "MB) cannot be written" in ended.err
    ), ended
    assert not list(tmp_path.glob("runs/tiny/cells/second/*/*.json")) and not list(
        tmp_path.glob("runs/tiny/cells/*/*/*.part")
    )
    assert call(tmp_path, "status", "tiny").code == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_anywhere_in_a_cell(tmp_path: Path, number: int) -> None:
    """Also where a library wraps the error, and where a plugin writes by itself."""
    name, cause = (
        f"fills{number}",
        f"error = OSError({number}, 'full', '/scratch/cache'); raise RuntimeError('could not save') from error",
    )
    written(tmp_path, task(name, cause, "diagnose"))
    with pytest.raises(NoRoomError, match=f"/scratch/cache cannot be written: {os.strerror(number)}"):
        carry_out(
            prepare(TINY | {"tasks": [name]}, tmp_path / "out", plugins=(tmp_path / "plugin.py",), skip_checks=True),
            Observer(),
        )
    assert not list(tmp_path.glob("out/cells/*/*/*.json"))


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    assert no_room(OSError(errno.EACCES, "denied")) is None and no_room(ValueError("No space left on device")) is None
    circular = ValueError("a")
    circular.__cause__ = RuntimeError("b")
    circular.__cause__.__cause__ = circular
    assert no_room(circular) is None


def test_free_space_is_never_negative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    # less than what packing leaves over
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10_000_000))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="where (0 B|10 MB) are free"):
        prepare(TINY, tmp_path / "out")
    assert bytes_text(-56_754_176) == "0 B"


# ---- folders that cannot be written
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/results", "/sys/results", "file/results", "file"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_prepared(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr("ssl_bench.plan.prepare.load", lambda *_, **__: pytest.fail("images were read first"))
    with pytest.raises(RecordError, match=f"--out.*{place}|{place}.*--out"):
        prepare(TINY, place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_where_a_cell_should_be(tmp_path: Path) -> None:
    words = written(tmp_path, PLUGIN)
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/cells").write_text("in the way")
    ended = call(tmp_path, "run", *words)
    assert ended.code == 2 and "runs/tiny/cells" in ended.err and "Traceback" not in ended.err, ended


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lock:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("ssl_bench.runner.cell_lock.FileLock", Lock)
    with pytest.raises(RecordError, match="no file locks"):
        carry_out(prepare(TINY, tmp_path), Observer())


def test_a_folder_that_vanishes_under_way_is_no_success(tmp_path: Path) -> None:
    gone = task("first", "import shutil; shutil.rmtree('runs/tiny', ignore_errors=True)", "diagnose")
    ended = call(tmp_path, "run", *written(tmp_path, gone, tasks=["first"], baselines=["pixels"]))
    assert "Traceback" not in ended.err and ended.code == 0, ended  # its own folder is made again
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/pretrain.json"))) == 2


def test_the_table_is_printed_where_its_files_cannot_be_written(tmp_path: Path) -> None:
    assert call(tmp_path, "run", *written(tmp_path)).code == 0

    def broken() -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "runs/tiny/table.md"))

        disk.os.replace = refuse

    ended = call(tmp_path, "report", "tiny", first=broken)
    assert (
        ended.code == 1
        and "random" in ended.out
        and "table.md: Read-only file system" in ended.err
        and "Traceback" not in ended.err
    ), ended


# ---- what killed writers leave
# -----------------------------------------------------------------------------------------------------


def test_temporary_files_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        disk.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_bytes(tmp_path / "cells/a/0-1/pretrain.json", b"{}")
    os.waitpid(pid, 0)
    (dead,) = tmp_path.rglob("*.part")
    (tmp_path / "run.json").write_text("{}")
    packs = [tmp_path / "pixels.part", tmp_path / ".notes.part"]
    for path in packs:
        path.touch()
    with disk._locked_part(tmp_path / "table.md") as (alive, file):
        assert remove_leftovers(tmp_path) == [dead]
        assert alive.exists() and all(path.exists() for path in packs) and not dead.exists()
        file.write(b"whole")
        alive.rename(tmp_path / "table.md")
    assert (tmp_path / "table.md").read_bytes() == b"whole" and remove_leftovers(tmp_path) == []


def test_a_killed_run_leaves_nothing_that_blocks_or_stays(tmp_path: Path) -> None:
    words = written(
        tmp_path,
        task("first", "open('there', 'w').close(); time.sleep(600)", "diagnose"),
        tasks=["first"],
        baselines=[],
    )
    running = start(tmp_path, "run", *words)
    running.until((tmp_path / "there").exists)
    (cell,) = tmp_path.glob("runs/tiny/cells/first/*")
    assert is_locked(cell / ".lock")
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    (cell / f".pretrain.json.{'0' * 16}.part").write_text("half")
    (tmp_path / f"runs/tiny/.table.md.{'0' * 16}.part").write_text("half")
    assert not is_locked(cell / ".lock")
    (tmp_path / "plugin.py").write_text(task("first", "pass"))
    assert call(tmp_path, "run", *words).code == 0
    assert not list(tmp_path.glob("runs/**/*.part"))
    assert len([read_record(path, Pretraining) for path in tmp_path.glob("runs/tiny/cells/first/*/pretrain.json")]) == 1
