"""Detector: boxes, classes and attributes, the teacher of every system that reads regions (BUTD; VinVL's detector in little).

    picture -> GridCNN -> where is something? -> boxes -> what is it, where exactly, and how does it look?

    L(proposal)   = mean over boxes of  sum over their picture's anchors of focal(score) + sum over matching anchors of |change|
    L(region)     = mean over pictures of  the mean over proposals and annotated boxes of -log p(class) + |finer change| (of things)
    L(attributes) = mean over pictures of  the mean over boxes with attributes of -sum over attributes of q log p, q even on its own

Trained on the boxes of any data set, or of several whose names are merged into one vocabulary (`aliases`, `least_seen`);
`diptych regions train` trains and scores one, `diptych regions extract` makes a store of what it sees.

    difference from Faster R-CNN (Ren et al.)       here
    anchors and proposals are drawn at random       all take part: the same step on any number of ranks; focal loss (Lin et al.,
      in fixed proportions                            2017) keeps the many empty anchors from drowning the few others
    a ResNet's last stage reads each region         one linear layer on its 5 x 5 cells
    a box change for each class                     one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Discriminator, Field, PositiveFloat, Tag
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig, UserError
from diptych.contracts import IGNORE, Batch, LossTerm, ParamGroup, Reader, Regions, System, Tokenizer, Visual
from diptych.image.detector import Detector, Found, change_to, changed, inside
from diptych.image.faster_rcnn import FasterRCNN
from diptych.image.grid_cnn import GridCNN
from diptych.nn import batch_norm
from diptych.nn.box import iou


def _kind(image: Any) -> str:
    """The small detector's configuration came first, and says no kind."""
    said = image.get("kind") if isinstance(image, Mapping) else getattr(image, "kind", None)
    return "small" if said is None else str(said)


