"""The VAE: the KL term, the scale of its two terms, and no silent collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as oracle

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.data.sources.shapes import render
from ssl_bench.errors import SpecError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.vae import VAE, kl_divergence, sample
from ssl_bench.training.loop import fit
from ssl_bench.training.seeding import seed_everything

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 16, **options: object) -> VAE:
    setup = Setup(size, 100, 8, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    return VAE(Backbone(TINY, size, InputSpec(mean=(0.5,) * 3, std=(0.2,) * 3)), VAE.Options(**options), setup)


@given(st.floats(-30, 30), st.floats(-10, 10))
def test_kl_equals_torch_distributions(mean: float, log_variance: float) -> None:
    mu, log = torch.tensor(mean, dtype=torch.float64), torch.tensor(log_variance, dtype=torch.float64)
    expected = oracle(Normal(mu, (log / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    assert float(kl_divergence(mu, log)) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_kl_by_hand() -> None:
    """The form without the half, and with sigma for its square in the logarithm, gives 1 and 2.307 here."""
    assert float(kl_divergence(torch.tensor(1.0), torch.tensor(0.0))) == pytest.approx(0.5)
    assert float(kl_divergence(torch.tensor(0.0), torch.tensor(math.log(4)))) == pytest.approx(0.80685, abs=1e-5)
    assert float(kl_divergence(torch.tensor(0.0), torch.tensor(0.0))) == 0


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 1.0), (4.0, 0.1)])
def test_the_loss_is_the_negative_evidence_bound_over_the_numbers_of_an_image(beta: float, variance: float) -> None:
    task = make_task(beta=beta, pixel_variance=variance, kl_warmup=0.0, code_size=10).eval()
    images = torch.rand(6, 3, 16, 16)
    torch.manual_seed(3)
    found = task(images)
    torch.manual_seed(3)
    mean, log_variance = task.posterior(images)
    posterior = Normal(mean, (log_variance / 2).exp())
    z = posterior.rsample()
    decoded = Independent(Normal(task.decoder(z), variance**0.5), 3)
    x = task.backbone.prepare(images)
    # of the Gaussian density, which does not depend on anything learned
    constant = x[0].numel() / 2 * math.log(2 * math.pi * variance)
    kl = oracle(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    # sums over pixels and latents, a mean over images only
    bound = (-decoded.log_prob(x) - constant + beta * kl).mean()
    assert float(found["loss"].detach()) * x[0].numel() == pytest.approx(float(bound.detach()), rel=1e-4)
    assert float(found["kl"]) == pytest.approx(float(kl.detach().mean()), rel=1e-4)


def test_both_terms_are_scaled_alike() -> None:
    """The share of the KL term in the gradient of the loss is that in the gradient of the unscaled bound."""
    task, images = make_task(kl_warmup=0.0, code_size=10).eval(), torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    found = task(images)
    numbers = 3 * 16 * 16
    assert float(found["loss"].detach()) == pytest.approx(
        float(found["reconstruction"]) / 2 + float(found["kl"]) / numbers, rel=1e-5
    )


def test_the_kl_term_warms_up_with_the_run() -> None:
    task = make_task(beta=4.0, kl_warmup=0.2)
    seen = []
    for task.progress in (0.0, 0.05, 0.1, 0.2, 0.9):
        seen.append(task.beta())
    assert seen == pytest.approx([0, 1, 2, 4, 4])
    images = torch.rand(4, 3, 16, 16)
    losses = []
    for task.progress in (0.0, 1.0):
        torch.manual_seed(0)
        losses.append({name: float(value) for name, value in task.eval()(images).items()})
    assert losses[1]["loss"] - losses[0]["loss"] == pytest.approx(4 * losses[0]["kl"] / 768, rel=1e-3)


def test_what_the_network_calls_log_variance_is_used_as_one() -> None:
    """With log-variance -10 samples hardly differ from the mean, with +10 they differ by about e^5; beyond, nothing
    grows."""
    task, images = make_task(code_size=16).eval(), torch.rand(2, 3, 16, 16)
    for bias, spread in ((-10.0, math.exp(-5)), (10.0, math.exp(5)), (100.0, math.exp(5))):
        with torch.no_grad():
            task.to_code.weight.zero_()
            task.to_code.bias[16:] = bias
        mean, log_variance = task.posterior(images)
        assert float((log_variance / 2).exp().mean()) == pytest.approx(spread)
        assert float(task(images)["kl"]) == pytest.approx(
            float(kl_divergence(mean, log_variance).sum(1).mean()), rel=1e-4
        )


def test_samples_have_the_mean_and_the_variance_named() -> None:
    torch.manual_seed(0)
    mean, log_variance = (
        torch.tensor([0.0, 5.0, -5.0], requires_grad=True),
        torch.tensor([-4.0, 0.0, 3.0], requires_grad=True),
    )
    drawn = sample(mean.expand(20_000, 3), log_variance.expand(20_000, 3))
    assert drawn.mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.1)
    assert drawn.var(0).log().tolist() == pytest.approx(log_variance.tolist(), abs=0.1)
    drawn.square().mean().backward()
    assert mean.grad is not None and log_variance.grad is not None and bool((log_variance.grad > 0).all())


def test_the_mean_is_probed_never_a_sample() -> None:
    task, images = make_task(32).eval(), torch.rand(4, 3, 32, 32)
    code = task.codes(images)
    assert set(code) == {"mu"} and code["mu"].shape == (4, 128)
    assert torch.equal(code["mu"], task.codes(images)["mu"])
    assert torch.equal(code["mu"], task.encode(images)[:, :128])
    assert float(task(images)["loss"]) != float(task(images)["loss"]), "training does sample"


def test_latents_at_each_size() -> None:
    assert [VAE.default_code_size(size) for size in (8, 32, 96, 224)] == [48, 128, 128, 256]
    with pytest.raises(SpecError, match="vae: code_size must be less than the 768 numbers"):
        make_task(16, code_size=768)


def test_active_units_counts_latents_whose_mean_varies() -> None:
    task = make_task(code_size=6).eval()
    with torch.no_grad():
        task.to_code.weight[2:6].zero_()  # four latents are the same for every image
        task.to_code.weight[:2].mul_(100)
        task.to_code.weight[6:].zero_()
        task.to_code.bias[6:].zero_()  # variance one
    images = torch.rand(300, 3, 16, 16)
    found = task.diagnose(images)
    mean = task.codes(images)["mu"]
    assert found["active_units"] == 2
    assert found["kl"] == pytest.approx(float(mean.detach().square().sum(1).mean()) / 2, rel=1e-3)


def _train(steps: int = 50, **options: object) -> dict[str, float]:
    drawn = render("train", 32, 256)
    shapes = ImageSet(drawn.images, np.arange(256), None, (), "shapes", "shapes")
    images: Tensor = torch.from_numpy(drawn.images).permute(0, 3, 1, 2) / 255
    seed_everything(0)
    pixels = InputSpec(mean=tuple(images.mean((0, 2, 3)).tolist()), std=tuple(images.std((0, 2, 3)).tolist()))
    task = VAE(
        Backbone(TINY, 32, pixels), VAE.Options(**options), Setup(32, steps, 32, 256, None, lambda n: images[:n])
    )
    fit(task, Batches(shapes, 32, 0), Recipe(learning_rate=4e-3), steps, seed=0, precision="fp32", cost=False)
    return dict(task.diagnose(images))


def test_the_posterior_does_not_collapse_at_the_defaults_and_does_with_the_reductions_mixed_up() -> None:
    found = _train()
    assert found["active_units"] > 10
    assert found["kl"] > 5
    assert found["variance_explained"] > 0.2
    # what averaging the error over pixels while summing the KL amounts to
    mixed_up = _train(beta=3 * 32 * 32, kl_warmup=0.0)
    assert mixed_up["active_units"] < 10
    assert mixed_up["kl"] < 0.5
