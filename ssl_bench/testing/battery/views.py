"""Checks of what a task draws for its views and targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NoReturn

import torch
from scipy import stats
from torch import Tensor, nn

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, CheckWarning, NotApplicable, repeated, seeded, tensors
from ssl_bench.training.phases import forward_in_phase

ROUNDING = 1e-6  #: of values that are at most 1
LOOKED_AT = 4  #: batches over which targets are looked at


def draws(bench: Bench) -> str:
    """Random views differ from sample to sample: a draw that a whole batch shares halves the variety and leaks through
    BatchNorm."""
    seeds = 24
    task, batch = bench.build(), repeated(bench.batch(16))
    _refuse_equal_views(bench, task)
    drawn = [tensors(bench.views(task, batch, seed)) for seed in range(seeds)]
    if len({len(leaves) for leaves in drawn}) > 1:
        raise NotApplicable("the number of views is itself drawn")
    random_views, shared, alike = 0, 0.0, False
    for leaf in zip(*drawn, strict=True):
        same_shape = [
            view for view in leaf if view.shape == leaf[0].shape and view.ndim and len(view) % 16 == 0 and len(view)
        ]
        if len(same_shape) < 12 or all(_equal_up_to_rounding(view, same_shape[0]) for view in same_shape):
            continue
        random_views += 1
        # [seeds, 16, views of an image, ...]
        stacked = torch.stack(same_shape).double().unflatten(1, (-1, 16)).transpose(1, 2)
        if torch.equal(stacked, stacked[:, :1].expand_as(stacked)):
            if not _may_be_pictures(leaf[0]):  # a share by which images are mixed, a mask
                alike = True
                continue
            raise CheckFailed(
                "16 copies of one image got the same draw, in every one of 24 batches; draw per sample: "
                "torch.rand(len(images), ...), not torch.rand(1)"
            )
        shared = max(shared, _shared_variance(stacked))
    _refuse_one_label(bench, task)
    _tell_other_images(bench, task)
    if not random_views:
        raise NotApplicable("the views are not random")
    if alike:
        raise CheckWarning(
            "a draw is shared by all images of a batch, in every one of 24 batches: right for what the method draws "
            "once a batch, such as the share by which "
            "it mixes images; else draw per sample: torch.rand(len(images), ...), not torch.rand(1)"
        )
    if shared > 3:
        raise CheckWarning(
            f"part of the draws is shared by a whole batch: the averages of batches vary {shared:.0f} times as much as "
            "independent samples would make them; draw every parameter per sample, unless this is meant"
        )
    return f"{random_views} random tensors"


def _equal_up_to_rounding(first: Tensor, second: Tensor) -> bool:
    """Up to rounding: equal images that are mixed give the same image."""
    return (
        torch.allclose(first, second, rtol=0, atol=ROUNDING)
        if first.is_floating_point()
        else torch.equal(first, second)
    )


def _may_be_pictures(view: Tensor) -> bool:
    """Whether a view may be pictures; a mask has two values at most."""
    return view.is_floating_point() and view.ndim >= 4 and len(view.unique()) > 2


def _tell_other_images(bench: Bench, task: PretextTask) -> None:
    """Views that are the same whatever images a batch holds are made from others: drawn ones, which may be meant, or a
    file's."""
    batch, number = bench.batch(16), 1
    other = replace(batch, images=batch.images.flip(0).contiguous(memory_format=torch.channels_last))
    first, second = (tensors(bench.views(task, given, number)) for given in (batch, other))
    pictures = [(mine, yours) for mine, yours in zip(first, second, strict=False) if _may_be_pictures(mine)]
    if pictures and all(torch.equal(mine, yours) for mine, yours in pictures):
        raise CheckWarning(
            "the views show other images than those of the batch: they are the same whatever it holds. Right for a "
            "task that draws its pictures itself; "
            "where they are loaded from files, the row has seen other images than its neighbours, perhaps those it is "
            "judged on: name them in the matrix as "
            "data.pretrain"
        )


