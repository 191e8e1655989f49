"""What the loop trains: pretext tasks, and the classifiers and detectors that evaluators train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn


class Trainable(nn.Module):
    """Views of a batch, a loss of the views, and what happens around a step.

    Attributes
    ----------
    backbone : the network, whose first layers images enter.
    progress : share of the run that is done, set by the loop before every step.
    """

    name: ClassVar[str]
    phases: ClassVar[tuple[str, ...]] = ("main",)  #: one optimiser and one recipe each, see ``phases_at``
    divides: int = 1  #: into how many parts it divides the images of a batch

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.progress = 0.0

    def views(self, batch: Any) -> Any:
        """Whole-batch views, without gradient: ``batch.images`` is float [B, 3, H, W] in [0, 1].

        Returns any tree of tensors.

        With several phases, ``views(batch, phase)`` gives each its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must define views(self, batch)")

    def forward(self, views: Any, phase: str = "main") -> dict[str, Tensor]:
        """Views to ``{"loss": scalar, ...}``; further scalars (``accuracy``) enter the curves.

        A task of one phase may leave ``phase`` out of its signature.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, views)")

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        """The named parameters that a phase's optimiser steps; all of them unless overridden."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def phases_at(self, step: int, steps: int) -> Sequence[str]:
        """The phases that the loop's step ``step`` of ``steps`` goes through, in order: all of them unless overridden.

        A phase named twice takes two optimiser steps, each with views of its own from the same batch. Its learning rate
        follows its own steps. What is returned depends on nothing but the arguments and the options, so that an
        interrupted run goes on as it was.

        >>> ("critic",) * 5 + ("generator",)  # five steps of the critic for each of the generator
        >>> ("layer1",) if step < steps // 2 else ("layer2",)  # one after the other
        """
        return self.phases

    def before_training(self) -> None:
        """Called once before the first step of a run, and not when one goes on from a checkpoint: what is measured on
        the network as it starts."""

    def before_step(self) -> None:
        """Called between backward and every optimiser step, before gradients are clipped: change or remove gradients
        where they are.

        ``parameter.grad = None`` leaves a parameter as it is in this step; a zero gradient would still let it decay.
        With several phases, ``before_step(phase)``.
        """

    def after_step(self) -> None:
        """Called after every optimiser step: momentum networks, queues, projections.

        With several phases, ``after_step(phase)``.
        """

    def evaluated(self) -> nn.Module:
        """The backbone to judge."""
        return self.backbone
