"""Bits that flip, files that are cut, emptied or exchanged: every one is noticed, named, and made good or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

import ssl_bench
from ssl_bench.data.batches import Batches
from ssl_bench.errors import DamagedRecord, DamagedWeights, Interrupted, Notice, RecordError, SpecError, WeightsError
from ssl_bench.evaluators.training import train_on
from ssl_bench.plan.prepare import prepare
from ssl_bench.records.predictions import read_predictions
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining, Record, Run, read_record, write_record
from ssl_bench.records.tensors import read_tensors
from ssl_bench.report import load
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out
from ssl_bench.spec.recipe import Recipe
from ssl_bench.training.checkpoints import load_checkpoint, save_checkpoint
from toys import build, noise_set

TINY: dict[str, Any] = {
    "name": "tiny", "data": {"source": "shapes", "size": 32, "limit": {"train": 120, "test": 60}},
    "backbone": {"name": "resnet18", "width": 0.125, "stem_stride": 2},
    "pretrain": {"images": 32, "batch_size": 32, "monitor": 0},
    "tasks": ["rotation"], "baselines": ["random"], "evaluate": [{"knn": {"k": [5]}}],
}  # fmt: skip
MORE = {**TINY, "evaluate": [*TINY["evaluate"], "diagnostics"]}
RECIPE = Recipe(optimizer="sgd", learning_rate=0.01, batch_size=16)


class Watching(Observer):
    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.finished: list[str] = []
        self.steps = 0

    def cell_finished(self, cell: Any, *_: Any) -> None:
        self.finished.append(cell.address)

    def cell_failed(self, cell: Any, failure: Failure) -> None:
        self.failures.append(failure)

    def progressed(self, progress: Any) -> None:
        self.steps += 1


def compute(out: Path, spec: dict[str, Any] = TINY, **settings: Any) -> Watching:
    watcher = Watching()
    carry_out(prepare(spec, out, **settings), watcher)
    return watcher


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert compute(folder).finished == ["rotation/0", "random/0"]
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(f"cells/{pattern}")
    return path


def flips(content: bytes, wherever: int, structure: int) -> Iterator[bytes]:
    """``content`` with one bit flipped: at both ends,
    at bytes that structure is made of (at most so many), and wherever."""
    rng = np.random.default_rng(0)
    marks = [at for at, byte in enumerate(content[:40_000]) if byte in b'{}[]",:\\ \n-.eE']
    positions = [
        *range(max(0, len(content) - 8), len(content)),
        *(marks[at] for at in rng.permutation(len(marks))[:structure]),
    ]
    bits = [(at, bit) for at in range(min(16, len(content))) for bit in range(8)] + [
        (at, int(rng.integers(8))) for at in positions
    ]
    bits += [(int(rng.integers(len(content))), int(rng.integers(8))) for _ in range(wherever)]
    for at, bit in bits:
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        yield bytes(changed)


def noticed(
    path: Path,
    read: Callable[[], Any],
    same: Callable[[Any, Any], bool],
    errors: type[Exception],
    wherever: int = 50,
    structure: int = 70,
) -> float:
    """Flip bits of a file one after another: reading it fails with an error that names the file, or gives what it gave
    before.

    Returns the share of flips that were refused.
    """
    content, before = path.read_bytes(), read()
    refused = total = 0
    for changed in flips(content, wherever, structure):
        path.write_bytes(changed)
        total += 1
        try:
            assert same(before, read()), "a flip went by unnoticed"
        except errors as error:
            assert path.name in str(error)
            refused += 1
    path.write_bytes(content)
    return refused / total


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("rotation/*/pretrain.json", Pretraining),
        ("rotation/*/knn-*.json", EvaluationRecord),
        ("../run.json", Run),
        ("failed", Failure),
    ],
)
def test_flips_in_records(run: Path, pattern: str, kind: type[Record]) -> None:
    if kind is Failure:
        path = run / "failed.json"
        write_record(
            path, Failure(row="r", task="t", seed=0, where="knn", error="E", message='because\n"ü"', created="now")
        )
    else:
        path = only(run, pattern)
    # others are spaces between what it says
    assert noticed(path, lambda: read_record(path, kind), lambda a, b: a == b, RecordError) > 0.8


def equal_tensors(one: Any, other: Any) -> bool:
    (a, meta), (b, other_meta) = one, other
    return meta == other_meta and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["task", "backbone"])
def test_flips_in_weights(run: Path, name: str) -> None:
    path = only(run, f"rotation/*/{name}.safetensors")
    assert noticed(path, lambda: read_tensors(path), equal_tensors, DamagedWeights) == 1


def test_flips_in_predictions(run: Path) -> None:
    path = only(run, "rotation/*/knn-*.npz")
    record = read_record(path.with_suffix(".json"), EvaluationRecord)

    def same(a: Any, b: Any) -> bool:
        return bool(a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a))

    assert noticed(path, lambda: read_predictions(path, record), same, DamagedRecord) == 1
    path.unlink()
    with pytest.raises(DamagedRecord, match=r"\.npz is missing"):
        read_predictions(path, record)


def test_flips_in_a_checkpoint(tmp_path: Path) -> None:
    path, task = tmp_path / "c.safetensors", build()
    optimizer = torch.optim.AdamW(task.parameters())
    task(task.views(Batches(noise_set(), 16, 0).batch(0)))["loss"].backward()
    optimizer.step()
    save_checkpoint(path, task, [optimizer], {"seed": 0, "done": 1})
    other = build(seed=1)
    begun = {name: tensor.clone() for name, tensor in other.state_dict().items()}

    def read() -> Any:
        return load_checkpoint(path, other, [torch.optim.AdamW(other.parameters())], {"seed": 0})

    for changed in flips(path.read_bytes(), 20, 20):
        (tmp_path / "d.safetensors").write_bytes(changed)
        with pytest.raises(DamagedWeights, match=r"d\.safetensors"):
            load_checkpoint(tmp_path / "d.safetensors", other, [torch.optim.AdamW(other.parameters())], {"seed": 0})
    assert all(torch.equal(tensor, begun[name]) for name, tensor in other.state_dict().items()), (
        "nothing of a damaged file gets into a network"
    )
    assert read()["done"] == 1 and all(
        torch.equal(a, b) for a, b in zip(task.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("content", ["cut", "empty", "zeros", "other", "folder"])
def test_what_is_no_record_or_no_weights_any_more(run: Path, content: str) -> None:
    for pattern in ("rotation/*/pretrain.json", "rotation/*/task.safetensors"):
        path = only(run, pattern)
        size, other = path.stat().st_size, only(run, pattern.replace("rotation", "random"))
        path.unlink()
        if content == "folder":
            path.mkdir()
        else:
            path.write_bytes(
                {"cut": other.read_bytes()[:-40], "empty": b"", "zeros": bytes(size), "other": other.read_bytes()}[
                    content
                ]
            )
    watcher = compute(run, MORE)
    assert watcher.finished == ["random/0"], "what is sound goes on"
    (failure,) = watcher.failures
    assert "pretrain.json" in failure.message and watcher.steps == 0
    if content == "folder":
        assert "Is a directory" in failure.message and compute(run, MORE, recompute=True).failures, (
            "nothing that is not ours is replaced"
        )
    else:
        assert "--recompute" in failure.message
        with pytest.warns(Notice, match="trained again"):
            assert compute(run, MORE, recompute=True).finished == ["rotation/0"]
        assert not compute(run, MORE).finished and not load(run).missing


def flip(path: Path, at: int = -50) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(bytes(content))


def test_a_damaged_evaluation_is_measured_again_and_test_counted(run: Path) -> None:
    for number, suffix in enumerate((".json", ".npz"), 2):
        path = only(run, f"rotation/*/knn-*{suffix}")
        before = read_record(path.with_suffix(".json"), EvaluationRecord)
        flip(path, path.read_bytes().index(b"created") + 16 if suffix == ".json" else -50)
        results = load(run)
        assert path.name in (results.damaged if suffix == ".json" else results.doubtful)[0]
        with pytest.warns(Notice, match=rf"rotation/0: .*{path.name}.*opened once more: {number} times"):
            assert compute(run).finished == ["rotation/0"]
        again = read_record(path.with_suffix(".json"), EvaluationRecord)
        assert again.measurements == before.measurements and again.test_opened == number
    assert not compute(run).finished


def test_a_damaged_record_is_never_replaced_unasked(run: Path) -> None:
    path = only(run, "rotation/*/pretrain.json")
    flip(path, path.read_bytes().index(b'"loss"') + 1)
    damaged = path.read_bytes()
    assert re.search(r"pretrain\.json is damaged or was edited.*--recompute", compute(run).failures[0].message)
    assert path.read_bytes() == damaged
    assert "pretrain.json is damaged" in load(run).damaged[0]
    with pytest.warns(Notice, match="trained again"):
        results = ssl_bench.run(TINY, run, recompute=True, report=False)
    assert not results.failures and not results.missing


def test_damaged_weights_are_refused_where_they_are_needed(run: Path) -> None:
    for name in ("task", "backbone"):
        flip(only(run, f"rotation/*/{name}.safetensors"))
    assert not compute(run).failures, "nothing is missing: nobody reads them"
    (failure,) = compute(run, MORE).failures
    assert re.search(r"task\.safetensors is damaged: .*--recompute", failure.message)
    backbone = only(run, "rotation/*/backbone.safetensors")
    for setting in ({"weights": [f"file:{backbone}"]}, {"tasks": [{"rotation": {"init": f"file:{backbone}"}}]}):
        with pytest.raises(SpecError, match=r"backbone\.safetensors is damaged"):
            prepare({**TINY, **setting}, run.with_name("other"))
    with pytest.warns(Notice, match="trained again"):
        compute(run, MORE, recompute=True)
    assert not load(run).missing
    assert len(prepare({**TINY, "weights": [f"file:{backbone}"]}, run.with_name("other")).rows) == 3


def test_numbers_of_two_trainings_do_not_stand_in_one_row(run: Path) -> None:
    """Weights that were trained again and came out otherwise:
    whatever was measured on the old ones is measured again."""
    pretraining = only(run, "rotation/*/pretrain.json")
    record = read_record(pretraining, Pretraining)
    write_record(pretraining, record.model_copy(update={"weights": "0" * 64}))
    assert [missing.what for missing in load(run).missing] == ["knn"]
    (failure,) = compute(run).failures
    assert "other weights than those that pretrain.json" in failure.message
    write_record(pretraining, record)
    knn = only(run, "rotation/*/knn-*.json")
    write_record(knn, read_record(knn, EvaluationRecord).model_copy(update={"weights": "0" * 64}))
    assert compute(run).finished == ["rotation/0"] and read_record(knn, EvaluationRecord).test_opened == 2


def test_a_damaged_run_json_is_written_anew(run: Path) -> None:
    (run / "run.json").write_bytes(b"")
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        load(run)
    with pytest.warns(Notice, match=r"run\.json is damaged.*written anew"):
        assert not compute(run).finished
    assert not load(run).missing


def test_a_damaged_part_of_an_evaluation_starts_anew(tmp_path: Path) -> None:
    def trained(stop: Callable[[], bool], seconds: float = 0) -> Any:
        task = build()
        subject: Any = SimpleNamespace(
            progress=lambda text: None, parts=tmp_path / "parts", checkpoint_seconds=seconds, device="cpu",
            precision="fp32", stop=stop,
        )  # fmt: skip
        train_on(subject, task, Batches(noise_set(), 16, 0), RECIPE, 4, seed=0, part="rate-0.1", what="toy")
        return task.state_dict()

    whole = trained(lambda: False, 100)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        trained(lambda: next(asked))
    flip(tmp_path / "parts" / "rate-0.1.safetensors")
    with pytest.warns(Notice, match=r"rate-0\.1\.safetensors is damaged.* starts anew"):
        again = trained(lambda: False)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_files_of_earlier_versions_are_told_once_with_their_number(run: Path) -> None:
    for path in run.glob("cells/**/*.json"):
        data = json.loads(path.read_text())
        path.write_text(
            json.dumps({key: value for key, value in data.items() if key not in ("digest", "weights", "predictions")})
        )
    with pytest.warns(Notice, match=r"^6 files were written by a version that kept no digests") as told:
        assert not compute(run).finished
    assert len([one for one in told if one.category is Notice]) == 1
    assert load(run).unchecked == 6  # four records, two of predictions


def test_from_python_weights_are_not_trained_again_unasked(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "images": 32,
        "backbone": TINY["backbone"],
        "options": {"batch_size": 32},
        "out": tmp_path,
    }
    first = ssl_bench.pretrain("rotation", TINY["data"], **settings)
    flip(only(tmp_path, "rotation/*/backbone.safetensors"))
    with pytest.raises(WeightsError, match=r"backbone\.safetensors is damaged.*recompute=True"):
        ssl_bench.pretrain("rotation", TINY["data"], **settings)
    again = ssl_bench.pretrain("rotation", TINY["data"], recompute=True, **settings)
    assert again.record.weights == first.record.weights


def test_from_python_a_cell_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "images": 32,
        "backbone": TINY["backbone"],
        "options": {"batch_size": 32},
        "out": tmp_path,
    }
    first = ssl_bench.pretrain("rotation", TINY["data"], **settings)
    record = only(tmp_path, "rotation/*/pretrain.json")
    written, before = record.read_bytes(), record.stat().st_mtime_ns
    with ThreadPoolExecutor(1) as pool:
        with FileLock(record.parent / ".lock"):
            record.unlink()  # as while it is trained
            second = pool.submit(ssl_bench.pretrain, "rotation", TINY["data"], **settings)
            with pytest.raises(FutureTimeout):
                second.result(timeout=1)
            record.write_bytes(written)
            os.utime(record, ns=(before, before))
        assert second.result(timeout=60).record == first.record
    assert record.stat().st_mtime_ns == before, "not trained again"


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read everything")
def test_no_permission_is_no_damage(run: Path) -> None:
    path = only(run, "rotation/*/pretrain.json")
    path.chmod(0)
    (failure,) = compute(run, recompute=True).failures
    assert "Permission denied" in failure.message


@pytest.mark.long
def test_many_flips(run: Path) -> None:
    for pattern, kind in (
        ("rotation/*/pretrain.json", Pretraining),
        ("rotation/*/knn-*.json", EvaluationRecord),
        ("../run.json", Run),
    ):
        path = only(run, pattern)
        noticed(
            path, lambda path=path, kind=kind: read_record(path, kind), lambda a, b: a == b, RecordError, 5_000, 5_000
        )  # type: ignore[misc]
    path = only(run, "rotation/*/task.safetensors")
    noticed(path, lambda: read_tensors(path), equal_tensors, DamagedWeights, 3_000, 3_000)
