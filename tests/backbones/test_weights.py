"""Weights from elsewhere: judged as they come, addressed by what they hold, refused before training where they do not
fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import ssl_bench
from ssl_bench.backbones import timm_hub
from ssl_bench.backbones import weights as module
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.backbones.saving import load_backbone, save_backbone
from ssl_bench.backbones.weights import open_weights
from ssl_bench.errors import SSLBenchError, WeightsError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_record import write_run
from ssl_bench.records.schema import Pretraining, Run, read_record
from ssl_bench.spec.matrix import BackboneSpec

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def matrix(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "elsewhere", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}},
        "backbone": TINY.model_dump(),
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "tasks": [], "baselines": ["random"],
        "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip
    return {**base, **changes}


def own_file(path: Path, spec: BackboneSpec = TINY, **handling: Any) -> Path:
    torch.manual_seed(1)
    save_backbone(Backbone(spec, 32, InputSpec(**handling)), path)
    return path


def plain(network: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    module._OPENED.clear()


def test_weights_that_change_under_a_run_are_not_judged_as_what_they_were(tmp_path: Path) -> None:
    path = own_file(tmp_path / "w.safetensors")
    run_plan = prepare(matrix(weights=[{"source": f"file:{path}", "row": "w"}], baselines=[]), tmp_path / "out")
    torch.manual_seed(2)
    save_backbone(Backbone(TINY, 32), path)
    (cell,) = run_plan.cells()
    with pytest.raises(WeightsError, match="has changed since this run began"):
        cell.row.task.build_backbone(lambda input="rgb": Backbone(TINY, 32), cell.candidate.options)


def test_halved_precision_is_read(tmp_path: Path) -> None:
    network = Backbone(TINY, 32).network
    halved = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in plain(network).items()
    }
    save_file(halved, tmp_path / "half.safetensors")
    found = open_weights(f"file:{tmp_path / 'half.safetensors'}")
    found.into(Backbone(TINY, 32).network)
    assert found.digest != open_weights(f"file:{own_file(tmp_path / 'other.safetensors')}").digest


def test_a_row_of_weights_that_a_run_of_ours_gave_labels_is_marked(tmp_path: Path) -> None:
    """Others' labels are told; the labels of a run may be those that the row is judged by."""
    ssl_bench.run(matrix(tasks=["rotation"], baselines=["supervised", "random"]), tmp_path / "first")
    backbones = {path.parents[1].name: path for path in (tmp_path / "first").glob("cells/*/*/backbone.safetensors")}
    sources = [{"source": f"file:{backbones[name]}", "row": f"theirs {name}"} for name in ("supervised", "rotation")]
    results = ssl_bench.run(matrix(weights=sources, baselines=["random"]), tmp_path / "second")
    assert {row.row: row.uses_labels for row in results.run.rows} == {
        "theirs supervised": True,
        "theirs rotation": False,
        "random": False,
    }
    names = {line.row: line.name for line in results.table().sections[0].lines}
    assert names["theirs supervised"].endswith("†") and not names["theirs rotation"].endswith("†")
    judged = next((tmp_path / "second").glob("cells/theirs_supervised*/*/backbone.safetensors"))
    assert open_weights(f"file:{judged}").run_labels and not open_weights(f"file:{judged}").label_free


def test_a_row_of_weights_stands_in_a_block_of_its_own_and_costs_nothing(tmp_path: Path) -> None:
    path = own_file(tmp_path / "w.safetensors", kind="lightness")
    results = ssl_bench.run(
        matrix(weights=[f"file:{path}", {"source": f"file:{path}", "row": "again", "size": 48}]), tmp_path / "out"
    )
    assert not results.failures and not results.missing
    rows = {row.row: row for row in results.run.rows}
    assert {name: row.block for name, row in rows.items()} == {
        "random": "baseline",
        "file:w": "elsewhere",
        "again": "elsewhere",
    }
    text = " ".join(results.table().terminal(160, legend=True).split())
    assert (
        "pretrained elsewhere" in text
        and "file:w is a resnet10t trained on: not known; it sees images at their own size" in text
    )
    assert "again is a resnet10t trained on: not known; it sees images resized to 48 px" in text
    assert "file:w and again see lightness only" in text
    (line,) = [line for line in results.table().sections[0].lines if line.row == "file:w"]
    assert line.cells["passes"].status == "none" and line.cells["minutes"].status == "none"
    (saved,) = (tmp_path / "out").glob("cells/file_w*/*/backbone.safetensors")
    torch.manual_seed(5)
    images = torch.rand(4, 3, 32, 32)
    assert load_backbone(saved).input.kind == "lightness"
    first, second = (dict(load_backbone(one).network.named_parameters()) for one in (saved, path))
    assert all(torch.equal(first[name], second[name]) for name in first), "only batch statistics are estimated anew"
    assert load_backbone(saved)(images).shape == (4, 64)


