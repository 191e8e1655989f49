"""The shipped matrices: `run quick` needs no path. In a checkout they are benchmarks/*.yaml; in a wheel, a folder of
the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_bench.errors import SpecError, did_you_mean, quoted
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import load_matrix, missing_file, with_settings

_FOLDERS = (Path(__file__).parents[1] / "shipped_matrices", Path(__file__).parents[2] / "benchmarks")


def shipped() -> dict[str, Path]:
    """Name to file of every shipped matrix."""
    matrices: dict[str, Path] = {}
    for folder in _FOLDERS:
        if folder.is_dir():
            for file in sorted(folder.glob("*.yaml")):
                matrices.setdefault(file.stem, file)
    return matrices


def find(name: str) -> Path:
    """The file of a shipped name or a path. Raises SpecError with the nearest shipped names."""
    matrices = shipped()
    if name in matrices:
        return matrices[name]
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who is not there
        path = Path(name)
    why = missing_file(path)
    if not why:
        return path
    if why.startswith("does not exist") and path.suffix not in (".yaml", ".yml", ".json") and "/" not in name:
        raise SpecError(f"no shipped matrix and no file is called {quoted(name)}; {did_you_mean(name, matrices)}")
    raise SpecError(f"matrix file {quoted(name)} {why}")


def headline_comment(path: Path) -> str:
    """The first comment line of a matrix file, which says what it is for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return ""


def as_matrix(value: Matrix | Mapping[str, Any] | str | Path, sets: tuple[str, ...] = ()) -> Matrix:
    """A Matrix from itself, plain data, a shipped name ("quick") or a YAML file."""

    if isinstance(value, (Matrix, Mapping)):
        data = value.model_dump(exclude_unset=True) if isinstance(value, Matrix) else dict(value)
        return parse(Matrix, with_settings(data, sets), "matrix") if sets or not isinstance(value, Matrix) else value
    return load_matrix(find(str(value)), sets)
