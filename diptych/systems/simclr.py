"""SimCLR: an image root. Two views of a picture find each other among all others (Chen et al., ICML 2020).

    picture -> view -> encoder -> cells -> mean -> projection -> a \\
           \\-> view -> encoder -> cells -> mean -> projection -> b  -> NT-Xent, negatives from all ranks           (contrast)

No text and no label is read. What is kept is the encoder (`image.`), for systems with the same one; the projection is thrown away:

    diptych pretrain simclr --data names --out runs/simclr
    diptych finetune probe --from runs/simclr --data names             what it knows of concepts, frozen (tasks/probe.py)
    diptych pretrain crossgrid --data scenes --init image=runs/simclr

    difference from the paper's code             here
    the loss is a sum over both directions       their mean, as the paper writes it (contrast.weight=2 gives the code's)
    LARS                                         the same in `paper` (train/lars.py); AdamW in the small presets
    SyncBN                                       the same: statistics over all ranks
    colours jitter in TensorFlow, then blur      Pillow's operations, in the order of data/views.py
    batch of 4096 on TPU cores                   over ranks; with train.accumulate negatives are those of one micro-step
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, PositiveInt

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig, UserError
from diptych.contracts import Batch, LossTerm, ParamGroup, System, Tokenizer, Towers, Visual
from diptych.data.views import Views, two_views
from diptych.draw import Draw
from diptych.image.grid_cnn import GridCNN
from diptych.image.resnet import ResNet
from diptych.nn import batch_norm
from diptych.nn.projection import Projection
from diptych.objectives.contrast import Contrast


class SimCLR(System):
    class Config(config.Config):
        kind: Literal["simclr"] = "simclr"
        width: PositiveInt = 128
        image: GridCNN.Config | ResNet.Config = Field(default=GridCNN.Config(), discriminator="kind")
        views: Views = Views()
        projection: Projection.Config = Projection.Config()
        contrast: Contrast.Config = Contrast.Config(within=True)
        optimizer: Literal["adamw", "lars", "sgd"] = "adamw"

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.projection = config.projection.build(config.width)
        self.contrast = config.contrast.build()

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        return self.contrast.corrupt(two_views(batch, self.config.views, draw), draw)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image(batch.images)

    def views(self, batch: Batch) -> Towers:
        """Both pictures of each row, in one pass of the encoder."""
        if batch.image_of_BN is None or batch.image_of_BN.shape[1] < 2:
            raise UserError("simclr compares two pictures of a row, its views; these rows have one, or none")
        side_IE = F.normalize(self.projection(self.see(batch).mean()).float(), dim=1)
        return Towers(side_IE[batch.image_of_BN[:, 0]], side_IE[batch.image_of_BN[:, 1]], self.contrast.temperature)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"contrast": self.contrast(self.views(batch), batch)}

    def param_groups(self) -> list[ParamGroup]:
        return [group._replace(optimizer=self.config.optimizer) for group in super().param_groups()]

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def tiny() -> Recipe:
    """With the encoder of crossgrid:tiny."""
    return Recipe(
        system=SimCLR.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            views=Views(size=32),
            projection=Projection.Config(hidden=32, out=16),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=3e-3),
    )


def small() -> Recipe:
    """For the embedded names on one core, with the encoder of crossgrid:small."""
    return Recipe(
        system=SimCLR.Config(
            views=Views(size=64, least_crop=0.2),
            projection=Projection.Config(hidden=256, out=64),
            contrast=Contrast.Config(within=True, temperature=0.2),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=1500, batch_size=64, lr=2e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """ResNet-50 on ImageNet, 1000 epochs of batch 4096, at a rate of 0.3 x batch / 256."""
    return Recipe(
        system=SimCLR.Config(width=2048, image=ResNet.Config(), optimizer="lars"),
        data=DataConfig(image=ImageConfig(short=256, long=512, multiple=1), workers=8),
        train=TrainConfig(
            steps=312_800, batch_size=4096, lr=4.8, warmup=0.01, schedule="cosine", weight_decay=1e-6, betas=(0.9, 0.98), clip=None
        ),
    )
