"""Frozen features of one backbone: extracted in one pass per split, shared by every frozen evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.backbones.network import Network
from ssl_bench.backbones.resnet import pool_stage
from ssl_bench.data.batches import ImageStore
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import Interrupted, SpecError, TrainingError

STAGE_LIMIT_CPU, STAGE_LIMIT = 2_048, 9_000  # values a stage is pooled to at most (Goyal et al., 2019, use about 9,000)


def stage_limit(device: torch.device) -> int:
    """How many values a stage may give: fewer on a CPU, where probes on them are to stay cheaper than pretraining."""
    return STAGE_LIMIT_CPU if device.type == "cpu" else STAGE_LIMIT


class FrozenFeatures:
    """Features of a backbone in eval mode (BatchNorm's running statistics, no dropout), without gradient, in float32.

    A split is read once, when its first feature is asked for. Each stage is averaged to the largest s x s with s * s *
    C <= ``limit``; "pooled" is the backbone's own output, of a ResNet the global average of the last stage. A backbone
    without ``stages`` (pixels, PCA) has "pooled" only. Codes come last.

    Parameters
    ----------
    backbone : the frozen network; its mode and the random state are left as they were.
    codes : images float [B, 3, S, S] in [0, 1] to further representations, name -> [B, D].
    splits : "train", "validation" and, once the matrix is final, "test".
    limit : values a stage may give; None: 2,048 on a CPU, 9,000 elsewhere.
    memory : bytes of features of one split that may stay on the device; a larger split waits in host memory.
    stop : asked between batches; when true, Interrupted is raised.

    Raises
    ------
    TrainingError : features that are not finite, when they are first asked for.
    """

    def __init__(
        self,
        backbone: nn.Module,
        codes: Callable[[Tensor], Mapping[str, Tensor]],
        splits: Mapping[str, ImageSet],
        device: torch.device | str = "cpu",
        limit: int | None = None,
        *,
        batch_size: int = 512,
        memory: int = 16 << 30,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.backbone, self.codes, self.splits, self.device = backbone, codes, dict(splits), torch.device(device)
        self.limit = stage_limit(self.device) if limit is None else limit
        self.batch_size, self.memory, self.stop = batch_size, memory, stop
        self._extracted: dict[str, dict[str, Tensor]] = {}
        self._names: list[str] | None = None

    def names(self) -> list[str]:
        """Stages in order ("s1".."s4"), then "pooled", then codes."""
        if self._names is None:
            images = next(iter(self.splits.values()))
            store = ImageStore(images, self.device, memory=0)
            with _Frozen(self.backbone, self.device):
                self._names = list(self._extract(store.gather(torch.arange(min(2, len(images))))))
        return list(self._names)

    def get(self, split: str, name: str) -> Tensor:
        """Float32 [N, D] of a split on the evaluation device.

        Raises SpecError for a split or name that is not there.
        """
        if split not in self.splits:
            raise SpecError(f"features of split {split!r} were not made available; there are: {', '.join(self.splits)}")
        if split not in self._extracted:
            self._extracted[split] = self._read(self.splits[split])
        if name not in self._extracted[split]:
            raise SpecError(f"no feature is called {name!r}; there are: {', '.join(self._extracted[split])}")
        return self._extracted[split][name].to(self.device)

    def release(self, split: str | None = None) -> None:
        """Forget the features of one split, or of all; asked for again, they are extracted again."""
        for held in [split] if split is not None else list(self._extracted):
            self._extracted.pop(held, None)

    def _read(self, images: ImageSet) -> dict[str, Tensor]:
        store = ImageStore(images, self.device, memory=1 << 30)
        features: dict[str, Tensor] = {}
        start = 0
        with _Frozen(self.backbone, self.device):
            for chunk in store.in_order(self.batch_size):
                if self.stop():
                    raise Interrupted("stopped while extracting features")
                part = self._extract(chunk)
                if not features:
                    size = 4 * len(images) * sum(values.shape[1] for values in part.values())
                    home = self.device if size <= self.memory else torch.device("cpu")
                    features = {
                        name: torch.empty(len(images), values.shape[1], device=home) for name, values in part.items()
                    }
                for name, values in part.items():
                    features[name][start : start + len(chunk)] = values
                start += len(chunk)
        for name, values in features.items():
            if not bool(torch.isfinite(values).all()):
                count = int((~torch.isfinite(values)).any(1).sum())
                where = f"{count:,} of {len(images):,} images of {images.name}"
                raise TrainingError(f"feature {name!r} is not finite for {where}; the weights have diverged")
        return features

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.backbone.features(images) if isinstance(self.backbone, Network) else self._of_module(images)
        features = {name: x if name == "pooled" else pool_stage(x, self.limit) for name, x in outputs.items()}
        for name, code in self.codes(images).items():
            if name in features:
                raise SpecError(f"a code is called {name!r}, which is the name of a stage; give it another")
            features[name] = code.flatten(1)
        return {name: values.float() for name, values in features.items()}

    def _of_module(self, images: Tensor) -> dict[str, Tensor]:
        """Stages, where it has any, and "pooled" of a module that is no ``Network``."""
        stages: Any = getattr(self.backbone, "stages", None)
        maps = stages(images) if stages is not None else {}
        if not maps:
            return {"pooled": self.backbone(images)}
        last = next(reversed(maps.values()))
        return {**maps, "pooled": last.mean((2, 3)) if last.ndim == 4 else last}


class _Frozen:
    """Eval mode, no gradient, true float32; everything as it was afterwards, module by module."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.modes = [(module, module.training) for module in network.modules()]
        self.contexts: list[Any] = [torch.no_grad(), torch.autocast(device.type, enabled=False)]
        if device.type == "cuda":  # convolutions use TF32 unless told not to
            cudnn = torch.backends.cudnn
            same = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
            self.contexts.append(cudnn.flags(**same, allow_tf32=False))

    def __enter__(self) -> None:
        for module, _ in self.modes:
            module.training = False
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self.contexts):
            context.__exit__(None, None, None)
        for module, training in self.modes:
            module.training = training


def frozen(network: nn.Module, device: torch.device) -> _Frozen:
    """A context in which ``network`` is only looked at: eval mode, no gradient, float32, and each module's mode
    restored."""
    return _Frozen(network, device)
