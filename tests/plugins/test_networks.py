"""Networks that are not the suite's ResNet are trained, saved, loaded, returned and judged as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import ssl_bench
from ssl_bench.backbones.network import Network
from ssl_bench.backbones.inputs import InputSpec
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.backbones.convert import read_checkpoint
from ssl_bench.backbones.weights import target_of
from ssl_bench.errors import SSLBenchError, WeightsError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, NETWORKS, TASKS
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.testing import CheckWarning, task_checks

FOLDER = Path(__file__).parent
FILES = {
    name: FOLDER / f"{name}.py" for name in ("half_width_pair", "linear_encoder", "head_layer", "momentum_teacher")
}
#: row -> task, options, plugin, kind of network, stages, features
ROWS: dict[str, tuple[str, dict[str, Any], str, str, int, int]] = {
    "pair": ("split_brain", {}, "half_width_pair", "half_width_pair", 4, 128),
    "linear": ("linear_autoencoder", {}, "linear_encoder", "linear_encoder", 0, 32),
    "recurrent": ("linear_autoencoder", {"encoder": "recurrent"}, "linear_encoder", "recurrent_encoder", 0, 32),
    "head": ("rotation_with_head", {}, "head_layer", "with_head_layer", 5, 24),
    "teacher": ("momentum_teacher", {}, "momentum_teacher", "resnet", 4, 128),
}
DATA = {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}}
WIDE = {"name": "resnet10t", "width": 0.25, "stem_stride": 2}


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is forgotten after it."""
    for registry in (TASKS, EVALUATORS, NETWORKS):
        monkeypatch.setattr(registry, "_added", {})
    yield


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = {
        "name": "networks",
        "data": DATA,
        "backbone": WIDE,
        "pretrain": {"images": 128, "batch_size": 32, "monitor": 1},
        "tasks": [{task: {**options, "row": row}} for row, (task, options, *_) in ROWS.items()],
        "baselines": ["random"],
        "evaluate": [
            "linear",
            {"knn": {"k": [5]}},
            {"finetune": {"steps": 2, "learning_rates": [0.01]}},
            "diagnostics",
        ],
    }
    out = tmp_path_factory.mktemp("networks")
    return ssl_bench.run(spec, out, plugins=list(FILES.values())), out


def weights_of(out: Path, row: str) -> Path:
    return next(out.glob(f"cells/{row}/*/backbone.safetensors"))


def test_every_evaluator_judges_them(results: Any) -> None:
    found, _ = results
    assert not len(found.failures)
    records = found.frame
    for row, (*_, stages, _) in ROWS.items():
        judged = records[(records["row"] == row) & (records["split"] == "validation")]
        assert {"linear", "knn", "finetune", "diagnostics"} <= set(judged["evaluator"])
        probed = set(judged[(judged["evaluator"] == "linear") & (judged["metric"] == "top1")]["stage"])
        assert {f"s{number}" for number in range(1, stages + 1)} | {"pooled"} == probed - {""}, row


@pytest.mark.parametrize("row", ROWS)
def test_weights_are_files_of_tensors_that_name_their_class(row: str, results: Any) -> None:
    _, _, plugin, kind, stages, width = ROWS[row]
    path = weights_of(results[1], row)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    if kind == "resnet":
        assert header["format"] == "1" and "network" not in header
    else:
        assert header["format"] == "2" and json.loads(header["network"])["network"] == kind
        with pytest.raises(
            WeightsError, match=rf"'{kind}', which a plugin defines \(class \w+ of {plugin}.py\); give its file"
        ):
            ssl_bench.load_backbone(path)
    network = ssl_bench.load_backbone(path, plugins=[FILES[plugin]])
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        features, outputs = network(images), network.features(images)
    assert isinstance(network, Network) and not network.training
    assert features.shape == (3, width) == (3, network.num_features) and len(outputs) == stages + 1
    assert torch.equal(outputs["pooled"], features)
    table = ssl_bench.evaluate(network, DATA, [{"knn": {"k": [5]}}])
    recorded = results[0].frame
    recorded = recorded[
        (recorded["row"] == row) & (recorded["evaluator"] == "knn") & (recorded["split"] == "validation")
    ]
    assert table["value"].tolist() == recorded[recorded["stage"].isin(["", "pooled"])]["value"].tolist()


