"""What a pretext task is: options, views, a loss. Everything else has a default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError
from ssl_bench.records.bounds import alarm_of
from ssl_bench.spec.model import Model
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.training.trainable import Trainable

ROW_KEYS = {"row", "task", "options", "recipe", "init"}  # of a row of a matrix, beside the task's options
LONG_RUN_STEPS = 20_000  # below this a recipe written for hundreds of epochs ranks optimisers, not tasks
PART_VALUES = 1 << 24  # pixel values (64 MiB) that stand in memory at once where a sample is gone through in parts


class TaskOptions(Model):
    """Base of a task's options: typed, documented (``#:`` comments or Field descriptions), validated, part of the
    cell's id.

    An option may have the name of a setting of training, such as ``momentum``. A row then says which it means:
    ``options: {momentum: 0.99}`` or ``recipe: {momentum: 0.9}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        taken = sorted(ROW_KEYS & set(cls.model_fields))
        if taken:
            raise SpecError(
                f"option {taken[0]!r} of {cls.__qualname__} has the name of a key that every row may have; choose "
                "another"
            )


@dataclass(frozen=True)
class Setup:
    """What a task may know about its run when it is built.

    ``sample(n)`` gives the same n pretraining images every time, float [n, 3, S, S] in [0, 1], in mixed order, without
    labels (fewer when the set is smaller); ``sample_part(start, stop)`` some of them. ``num_classes`` is None unless
    the task declares ``uses_labels``.
    """

    image_size: int
    steps: int
    batch_size: int
    num_images: int
    num_classes: int | None
    sample: Callable[[int], Tensor]
    sample_part: Callable[[int, int], Tensor] | None = None

    def parts(self, count: int, images: int | None = None) -> Iterator[Tensor]:
        """``sample(count)`` in parts of ``images`` (None: as many as take 64 MiB), so that large ones never fill the
        memory."""
        images = images or part_images(self.image_size)
        if self.sample_part is None:
            yield from self.sample(count).split(images)
        else:
            yield from parts_of(self.sample_part, count, images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Setup:
        return self  # a copy of a task must not copy the images behind ``sample``


@dataclass(frozen=True)
class Health:
    """A number that tells whether training went well, and its bounds; None: none on that side."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def alarm(self) -> str:
        """What is wrong, in words; "" where the value is within its bounds."""
        return alarm_of(self.value, self.low, self.high)


def part_images(image_size: int) -> int:
    """How many images of a side are gone through at once."""
    return max(1, PART_VALUES // (3 * image_size**2))


def parts_of(sample_part: Callable[[int, int], Tensor], count: int, images: int) -> Iterator[Tensor]:
    """``count`` images, ``images`` at a time, as far as there are any."""
    for start in range(0, count, images):
        part = sample_part(start, min(start + images, count))
        if len(part):
            yield part


class PretextTask(Trainable):
    """Base class of every pretext task and baseline.

    A subclass sets ``name``, writes ``views`` and ``forward``, and usually ``__init__`` (heads) and ``Options``. How it
    is trained, in which phases and with which hooks, is inherited from ``Trainable``. It may use torch's ordinary
    random functions anywhere: the loop seeds them per step, so a resumed run equals an uninterrupted one.
    """

    version: ClassVar[int] = 1  #: raise it when a change can change a number
    paper: ClassVar[str] = ""  #: where the method comes from, as captions print it
    Options: ClassVar[type[TaskOptions]] = TaskOptions
    #: labels reach a batch only where this is set; the row is then marked everywhere
    uses_labels: ClassVar[bool] = False
    columns: ClassVar[frozenset[str]] = frozenset()  #: extra data columns that ``batch.extra`` must hold
    #: "pretext", or what else its rows are: "control", "untrained", "pretrained", "features" (see TaskRole)
    role: ClassVar[TaskRole] = TaskRole.PRETEXT
    parts: ClassVar[
        tuple[str, ...]
    ] = ()  #: of what it sees (a modality, half of an image), each of which ``codes`` can do without
    reads_borders: ClassVar[bool] = False  #: True: the black bars that `fit: pad` adds would give the answer away
    min_image_size: ClassVar[int] = 1
    short_learning_rate: ClassVar[float] = 1e-3  #: chosen on validation, see benchmarks/short_learning_rates.yaml

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.role in TaskRole.__members__.values():  # written as text; anything else is refused when it is registered
            cls.role = TaskRole(cls.role)

    def __init__(self, backbone: nn.Module, options: TaskOptions, setup: Setup) -> None:
        super().__init__(backbone)
        self.options: Any = options
        self.setup = setup

    @classmethod
    def recipe(cls, options: Any, image_size: int, steps: int) -> Recipe:
        """How to optimise: ``steps`` is the length of the run at 256 images a step."""
        return (
            cls.paper_recipe(options, image_size) if steps >= LONG_RUN_STEPS else cls.short_recipe(options, image_size)
        )

    @classmethod
    def phase_recipe(cls, phase: str, recipe: Recipe, options: Any) -> Recipe:
        """The recipe of one of several phases, made from the row's, which holds for all of them unless this is
        overridden.

        ``recipe.model_copy(update={...})`` changes some settings; batch_size stays, because phases share a batch.
        """
        return recipe

    @classmethod
    def short_recipe(cls, options: Any, image_size: int) -> Recipe:
        """The same optimiser for every task where runs are short; only the learning rate is the task's own."""
        return Recipe(
            optimizer="adamw", learning_rate=cls.short_learning_rate, weight_decay=0.01, batch_size=128, warmup=0.1
        )

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """The published setting for long runs; the short one unless a task overrides it."""
        return cls.short_recipe(options, image_size)

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """``make()`` gives the matrix's backbone, ``make(input=KIND)`` one that sees another kind of input,
        ``make(width=0.5)`` one half as wide.

        Override it for another network than the matrix's; for another input alone, override ``network_input``.
        """
        return make(input=cls.network_input(options))

    @classmethod
    def network_input(cls, options: Any) -> str:
        """The kind of input that the matrix's backbone sees: "rgb", "lightness", "standardised", or one of
        ``input_kind``."""
        return "rgb"

    @classmethod
    def weights_needed(cls, options: Any) -> Sequence[str]:
        """The pretrained weights ("timm:NAME", "file:PATH") that these options need beside ``init``; a plan downloads
        none and leaves the row out."""
        return ()

    @classmethod
    def resolve(cls, options: Any, make: Callable[..., nn.Module]) -> Any:
        """The options with everything filled in that they stand for and that decides the result, such as the digest of
        a file."""
        return options

    @classmethod
    def saw_labels(cls, options: Any) -> bool:
        """Whether labels are in a row of these options: it is then marked, and takes no part in comparisons."""
        return cls.uses_labels

    @classmethod
    def check(cls, options: Any, images: Any) -> None:
        """Refuse data that cannot work (DataError), before any training: ``images`` is the pretraining ImageSet."""

    def chance_loss(self) -> float | None:
        """The loss of a guess, where it is known; combinations scale by it."""
        return None

    def chance_accuracy(self) -> float | None:
        """The accuracy of a guess, where the task reports an accuracy that noise cannot raise."""
        return None

    def codes(self, images: Tensor) -> Mapping[str, Tensor]:
        """Other representations to probe beside the backbone's: name -> [B, D].

        A task with ``parts`` defines ``codes(self, images, missing=frozenset())``: the codes of images of which some
        parts are not given.
        """
        return {}

    def decode(self, code: Tensor) -> Tensor:
        """A code, as ``codes`` gives one, [B, D], to RGB [B, 3, H, W] in [0, 1]. Optional."""
        raise NotImplementedError(f"{self.name} decodes nothing")

    def sample(self, count: int) -> Tensor:
        """Images drawn from what was learned, RGB [count, 3, H, W] in [0, 1]. Optional."""
        raise NotImplementedError(f"{self.name} draws no images")

    def health(self) -> Mapping[str, Health]:
        """Signs of a training gone wrong, by name: a value after training,
        and the bounds outside of which it is told."""
        return {}

    @classmethod
    def offers(cls) -> frozenset[str]:
        """What an evaluator may ask of it beside the network: of "codes", "missing" (parts), "decode" and "sample"."""
        defined = {
            name for name in ("codes", "decode", "sample") if getattr(cls, name) is not getattr(PretextTask, name)
        }
        return frozenset(defined | {"missing"} if cls.parts else defined)

    def describe(self) -> Mapping[str, Any]:
        """Facts about the built task worth printing and recording, such as the size of a code."""
        return {}

    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        """Label-free facts about the trained task on validation images, such as the active units of a VAE."""
        return {}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures for ``ssl-bench preview``: caption -> float [N, 3, H, W] in [0, 1], in the order in which they are
        read.

        Captions begin with "sees: ", "is asked: " or "answers: ". Called in eval mode.
        """
        return {"sees: images": batch.images}
