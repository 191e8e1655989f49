"""Tensors on disk: safetensors files, never a pickle, written whole, with a digest over everything in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ssl_bench.errors import DamagedWeights, WeightsError
from ssl_bench.records.manifest import refuse_unlike_published
from ssl_bench.records.schema import write_bytes
from ssl_bench.system import digests

DIGEST = "ssl_bench_digest"  # of the metadata
OURS = "ssl_bench."  # how the kind of a file of ours begins
#: entries of the metadata of each kind, beside "kind" and "format"
_MORE = {
    "ssl_bench.checkpoint": {"meta"},
    "ssl_bench.task": {"pretraining"},
    "ssl_bench.heads": {"pretraining", "weights", "backbone", "shared"},
    "ssl_bench.backbone": {"spec", "input", "image_size", "network", "plugins"},
}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, metadata: Mapping[str, str]) -> str:
    """Write tensors, and return the digest of the file: equal tensors and metadata, equal digest."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    header, data = _header_and_data(save(plain, metadata={**metadata, "kind": kind}))
    known = header["__metadata__"][DIGEST] = _content_digest(header, data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    write_bytes(path, b"".join((len(text).to_bytes(8, "little"), text, data)))
    return known


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata, {} where it has none; those of a file of ours
    checked.

    Raises
    ------
    DamagedWeights : no safetensors file (so cut, empty, or a pickle, which is never opened), or not what was written,
        or published.
    WeightsError : a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    if not content:
        raise DamagedWeights(f"{path} is empty")
    refuse_unlike_published(path, content)
    try:
        header, data = _header_and_data(content)
        metadata: dict[str, str] = dict(header.get("__metadata__", {}))
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise DamagedWeights(f"{path} is damaged, or no safetensors file ({error})") from None
    kind, known = str(metadata.get("kind", "")), metadata.pop(DIGEST, None)
    # Where a bit of the digest's own name is flipped, the file must not pass for one of an earlier version, which had
    # none.
    strange = known is None and kind.startswith(OURS) and set(metadata) - {"kind", "format"} - _MORE.get(kind, set())
    if strange or (known is not None and known != _content_digest(header, data)):
        raise DamagedWeights(f"{path} is damaged: its bytes are not those that were written")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedWeights(f"{path} is damaged, or no safetensors file ({error})") from None
    if known is not None:
        metadata[DIGEST] = known
    elif kind.startswith(OURS):
        digests.not_checked(path)
    return tensors, metadata


def _header_and_data(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of a safetensors file, and the bytes of its tensors. Raises ValueError for anything else."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= len(content) - 8:
        raise ValueError("its header is not there")
    header = json.loads(content[8 : 8 + length].decode())
    if not isinstance(header, dict):
        raise ValueError("its header says nothing")
    return header, memoryview(content)[8 + length :]


def _content_digest(header: Mapping[str, Any], data: memoryview) -> str:
    rest = {**header, "__metadata__": {name: text for name, text in header["__metadata__"].items() if name != DIGEST}}
    return digests.digest_of(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode(), data)
