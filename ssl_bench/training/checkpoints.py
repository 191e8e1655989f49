"""Checkpoints of a run under way: tensors and plain JSON in one safetensors file, written whole, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_bench.backbones.saving import load_strictly
from ssl_bench.errors import DamagedWeights, WeightsError
from ssl_bench.records.tensors import read_tensors, save_tensors

KIND = "ssl_bench.checkpoint"


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
    save_tensors(path, tensors, KIND, {"meta": json.dumps({**meta, "optimizers": plain})})


def refuse_other_state(module: nn.Module) -> None:
    """Raise WeightsError where a module's state holds what is no tensor, before hours of training end where it has to
    be saved."""
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"the state_dict holds {name}, which is a {type(value).__name__}, and tensors alone are saved; let "
                "get_extra_state give a tensor, such as "
                "torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)"
            )


def load_checkpoint(path: Path, module: nn.Module, optimizers: list[Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Put a run back to where it was saved; returns ``meta``.

    Raises
    ------
    DamagedWeights : not what was written, or no checkpoint at all (a pickle is never opened); the module is as it was.
    WeightsError : a file that cannot be read, or is of another run (a key of ``expected`` differs).
    """
    try:
        tensors, header = read_tensors(path)
    except DamagedWeights:
        raise
    except WeightsError as error:
        raise WeightsError(f"checkpoint {error}; remove it to start this cell anew") from None
    try:
        meta: dict[str, Any] = json.loads(header["meta"])
    except (KeyError, ValueError):
        raise DamagedWeights(f"{path} is no checkpoint of ssl_bench") from None
    meta.setdefault("schedule_steps", meta.get("steps"))  # of an earlier version, which cut none
    for key, value in expected.items():
        if meta.get(key) != value:
            raise WeightsError(
                f"checkpoint {path} belongs to another run: {key} is {meta.get(key)!r} there and {value!r} here; "
                "remove it to start anew"
            )
    load_strictly(
        module,
        {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")},
        str(path),
    )
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
    path.unlink(missing_ok=True)
