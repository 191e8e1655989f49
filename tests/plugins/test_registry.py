"""Names find classes, wrong ones are refused in words, and an edited plugin is another thing than it was."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_bench.errors import SpecError
from ssl_bench.evaluators.base import Evaluator
from ssl_bench.plugins.identity import identity
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS, Registry
from ssl_bench.tasks.base import PretextTask

PLUGIN = '''
"""A task that asks nothing."""
from ssl_bench import PretextTask, TaskOptions

class Nothing(PretextTask):
    """Ask nothing."""
    name = "nothing"

    def views(self, batch):
        return batch.images

    def forward(self, views):
        return {"loss": self.backbone(views).mean() * 1.0}  # a remark
'''


@pytest.fixture(autouse=True)
def _clean_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TASKS, "_added", {})
    monkeypatch.setattr(EVALUATORS, "_added", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("ssl_bench_plugin_"):
            del sys.modules[name]


def write(folder: Path, text: str = PLUGIN, name: str = "nothing.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(("registry", "base"), [(TASKS, PretextTask), (EVALUATORS, Evaluator)])
def test_every_built_in_is_what_it_is_registered_as(registry: Registry, base: type) -> None:
    for name in registry._builtin:
        member = registry.get(name)
        assert issubclass(member, base) and member.name == name
        assert identity(registry, name) == {"name": name, "version": member.version}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown task 'rotaton': did you mean 'rotation'\?"):
        TASKS.get("rotaton")
    with pytest.raises(SpecError, match=r"unknown evaluator 'zzz': known are: .*linear"):
        EVALUATORS.get("zzz")
    assert "rotaton" not in TASKS and "rotation" in TASKS


def test_a_plugin_file_registers_its_tasks_and_may_be_loaded_again(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert load_plugin(file) == load_plugin(str(file)) == ["nothing"]
    assert TASKS.get("nothing").name == "nothing" and "nothing" in TASKS.names()
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (lambda s: s.replace("# a remark", "# another remark, longer than the first"), True),
        (lambda s: s.replace("return {", "\n\n        return   {"), True),
        (lambda s: s.replace("* 1.0", "* 2.0"), False),  # as many bytes, and perhaps within the same second
        (lambda s: s + "\nGAIN = 3\n", False),
    ],
    ids=["comment", "layout", "number", "constant"],
)
def test_identity_follows_the_code_and_nothing_else(tmp_path: Path, edit, same: bool) -> None:
    file = write(tmp_path)
    load_plugin(file)
    before, old_class = identity(TASKS, "nothing"), TASKS.get("nothing")
    file.write_text(edit(PLUGIN))
    assert identity(TASKS, "nothing") == before, "what runs is still the code that was imported"
    load_plugin(file)
    assert (identity(TASKS, "nothing") == before) is same
    assert TASKS.get("nothing") is not old_class, "the edited file is what runs from now on"


def test_identity_is_the_same_with_every_version_of_python(tmp_path: Path) -> None:
    """Written down once; an `ast.dump` of it changed in Python 3.13."""
    load_plugin(
        write(tmp_path, PLUGIN + '\nODD = [None, True, 1, 1.0, b"x", ..., "\u00e9\U0001fae8", f"{1!r}", lambda: ()]\n')
    )
    assert identity(TASKS, "nothing")["code"] == "bf8e4e916555d213"


def test_identity_does_not_depend_on_where_the_file_lies(tmp_path: Path) -> None:
    load_plugin(write(tmp_path / "a"))
    here = identity(TASKS, "nothing")
    TASKS._added.clear()
    load_plugin(write(tmp_path / "b"))
    assert identity(TASKS, "nothing") == here


def test_identity_covers_the_file_of_a_base_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number, gain in enumerate(("1.0", "2.0")):
        folder = tmp_path / str(number)
        write(folder, PLUGIN.replace("* 1.0", f"* {gain}"), "nothing_base.py")
        text = (
            '"""Uses another."""\nfrom nothing_base import Nothing\n\n'
            'class More(Nothing):\n    """More."""\n    name = "more"\n'
        )
        monkeypatch.syspath_prepend(folder)
        sys.modules.pop("nothing_base", None)
        assert load_plugin(write(folder, text, "more.py")) == ["more"]
        found.append(identity(TASKS, "more"))
        TASKS._added.clear()
    sys.modules.pop("nothing_base", None)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PLUGIN.replace('"nothing"', '"rotation"'),
            "a task named 'rotation' exists already; choose another `name` for .*Nothing",
        ),
        (
            PLUGIN.replace("(PretextTask)", "()"),
            "defines no task, evaluator or source: derive a class from ssl_bench.PretextTask, Evaluator or Source",
        ),
        ("x = 1\n", "defines no task, evaluator or source"),
        ("import no_such_module\n", "cannot be imported: ModuleNotFoundError"),
        ("class (:\n", "cannot be imported: SyntaxError"),
    ],
    ids=["clash", "base", "empty", "import", "syntax"],
)
def test_a_wrong_plugin_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SpecError, match=message):
        load_plugin(file)
    file.write_text(PLUGIN)  # mended, it loads without starting Python again
    assert load_plugin(file) == ["nothing"]


def test_files_that_are_no_plugins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        load_plugin(tmp_path / "missing.py")
    with pytest.raises(SpecError, match=r"must end in \.py"):
        load_plugin(write(tmp_path, PLUGIN, "nothing.txt"))


def test_two_files_may_not_share_a_name(tmp_path: Path) -> None:
    load_plugin(write(tmp_path / "a"))
    with pytest.raises(SpecError, match="'nothing' exists already"):
        load_plugin(write(tmp_path / "b"))


def test_classes_are_checked_when_added() -> None:
    class Nameless(PretextTask):
        """No name."""

    class Stranger:
        name = "stranger"

    with pytest.raises(SpecError, match="has no class attribute `name`"):
        TASKS.add(Nameless)
    with pytest.raises(SpecError, match="'stranger' must be a class derived from ssl_bench.tasks.base.PretextTask"):
        TASKS.add(Stranger)


def _install(folder: Path, package: str, points: str, text: str) -> None:
    """What an installer leaves: a module, and metadata that names its entry points."""
    write(folder, text, f"{package}.py")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ssl_bench.tasks]\n{points}\n")


def fresh() -> Registry:
    """A registry that has not asked for entry points yet."""
    return Registry("task", "ssl_bench.tasks.base:PretextTask", "ssl_bench.tasks", TASKS._builtin)


def test_installed_packages_are_found_and_a_clash_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    _install(tmp_path, "installed_one", "nothing = installed_one:Nothing", PLUGIN)
    assert fresh().get("nothing").__module__ == "installed_one"
    _install(tmp_path, "installed_two", "nothing = installed_two:Nothing", PLUGIN)
    importlib.invalidate_caches()
    with pytest.raises(
        SpecError, match="two tasks are named 'nothing': installed_.* and installed_.*; uninstall or rename one"
    ):
        fresh().names()


@pytest.mark.parametrize(
    ("points", "text", "message"),
    [
        (
            "rotation = broken_one:Nothing",
            PLUGIN,
            "two tasks are named 'rotation': broken_one:Nothing and ssl_bench itself",
        ),
        ("nothing = broken_one:Gone", PLUGIN, "the installed task 'nothing' .* cannot be imported: AttributeError"),
        (
            "nothing = broken_one:Nothing",
            "import no_such_module",
            "installed task 'nothing' .* cannot be imported: ModuleNotFoundError",
        ),
        ("nothing = broken_one:Nothing", "Nothing = print", "'nothing' must be a class derived from"),
        ("other = broken_one:Nothing", PLUGIN, "'other' is registered under another name than its own, 'nothing'"),
    ],
    ids=["built-in", "attribute", "import", "base", "name"],
)
def test_a_wrong_installed_plugin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: str, text: str, message: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
    _install(tmp_path, "broken_one", points, text)
    registry = fresh()
    with pytest.raises(SpecError, match=message):
        registry.get(points.partition(" ")[0]) if "rotation" not in points else registry.names()
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
