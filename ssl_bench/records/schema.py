"""The results folder: one JSON record per finished thing, written whole or not at all.

runs/NAME/
  run.json                                 which rows, seeds and evaluators make up the table (a Run)
  cells/ROW/SEED-ID/pretrain.json          a Pretraining record
  cells/ROW/SEED-ID/backbone.safetensors
  cells/ROW/SEED-ID/EVALUATOR-ID.json      an EvaluationRecord; beside it EVALUATOR-ID.npz with test predictions
  cells/ROW/SEED-ID/failed-PART.json       a Failure for each part that failed, gone when it succeeds

Of a published run, what is below cells/ lies in an archive instead (``ssl_bench.records.archive``) and is read in the
same way.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.records.bounds import alarm_of, problem_of
from ssl_bench.records.declarations import EvaluatorDeclaration, Note
from ssl_bench.records.places import FILES, matching, place_of
from ssl_bench.system import digests
from ssl_bench.system.disk import write_bytes as write_bytes

SCHEMA = 1
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# of the table: pretext tasks, pretrained elsewhere, without pretraining, with all labels
Block = Literal["pretext", "elsewhere", "baseline", "labels"]


class Record(BaseModel):
    """Base of every file in a results folder."""

    # a value that is not finite must not make its record unreadable
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")
    schema_version: int = SCHEMA


class Environment(Record):
    """Where a number was made. Recorded, not part of any id; a table that mixes environments says so."""

    device: str  #: "cpu: AMD EPYC ..., 2 threads" or "cuda: NVIDIA H200"
    precision: str  #: as used: "fp32" or "bf16"
    versions: dict[str, str]  #: python, torch, torchvision, timm, lightly, ssl_bench
    code: str  #: version of the code, with the commit where it is known: "0.1.0 (a1b2c3d)"


class Curve(Record):
    """Values over training steps, thinned to a few hundred points."""

    step: list[Count] = []
    value: list[float] = []

    @model_validator(mode="after")
    def _a_value_for_every_step(self) -> Curve:
        if len(self.step) != len(self.value):
            raise ValueError(f"a curve has {len(self.step)} steps and {len(self.value)} values")
        return self


class HealthRecord(Record):
    """A sign of a training gone wrong: its value after training, and the bounds outside of which it is told."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def alarm(self) -> str:
        """What is wrong, in words; "" where the value is within its bounds."""
        return alarm_of(self.value, self.low, self.high)


class Pretraining(Record):
    """One pretrained backbone."""

    kind: Literal["pretraining"] = "pretraining"
    id: str
    row: str
    task: str
    seed: int
    block: Block
    uses_labels: bool = False
    spec: dict[str, Any]  #: everything that enters the id: task options, recipe, backbone, data fingerprint, budget ...
    #: of a plugin's task, before it trained: "passed", "skipped", or "passed; not made: ..."; "" for built-in tasks
    checks: str = ""
    describe: dict[str, Any] = {}  #: what the task says of itself (code size, number of colour bins)
    diagnose: dict[str, float] = {}  #: label-free facts after training (active units, kl)
    health: dict[str, HealthRecord] = {}  #: what the task watches over, with the bounds of its alarms
    metrics: dict[str, float] = {}  #: last smoothed training values: loss, accuracy ...
    #: loss, accuracy ...; and of monitors: "knn" and "probe" (validation), "features/rankme" and others
    curves: dict[str, Curve] = {}
    trend: str = ""  #: "still rising" or "flat", from the kNN monitor; "" without one
    steps: Count = 0
    images_seen: Count = 0
    passes: Amount = 0.0  #: network passes per image seen, in whole-image equivalents
    flops: Amount = 0.0  #: forward + backward of the whole run, 2 per multiply-add, heads and decoders included
    parameters: Count = 0
    #: total (wall), its split: data, views, forward, backward, step, monitor; cpu: process time
    seconds: dict[str, Amount] = {}
    images_per_second: Amount = 0.0
    peak_memory: Count = 0  #: bytes: of the device, or of the process on a CPU
    weights: str = ""  #: digest of task.safetensors; "" in records of earlier versions
    changed: str = ""  #: what the task changed for the whole program, such as torch's default dtype; set back after it
    environment: Environment
    created: str  #: UTC, ISO 8601


