"""From an image set to batches on the device. The order is a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Images float [B, 3, H, W] in [0, 1] (channels-last), their positions in the set [B], and declared extras only."""

    images: Tensor
    index: Tensor
    labels: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)


class ImageStore:
    """Images of one set, gathered by position: on the device when they fit, else row by row from the mapped file.

    Parameters
    ----------
    memory : bytes of device memory that resident images may take; a larger set is gathered from the mapped file.
    """

    def __init__(self, images: ImageSet, device: torch.device | str = "cpu", memory: int = 4 << 30) -> None:
        self.set, self.device = images, torch.device(device)
        self.resident: Tensor | None = None
        if images.pixels[:1].nbytes * len(images) <= memory:
            pixels = images.read()
            self.resident = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)

    def __len__(self) -> int:
        return len(self.set)

    def gather(self, positions: Tensor) -> Tensor:
        """Float [B, 3, S, S] in [0, 1] on the device, channels-last. ``positions`` int64 [B] on any device."""
        if self.resident is not None:
            pixels = self.resident.index_select(0, positions.to(self.device))
        else:
            pixels = torch.from_numpy(self.set.read(positions.cpu().numpy()))
            if self.device.type == "cuda":
                pixels = pixels.pin_memory()
            pixels = pixels.to(self.device, non_blocking=True)
        # NHWC memory seen as NCHW: channels-last for free
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def in_order(self, batch_size: int = 512) -> Iterator[Tensor]:
        """Every image once, in the set's order."""
        for start in range(0, len(self), batch_size):
            yield self.gather(torch.arange(start, min(start + batch_size, len(self))))


class Batches:
    """Training batches by step number, so that a run can go on from any step.

    Parameters
    ----------
    images : the set to learn from.
    batch_size : images a batch; the last, short batch of an epoch is dropped (an image never meets itself in a batch).
    seed : with the epoch, decides the order.
    labels : give labels to the task (only for tasks that declare ``uses_labels``).
    columns : names of further columns the task declares.
    endless : batches run across the ends of epochs instead, for sets smaller than a batch (few labels).

    Raises
    ------
    DataError : batch larger than the set (unless endless), a declared column or label that the set lacks.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        labels: bool = False,
        columns: frozenset[str] = frozenset(),
        endless: bool = False,
        memory: int = 4 << 30,
    ) -> None:
        if len(images) == 0:
            raise DataError(f"{images.name}: no images to train on")
        if batch_size > len(images) and not endless:
            raise DataError(
                f"batch_size must be from 1 to {len(images)}, the number of images of {images.name}, got {batch_size}"
            )
        if labels and images.labels is None:
            raise DataError(f"{images.name} has no labels, and this task needs them")
        missing = sorted(columns - set(images.columns))
        if missing:
            raise DataError(
                f"{images.name} has no column {missing[0]!r}; it has: {', '.join(sorted(images.columns)) or 'none'}"
            )
        self.store = ImageStore(images, device, memory)
        self.batch_size, self.seed, self.endless = batch_size, seed, endless
        self.steps_per_epoch = max(1, len(images) // batch_size)
        self._labels = (
            torch.from_numpy(np.asarray(images.labels, dtype=np.int64))
            if labels and images.labels is not None
            else None
        )
        self._columns = {name: torch.from_numpy(np.ascontiguousarray(images.columns[name])) for name in sorted(columns)}
        self._order: dict[int, Tensor] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def positions(self, step: int) -> Tensor:
        """Positions in the set of the images of batch ``step``, int64 [B]."""
        if not self.endless:
            epoch, at = divmod(step, self.steps_per_epoch)
            return self._epoch(epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        parts: list[Tensor] = []
        at, end = step * self.batch_size, (step + 1) * self.batch_size
        while at < end:
            epoch, offset = divmod(at, len(self.store))
            parts.append(self._epoch(epoch)[offset : offset + end - at])
            at += len(parts[-1])
        return torch.cat(parts)

    def batch(self, step: int) -> Batch:
        """The batch of one step; the next one is read ahead where images do not live on the device."""
        index = self.positions(step)
        images = self._gather(step, index)
        device = self.store.device
        labels = None if self._labels is None else self._labels[index].to(device)
        return Batch(
            images, index.to(device), labels, {name: column[index].to(device) for name, column in self._columns.items()}
        )

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._order:
            self._order = {e: order for e, order in self._order.items() if e >= epoch - 1}
            order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(len(self.store))
            self._order[epoch] = torch.from_numpy(order.astype(np.int64))
        return self._order[epoch]

    def _gather(self, step: int, index: Tensor) -> Tensor:
        if self.store.resident is not None:
            return self.store.gather(index)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        ready = self._ahead[1].result() if self._ahead and self._ahead[0] == step else self.store.gather(index)
        self._ahead = (step + 1, self._pool.submit(self.store.gather, self.positions(step + 1)))
        return ready
