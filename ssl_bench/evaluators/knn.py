"""Nearest neighbours in feature space (Wu et al., 2018), and a cheap form of it to watch pretraining."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.data.images import ImageSet
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.scores import (
    TOP5_ABOVE,
    Counts,
    accuracies,
    check_labels,
    compact,
    go_on,
    measured,
    per_class,
)
from ssl_bench.records.protocols import VERSIONS

TEMPERATURE = 0.07


class KNN(Evaluator):
    """Weighted vote of the k most cosine-similar labelled images: score of a class = sum of exp(cosine / temperature).

    Nothing is trained and nothing chosen. The bank is train for validation images, and train + validation for test
    images. Measured on the pooled features and on codes, as "top1@20" and "top1@200"; where the smallest class of the
    bank is smaller than k, that many neighbours vote, and ``details["neighbours"]`` says how many. Equal scores: the
    lower class id. Above 20 classes "top5@20" counts the first five classes that got a vote: with three classes among
    the neighbours there are three answers.
    """

    name: ClassVar[str] = "knn"
    protocol: ClassVar[str] = "knn-cosine"
    version: ClassVar[int] = VERSIONS["knn"]

    class Options(EvaluatorOptions):
        """Options of the nearest-neighbour classifier."""

        k: Counts = (20, 200)  #: neighbours asked; capped at the bank's smallest class
        temperature: float = Field(default=TEMPERATURE, ge=1e-3, le=1_000)

    @classmethod
    def check(cls, options: Any, train: ImageSet, validation: ImageSet) -> None:
        check_labels(train, validation)

    @classmethod
    def version_on(cls, options: Any, labelled: Any) -> int:
        return cls.version if len(labelled.train.classes) > TOP5_ABOVE else 1

    def evaluate(self, subject: Subject) -> Evaluation:
        names = subject.features.names()
        measurements: list[Measurement] = []
        predictions: dict[str, np.ndarray] = {}
        neighbours: dict[str, dict[str, int]] = {}
        recalls: dict[str, dict[str, list[float | None]]] = {}
        for name in names[names.index("pooled") :]:
            for split in ("validation", "test") if subject.test is not None else ("validation",):
                go_on(subject, "kNN")
                subject.progress(f"nearest neighbours: {name}, {split}")
                parts = ("train",) if split == "validation" else ("train", "validation")
                bank = torch.cat([subject.features.get(part, name) for part in parts])
                bank_labels = np.concatenate([subject.labels(part) for part in parts])
                counts = np.bincount(bank_labels, minlength=subject.num_classes)
                used = {k: min(k, int(counts[counts > 0].min())) for k in self.options.k}
                neighbours[split] = {str(k): capped for k, capped in used.items()}
                queries = subject.features.get(split, name)
                labels = torch.from_numpy(np.asarray(subject.labels(split), dtype=np.int64))
                similar, positions = nearest(queries, bank, max(used.values()))
                for k, capped in used.items():
                    votes = torch.from_numpy(bank_labels[positions[:, :capped]].astype(np.int64))
                    scores = vote(
                        torch.from_numpy(similar[:, :capped]), votes, subject.num_classes, self.options.temperature
                    )
                    recalls.setdefault(f"{name}@{k}", {})[split] = per_class(
                        scores.argmax(1), labels, subject.num_classes
                    )
                    measurements += measured(
                        accuracies(scores, labels, subject.num_classes, f"@{k}"), split, len(labels), stage=name
                    )
                    if split == "test":
                        predictions[f"{name}@{k}"] = compact(scores.argmax(1), subject.num_classes)
        return Evaluation(
            measurements,
            predictions,
            {"neighbours": neighbours, "temperature": self.options.temperature, "per_class": recalls},
        )


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities float32 [Q, k] and positions int64 [Q, k] of the most similar rows of the bank, best first
    (faiss, exact)."""
    # torch is imported before faiss: both bring an OpenMP runtime, and the one that comes second must not set up the
    # threads.
    import faiss

    # Two OpenMP runtimes in one process crash on macOS once both run threads.
    faiss.omp_set_num_threads(1 if sys.platform == "darwin" else torch.get_num_threads())
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(F.normalize(bank.float(), dim=1).cpu().numpy())
    similar, positions = index.search(F.normalize(queries.float(), dim=1).cpu().numpy(), k)
    return similar, positions


def vote(similar: Tensor, votes: Tensor, num_classes: int, temperature: float = TEMPERATURE) -> Tensor:
    """Class scores float64 [Q, num_classes] of neighbours: cosine similarities [Q, k] and their class ids int64 [Q, k].

    Relative to the nearest one's vote, which changes no order and cannot overflow at a low temperature; minus infinity
    for a class without a vote, which is no answer.
    """
    similar = similar.double()
    scores = torch.zeros(len(similar), num_classes, dtype=torch.float64, device=similar.device)
    scores.scatter_add_(1, votes, ((similar - similar.amax(1, keepdim=True)) / temperature).exp())
    asked = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, votes, True)
    return scores.masked_fill_(~asked, -torch.inf)


def knn_accuracy(
    bank: Tensor, labels: Tensor, queries: Tensor, answers: Tensor, classes: int, k: int = 20, batch_size: int = 512
) -> float:
    """Top-1 of features [M, D] by their nearest neighbours among features [N, D] by cosine, to watch pretraining: small
    enough sets to be compared at once. ``k`` is capped at the size of the smallest class that is there."""
    k = min(k, int(torch.bincount(labels)[labels.unique()].min()))
    known, right = F.normalize(bank, dim=1), 0
    for part, true in zip(queries.split(batch_size), answers.split(batch_size), strict=True):
        similar, positions = (F.normalize(part, dim=1) @ known.T).topk(k, 1)
        right += int((vote(similar, labels[positions], classes).argmax(1) == true).sum())
    return right / len(queries)
