"""The checks behind ``ssl_bench.testing``, in the order in which they run."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import json
import math
import tempfile
import textwrap
import time
import tokenize
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from scipy import stats
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssl_bench._bench import BATCH, STEPS, Bench, Check, CheckFailed, CheckWarning, DeclaredOnly, Forbidden, NoiseBatches, NotApplicable
from ssl_bench._bench import repeated, seeded, tensors
from ssl_bench.checkpoints import load_checkpoint, save_checkpoint
from ssl_bench.errors import SSLBenchError
from ssl_bench.fit import fit
from ssl_bench.records import digest
from ssl_bench.spec import parse
from ssl_bench.tasks.base import PretextTask

NOISE_STEPS = 300
NOISE_PREDICTIONS = 4_096
NOISE_BATCH = 16
NOISE_CONFIDENCE = 0.999
VIEWS_SHARE = 0.15  #: of a step at width 0.25; more is worth a look


def checks_for(task: type[PretextTask], noise: bool) -> list[Check]:
    """The checks that apply to a task."""
    chosen = [documented, options, builds, preview, state]
    if task.trains:
        chosen += [labels, input_unchanged, draws, loss, gradients, same_seed, devices, loss_falls, views_cost]
    if task.trains and noise:
        chosen.append(noise_at_chance)
    return [Check(check.__name__, (check.__doc__ or "").splitlines()[0], check) for check in chosen]


def documented(bench: Bench) -> str:
    """The class has a docstring of its own, and every option says what it does."""
    if not (vars(bench.task).get("__doc__") or "").strip():
        raise CheckFailed(f"{bench.task.__name__} has no docstring; say in one line what it asks of an image, and name the paper")
    model = bench.task.Options
    said = _commented(model) | {name for name, field in model.model_fields.items() if field.description}
    silent = [name for name in model.model_fields if name not in said]
    if silent:
        raise CheckFailed(f"option {silent[0]!r} says nowhere what it does; write `{silent[0]}: ... = ...  #: what it does`, or Field(description=...)")
    return f"{len(model.model_fields)} options"


def _commented(model: type[BaseModel]) -> set[str]:
    """Fields with a ``#:`` comment on their own lines or right above, as Sphinx reads them."""
    found: set[str] = set()
    for owner in model.__mro__:
        if not (issubclass(owner, BaseModel) and owner is not BaseModel):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        notes = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT and t.string.startswith("#:")}
        alone = {line for line in notes if source.splitlines()[line - 1].lstrip().startswith("#:")}
        body = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                if own & notes or node.lineno - 1 in alone:
                    found.add(node.target.id)
    return found


def options(bench: Bench) -> str:
    """The options have defaults, and survive JSON, which is how they enter a cell's id and its record."""
    try:
        given = bench.options
    except SSLBenchError as error:
        raise CheckFailed(f"the options cannot be made: {error}; give every option a default, or pass options={{...}}") from None
    try:
        text = json.dumps(given.model_dump(mode="json"), allow_nan=False)
        digest(json.loads(text))
        again = parse(bench.task.Options, json.loads(text), "options read back")
    except (SSLBenchError, TypeError, ValueError) as error:
        raise CheckFailed(f"the options do not survive JSON ({error}); use numbers, strings, booleans, tuples and models of these") from None
    if again != given:
        raise CheckFailed(f"the options read back from JSON differ: {again!r}, not {given!r}; a validator that changes its own output cannot enter an id")
    return ", ".join(f"{name}={value!r}" for name, value in given) or "none"


def builds(bench: Bench) -> str:
    """The task is built, and what it offers for judging gives one finite vector per image."""
    task = bench.build().eval()
    images = bench.images_only(8)
    with torch.no_grad(), bench.calling("evaluated()"):
        judged = task.evaluated()
        features = judged(images)
        width = int(judged.num_features) if hasattr(judged, "num_features") else None
    if features.shape != (8, width) or not features.isfinite().all():
        raise CheckFailed(
            f"evaluated() must give finite features [B, num_features]; 8 images gave {tuple(features.shape)} and num_features is {width}. "
            "Return a module with `num_features` whose forward takes RGB in [0, 1]"
        )
    with torch.no_grad(), bench.calling("codes(images)"):
        codes = dict(task.codes(images))
    for name, code in codes.items():
        if code.ndim != 2 or len(code) != 8 or not code.isfinite().all():
            raise CheckFailed(f"code {name!r} must be finite [B, D]; 8 images gave {tuple(code.shape)}; flatten it")
    json.dumps(dict(task.describe()))
    parameters = sum(p.numel() for p in task.parameters())
    return f"{parameters:,} parameters, features [B, {width}]" + "".join(f", code {name} [B, {code.shape[1]}]" for name, code in codes.items())


