"""The check that a task computes in other precisions and on other devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ssl_bench.data.batches import Batch
from ssl_bench.testing.battery.bench import Bench, CheckFailed


def devices(bench: Bench) -> str:
    """The task computes under bf16 and on another device: nothing in it stays behind on the CPU."""
    task = bench.build()
    with torch.autocast("cpu", torch.bfloat16):
        value = bench.total(task, bench.batch(16), 1)
    value.backward()
    finite = all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in task.parameters())
    if not value.isfinite() or not finite:
        raise CheckFailed(
            "under bf16 autocast the loss or a gradient is not finite; compute logarithms, norms and divisions in "
            "float32: x.float()"
        )
    if torch.cuda.is_available():
        task = bench.build().to("cuda")
        value = bench.total(task, _batch_on(bench.batch(16), lambda tensor: tensor.to("cuda")), 1)
        value.backward()
        if not value.isfinite():
            raise CheckFailed(
                f"on the GPU the loss is {float(value)}, and on the CPU it is finite; look for uninitialised memory "
                "(torch.empty)"
            )
        return "bf16, cuda"
    return "bf16, " + _on_pretended_gpu(bench)


def _on_pretended_gpu(bench: Bench) -> str:
    """Views and forward on tensors that have a GPU as device and no values, which shows what was left on the CPU."""
    task, batch = bench.build(), bench.batch(16)
    # a boolean mask selects an unknown number
    sizes = ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=sizes) as mode:

        def pretend(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor.detach(), static_shapes=True).to("cuda")

        for module in task.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(pretend(parameter), parameter.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, pretend(buffer))
        try:
            bench.losses(task, _batch_on(batch, pretend), 1)
        except CheckFailed as failure:
            words = str(failure.__cause__)
            if "same device" in words or "different devices" in words:
                raise CheckFailed(
                    f"on a GPU it would fail: {failure}. Make new tensors where the images are (device=images.device), "
                    "and keep tensors as buffers"
                ) from failure
            return (
                "a GPU cannot be tried without one "
                f"({type(failure.__cause__).__name__}, usually code that looks at values)"
            )
    return "a GPU in pretence"


def _batch_on(batch: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
    labels = None if batch.labels is None else move(batch.labels)
    extra = {name: move(column) for name, column in batch.extra.items()}
    return replace(batch, images=move(batch.images), index=move(batch.index), labels=labels, extra=extra)
