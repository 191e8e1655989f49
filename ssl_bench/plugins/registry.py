"""One small typed registry for tasks, evaluators and sources: built-ins, plugin files, entry points."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from ssl_bench.errors import SpecError, did_you_mean, text_of
from ssl_bench.plugins.contracts import problem_of
from ssl_bench.plugins.source_code import (
    LOCAL,
    imported_in_functions,
    is_installed,
    local_files_in,
    local_modules,
    place_of,
    plain,
    tree_of,
)
from ssl_bench.system.interruption import is_interruption

T = TypeVar("T")

_PLUGIN_MODULE = "ssl_bench_plugin_"  # what the names of modules begin with that plugin files are imported as


class Registry(Generic[T]):
    """Names to classes of one kind.

    Parameters
    ----------
    kind : what is registered, as an error message says it ("task").
    base : "module:Class" that every member must derive from; imported on first use.
    group : entry-point group that installed packages use.
    builtin : name to "module:Class"; imported on first use, so that listing names costs nothing.
    combine : "module:function" that makes the member ``a+b`` out of others (they are its ``members``); None where there
        is no such thing.
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
                    raise SpecError(
                        f"two {self.kind}s are named {point.name!r}: {point.value} and {holder}; uninstall or "
                        "rename one"
                    )
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

    def summary(self, name: str) -> str:
        """The first paragraph of a class's docstring; a built-in's is read from its source, since its import takes
        seconds."""
        if name not in self._builtin or name in self._added:
            return summary_of(self.get(name).__doc__)
        module, _, class_name = self._builtin[name].partition(":")
        file = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
        return summary_of(ast.get_docstring(next(classes)))

    def get(self, name: str) -> type[T]:
        """The class called ``name``. Raises SpecError naming the nearest names."""
        if name in self._added:
            return self._added[name]
        if name in self._builtin:
            return self._checked(_load(self._builtin[name]), name)
        if name in self._installed():
            point = self._installed()[name]
            try:
                member = point.load()
            except BaseException as error:
                if is_interruption(error):
                    raise
                raise SpecError(
                    f"the installed {self.kind} {name!r} ({point.value}) cannot be imported: "
                    f"{type(error).__name__}: {text_of(error)}"
                ) from error
            return self._checked(member, name)
        if self._combine is not None and "+" in name:
            return self._checked(_load(self._combine)(name), name.replace(" ", ""))
        raise SpecError(f"unknown {self.kind} {name!r}: {did_you_mean(name, self.names())}")

    def add(self, member: type[T]) -> type[T]:
        """Register a class under its ``name``; the same class may be added again, another one may not."""
        name = getattr(member, "name", None)
        if not isinstance(name, str) or not name:
            raise SpecError(f"{self.kind} class {member.__name__} {problem_of(member, _load(self._base), self.kind)}")
        if self._combine is not None and "+" in name:
            raise SpecError(
                f"{member.__name__} is named {name!r}; the plus sign combines {self.kind}s, choose another name"
            )
        self._checked(member, name)
        held = self._added.get(name)
        if name in self._builtin or name in self._installed() or (held is not None and held is not member):
            holder = f" ({_where(held)})" if held is not None else ""
            raise SpecError(
                f"a {self.kind} named {name!r} exists already{holder}; choose another `name` for {_where(member)}"
            )
        self._added[name] = member
        return member

    def forget(self, module: str) -> None:
        """Drop what one module has added."""
        self._added = {name: member for name, member in self._added.items() if member.__module__ != module}

    def _checked(self, member: Any, name: str) -> type[T]:
        base = _load(self._base)
        if not (isinstance(member, type) and issubclass(member, base)):
            raise SpecError(
                f"{self.kind} {name!r} must be a class derived from {self._base.replace(':', '.')}, not {member!r}"
            )
        if not member.__dict__.get("name", name) == name:
            raise SpecError(
                f"{self.kind} {name!r} is registered under another name than its own, {member.__dict__['name']!r}"
            )
        if (
            name not in self._builtin
            and not getattr(member, "members", ())
            and (told := problem_of(member, base, self.kind))
        ):
            raise SpecError(f"{self.kind} {name!r} ({_where(member)}) {told}")
        return member


