"""What a task is to a table: whether it trains, and what becomes of the network that is judged."""

from __future__ import annotations

from enum import Enum


class TaskRole(str, Enum):
    """The role of a task's rows, written as text: ``role = "features"``."""

    PRETEXT = "pretext"  #: trains the network that is judged
    CONTROL = "control"  #: trains, while the network that is judged must stay as it starts
    UNTRAINED = "untrained"  #: judged as initialised; its fine-tuning gets a second, longer run
    PRETRAINED = "pretrained"  #: trained elsewhere, judged as it comes
    FEATURES = "features"  #: no network that could be fine-tuned (pixels, PCA)

    @property
    def trains(self) -> bool:
        """Whether a cell of it has a training run."""
        return self in (TaskRole.PRETEXT, TaskRole.CONTROL)

    @property
    def fine_tunes(self) -> bool:
        """Whether what is judged can be trained further."""
        return self is not TaskRole.FEATURES


#: flags of earlier versions -> the role to write instead
FORMER_FLAGS = {
    "trains": 'role = "untrained", "pretrained" or "features"',
    "frozen_backbone": 'role = "control"',
    "untrained": 'role = "untrained"',
    "trainable": 'role = "features"',
}
