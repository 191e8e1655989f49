"""Operations of a policy: a square that is cut out, edges, noise."""

import torch
from pydantic import Field
from torch.nn import functional as F

from ssl_bench import Augmentation
from ssl_bench.transforms.policy import Probability


class Cutout(Augmentation):
    """A grey square at a random place (DeVries & Taylor, 2017)."""

    name = "cutout"
    size: float = Field(default=0.5, gt=0, le=1)  #: side of the square, as a share of the image's
    p: Probability = 1.0

    def __call__(self, images):
        count, _, height, width = images.shape
        top, left, drawn = torch.rand(3, count, 1, device=images.device)
        rows, columns = (torch.arange(n, device=images.device) / n for n in (height, width))
        top, left = (1 - self.size) * top, (1 - self.size) * left
        inside = [(start <= places) & (places < start + self.size) for start, places in ((top, rows), (left, columns))]
        square = inside[0][:, :, None] & inside[1][:, None] & (drawn < self.p)[:, :, None]
        return torch.where(square[:, None], 0.5, images)


class Sobel(Augmentation):
    """Strength of the edges, in all three channels."""

    name = "sobel"

    def __call__(self, images):
        kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=images.device) / 4
        kernels = torch.stack([kernel, kernel.T])[:, None]
        edges = F.conv2d(F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), kernels)
        return edges.norm(dim=1, keepdim=True).clamp(max=1).expand_as(images)


class Noise(Augmentation):
    """Gaussian noise of a deviation."""

    name = "noise"
    sigma: float = Field(default=0.1, gt=0, le=1)

    def __call__(self, images):
        return (images + self.sigma * torch.randn_like(images)).clamp(0, 1)
