"""The weights of a published run: files at the paths that they had in the results folder, and a manifest of them.

    cells/ROW/SEED-ID/backbone.safetensors  as it was written
    cells/ROW/SEED-ID/heads.safetensors     the rest of the task's state: heads, decoders, a teacher
    weights.json                            the digest and the size of each

A results folder keeps the whole task in task.safetensors, and the backbone in it a second time; here a tensor that the
backbone's file holds is named and not stored again. Values are as they were, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssl_bench.errors import DamagedWeights, RecordError
from ssl_bench.records.files import BACKBONE_FILE, HEADS_FILE, HEADS_KIND, TASK_FILE, TASK_KIND
from ssl_bench.records.manifest import MANIFEST, manifest_of
from ssl_bench.records.schema import write_bytes
from ssl_bench.records.tensors import DIGEST, read_tensors, save_tensors
from ssl_bench.system.digests import digest_of


def has_task_state(folder: Path) -> bool:
    """Whether a cell's folder holds the state of its task, in either form."""
    return (folder / TASK_FILE).is_file() or (folder / HEADS_FILE).is_file()


def read_task_state(folder: Path) -> tuple[dict[str, Tensor], str, str, Path]:
    """The state of a cell's task; the id of its pretraining; the digest of task.safetensors; the file it was read from.

    Raises
    ------
    DamagedWeights : a file that is not what was written, or of something else than a task.
    WeightsError : one that cannot be read.
    """
    path = folder / TASK_FILE
    if path.is_file() or not (folder / HEADS_FILE).is_file():
        tensors, header = read_tensors(path)
        if header.get("kind") != TASK_KIND:
            raise DamagedWeights(f"{path} holds no task of a cell")
        return tensors, header.get("pretraining", ""), header.get(DIGEST, ""), path
    path = folder / HEADS_FILE
    tensors, header = read_tensors(path)
    try:
        if header["kind"] != HEADS_KIND:
            raise KeyError(header["kind"])
        shared: dict[str, str] = json.loads(header["shared"])
        if shared:
            backbone, of_backbone = read_tensors(folder / BACKBONE_FILE)
            if of_backbone.get(DIGEST) != header["backbone"]:
                raise DamagedWeights(f"{folder / BACKBONE_FILE} is not the backbone that {HEADS_FILE} beside it is for")
            tensors |= {name: backbone[its_name] for name, its_name in shared.items()}
        return tensors, header["pretraining"], header["weights"], path
    except (KeyError, ValueError, AttributeError) as error:
        raise DamagedWeights(f"{path} does not hold the state of a task ({error})") from None


def write_published_weights(source: Path, cells: Mapping[str, str], made: Path) -> list[str]:
    """Write the weights of some cells, with what was written read back, and their manifest below ``made``.

    Parameters
    ----------
    source : a results folder.
    cells : the folder of each cell below it -> the digest of the weights that its record names.

    Returns
    -------
    The paths of the files below ``made``.

    Raises
    ------
    RecordError : the weights of a cell are gone. DamagedWeights where they are not those of its record.
    """
    contents: dict[str, bytes] = {}
    for name, weights in cells.items():
        if not has_task_state(source / name):
            raise RecordError(f"{source / name / TASK_FILE} is gone, so the weights of this cell cannot be published")
        tensors, pretraining, known, path = read_task_state(source / name)
        if weights and known != weights:
            raise DamagedWeights(f"{path} holds other weights than those that pretrain.json was written with")
        backbone: dict[str, Tensor] = {}
        header = {DIGEST: ""}
        if (source / name / BACKBONE_FILE).is_file():
            backbone, header = read_tensors(source / name / BACKBONE_FILE)
            write_bytes(made / name / BACKBONE_FILE, (source / name / BACKBONE_FILE).read_bytes())
        shared = _shared(tensors, backbone)
        save_tensors(
            made / name / HEADS_FILE,
            {task: tensor for task, tensor in tensors.items() if task not in shared},
            HEADS_KIND,
            {
                "pretraining": pretraining,
                "weights": known,
                "backbone": header.get(DIGEST, ""),
                "shared": json.dumps(shared, sort_keys=True),
            },
        )
        again, *facts, _ = read_task_state(made / name)
        same = again.keys() == tensors.keys() and all(
            _values_key(again[task]) == _values_key(t) for task, t in tensors.items()
        )
        if not same or facts != [pretraining, known]:
            raise RecordError(f"{name}: the state of the task is not read back as it was")
        for file in (BACKBONE_FILE, HEADS_FILE):
            if (made / name / file).is_file():
                contents[f"{name}/{file}"] = (made / name / file).read_bytes()
    write_bytes(made / MANIFEST, manifest_of(contents))
    return [*contents, MANIFEST]


def _shared(tensors: Mapping[str, Tensor], backbone: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor of a task -> the one of the backbone that is the same; its namesake, where several are."""
    names: dict[tuple[str, tuple[int, ...], str], list[str]] = {}
    for its_name in sorted(backbone):
        names.setdefault(_values_key(backbone[its_name]), []).append(its_name)
    alike = {task: names.get(_values_key(tensor), []) for task, tensor in tensors.items()}
    return {task: max(those, key=lambda name: task.endswith(name)) for task, those in alike.items() if those}


def _values_key(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    """What two tensors share whose values are the same bits."""
    values = tensor.reshape(-1).contiguous().view(torch.uint8).numpy()
    return str(tensor.dtype), tuple(tensor.shape), digest_of(values.tobytes())
