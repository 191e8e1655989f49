"""Checks of one batch: views, loss, gradients, state."""

from __future__ import annotations

import copy
import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.errors import WeightsError
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.tasks.base import Health, PretextTask
from ssl_bench.testing.battery.bench import Bench, CheckFailed, CheckWarning, DeclaredOnly, Forbidden, seeded, tensors
from ssl_bench.testing.battery.views import LOOKED_AT
from ssl_bench.training.checkpoints import load_checkpoint, refuse_other_state, save_checkpoint
from ssl_bench.training.loop import fit
from ssl_bench.training.movement import judged_tensors, same_weights

THROUGH_A_RUN = (0.0, 0.5, 1.0)  #: shares of a run that is done, at which gradients are looked at
MOST_STEPS_LOOKED_AT = 24  #: while a parameter has had no gradient
LABEL_VALUES = 64  #: numbers an image that may stand for a class


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
    _facts(bench, task, images)
    parts = [f"{sum(p.numel() for p in task.parameters()):,} parameters", f"features [B, {width}]"]
    return ", ".join(parts + [f"code {name} [B, {code.shape[1]}]" for name, code in codes.items()])


def _facts(bench: Bench, task: PretextTask, images: Tensor) -> None:
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


def labels(bench: Bench) -> str:
    """Labels and extra columns are read only where they are declared."""
    task, batch = bench.build(), bench.batch()
    if bench.task.uses_labels:
        assert batch.labels is not None
        moved = replace(batch, labels=batch.labels.roll(1))
        if torch.equal(bench.total(task, batch, 1), bench.total(bench.build(), moved, 1)):
            raise CheckFailed(
                "uses_labels is set but other labels give the same loss; remove uses_labels, which marks the row in "
                "every table"
            )
        return "declared and used"
    refusal = Forbidden(
        "batch.labels is read, and a pretext task gets none; set uses_labels = True on the class if it is to see labels"
    )
    bench.losses(task, replace(batch, labels=refusal, extra=DeclaredOnly(batch.extra)), 1)  # type: ignore[arg-type]
    if _follow_labels(bench, task):
        raise CheckFailed(
            "what views returns follows the class labels image by image, though none were given: they come from a "
            "file, or by batch.index. "
            "Set uses_labels = True on the class and read batch.labels, so that the row is marked"
        )
    return "none read"


def _follow_labels(bench: Bench, task: PretextTask) -> bool:
    """Whether a small tensor of the views says the class of every image: one value for each class, over some batches,
    and not the same for all."""
    if bench.images.labels is None:
        return False
    truth = torch.from_numpy(bench.images.labels)
    batches, values, classes = bench.batches(), {}, []  # type: ignore[var-annotated]
    for step in range(LOOKED_AT):
        batch = batches.batch(step)
        classes += truth[batch.index].tolist()
        for number, leaf in enumerate(tensors(bench.views(task, batch, step))):
            small = leaf.ndim and len(leaf) == len(batch) and leaf.numel() <= LABEL_VALUES * len(batch)
            if small:
                values.setdefault(number, []).extend(map(tuple, leaf.reshape(len(leaf), -1).tolist()))
    of_every_image = [rows for rows in values.values() if len(rows) == len(classes) and len(set(rows)) > 1]
    return any(len(set(zip(rows, classes, strict=True))) == len(set(classes)) for rows in of_every_image)


