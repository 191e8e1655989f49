"""Ideas that could make the bare network faster: each against the network as it is trained here (fp32, channels last).

One process for each side. The network is the narrow one that processors train: width 0.25, stem stride 2, 32 px.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.spec.matrix import BackboneSpec

HERE = Path(__file__)
sys.path.insert(0, str(HERE.parent))
from interleaved import NOT_HERE, REPEATS, Ratio, Side, answer_lines, in_turn, seconds_of  # noqa: E402

PART = "ideas"
EAGER = "eager"
BATCH, STEPS = 256, 4
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
IDEAS = {
    "compile": "torch.compile",
    "mallopt": "glibc keeps freed memory (mallopt)",
    "huge_pages": "transparent huge pages (THP_MEM_ALLOC_ENABLE=1)",
    "bf16": "bf16 autocast",
    "fused_adamw": "fused AdamW",
    "nchw": "NCHW in place of channels last",
    "batch_64": "batch 64",
    "batch_128": "batch 128",
    "batch_512": "batch 512",
    "flush_denormal": "denormal numbers flushed to zero",
    "relu": "ReLU not in place",
}


def why_not(idea: str) -> str:
    """Why an idea cannot be measured on this machine; "" where it can."""
    if idea == "compile" and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        return "there is no C++ compiler"
    if idea == "mallopt" and not sys.platform.startswith("linux"):
        return "it is glibc's"
    if idea == "bf16" and not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "the processor does not multiply bf16"
    if idea == "flush_denormal" and not torch.set_flush_denormal(False):
        return "the processor cannot"
    return ""


def step_of(idea: str, batch: int, width: float) -> tuple[Callable[[], None], int]:
    """A training step of the bare network with one idea, and its images."""
    batch = int(idea.partition("_")[2]) if idea.startswith("batch_") else batch
    layout = torch.contiguous_format if idea == "nchw" else torch.channels_last
    torch.manual_seed(0)
    spec = BackboneSpec(name="resnet18", width=width, stem_stride=2)
    network: Any = Backbone(spec, 32).train().to(memory_format=layout)
    if idea == "relu":
        for module in network.modules():
            if isinstance(module, torch.nn.ReLU):
                module.inplace = False
    head = torch.nn.Linear(network.num_features, 10)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3, fused=idea == "fused_adamw")
    images = torch.rand(batch, 3, 32, 32).to(memory_format=layout)
    labels = torch.randint(10, (batch,))
    network = torch.compile(network) if idea == "compile" else network

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if idea == "bf16" else nullcontext():
            loss = F.cross_entropy(head(network(images)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return step, batch


def _prepared(idea: str) -> None:
    """What has to be set before anything is allocated."""
    if idea == "mallopt":
        libc = ctypes.CDLL("libc.so.6")
        for what, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 1 << 31), (_M_TOP_PAD, 256 << 20)):
            libc.mallopt(what, min(size, 2**31 - 1))
    if idea == "flush_denormal":
        torch.set_flush_denormal(True)


def measure(batch: int = BATCH, steps: int = STEPS, repeats: int = REPEATS, width: float = 0.25) -> Iterator[Ratio]:
    """One ratio of images a second for each idea."""
    words = ["--batch", str(batch), "--steps", str(steps), "--width", str(width)]
    eager = Side(HERE, [EAGER, *words])
    try:
        for idea, title in IDEAS.items():
            if reason := why_not(idea):
                yield Ratio(PART, title, EAGER, note=NOT_HERE.format(reason))
                continue
            environment = {**os.environ, **({"THP_MEM_ALLOC_ENABLE": "1"} if idea == "huge_pages" else {})}
            side = Side(HERE, [idea, *words], environment)
            try:
                first = side()  # its first steps, compilation among them
                pairs = in_turn(side, eager, repeats)
            except RuntimeError as error:
                yield Ratio(PART, title, EAGER, note=NOT_HERE.format(error))
                continue
            finally:
                side.close()
            images = (int(idea.partition("_")[2]) if idea.startswith("batch_") else batch) / batch
            per_call = sum(seconds for seconds, _ in pairs) / len(pairs)
            note = f"compiled in {first - per_call:.0f} s, not counted" if idea == "compile" else ""
            speeds = {
                "images_per_second": images * batch * steps / per_call,
                "against_images_per_second": batch * steps / (sum(other for _, other in pairs) / len(pairs)),
            }
            yield Ratio(PART, title, EAGER, [images * other / seconds for seconds, other in pairs], note, speeds)
    finally:
        eager.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("idea", choices=(EAGER, *IDEAS))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--width", type=float, default=0.25)
    asked = parser.parse_args()
    _prepared(asked.idea)
    one_step, _ = step_of(asked.idea, asked.batch, asked.width)
    answer_lines(lambda: seconds_of(lambda: [one_step() for _ in range(asked.steps)]))
