"""Checkpoints of a run under way: tensors and plain JSON in one safetensors file, written whole, never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ssl_bench.backbones import load_strictly
from ssl_bench.errors import WeightsError
from ssl_bench.records import write_bytes


def save_checkpoint(path: Path, module: nn.Module, optimizers: list[Any], meta: dict[str, Any]) -> None:
    """Everything a run needs to go on with the same bits: weights, buffers, optimiser state, and ``meta`` (JSON)."""
    tensors: dict[str, Tensor] = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    plain: list[dict[str, Any]] = []
    for number, optimizer in enumerate(optimizers):
        plain.append({})
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{index}.{key}"] = value
                else:
                    plain[number][f"{index}.{key}"] = value
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = json.dumps({**meta, "optimizers": plain})
    write_bytes(path, save(tensors, metadata={"kind": "ssl_bench.checkpoint", "meta": text}))


def load_checkpoint(path: Path, module: nn.Module, optimizers: list[Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Put a run back to where it was saved; returns ``meta``.

    Raises
    ------
    WeightsError : damaged, a pickle, or of another run (a key of ``expected`` differs).
    """
    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict, only its keys iterate
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"checkpoint {path} cannot be read ({error}); remove it to start this cell anew (pickled checkpoints are never opened)") from None
    if header.get("kind") != "ssl_bench.checkpoint":
        raise WeightsError(f"{path} is not a checkpoint of ssl_bench; remove it to start this cell anew")
    meta: dict[str, Any] = json.loads(header["meta"])
    for key, value in expected.items():
        if meta.get(key) != value:
            raise WeightsError(f"checkpoint {path} belongs to another run: {key} is {meta.get(key)!r} there and {value!r} here; remove it to start anew")
    load_strictly(module, {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}, str(path))
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        prefix = f"optimizer.{number}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, _, key = name.removeprefix(prefix).partition(".")
                state.setdefault(int(index), {})[key] = tensor
        for name, value in meta["optimizers"][number].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return meta


def remove(path: Path) -> None:
    """Remove a checkpoint that is no longer needed."""
    if path.exists():
        os.unlink(path)
