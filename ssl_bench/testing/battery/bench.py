"""What the battery stands on: a task built small, embedded images, and calls whose errors name the place."""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch, Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.data.sources.shapes import render
from ssl_bench.errors import DataError, SpecError, SSLBenchError, text_of
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.spec.recipe import Recipe
from ssl_bench.system.interruption import is_interruption
from ssl_bench.tasks.base import PretextTask, Setup
from ssl_bench.training.phases import call_in_phase, forward_in_phase
from ssl_bench.training.seeding import seed_everything

BATCH = 32
IMAGES = 512
STEPS = 80  #: of the short run that has to lower the loss
WIDTHS = (0.125, 0.25, 0.5, 1.0)  #: the first at which every network of the task has layers wide enough
SMALLEST_SHAPES = 32  #: pixels; for smaller images these are averaged down
BACKBONE = "resnet10t"  #: half the layers of ResNet-18; on so few images a step costs what its calls cost


class CheckFailed(SSLBenchError, AssertionError):
    """A check that a task does not pass; the message says what to do."""


class CheckWarning(UserWarning):
    """Something worth a look that is not wrong."""


class NotApplicable(Exception):
    """A check that says nothing about this task."""


@dataclass(frozen=True)
class Check:
    """A check: its name, what it holds a task to, and the function that returns what it saw or raises."""

    name: str
    about: str
    run: Callable[[Any], str]
    needs: tuple[str, ...] = ()  #: checks without whose pass this one says nothing; their needs are its own too
    quick: bool = False  #: made before a plugin's task trains in a run


class Bench:
    """One task with its options, built on a narrow ResNet-10 and fed with embedded shapes.

    Parameters
    ----------
    task : the class under check.
    options : options that differ from the defaults.
    image_size : side of the images; the smallest the task allows, at least 32, when None.
    """

    def __init__(self, task: type[PretextTask], options: Mapping[str, Any] | None, image_size: int | None) -> None:
        self.task, self._options = task, dict(options or {})
        self.name = str(getattr(task, "name", task.__name__))
        self.size = image_size or max(32, task.min_image_size)

    @cached_property
    def options(self) -> Any:
        """The validated options."""
        return parse(self.task.Options, self._options, f"task {self.name!r}")

    @cached_property
    def images(self) -> ImageSet:
        """Embedded shapes, with labels and columns; what of them reaches the task is decided by ``batches``."""
        return _embedded_shapes(self.size)

    def batches(self, count: int = BATCH) -> Batches:
        """Training batches that hold what the task declares and no more."""
        try:
            return Batches(self.images, count, seed=0, labels=self.task.uses_labels, columns=self.task.columns)
        except DataError as error:
            raise NotApplicable(f"the embedded shapes cannot feed this task: {error}") from None

    def batch(self, count: int = BATCH) -> Batch:
        """The first training batch; a copy of its own at every call."""
        return self.batches(count).batch(0)

    def images_only(self, count: int) -> Tensor:
        """The first images, float [count, 3, S, S] in [0, 1]."""
        return self.batch(count).images

    @cached_property
    def width(self) -> float:
        """Of the matrix's network: the narrowest at which the task can be given networks as narrow as it asks for, such
        as half as wide."""
        for width in WIDTHS:
            try:
                with seeded(0):
                    self.task.build_backbone(partial(self._make, BACKBONE, width), self.options)
            except SpecError:  # a layer without channels
                continue
            except Exception:  # told when it is built
                break
            return width
        return WIDTHS[0]

    def _make(
        self, backbone: str, matrix_width: float, /, input: Any = "rgb", width: float = 1.0, **changes: Any
    ) -> Backbone:
        """What a task is given as ``make``: a network of a share of the matrix's width."""
        return self.network(input, backbone, matrix_width * width, **changes)

    def network(
        self, input: Any = "rgb", backbone: str = BACKBONE, width: float | None = None, **changes: Any
    ) -> Backbone:
        """A backbone as a matrix would give it, narrow; decided by the seed last set, and drawn without moving the
        random state."""
        width = self.width if width is None else width
        stride: Any = 2 if self.size <= 96 else None
        spec = BackboneSpec(name=backbone, width=width, stem_stride=stride, **changes)
        return copy.deepcopy(_fresh_backbone(spec, self.size, InputSpec(kind=input), torch.initial_seed()))

    def build(
        self,
        seed: int = 0,
        backbone: str = BACKBONE,
        width: float | None = None,
        batch_size: int = BATCH,
        begin: bool = True,
    ) -> PretextTask:
        """The task as a run would build it, in training mode.

        ``begin``: False leaves ``before_training`` to the loop.
        """

        make = partial(self._make, backbone, self.width if width is None else width)

        def sample(count: int) -> Tensor:
            return self.batches(1).store.gather(torch.arange(min(count, len(self.images))))

        classes = len(self.images.classes) if self.task.uses_labels else None
        setup = Setup(self.size, STEPS, batch_size, len(self.images), classes, sample)
        with seeded(seed), self.calling("building it"):
            built = self.task(self.task.build_backbone(make, self.options), self.options, setup).train()
        if self.task.role.trains and begin:
            with seeded(seed, 1), self.calling("before_training"):
                built.before_training()
        return built

    def views(self, task: PretextTask, batch: Batch, seed: int, phase: int = 0) -> Any:
        """``task.views(batch)``, or those of a phase, drawn from a seed."""
        with seeded(seed, phase), torch.no_grad(), self.calling("views"):
            return call_in_phase(task, "views", task.phases[phase], batch)

    def losses(self, task: PretextTask, batch: Batch, seed: int) -> list[dict[str, Tensor]]:
        """What ``forward`` returns in every phase, all draws decided by a seed."""
        return [self.losses_of_phase(task, batch, seed, number) for number in range(len(task.phases))]

    def losses_of_phase(self, task: PretextTask, batch: Batch, seed: int, number: int) -> dict[str, Tensor]:
        """What ``forward`` returns in one phase."""
        views = self.views(task, batch, seed, number)
        with seeded(seed, number, 1), self.calling("forward"):
            return forward_in_phase(task, views, task.phases[number])

    def step(self, task: PretextTask, batch: Batch, seed: int) -> None:
        """Everything that a step of the loop calls, without an optimiser."""
        for number, phase in enumerate(task.phases):
            losses = self.losses_of_phase(task, batch, seed, number)
            if losses["loss"].requires_grad:
                losses["loss"].backward()
                with self.calling("before_step"):
                    call_in_phase(task, "before_step", phase)
            with self.calling("after_step"):
                call_in_phase(task, "after_step", phase)

    def total(self, task: PretextTask, batch: Batch, seed: int) -> Tensor:
        """The losses of all phases, added up."""
        return torch.stack([losses["loss"] for losses in self.losses(task, batch, seed)]).sum()

    def recipe(self, batch_size: int = BATCH) -> Recipe:
        """The task's own recipe for a short run."""
        return self.task.recipe(self.options, self.size, STEPS).model_copy(update={"batch_size": batch_size})

    def recipes(self, batch_size: int = BATCH) -> dict[str, Recipe]:
        """``recipe``, as each phase changes it."""
        recipe = self.recipe(batch_size)
        if len(self.task.phases) == 1:
            return {self.task.phases[0]: recipe}
        with self.calling("phase_recipe"):
            return {phase: self.task.phase_recipe(phase, recipe, self.options) for phase in self.task.phases}

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """An error of the task's own code becomes a failed check that names the line."""
        try:
            yield
        except (CheckFailed, NotApplicable):
            raise
        except BaseException as error:
            if is_interruption(error):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            outside = [f for f in frames if f.filename != __file__ and "torch" not in f.filename.split("/")] or list(
                frames
            )
            where = self.own_line(error) or f"{outside[-1].filename}, line {outside[-1].lineno}"
            raise CheckFailed(f"{what} raised {type(error).__name__}: {text_of(error)} ({where})") from error

    def own_line(self, error: BaseException) -> str:
        """The last line of the task's own files that an error came through; "" where it was in none."""
        classes = [
            base
            for task in (self.task, *getattr(self.task, "members", ()))
            for base in task.__mro__[: task.__mro__.index(PretextTask)]
        ]
        files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in classes}
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else ""


