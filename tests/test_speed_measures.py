"""The measurements of benchmarks/speed write their CSV and plot; at tiny sizes, of which no number means anything."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "benchmarks" / "speed"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("measure")
    for name in ("measure", "bare_network", "several_networks", "libraries", "interleaved"):
        sys.modules.pop(name, None)


def test_parts_write_csv_and_plot(measure: Any, tmp_path: Path) -> None:
    words = [word for part in ("stacked", "views", "probe", "decoding") for word in ("--only", part)]
    measure.main(["--tiny", "--repeats", "2", "--out", str(tmp_path), *words])
    with open(tmp_path / "speed.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["part"] for line in lines} == {"stacked", "views", "probe", "decoding"}
    for line in lines:
        told = [line[name] for name in ("ratio", "low", "high")]
        if line["note"].startswith("not measured"):
            assert told == ["", "", ""]
        else:
            ratio, low, high = map(float, told)
            assert 0 < low <= ratio <= high and line["repeats"] == "2"
        assert "cpu" in line["hardware"] and line["torch"]
    with Image.open(tmp_path / "speed.png") as image:
        assert image.format == "PNG" and min(image.size) > 200


def test_what_is_published_is_whole(measure: Any, tmp_path: Path) -> None:
    for words in (["--tiny"], ["--only", "views"]):
        with pytest.raises(SystemExit):
            measure.main(words)


def test_an_idea_that_cannot_be_tried_says_why(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = importlib.import_module("bare_network")
    monkeypatch.setattr(network.shutil, "which", lambda name: None)
    assert "compiler" in network.why_not("compile") and network.why_not("nchw") == ""


def test_sides_take_turns_and_each_begins_as_often(measure: Any) -> None:
    turns: list[str] = []

    def side(name: str) -> Any:
        return lambda: turns.append(name) or float(len(turns))

    in_turn = importlib.import_module("interleaved").in_turn
    pairs = in_turn(side("a"), side("b"), 4)
    assert "".join(turns) == "ab" + "abba" * 2 and pairs == [(3.0, 4.0), (6.0, 5.0), (7.0, 8.0), (10.0, 9.0)]


@pytest.mark.long
def test_every_part_can_be_measured(measure: Any, tmp_path: Path) -> None:
    measure.main(["--tiny", "--repeats", "1", "--out", str(tmp_path)])
    assert len((tmp_path / "speed.csv").read_text().splitlines()) > 15