def test_pretrain_returns_them_and_finds_them_again(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "images": 64, "backbone": WIDE, "options": {"batch_size": 32}, "out": tmp_path,
        "plugins": [FILES["half_width_pair"]], "skip_checks": True,
    }  # fmt: skip
    first = ssl_bench.pretrain("split_brain", DATA, **words)
    again = ssl_bench.pretrain("split_brain", DATA, **words)
    assert type(first.backbone).__name__ == "HalfWidthPair" and first.record == again.record
    same = zip(first.backbone.state_dict().values(), again.backbone.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def starting_from(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "start", "data": DATA, "backbone": WIDE, "pretrain": {"images": 128, "batch_size": 32, "monitor": 1},
        "tasks": [], "baselines": [], "evaluate": [{"knn": {"k": [5]}}],
        "weights": [{"source": f"file:{path}", "row": "w"}],
        **changes,
    }  # fmt: skip


def test_a_row_of_weights_judges_a_network_of_a_plugins(tmp_path: Path, results: Any) -> None:
    path = weights_of(results[1], "pair")
    found = ssl_bench.run(starting_from(path), tmp_path, plugins=[FILES["half_width_pair"]])
    assert not len(found.failures)

    def accuracies(frame: Any, row: str) -> list[float]:
        judged = frame[(frame["row"] == row) & (frame["evaluator"] == "knn") & (frame["split"] == "validation")]
        return list(judged["value"])

    assert accuracies(found.frame, "w") == accuracies(results[0].frame, "pair") != []
    told = [text for sign, text in found.table().legend if sign == "elsewhere"]
    assert told == [
        "w is a half_width_pair trained on: the images of a run by split_brain, without labels; it sees images at "
        "their own size"
    ]


def test_a_network_of_a_plugins_is_refused_with_its_class_plugin_and_remedy(tmp_path: Path, results: Any) -> None:
    path = weights_of(results[1], "linear")
    kind = r"a network of the kind 'linear_encoder'"
    plugin = r"\(class LinearEncoder of linear_encoder.py\)"
    with pytest.raises(
        SSLBenchError, match=rf"{kind}, which a plugin defines {plugin}; give its file: --plugin FILE, or plugins="
    ):
        prepare(starting_from(path), tmp_path)
    begun = {"weights": [], "tasks": [{"rotation": {"init": f"file:{path}"}}]}
    with pytest.raises(SSLBenchError, match=rf"init: file:.* holds {kind} {plugin}, and rotation trains another"):
        prepare(starting_from(path, **begun), tmp_path)
    load_plugin(FILES["linear_encoder"])
    larger = {"data": {**DATA, "size": 40}}
    with pytest.raises(SSLBenchError, match=rf"{kind} {plugin}, trained on images of 32 px, .*; set data.size: 32"):
        prepare(starting_from(path, **larger), tmp_path)
    sized = {"weights": [{"source": f"file:{path}", "row": "w", "size": 64}]}
    with pytest.raises(SSLBenchError, match="takes images as they are; leave out size: 64"):
        prepare(starting_from(path, **sized), tmp_path)
    with pytest.raises(WeightsError, match=rf"{kind} {plugin}, and a ResNet is needed here"):
        read_checkpoint(path)


def test_a_task_starts_from_the_network_that_it_trains(tmp_path: Path, results: Any) -> None:
    load_plugin(FILES["linear_encoder"])
    path = weights_of(results[1], "linear")
    begun = {"weights": [], "tasks": [{"linear_autoencoder": {"init": f"file:{path}"}}]}
    (cell,) = prepare(starting_from(path, **begun), tmp_path).cells()
    task = TASKS.get("linear_autoencoder")
    backbone = task.build_backbone(lambda **_: Backbone(BackboneSpec(**WIDE), 32), cell.candidate.options)
    target = target_of(cell.candidate.init, backbone)
    cell.candidate.init.into(target)
    trained = ssl_bench.load_backbone(path)
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in target.state_dict().items())