def input_unchanged(bench: Bench) -> str:
    """``views`` leaves the batch as it was, and its result needs no gradient and is finite."""
    task, batch = bench.build(), bench.batch()
    before = copy.deepcopy(batch)
    views = bench.views(task, batch, 1)
    extra = [(f"extra[{name!r}]", batch.extra[name], column) for name, column in before.extra.items()]
    if batch.labels is not None and before.labels is not None:
        extra.append(("labels", batch.labels, before.labels))
    for what, now, then in (("images", batch.images, before.images), ("index", batch.index, before.index), *extra):
        if not torch.equal(now, then):
            raise CheckFailed(
                f"views changed batch.{what} in place; work on a copy, such as batch.images.clone() "
                "(operations that end in _ change their input)"
            )
    leaves = tensors(views)
    if not leaves:
        raise CheckFailed(
            f"views returned {type(views).__name__} without a tensor; return a tensor or a tuple or dict of them"
        )
    if any(view.is_floating_point() and not view.isfinite().all() for view in leaves):
        raise CheckFailed("views gave values that are not finite; look for a division by zero or a logarithm of zero")
    if any(view.requires_grad for view in leaves):
        raise CheckFailed(
            "views gave tensors that require a gradient; it runs without one, so move what has to learn into forward"
        )
    task = bench.build().eval()
    uses: list[tuple[str, Callable[[Tensor], Any]]] = [
        ("evaluated()", task.evaluated()),
        ("codes", task.codes),
        ("diagnose", task.diagnose),
        ("preview", lambda images: task.preview(replace(bench.batch(8), images=images))),
    ]
    for what, use in uses:
        images = bench.images_only(8)
        kept = images.clone()
        with torch.no_grad(), bench.calling(what), seeded(1):
            use(images)
        if not torch.equal(images, kept):
            raise CheckFailed(
                f"{what} changed the images it was given in place; other evaluators see the same ones: work on a copy"
            )
    return f"{len(leaves)} tensors"


def loss(bench: Bench) -> str:
    """``forward`` gives a dict of finite scalars with a "loss" that requires a gradient."""
    task = bench.build()
    said = []
    for phase, returned in zip(task.phases, bench.losses(task, bench.batch(), 1), strict=True):
        if not isinstance(returned, dict) or not isinstance(returned.get("loss"), Tensor):
            raise CheckFailed(
                f"forward must return a dict of tensors with the key 'loss', not {type(returned).__name__}; return "
                f"{{'loss': loss}}"
            )
        for name, value in returned.items():
            if not isinstance(value, Tensor) or value.ndim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise CheckFailed(f"{name!r} must be a scalar tensor, not {shape}; take its mean")
            if not value.isfinite():
                raise CheckFailed(
                    f"{name!r} is {float(value.detach())} on the first batch; look for log(0), division by zero or "
                    "exp of a large number"
                )
        if not returned["loss"].requires_grad:
            raise CheckFailed(
                "the loss does not depend on any parameter; check for .detach() or torch.no_grad() in forward"
            )
        said.append(f"{phase}: " + ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in returned.items()))
    return "; ".join(said)


def gradients(bench: Bench) -> str:
    """Every trainable parameter gets a finite gradient, and those of the backbone one that is not zero everywhere.

    The last stages of the backbone may go without one: a task may ask an early stage, and what lies behind it then
    stays as it starts.
    """
    task = bench.build()
    with seeded(2), torch.no_grad():
        # residual branches start at zero, and pass no gradient before they leave it
        for parameter in task.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    stepped = [
        (name, parameter)
        for name, parameter in task.named_parameters()
        if parameter.requires_grad and id(parameter) in trained
    ]
    # a part may join later, a backbone wait for its head, and a head be drawn for a step
    for number in range(MOST_STEPS_LOOKED_AT):
        if number >= len(THROUGH_A_RUN) and all(parameter.grad is not None for _, parameter in stepped):
            break
        task.progress = THROUGH_A_RUN[number % len(THROUGH_A_RUN)]
        bench.total(task, bench.batch(), 1 + number).backward()
    behind = _behind(stepped)
    for name, parameter in stepped:
        if parameter.grad is None:
            if name in behind:
                continue
            raise CheckFailed(f"no gradient reaches {name}; use it in forward, or freeze it with requires_grad_(False)")
        if not parameter.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name} is not finite; look for sqrt(0), a norm of zero or log(0)")
        if name.startswith("backbone.") and bench.task.role is not TaskRole.CONTROL and not parameter.grad.any():
            raise CheckFailed(
                f"the gradient of {name} is zero everywhere; look for .detach() or an operation without slope between "
                "it and the loss"
            )
    reached = sum(name.startswith("backbone.") and parameter.grad is not None for name, parameter in stepped)
    if behind:
        raise CheckWarning(
            f"the loss asks an early stage: no gradient reaches {behind[0]} and the {len(behind) - 1} parameters "
            "behind it. They stay as they start, so the "
            "pooled features, kNN and fine-tuning rest on untrained layers; the linear probe's best stage judges what "
            "was trained"
        )
    if not reached and bench.task.role is not TaskRole.CONTROL:
        return "no optimiser holds a parameter of self.backbone; the check of training tells whether the task moves it all the same"
    return f"{reached} backbone tensors"


