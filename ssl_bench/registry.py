"""One small typed registry for tasks, evaluators and sources: built-ins, plugin files, entry points."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from ssl_bench.errors import SpecError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to classes of one kind.

    Parameters
    ----------
    kind : what is registered, as an error message says it ("task").
    base : "module:Class" that every member must derive from; imported on first use.
    group : entry-point group that installed packages use.
    builtin : name to "module:Class"; imported on first use, so that listing names costs nothing.
    combine : "module:function" that makes the member ``a+b`` out of others (they are its ``members``); None where there is no such thing.
    """

    def __init__(self, kind: str, base: str, group: str, builtin: dict[str, str], combine: str | None = None) -> None:
        self.kind, self._base, self.group, self._combine = kind, base, group, combine
        self._builtin = dict(builtin)
        self._added: dict[str, type[T]] = {}
        self._entry_points: dict[str, Any] | None = None

    def _installed(self) -> dict[str, Any]:
        if self._entry_points is None:
            self._entry_points = {}
            for point in entry_points(group=self.group):
                if point.name in self._builtin or point.name in self._entry_points:
                    other = self._entry_points.get(point.name)
                    holder = other.value if other else "ssl_bench itself"
                    raise SpecError(f"two {self.kind}s are named {point.name!r}: {point.value} and {holder}; uninstall or rename one")
                self._entry_points[point.name] = point
        return self._entry_points

    def names(self) -> list[str]:
        """Every known name, built-ins first."""
        return [*self._builtin, *sorted(set(self._installed()) | set(self._added))]

    def __contains__(self, name: object) -> bool:
        if self._combine is not None and isinstance(name, str) and "+" in name:
            return all(part.strip() in self for part in name.split("+"))
        return name in self._builtin or name in self._added or name in self._installed()

    def is_builtin(self, name: str) -> bool:
        return name in self._builtin

    def get(self, name: str) -> type[T]:
        """The class called ``name``. Raises SpecError naming the nearest names."""
        if name in self._added:
            return self._added[name]
        if name in self._builtin:
            return self._checked(_load(self._builtin[name]), name)
        if name in self._installed():
            point = self._installed()[name]
            try:
                found = point.load()
            except Exception as error:
                raise SpecError(f"the installed {self.kind} {name!r} ({point.value}) cannot be imported: {error!r}") from error
            return self._checked(found, name)
        if self._combine is not None and "+" in name:
            return self._checked(_load(self._combine)(name), name.replace(" ", ""))
        raise SpecError(f"unknown {self.kind} {name!r}: {did_you_mean(name, self.names())}")

    def add(self, member: type[T]) -> type[T]:
        """Register a class under its ``name``; the same class may be added again, another one may not."""
        name = getattr(member, "name", None)
        if not isinstance(name, str) or not name:
            raise SpecError(f"{member.__name__} has no class attribute `name`; give it one, such as name = {member.__name__.lower()!r}")
        if self._combine is not None and "+" in name:
            raise SpecError(f"{member.__name__} is named {name!r}; the plus sign combines {self.kind}s, choose another name")
        self._checked(member, name)
        held = self._added.get(name)
        if name in self._builtin or name in self._installed() or (held is not None and held is not member):
            raise SpecError(
                f"a {self.kind} named {name!r} exists already; choose another `name` for {member.__module__}.{member.__qualname__}"
            )
        self._added[name] = member
        return member

    def forget(self, module: str) -> None:
        """Drop what one module has added."""
        self._added = {name: member for name, member in self._added.items() if member.__module__ != module}

    def _checked(self, member: Any, name: str) -> type[T]:
        base = _load(self._base)
        if not (isinstance(member, type) and issubclass(member, base)):
            raise SpecError(f"{self.kind} {name!r} must be a class derived from {self._base.replace(':', '.')}, not {member!r}")
        if not member.__dict__.get("name", name) == name:
            raise SpecError(f"{self.kind} {name!r} is registered under another name than its own, {member.__dict__['name']!r}")
        return member


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


TASKS: Registry[Any] = Registry(
    "task", "ssl_bench.tasks.base:PretextTask", "ssl_bench.tasks",
    {
        "autoencoder": "ssl_bench.tasks.autoencoder:Autoencoder",
        "denoising_autoencoder": "ssl_bench.tasks.denoising_autoencoder:DenoisingAutoencoder",
        "vae": "ssl_bench.tasks.vae:VAE",
        "rotation": "ssl_bench.tasks.rotation:Rotation",
        "relative_position": "ssl_bench.tasks.relative_position:RelativePosition",
        "colorization": "ssl_bench.tasks.colorization:Colorization",
        "simclr": "ssl_bench.tasks.simclr:SimCLR",
        "exemplar": "ssl_bench.tasks.exemplar:Exemplar",
        "random": "ssl_bench.tasks.baselines:RandomInit",
        "pixels": "ssl_bench.tasks.baselines:Pixels",
        "pca": "ssl_bench.tasks.baselines:PCA",
        "supervised": "ssl_bench.tasks.supervised:Supervised",
        "weights": "ssl_bench.tasks.weights:ElsewhereWeights",
    },
    combine="ssl_bench.tasks.combine:combine",
)

