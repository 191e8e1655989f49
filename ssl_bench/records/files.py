"""Names of the files in a results folder."""

from __future__ import annotations

PARTS_SUFFIX = ".parts"  # folders of evaluations under way
TASK_KIND = "ssl_bench.task"
TASK_FILE, BACKBONE_FILE, CHECKPOINT_FILE = "task.safetensors", "backbone.safetensors", "checkpoint.safetensors"
