"""What of the machine this process may use: processor cores and memory, also within a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 for no limit


def usable_cores() -> int:
    """The cores that this process may be scheduled on, or fewer where its control group may use less time; at least
    1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _cpu_limits())]))


def free_memory() -> int | None:
    """Bytes that can still be used without swapping; None where that cannot be told."""
    free = [limit - used for limit, used in _memory_limits()]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    return max(0, min(free)) if free else None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, up to the root; of version 2, then of version 1."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _OWN_GROUPS.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents)


def _numbers(path: Path) -> list[float]:
    """The words of a file as numbers, "max" as infinity; [] where there is none."""
    with suppress(OSError, ValueError):
        return [float("inf") if word == "max" else float(word) for word in path.read_text().split()]
    return []


def _cpu_limits() -> Iterator[float]:
    for group in _groups("cpu"):
        pair = _numbers(group / "cpu.max") or [
            *_numbers(group / "cpu.cfs_quota_us"),
            *_numbers(group / "cpu.cfs_period_us"),
        ]
        if len(pair) == 2 and 0 < pair[0] < float("inf") and pair[1] > 0:  # version 1 writes -1 for no limit
            yield pair[0] / pair[1]


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of every control group that has a limit; pages that only mirror files count as free."""
    for group in _groups("memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _numbers(group / limit_file), _numbers(group / used_file)
            if limit and used and limit[0] < _UNLIMITED:
                yield int(limit[0]), int(used[0]) - _file_pages(group / "memory.stat")


def _file_pages(path: Path) -> int:
    with suppress(OSError, ValueError):
        pairs = (line.split() for line in path.read_text().splitlines())
        return sum(int(value) for name, value in pairs if name in ("inactive_file", "total_inactive_file")) or 0
    return 0
