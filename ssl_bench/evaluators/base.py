"""What an evaluator is: it sees a frozen or fine-tunable backbone and labelled splits, and returns measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from ssl_bench.data.images import ImageSet
from ssl_bench.data.places import Places
from ssl_bench.records.declarations import BUILT_IN, EvaluatorDeclaration, Metric, Note, TableColumn
from ssl_bench.spec.model import Model
from ssl_bench.spec.task_role import TaskRole


class EvaluatorOptions(Model):
    """Base of an evaluator's options: typed, documented, validated, part of the evaluation's id."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Measurement:
    """One number: what was measured, on which split, and over how many images."""

    metric: str  #: "top1", "top5", "rankme", ...; accuracies are fractions in [0, 1]
    split: str  #: "validation" or "test"
    value: float
    n: int  #: images behind the value (for binomial intervals)
    stage: str = ""  #: "s1".."s4", "pooled", a code's name; "" where it does not apply
    labels: float = 1.0  #: share of training labels used
    draw: int = 0  #: which draw of that share
    #: "" or a variant of the row that an evaluator adds, such as "longer" for random fine-tuned 3x longer
    row: str = ""
    best: bool = False  #: this stage was chosen on validation as the best of the ResNet's stages
    #: 95 % interval over images, of a value that is no share of images (a bootstrap of mAP, say)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator found; ``details`` must be JSON.

    ``predictions`` are kept for paired tests: name -> integer array [N_test]; or, of a metric that is no share of
    images, ``drawn/METRIC`` -> its values [B] on resamples of the test images, the same resamples for every row and
    seed.
    """

    measurements: list[Measurement]
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[Note] = ()  #: for a reader of the table: shown below it, or above it where they warn


class Features(Protocol):
    """Frozen features of one backbone, extracted once and shared by all frozen evaluators."""

    def names(self) -> list[str]:
        """Stages in order ("s1".."s4"), then "pooled", then codes."""

    def get(self, split: str, name: str) -> Tensor:
        """Float32 [N, D] of split "train", "validation" or "test", on the evaluation device."""


@dataclass
class Subject:
    """What an evaluator is given.

    ``test`` is None until the matrix is final: an evaluator returns validation numbers always and touches test only
    then. ``role`` is the task's: "untrained" marks the network without pretraining, whose fine-tuning gets a second,
    longer run; "features" cannot be fine-tuned (pixels, PCA). ``fresh_backbone()`` returns a new copy of the pretrained
    backbone to train on. ``parts`` is a folder for what an interrupted evaluation can go on from, removed once its
    record is written; None: nothing is kept.
    """

    backbone: nn.Module
    fresh_backbone: Callable[[], nn.Module]
    features: Features
    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    seed: int
    device: torch.device
    precision: str
    role: TaskRole = TaskRole.PRETEXT
    diagnose: Callable[[Tensor], Mapping[str, float]] = lambda images: {}
    #: the task's, for evaluators that declare in ``needs`` that they call them
    codes: Callable[..., Mapping[str, Tensor]] = lambda images, missing=frozenset(): {}
    decode: Callable[[Tensor], Tensor] | None = None
    sample: Callable[[int], Tensor] | None = None
    progress: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    parts: Path | None = None
    checkpoint_seconds: float = 120.0

    @property
    def num_classes(self) -> int:
        """From the data set, not from labels seen."""
        return len(self.train.classes)

    def labels(self, split: str) -> np.ndarray:
        """int64 [N] labels of split "train", "validation" or "test"."""
        images = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        assert images is not None and images.labels is not None
        return images.labels


class Judged(Protocol):
    """A set to judge on: three splits, each with ``fingerprint``, ``classes`` and a length. A data.Labelled is one."""

    @property
    def name(self) -> str: ...
    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def test(self) -> Any: ...


@dataclass(frozen=True)
class Effort:
    """What a matrix spends on a row without a task's own parts: counted, not timed, so that every machine decides alike
    by it."""

    #: of the bare backbone on the images of the budget, forward and backward, 2 per multiply-add
    pretraining_flops: float
    widths: tuple[int, ...]  #: values an image of every stage's features on a CPU, and of the pooled ones


class Evaluator:
    """Base class of every evaluator. A subclass sets ``name``, ``protocol`` and ``metrics``, and writes ``evaluate``.

    Without ``metrics`` anything may be measured, and the table shows plain numbers: only well-known names ("top1",
    "iou") are taken for fractions. Without ``columns`` the table has one for every metric, stage and share of the
    labels.
    """

    name: ClassVar[str]
    protocol: ClassVar[str]  #: printed under the table, such as "linear-lbfgs"
    version: ClassVar[int] = 1
    title: ClassVar[str] = ""  #: heading of its columns; "" for its name
    metrics: ClassVar[tuple[Metric, ...]] = ()  #: all that it may measure
    columns: ClassVar[tuple[TableColumn, ...]] = ()
    opens_test: ClassVar[bool] = True  #: False: measures on validation alone; else a final run needs a test number
    Options: ClassVar[type[EvaluatorOptions]] = EvaluatorOptions
    accuracy: ClassVar[bool] = True  #: False: gives no accuracy on validation, so that nothing can be chosen by it
    #: True: asks the backbone to train; representations that cannot are left out ("-")
    needs_training: ClassVar[bool] = False
    #: what it asks of a task beside the network: "codes", "missing", "decode", "sample"; rows without it are left out
    #: ("-")
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: Any) -> None:
        self.options = options

    def evaluate(self, subject: Subject) -> Evaluation:
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(self, subject)")

    @classmethod
    def declared(cls) -> EvaluatorDeclaration:
        """What the table must know of it; written into run.json, so that a table does not need the plugin installed."""
        return BUILT_IN.get(cls.name) or EvaluatorDeclaration(
            title=cls.title, metrics=cls.metrics, columns=cls.columns, opens_test=cls.opens_test
        )

    @classmethod
    def supports(cls, options: Any, network: nn.Module) -> str:
        """Why it cannot judge a network, in a few words; "" where it can.

        The table shows "-" for a row that it cannot judge.
        """
        return ""

    @classmethod
    def own_sets(cls, options: Any, places: Places) -> Sequence[Judged] | None:
        """Sets of its own to judge on, such as images with boxes: packed, and refused (DataError) before any training.

        None: the labelled sets of the matrix. What ``evaluate`` is given as train, validation and test is then of these
        sets, and its predictions hold their own "target" where rows are to be compared image by image. Splits with
        ``files``, the paths of their images, are held against what is pretrained on, so that no row sees validation or
        test images; others get a note.
        """
        return None

    @classmethod
    def resolve(cls, options: Any, labelled: Judged, effort: Effort) -> Any:
        """The same options with everything decided that they leave open, for one set of a matrix: alike for all of its
        rows, and part of the id."""
        return options

    @classmethod
    def version_on(cls, options: Any, labelled: Judged) -> int:
        """The version of the protocol that enters the id:
        an earlier one where what changed since cannot move a number."""
        return cls.version

    @classmethod
    def smoke(cls, options: Any) -> Any:
        """The same options cut down to what `--smoke` can afford (two steps, no tiny label fractions)."""
        return options

    @classmethod
    def published(cls, predictions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What `ssl-bench publish` keeps of an evaluation's predictions: all that tables, comparisons and figures are
        made of."""
        return predictions

    @classmethod
    def training_passes(cls, options: Any, train: Any, image_size: int, untrained: bool = False) -> float:
        """How many images of ``image_size`` pixels its training is worth, counted with repetition, for the estimate of
        a plan; 0: frozen features.

        ``untrained``: of the row without pretraining, which may be given a longer run.
        """
        return 0.0

    @classmethod
    def fitting_flops(cls, options: Any, train: Any, widths: Sequence[int]) -> float:
        """What is computed on frozen features, each stage's of one of ``widths`` values an image, about, for the
        estimate of a plan."""
        return 0.0

    @classmethod
    def check(cls, options: Any, train: ImageSet, validation: ImageSet) -> None:
        """Refuse labels that cannot work (DataError, such as a fraction that leaves a class empty), before any
        training."""
