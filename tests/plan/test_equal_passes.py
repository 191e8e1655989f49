"""A budget of network passes: what each row sends through the network, counted from outside, is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import ssl_bench
from ssl_bench.errors import SpecError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.registry import TASKS
from ssl_bench.records.schema import Pretraining, read_record
from ssl_bench.runner.smoke import smoke
from tests.runner.test_run import matrix

PASSES, BATCH = 1_536, 32
ROWS = [
    "autoencoder",
    "rotation",
    "simclr",
    "relative_position",
    "rotation+simclr",
    {"rotation+autoencoder": {"images": "split", "row": "split"}},
]

ODD = """
from ssl_bench import PretextTask

class Odd(PretextTask):
    \"\"\"Fails, or shows the network nothing.\"\"\"
    name = "odd"
    def views(self, batch):
        return batch.images
    def forward(self, views):
        %s
"""


def budget(rows: list[Any], passes: int = PASSES, **changes: Any) -> dict[str, Any]:
    return matrix(
        tasks=rows,
        baselines=[],
        seeds=[0],
        pretrain={"passes": passes, "batch_size": BATCH, "monitor": 0},
        evaluate=["knn"],
        **changes,
    )


def test_rows_send_as_much_through_the_network(tmp_path: Path) -> None:
    seen: dict[str, float] = {}
    for row in ROWS:
        pixels = 0

        def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal pixels
            if isinstance(module, nn.Conv2d) and module.in_channels == 3 and torch.is_grad_enabled():
                pixels += inputs[0].shape[0] * inputs[0].shape[2] * inputs[0].shape[3]

        handle = register_module_forward_pre_hook(count)
        try:
            results = ssl_bench.run(budget([row]), tmp_path / str(len(seen)), val=True)
        finally:
            handle.remove()
        trained = results.pretraining.iloc[0]
        each = float(trained["passes"])
        assert trained["steps"] == round(PASSES / (each * BATCH)) and trained["images_seen"] == trained["steps"] * BATCH
        assert pixels / 32**2 == pytest.approx(PASSES, abs=each * (BATCH / 2 + 64)), (
            "but for half a batch and the images that the cost was counted on"
        )
        seen[str(trained["row"])] = each
    assert seen["autoencoder"] == 1 and seen["rotation"] == 4 and seen["simclr"] == 2
    assert seen["rotation+simclr"] == 6 and seen["split"] == 2.5, "half of the images four times, half of them once"


def test_the_table_tells_the_budget_and_the_images(tmp_path: Path) -> None:
    results = ssl_bench.run(budget(["rotation", "autoencoder"]), tmp_path, val=True)
    text = results.table().terminal(120)
    assert f"{PASSES:,} network passes a row" in text and "k images" in text
    frame = results.pretraining.set_index("row")
    assert frame.loc["autoencoder", "images_seen"] == 4 * frame.loc["rotation", "images_seen"]
    equal = ssl_bench.run(
        budget(["rotation"]) | {"pretrain": {"images": 384, "batch_size": BATCH}}, tmp_path / "images", val=True
    )
    assert "k images" not in equal.table().terminal(120)
    both = [
        read_record(next(folder.glob("cells/rotation/*/pretrain.json")), Pretraining).id
        for folder in (tmp_path, tmp_path / "images")
    ]
    assert both[0] == both[1], "the same steps are the same cell, however they were asked for"


def test_what_cannot_share_the_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SpecError, match=r"'rotation': one batch of 32 takes 128 network passes, and pretrain.passes is 100"
    ):
        prepare(budget(["rotation"], passes=100), tmp_path / "out")
    monkeypatch.setattr(TASKS, "_added", {})
    plugin = tmp_path / "odd.py"
    plugin.write_text(ODD % "raise RuntimeError('no')")
    with pytest.raises(
        SpecError,
        match=r"'odd': its network passes cannot be counted \(RuntimeError: no\); give pretrain `epochs` or `images`",
    ):
        prepare(budget(["odd"]), tmp_path / "out", plugins=(plugin,))
    monkeypatch.setattr(TASKS, "_added", {})
    plugin.write_text(ODD % "return {'loss': sum(p.sum() for p in self.parameters()) + 0 * views.sum()}")
    with pytest.raises(SpecError, match=r"'odd' sends nothing through a network"):
        prepare(budget(["odd"]), tmp_path / "out", plugins=(plugin,))
    assert not (tmp_path / "out").exists()


def test_a_smoke_run_takes_two_steps_of_it() -> None:
    assert not smoke(budget(["rotation", "autoencoder"], passes=100_000)).failures
