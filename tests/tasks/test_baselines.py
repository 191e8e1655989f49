"""Baselines: the untrained network as it is, pixels by area, principal components as scikit-learn finds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as Oracle
from torch import Tensor

from ssl_bench.backbones.resnet import Backbone, reestimate_batchnorm
from ssl_bench.errors import DataError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.baselines import PCA, Pixels, PrincipalComponents, RandomInit

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def pictures(count: int, size: int = 8, seed: int = 0) -> Tensor:
    """Smooth random images, so that few components hold most of the variance and no two variances are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return (
        images * torch.tensor([1.0, 0.7, 0.4]).view(1, 3, 1, 1) + 0.05 * torch.rand(images.shape, generator=generator)
    ).clamp(0, 1)


def make(task: type, size: int = 8, images: Tensor | None = None, **options: object) -> RandomInit | Pixels | PCA:
    chosen = task.Options(**options)
    backbone = task.build_backbone(lambda **_: Backbone(TINY, size), chosen)
    given = pictures(400, size) if images is None else images
    return task(backbone, chosen, Setup(size, 1, 8, len(given), None, lambda n: given[:n])).eval()


def test_none_of_them_trains_and_only_the_network_could_be_fine_tuned() -> None:
    assert not any(task.role.trains for task in (RandomInit, Pixels, PCA))
    assert [task.role.fine_tunes for task in (RandomInit, Pixels, PCA)] == [True, False, False]


def test_random_is_the_backbone_untouched() -> None:
    backbone = Backbone(TINY, 16)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    task = RandomInit(backbone, RandomInit.Options(), Setup(16, 1, 8, 8, None, lambda n: torch.rand(n, 3, 16, 16)))
    assert task.evaluated() is backbone
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_residual_branches_of_the_random_network_start_at_zero_as_its_docstring_says() -> None:
    backbone, images = Backbone(TINY, 16).eval(), torch.rand(2, 3, 16, 16)
    blocks = [block for block in backbone.network.modules() if hasattr(block, "conv2") and hasattr(block, "bn2")]
    assert blocks and not any(block.bn2.weight.any() or block.bn2.bias.any() for block in blocks)
    before = backbone(images)
    for block in blocks:
        torch.nn.init.normal_(block.conv1.weight)
    assert torch.equal(backbone(images), before)
    first, _, rest = str(RandomInit.__doc__).partition("\n")
    assert (
        first == "The backbone as it is initialised, without training."
        and "each residual branch starts as exactly zero" in rest
    )


def test_small_pixels_are_the_pixels() -> None:
    images = torch.rand(5, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    judged = make(Pixels, 32).evaluated()
    assert judged.num_features == 3_072
    assert np.array_equal(judged(images).numpy(), images.numpy().reshape(5, -1))


def test_large_pixels_are_averaged_over_areas() -> None:
    images = torch.rand(2, 3, 96, 96)
    expected = images.numpy().reshape(2, 3, 32, 3, 32, 3).mean((3, 5)).reshape(2, -1)
    assert np.allclose(make(Pixels, 96).evaluated()(images).numpy(), expected, atol=1e-6)
    odd = make(Pixels, 48).evaluated()(torch.full((1, 3, 48, 48), 0.25))
    assert odd.shape == (1, 3_072) and torch.allclose(odd, torch.tensor(0.25))


@pytest.mark.parametrize("count", [400, 60])  # more images than the 192 numbers of one, and fewer
def test_pca_equals_scikit_learn(count: int) -> None:
    images, fresh = pictures(count), pictures(50, seed=1)
    oracle = Oracle(20, svd_solver="full").fit(images.flatten(1).double().numpy())
    judged = make(PCA, 8, images, components=20).evaluated()
    found, expected = judged(fresh).numpy(), oracle.transform(fresh.flatten(1).double().numpy())
    signs = np.sign((found * expected).sum(0))
    assert np.abs(found * signs - expected).max() < 1e-3 * np.abs(expected).max()
    assert judged.variance_explained == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-4)
    gram = judged.components @ judged.components.T
    assert torch.allclose(gram, torch.eye(20), atol=1e-4)


