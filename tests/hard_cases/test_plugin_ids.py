"""What a plugin is made of decides its id: its own file, and the local modules that it imports, however it does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_bench.errors import SpecError
from ssl_bench.plugins.identity import identity
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS

ROOT = Path(__file__).parents[2]
TASK = '''
"""A task with a helper."""
from ssl_bench import PretextTask
{imports}

class Helped(PretextTask):
    """Ask nothing."""
    name = "helped"

    def views(self, batch):
        return batch.images

    def forward(self, views):
        {inside}
        return {{"loss": self.backbone(views).mean() * {use}}}

    def gain(self):
        {inside}
        return {use}
'''


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TASKS, "_added", {})
    monkeypatch.setattr(EVALUATORS, "_added", {})
    before, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith("ssl_bench_plugin_") or name.partition(".")[0] in ("helper", "parts", "deeper", "beside"):
            del sys.modules[name]
    sys.path[:] = path


def write(folder: Path, imports: str = "pass", use: str = "1.0", inside: str = "pass", **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helped.py").write_text(TASK.format(imports=imports, use=use, inside=inside))
    for name, text in files.items():
        file = folder / f"{name.replace('__DOT__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return folder / "helped.py"


def code(file: Path) -> str:
    load_plugin(file)
    return str(identity(TASKS, "helped")["code"])


def gain() -> float:
    return float(TASKS.get("helped").gain(None))


LAYOUTS = {
    "beside": ({"imports": "from helper import GAIN", "use": "GAIN", "helper": "GAIN = 2.0\n"}, "helper.py"),
    "module": ({"imports": "import helper", "use": "helper.GAIN", "helper": "GAIN = 2.0\n"}, "helper.py"),
    "star": ({"imports": "from helper import *", "use": "GAIN", "helper": "GAIN = 2.0\n"}, "helper.py"),
    "in a function": ({"inside": "from helper import GAIN", "use": "GAIN", "helper": "GAIN = 2.0\n"}, "helper.py"),
    "by its name": (
        {
            "imports": "import importlib\nhelper = importlib.import_module('helper')", "use": "helper.GAIN",
            "helper": "GAIN = 2.0\n",
        },
        "helper.py",
    ),
    "through another": (
        {
            "imports": "from helper import GAIN", "use": "GAIN", "helper": "from deeper import GAIN\n",
            "deeper": "GAIN = 2.0\n",
        },
        "deeper.py",
    ),
    "package": (
        {
            "imports": "from parts.gain import GAIN", "use": "GAIN", "parts__DOT____init__": "",
            "parts__DOT__gain": "from .number import GAIN\n",
            "parts__DOT__number": "GAIN = 2.0\n",
        }, "parts/number.py",
    ),
    "its init": (
        {"imports": "import parts", "use": "parts.GAIN", "parts__DOT____init__": "GAIN = 2.0\n"}, "parts/__init__.py",
    ),
    "package from": (
        {
            "imports": "from parts import gain", "use": "gain.GAIN", "parts__DOT____init__": "",
            "parts__DOT__gain": "GAIN = 2.0\n",
        },
        "parts/gain.py",
    ),
    "without init": (
        {"imports": "import parts.gain", "use": "parts.gain.GAIN", "parts__DOT__gain": "GAIN = 2.0\n"}, "parts/gain.py",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layout", "edited"), LAYOUTS.values(), ids=LAYOUTS)
def test_an_edited_helper_makes_another_id_and_is_imported_anew(
    tmp_path: Path, layout: dict[str, str], edited: str
) -> None:
    file = write(tmp_path, **layout)
    before = code(file)
    assert gain() == 2.0
    (tmp_path / edited).write_text("GAIN = 3.0\n")  # as many bytes, within the same second
    if "inside" in layout:
        assert gain() == 2.0, "until the plugin is loaded again, what runs is what its id says"
    assert identity(TASKS, "helped")["code"] == before
    after = code(file)
    assert after != before and gain() == 3.0
    (tmp_path / edited).write_text("GAIN = 3.0  # a remark\n")
    assert code(file) == after, "comments are free in helpers too"


def test_a_helper_edited_before_a_function_first_imports_it_runs_as_its_id_says(tmp_path: Path) -> None:
    file = write(tmp_path, inside="from helper import GAIN", use="GAIN", helper="GAIN = 2.0\n")
    code(file)
    (tmp_path / "helper.py").write_text("GAIN = 3.0\n")
    assert gain() == 2.0


def test_a_helper_elsewhere_on_the_path_counts_and_what_is_installed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "plugin", imports="from helper import GAIN", use="GAIN")
    alone = code(write(tmp_path / "alone"))
    monkeypatch.syspath_prepend(tmp_path / "lib")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/helper.py").write_text("GAIN = 2.0\n")
    TASKS._added.clear()
    before = code(file)
    (tmp_path / "lib/helper.py").write_text("GAIN = 3.0\n")
    assert code(file) != before and gain() == 3.0
    (tmp_path / "lib/other-1.0.dist-info").mkdir()  # a folder into which packages are installed
    sys.modules.pop("helper", None)
    again = code(file)
    (tmp_path / "lib/helper.py").write_text("GAIN = 4.0\n")
    assert code(file) == again != alone


def test_two_plugins_have_helpers_of_one_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a", imports="from helper import GAIN", use="GAIN", helper="GAIN = 2.0\n")
    second = write(tmp_path / "b", imports="from helper import GAIN", use="GAIN", helper="GAIN = 3.0\n")
    second.write_text(second.read_text().replace('"helped"', '"second"'))
    load_plugin(first), load_plugin(second), load_plugin(first)
    assert TASKS.get("helped").gain(None) == 2.0 and TASKS.get("second").gain(None) == 3.0
    assert identity(TASKS, "helped")["code"] != identity(TASKS, "second")["code"]


@pytest.mark.parametrize("lazy", ["first", "second", "through a helper"])
def test_a_function_never_gets_the_helper_of_another_plugin(tmp_path: Path, lazy: str) -> None:
    """Its id is that of its own, and Python knows one module of a name at a time."""
    top, inside = (
        {"imports": "from helper import GAIN", "use": "GAIN"},
        {"inside": "from helper import GAIN", "use": "GAIN"},
    )
    through = {
        "imports": "from deeper import gain",
        "use": "gain()",
        "deeper": "def gain():\n    import helper\n    return helper.GAIN\n",
    }
    first = write(
        tmp_path / "a",
        helper="GAIN = 2.0\n",
        **(top if lazy == "second" else through if lazy == "through a helper" else inside),
    )
    second = write(tmp_path / "b", helper="GAIN = 3.0\n", **(inside if lazy == "second" else top))
    second.write_text(second.read_text().replace('"helped"', '"second"'))
    load_plugin(first), load_plugin(first)
    with pytest.raises(SpecError, match=r"helped\.py.*'helper'.*rename one"):
        load_plugin(second)
    assert gain() == 2.0


def test_files_beside_a_plugin_do_not_hide_python_s_own(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        imports="import random, torch, numpy",
        use="float(random.random() < 2)",
        random="raise ImportError\n",
        numpy="raise ImportError\n",
    )
    before = code(file)
    (tmp_path / "random.py").write_text("raise ImportError('other')\n")
    assert code(file) == before and gain() == 1.0


def test_ids_of_plugins_without_helpers_are_what_they_were() -> None:
    load_plugin(ROOT / "tests/plugins/intruder.py")
    assert identity(TASKS, "intruder")["code"] == "e11cf87090bde202"
    controls = ROOT / "benchmarks/controls/random_input.py"
    if controls.is_file():  # not in an installed package
        load_plugin(controls)
        assert identity(TASKS, "random_input")["code"] == "4dbc49cb00ca1cb4"


def test_a_helper_that_does_not_import_is_named_and_mended(tmp_path: Path) -> None:
    file = write(tmp_path, imports="from helper import GAIN", use="GAIN", helper="GAIN = = 2\n")
    with pytest.raises(SpecError, match=r"helped.py' cannot be imported: SyntaxError: .*helper.py, line 1"):
        load_plugin(file)
    (tmp_path / "helper.py").write_text("\n\nGAIN = 1 / 0\n")
    with pytest.raises(
        SpecError, match=r"cannot be imported: ZeroDivisionError: division by zero \(.*helper.py, line 3\)"
    ):
        load_plugin(file)
    (tmp_path / "helper.py").write_text("GAIN = 2.0\n")
    assert load_plugin(file) == ["helped"]
    file.write_text(TASK.format(imports="from .helper import GAIN", inside="pass", use="GAIN"))
    with pytest.raises(SpecError, match="import a file beside it by its plain name"):
        load_plugin(file)


def test_the_id_is_the_same_in_another_process(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        imports="from parts.gain import GAIN",
        use="GAIN",
        parts__DOT__gain="import helper\nGAIN = helper.GAIN\n",
        helper="GAIN = 2.0\n",
    )
    program = f"""
from ssl_bench.plugins.identity import identity
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import TASKS

load_plugin({str(file)!r})
print(identity(TASKS, "helped")["code"])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.stdout.strip() == code(file), done.stderr
