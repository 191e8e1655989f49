"""Where a run lies."""

from __future__ import annotations

from pathlib import Path

from ssl_bench.errors import SpecError, did_you_mean


def run_folder(path: Path) -> Path:
    """A results folder by path, or by name under runs/ and results/."""

    def is_run(folder: Path) -> bool:
        try:
            return (folder / "run.json").is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False

    tried = list(dict.fromkeys((path, Path("runs") / path, Path("results") / path)))  # one, where it begins at the root
    for folder in tried:
        if is_run(folder):
            return folder
    known = [p.parent.name for root in ("runs", "results") for p in Path(root).glob("*/run.json")]
    raise SpecError(f"no run at {' or '.join(str(folder)[:200] for folder in tried)}; {did_you_mean(path.name, known)}")
