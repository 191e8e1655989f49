"""Checks of what a task gives besides a loss: features, codes, facts of itself, pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_bench.tasks.base import Health, PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, seeded


def builds(bench: Bench) -> str:
    """The task is built, what it offers for judging gives one finite vector per image, and what it tells of itself can
    be recorded."""
    task = bench.build().eval()
    lazy = next(
        (
            name
            for name, parameter in task.named_parameters()
            if isinstance(parameter, nn.parameter.UninitializedParameter)
        ),
        None,
    )
    if lazy is not None:
        raise CheckFailed(
            f"{lazy} has no shape before the first forward, so nothing could be saved or stepped; give every layer "
            "its sizes in __init__"
        )
    images = bench.images_only(8)
    with torch.no_grad(), bench.calling("evaluated()"):
        judged = task.evaluated()
        features = judged(images)
        width = getattr(judged, "num_features", None)
    if features.shape != (8, width) or not features.isfinite().all():
        raise CheckFailed(
            f"evaluated() must give finite features [B, num_features]; 8 images gave {tuple(features.shape)} and "
            f"num_features is {width}. "
            "Return a module with `num_features` whose forward takes RGB in [0, 1]"
        )
    with torch.no_grad(), bench.calling("evaluated()"):
        few = judged(images[:3])
    if not torch.allclose(few, features[:3], rtol=1e-3, atol=1e-4 * float(features.abs().max())):
        raise CheckFailed(
            "evaluated() gives an image other features beside other images, in eval mode too; features of one image "
            "must not depend on the rest of "
            "its batch: normalise over an image, or by buffers that training fills"
        )
    with torch.no_grad(), bench.calling("codes(images)"):
        codes = dict(task.codes(images))
    for name, code in codes.items():
        if code.ndim != 2 or len(code) != 8 or not code.isfinite().all():
            raise CheckFailed(f"code {name!r} must be finite [B, D]; 8 images gave {tuple(code.shape)}; flatten it")
    _check_facts(bench, task, images)
    parts = [f"{sum(p.numel() for p in task.parameters()):,} parameters", f"features [B, {width}]"]
    return ", ".join(parts + [f"code {name} [B, {code.shape[1]}]" for name, code in codes.items()])


def _check_facts(bench: Bench, task: PretextTask, images: Tensor) -> None:
    """``describe`` and ``diagnose`` go into a record: plain values, finite numbers."""
    with bench.calling("describe()"):
        described = dict(task.describe())
    try:
        json.dumps(described)
    except (TypeError, ValueError) as error:
        raise CheckFailed(
            f"describe() must give numbers and text that fit into JSON ({error}); make tensors numbers with float(x)"
        ) from None
    with torch.no_grad(), bench.calling("health()"):
        health = dict(task.health())
    for name, sign in health.items():
        if not isinstance(sign, Health) or not math.isfinite(sign.value):
            raise CheckFailed(
                f"health() gave {name!r}: {sign!r}, and it must give text and ssl_bench.Health(value, low, high) of a "
                "finite number"
            )
    with torch.no_grad(), bench.calling("diagnose(images)"):
        diagnosed = task.diagnose(images)
    if not isinstance(diagnosed, Mapping):
        raise CheckFailed(
            f"diagnose(images) must return a dict of name and number, not {type(diagnosed).__name__}; return {{}} for "
            "none"
        )
    for name, value in diagnosed.items():
        try:
            finite = isinstance(name, str) and math.isfinite(float(value))
        except (TypeError, ValueError, RuntimeError):
            finite = False
        if not finite:
            raise CheckFailed(
                f"diagnose(images) gave {name!r}: {value!r}, and it must give text and a finite number; return "
                "float(x) of one value, "
                "and look for division by zero where images are few or alike"
            )


def preview(bench: Bench) -> str:
    """``preview`` gives pictures."""
    task = bench.build().eval()
    with seeded(1), bench.calling("preview"):
        pictures = dict(task.preview(bench.batch(8)))
    for name, picture in pictures.items():
        if picture.ndim != 4 or picture.shape[1] != 3 or picture.min() < 0 or picture.max() > 1:
            raise CheckFailed(
                f"preview {name!r} must be [N, 3, H, W] in [0, 1], not {tuple(picture.shape)} in "
                f"[{picture.min():.2f}, {picture.max():.2f}]"
            )
    return ", ".join(pictures)
