"""What ``ssl-bench doctor`` says of machines that are not this one."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssl_bench.console.doctor import print_findings
from ssl_bench.plan.doctor import Finding, Needs, Readings, findings, read
from ssl_bench.plan.prepare import prepare
from ssl_bench.system import machine

GB = 10**9
NEEDS = Needs(
    cells=12, seconds=7200.0, memory=GB, features=GB, images=GB, disk_results=GB, disk_packs=0, jobs=4
)  # fmt: skip
GOOD = Readings(
    cores=8, threads=8, load=0.3, memory=64 * GB, device="cpu", device_memory=None, built_for="CPU", nvidia=False,
    precision="bf16", compiler="g++", disk_results=500 * GB, disk_packs=500 * GB, slow_packs="", needs=NEEDS,
)  # fmt: skip


def told(**changes: Any) -> dict[str, Finding]:
    needs = {key: changes.pop(key) for key in list(changes) if key in Needs.__dataclass_fields__ and key != "memory"}
    seen = replace(GOOD, **changes)
    if needs and seen.needs is not None:
        seen = replace(seen, needs=replace(seen.needs, **needs))
    return {line.what: line for line in findings(seen)}


def test_nothing_limits_a_good_machine() -> None:
    lines = told()
    assert {line.verdict for line in lines.values()} == {"fine"} and len(lines) <= 15
    assert lines["work left"].value == "12 cells, about 2 h 00 min"


@pytest.mark.parametrize(
    ("changes", "what", "verdict", "words"),
    [
        ({"threads": 2, "jobs": 1}, "processor", "limits", "--jobs"),
        ({"threads": 2}, "processor", "fine", ""),
        ({"threads": 64}, "processor", "limits", "unset OMP_NUM_THREADS"),
        ({"load": 7.0}, "other programs", "limits", "stop them"),
        ({"nvidia": True}, "device", "limits", "install the CUDA build"),
        ({"nvidia": True, "built_for": "CUDA 12.8"}, "device", "limits", "driver"),
        ({"precision": "fp32"}, "precision", "fine", "AMX"),
        ({"memory": 10 * GB, "features": 9 * GB}, "memory", "limits", "close other programs"),
        ({"memory": 10 * GB, "features": 11 * GB}, "memory", "cannot run", "stage_values"),
        ({"memory": None, "features": 11 * GB}, "memory", "fine", ""),
        ({"memory": GB // 2, "features": 0}, "memory", "cannot run", "batch_size"),
        ({"device": "cuda", "device_memory": GB // 2}, "GPU memory", "cannot run", "batch_size"),
        ({"device": "cuda", "device_memory": 8 * GB, "memory": GB // 2, "features": 0}, "memory", "fine", ""),
        ({"images": 60 * GB}, "images", "limits", "disk"),
        ({"jobs": 1}, "side by side", "limits", "--jobs 8"),
        ({"jobs": 1, "cells": 3}, "side by side", "limits", "--jobs 3"),
        ({"jobs": 1, "cells": 1}, "side by side", "fine", ""),
        ({"jobs": 1, "device": "cuda", "device_memory": 8 * GB}, "side by side", "fine", ""),
        ({"disk_results": GB // 2}, "disk", "cannot run", "--out"),
        ({"slow_packs": "a network file system (nfs4)"}, "disk of images", "limits", "XDG_CACHE_HOME"),
        ({"compiler": ""}, "C++ compiler", "fine", "torch.compile"),
    ],
)  # fmt: skip
def test_each_limit_is_named_with_its_remedy(changes: dict[str, Any], what: str, verdict: str, words: str) -> None:
    if "disk_results" in changes:  # of the machine, not of the matrix
        line = {line.what: line for line in findings(replace(GOOD, **changes))}[what]
    else:
        line = told(**changes)[what]
    assert line.verdict == verdict and words in line.remedy, line


def test_packs_that_do_not_fit_cannot_run() -> None:
    seen = replace(GOOD, disk_packs=GB, needs=replace(NEEDS, disk_packs=2 * GB))
    lines = {line.what: line for line in findings(seen)}
    assert lines["disk of images"].verdict == "cannot run"
    printed = io.StringIO()
    assert not print_findings(Console(file=printed, width=200), list(lines.values()))
    assert "cannot run  set XDG_CACHE_HOME" in printed.getvalue()


def test_a_machine_is_read_alone_and_with_a_matrix(tmp_path: Path) -> None:
    assert read().needs is None and len(findings(read())) <= 15
    tiny = {
        "name": "m", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}},
        "backbone": {"name": "resnet10t", "width": 0.25, "stem_stride": 2}, "tasks": ["rotation"],
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "baselines": ["random"], "evaluate": ["knn"],
    }  # fmt: skip
    seen = read(prepare(tiny, tmp_path / "m", pack=False))
    assert seen.needs is not None and seen.needs.cells == 2 and seen.needs.memory > 0 and seen.needs.disk_results > 0
    assert print_findings(Console(file=io.StringIO(), width=200), findings(seen))


def test_slow_disks_are_told_by_their_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/mounts": "/dev/sda1 / ext4 rw 0 0\nserver:/x /mnt/data nfs4 rw 0 0\n/dev/nvme0n1p2 /home ext4 rw 0 0",
        "/sys/block/sda/queue/rotational": "1", "/sys/block/nvme0n1/queue/rotational": "0",
    }  # fmt: skip
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(str(path), ""))
    monkeypatch.setattr(machine, "_existing", lambda folder: folder)
    reasons = {place: machine.slow_disk(Path(place)) for place in ("/mnt/data/x", "/home/x", "/var/x")}
    assert reasons == {"/mnt/data/x": "a network file system (nfs4)", "/home/x": "", "/var/x": "a disk that turns"}
