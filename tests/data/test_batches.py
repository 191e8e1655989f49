"""Batches: order from seed and epoch alone, no label that was not asked for, read-ahead equal to residence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.data.batches import Batches, ImageStore
from ssl_bench.errors import DataError
from toys import noise_set


def test_images_are_the_pixels_in_channels_last() -> None:
    images = noise_set(20)
    store = ImageStore(images.take(np.array([3, 7, 5])))
    found = store.gather(torch.tensor([2, 0]))
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = torch.from_numpy(images.pixels[[5, 3]]).permute(0, 3, 1, 2) / 255
    assert torch.equal(found, expected)


@given(count=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 5), endless=st.booleans())
@settings(max_examples=60)
def test_every_epoch_is_a_permutation_and_any_step_can_come_first(
    count: int, batch: int, seed: int, endless: bool
) -> None:
    images = noise_set(count, size=8)
    if batch > count and not endless:
        with pytest.raises(DataError, match=f"batch_size must be from 1 to {count}, .* got {batch}"):
            Batches(images, batch, seed)
        return
    batches = Batches(images, batch, seed, endless=endless)
    steps = max(3, 2 * count // batch)
    order = [batches.positions(step).tolist() for step in range(steps)]
    assert all(len(found) == batch for found in order)
    again = Batches(images, batch, seed, endless=endless)
    assert [again.positions(step).tolist() for step in reversed(range(steps))][::-1] == order
    if endless:
        stream = sum(order, [])
        assert sorted(stream[:count]) == list(range(count))[: len(stream[:count])] or len(stream) < count
    else:
        for found in order:
            assert len(set(found)) == batch  # an image never meets itself
        epoch = sum(order[: batches.steps_per_epoch], [])
        assert len(set(epoch)) == len(epoch)


def test_orders_differ_between_epochs_and_seeds() -> None:
    batches, other = Batches(noise_set(64), 64, 0), Batches(noise_set(64), 64, 1)
    assert batches.positions(0).tolist() != batches.positions(1).tolist()
    assert batches.positions(0).tolist() != other.positions(0).tolist()


def test_labels_and_columns_come_only_when_declared() -> None:
    images = noise_set(16)
    assert Batches(images, 4, 0).batch(0).labels is None
    batch = Batches(images, 4, 0, labels=True).batch(0)
    assert batch.labels is not None and batch.labels.tolist() == [int(i) % 4 for i in batch.index]
    with pytest.raises(DataError, match="no labels"):
        Batches(images.without_labels(), 4, 0, labels=True)
    with pytest.raises(DataError, match="no column 'depth'"):
        Batches(images, 4, 0, columns=frozenset({"depth"}))


def test_a_set_too_large_for_the_device_gives_the_same_batches() -> None:
    images = noise_set(30)
    resident, mapped = Batches(images, 7, 3), Batches(images, 7, 3, memory=0)
    assert resident.store.resident is not None and mapped.store.resident is None
    for step in (0, 1, 2, 5, 3):
        a, b = resident.batch(step), mapped.batch(step)
        assert torch.equal(a.images, b.images) and torch.equal(a.index, b.index)