class MeasurementRecord(Record):
    """One number of an evaluation; fields as in ssl_bench.evaluators.base.Measurement."""

    metric: str
    split: Literal["validation", "test"]
    value: float
    n: int = Field(ge=1)
    stage: str = ""
    labels: float = Field(default=1.0, gt=0, le=1)
    draw: Count = 0
    row: str = ""
    best: bool = False
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _within_bounds(self) -> MeasurementRecord:
        if problem := problem_of(self.metric, self.value, self.low, self.high):
            raise ValueError(problem)
        return self


class EvaluationRecord(Record):
    """One evaluator's findings on one pretrained backbone and one labelled set."""

    kind: Literal["evaluation"] = "evaluation"
    id: str
    pretraining: str  #: id of the pretraining
    row: str
    task: str
    seed: int
    evaluator: str
    protocol: str  #: "linear-lbfgs v1"
    data: str  #: name of the labelled set
    spec: dict[str, Any]
    final: bool  #: test was opened
    test_opened: Count = 0  #: how often, over the life of this record
    measurements: list[MeasurementRecord]
    details: dict[str, Any] = {}
    notes: list[Note] = []  #: for a reader of the table; those of built-in evaluators follow from their details
    unsupported: str = (
        ""  #: why the evaluator cannot judge this network: there are no measurements then, and the table shows "-"
    )
    weights: str = ""  #: digest of the task.safetensors that was judged, and of the predictions beside the record;
    predictions: str = ""  #: "" in records of earlier versions, and where there are none
    seconds: Amount = 0.0
    changed: str = ""  #: what the evaluator, or the task under it, changed for the whole program; set back after it
    environment: Environment
    created: str


class Failure(Record):
    """Why a cell has no numbers."""

    kind: Literal["failure"] = "failure"
    row: str
    task: str
    seed: int
    where: str  #: "pretraining" or an evaluator's name
    id: str = ""  #: of the evaluation that failed; "" for pretraining
    error: str  #: type of the error
    message: str
    traceback: str = ""
    created: str


class RunEvaluation(Record):
    """An evaluation the table expects."""

    evaluator: str
    data: str
    id: str
    #: among the run's evaluators of this name on this set; None, in older records: in the order listed
    number: int | None = None


class RunCell(Record):
    """A (row, seed) of the table: the folder that holds its records, relative to the results folder, and what it
    expects there."""

    row: str
    seed: int
    folder: str
    pretraining: str
    evaluations: list[RunEvaluation]
    chosen: dict[str, Any] = {}  #: option -> value of the candidate it is, where its row has a choice


class RunRow(Record):
    """A row of the table."""

    row: str
    task: str
    block: Block
    uses_labels: bool = False  #: also where it started from weights that are not known to be free of labels
    #: the weights it started from and what is known of their training, such as "timm:NAME, trained on ImageNet-1k, with
    #: labels"
    init: str = ""
    choices: int = 1  #: candidates tried for this row
    chosen: dict[str, Any] = {}  #: option -> value chosen on validation


class Run(Record):
    """What a table is made of. Written before the first cell, and again when a choice is made or the run ends."""

    kind: Literal["run"] = "run"
    name: str
    matrix: dict[str, Any]  #: the matrix as resolved
    #: {"pretrain": {"name", "images", "size"}, "evaluate": [{"name", "train", "validation", "test", "classes":
    #: [...]}]}; where classes are of
    #: very unequal size a set also has "majority": {"class", "train", "validation", "test"}, the largest class and its
    #: share of each split
    data: dict[str, Any]
    backbone: str  #: "resnet18, width 0.25, 3x3 stem, stride 2"
    budget: str  #: "4 epochs x 4,500 images"
    final: bool  #: False: a validation table
    seeds: list[int]
    rows: list[RunRow]
    cells: list[RunCell]
    losers: list[RunCell] = []  #: candidates of choices that were not chosen; never tested
    #: what evaluators that are not built in declare of their numbers, so that the table does not need them installed
    evaluators: dict[str, EvaluatorDeclaration] = {}
    only: list[str] = []  #: the rows or tasks that the last command was to compute; [] for all
    #: wall time, in files of earlier versions; not read, and no longer written
    seconds: float = Field(default=0.0, exclude=True)
    created: str