def _refuse_one_label(bench: Bench, task: PretextTask) -> None:
    """Targets that are the same for every image of a batch ask nothing of an image.

    A number that never varies is refused where it is all that is asked of a single view. Beside other views or targets
    it may be what such numbers usually are there: the place of the positive in contrastive logits, a length.
    """
    batches = bench.batches()
    drawn = [tensors(bench.views(task, batches.batch(step), step)) for step in range(LOOKED_AT)]
    if len({len(leaves_of) for leaves_of in drawn}) > 1:
        return
    leaves = list(zip(*drawn, strict=True))
    constant, asked = [], 0
    for leaf in leaves:
        kinds = all(
            target.dtype == torch.int64 and target.ndim == 1 and len(target) and len(target) % batches.batch_size == 0
            for target in leaf
        )
        if not kinds or not all(bool((target == target[0]).all()) for target in leaf):
            asked += 1
        elif len({int(target[0]) for target in leaf}) > 1:
            _refuse_target(leaf[0])
        else:
            constant.append(leaf[0])
    if constant and asked < 2:
        _refuse_target(constant[0])


def _refuse_target(target: Tensor) -> NoReturn:
    raise CheckFailed(
        f"every image of a batch gets the same target ({int(target[0])} in the first), so nothing has to be seen to "
        "answer; "
        "draw per sample: torch.randint(classes, (len(images),))"
    )


def _refuse_equal_views(bench: Bench, task: PretextTask) -> None:
    """Two views of an image that are the same, bit for bit, and both go through a network: telling that they belong
    together is no task.

    Not meant are a teacher and a student that are shown one tensor, and twins that differ by what ``forward`` draws,
    such as dropout.
    """
    batch = bench.batch(16)
    views = bench.views(task, batch, 1)
    shown: list[Tensor] = [leaf for leaf in tensors(views) if leaf.is_floating_point() and leaf.ndim == 4]
    if _doubled(shown) < len(batch):
        return
    networks = [task.backbone, *(module for module in task.modules() if isinstance(module, Backbone))]
    first = [next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None) for network in networks]
    entered: dict[nn.Module, list[Tensor]] = {layer: [] for layer in first if layer is not None}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: entered[layer].append(inputs[0].detach()))
        for layer in entered
    ]

    def total(seed: int) -> Tensor:
        with seeded(seed, 0, 1), bench.calling("forward"), torch.no_grad():
            losses = forward_in_phase(task, views, task.phases[0])
        return torch.as_tensor(losses["loss"])

    try:
        loss = total(1)
    finally:
        for hook in hooks:
            hook.remove()
    several = len({leaf.data_ptr() for leaf in shown}) > 1  # drawn or copied, not one tensor that is given twice
    together = [image for images in entered.values() for image in images] if several else []
    if max(map(_doubled, (*entered.values(), together))) >= len(batch) and torch.equal(loss, total(2)):
        raise CheckFailed(
            "two views of every image are the same, bit for bit, and both go through a network; draw each one anew, "
            "and see that nothing seeds the "
            "random functions in between"
        )


def _doubled(images: list[Tensor]) -> int:
    """How many different images appear more than once."""
    counts = Counter(row.contiguous().numpy().tobytes() for stack in images for row in stack.float().cpu())
    return sum(count > 1 for count in counts.values())


def _shared_variance(drawn: Tensor) -> float:
    """How much more batch averages vary than independent samples explain: an F value, reported as 1 where chance
    explains it.

    ``drawn`` is [batches, samples, ...]. Each sample is summed up by its channel means and by eight fixed random
    projections.
    """
    batches, samples = drawn.shape[:2]
    flat = drawn.flatten(2)
    generator = torch.Generator(device="cpu").manual_seed(0)
    numbers = [flat @ torch.randn(flat.shape[2], 8, generator=generator, dtype=flat.dtype).to(flat.device)]
    if drawn.ndim >= 5:
        numbers.append(drawn.mean((-2, -1)).flatten(2))
    values = torch.cat(numbers, 2)
    within = values.var(1).mean(0)
    between = samples * values.mean(1).var(0)
    ratio = float((between / within.clamp_min(1e-12))[within > 1e-9].max()) if bool((within > 1e-9).any()) else 1.0
    return ratio if stats.f.sf(ratio, batches - 1, batches * (samples - 1)) < 1e-9 else 1.0
