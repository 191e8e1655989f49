"""What other libraries take for the same work: views, the linear probe, decoding."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssl_bench.evaluators.linear.logistic import TOLERANCE, SoftmaxRegression
from ssl_bench.transforms.policy import augmented, contrastive_policy

sys.path.insert(0, str(Path(__file__).parent))
from interleaved import NOT_HERE, REPEATS, Ratio, in_turn, seconds_of

STRENGTH = 0.5  # of the colour changes, as at 32 px
L2 = 1e-3


def _ratio(
    part: str,
    name: str,
    against: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    count: int,
) -> Ratio:
    """``count`` things in the time of one call, ours against theirs."""
    pairs = in_turn(partial(seconds_of, ours), partial(seconds_of, theirs), repeats)
    mean = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    speeds = {"per_second": count / mean[0], "against_per_second": count / mean[1]}
    return Ratio(part, name, against, [other / seconds for seconds, other in pairs], absolute=speeds)


def measure_views(batch: int = 256, repeats: int = REPEATS, size: int = 32) -> Iterator[Ratio]:
    """Two SimCLR views of a batch of decoded images: ours against torchvision's and Kornia's operations."""
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    policy = contrastive_policy(STRENGTH, interpolation="bicubic")

    def ours() -> None:
        for _ in range(2):
            augmented(pixels.float() / 255, policy)

    for name, make in (("torchvision v2", _torchvision), ("Kornia", _kornia)):
        try:
            one_view = make(size)
        except ImportError as error:
            yield Ratio("views", "our SimCLR views", name, note=NOT_HERE.format(f"{error.name} is not installed"))
            continue

        def theirs(one_view: Callable[[torch.Tensor], object] = one_view) -> None:
            for _ in range(2):
                one_view(pixels)

        yield _ratio("views", "our SimCLR views", name, ours, theirs, repeats, batch)


def _torchvision(size: int) -> Callable[[torch.Tensor], object]:
    """An image at a time: its operations draw once for all that they are given."""
    from torchvision.transforms import InterpolationMode, v2

    view = v2.Compose([
        v2.RandomResizedCrop(size, (0.08, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*[0.8 * STRENGTH] * 3, 0.2 * STRENGTH)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    return lambda pixels: torch.stack([view(image) for image in pixels])


def _kornia(size: int) -> Callable[[torch.Tensor], object]:
    import kornia.augmentation as kornia

    view = torch.nn.Sequential(
        kornia.RandomResizedCrop((size, size), (0.08, 1.0), resample="bicubic"),
        kornia.RandomHorizontalFlip(),
        kornia.ColorJitter(*[0.8 * STRENGTH] * 3, 0.2 * STRENGTH, p=0.8),
        kornia.RandomGrayscale(p=0.2),
    )
    return lambda pixels: view(pixels.float() / 255)


def measure_probe(images: int = 45_000, width: int = 512, classes: int = 10, repeats: int = REPEATS) -> Iterator[Ratio]:
    """One fit of the probe's classifier against scikit-learn's, at the same strength; the note says how far apart their
    accuracies are."""
    name, against = "our probe, one fit", "scikit-learn's LogisticRegression (lbfgs)"
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        yield Ratio("probe", name, against, note=NOT_HERE.format("scikit-learn is not installed"))
        return
    features, labels = correlated(images, width, classes)
    x, y = features.numpy(), labels.numpy()
    # the objective is the same: theirs is divided by l2 * N
    theirs = LogisticRegression(C=1 / (L2 * images), solver="lbfgs", tol=1e-4, max_iter=2_000)
    solutions: dict[str, float] = {}

    def fit_ours() -> None:
        found = SoftmaxRegression(features, labels, classes).fit(L2, None, TOLERANCE)
        logits = features @ found.weight.T + found.bias
        solutions["ours"] = float((logits.argmax(1) == labels).float().mean())

    def fit_theirs() -> None:
        solutions["theirs"] = float(theirs.fit(x, y).score(x, y))

    ratio = _ratio("probe", name, against, fit_ours, fit_theirs, repeats, 1)
    note = f"accuracy {100 * solutions['ours']:.2f} % and {100 * solutions['theirs']:.2f} %"
    yield Ratio(ratio.part, name, against, ratio.ratios, note, ratio.absolute)


def correlated(images: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features that lean on each other as a network's do, and labels that they half tell."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=generator)
    hidden = torch.randn(classes, 64, generator=generator)[labels] * 0.35
    hidden += torch.randn(images, 64, generator=generator)
    mixing = torch.randn(64, width, generator=generator) * torch.linspace(1, 0.05, 64)[:, None]
    features = (hidden @ mixing + 0.5 * torch.randn(images, width, generator=generator)).relu_()
    return (features - features.mean(0)) / features.std(0).clamp_min(1e-6), labels


def measure_decoding(count: int = 500, repeats: int = REPEATS, size: int = 96) -> Iterator[Ratio]:
    """simplejpeg against Pillow, which decodes here; the note says how many pixels come out alike."""
    try:
        import simplejpeg
    except ImportError:
        yield Ratio("decoding", "simplejpeg", "Pillow", note=NOT_HERE.format("simplejpeg is not installed"))
        return
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        buffer = io.BytesIO()
        smooth.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())

    def by_pillow() -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]

    def by_simplejpeg() -> list[np.ndarray]:
        return [simplejpeg.decode_jpeg(file, "RGB") for file in files]

    same = [np.array_equal(a, b) for a, b in zip(by_pillow(), by_simplejpeg(), strict=True)]
    ratio = _ratio("decoding", "simplejpeg", "Pillow", by_simplejpeg, by_pillow, repeats, count)
    note = f"{100 * np.mean(same):.0f} % of the images are identical"
    yield Ratio(ratio.part, ratio.name, ratio.against, ratio.ratios, note, ratio.absolute)