def test_the_code_of_a_network_enters_the_id_of_its_weights(tmp_path: Path, results: Any) -> None:
    path, ids = weights_of(results[1], "pair"), []
    text = FILES["half_width_pair"].read_text()
    for number, source in enumerate((text, f"# a remark\n{text}", f"{text}\nCHANGED = True\n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        plugin = folder / "half_width_pair.py"
        plugin.write_text(source)
        for registry in (TASKS, EVALUATORS, NETWORKS):
            registry._added.clear()
        load_plugin(plugin)
        (cell,) = prepare(starting_from(path), tmp_path / "out").cells()
        ids.append(cell.id)
    assert ids[0] == ids[1] != ids[2]


FAULTY = """
from torch import nn
from ssl_bench import Network, PretextTask

class Odd(Network):
    name = "odd_network"
    def __init__(self, width=4):
        super().__init__()
        self.num_features, self.image_size, self.layer = width, 32, nn.Linear(3072, width)
    def forward(self, images):
        return self.layer(images.flatten(1))
    def arguments(self):
        return {}

class OddTask(PretextTask):
    name = "odd_task"
    @classmethod
    def build_backbone(cls, make, options):
        return Odd(8)
    def views(self, batch):
        return batch.images
    def forward(self, views):
        return {"loss": self.backbone(views).square().mean()}
"""


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            ("return {}", "return {}"),
            r"'odd_network': its arguments\(\) build another network \(2 tensors differ, first: layer.bias\)",
        ),
        (("return {}", "return {'width': self.layer}"), r"arguments\(\) must give JSON values or networks"),
        (("return {}", "return {'depth': 3}"), r"cannot be built of its arguments \(TypeError: .*'depth'"),
    ],
)  # fmt: skip
def test_a_network_that_could_not_be_loaded_is_refused_before_it_is_trained(
    edit: tuple[str, str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(FAULTY.replace(*edit))
    with pytest.raises(WeightsError, match=told):
        ssl_bench.pretrain(
            "odd_task",
            DATA,
            images=64,
            backbone=WIDE,
            options={"batch_size": 32},
            plugins=[tmp_path / "odd.py"],
            skip_checks=True,
        )


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (('name = "odd_network"', "pass"), "has no class attribute `name`"),
        (("def arguments(self)", "def other(self)"), r"has no method arguments\(self\), which a network needs"),
        (("def forward(self, images)", "def stages(self)"), r"has no method forward\(self, images\)"),
    ],
)
def test_a_class_that_is_no_whole_network_is_refused_when_it_is_loaded(
    edit: tuple[str, str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(FAULTY.replace(*edit, 1))
    with pytest.raises(ssl_bench.SSLBenchError, match=told):
        load_plugin(tmp_path / "odd.py")


def test_a_resnet_within_a_network_keeps_its_input(tmp_path: Path) -> None:
    load_plugin(FILES["half_width_pair"])
    spec = BackboneSpec(**{**WIDE, "width": 0.125})
    kinds = [InputSpec(kind="lightness", mean=(0.3,) * 3), InputSpec(mean=(0.1, 0.2, 0.3))]
    pair = NETWORKS.get("half_width_pair")(*(Backbone(spec, 32, kind) for kind in kinds)).eval()
    ssl_bench.save_backbone(pair, tmp_path / "pair.safetensors")
    again: Any = ssl_bench.load_backbone(tmp_path / "pair.safetensors")
    assert [again.first.input, again.second.input] == kinds and again.first.spec == spec
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(pair(images), again(images))


def test_detection_says_which_networks_it_can_judge() -> None:
    load_plugin(FILES["half_width_pair"])
    detection = EVALUATORS.get("detection")
    spec = BackboneSpec(**{**WIDE, "width": 0.125})
    resnet = Backbone(spec, 32)
    assert detection.supports(detection.Options(), resnet) == ""
    assert detection.supports(detection.Options(), NETWORKS.get("half_width_pair")(resnet, Backbone(spec, 32)))


def test_a_module_that_is_no_network_is_judged_and_its_task_says_that_it_is_not_exported(tmp_path: Path) -> None:
    source = (
        FILES["linear_encoder"].read_text().replace("class LinearEncoder(Network)", "class LinearEncoder(nn.Module)")
    )
    (tmp_path / "plain.py").write_text(source)
    words: dict[str, Any] = {"images": 64, "backbone": WIDE, "options": {"batch_size": 32}, "skip_checks": True}
    with pytest.raises(ssl_bench.SSLBenchError, match="what evaluated.. gives is no ssl_bench.Network"):
        ssl_bench.pretrain("linear_autoencoder", DATA, plugins=[tmp_path / "plain.py"], **words)


def test_the_battery_makes_networks_wide_enough_for_half_of_them() -> None:
    load_plugin(FILES["half_width_pair"])
    checks = {check.name: check for check in task_checks("split_brain")}
    checks["trained"]()
    with pytest.warns(CheckWarning, match="another network than that of the other rows"):
        checks["network"]()
