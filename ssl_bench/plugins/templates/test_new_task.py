"""new_task keeps to the contract of a pretext task, and its views are what it says.
Run with: pytest test_new_task.py"""

import pytest
import torch
from ssl_bench import Batch
from ssl_bench.testing import task_checks

from new_task import NewTask


@pytest.mark.parametrize("check", task_checks(NewTask, noise=True))
def test_contract(check):
    check()


def test_one_quadrant_is_turned_upside_down():
    images = torch.rand(8, 3, 32, 32)
    task = NewTask.__new__(NewTask)  # views needs nothing but the options
    torch.nn.Module.__init__(task)
    task.options = NewTask.Options(flip=False)
    seen, target = task.views(Batch(images, torch.arange(8)))
    for before, after, quadrant in zip(images, seen, target.tolist(), strict=True):
        top, left = 16 * (quadrant // 2), 16 * (quadrant % 2)
        part = (slice(None), slice(top, top + 16), slice(left, left + 16))
        assert torch.equal(after[part], before[part].flip(1))
        assert (after != before).any(0).sum() <= 16 * 16
