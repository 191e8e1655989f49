"""Pretext tasks and baselines, one file each; ``ssl_bench.plugins.registry.TASKS`` finds them by name without importing
the others."""

from __future__ import annotations

from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions

__all__ = ["PretextTask", "Setup", "TaskOptions"]