EVALUATORS: Registry[Any] = Registry(
    "evaluator", "ssl_bench.evaluators.base:Evaluator", "ssl_bench.evaluators",
    {
        "linear": "ssl_bench.evaluators.linear:Linear",
        "knn": "ssl_bench.evaluators.knn:KNN",
        "finetune": "ssl_bench.evaluators.finetune:Finetune",
        "detection": "ssl_bench.evaluators.detection:Detection",
        "diagnostics": "ssl_bench.evaluators.diagnostics:Diagnostics",
    },
)


_IMPORTED: dict[str, bytes] = {}  # plugin module -> the source that it was imported from


def load_plugin(path: str | Path) -> list[str]:
    """Import one Python file and register every task and evaluator that it defines.

    A file that was edited since it was last imported is imported anew. Returns the registered names. Raises SpecError when
    the file is missing, does not import, or defines none.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise SpecError(f"plugin file {str(path)!r} does not exist")
    module_name = f"ssl_bench_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    text = file.read_bytes()
    if module_name in sys.modules and _IMPORTED.get(module_name) != text:
        # Edited since: the old class must not run under the id of the new code.
        del sys.modules[module_name]
        for registry in (TASKS, EVALUATORS):
            registry.forget(module_name)
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise SpecError(f"plugin {str(path)!r} is not a Python file; it must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            exec(compile(text, str(file), "exec"), vars(module))  # not from __pycache__, which misses an edit within the same second
        except Exception as error:
            del sys.modules[module_name]
            raise SpecError(f"plugin {str(path)!r} cannot be imported: {type(error).__name__}: {error}") from error
        _IMPORTED[module_name] = text
    module = sys.modules[module_name]
    registered = []
    for registry in (TASKS, EVALUATORS):
        base = _load(registry._base)
        for member in vars(module).values():
            own = isinstance(member, type) and issubclass(member, base) and member.__module__ == module_name
            if own and not inspect.isabstract(member) and "name" in vars(member):
                registry.add(member)
                _code_of(member)
                registered.append(member.name)
    if not registered:
        raise SpecError(
            f"plugin {str(path)!r} defines no task and no evaluator: derive a class from ssl_bench.PretextTask and give it a `name`"
        )
    return registered


def identity(registry: Registry[Any], name: str) -> dict[str, Any]:
    """What of a member's code belongs to a cell's id.

    Built-ins carry a version that is raised when a change can change a number. A plugin's author cannot be asked to do
    that, so its source counts by its syntax tree: comments and layout are free, anything else makes a new cell.
    """
    member: Any = registry.get(name)
    found: dict[str, Any] = {"name": member.name, "version": int(getattr(member, "version", 1))}
    if members := getattr(member, "members", ()):
        found["members"] = [identity(registry, one.name) for one in members]
    elif not registry.is_builtin(name):
        found["code"] = _code_of(member)
    return found


@functools.cache  # as it was when it was imported: a file edited later is not what runs
def _code_of(member: Any) -> str:
    """Hash over the source of a class and its bases: their files, and all of an installed package, whose parts import each other."""
    files: dict[str, Path] = {}
    for owner in member.__mro__:
        top = owner.__module__.partition(".")[0]
        if top in ("ssl_bench", "torch", "typing", "abc", "builtins"):
            continue
        try:
            source = inspect.getsourcefile(owner)
        except TypeError:
            source = None
        if source is None or not Path(source).is_file():
            raise SpecError(
                f"the source of {owner.__qualname__} cannot be found, so its results could not be told from those of another version; "
                "define it in a file"
            )
        package = getattr(sys.modules.get(top), "__file__", None)
        if package is not None and Path(package).name == "__init__.py":
            folder = Path(package).parent
            files |= {f"{top}/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*.py")}
        else:
            files[owner.__module__] = Path(source)
    trees = [_plain(ast.parse(file.read_text(encoding="utf-8"))) for file in files.values()]
    return hashlib.sha256("\0".join(sorted(trees)).encode()).hexdigest()[:16]


def _plain(node: Any) -> str:
    """A syntax tree as text, the same with every version of Python: ``ast.dump`` is not, and newer versions add fields, empty at first."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in sorted(node._fields))
        return f"{type(node).__name__}({', '.join(f'{name}={_plain(value)}' for name, value in fields if value is not None and value != [])})"
    if isinstance(node, list):
        return f"[{', '.join(map(_plain, node))}]"
    return ascii(node)  # not repr, which leaves what a version's Unicode tables call printable
