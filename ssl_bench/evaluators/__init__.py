"""Evaluators: what a pretrained backbone is asked. Frozen features are extracted once and shared; none knows a task."""