def labels(bench: Bench) -> str:
    """Labels and extra columns are read only where they are declared."""
    task, batch = bench.build(), bench.batch()
    if bench.task.uses_labels:
        assert batch.labels is not None
        moved = replace(batch, labels=batch.labels.roll(1))
        if torch.equal(bench.total(task, batch, 1), bench.total(bench.build(), moved, 1)):
            raise CheckFailed("uses_labels is set but other labels give the same loss; remove uses_labels, which marks the row in every table")
        return "declared and used"
    refusal = Forbidden("batch.labels is read, and a pretext task gets none; set uses_labels = True on the class if it is meant to see labels")
    bench.losses(task, replace(batch, labels=refusal, extra=DeclaredOnly(batch.extra)), 1)  # type: ignore[arg-type]
    return "none read"


def input_unchanged(bench: Bench) -> str:
    """``views`` leaves the batch as it was, and its result needs no gradient and is finite."""
    task, batch = bench.build(), bench.batch()
    before = copy.deepcopy(batch)
    views = bench.views(task, batch, 1)
    for what, now, then in (("images", batch.images, before.images), ("index", batch.index, before.index), *((n, batch.extra[n], before.extra[n]) for n in before.extra)):
        if not torch.equal(now, then):
            raise CheckFailed(f"views changed batch.{what} in place; work on a copy, such as batch.images.clone() (operations that end in _ change their input)")
    found = tensors(views)
    if not found:
        raise CheckFailed(f"views returned {type(views).__name__} without a tensor; return a tensor or a tuple or dict of them")
    if any(view.is_floating_point() and not view.isfinite().all() for view in found):
        raise CheckFailed("views gave values that are not finite; look for a division by zero or a logarithm of zero")
    if any(view.requires_grad for view in found):
        raise CheckFailed("views gave tensors that require a gradient; it runs without one, so move what has to learn into forward")
    return f"{len(found)} tensors"


def draws(bench: Bench) -> str:
    """Random views differ from sample to sample: a draw that a whole batch shares halves the variety and leaks through BatchNorm."""
    seeds = 24
    task, batch = bench.build(), repeated(bench.batch(16))
    drawn = [tensors(bench.views(task, batch, seed)) for seed in range(seeds)]
    if len({len(found) for found in drawn}) > 1:
        raise NotApplicable("the number of views is itself drawn")
    random_views, shared = 0, 0.0
    for leaf in zip(*drawn, strict=True):
        same_shape = [view for view in leaf if view.shape == leaf[0].shape and view.ndim and len(view) % 16 == 0 and len(view)]
        if len(same_shape) < 12 or all(torch.equal(view, same_shape[0]) for view in same_shape):
            continue
        random_views += 1
        stacked = torch.stack(same_shape).double().unflatten(1, (-1, 16)).transpose(1, 2)  # [seeds, 16, views of an image, ...]
        if torch.equal(stacked, stacked[:, :1].expand_as(stacked)):
            raise CheckFailed(
                "16 copies of one image got the same draw, in every one of 24 batches; draw per sample: torch.rand(len(images), ...), not torch.rand(1)"
            )
        shared = max(shared, _shared_variance(stacked))
    if not random_views:
        raise NotApplicable("the views are not random")
    if shared > 3:
        raise CheckWarning(
            f"part of the draws is shared by a whole batch: the averages of batches vary {shared:.0f} times as much as independent samples would make "
            "them; draw every parameter per sample, unless this is meant"
        )
    return f"{random_views} random tensors"


