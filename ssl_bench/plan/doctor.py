"""What limits a matrix on this machine, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ssl_bench.data.places import cache_folder
from ssl_bench.plan.estimate import Estimate, estimate
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.system import machine
from ssl_bench.system.amounts import bytes_text, duration
from ssl_bench.system.processors import free_memory, usable_cores
from ssl_bench.training.device import choose_device, choose_precision

BUSY = 0.5  # of the cores: others who take as much are told
ROOM = 0.8  # of the free memory


@dataclass(frozen=True)
class Needs:
    """What a matrix asks for."""

    cells: int  #: still to be computed
    seconds: float
    memory: int  #: bytes of the device: the largest training step
    features: int  #: bytes of memory: of frozen evaluators
    images: int  #: bytes of all packed images
    disk_results: int  #: bytes
    disk_packs: int  #: bytes of the images that are not packed yet
    jobs: int  #: cells that `run` computes side by side here


@dataclass(frozen=True)
class Readings:
    """Everything that is looked at, read once."""

    cores: int
    threads: int  #: that torch uses
    load: float
    memory: int | None  #: bytes free
    device: str  #: "cpu", "cuda" or "mps"
    device_memory: int | None  #: bytes free on a GPU
    built_for: str  #: of torch: "CPU" or "CUDA 12.8"
    nvidia: bool
    precision: str
    compiler: str
    disk_results: int  #: bytes free where results go
    disk_packs: int  #: bytes free where packs go
    slow_packs: str  #: why reading packs is slow, or ""
    needs: Needs | None = None


@dataclass(frozen=True)
class Finding:
    """One line: what, its value, whether it is a limit, and what to do."""

    what: str
    value: str
    verdict: Literal["fine", "limits", "cannot run"] = "fine"
    remedy: str = ""


def read(run_plan: RunPlan | None = None, device: str | None = None) -> Readings:
    """Look at the machine, and at what a plan needs of it."""
    chosen = run_plan.device if run_plan is not None else choose_device(device)
    results = run_plan.out if run_plan is not None else Path("runs")
    packs = cache_folder(None)
    return Readings(
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        load=machine.load_average(),
        memory=free_memory(),
        device=chosen.type,
        device_memory=torch.cuda.mem_get_info(chosen)[0] if chosen.type == "cuda" else None,
        built_for=f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        nvidia=machine.has_nvidia(),
        precision=choose_precision("auto" if run_plan is None else run_plan.matrix.precision, chosen),
        compiler=machine.compiler(),
        disk_results=machine.free_disk(results),
        disk_packs=machine.free_disk(packs),
        slow_packs=machine.slow_disk(packs),
        needs=_needs_of(run_plan, estimate(run_plan, jobs=None)) if run_plan is not None else None,
    )


def _needs_of(run_plan: RunPlan, todo: Estimate) -> Needs:
    return Needs(
        cells=todo.missing,
        seconds=todo.seconds,
        memory=max((row.memory or 0 for row in todo.rows), default=0),
        features=todo.features,
        images=todo.packed,
        disk_results=todo.results,
        disk_packs=sum(run_plan.unpacked.values()),
        jobs=todo.jobs.count,
    )


def findings(seen: Readings) -> list[Finding]:
    """A line for everything that may limit, in the order that it should be mended."""
    lines = [_cores(seen), _other_programs(seen), _device(seen), _precision(seen), _memory(seen)]
    if seen.device_memory is not None and seen.needs is not None:
        lines.append(_device_memory(seen.device_memory, seen.needs))
    if seen.needs is not None:
        lines += [_images(seen, seen.needs), _processes(seen, seen.needs)]
    lines += [_disk(seen), _packs_disk(seen), _compiler(seen)]
    if seen.needs is not None:
        lines.append(Finding("work left", f"{seen.needs.cells:,} cells, about {duration(seen.needs.seconds)}"))
    return lines


def _cores(seen: Readings) -> Finding:
    value = f"{seen.cores} cores, {seen.threads} threads"
    if seen.threads > seen.cores:
        return Finding("processor", value, "limits", "threads wait for each other: unset OMP_NUM_THREADS")
    several = seen.needs is not None and seen.needs.jobs > 1
    if seen.device == "cpu" and seen.threads < seen.cores and not several:
        remedy = "cores are idle: unset OMP_NUM_THREADS, or give `run` --jobs"
        return Finding("processor", value, "limits", remedy)
    return Finding("processor", value)


def _other_programs(seen: Readings) -> Finding:
    value = f"load {seen.load:.1f}"
    if seen.load > BUSY * seen.cores:
        return Finding("other programs", value, "limits", "stop them, or expect times as much longer")
    return Finding("other programs", value)


def _device(seen: Readings) -> Finding:
    value = f"{seen.device}, torch built for {seen.built_for}"
    if seen.device == "cpu" and seen.nvidia:
        remedy = (
            "there is an NVIDIA GPU: install the CUDA build of torch (pytorch.org/get-started/locally)"
            if seen.built_for == "CPU"
            else "there is an NVIDIA GPU that torch cannot use: its driver may be older than the build needs"
        )
        return Finding("device", value, "limits", remedy)
    return Finding("device", value)


def _precision(seen: Readings) -> Finding:
    if seen.precision == "fp32" and seen.device != "mps":
        return Finding("precision", "fp32", "fine", "bf16 needs a processor with AMX or a GPU from Ampere on")
    return Finding("precision", seen.precision)


def _memory(seen: Readings) -> Finding:
    free = "free: unknown" if seen.memory is None else f"{bytes_text(seen.memory)} free"
    if seen.needs is None:
        return Finding("memory", free)
    training = seen.needs.memory if seen.device_memory is None else 0
    needed = max(training, seen.needs.features)
    value = f"{free}, {bytes_text(needed)} needed"
    if seen.memory is not None and needed > seen.memory:
        remedy = (
            "set a smaller stage_values, or fewer labelled images"
            if seen.needs.features >= training
            else "set a smaller batch_size, or a narrower network"
        )
        return Finding("memory", value, "cannot run", remedy)
    if seen.memory is not None and needed > ROOM * seen.memory:
        return Finding("memory", value, "limits", "close other programs before the run")
    return Finding("memory", value)


def _device_memory(free: int, needs: Needs) -> Finding:
    value = f"{bytes_text(free)} free, {bytes_text(needs.memory)} needed"
    if needs.memory > free:
        return Finding("GPU memory", value, "cannot run", "set a smaller batch_size, or a narrower network")
    return Finding("GPU memory", value)


def _images(seen: Readings, needs: Needs) -> Finding:
    value = bytes_text(needs.images)
    if seen.memory is not None and needs.images > ROOM * seen.memory:
        return Finding(
            "images", f"{value}, more than fits in memory", "limits", "batches wait for the disk: smaller `size`"
        )
    return Finding("images", f"{value}, fit in memory")


def _processes(seen: Readings, needs: Needs) -> Finding:
    if needs.jobs > 1:
        return Finding("side by side", f"{needs.jobs} cells")
    possible = min(seen.cores, needs.cells)
    if seen.device != "cpu" or possible < 2:
        return Finding("side by side", "one cell after the other")
    remedy = f"--jobs {possible} finishes more an hour, where threads were chosen (OMP_NUM_THREADS) or memory is short"
    return Finding("side by side", "one cell after the other", "limits", remedy)


def _disk(seen: Readings) -> Finding:
    free = f"{bytes_text(seen.disk_results)} free for results"
    if seen.needs is None:
        return Finding("disk", free)
    value = f"{free}, {bytes_text(seen.needs.disk_results)} needed"
    if seen.needs.disk_results > seen.disk_results:
        return Finding("disk", value, "cannot run", "make room, or give --out on a larger disk")
    return Finding("disk", value)


def _packs_disk(seen: Readings) -> Finding:
    value = f"{bytes_text(seen.disk_packs)} free for decoded images"
    if seen.needs is not None and seen.needs.disk_packs:
        value += f", {bytes_text(seen.needs.disk_packs)} needed"
        if seen.needs.disk_packs > seen.disk_packs:
            return Finding("disk of images", value, "cannot run", "set XDG_CACHE_HOME to a folder on a larger disk")
    if seen.slow_packs:
        remedy = "set XDG_CACHE_HOME to a folder on a disk of this machine without moving parts"
        return Finding("disk of images", f"{value}, {seen.slow_packs}", "limits", remedy)
    return Finding("disk of images", value)


def _compiler(seen: Readings) -> Finding:
    return Finding(
        "C++ compiler", seen.compiler or "none", "fine", "" if seen.compiler else "torch.compile needs one; runs do not"
    )
