"""Where a number was made: device, versions, code."""

from __future__ import annotations

import functools
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ssl_bench.records.schema import Environment

_PACKAGES = ("torch", "torchvision", "timm", "lightly", "faiss-cpu", "numpy", "pandas")


def now() -> str:
    """UTC in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@functools.cache
def code_version() -> str:
    """ "0.1.0 (a1b2c3d)", with the commit where the code runs from a checkout, and "+" where it is changed."""
    from ssl_bench import __version__

    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return __version__
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, timeout=5
        )
        if commit.returncode != 0:
            return __version__
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "ssl_bench"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return f"{__version__} ({commit.stdout.strip()}{'+' if changed.stdout.strip() else ''})"


@functools.cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def device_name(device: torch.device) -> str:
    """ "cuda: NVIDIA H200" or "cpu: AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {_processor()}, {torch.get_num_threads()} threads"


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: torch.device, precision: str) -> Environment:
    """The environment as a record."""
    return Environment(
        device=device_name(device), precision=precision, versions=installed_versions(), code=code_version()
    )
