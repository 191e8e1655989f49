"""The manifest of a published run's weights: digest and size of each file, by its path in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_bench.errors import DamagedWeights, WeightsError
from ssl_bench.system import digests

MANIFEST = "weights.json"
FORMAT = 1


def manifest_of(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of files, by their paths; it has a digest of its own."""
    files = {
        name: {"digest": digests.digest_of(content), "bytes": len(content)}
        for name, content in sorted(contents.items())
    }
    told: dict[str, Any] = {"format": FORMAT, "files": files}
    return (json.dumps({**told, digests.KEY: digests.digest_of_json(told)}, indent=1) + "\n").encode()


def read_manifest(run: Path) -> dict[str, dict[str, Any]]:
    """Path to digest and size of every file of weights published with a run; {} where none are.

    Raises DamagedWeights where the manifest is not what was written.
    """
    path = run / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        told = json.loads(content)
        if told[digests.KEY] != digests.digest_of_json(told):
            raise ValueError("its digest is another")
        version, files = told["format"], dict(told["files"])
        if strange := [name for name in files if not _is_of_a_cell(name)]:
            raise ValueError(f"it lists {strange[0]!r}, which is no file of a cell")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedWeights(f"{path} is damaged ({error}); fetch it again") from None
    if version != FORMAT:
        raise WeightsError(f"{path} was written by a newer ssl_bench (form {version}; this version reads {FORMAT})")
    return files


def _is_of_a_cell(name: str) -> bool:
    """Whether a name is cells/ROW/SEED-ID/NAME.safetensors; a published folder may be a stranger's, and files that its
    manifest lists are replaced."""
    parts = name.split("/")
    return (
        len(parts) == 4 and parts[0] == "cells" and not {"", ".", ".."} & set(parts) and name.endswith(".safetensors")
    )


def refuse_unlike_published(path: Path, content: bytes) -> None:
    """Raise DamagedWeights where a file of a published run is not the one that was published.

    A cell that was trained again has a record beside its weights, which are then its own.
    """
    parts = path.absolute().parts[-4:]
    if len(parts) < 4 or parts[0] != "cells" or (path.parent / "pretrain.json").exists():
        return
    run = path.absolute().parents[3]
    entry = read_manifest(run).get("/".join(parts))
    if entry is not None and entry.get("digest") != digests.digest_of(content):
        raise DamagedWeights(
            f"{path} is not the file that was published: its digest is not the one in {MANIFEST}; fetch it again"
        )
