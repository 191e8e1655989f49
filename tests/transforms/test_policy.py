"""Policies: the defaults draw what the tasks drew before, a matrix varies them, and mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssl_bench.errors import SpecError
from ssl_bench.spec.model import parse
from ssl_bench.tasks.exemplar import Exemplar
from ssl_bench.tasks.simclr import SimCLR
from ssl_bench.transforms import (
    color_jitter,
    gaussian_blur,
    random_flip,
    random_grayscale,
    random_resized_crop,
)
from ssl_bench.transforms.policy import augmented, contrastive_policy


@pytest.mark.parametrize(("strength", "gray", "blur"), [(0.5, 0.2, False), (1.0, 0.2, True), (0.5, 0.66, False)])
def test_the_default_policy_is_the_sequence_of_operations_bit_for_bit(strength: float, gray: float, blur: bool) -> None:
    images = torch.rand(6, 3, 32, 32)
    torch.manual_seed(3)
    expected = random_resized_crop(images, scale=(0.08, 1.0), flip=0.5, interpolation="bicubic")
    expected = color_jitter(expected, 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8)
    expected = random_grayscale(expected, gray)
    expected = gaussian_blur(expected) if blur else expected
    after = torch.rand(4)
    torch.manual_seed(3)
    policy = contrastive_policy(strength, gray, blur, interpolation="bicubic")
    assert torch.equal(augmented(images, policy), expected) and torch.equal(torch.rand(4), after)


def test_a_matrix_writes_operations_by_name_and_with_settings() -> None:
    written = {"augment": [{"crop": {"scale": [0.5, 1], "size": 16, "flip": 0}}, "flip", {"grayscale": {"p": 1}}]}
    options = parse(SimCLR.Options, written, "row")
    images = torch.rand(4, 3, 32, 32)
    torch.manual_seed(1)
    views = augmented(images, options.augment)
    torch.manual_seed(1)
    expected = random_grayscale(random_flip(random_resized_crop(images, 16, (0.5, 1.0))), 1)
    assert torch.equal(views, expected) and views.shape == (4, 3, 16, 16)
    assert parse(SimCLR.Options, options.model_dump(mode="json"), "record") == options


def test_options_that_came_later_are_left_out_of_ids_at_their_defaults() -> None:
    for options in (SimCLR.Options(), Exemplar.Options(), Exemplar.Options(form="surrogate")):
        dumped = options.model_dump(mode="json")
        assert "augment" not in dumped and parse(type(options), dumped, "record") == options
    assert "augment" in SimCLR.Options(augment=["blur"]).model_dump(mode="json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "written", "told"),
    [
        (SimCLR.Options, {"augment": ["blurr"]}, "blurr"),
        (SimCLR.Options, {"augment": []}, "augment"),
        (SimCLR.Options, {"augment": [{"crop": {}, "blur": {}}]}, "names 2 operations at once"),
        (SimCLR.Options, {"augment": [{"blur": {"sigma": [0, 1]}}]}, "sigma"),
        (
            SimCLR.Options,
            {"augment": [{"jitter": {"strength": 2.5, "hue": 0.5}}]},
            "hue x strength must be at most 0.5",
        ),
        (SimCLR.Options, {"augment": ["blur"], "strength": 0.5}, "strength = 0.5 changes nothing"),
        (Exemplar.Options, {"augment": ["blur"], "gray": 0.5}, "gray = 0.5 changes nothing"),
        (Exemplar.Options, {"augment": ["blur"], "form": "surrogate"}, "changes nothing"),
    ],
)
def test_mistakes_are_told(options: Any, written: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse(options, written, "row")