def test_the_id_is_what_the_weights_hold_not_where_they_lie(tmp_path: Path) -> None:
    path = own_file(tmp_path / "w.safetensors")
    spec = matrix(weights=[{"source": f"file:{path}", "row": "w"}], baselines=[])
    first = prepare(spec, tmp_path / "out").cells()[0]
    moved = tmp_path / "elsewhere" / "v.safetensors"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    spec["weights"][0]["source"] = f"file:{moved}"
    assert prepare(spec, tmp_path / "out").cells()[0].id == first.id
    torch.manual_seed(2)
    save_backbone(Backbone(TINY, 32), moved)
    assert prepare(spec, tmp_path / "out").cells()[0].id != first.id, (
        "a file that is written anew is read anew, in the same process"
    )


def test_plain_safetensors_enter_the_matrix_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = Backbone(TINY, 32).network
    save_file(
        {**plain(network), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}, tmp_path / "plain.safetensors"
    )
    results = ssl_bench.run(matrix(weights=f"file:{tmp_path / 'plain.safetensors'}", baselines=[]), tmp_path / "out")
    (saved,) = (tmp_path / "out").glob("cells/*/*/backbone.safetensors")
    found = load_backbone(saved)
    assert found.input.mean == (0.485, 0.456, 0.406) and not results.missing
    assert all(torch.equal(a, b) for a, b in zip(found.network.parameters(), network.parameters(), strict=True))


