"""`status` and `show` say what is true at this moment, whatever was asked for and whatever is on disk."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from commands import Ended, call, start, task, written
from ssl_bench.records.schema import Pretraining, read_record, write_record

OPTION = """
from ssl_bench import TaskOptions

class Luck(TaskOptions):
    luck: bool = True  #: whether it works
"""


def lines(ended: Ended) -> list[str]:
    assert ended.code == 0 and "Traceback" not in ended.err, ended
    return [" ".join(line.split()) for line in ended.out.splitlines()]


def test_under_way_is_what_a_living_process_holds(tmp_path: Path) -> None:
    slow = task("slow", "open('there', 'w').close(); time.sleep(600)", "diagnose") + task(
        "broken", "raise RuntimeError('first line\\nsecond')"
    )
    words = written(tmp_path, slow, tasks=["broken", "slow"])
    running = start(tmp_path, "run", *words)
    running.until((tmp_path / "there").exists)
    found = lines(call(tmp_path, "status", "tiny"))
    assert "slow 0 - 0/1 under way now" in found and "random 0 - 0/1 missing" in found, found
    assert "broken 0 - 0/1 failed: pretraining: first line" in found, found
    running.send(signal.SIGKILL)
    running.wait()
    found = lines(call(tmp_path, "status", "tiny"))
    assert "slow 0 - 0/1 begun" in found, "there is a checkpoint, and nobody at it"
    assert found[0] == "tiny: 1 failed, 1 begun, 1 missing; final", "nothing is finished yet"


def test_rows_not_asked_for_and_time_spent(tmp_path: Path) -> None:
    words = written(tmp_path, task("slow", "pass"), tasks=["slow"])
    assert call(tmp_path, "run", *words, "--only", "random").code == 0
    assert "slow 0 - 0/1 not asked for" in lines(call(tmp_path, "status", "tiny"))
    assert call(tmp_path, "run", *words).code == 0
    found = lines(call(tmp_path, "status", "tiny"))
    assert found[0].startswith("tiny: 2 done; final; ") and "slow 0 done 1/1 done" in found, found
    assert re.search(r"final; (under 1|\d{1,2}) s spent on finished parts$", found[0]), found


def test_a_choice_that_is_open_shows_its_candidates_and_is_no_success(tmp_path: Path) -> None:
    fails = OPTION + task("picky", "if not self.options.luck: raise RuntimeError('no such luck')").replace(
        "name = 'picky'", "name, Options = 'picky', Luck"
    )
    words = written(tmp_path, fails, tasks=[{"picky": {"luck": {"choose": [False, True]}}}], baselines=[])
    one = call(tmp_path, "run", *words, "--val")
    assert one.code == 1 and "picky (luck=false) seed 0 failed in pretraining: no such luck" in one.out, (
        "a candidate failed, and which"
    )
    assert (
        "picky: chose luck=true on validation (luck=true: " in one.out and "; failed, and left out: 1 of 2)" in one.out
    )
    table = " ".join((tmp_path / "runs/tiny/table.md").read_text().split())
    assert "failed and not compared: picky 1" in table, "nor does the table count it among those that were compared"
    found = lines(call(tmp_path, "status", "tiny"))
    assert "picky 0 - 0/1 candidate luck False: failed: pretraining: no such luck" in found, found
    assert "picky 0 done 1/1 done" in found, found
    (tmp_path / "plugin.py").write_text(fails.replace("if not self.options.luck", "if True"))
    none = call(tmp_path, "run", *words, "--val", "--out", "runs/none")
    assert none.code == 1 and "failed 2/2 settings: no such luck;" in none.out, none
    found = lines(call(tmp_path, "status", "none"))
    assert found[0].startswith("tiny: 1 with an open choice; validation only"), found
    assert [line for line in found if "candidate luck" in line] == [
        f"picky 0 - 0/1 candidate luck {value}: failed: pretraining: no such luck" for value in (False, True)
    ]
    assert found[-1] == "picky: 2 candidates, none chosen yet; its cells follow the choice"


def test_a_damaged_record_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    assert call(tmp_path, "run", *written(tmp_path, baselines=["random", "pixels"])).code == 0
    (path,) = tmp_path.glob("runs/tiny/cells/pixels/*/pretrain.json")
    path.write_text("{")
    found = lines(call(tmp_path, "status", "tiny"))
    assert "random 0 done 1/1 done" in found and any(
        line.startswith("pixels 0 - ") and "damaged: " in line for line in found
    ), found


def test_what_would_be_measured_again_does_not_count_as_done(tmp_path: Path) -> None:
    assert call(tmp_path, "run", *written(tmp_path, baselines=["random", "pixels"])).code == 0
    (path,) = tmp_path.glob("runs/tiny/cells/random/*/pretrain.json")
    # trained again, to other weights
    write_record(path, read_record(path, Pretraining).model_copy(update={"weights": "0" * 64}))
    (predictions,) = tmp_path.glob("runs/tiny/cells/pixels/*/knn-*.npz")
    predictions.write_bytes(predictions.read_bytes()[:-1])
    found = lines(call(tmp_path, "status", "tiny"))
    assert found[0].startswith("tiny: 1 begun, 1 damaged; ") and "random 0 done 0/1 begun" in found, found
    assert any(line.startswith("pixels 0 done 0/1 damaged: ") for line in found), found


@pytest.mark.parametrize(
    "address",
    [
        "rotation/²",
        "random/-1",
        "random/+0",
        "random/00",
        "random/0x0",
        "random/" + "9" * 5000,
        "random/",
        "//",
        "[red]x/0",
        "a\nb/0",
        "\x1b[31m/0",
    ],
)
def test_addresses_that_name_no_cell(tmp_path: Path, address: str, tiny_run: Path) -> None:
    ended = call(tiny_run, "show", f"tiny/{address}")
    assert ended.code == 2 and len(ended.err) < 600 and "\x1b" not in ended.err and ended.err.startswith("error: "), (
        ended
    )


@pytest.mark.parametrize("run", ["x" * 300, "no\x1b[31msuch", "[red]", ".."])
def test_runs_that_are_not_there(tmp_path: Path, run: str) -> None:
    for words in (("show", f"{run}/random/0"), ("status", run), ("report", run)):
        ended = call(tmp_path, *words)
        assert ended.code == 2 and "\x1b" not in ended.err and "Traceback" not in ended.err, ended


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    assert call(folder, "run", *written(folder)).code == 0
    return folder


def test_the_command_that_a_failed_row_names_shows_that_run(tmp_path: Path) -> None:
    words = written(tmp_path, task("broken", "raise RuntimeError('no luck')"), tasks=["broken"], baselines=[])
    assert call(tmp_path, "run", *words, "--out", "elsewhere").code == 1, "and not below runs/, under the matrix's name"
    named = re.search(r"ssl-bench show (\S+/broken/0)", call(tmp_path, "report", "elsewhere").out)
    assert named is not None
    assert any("no luck" in line for line in lines(call(tmp_path, "show", named[1]))), named[1]
