"""Intruder: one quadrant of an image is replaced by a stranger's; say which one, or none."""
import torch
from torch.nn import Linear, functional as F
from ssl_bench import PretextTask, TaskOptions
from ssl_bench.transforms import random_flip

class Intruder(PretextTask):
    """Predict which quadrant was pasted in from another image."""
    name = "intruder"
    class Options(TaskOptions):
        flip: bool = True  #: mirror whole images at random, before pasting

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.head = Linear(backbone.num_features, 5)

    def views(self, batch):
        images = random_flip(batch.images) if self.options.flip else batch.images
        row, column = (torch.arange(n, device=images.device) * 2 // n for n in images.shape[2:])
        target = torch.randint(5, (len(images),), device=images.device)  # 4: nothing is pasted
        pasted = 2 * row[:, None] + column == target[:, None, None]  # [B, H, W]
        return torch.where(pasted[:, None], images.roll(1, 0), images), target

    def forward(self, views):
        images, target = views
        logits = self.head(self.backbone(images))
        return {"loss": F.cross_entropy(logits, target), "accuracy": (logits.argmax(1) == target).float().mean()}