def test_weights_of_another_network_are_refused_before_training_with_counts(tmp_path: Path) -> None:
    other = Backbone(BackboneSpec(name="resnet18", width=0.125, stem="3x3"), 32)
    save_file(plain(other.network), tmp_path / "other.safetensors")
    with pytest.raises(
        SSLBenchError,
        match=r"file:.*other.safetensors: \d+ of \d+ tensors match; \d+ missing .*unexpected.*of another shape",
    ):
        prepare(matrix(weights=[f"file:{tmp_path / 'other.safetensors'}"]), tmp_path / "out")
    torch.save(other.state_dict(), tmp_path / "pickle.safetensors")
    for source, message in (
        (f"file:{tmp_path / 'none.safetensors'}", "does not exist"),
        (f"file:{tmp_path / 'pickle.safetensors'}", "pickled checkpoints are not opened"),
        ("hub:x", "timm:NAME or file:PATH"), ("timm:resnet19", "did you mean"),
        ("timm:vit_tiny_patch16_224", "not one of timm's ResNets"),
        ("timm:resnet18.no_such_tag", "timm has no such pretrained weights"),
    ):  # fmt: skip
        with pytest.raises(SSLBenchError, match=message):
            prepare(matrix(weights=[source]), tmp_path / "out")
    with pytest.raises(SSLBenchError, match="names no weights"):
        prepare(matrix(weights=[{"row": "x"}]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_timms_weights_come_with_the_input_handling_of_their_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = timm.create_model

    def cached(name: str, pretrained: bool = False, **settings: Any) -> Any:
        assert pretrained and settings == {"num_classes": 0}
        torch.manual_seed(4)
        network = original(name, pretrained=False, **settings)
        network.pretrained_cfg = {
            **network.pretrained_cfg,
            "tag": "a1_in1k",
            "input_size": (3, 64, 64),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.2, 0.3),
        }
        return network

    monkeypatch.setattr(timm, "create_model", cached)
    results = ssl_bench.run(matrix(weights=["timm:resnet18.a1_in1k"], baselines=[]), tmp_path / "out")
    (record,) = (read_record(path, Pretraining) for path in (tmp_path / "out").glob("cells/*/*/pretrain.json"))
    assert (
        record.describe["trained_on"] == "ImageNet-1k, with labels"
        and record.describe["input_px"] == 64
        and not results.missing
    )
    (saved,) = (tmp_path / "out").glob("cells/*/*/backbone.safetensors")
    ours, theirs = load_backbone(saved), cached("resnet18.a1_in1k", True, num_classes=0)
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor((0.4, 0.5, 0.6)).view(3, 1, 1), torch.tensor((0.2, 0.2, 0.3)).view(3, 1, 1)
    ready = (F.interpolate(images, size=(64, 64), mode="bicubic", antialias=True).clamp(0, 1) - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(ready), atol=1e-4, rtol=1e-4)


def test_weights_that_cannot_be_downloaded_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(timm_hub, "_away", lambda: "")
    with pytest.raises(
        WeightsError,
        match=r"timm:resnet18.a1_in1k is not in timm's cache and could not be downloaded: OSError: no route",
    ):
        open_weights("timm:resnet18.a1_in1k")


def test_a_tasks_init_enters_its_id_and_its_network(tmp_path: Path) -> None:
    path = own_file(tmp_path / "w.safetensors")
    plain, started = (
        matrix(tasks=["rotation"], baselines=[]),
        matrix(tasks=[{"rotation": {"init": f"file:{path}"}}], baselines=[]),
    )
    assert prepare(plain, tmp_path / "out").cells()[0].id != prepare(started, tmp_path / "out").cells()[0].id
    started["tasks"][0]["rotation"]["learning_rate"] = 1e-7  # moves, and hardly
    ssl_bench.run(started, tmp_path / "out")
    (saved,) = (tmp_path / "out").glob("cells/*/*/backbone.safetensors")
    for mine, given in zip(
        load_backbone(saved).network.parameters(), load_backbone(path).network.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, given, atol=1e-6, rtol=0)
    own_file(tmp_path / "other.safetensors", TINY.model_copy(update={"name": "resnet18"}))
    with pytest.raises(SSLBenchError, match=r"init.*tensors match"):
        prepare(matrix(tasks=[{"rotation": {"init": f"file:{tmp_path / 'other.safetensors'}"}}]), tmp_path / "out")


def test_a_start_is_described_and_counts_as_labelled_unless_it_is_known_to_be_free_of_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of our own cells tell how they were trained; of others it is known at most that labels were used."""
    full = {"name": "resnet18", "stem": "timm"}
    original = timm.create_model

    def cached(name: str, pretrained: bool = False, **settings: Any) -> Any:
        network = original(name, pretrained=False, **settings)
        # at 224 px it would take minutes
        network.pretrained_cfg = {**network.pretrained_cfg, "tag": "a1_in1k", "input_size": (3, 32, 32)}
        return network

    monkeypatch.setattr(timm, "create_model", cached)
    first = matrix(tasks=["rotation"], baselines=["random", "supervised"], backbone=full)
    ssl_bench.run(first, tmp_path / "first")
    backbones = {path.parents[1].name: path for path in (tmp_path / "first").glob("cells/*/*/backbone.safetensors")}
    copied = tmp_path / "copied.safetensors"
    shutil.copy(backbones["rotation"], copied)
    starts = {
        "timm:resnet18.a1_in1k": ("trained on ImageNet-1k, with labels", True),
        f"file:{backbones['rotation']}": ("trained on the images of a run by rotation, without labels", False),
        f"file:{backbones['supervised']}": ("trained on the images of a run by supervised, with labels", True),
        f"file:{backbones['random']}": ("trained on nothing", False),
        f"file:{copied}": ("and it is not known what that was trained on", True),
    }
    tasks = [{"autoencoder": {"init": source, "row": str(number)}} for number, source in enumerate(starts)]
    run_plan = prepare(matrix(tasks=[*tasks, "rotation"], baselines=[], backbone=full), tmp_path / "second")
    write_run(run_plan)
    rows = read_record(tmp_path / "second" / "run.json", Run).rows
    for row, (source, (told, labels)) in zip(rows, starts.items(), strict=False):
        assert row.init == f"{source}, {told}" and row.uses_labels is labels and row.block == "pretext"
    assert (rows[-1].init, rows[-1].uses_labels) == ("", False)

    again = matrix(tasks=[{"autoencoder": {"init": f"file:{backbones['rotation']}"}}], baselines=[], backbone=full)
    ssl_bench.run(again, tmp_path / "third")
    (started,) = (tmp_path / "third").glob("cells/*/*/backbone.safetensors")
    found = open_weights(f"file:{started}")
    assert (
        found.trained_on == "the images of a run by autoencoder, from other weights, without labels"
        and not found.label_free
    )
    ssl_bench.run(
        matrix(weights=[{"source": "timm:resnet18.a1_in1k", "row": "theirs"}], baselines=[], backbone=full),
        tmp_path / "fourth",
    )
    (judged,) = (tmp_path / "fourth").glob("cells/*/*/backbone.safetensors")
    found = open_weights(f"file:{judged}")
    assert found.trained_on == "ImageNet-1k, with labels" and not found.label_free


def test_how_weights_see_images_belongs_to_their_row_and_not_to_a_start(tmp_path: Path) -> None:
    """The same tensors with another mean, kind, size or network are another thing to judge, and the same thing to start
    from."""
    network = Backbone(TINY, 32).network
    ids: dict[str, list[str]] = {"judged": [], "started": []}
    for number, (handling, size) in enumerate(
        (({}, 32), ({"mean": (0.1, 0.2, 0.3)}, 32), ({"kind": "lightness"}, 32), ({"size": 48}, 32), ({}, 64))
    ):
        backbone = Backbone(TINY, size, InputSpec(**handling))
        backbone.network.load_state_dict(network.state_dict())
        save_backbone(backbone, tmp_path / f"{number}.safetensors")
        source = f"file:{tmp_path / f'{number}.safetensors'}"
        spec = matrix(tasks=[{"rotation": {"init": source}}], baselines=[], weights=[{"source": source, "row": "w"}])
        started, judged = prepare(spec, tmp_path).cells()
        ids["judged"].append(judged.id)
        ids["started"].append(started.id)
    assert len(set(ids["judged"])) == 5 and len(set(ids["started"])) == 1