@lru_cache(maxsize=4)
def _embedded_shapes(size: int) -> ImageSet:
    rendered = render("train", max(size, SMALLEST_SHAPES), IMAGES)
    images = rendered.images
    if size < SMALLEST_SHAPES:
        smaller = nn.functional.adaptive_avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2).float(), size)
        images = smaller.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return ImageSet(
        images,
        np.arange(IMAGES),
        rendered.labels,
        rendered.classes,
        "shapes",
        f"shapes-{size}-{IMAGES}",
        rendered.columns,
    )


@lru_cache(maxsize=16)
def _fresh_backbone(spec: BackboneSpec, size: int, input: InputSpec, seed: int) -> Backbone:
    """A check builds its task many times, and most of that would be timm's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(spec, size, input)


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Draws decided by some integers; the random state of whoever calls is left as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_everything(*parts)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def tensors(views: Any) -> list[Tensor]:
    """The tensors of a tree of views, in order."""
    return [leaf for leaf in tree_leaves(views) if isinstance(leaf, Tensor)]


def repeated(batch: Batch) -> Batch:
    """A batch whose images are all the same one, and whose extras are too."""
    extra = {name: column[:1].expand_as(column).clone() for name, column in batch.extra.items()}
    return replace(
        batch,
        images=batch.images[:1].expand_as(batch.images).contiguous(memory_format=torch.channels_last),
        extra=extra,
    )


class Forbidden:
    """Stands where labels would be, and refuses to be used."""

    def __init__(self, message: str) -> None:
        object.__setattr__(self, "_message", message)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise CheckFailed(object.__getattribute__(self, "_message"))

    __getattr__ = __getitem__ = __len__ = __iter__ = __bool__ = __index__ = __float__ = __int__ = __array__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __invert__ = __and__ = __or__ = __xor__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = _refuse
    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        next(arg for arg in (*tree_leaves(args), *tree_leaves(kwargs)) if isinstance(arg, cls))._refuse()


class DeclaredOnly(dict[str, Tensor]):
    """Extra columns of a batch; one that was not declared is refused in words."""

    def __missing__(self, name: str) -> NoReturn:
        raise CheckFailed(
            f"batch.extra[{name!r}] is read but not declared; set columns = frozenset({{{name!r}}}) on the class"
        )


class NoiseBatches:
    """Fresh noise for every step, uniform in [0, 1] and independent of everything, in place of images.

    Declared labels and columns are drawn from the real set, apart from the images, so they say nothing either.
    """

    def __init__(self, bench: Bench, batch_size: int, seed: int) -> None:
        self.batch_size, self._real, self._size, self._seed, self._count = (
            batch_size,
            bench.batches(batch_size),
            bench.size,
            seed,
            len(bench.images),
        )

    def batch(self, step: int) -> Batch:
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        images = torch.rand(self.batch_size, 3, self._size, self._size, generator=draw).contiguous(
            memory_format=torch.channels_last
        )
        # a task may have a row for every image
        index = (torch.arange(self.batch_size) + step * self.batch_size) % self._count
        return replace(self._real.batch(step), images=images, index=index)
