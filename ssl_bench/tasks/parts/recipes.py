"""Paper recipes that several tasks share."""

from __future__ import annotations

from typing import Any

from ssl_bench.spec.recipe import Recipe


def revisited(image_size: int) -> Recipe:
    """SGD with momentum 0.9, 0.1 at batch 256.

    Up to 96 px a cosine; above, the steps of Kolesnikov et al. (2019, arXiv:1901.09005).

    Theirs are 35 epochs with 5 of warm-up, and a tenth of the rate after epochs 15 and 25.

    Parameters
    ----------
    image_size : side of the images, in pixels.
    """
    sgd: dict[str, Any] = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 256,
    }
    if image_size <= 96:
        return Recipe(**sgd, warmup=0.05, schedule="cosine")
    return Recipe(**sgd, warmup=5 / 35, schedule="steps", milestones=(15 / 35, 25 / 35), gamma=0.1)
