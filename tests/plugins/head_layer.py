"""Rotation, judged with the first layer of its head as SimCLRv2 is fine-tuned from it (Chen et al., 2020,
arXiv:2006.10029)."""

import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench import Network, PretextTask


class WithHeadLayer(Network):
    """A backbone and the first layer of its head, which is one more stage."""

    name = "with_head_layer"

    def __init__(self, backbone, width):
        super().__init__()
        self.backbone, self.num_features, self.image_size = backbone, width, backbone.image_size
        self.layer = nn.Sequential(nn.Linear(backbone.num_features, width), nn.ReLU())

    def forward(self, images):
        return self.layer(self.backbone(images))

    def stages(self, images):
        features = self.features(images)
        return {name: x for name, x in features.items() if name != "pooled"}

    def features(self, images):
        features = self.backbone.features(images)
        pooled = self.layer(features.pop("pooled"))
        return {**features, "s5": pooled, "pooled": pooled}

    def arguments(self):
        return {"backbone": self.backbone, "width": self.num_features}


class RotationWithHead(PretextTask):
    """Predict quarter turns by two layers, and keep the first of them."""

    name = "rotation_with_head"

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.head = nn.Linear(backbone.num_features, 4)

    @classmethod
    def build_backbone(cls, make, options):
        return WithHeadLayer(make(), 24)

    def views(self, batch):
        turns = torch.randint(4, (len(batch),), device=batch.images.device)
        turned = torch.stack([batch.images.rot90(turn, (2, 3)) for turn in range(4)])
        return turned[turns, torch.arange(len(batch), device=turns.device)], turns

    def forward(self, views):
        images, turns = views
        return {"loss": F.cross_entropy(self.head(self.backbone(images)), turns)}
