"""Whole-batch image operations, random per image, without worker processes: what tasks and plugins build their views
from."""

from __future__ import annotations

from ssl_bench.transforms.blur import blur, gaussian_blur
from ssl_bench.transforms.colour import adjust_hue, apply_jitter, color_jitter, draw_jitter, grayscale, random_grayscale
from ssl_bench.transforms.geometry import (
    crop_boxes,
    cut_windows,
    quarter_turns,
    random_crop,
    random_flip,
    random_resized_crop,
    resized_crop,
    rotate90,
)
from ssl_bench.transforms.lab import lab_to_rgb, lightness, rgb_to_lab
from ssl_bench.transforms.noise import gaussian_noise, mask_noise
from ssl_bench.transforms.tiles import random_tiles, standardise

__all__ = [
    "adjust_hue",
    "apply_jitter",
    "blur",
    "color_jitter",
    "crop_boxes",
    "cut_windows",
    "draw_jitter",
    "gaussian_blur",
    "gaussian_noise",
    "grayscale",
    "lab_to_rgb",
    "lightness",
    "mask_noise",
    "quarter_turns",
    "random_crop",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "random_tiles",
    "resized_crop",
    "rgb_to_lab",
    "rotate90",
    "standardise",
]