class RegionDetector(System):
    purpose = ("pretrain", "boxes")

    class Config(config.Config):
        kind: Literal["detector"] = "detector"
        image: Annotated[
            Annotated[Detector.Config, Tag("small")] | Annotated[FasterRCNN.Config, Tag("faster_rcnn")], Discriminator(_kind)
        ] = Detector.Config()
        names: tuple[str, ...] = Field(default=(), repr=False)  # taken from the training data where empty
        attributes: tuple[str, ...] = Field(default=(), repr=False)
        aliases: dict[str, str] = Field(default={}, repr=False)  # name in the data -> what it is called here
        least_seen: int = 1  # a name or attribute that is rarer is left out (VinVL: 30)
        attribute_weight: PositiveFloat = 0.5

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        if config.names:
            return config
        names: Counter[str] = Counter()
        attributes: Counter[str] = Counter()
        for reader in readers:
            for sample in (reader[i] for i in range(len(reader))):
                names.update(called(box.name, config.aliases) for box in sample.boxes if box.name)
                attributes.update(attribute for box in sample.boxes for attribute in box.attributes)
        if not names:
            raise UserError("a detector learns from boxes with names; the training data has none")
        often = [
            tuple(sorted((name for name, n in count.items() if n >= config.least_seen), key=lambda name: (-count[name], name)))
            for count in (names, attributes)
        ]
        if not often[0]:
            raise UserError(f"system.least_seen={config.least_seen}: no name has so many boxes in the training data")
        return config.model_copy(update={"names": often[0], "attributes": often[1]})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        if not config.names:
            raise UserError("system.names is empty: training fills it from the data")
        self.config = config
        self.image = config.image.build(1 + len(config.names), max(1, len(config.attributes)))
        self._class_of = {name: k for k, name in enumerate(config.names, start=1)}
        self._attribute_of = {name: k for k, name in enumerate(config.attributes)}

    def called(self, name: str) -> str:
        """What a thing of this name in the data is called here."""
        return called(name, self.config.aliases)

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """`detector` [I, R]: the class of each annotated box, IGNORE where none is known; `detector_attributes` [I, R, K], bool."""
        assert batch.images is not None and batch.image_of_BN is not None
        pictures = len(batch.images.pixel_I3HW)
        most = 1 if batch.regions is None else batch.regions.mask_IR.shape[1]
        class_IR = torch.full((pictures, most), IGNORE)
        attribute_IRK = torch.zeros(pictures, most, max(1, len(self.config.attributes)), dtype=torch.bool)
        for i, sample in zip(batch.image_of_BN[:, 0].tolist(), batch.samples, strict=True):
            for r, box in enumerate(sample.boxes if i >= 0 else ()):
                assert batch.regions is not None
                if batch.regions.mask_IR[i, r]:
                    class_IR[i, r] = self._class_of.get(self.called(box.name), IGNORE)
                    attribute_IRK[i, r, [self._attribute_of[a] for a in box.attributes if a in self._attribute_of]] = True
        is_box_IR = class_IR != IGNORE
        has_IR = is_box_IR & attribute_IRK.any(2)
        counts = {"proposal": is_box_IR.sum(), "region": is_box_IR.any(1).sum(), "attributes": has_IR.any(1).sum()}
        return replace(
            batch,
            image_labels={**batch.image_labels, "detector": class_IR, "detector_attributes": attribute_IRK},
            counts={**batch.counts, **{name: float(count) for name, count in counts.items()}},
        )

    # --------------------------------------------------------------------------------------------------- training

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        assert batch.images is not None and batch.regions is not None
        found = self.image(batch.images)
        class_IR, attribute_IRK = batch.image_labels["detector"], batch.image_labels["detector_attributes"]
        true_IR4 = batch.regions.box_IR4 * found.side_I14
        proposals = self.image.propose(found)
        zero = found.score_IA.sum() * 0 + found.change_IA4.sum() * 0
        proposal, boxes, labels, targets = zero, [], [], []
        for i, box_P4 in enumerate(proposals):
            is_box_R = class_IR[i] != IGNORE
            true_R4, class_R = true_IR4[i, is_box_R].float(), class_IR[i, is_box_R]
            proposal = proposal + self.proposal_loss(found, i, true_R4)
            box_P4 = torch.cat(
                [true_R4, box_P4]
            )  # annotated boxes come first: there is something to learn from before any is found
            overlap_PR = iou(box_P4, true_R4) if len(true_R4) else box_P4.new_zeros(len(box_P4), 1)
            best_P, of_P = overlap_PR.max(1)
            boxes.append(box_P4)
            labels.append(class_R[of_P].where(best_P >= 0.5, 0) if len(true_R4) else torch.full_like(of_P, IGNORE))
            targets.append(true_R4[of_P] if len(true_R4) else box_P4)
        label_P, box_P4, target_P4 = torch.cat(labels), torch.cat(boxes), torch.cat(targets)
        named = self.image.read(found, boxes, label_P)
        picture_P = torch.cat([label_P.new_full((len(own),), i) for i, own in enumerate(boxes)])
        is_thing_P = label_P > 0
        away_P = (named.change_P4 - change_to(box_P4, target_P4)).abs().sum(1).where(is_thing_P, 0.0)
        loss_P = F.cross_entropy(named.class_PK, label_P, ignore_index=IGNORE, reduction="none") + away_P
        region = _mean_by_picture(loss_P, label_P != IGNORE, picture_P, len(boxes))
        first_P = torch.cat(
            [torch.arange(len(b), device=label_P.device) < int((class_IR[i] != IGNORE).sum()) for i, b in enumerate(boxes)]
        )
        right = ((named.class_PK.detach().argmax(1) == label_P) & first_P).sum()
        boxes_count = batch.counts["proposal"]
        q_PK = attribute_IRK[class_IR != IGNORE].float()  # of the annotated boxes, picture by picture: as they lie in `first_P`
        log_p_PK = self.image.attributes(named.feature_PD[first_P], label_P[first_P]).log_softmax(1)
        has_P = q_PK.any(1)
        each_P = -(log_p_PK * q_PK).sum(1) / q_PK.sum(1).clamp(min=1)
        attributes = _mean_by_picture(each_P, has_P, picture_P[first_P], len(boxes))
        best_P1 = log_p_PK.detach().argmax(1, keepdim=True)
        likely = (q_PK.gather(1, best_P1)[:, 0] > 0).sum()
        return {
            "proposal": LossTerm(proposal, boxes_count),
            "region": LossTerm(region, batch.counts["region"], metrics={"accuracy": (right, boxes_count)}),
            "attributes": LossTerm(
                attributes, batch.counts["attributes"], self.config.attribute_weight, {"accuracy": (likely, float(has_P.sum()))}
            ),
        }

    def proposal_loss(self, found: Found, i: int, true_R4: Tensor) -> Tensor:
        """Of one picture, summed over its anchors; each box is matched by those that cover it well, and by its best."""
        if not len(true_R4):
            return found.score_IA[i].sum() * 0
        overlap_AR = iou(found.anchor_A4, true_R4) * found.is_real_IA[i][:, None]
        best_A, of_A = overlap_AR.max(1)
        is_best_A = (overlap_AR == overlap_AR.amax(0).clamp(min=1e-6)).any(1)
        is_thing_A = (best_A >= 0.5) | is_best_A
        is_asked_A = found.is_real_IA[i] & (is_thing_A | (best_A < 0.4))
        score_A = found.score_IA[i].float()
        miss_A = F.binary_cross_entropy_with_logits(score_A, is_thing_A.float(), reduction="none")
        sure_A = torch.where(is_thing_A, 1 - score_A.sigmoid(), score_A.sigmoid())
        balance_A = torch.where(is_thing_A, 0.25, 0.75)
        focal = (2 * balance_A * sure_A.square() * miss_A * is_asked_A).sum()
        wanted_A4 = change_to(found.anchor_A4[is_thing_A], true_R4[of_A[is_thing_A]])
        away = F.smooth_l1_loss(found.change_IA4[i][is_thing_A].float(), wanted_A4, beta=0.1, reduction="sum")
        return focal + away / 4

    # ---------------------------------------------------------------------------------------- what regions are made of

    @property
    def region_width(self) -> int:
        return self.config.image.features

    @property
    def region_classes(self) -> tuple[str, ...]:
        return ("background", *self.config.names)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image.grid(batch.images)

    def describe(self, batch: Batch, regions: Regions) -> Regions:
        """Given boxes, as they are."""
        assert batch.images is not None
        found = self.image(batch.images)
        return self._regions(found, list((regions.box_IR4 * found.side_I14).float()), regions.mask_IR)

    def detect(self, batch: Batch) -> Regions:
        """The boxes it finds, the surest first."""
        assert batch.images is not None
        found = self.image(batch.images)
        proposals = self.image.propose(found)
        named = self.image.read(found, proposals)
        finer, chance, boxes = changed(torch.cat(proposals), named.change_P4), named.class_PK.softmax(1), []
        start = 0
        for i, box_P4 in enumerate(proposals):
            end = start + len(box_P4)
            box_P4 = inside(finer[None, start:end], found.side_I14[i : i + 1])[0]
            has_area_P = ((box_P4[:, 2:] - box_P4[:, :2]) >= 1).all(1)
            boxes.append(box_P4[has_area_P][self.image.choose(box_P4[has_area_P], chance[start:end][has_area_P])])
            start = end
        most = max(1, *map(len, boxes))
        length_I1 = torch.tensor([[len(own)] for own in boxes], device=finer.device)
        mask_IR = torch.arange(most, device=finer.device) < length_I1
        return self._regions(found, [F.pad(own, (0, 0, 0, most - len(own))) for own in boxes], mask_IR)

    def attributes(self, regions: Regions) -> Tensor:
        """[I, R, K] probabilities of what a region looks like, given what it most likely is."""
        assert regions.feature_IRD is not None and regions.soft_label_IRK is not None
        logits_PK = self.image.attributes(regions.feature_IRD.flatten(0, 1), regions.soft_label_IRK.argmax(-1).flatten())
        return logits_PK.softmax(1).unflatten(0, regions.mask_IR.shape)

    def _regions(self, found: Found, boxes: list[Tensor], mask_IR: Tensor) -> Regions:
        named = self.image.read(found, boxes)
        shape = mask_IR.shape
        box_IR4 = torch.stack(boxes) / found.side_I14
        return Regions(box_IR4, mask_IR, named.feature_PD.unflatten(0, shape), named.class_PK.softmax(1).unflatten(0, shape))

    def param_groups(self) -> list[ParamGroup]:
        optimizer = "sgd" if isinstance(self.config.image, FasterRCNN.Config) else "adamw"  # as published
        return [group._replace(optimizer=optimizer) for group in super().param_groups()]

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def called(name: str, aliases: Mapping[str, str]) -> str:
    """An alias may lead to another one; a circle of them ends where it began."""
    seen = {name}
    while (following := aliases.get(name, name)) not in seen:
        seen.add(name := following)
    return name