def _shared_variance(drawn: Tensor) -> float:
    """How much more batch averages vary than independent samples explain: an F value, reported as 1 where chance explains it.

    ``drawn`` is [batches, samples, ...]. Each sample is summed up by its channel means and by eight fixed random projections.
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


def loss(bench: Bench) -> str:
    """``forward`` gives a dict of finite scalars with a "loss" that requires a gradient."""
    task = bench.build()
    said = []
    for phase, found in zip(task.phases, bench.losses(task, bench.batch(), 1), strict=True):
        if not isinstance(found, dict) or not isinstance(found.get("loss"), Tensor):
            raise CheckFailed(f"forward must return a dict of tensors with the key 'loss', not {type(found).__name__}; return {{'loss': loss}}")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.ndim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise CheckFailed(f"{name!r} must be a scalar tensor, not {shape}; take its mean")
            if not value.isfinite():
                raise CheckFailed(f"{name!r} is {float(value)} on the first batch; look for log(0), division by zero or exp of a large number")
        if not found["loss"].requires_grad:
            raise CheckFailed("the loss does not depend on any parameter; check for .detach() or torch.no_grad() in forward")
        said.append(f"{phase}: " + ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in found.items()))
    return "; ".join(said)


def gradients(bench: Bench) -> str:
    """Every trainable parameter gets a finite gradient, and those of the backbone one that is not zero everywhere."""
    task = bench.build()
    with seeded(2), torch.no_grad():
        for parameter in task.parameters():  # residual branches start at zero, and pass no gradient before they leave it
            parameter.add_(0.05 * torch.randn_like(parameter))
    bench.total(task, bench.batch(), 1).backward()
    trained = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    reached = 0
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad or id(parameter) not in trained:
            continue
        if parameter.grad is None:
            raise CheckFailed(f"no gradient reaches {name}; use it in forward, or freeze it with requires_grad_(False)")
        if not parameter.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name} is not finite; look for sqrt(0), a norm of zero or log(0)")
        if name.startswith("backbone."):
            reached += 1
            if not parameter.grad.any():
                raise CheckFailed(f"the gradient of {name} is zero everywhere; look for .detach() or an operation without slope between it and the loss")
    if not reached:
        raise CheckFailed("the task trains no parameter of self.backbone; keep the backbone given to __init__ (super().__init__ does) and use it in forward")
    return f"{reached} backbone tensors"


def same_seed(bench: Bench) -> str:
    """The same seed gives the same loss, bit for bit, and building the task again gives the same task."""
    first, second = (float(bench.total(bench.build(), bench.batch(), 1).detach()) for _ in range(2))
    if first != second:
        raise CheckFailed(
            f"the same seed gave losses {first!r} and {second!r}; draw with torch's, NumPy's or Python's global random functions, which the loop "
            "seeds, not with a generator of your own, and do not depend on time, ids or the order of a set"
        )
    return f"loss {first:.6g} twice"


def state(bench: Bench) -> str:
    """What the task has learned is in its state_dict: saved as safetensors and loaded strictly, it goes on as it was."""
    trained = bench.build(0)
    if bench.task.trains:
        fit(trained, bench.batches(), _recipe(bench), 2, seed=0, precision="fp32", cost=False)
    other = bench.build(1)
    with tempfile.TemporaryDirectory() as folder, bench.calling("saving and loading its state"):
        file = Path(folder) / "state.safetensors"
        save_checkpoint(file, trained, [], {})
        load_checkpoint(file, other, [], {})
    with torch.no_grad():
        trained.train(bench.task.trains), other.train(bench.task.trains)
        trained.progress = other.progress = 0.5
        if bench.task.trains:
            before, after = bench.total(trained, bench.batch(), 3), bench.total(other, bench.batch(), 3)
        else:
            before, after = (task.evaluated()(bench.images_only(8)) for task in (trained, other))
    if not torch.equal(before, after):
        raise CheckFailed(
            "a task restored from its state_dict goes on differently: something it needs is kept in a plain attribute; make tensors buffers "
            "with self.register_buffer, and derive what is fixed from setup.sample rather than from a draw in __init__"
        )
    return f"{len(trained.state_dict())} tensors"


def devices(bench: Bench) -> str:
    """The task computes under bf16 and on another device: nothing in it stays behind on the CPU."""
    task = bench.build()
    with torch.autocast("cpu", torch.bfloat16):
        value = bench.total(task, bench.batch(16), 1)
    value.backward()
    finite = all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in task.parameters())
    if not value.isfinite() or not finite:
        raise CheckFailed("under bf16 autocast the loss or a gradient is not finite; compute logarithms, norms and divisions in float32: x.float()")
    if torch.cuda.is_available():
        task = bench.build().to("cuda")
        value = bench.total(task, _moved(bench.batch(16), "cuda"), 1)
        value.backward()
        if not value.isfinite():
            raise CheckFailed(f"on the GPU the loss is {float(value)}, and on the CPU it is finite; look for uninitialised memory (torch.empty)")
        return "bf16, cuda"
    return "bf16, " + _on_pretended_gpu(bench)


def _on_pretended_gpu(bench: Bench) -> str:
    """Views and forward on tensors that have a GPU as device and no values, which shows what was left on the CPU."""
    task, batch = bench.build(), bench.batch(16)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def pretend(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor.detach()).to("cuda")

        for module in task.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(pretend(parameter), parameter.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, pretend(buffer))
        moved = replace(
            batch, images=pretend(batch.images), index=pretend(batch.index), labels=None if batch.labels is None else pretend(batch.labels),
            extra={name: pretend(column) for name, column in batch.extra.items()},
        )
        try:
            bench.losses(task, moved, 1)
        except CheckFailed as failure:
            words = str(failure.__cause__)
            if "same device" in words or "different devices" in words:
                raise CheckFailed(
                    f"on a GPU it would fail: {failure}. Make new tensors where the images are (device=images.device), and keep tensors as buffers"
                ) from failure
            return f"a GPU cannot be tried without one ({type(failure.__cause__).__name__}, usually code that looks at values)"
    return "a GPU in pretence"


def _moved(batch: Any, device: str) -> Any:
    labels = None if batch.labels is None else batch.labels.to(device)
    return replace(batch, images=batch.images.to(device), index=batch.index.to(device), labels=labels, extra={n: c.to(device) for n, c in batch.extra.items()})


def preview(bench: Bench) -> str:
    """``preview`` gives pictures."""
    task = bench.build().eval()
    with seeded(1), bench.calling("preview"):
        pictures = dict(task.preview(bench.batch(8)))
    for name, picture in pictures.items():
        if picture.ndim != 4 or picture.shape[1] != 3 or picture.min() < 0 or picture.max() > 1:
            raise CheckFailed(f"preview {name!r} must be [N, 3, H, W] in [0, 1], not {tuple(picture.shape)} in [{picture.min():.2f}, {picture.max():.2f}]")
    return ", ".join(pictures)


def loss_falls(bench: Bench) -> str:
    """A short run on the embedded shapes lowers the loss, measured before and after on the same images and draws."""
    if len(bench.task.phases) > 1:
        raise NotApplicable("phases that work against each other need not lower a loss")
    task = bench.build()
    before = _mean_loss(bench, task)
    result = fit(task, bench.batches(), _recipe(bench), STEPS, seed=0, precision="fp32", cost=False)
    after = _mean_loss(bench, task.train())
    if not after < before:
        raise CheckFailed(
            f"after {result.steps} steps the loss is {after:.4g}, and it was {before:.4g}; try another learning rate in `recipe` "
            "(short_learning_rate), and see that the views hold what the loss asks for"
        )
    return f"{before:.4g} to {after:.4g} in {result.steps} steps"


def _mean_loss(bench: Bench, task: PretextTask) -> float:
    probe, batches = copy.deepcopy(task), bench.batches()
    with torch.no_grad():
        return math.fsum(float(bench.total(probe, batches.batch(step), 10 + step)) for step in range(8)) / 8


def _recipe(bench: Bench, batch_size: int = BATCH) -> Any:
    return bench.task.recipe(bench.options, bench.size, STEPS).model_copy(update={"batch_size": batch_size})


def views_cost(bench: Bench) -> str:
    """Making views takes a small part of a step."""
    task, batch = bench.build(0, "resnet18", 0.25, 128), bench.batch(128)
    making, learning = [], []
    for seed in range(3):
        started = time.perf_counter()
        for number in range(len(task.phases)):
            bench.views(task, batch, seed, number)
        made = time.perf_counter()
        bench.total(task, batch, seed).backward()
        making.append(made - started)
        learning.append(time.perf_counter() - made)  # makes the views once more
    share = min(making) / max(min(learning), 1e-9)
    said = f"views take {share:.0%} of a step (ResNet-18 at width 0.25, {bench.size} px)"
    if share > VIEWS_SHARE:
        raise CheckWarning(f"{said}; work on the whole batch at once, without a loop over images")
    return said


def noise_at_chance(bench: Bench) -> str:
    """Trained and asked on pure noise, the task is as good as a guess: what scores more is not about the image."""
    task = bench.build(batch_size=NOISE_BATCH)
    reported = any("accuracy" in found for found in bench.losses(task, bench.batch(), 1))
    chance = task.chance_accuracy()
    if not reported:
        raise NotApplicable("no accuracy is reported")
    if chance is None:
        raise CheckWarning("an accuracy is reported, and chance_accuracy() is not given; define it where noise cannot raise the accuracy")
    fit(task, NoiseBatches(bench, NOISE_BATCH, 1), _recipe(bench, NOISE_BATCH), NOISE_STEPS, seed=0, precision="fp32", cost=False)  # type: ignore[arg-type]
    fresh = NoiseBatches(bench, 2 * BATCH, 2)
    rounds = math.ceil(NOISE_PREDICTIONS / fresh.batch_size)
    with torch.no_grad():
        right = math.fsum(float(bench.losses(task, fresh.batch(step), 100 + step)[0]["accuracy"]) for step in range(rounds)) / rounds
    count = rounds * fresh.batch_size  # at least one prediction an image; more of them only narrow what is seen
    low, high = (float(edge) / count for edge in stats.binom.interval(NOISE_CONFIDENCE, count, chance))
    said = f"accuracy {right:.2%} on noise after {NOISE_STEPS} steps; a guess gives {low:.2%} to {high:.2%} ({NOISE_CONFIDENCE:.1%}, {count:,} images)"
    if not low <= right <= high:
        raise CheckFailed(
            f"{said}. Something other than the image gives the answer away (borders left by padding or rotation, the order of a batch, "
            "values that only one class of views can have), or chance_accuracy() is wrong"
        )
    return said