def summary_of(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((docstring or "").strip().partition("\n\n")[0].split())


def _where(member: Any) -> str:
    """A class and the file that defines it."""
    file = getattr(sys.modules.get(member.__module__), "__file__", None)
    return f"class {member.__qualname__} of {file or member.__module__}"


def origin_of(member: Any) -> str:
    """A class and its plugin file or module, in words that hold on another machine, such as "class Pair of pair.py"."""
    file = getattr(sys.modules.get(member.__module__), "__file__", None) or ""
    place = Path(file).name if member.__module__.startswith(_PLUGIN_MODULE) else member.__module__
    return f"class {member.__qualname__} of {place}"


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


TASKS: Registry[Any] = Registry(
    "task",
    "ssl_bench.tasks.base:PretextTask",
    "ssl_bench.tasks",
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
    "evaluator",
    "ssl_bench.evaluators.base:Evaluator",
    "ssl_bench.evaluators",
    {
        "linear": "ssl_bench.evaluators.linear.probe:Linear",
        "knn": "ssl_bench.evaluators.knn:KNN",
        "finetune": "ssl_bench.evaluators.finetune:Finetune",
        "detection": "ssl_bench.evaluators.detection.evaluator:Detection",
        "diagnostics": "ssl_bench.evaluators.diagnostics:Diagnostics",
    },
)


_TORCHVISION = (
    "CIFAR10 CIFAR100 Imagenette ImageNet STL10 SVHN MNIST FashionMNIST KMNIST QMNIST USPS SEMEION Flowers102 "
    "Food101 OxfordIIITPet DTD FGVCAircraft StanfordCars GTSRB EuroSAT Country211 RenderedSST2 CLEVRClassification "
    "SUN397 Places365 Caltech101 Caltech256 PCAM FER2013"
)  # classes of torchvision.datasets, and of the source that reads them; their names are these in lower case

SOURCES: Registry[Any] = Registry(
    "source",
    "ssl_bench.data.sources.base:Source",
    "ssl_bench.sources",
    {
        "shapes": "ssl_bench.data.boxes.shapes:Shapes",
        "folder": "ssl_bench.data.sources.folder_source:FolderSource",
        "parquet": "ssl_bench.data.sources.parquet_source:ParquetSource",
        "hf": "ssl_bench.data.sources.huggingface:HubSource",
        **{name.lower(): f"ssl_bench.data.sources.torchvision_source:{name}" for name in _TORCHVISION.split()},
        "voc": "ssl_bench.data.boxes.sources:VOCFolder",
        "voc2007": "ssl_bench.data.boxes.sources:VOC2007",
        "voc2012": "ssl_bench.data.boxes.sources:VOC2012",
        "bccd": "ssl_bench.data.boxes.sources:BCCD",
    },
)

NETWORKS: Registry[Any] = Registry(
    "network",
    "ssl_bench.backbones.network:Network",
    "ssl_bench.networks",
    {"resnet": "ssl_bench.backbones.resnet:Backbone"},
)

_REGISTRIES = (TASKS, EVALUATORS, SOURCES, NETWORKS)  # whose members a plugin may define

_IMPORTED: dict[str, dict[Path, bytes]] = {}  # plugin module -> the files that it was imported from, and what they held
# plugin module -> its local modules, and the names that functions import when they are called
_HELPERS: dict[str, tuple[dict[str, Path], set[str]]] = {}


def load_plugin(path: str | Path) -> list[str]:
    """Import one Python file and register every task, evaluator, source and network that it defines.

    Files beside it can be imported by their names. A file that was edited since it was last imported, or a local module
    that it imports, is imported anew. Returns the registered names.

    Raises
    ------
    SpecError : the file is missing, does not import, changes torch's global state, defines no task, evaluator, source
        or network, or one that breaks the contract.
    """
    file = _plugin_file(path)
    module_name = f"{_PLUGIN_MODULE}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    try:
        text = file.read_bytes()
    except OSError as error:
        raise SpecError(f"plugin {str(path)!r} cannot be read: {error.strerror or error}") from None
    tree_of(text, file)
    helpers = local_modules([(module_name, file)])
    later = imported_in_functions(
        [(module_name, file), *((name, helper) for name, helper in helpers.items() if helper.is_file())]
    )
    _refuse_mixed(module_name, file, helpers, later)
    LOCAL.offer(helpers)
    sources = {file: text} | {helper: LOCAL.text_of(helper) for helper in helpers.values() if helper.is_file()}
    if module_name in sys.modules and _IMPORTED.get(module_name) != sources:
        _forget(module_name)  # edited since: the old class must not run under the id of the new code
    if module_name not in sys.modules:
        _import(module_name, file, text, path)
    module = sys.modules[module_name]
    registered = []
    try:
        for registry in _REGISTRIES:
            base = _load(registry._base)
            for member in vars(module).values():
                defined_here = (
                    isinstance(member, type) and issubclass(member, base) and member.__module__ == module_name
                )
                if (
                    defined_here
                    and not inspect.isabstract(member)
                    and (not _is_mixin(member, base, registry.kind) or "name" in vars(member))
                ):
                    registry.add(member)
                    if registry is not SOURCES:  # whose code enters an id by the pixels that it gives
                        _code_of(member)
                    registered.append(member.name)
    except SpecError:
        _forget(module_name)
        raise
    if not registered:
        _forget(module_name)
        raise SpecError(
            f"plugin {str(path)!r} defines no task, evaluator or source: derive a class from "
            "ssl_bench.PretextTask, Evaluator or Source and give it a `name`" + _elsewhere(module)
        )
    _IMPORTED[module_name], _HELPERS[module_name] = sources, (helpers, later)
    return registered


def _refuse_mixed(module_name: str, file: Path, helpers: dict[str, Path], later: set[str]) -> None:
    """Refuse a plugin where a function, its own or another plugin's, would get the other's local module of the same
    name: Python knows one at a time."""
    for other, (held, held_later) in _HELPERS.items():
        if other == module_name or other not in sys.modules:
            continue
        for name, file_here in helpers.items():
            if held.get(name, file_here) != file_here and any(
                imported == name or imported.startswith(f"{name}.") for imported in later | held_later
            ):
                raise SpecError(
                    f"plugin {str(file)!r} and {sys.modules[other].__file__!r} import different modules called "
                    f"{name!r} ({file_here} and {held[name]}), "
                    "one of them inside a function, which would get the other's; rename one of them, or import it "
                    "at the top of the file"
                )


def _plugin_file(path: str | Path) -> Path:
    """The file behind a plugin's path. Raises SpecError for what is none."""
    given = Path(path).expanduser()
    file = given.resolve()
    if file.is_dir():
        inside = sorted(inner.name for inner in file.glob("*.py"))[:5]
        raise SpecError(
            f"plugin {str(path)!r} is a folder; name a file in it" + (f": {', '.join(inside)}" if inside else "")
        )
    if not file.exists():
        link = f" (a link to {file})" if given.is_symlink() else ""
        raise SpecError(f"plugin file {str(path)!r} does not exist{link}")
    if not file.is_file():
        raise SpecError(
            f"plugin {str(path)!r} is not a file that could be read to its end (a pipe, a socket or a device)"
        )
    if given.suffix != ".py" and file.suffix != ".py":
        raise SpecError(f"plugin {str(path)!r} is not a Python file; it must end in .py")
    return file


def _import(module_name: str, file: Path, text: bytes, path: str | Path) -> None:
    """Run a plugin's file as a module. Raises SpecError for whatever it raises; what it prints goes to the error
    stream."""
    from ssl_bench.system.global_state import changed, restored

    spec = importlib.util.spec_from_loader(module_name, SourceFileLoader(module_name, str(file)), origin=str(file))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[module_name] = module
    told = ""
    try:
        with restored(lasting=False) as before, contextlib.redirect_stdout(sys.stderr):
            # not from __pycache__, which misses an edit within the same second
            exec(compile(text, str(file), "exec"), vars(module))
            told = changed(before, lasting=False)
    except BaseException as error:
        _forget(module_name)
        if is_interruption(error):
            raise
        where = "" if isinstance(error, SyntaxError) else place_of(error)
        if "relative import" in text_of(error):
            where += "; a plugin is a file by itself: import a file beside it by its plain name"
        if isinstance(error, SystemExit):
            raise SpecError(
                f"plugin {str(path)!r} ends the program when it is imported{where}; put that below `if __name__ == "
                "'__main__':`"
            ) from error
        raise SpecError(
            f"plugin {str(path)!r} cannot be imported: {type(error).__name__}: {text_of(error)}{where}"
        ) from error
    if told:
        _forget(module_name)
        raise SpecError(
            f"plugin {str(path)!r} changes {told} for the whole program when it is imported, which every other row "
            "would feel; remove that"
        )


def _forget(module_name: str) -> None:
    sys.modules.pop(module_name, None)
    _IMPORTED.pop(module_name, None)
    _HELPERS.pop(module_name, None)
    for registry in _REGISTRIES:
        registry.forget(module_name)


def _is_mixin(member: type, base: type, kind: str) -> bool:
    """A class without a name of its own that others of its file derive from, or that leaves the contract's methods to
    them."""
    module = sys.modules[member.__module__]
    derived = any(
        isinstance(other, type) and other is not member and issubclass(other, member) for other in vars(module).values()
    )
    required = {
        "task": ("views", "forward"), "evaluator": ("evaluate",), "source": ("open", "open_boxes"), "network": ("forward",)
    }[kind]  # fmt: skip
    return derived or hasattr(member, "name") or all(getattr(member, name) is getattr(base, name) for name in required)


def _elsewhere(module: Any) -> str:
    """The tasks, evaluators and sources that a plugin imports, where it defines none itself."""
    bases = tuple(_load(registry._base) for registry in _REGISTRIES)
    members = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, bases) and value not in bases
    ]
    members = [member for member in members if not member.__module__.startswith("ssl_bench.")]
    if not members:
        return ""
    return (
        f"; it imports {members[0].__name__} from {members[0].__module__!r}: give that file as a plugin, or "
        "derive a class from it here"
    )


