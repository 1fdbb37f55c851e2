"""MoCo v2: an image root. A view finds its other view among the keys of past batches (He et al., CVPR 2020; Chen et al., 2020).

    picture -> view -> encoder          -> cells -> mean -> projection -> query \\
           \\-> view -> momentum encoder -> cells -> mean -> projection -> key    -> InfoNCE against a queue          (contrast)
                                                                           \\-> queue, after the step

The momentum encoder follows the encoder slowly (nn/momentum.py), so that keys made many steps apart can be compared, and the queue
makes the number of negatives independent of the batch. Both are part of the run's state and resume exactly; a skipped step changes
neither.

Shuffled normalisation. A query and its key that are normalised with the same pictures can know each other by the statistics,
without looking. MoCo normalises on each GPU alone and shuffles the keys' pictures over GPUs first. Here a normalisation group is a
setting, not a device: with `groups` = G, the queries of all ranks are normalised in G groups as they come, the keys in G groups by
an order drawn from (seed, sample). Ranks exchange pictures before and keys after, so R ranks give what one process gives with the
same G (which R must divide). groups=1 takes statistics over all ranks, where there is nothing to shuffle.

    difference from the paper's code               here
    the copy moves before a step                   after a successful one: the same sequence
    queue size must be a multiple of the batch     any size: the queue is a ring
    a picture's own old keys are negatives too     they are left out: small data come round before the queue has
    one order of a step's keys, from rank 0        an order drawn from the samples: the same in any world
    SGD                                            in `paper`; AdamW in the small presets
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from diptych import config, dist
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig, UserError
from diptych.contracts import Batch, Images, LossTerm, ParamGroup, System, Tokenizer, Towers, Visual
from diptych.data.views import Views, two_views
from diptych.draw import Draw
from diptych.image.grid_cnn import GridCNN
from diptych.image.resnet import ResNet
from diptych.nn import batch_norm
from diptych.nn.momentum import Momentum
from diptych.nn.projection import Projection
from diptych.objectives.contrast import Contrast, Queue


class MoCo(System):
    class Config(config.Config):
        kind: Literal["moco"] = "moco"
        width: PositiveInt = 128
        image: GridCNN.Config | ResNet.Config = Field(default=GridCNN.Config(), discriminator="kind")
        views: Views = Views(least_crop=0.2, strength=0.5)
        projection: Projection.Config = Projection.Config(norm=False)
        contrast: Contrast.Config = Contrast.Config(temperature=0.2)
        momentum: float = Field(default=0.999, ge=0, lt=1)
        queue: PositiveInt = 65_536
        groups: PositiveInt = 1  # of normalisation, see above
        optimizer: Literal["adamw", "sgd"] = "adamw"

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.projection = config.projection.build(config.width)
        self.momentum = Momentum(self._followed(), config.momentum)
        self.queue = Queue(config.queue, config.projection.out)
        self.contrast = config.contrast.build()
        for module in self.modules():
            if isinstance(module, batch_norm.BatchNorm):
                module.over_ranks = config.groups == 1

    def _followed(self) -> dict[str, nn.Module]:
        return {"image": self.image, "projection": self.projection}

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        batch = self.contrast.corrupt(two_views(batch, self.config.views, draw), draw)
        order_B = torch.from_numpy(draw.bits("moco/shuffle", batch.row_B.numpy())[:, 0].astype("int64"))
        batch.labels["shuffle"] = order_B
        return batch

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image(batch.images)

    def views(self, batch: Batch) -> Towers:
        """Queries and their keys; the keys have no gradient."""
        if batch.images is None or batch.image_of_BN is None or batch.image_of_BN.shape[1] < 2:
            raise UserError("moco compares two pictures of a row, its views; these rows have one, or none")
        queries, keys = (_picked(batch.images, batch.image_of_BN[:, side]) for side in range(2))
        with torch.no_grad():
            self.momentum.begin(self._followed())
            key_BE = self._keys(keys, batch.labels.get("shuffle"))
        parts = torch.arange(len(batch), device=key_BE.device).chunk(self._groups_here(len(batch)))
        query_BE = torch.cat([_embed(self, _picked(queries, part)) for part in parts])
        return Towers(query_BE, key_BE, self.contrast.temperature)

    def _keys(self, keys: Images, order_B: Tensor | None) -> Tensor:
        """Of this rank's pictures, by the momentum encoder, each in its group of the shuffled order."""
        if self.config.groups == 1 or order_B is None or not self.training:
            return _embed(self.momentum, keys)
        groups = self._groups_here(len(order_B))
        (pixel_C3HW, first), (mask_CHW, _) = dist.gather_rows(keys.pixel_I3HW), dist.gather_rows(keys.mask_IHW.byte())
        everywhere = Images(pixel_C3HW, mask_CHW.bool())
        place_C = dist.gather_rows(order_B)[0].argsort(stable=True)
        mine = place_C.chunk(self.config.groups)[dist.rank() * groups : (dist.rank() + 1) * groups]
        shuffled_CE, _ = dist.gather_rows(torch.cat([_embed(self.momentum, _picked(everywhere, place)) for place in mine]))
        return torch.empty_like(shuffled_CE).index_copy(0, place_C, shuffled_CE)[first : first + len(order_B)]

    def _groups_here(self, rows: int) -> int:
        """Normalisation groups of this rank."""
        if self.config.groups == 1 or not self.training:
            return 1
        here, rest = divmod(self.config.groups, dist.size())
        if rest or rows % here:
            told = f"{self.config.groups} groups of one size, over {dist.size()} ranks with {rows} pictures each"
            raise UserError(f"system.groups: {told}; take a divisor of train.batch_size that the ranks divide")
        return here

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        towers = self.views(batch)
        self.queue.stage(towers.b_BE, batch.labels["contrast"])
        return {"contrast": self.contrast.against(towers, self.queue, batch)}

    def param_groups(self) -> list[ParamGroup]:
        """With SGD everything decays, batch normalisation too, as published."""
        is_sgd = self.config.optimizer == "sgd"
        groups = super().param_groups()
        return [g._replace(optimizer=self.config.optimizer, weight_decay=g.weight_decay or is_sgd) for g in groups]

    def after_step(self) -> None:
        batch_norm.commit(self)
        self.momentum.commit(self._followed())
        self.queue.commit()

    def discard_step(self) -> None:
        batch_norm.discard(self)
        self.queue.discard()


