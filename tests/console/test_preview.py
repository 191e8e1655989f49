"""Pictures: one PNG for each row, with a caption that can be read, and errors in plain words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import TINY, call, task, written
from ssl_bench.plugins.registry import TASKS
from ssl_bench.report.picture_grid import TEXT_SHARE, picture_grid


def rows_of_text(image: Image.Image) -> list[int]:
    """Heights of the runs of rows that hold dark pixels on white in the left half, before the first picture."""
    dark = (np.asarray(image.convert("L")) < 128).any(1)
    heights, run = [], 0
    for row in dark:
        if not row and run:
            heights.append(run)
        run = run + 1 if row else 0
    return heights


@pytest.mark.parametrize("count", [1, 3, 8, 12])
@pytest.mark.parametrize("pictures", [1, 8, 40])
def test_text_is_a_fortieth_of_the_height_however_many_pictures(count: int, pictures: int) -> None:
    white = {
        f"CAPTION OF NUMBER {number} THAT IS SOMEWHAT LONGER": np.ones((pictures, 32, 32, 3)) for number in range(count)
    }
    image = Image.open(io.BytesIO(picture_grid("TITLE", ["A SENTENCE WITH ITS SOURCE " * 6], white)))
    assert image.format == "PNG" and image.width < 12_000 and image.height < 6_000
    heights = rows_of_text(image)
    assert min(heights) >= int(image.height * TEXT_SHARE) - 1


def test_pictures_stand_where_they_are_read_enlarged_to_whole_pixels() -> None:
    colours = np.linspace(0.2, 0.8, 16)[:, None, None, None] * np.ones((16, 16, 16, 3)) * [1, 0, 0]  # no colour of text
    image = np.asarray(Image.open(io.BytesIO(picture_grid("T", [], {"C": colours}))))
    values = (np.linspace(0.2, 0.8, 16) * 255).round().astype(int)
    places = [np.argwhere((image == [value, 0, 0]).all(-1)) for value in values]
    tops, lefts = zip(
        *[(place[:, 0].min(), place[:, 1].min()) for place in places if len(place) >= 96 * 96], strict=True
    )
    assert len(tops) == 16 and len(set(tops[:8])) == len(set(tops[8:])) == 1 and tops[8] > tops[0]
    assert list(lefts[:8]) == sorted(lefts[:8]) == list(lefts[8:])


@pytest.mark.parametrize("name", sorted(set(TASKS._builtin) - {"weights"}))
def test_every_built_in_task_is_drawn(tmp_path: Path, name: str) -> None:
    ended = call(tmp_path, "preview", name, "--out", "shown.png")
    assert ended.code == 0 and "wrote shown.png" in ended.out, ended.err
    assert Image.open(tmp_path / "shown.png").width > 500


@pytest.mark.parametrize("name", [*sorted(set(TASKS._builtin) - {"weights"}), "rotation+simclr"])
def test_a_task_says_what_it_sees_is_asked_and_answers(name: str) -> None:
    from ssl_bench.testing.battery.bench import Bench

    bench = Bench(TASKS.get(name), None, None)
    captions = " ".join(bench.build().eval().preview(bench.batch(8)))
    assert "sees: " in captions
    assert not bench.task.role.trains or ("is asked: " in captions and "answers: " in captions)
    assert not bench.task.role.trains or name == "supervised" or bench.task.paper


def test_a_run_is_drawn_with_its_trained_network_and_a_matrix_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY | {"tasks": ["rotation", "simclr"]}))
    assert call(tmp_path, "run", "tiny.yaml").code == 0
    assert call(tmp_path, "preview", "tiny.yaml", "--out", "all.png").code == 0
    assert {file.name for file in tmp_path.glob("*.png")} == {
        f"all-{row}.png" for row in ("rotation", "simclr", "random")
    }
    ended = call(tmp_path, "preview", "tiny/rotation/0", "--out", "trained.png")
    assert ended.code == 0, ended.err
    assert (tmp_path / "trained.png").read_bytes() != (tmp_path / "all-rotation.png").read_bytes()
    again = call(tmp_path, "preview", "runs/tiny/rotation/0", "--out", "again.png")
    assert again.code == 0 and (tmp_path / "trained.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for address, told in (
        ("tiny/rotatoin/0", "has no cell 'rotatoin/0'; did you mean 'rotation/0'"),
        ("tiny/rotation/7", "has no cell 'rotation/7'"),
        ("tinny/rotation/0", "no run at tinny"),
    ):
        ended = call(tmp_path, "preview", address)
        assert ended.code == 2 and told in ended.err, ended.err
    (next((tmp_path / "runs/tiny/cells/simclr").glob("*/pretrain.json"))).unlink()
    ended = call(tmp_path, "preview", "tiny/simclr/0")
    assert ended.code == 2 and "simclr/0 is not trained yet; run its matrix first" in ended.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rotatoin"], "no task, matrix or RUN/ROW/SEED is called 'rotatoin'; did you mean 'rotation'"),
        (["rotation", "--out", "shown.jpg"], "name a file that ends in .png"),
        (["rotation", "--out", "."], "name a file that ends in .png"),
        (["rotation", "--data", "cifar11"], "cifar11"),
        (["blind", "--plugin", "plugin.py"], "task 'blind' has no preview; write preview(self, batch) in its class"),
    ],
)
def test_errors_are_plain(tmp_path: Path, words: list[Any], told: str) -> None:
    written(tmp_path, task("blind", "pass"))
    ended = call(tmp_path, "preview", *words)
    assert ended.code == 2 and told in ended.err and "Traceback" not in ended.err, ended.err