def _behind(stepped: list[tuple[str, nn.Parameter]]) -> list[str]:
    """The backbone's parameters without a gradient, where they are its last, from the beginning of a stage on, and
    others have one."""
    backbone = [(name, parameter) for name, parameter in stepped if name.startswith("backbone.")]
    first = next((number for number, (_, parameter) in enumerate(backbone) if parameter.grad is None), 0)
    rest = backbone[first:]
    if not first or any(parameter.grad is not None for _, parameter in rest):
        return []
    stage = [re.search(r"\.layer(\d+)\.", backbone[number][0]) for number in (first - 1, first)]
    begins = stage[1] is not None and (stage[0] is None or stage[0][1] != stage[1][1])
    return [name for name, _ in rest] if begins else []


def same_seed(bench: Bench) -> str:
    """The same seed gives the same loss, bit for bit, and building the task again gives the same task."""
    first, second = (float(bench.total(bench.build(), bench.batch(), 1).detach()) for _ in range(2))
    if first != second:
        raise CheckFailed(
            f"the same seed gave losses {first!r} and {second!r}; draw with torch's, NumPy's or Python's global random "
            "functions, which the loop seeds, not with a generator of your own, and do not depend on time, ids or the "
            "order of a set"
        )
    if bench.task.role is not TaskRole.CONTROL and same_weights(
        *(judged_tensors(bench.build(seed)) for seed in (0, 1))
    ):
        raise CheckFailed(
            "the judged network starts from the same weights with every seed: they come from a file, or from a seed "
            "that the task sets itself, and no "
            "table would tell. Leave the network as it is given; a row that is to start from other weights says so: "
            "{'init': 'file:PATH'} or 'timm:NAME'"
        )
    return f"loss {first:.6g} twice"


def state(bench: Bench) -> str:
    """What the task has learned is in its state_dict: saved as safetensors and loaded strictly, it goes on as it was."""
    trained = bench.build(0)
    if bench.task.role.trains:
        fit(trained, bench.batches(), bench.recipes(), 2, seed=0, precision="fp32", cost=False)
    try:
        refuse_other_state(trained)
    except WeightsError as error:
        raise CheckFailed(str(error)) from None
    other = bench.build(1)
    with tempfile.TemporaryDirectory() as folder, bench.calling("saving and loading its state"):
        file = Path(folder) / "state.safetensors"
        save_checkpoint(file, trained, [], {})
        load_checkpoint(file, other, [], {})
    with torch.no_grad():
        trained.train(bench.task.role.trains), other.train(bench.task.role.trains)
        trained.progress = other.progress = 0.5
        if bench.task.role.trains:
            before, after = bench.total(trained, bench.batch(), 3), bench.total(other, bench.batch(), 3)
        else:
            before, after = (task.evaluated()(bench.images_only(8)) for task in (trained, other))
    if not torch.equal(before, after):
        raise CheckFailed(
            "a task restored from its state_dict goes on differently: something it needs is kept in a plain "
            "attribute; make "
            "tensors buffers with self.register_buffer, and derive what is fixed from setup.sample rather than from a "
            "draw in __init__"
        )
    return f"{len(trained.state_dict())} tensors"


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
