"""One seed for every random draw of a step."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*parts: int) -> None:
    """Seed Python, NumPy and torch from any number of integers."""
    state = np.random.SeedSequence(parts).generate_state(3, np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)
    torch.manual_seed(int(state[2]) % 2**63)
