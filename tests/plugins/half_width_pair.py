"""Split-brain in small (Zhang et al., 2017): two networks of half the width, each predicts what the other one sees."""

import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench import Network, PretextTask
from ssl_bench.transforms import random_flip


class HalfWidthPair(Network):
    """Two networks of half the width side by side; one sees the red and green channels, one the blue."""

    name = "half_width_pair"

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second, self.image_size = first, second, first.image_size
        self.num_features = first.num_features + second.num_features

    def halves(self, images):
        red_green, blue = images.clone(), images.clone()
        red_green[:, 2], blue[:, :2] = 0, 0
        return red_green, blue

    def forward(self, images):
        red_green, blue = self.halves(images)
        return torch.cat([self.first(red_green), self.second(blue)], 1)

    def stages(self, images):
        both = zip(
            *(
                half.stages(seen).items()
                for half, seen in zip((self.first, self.second), self.halves(images), strict=True)
            ),
            strict=True,
        )
        return {name: torch.cat([first, second], 1) for (name, first), (_, second) in both}

    def arguments(self):
        return {"first": self.first, "second": self.second}


class SplitBrain(PretextTask):
    """Predict the mean and spread of the channels that the other half sees."""

    name = "split_brain"

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.heads = nn.ModuleList(
            [nn.Linear(backbone.first.num_features, 2), nn.Linear(backbone.second.num_features, 4)]
        )

    @classmethod
    def build_backbone(cls, make, options):
        return HalfWidthPair(make(width=0.5), make(width=0.5))

    def views(self, batch):
        return random_flip(batch.images)

    def forward(self, views):
        red_green, blue = self.backbone.halves(views)
        seen = [self.heads[0](self.backbone.first(red_green)), self.heads[1](self.backbone.second(blue))]
        facts = torch.cat([views.mean((2, 3)), views.std((2, 3))], 1)  # of red, green, blue, twice
        return {"loss": F.mse_loss(seen[0], facts[:, [2, 5]]) + F.mse_loss(seen[1], facts[:, [0, 1, 3, 4]])}