def _mean_by_picture(loss_P: Tensor, is_asked_P: Tensor, picture_P: Tensor, pictures: int) -> Tensor:
    """Sum over pictures of the mean over what each is asked."""
    total_I = loss_P.new_zeros(pictures).index_add(0, picture_P, loss_P.where(is_asked_P, 0.0))
    count_I = loss_P.new_zeros(pictures).index_add(0, picture_P, is_asked_P.to(loss_P.dtype))
    return (total_I / count_I.clamp(min=1)).sum()


def tiny() -> Recipe:
    return Recipe(
        system=RegionDetector.Config(
            image=Detector.Config(
                image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 1)),
                width=32,
                features=32,
                cells=3,
                anchors=(14, 28),
                proposals=8,
            )
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=3e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores: at most 12 boxes of 256 numbers a picture."""
    return Recipe(
        system=RegionDetector.Config(),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16)),
        train=TrainConfig(steps=2000, batch_size=16, lr=2e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """X152-C4 with attributes, VinVL's second step: 90,000 steps on Visual Genome's 1,594 names and 524 attributes.

    From the network of the first step (1.8 million steps on four merged sets), or the published one: `diptych convert x152c4`. The
    attributes' weight and the batch of 16 are remembered from the paper, the rest is its code's. Its losses draw 256 anchors and
    384 regions of a picture; here all anchors and 300 proposals take part, as in the small one.
    """
    return Recipe(
        system=RegionDetector.Config(image=FasterRCNN.Config(), least_seen=30, attribute_weight=1.25),
        data=DataConfig(image=ImageConfig(short=600, long=1000, multiple=16), workers=8),
        train=TrainConfig(
            steps=90_000,
            batch_size=16,
            lr=0.01,
            schedule="steps",
            milestones=(49 / 90, 65 / 90),
            weight_decay=1e-4,
            checkpoint_every=2000,
        ),
    )