def _embed(parts: MoCo | Momentum, images: Images) -> Tensor:
    """[I, E] by an encoder and a projection."""
    visual = parts.get_submodule("image")(images)
    return F.normalize(parts.get_submodule("projection")(visual.mean()).float(), dim=1)


def _picked(images: Images, index: Tensor) -> Images:
    return Images(images.pixel_I3HW[index], images.mask_IHW[index])


def tiny() -> Recipe:
    """With the encoder of crossgrid:tiny."""
    return Recipe(
        system=MoCo.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            views=Views(size=32, least_crop=0.2, strength=0.5),
            projection=Projection.Config(hidden=32, out=16, norm=False),
            momentum=0.99,
            queue=16,
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded names on one core, with the encoder of crossgrid:small.

    Normalised over the whole step: in groups of 16 pictures the keys of other steps tell little.
    """
    return Recipe(
        system=MoCo.Config(
            views=Views(size=64, least_crop=0.2, strength=0.5),
            projection=Projection.Config(hidden=256, out=64, norm=False),
            momentum=0.99,
            queue=2048,
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=1500, batch_size=64, lr=1e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """ResNet-50 on ImageNet, 200 epochs of batch 256 on eight GPUs."""
    return Recipe(
        system=MoCo.Config(width=2048, image=ResNet.Config(), groups=8, optimizer="sgd"),
        data=DataConfig(image=ImageConfig(short=256, long=512, multiple=1), workers=8),
        train=TrainConfig(
            steps=1_001_000, batch_size=256, lr=0.03, warmup=0, schedule="cosine", weight_decay=1e-4, betas=(0.9, 0.999), clip=None
        ),
    )
