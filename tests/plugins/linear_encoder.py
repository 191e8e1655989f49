"""A linear autoencoder: no convolution and no ResNet.

With another encoder it reads an image as a sequence of its rows.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ssl_bench import Network, PretextTask, TaskOptions


class LinearEncoder(Network):
    """RGB [B, 3, S, S] to a linear code [B, width]."""

    name = "linear_encoder"

    def __init__(self, image_size, width):
        super().__init__()
        self.image_size, self.num_features = image_size, width
        self.encode = nn.Linear(3 * image_size**2, width)

    def forward(self, images):
        return self.encode(images.flatten(1))

    def arguments(self):
        return {"image_size": self.image_size, "width": self.num_features}


class RecurrentEncoder(Network):
    """RGB [B, 3, S, S], read row by row, to the last state [B, width]."""

    name = "recurrent_encoder"

    def __init__(self, image_size, width):
        super().__init__()
        self.image_size, self.num_features = image_size, width
        self.read = nn.LSTM(3 * image_size, width, batch_first=True)

    def forward(self, images):
        return self.read(images.permute(0, 2, 3, 1).flatten(2))[1][0][-1]

    def arguments(self):
        return {"image_size": self.image_size, "width": self.num_features}


class LinearAutoencoder(PretextTask):
    """Rebuild images from a linear code."""

    name = "linear_autoencoder"

    class Options(TaskOptions):
        width: int = Field(default=32, ge=1, le=4_096)  #: numbers in the code
        encoder: Literal["linear", "recurrent"] = "linear"  #: how an image is read

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.decoder = nn.Linear(options.width, 3 * setup.image_size**2)

    @classmethod
    def build_backbone(cls, make, options):
        kind = LinearEncoder if options.encoder == "linear" else RecurrentEncoder
        return kind(make().image_size, options.width)

    def views(self, batch):
        return batch.images

    def forward(self, views):
        return {"loss": F.mse_loss(self.decoder(self.backbone(views)), views.flatten(1))}

    def decode(self, code):
        return self.decoder(code).unflatten(1, (3, self.setup.image_size, self.setup.image_size)).clamp(0, 1)

    @torch.no_grad()
    def preview(self, batch):
        return {"images": batch.images, "reconstruction": self.decode(self.backbone(batch.images))}
