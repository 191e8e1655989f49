"""What holds for every test: one thread, and caches that are not the user's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

# Before torch or numpy is imported, here or in a subprocess: small networks gain nothing from threads that wait for
# each other.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
_CACHE = tempfile.TemporaryDirectory(prefix="ssl_bench_tests_")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples every time: a change is judged by what it changed. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """A test that seeds torch must not decide what a later one draws."""
    with torch.random.fork_rng():
        yield


def pytest_unconfigure() -> None:
    _CACHE.cleanup()