def identity(registry: Registry[Any], name: str) -> dict[str, Any]:
    """What of a member's code belongs to a cell's id.

    Built-ins carry a version that is raised when a change can change a number. A plugin's author cannot be asked to do
    that, so its source counts by its syntax tree: comments and layout are free, anything else makes a new cell.
    """
    member: Any = registry.get(name)
    facts: dict[str, Any] = {"name": member.name, "version": int(getattr(member, "version", 1))}
    if members := getattr(member, "members", ()):
        facts["members"] = [identity(registry, part.name) for part in members]
    elif not registry.is_builtin(name):
        facts["code"] = _code_of(member)
    return facts


@functools.cache  # as it was when it was imported: a file edited later is not what runs
def _code_of(member: Any) -> str:
    """Hash over the source of a class and its bases: their files, the local modules that these import, and all of an
    installed package."""
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
                f"the source of {owner.__qualname__} cannot be found, so its results could not be told from those "
                "of another version; "
                "define it in a file"
            )
        package = getattr(sys.modules.get(top), "__file__", None)
        if package is not None and Path(package).name == "__init__.py":
            folder = Path(package).parent
            files |= {f"{top}/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*.py")}
        else:
            files[owner.__module__] = Path(source)
    roots = [
        (name.removesuffix(".py").removesuffix("/__init__").replace("/", "."), file) for name, file in files.items()
    ]
    known = {file.resolve() for file in files.values()}
    roots = [root for root in roots if not is_installed(root[1])]
    held = [
        module_file
        for name, _ in roots
        if name in sys.modules
        for module_file in local_files_in(sys.modules[name]).items()
    ]
    imported = dict(held) | {
        name: file for name, file in local_modules([*roots, *held], LOCAL.text_of).items() if file.is_file()
    }
    files |= {f"import {name}": file for name, file in imported.items() if file.resolve() not in known}
    trees = [plain(tree_of(LOCAL.text_of(file), file)) for file in files.values()]
    return hashlib.sha256("\0".join(sorted(trees)).encode()).hexdigest()[:16]
