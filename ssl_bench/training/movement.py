"""Whether training moved the network that is judged:
a row that stands as pretrained must not be an untrained network."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from ssl_bench.errors import TrainingError
from ssl_bench.training.trainable import Trainable

RESOLUTION = 1e-7  #: relative change of a whole network below which float32 holds the same network
CONSTANT = 1e-6  #: largest deviation between images, relative to the largest feature, of features that hold nothing
#: share of a tensor's change that does not point along the tensor itself, below which weight decay alone explains it
PARALLEL = 0.01


class Movement:
    """The judged network's parameters when training began, to hold against those when it ended.

    A run that goes on from a checkpoint knows its start twice: by the digests that the checkpoint carries, and by the
    tensors as its seed builds them again. The network has to differ from both, so that neither a build that is drawn
    anew nor weights that a checkpoint does not hold can pass for training.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.digests: dict[str, str] = {}  #: by the parameters' names; plain data, kept in checkpoints

    def begin(self, task: Trainable) -> None:
        """Look at the network before the first step of a run."""
        self.rebuilt(task)
        self.digests = {name: tensor_digest(tensor) for name, tensor in self._tensors.items()}

    def rebuilt(self, task: Trainable) -> None:
        """Look at the network as it is built, before a checkpoint is loaded into it."""
        self._tensors = {name: tensor.detach().cpu().clone() for name, tensor in judged_tensors(task).items()}

    def check(self, task: Trainable, learning_rate: float, control: bool = False) -> str:
        """How many tensors moved, such as "4 of 62"; raises TrainingError where the task's declaration does not hold.

        Parameters
        ----------
        learning_rate : the recipe's, for the message.
        control : the task declares that its network stays as it is.

        Raises
        ------
        TrainingError : nothing moved, only weight decay moved it, a parameter is not finite, or a network that is
            declared to stay as it is moved.
        """
        # copies: a network that evaluated() changes where it stands would equal itself
        now, again = (
            {name: tensor.detach().cpu().clone() for name, tensor in judged_tensors(task).items()} for _ in range(2)
        )
        if now.keys() != again.keys() or any(
            not torch.equal(now[name], again[name]) for name in now if not now[name].isnan().any()
        ):
            raise TrainingError(
                f"{task.name}: evaluated() gives another network at every call; return the one that is trained, or a "
                "copy of it"
            )
        broken = [name for name, tensor in now.items() if not tensor.isfinite().all()]
        if broken:
            raise TrainingError(
                f"{task.name}: after training, {len(broken)} of {len(now)} parameters of the judged network are not "
                f"finite (first: {broken[0]}); "
                "try a lower learning_rate or clip_norm: 1.0"
            )
        changed = [
            name
            for name, tensor in now.items()
            if name not in self.digests or tensor_digest(tensor) != self.digests[name]
        ]
        if all(name in self._tensors and torch.equal(tensor, self._tensors[name]) for name, tensor in now.items()):
            changed = []  # as this process built it, whatever the process that began the run had built
        decayed, distance, norm = [], 0.0, 0.0
        for name, tensor in now.items():
            start = self._tensors.get(name)
            if start is None or start.shape != tensor.shape:
                distance, norm = distance + 1.0, norm + 1.0
                continue
            step, turned = _change(start.double(), tensor.double())
            norm += float(start.double().square().sum())
            if step and tensor.ndim > 1 and turned <= max(PARALLEL * step, RESOLUTION * float(tensor.double().norm())):
                decayed.append(name)
            else:
                distance += step**2
        still = not changed or distance <= (RESOLUTION**2) * max(norm, 1e-30)
        if control:
            if changed:
                raise TrainingError(
                    f'{task.name} declares role = "control", '
                    f"and training moved {len(changed)} of {len(now)} parameters of the judged network "
                    f"(first: {changed[0]}); keep them out of phase_parameters, or remove the declaration"
                )
            return f"0 of {len(now)}"
        if still:
            raise TrainingError(f"{task.name}: {_why(task, now, changed, decayed, learning_rate)}")
        return f"{len(changed)} of {len(now)}"


