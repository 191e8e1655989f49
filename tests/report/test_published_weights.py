"""Weights of a published run: found where a results folder has them, the same bits, and refused where they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ssl_bench import evaluate, load_backbone
from ssl_bench.backbones.weights import open_weights
from ssl_bench.console import commands as cli
from ssl_bench.errors import DamagedWeights, RecordError, WeightsError
from ssl_bench.plan.prepare import prepare
from ssl_bench.records.manifest import MANIFEST, manifest_of, read_manifest
from ssl_bench.records.published_weights import read_task_state
from ssl_bench.report import load, publish
from ssl_bench.system import digests
from tests.report.test_publishing import TINY, compute

SPEC: dict[str, Any] = {**TINY, "tasks": ["rotation", "autoencoder"], "baselines": ["random", "pca"], "seeds": [0, 1]}
MORE: dict[str, Any] = {**SPEC, "evaluate": [*SPEC["evaluate"], "diagnostics"]}

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert not compute(folder, SPEC).failures
    return folder


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_bench.report.publishing.write_report", lambda *_, **__: [])


@pytest.fixture
def published(run: Path, tmp_path: Path) -> Path:
    publish(run, tmp_path / "tiny", weights=0)
    return tmp_path / "tiny"


def folder_of(published: Path, row: str, seed: int = 0) -> Path:
    return published / next(c.folder for c in load(published).run.cells if (c.row, c.seed) == (row, seed))


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_weights_of_one_seed_are_published_once_each(run: Path, published: Path) -> None:
    cells = {cell.row: cell.folder for cell in load(run).run.cells if cell.seed == 0}
    listed = read_manifest(published)
    expected = {f"{folder}/heads.safetensors" for folder in cells.values()}
    expected |= {f"{folder}/backbone.safetensors" for row, folder in cells.items() if row != "pca"}
    assert set(listed) == expected
    assert expected == {p.relative_to(published).as_posix() for p in published.rglob("*.safetensors")}
    for name, facts in listed.items():
        assert facts == {
            "digest": digests.digest_of((published / name).read_bytes()),
            "bytes": (published / name).stat().st_size,
        }
    rotation = cells["rotation"]
    original = (run / rotation / "backbone.safetensors").read_bytes()
    assert (published / rotation / "backbone.safetensors").read_bytes() == original
    # the head of a rotation is small: the backbone is not there a second time
    assert listed[f"{rotation}/heads.safetensors"]["bytes"] < 0.1 * len(original)
    for row in cells.values():
        before, after = (read_task_state(place / row) for place in (run, published))
        assert before[1:3] == after[1:3] and before[0].keys() == after[0].keys()
        assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    pd.testing.assert_frame_equal(load(published).frame, load(run).frame)


def test_further_evaluations_take_them_and_measure_the_same(run: Path, published: Path, tmp_path: Path) -> None:
    watcher = compute(published, {**MORE, "seeds": [0]})
    assert not watcher.failures and len(watcher.finished) == 4
    assert not list(published.rglob("task.safetensors")) and not list(published.rglob("pretrain.json"))
    whole = Path(shutil.copytree(run, tmp_path / "copy"))
    assert not compute(whole, {**MORE, "seeds": [0]}).failures
    pd.testing.assert_frame_equal(load(published).frame, load(whole).frame)
    # of the other seed there are none
    watcher = compute(published, MORE)
    assert len(watcher.failures) == 4 and all("are gone" in failure for failure in watcher.failures)


def test_a_backbone_is_judged_started_from_and_told_where_it_comes_from(
    run: Path, published: Path, tmp_path: Path
) -> None:
    file = folder_of(published, "rotation") / "backbone.safetensors"
    same = run / file.relative_to(published)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_backbone(file)(images), load_backbone(same)(images))
    pd.testing.assert_frame_equal(
        evaluate(file, SPEC["data"], [{"knn": {"k": [5]}}]), evaluate(same, SPEC["data"], [{"knn": {"k": [5]}}])
    )
    opened = open_weights(f"file:{file}")
    assert opened.trained_on == "the images of a run by rotation, without labels" and opened.label_free
    started: dict[str, Any] = {
        **TINY, "weights": [f"file:{file}"], "tasks": [{"rotation": {"init": f"file:{file}"}}], "baselines": [],
    }  # fmt: skip
    assert not compute(tmp_path / "next", started).failures


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("name", ["backbone.safetensors", "heads.safetensors", MANIFEST])
def test_a_flipped_bit_is_refused_by_name(published: Path, name: str, place: float) -> None:
    folder = folder_of(published, "rotation")
    path = published / MANIFEST if name == MANIFEST else folder / name
    flip(path, place)
    if (name, place) == (MANIFEST, 1.0):
        assert path.read_bytes()[-1:] == b"\x0b"  # white space behind the text says nothing, and other white space too
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedWeights, match=name):
        read_task_state(folder)
    if name != "heads.safetensors":
        with pytest.raises(DamagedWeights, match=name):
            load_backbone(folder / "backbone.safetensors")
    (failure,) = compute(published, {**MORE, "seeds": [0], "tasks": ["rotation"], "baselines": []}).failures
    assert name in failure


def test_the_sound_file_of_another_cell_is_refused(published: Path) -> None:
    folder, other = folder_of(published, "rotation"), folder_of(published, "random")
    shutil.copy(other / "backbone.safetensors", folder / "backbone.safetensors")
    with pytest.raises(DamagedWeights, match=r"backbone.safetensors is not the file that was published"):
        load_backbone(folder / "backbone.safetensors")
    (published / MANIFEST).unlink()  # and where the manifest is lost, by the file beside it
    with pytest.raises(DamagedWeights, match=r"backbone.safetensors is not the backbone that heads.safetensors"):
        read_task_state(folder)
    shutil.copy(other / "heads.safetensors", folder / "heads.safetensors")
    (failure,) = compute(published, {**MORE, "seeds": [0], "tasks": ["rotation"], "baselines": []}).failures
    assert "holds the weights of another cell" in failure


def test_a_cell_that_is_trained_again_has_weights_of_its_own(published: Path) -> None:
    folder = folder_of(published, "rotation")
    flip(folder / "backbone.safetensors", 0.5)
    again = {**MORE, "seeds": [0], "tasks": ["rotation"], "baselines": []}
    watcher = compute(published, again, recompute=True)
    assert watcher.finished == ["rotation/0"] and not watcher.failures
    assert (folder / "pretrain.json").is_file() and load_backbone(folder / "backbone.safetensors") is not None


def test_publishing_again_replaces_them_and_keeps_every_bit(published: Path, tmp_path: Path) -> None:
    before = {path.relative_to(published): path.read_bytes() for path in published.rglob("*") if path.is_file()}
    publish(published, tmp_path / "again", weights=0)
    again = tmp_path / "again"
    assert before == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    (again / "README.md").write_text("what it shows")
    publish(published, again)  # without
    assert not (again / "cells").exists() and not (again / MANIFEST).exists() and (again / "README.md").exists()
    with pytest.raises(RecordError, match="is gone, so the weights of this cell cannot be published"):
        publish(again, tmp_path / "third", weights=0)


def test_what_cannot_be_published_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="tiny has no seed 7; it has 0, 1"):
        publish(run, tmp_path / "target", weights=7)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    task = folder_of(copy, "rotation") / "task.safetensors"
    shutil.copy(folder_of(copy, "rotation", 1) / "task.safetensors", task)
    with pytest.raises(DamagedWeights, match="holds other weights than those that pretrain.json was written with"):
        publish(copy, tmp_path / "target", weights=0)
    flip(task, 0.5)
    with pytest.raises(DamagedWeights, match=r"task.safetensors is damaged"):
        publish(copy, tmp_path / "target", weights=0)
    assert not (tmp_path / "target" / "run.json").exists()


@pytest.mark.parametrize("name", ["../../precious", "/etc/x.safetensors", "cells/../../x.safetensors", "cells/a/b/c"])
def test_a_manifest_reaches_no_other_file(run: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / MANIFEST).write_bytes(manifest_of({name: b""}))
    with pytest.raises(DamagedWeights, match="which is no file of a cell"):
        publish(run, target)


def test_a_manifest_of_a_newer_version_is_told(tmp_path: Path) -> None:
    told = {"format": 2, "files": {}}
    (tmp_path / MANIFEST).write_text(json.dumps({**told, "digest": digests.digest_of_json(told)}))
    with pytest.raises(WeightsError, match="newer"):
        read_manifest(tmp_path)


def test_the_command_takes_a_seed(run: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(cli.app, ["publish", str(run), str(tmp_path / "tiny"), "--weights", "1"])
    assert said.exit_code == 0, said.output
    assert {path.parent.name[:2] for path in (tmp_path / "tiny").rglob("*.safetensors")} == {"1-"}
    assert prepare(SPEC, tmp_path / "tiny").todo() == []
