"""An autoencoder of two codes, one for each half of an image, and evaluators that decode its codes and draw from it."""

import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench import Evaluation, Evaluator, Health, Measurement, PretextTask
from ssl_bench.transforms import random_flip

CODE = 16


class TwoCodes(PretextTask):
    """Rebuild an image from the codes of its upper and lower half, of which one is missing half of the time."""

    name = "two_codes"
    parts = ("top", "bottom")

    def __init__(self, backbone, options, setup):
        super().__init__(backbone, options, setup)
        self.heads = nn.ModuleDict({part: nn.Linear(backbone.num_features, CODE) for part in self.parts})
        self.decoder = nn.Linear(2 * CODE, 3 * 8 * 8)
        self.register_buffer("spread", torch.zeros(()))

    def halves(self, images):
        top, bottom = torch.zeros_like(images), torch.zeros_like(images)
        middle = images.shape[2] // 2
        top[:, :, :middle], bottom[:, :, middle:] = images[:, :, :middle], images[:, :, middle:]
        return {"top": top, "bottom": bottom}

    def codes(self, images, missing=frozenset()):
        halves = self.halves(images)
        found = {
            part: torch.zeros(len(images), CODE, device=images.device)
            if part in missing
            else self.heads[part](self.backbone(halves[part])).float()
            for part in self.parts
        }
        return {**found, "both": torch.cat([found[part] for part in self.parts], 1)}

    def decode(self, code):
        small = torch.sigmoid(self.decoder(code)).unflatten(1, (3, 8, 8))
        return F.interpolate(small, size=self.setup.image_size, mode="nearest")

    def sample(self, count):
        return self.decode(self.spread * torch.randn(count, 2 * CODE, device=self.spread.device))

    def views(self, batch):
        return random_flip(batch.images)

    def forward(self, views):
        code = self.codes(views)["both"]
        self.spread.copy_(code.detach().std(0).mean())
        one_sided = self.codes(views, missing=frozenset({"bottom"}))["both"]
        return {"loss": F.mse_loss(self.decode(code), views) + F.mse_loss(self.decode(one_sided), views)}

    def health(self):
        return {
            "code_spread": Health(float(self.spread), low=0.001),
            "never_met": Health(float(self.spread), low=1_000),
        }


class Rebuilding(Evaluator):
    """Error of images rebuilt from their whole code, and from the upper half's alone."""

    name, protocol, accuracy = "rebuilding", "rebuilding", False
    needs = frozenset({"decode", "missing"})

    def evaluate(self, subject):
        images = (
            torch.from_numpy(subject.validation.pixels[:32].copy())
            .permute(0, 3, 1, 2)
            .float()
            .div(255)
            .to(subject.device)
        )
        with torch.no_grad():
            both = next(
                name for name in subject.codes(images) if name.endswith("both")
            )  # "two_codes/both", if combined
            bottom = both.removesuffix("both") + "bottom"
            errors = {
                name: float((subject.decode(subject.codes(images, missing=missing)[both]) - images).square().mean())
                for name, missing in (("whole", frozenset()), ("upper_half", frozenset({bottom})))
            }
        splits = ["validation"] + (["test"] if subject.test is not None else [])
        return Evaluation(
            [Measurement(name, split, value, len(images)) for split in splits for name, value in errors.items()]
        )


class Drawing(Evaluator):
    """Mean brightness of drawn images."""

    name, protocol, accuracy = "drawing", "drawing", False
    needs = frozenset({"sample"})

    def evaluate(self, subject):
        with torch.no_grad():
            drawn = subject.sample(8)
        assert drawn.shape == (8, 3, 32, 32) and drawn.min() >= 0 and drawn.max() <= 1
        splits = ["validation"] + (["test"] if subject.test is not None else [])
        return Evaluation([Measurement("brightness", split, float(drawn.mean()), 8) for split in splits])