R = TypeVar("R", bound=Record)


def digest(value: Any) -> str:
    """A 16-digit id of plain data: equal data, equal id, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def safe_name(name: str) -> str:
    """``name`` as one harmless path component: letters, digits, dot, dash and underscore; a hash keeps different names
    apart."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._")[:60]
    return plain if plain and plain == name else f"{plain or 'row'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def write_record(path: Path, record: Record) -> None:
    """Write one record with its digest, whole or not at all."""
    write_bytes(path, record_bytes(record))


def record_bytes(record: Record) -> bytes:
    """A record with its digest, as it is written."""
    content = json.loads(record.model_dump_json())
    sealed = content | {digests.KEY: digests.digest_of_json(content)}
    return (json.dumps(sealed, indent=1, ensure_ascii=False) + "\n").encode()


def failure_files(folder: Path) -> list[Path]:
    """The Failure records of a cell; of a cell that was gone on with since it was archived, those written since."""
    gone_on = any(FILES.matching(folder, "*.json"))
    return sorted(FILES.matching(folder, "failed*.json")) if gone_on else matching(folder, "failed*.json")


def judged_other_weights(evaluation: EvaluationRecord, pretraining: Pretraining) -> bool:
    """Whether an evaluation is of weights that were trained again since: its numbers are of another network than the
    row's."""
    return evaluation.weights != pretraining.weights


def read_record(path: Path, kind: type[R]) -> R:
    """Read one record.

    Raises
    ------
    RecordError : naming the file: none there, one that cannot be read, a newer schema, another kind of record.
        DamagedRecord where it is not what was written, or holds values that cannot be.
    """
    try:
        data = _parsed(place_of(path).read(path))
    except FileNotFoundError:
        raise RecordError(f"{path} does not exist") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{path} is damaged and cannot be read: {str(error) or 'too deep'}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    known = data.pop(digests.KEY, None) if isinstance(data, dict) else None
    if known is not None and known != digests.digest_of_json(data):
        raise DamagedRecord(f"{path} is damaged or was edited: its digest is not that of what it says")
    if isinstance(version, int) and version > SCHEMA:
        raise RecordError(
            f"{path} was written by a newer ssl_bench (schema {version}; this version reads up to {SCHEMA}); "
            "update ssl_bench"
        )
    try:
        record = kind.model_validate(data)
    except ValidationError as error:
        refused = RecordError if known is not None else DamagedRecord  # what has its digest was written so
        raise refused(f"{path} is not a {kind.__name__} record: {_first_problem(error)}") from None
    if known is None:
        digests.not_checked(path)
    return record


def _parsed(content: bytes) -> Any:
    """What JSON says; raises ValueError or RecursionError, in the words of Python's own reader, where it is none."""
    try:
        return from_json(content)  # in half the time
    except ValueError:
        return json.loads(content.decode("utf-8"))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    text = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def measurement_record(evaluator: str, facts: Mapping[str, Any]) -> MeasurementRecord:
    """A measurement as it is recorded. Raises RecordError for values that its metric cannot have, naming evaluator,
    metric, value and bounds."""
    try:
        return MeasurementRecord(**facts)
    except ValidationError as error:
        place = ", ".join(str(facts[key]) for key in ("split", "stage", "row") if facts.get(key))
        raise RecordError(
            f"{evaluator} measured what cannot be ({facts.get('metric')}, {place}): {_first_problem(error)}"
        ) from None