def judged_tensors(task: Trainable) -> dict[str, Tensor]:
    """The parameters of ``task.evaluated()``; of a network without any,
    its floating buffers, those of norms left out."""
    judged = task.evaluated()
    parameters: dict[str, Tensor] = dict(judged.named_parameters())
    if parameters:
        return parameters
    norms = [name for name, module in judged.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    statistics = {f"{name}.{kind}".lstrip(".") for name in norms for kind in ("running_mean", "running_var")}
    return {
        name: buffer
        for name, buffer in judged.named_buffers()
        if buffer.is_floating_point() and buffer.ndim and name not in statistics
    }


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all weights of two networks are equal, bit for bit; gains and biases, which start alike, do not count."""
    weights = [name for name, tensor in first.items() if tensor.ndim > 1]
    return bool(weights) and all(name in second and torch.equal(first[name], second[name]) for name in weights)


@torch.no_grad()
def constant_features(judged: nn.Module, images: Tensor, name: str) -> str:
    """The outputs of a network that are the same for every image, such as "s4, pooled"; "" for none.

    Parameters
    ----------
    images : float [B, 3, S, S] in [0, 1].
    name : of the task, for messages.

    Raises
    ------
    TrainingError : a feature is not finite.
    """
    stage_features: dict[str, Tensor] = {}
    stages = getattr(judged, "stages", None)
    if callable(stages):
        stage_features |= stages(images)
    stage_features["pooled"] = judged(images)
    for stage, features in stage_features.items():
        if not features.isfinite().all():
            raise TrainingError(
                f"{name}: after training, the features of {stage} are not finite on {len(images)} images; try a lower "
                "learning_rate or clip_norm: 1.0"
            )
    flat = {stage: features.flatten(1).double() for stage, features in stage_features.items()}
    same = [
        stage
        for stage, x in flat.items()
        if len(x) > 1 and float(x.std(0).max()) <= CONSTANT * max(float(x.abs().max()), 1e-30)
    ]
    return ", ".join(same)


def _why(task: Trainable, now: dict[str, Tensor], changed: list[str], decayed: list[str], learning_rate: float) -> str:
    if not now:
        return (
            "the judged network has no parameters, so training cannot have taught it anything; return the trained "
            "network from evaluated(), "
            'or give a baseline role = "features"'
        )
    if decayed:
        return (
            f"training only shrank the judged network ({len(decayed)} of {len(now)} parameters by weight decay): no "
            "gradient reached it. "
            "Look for an operation without slope, or a factor of zero, between it and the loss"
        )
    if changed:
        return (
            f"training moved the judged network by less than float32 resolves (learning_rate {learning_rate:g}), so "
            "it is the network it started "
            "from; give a larger learning_rate"
        )
    stepped = {id(parameter) for phase in task.phases for _, parameter in task.phase_parameters(phase)}
    reached = sum(id(tensor) in stepped for tensor in task.evaluated().parameters())
    begin = (
        f"none of the {len(now)} parameters of the judged network moved in training, "
        "so this row would be an untrained network. "
    )
    if reached:
        return begin + (
            "The optimiser holds them: look for .detach() or torch.no_grad() between network and loss, for weights "
            "that after_step puts back, "
            f"and for a learning_rate that is too small ({learning_rate:g})"
        )
    return begin + (
        "No optimiser holds them: evaluated() must return the network that is trained, a module of the task itself "
        "(not in a list or a copy made "
        "before training), with requires_grad, and listed by phase_parameters. A control that is meant to stay as it "
        "starts has "
        'role = "control", or role = "untrained" where nothing is trained at all'
    )


def _change(start: Tensor, end: Tensor) -> tuple[float, float]:
    """The norm of the change, and of that part of it which does not point along the tensor as it started."""
    change = end - start
    square = float(start.square().sum())
    along = float((change * start).sum()) / square if square else 0.0
    return float(change.norm()), float((change - along * start).norm())


def tensor_digest(tensor: Tensor) -> str:
    """Equal for equal bits."""
    return hashlib.blake2b(
        tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(), digest_size=12
    ).hexdigest()
