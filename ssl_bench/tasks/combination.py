"""Several tasks on one network (Doersch & Zisserman, 2017, arXiv:1708.07860): written ``a+b``, and a task like any
other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssl_bench.backbones.inputs import keeps_most
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import Health, PretextTask, Setup, TaskOptions
from ssl_bench.transforms.lab import lightness

FIRST_BATCHES = 20  # over which a loss is measured that does not know what a guess costs


class Combination(PretextTask):
    """Train one network on several tasks at once: the sum of their losses, each divided by what a guess costs (Doersch
    & Zisserman, 2017).

    Every member has its own views, head, input handling and forward pass (so its own batch statistics); weights are
    shared. It is judged with the members' input handling that keeps most of an image: colour, else each image
    standardised, else lightness.
    """

    paper = "Doersch, Zisserman: Multi-task Self-Supervised Visual Learning, 2017, arXiv:1708.07860"
    members: ClassVar[tuple[type[PretextTask], ...]] = ()
    scales: Tensor

    class Options(TaskOptions):
        """Options of a combination; each member's own stand under its name."""

        #: each: every member sees every image; split: the images of a batch are divided among the members
        images: Literal["each", "split"] = "each"
        #: all members see lightness, repeated three times, so that the input does not tell the task
        harmonise: bool = False

    def __init__(self, backbone: nn.Module, options: Any, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.divides = len(self.members) if options.images == "split" else 1
        shares = [
            len(range(setup.batch_size)[self._part(number, setup.batch_size)]) for number in range(len(self.members))
        ]
        if min(shares) < 2:
            raise SpecError(
                f"{self.name}: batch_size must be at least {2 * len(self.members)}, two images a member, got "
                f"{setup.batch_size}"
            )
        self.tasks = nn.ModuleList()
        for number, member in enumerate(self.members):
            member_setup = replace(
                setup, batch_size=shares[number], num_classes=setup.num_classes if member.uses_labels else None
            )
            self.tasks.append(
                member(self.backbone.member_backbones[number], getattr(options, member.name), member_setup)
            )
        self.register_buffer("scales", torch.tensor([self._known_scale(task) for task in self.tasks]))
        self.register_state_dict_post_hook(_store_once)
        self.register_load_state_dict_pre_hook(_load_everywhere)

    @classmethod
    def build_backbone(cls, make: Callable[..., nn.Module], options: Any) -> nn.Module:
        """The matrix's network, and a backbone with the input of every member on it."""
        kinds = [input_of(member, getattr(options, member.name)) for member in cls.members]
        best = "lightness" if options.harmonise else keeps_most(kinds)
        judged = make(input=best)
        assert isinstance(judged, Backbone)
        members: list[Backbone] = []
        for kind in kinds:
            # A member that standardises tiles or crops by itself passes by its backbone's input, and is given lightness
            # in their
            # place (_seen_by).
            harmonised = options.harmonise and kind != "standardised"
            members.append(judged.with_input(judged.input if harmonised else make(input=kind).input))  # type: ignore[arg-type]
        return _SharedNetwork(judged, members)

    @classmethod
    def resolve(cls, options: Any, make: Callable[..., nn.Module]) -> Any:
        """The options with each member's resolved."""
        return options.model_copy(
            update={member.name: member.resolve(getattr(options, member.name), make) for member in cls.members}
        )

    @classmethod
    def weights_needed(cls, options: Any) -> list[str]:
        """What any of the members needs."""
        return [weights for m in cls.members for weights in m.weights_needed(getattr(options, m.name))]

    @classmethod
    def saw_labels(cls, options: Any) -> bool:
        """Whether any of the members did."""
        return any(member.saw_labels(getattr(options, member.name)) for member in cls.members)

    @classmethod
    def offers(cls) -> frozenset[str]:
        """Codes and parts of all members under their names; ``decode`` and ``sample`` where one member alone has them,
        because neither says which of several is meant."""
        offered = [need for member in cls.members for need in member.offers()]
        return frozenset(need for need in offered if need in ("codes", "missing") or offered.count(need) == 1)

    @classmethod
    def check(cls, options: Any, images: Any) -> None:
        """Everything that one of the members refuses."""
        for member in cls.members:
            member_options = getattr(options, member.name)
            input_of(member, member_options)
            member.check(member_options, images)

    @classmethod
    def short_recipe(cls, options: Any, image_size: int) -> Recipe:
        """AdamW as for every task, at the geometric mean of the members' learning rates."""
        rate = math.exp(sum(math.log(member.short_learning_rate) for member in cls.members) / len(cls.members))
        return super().short_recipe(options, image_size).model_copy(update={"learning_rate": float(f"{rate:.2g}")})

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """SGD with momentum 0.9, 0.1 at batch 256, decay 1e-4, cosine (suite choice; the paper's RMSProp served 64
        asynchronous workers)."""
        return Recipe(
            optimizer="sgd",
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            batch_size=256,
            warmup=0.05,
            schedule="cosine",
        )

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        """Whatever one of the members would train, once."""
        parameters: dict[int, tuple[str, nn.Parameter]] = {}
        for number, task in enumerate(self.tasks):
            for name, parameter in task.phase_parameters(phase):  # type: ignore[operator]
                parameters.setdefault(id(parameter), (f"tasks.{number}.{name}", parameter))
        return list(parameters.values())

    def views(self, batch: Batch) -> tuple[Any, ...]:
        """The views of every member."""
        parts = []
        for number, task in enumerate(self.tasks):
            task.progress = self.progress  # type: ignore[assignment]
            parts.append(task.views(self._batch_of(number, batch, self._part(number, len(batch)))))  # type: ignore[operator]
        return tuple(parts)

    def forward(self, views: tuple[Any, ...], phase: str = "main") -> dict[str, Tensor]:
        """One forward a member; ``loss`` and whatever each member reports, as NAME/loss."""
        reports: dict[str, Tensor] = {}
        total = self.scales.new_zeros(())
        for number, (task, member_views) in enumerate(zip(self.tasks, views, strict=True)):
            reported = task(member_views)
            # not measured yet: only what a step costs is asked
            total = total + reported["loss"] / self.scales[number].nan_to_num(1.0)
            reports |= {f"{self.members[number].name}/{name}": value for name, value in reported.items()}
        return {"loss": total, **reports}

    def before_training(self) -> None:
        """Measure the losses of those members that do not know what a guess costs."""
        for number, task in enumerate(self.tasks):
            task.before_training()  # type: ignore[operator]
            if self.scales[number].isnan():
                self.scales[number] = self._measured_scale(number, task)

    def before_step(self) -> None:
        for task in self.tasks:
            task.before_step()  # type: ignore[operator]

    def after_step(self) -> None:
        for task in self.tasks:
            task.after_step()  # type: ignore[operator]

    def chance_loss(self) -> float:
        return float(len(self.tasks))

    def evaluated(self) -> nn.Module:
        """The shared network."""
        return self.backbone.judged  # type: ignore[no-any-return]

    def codes(self, images: Tensor, missing: Collection[str] = frozenset()) -> Mapping[str, Tensor]:
        """The codes of every member as MEMBER/NAME; parts that are missing are named as in ``parts``, MEMBER/PART."""
        if unknown := sorted(set(missing) - set(self.parts)):
            raise SpecError(f"{self.name} has no part {unknown[0]!r}; its parts are {', '.join(self.parts) or 'none'}")

        def codes_of(number: int, task: Any) -> Mapping[str, Tensor]:
            absent = frozenset(part for part in task.parts if f"{task.name}/{part}" in missing)
            seen = self._seen_by(number, images)
            return task.codes(seen, missing=absent) if absent else task.codes(seen)  # type: ignore[no-any-return]

        return self._of_members(codes_of)

    def decode(self, code: Tensor) -> Tensor:
        """As the one member that decodes does."""
        return self._the_one_with("decode").decode(code)  # type: ignore[no-any-return]

    def sample(self, count: int) -> Tensor:
        """As the one member that draws images does."""
        return self._the_one_with("sample").sample(count)  # type: ignore[no-any-return]

    def health(self) -> Mapping[str, Health]:
        """What every member watches over."""
        return self._of_members(lambda number, task: task.health())

    def describe(self) -> Mapping[str, Any]:
        """Each member's facts, and by what its loss is divided, where that is known or measured."""
        scales = [(member.name, float(scale)) for member, scale in zip(self.members, self.scales, strict=True)]
        return {
            f"{name}/loss_divided_by": round(scale, 4) for name, scale in scales if not math.isnan(scale)
        } | self._of_members(lambda number, task: task.describe())

    def diagnose(self, images: Tensor) -> Mapping[str, float]:
        return self._of_members(lambda number, task: task.diagnose(self._seen_by(number, images)))

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """What every member shows."""
        shown: dict[str, Tensor] = {}
        for number, member in enumerate(self.members):
            pictures = self.tasks[number].preview(self._batch_of(number, batch, slice(None)))  # type: ignore[operator]
            shown |= {f"{member.name} {name}": picture for name, picture in pictures.items()}
        return shown

    def _of_members(self, ask: Callable[[int, Any], Mapping[str, Any]]) -> dict[str, Any]:
        return {
            f"{task.name}/{name}": value
            for number, task in enumerate(self.tasks)
            for name, value in ask(number, task).items()
        }

    def _the_one_with(self, method: str) -> Any:
        """The member that has an optional method. Raises SpecError where none or several have."""
        able = [task for task in self.tasks if method in task.offers()]  # type: ignore[operator]
        if not able:
            raise SpecError(f"{self.name}: no member has {method}()")
        if len(able) > 1:
            names = ", ".join(str(task.name) for task in able)
            raise SpecError(
                f"{self.name}: {len(able)} members have {method}() ({names}), and a combination does not know which is "
                "meant; combine only one of them"
            )
        return able[0]

    def _part(self, number: int, count: int) -> slice:
        """Which of ``count`` images are a member's: all, or its part, so that none is left over."""
        return (
            slice(count * number // self.divides, count * (number + 1) // self.divides)
            if self.divides > 1
            else slice(None)
        )

    def _seen_by(self, number: int, images: Tensor) -> Tensor:
        """Images as a member is given them: where lightness is all there is, and the member standardises them itself,
        lightness."""
        if not self.options.harmonise or self.backbone.member_backbones[number].input.kind != "standardised":
            return images
        return (lightness(images) / 100).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _batch_of(self, number: int, batch: Batch, part: slice) -> Batch:
        """What a member may see of a batch: labels and columns as far as it declares them."""
        member = self.members[number]
        labels = batch.labels[part] if member.uses_labels and batch.labels is not None else None
        return Batch(
            self._seen_by(number, batch.images[part]),
            batch.index[part],
            labels,
            {name: batch.extra[name][part] for name in member.columns},
        )

    def _known_scale(self, task: Any) -> float:
        """The loss of a guess; not a number where a member does not know it."""
        known = task.chance_loss()
        if known is not None and known > 0:
            return float(known)
        if task.uses_labels or task.columns:
            raise SpecError(
                f"{self.name}: {task.name} needs a chance_loss(), because without labels and columns its loss cannot "
                "be measured beforehand"
            )
        return math.nan

    def _measured_scale(self, number: int, task: Any) -> float:
        """A member's mean loss over some batches before training."""
        copied = copy.deepcopy(task).train()  # its statistics and queues stay as they are
        size = task.setup.batch_size
        losses: list[float] = []
        for images in self.setup.parts(FIRST_BATCHES * size, size):
            images = images.to(self.scales.device).contiguous(memory_format=torch.channels_last)
            if len(images) == size or not losses:
                batch = Batch(images, torch.arange(len(images), device=images.device))
                with torch.no_grad():
                    losses.append(float(copied(copied.views(self._batch_of(number, batch, slice(None))))["loss"]))
        mean = sum(losses) / len(losses)
        if not (math.isfinite(mean) and mean > 0):
            raise SpecError(
                f"{self.name}: the loss of {task.name} is {mean:g} before training; a positive one is needed to scale "
                "it, or a chance_loss()"
            )
        return mean


class _SharedNetwork(nn.Module):
    """The network that is judged, and the same network as each member sees images."""

    def __init__(self, judged: Backbone, member_backbones: list[Backbone]) -> None:
        super().__init__()
        self.judged, self.member_backbones = judged, nn.ModuleList(member_backbones)


def _aliases(task: Any, prefix: str) -> tuple[str, ...]:
    """Where else the network appears that is stored as that of ``backbone.judged``."""
    return tuple(
        f"{prefix}{place.format(number)}network."
        for number in range(len(task.tasks))
        for place in ("backbone.member_backbones.{}.", "tasks.{}.backbone.")
    )


def _store_once(task: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    aliases = _aliases(task, prefix)
    for key in [key for key in state if key.startswith(aliases)]:
        del state[key]


def _load_everywhere(task: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    judged = f"{prefix}backbone.judged.network."
    for key in [key for key in state if key.startswith(judged)]:
        state.update({alias + key.removeprefix(judged): state[key] for alias in _aliases(task, prefix)})


def input_of(member: type[PretextTask], options: Any) -> str:
    """The input handling that a task asks of the matrix's backbone.

    Raises SpecError where it builds a backbone of its own.
    """
    if member.build_backbone.__func__ is not PretextTask.build_backbone.__func__:  # type: ignore[attr-defined]
        raise SpecError(
            f"{member.name} builds a backbone of its own, so it cannot share one; leave it out of the combination "
            "(a task that wants another input alone declares it in network_input)"
        )
    return member.network_input(options)
