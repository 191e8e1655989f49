"""One small typed registry for tasks, evaluators, sources and networks: built-ins, installed packages, what plugin
files add."""

from __future__ import annotations

import ast
import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from ssl_bench.errors import SpecError, did_you_mean, text_of
from ssl_bench.plugins.contracts import contract_problem
from ssl_bench.system.interruption import is_interruption

T = TypeVar("T")


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

    @property
    def base(self) -> type[T]:
        """The class that every member derives from."""
        base: type[T] = _load(self._base)
        return base

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
            raise SpecError(f"{self.kind} class {member.__name__} {contract_problem(member, self.base, self.kind)}")
        if self._combine is not None and "+" in name:
            raise SpecError(
                f"{member.__name__} is named {name!r}; the plus sign combines {self.kind}s, choose another name"
            )
        self._checked(member, name)
        held = self._added.get(name)
        if name in self._builtin or name in self._installed() or (held is not None and held is not member):
            holder = f" ({_where(held)})" if held is not None else ""
            raise SpecError(
                f"{'a' if self.kind[0] not in 'aeiou' else 'an'} {self.kind} named {name!r} exists already{holder}; "
                f"choose another `name` for {_where(member)}"
            )
        self._added[name] = member
        return member

    def forget(self, module: str) -> None:
        """Drop what one module has added."""
        self._added = {name: member for name, member in self._added.items() if member.__module__ != module}

    def _checked(self, member: Any, name: str) -> type[T]:
        base = self.base
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
            and (told := contract_problem(member, base, self.kind))
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
        "finetune": "ssl_bench.evaluators.finetune.evaluator:Finetune",
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

OPERATIONS: Registry[Any] = Registry(
    "operation",
    "ssl_bench.transforms.policy:Augmentation",
    "ssl_bench.operations",
    {
        "crop": "ssl_bench.transforms.policy:Crop",
        "flip": "ssl_bench.transforms.policy:Flip",
        "jitter": "ssl_bench.transforms.policy:Jitter",
        "grayscale": "ssl_bench.transforms.policy:Grayscale",
        "blur": "ssl_bench.transforms.policy:Blur",
    },
)

REGISTRIES = (TASKS, EVALUATORS, SOURCES, NETWORKS, OPERATIONS)  # whose members a plugin may define