def test_whitened_scores_have_deviation_one_on_the_images_fitted_and_differ_by_scale_only() -> None:
    images = pictures(400)
    raw, white = (make(PCA, 8, images, components=10, whiten=whiten).evaluated()(images) for whiten in (False, True))
    assert torch.allclose(white.std(0), torch.ones(10), atol=1e-3)
    assert torch.allclose(raw / raw.std(0), white, atol=1e-2)
    assert (raw.std(0).diff() <= 0).all(), "largest variance first"


def test_directions_without_variance_do_not_blow_up_when_whitened() -> None:
    grey = torch.rand(100, 1, 8, 8).expand(-1, 3, -1, -1)  # 64 directions of 192
    scores = make(PCA, 8, grey, components=99, whiten=True).evaluated()(grey)
    assert scores.isfinite().all() and scores.abs().max() < 10


def test_components_are_capped_by_images_and_by_pixels() -> None:
    assert make(PCA, 8, pictures(20)).evaluated().num_features == 19
    assert make(PCA, 8, pictures(300)).evaluated().num_features == 192
    assert make(PCA, 8, pictures(300), fit_images=30).describe()["components"] == 29


def test_pca_is_fitted_to_the_pretraining_sample_alone_and_always_alike() -> None:
    asked: list[int] = []

    def sample(count: int) -> Tensor:
        asked.append(count)
        return pictures(min(count, 300))

    setup = Setup(8, 1, 8, 300, None, sample)
    first, second = (
        PCA(PCA.build_backbone(lambda **_: Backbone(TINY, 8), PCA.Options()), PCA.Options(), setup) for _ in range(2)
    )
    assert asked == [10_000, 10_000]
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    first.evaluated()(pictures(5, seed=3))
    first.diagnose(pictures(5, seed=3))
    assert len(asked) == 2


def test_large_images_do_not_fill_the_memory() -> None:
    asked: list[int] = []

    def sample(count: int) -> Tensor:
        asked.append(count)
        return torch.rand(6, 3, 224, 224)

    backbone = PCA.build_backbone(lambda **_: Backbone(TINY, 224), PCA.Options())
    assert PCA(backbone, PCA.Options(), Setup(224, 1, 8, 10**6, None, sample)).evaluated().num_features == 5
    assert asked[0] * 3 * 224 * 224 * 4 <= 2 << 30


def test_state_goes_into_another_pca() -> None:
    fitted, other = make(PCA, 8, pictures(100)), make(PCA, 8, pictures(100, seed=5))
    fresh = pictures(4, seed=9)
    assert not torch.allclose(fitted.evaluated()(fresh), other.evaluated()(fresh))
    other.load_state_dict(fitted.state_dict(), strict=True)
    assert torch.equal(fitted.evaluated()(fresh), other.evaluated()(fresh))


@pytest.mark.parametrize("task", [Pixels, PCA])
def test_representations_without_a_network(task: type) -> None:
    judged = make(task).evaluated()
    assert not list(judged.parameters())
    assert judged.stages(pictures(2)) == {}
    before = judged(pictures(3)).clone()
    reestimate_batchnorm(judged, [pictures(10)])
    assert torch.equal(judged(pictures(3)), before)


def test_images_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(DataError, match="all the same|are the same"):
        make(PCA, 8, torch.full((10, 3, 8, 8), 0.5))


def test_axes_without_variance_give_zeros_for_new_images() -> None:
    """Forty examples of rank four leave sixteen of twenty components to rounding;
    they must not answer to new images."""
    generator = torch.Generator().manual_seed(0)
    examples = torch.rand(40, 4, generator=generator) @ torch.rand(4, 3 * 8 * 8, generator=generator)
    fitted = PrincipalComponents(torch.nn.Flatten(), examples, 20, whiten=False)
    scores = fitted(torch.rand(50, 3, 8, 8, generator=generator))
    assert scores[:, :4].std(0).min() > 1e-2
    assert scores[:, 4:].abs().max() == 0
