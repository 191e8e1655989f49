"""Names of the files in a results folder."""

from __future__ import annotations

PARTS_SUFFIX = ".parts"  # folders of evaluations under way
TASK_KIND, HEADS_KIND = "ssl_bench.task", "ssl_bench.heads"
TASK_FILE, BACKBONE_FILE, CHECKPOINT_FILE = "task.safetensors", "backbone.safetensors", "checkpoint.safetensors"
HEADS_FILE = "heads.safetensors"  # of a published run: the task without what backbone.safetensors holds
