"""Writes the first version of a new task or evaluator, and of its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path

from ssl_bench.errors import SpecError
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.system.disk import no_room, reason


def new_task(name: str, folder: str | Path = ".") -> list[Path]:
    """Write ``NAME.py``, a working pretext task to change, and ``test_NAME.py``, which holds it to the contract; see
    ``_write_template``."""
    return _write_template("task", name, folder)


def new_evaluator(name: str, folder: str | Path = ".") -> list[Path]:
    """Write ``NAME.py``, a working evaluator to change, and ``test_NAME.py``, which holds it to the contract; see
    ``_write_template``."""
    return _write_template("evaluator", name, folder)


def _write_template(kind: str, name: str, folder: str | Path) -> list[Path]:
    """Write both files.

    Parameters
    ----------
    kind : "task" or "evaluator".
    name : of the task or evaluator, its module and (in capitals, without underscores) its class, such as "odd_one_out".
    folder : where to write; made if it does not exist.

    Returns
    -------
    The files written.

    Raises
    ------
    SpecError : a name that Python, a registered task or an importable module has already, a file that exists (nothing
        is written then), or a folder that cannot be written to.
    """
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if not (name.isidentifier() and name.isascii() and class_name) or keyword.iskeyword(name):
        raise SpecError(
            f"{_articled(kind)} cannot be called {name!r}: the name becomes a Python module; use letters, digits "
            "and underscores, such as odd_one_out"
        )
    if name in TASKS or name in EVALUATORS:
        raise SpecError(
            f"{name!r} is the name of {'a task' if name in TASKS else 'an evaluator'} already; choose another"
        )
    names = (f"new_{kind}.py", f"test_new_{kind}.py")
    templates = {
        template: (files("ssl_bench.plugins") / "templates" / template).read_text(encoding="utf-8")
        for template in names
    }
    if re.search(rf"\b{class_name}\b", templates[names[0]]) and class_name != f"New{kind.title()}":
        raise SpecError(
            f"{name!r} would make a class called {class_name}, which the {kind} itself imports or uses; choose "
            "another name"
        )
    target = Path(folder).expanduser()
    paths = {template: target / template.replace(f"new_{kind}", name) for template in names}
    for path in paths.values():
        if path.exists():
            raise SpecError(f"{path} exists already; nothing was written")
    if importlib.util.find_spec(name) is not None:
        raise SpecError(
            f"{name}.py would hide the module {name!r} from everything that imports it; choose another name"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        for template, path in paths.items():
            with open(path, "x", encoding="utf-8") as file:
                file.write(templates[template].replace(f"new_{kind}", name).replace(f"New{kind.title()}", class_name))
    except OSError as error:
        raise no_room(error, target) or SpecError(
            f"{target} cannot be written to: {reason(error)}; name another --folder"
        ) from error
    return list(paths.values())


def _articled(kind: str) -> str:
    return f"{'an' if kind == 'evaluator' else 'a'} {kind}"
