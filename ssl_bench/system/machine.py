"""What else a machine has, as the system tells: load, disks, a compiler."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "fuse.sshfs",
    "fuse.gcsfuse",
    "fuse.s3fs",
    "lustre",
    "ceph",
    "glusterfs",
)


def load_average() -> float:
    """Processes that wanted to run in the last minute, about; 0 where it is not told."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def free_disk(folder: Path) -> int:
    """Bytes free where a folder lies, or will."""
    return shutil.disk_usage(_existing(folder)).free


def slow_disk(folder: Path) -> str:
    """Why reading there is slow, such as "a network file system (nfs4)"; "" where nothing says so."""
    device, kind = _mount_of(_existing(folder).resolve())
    if kind in NETWORK:
        return f"a network file system ({kind})"
    name = Path(device).name
    disk = name.rstrip("0123456789") if not name.startswith(("nvme", "mmcblk")) else name.partition("p")[0]
    # what a virtual disk lies on is not told, and most say that they turn
    return (
        "a disk that turns"
        if name.startswith("sd") and _text(Path("/sys/block") / disk / "queue" / "rotational") == "1"
        else ""
    )


def compiler() -> str:
    """The C++ compiler on the path; "" without."""
    return next(
        (name for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++") if name and shutil.which(name)), ""
    )


def has_nvidia() -> bool:
    """Whether there is a GPU of NVIDIA's with its driver, whatever torch was built for."""
    return Path("/proc/driver/nvidia/version").exists()


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next((above for above in (folder, *folder.parents) if above.exists()), Path("/"))


def _mount_of(path: Path) -> tuple[str, str]:
    """Device and kind of the file system that a path lies on."""
    best = ("", "", "")
    for line in _text(Path("/proc/mounts")).splitlines():
        device, where, kind, *_ = line.split(" ")
        if path.is_relative_to(where) and len(where) >= len(best[1]):
            best = device, where, kind
    return best[0], best[2]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
