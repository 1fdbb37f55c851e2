"""Set prediction: all things of a picture at once, by bipartite matching (DETR, Carion et al., ECCV 2020; E2E-VLP adds attributes).

    decoded queries -> Linear -> class, "nothing" last    -> Linear -> attribute, "none" last    -> MLP -> sigmoid -> box cxcywh

    a one-to-one assignment of boxes to queries, the cheapest by    -p(class) - p(attribute) + 5 |box - box'| - 2 GIoU
    object_box        mean over boxes of 5 |box - box'| + 2 (1 - GIoU)
    object_class      mean over queries of -log p(class); those that answer to no box are asked for "nothing", and weigh `nothing`
    object_attribute  the same of attributes: the mean over a box's own of -log p, "none" for the others

and so again at every decoder layer, each with an assignment of its own. A sum of layers is not divided by their number, as in DETR.

What is different here. The means are over all ranks: how many boxes a batch holds, and so the weight of all its queries, is known
before the forward pass (DETR counts boxes over ranks, but averages classes within each). A picture without any annotated box is not
asked, for it may as well not have been annotated; nor is a box whose name is not in the vocabulary. A box without attributes is not
asked for any: nobody said that it has none. Beyond as many boxes as queries, those that fit worst are left out.
The attribute's part in cost and loss is known from E2E-VLP's formula alone; a box may have several, and then their mean counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Box, LossTerm, Reader, Visual
from diptych.nn.box import giou, iou, to_cxcywh, to_xyxy
from diptych.nn.exact import exact
from diptych.objectives import example_rows, naming
from diptych.objectives.naming import Naming


class SetPrediction(nn.Module):
    class Config(config.Config):
        names: tuple[str, ...] = Field(default=(), repr=False)  # taken from the training data where empty
        attributes: tuple[str, ...] = Field(default=(), repr=False)
        most_names: PositiveInt = 1600  # BUTD's vocabulary of Visual Genome
        most_attributes: PositiveInt = 400
        queries: PositiveInt = 100
        nothing: PositiveFloat = 0.1  # weight of a query that answers to no box
        box_weight: NonNegativeFloat = 5.0  # of |box - box'|, in cost and loss
        giou_weight: NonNegativeFloat = 2.0
        attribute_weight: NonNegativeFloat = 1.0
        auxiliary: bool = True  # ask every decoder layer, not only the last
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> SetPrediction:
            return SetPrediction(self, width)

    @staticmethod
    def prepare(config: Config, readers: Sequence[Reader]) -> Config:
        """Names and attributes of the training data; none where a task's data have no boxes, and then nothing is ever found."""
        if config.names or not any(sample.boxes for reader in readers for sample in map(reader.__getitem__, range(len(reader)))):
            return config
        wanted = Naming.Config(most_names=config.most_names, most_attributes=config.most_attributes)
        found = Naming.prepare(wanted, readers, "set prediction")
        return config.model_copy(update={"names": found.names, "attributes": found.attributes})

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.classes = nn.Linear(width, len(config.names) + 1)  # all heads start as torch's layers do, as in DETR
        self.attributes = nn.Linear(width, len(config.attributes) + 1) if config.attributes else None
        self.box = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        self._name_place = {name: k for k, name in enumerate(config.names)}
        self._attribute_place = {name: k for k, name in enumerate(config.attributes)}

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """`object_class` [I, R] and `object_attribute` [I, R, K], bool, of the boxes in `batch.regions`; IGNORE asks nothing."""
        assert batch.images is not None and batch.image_of_BN is not None
        things: list[Sequence[Box]] = [()] * len(batch.images.pixel_I3HW)
        for i, sample in zip(batch.image_of_BN[:, 0].tolist(), batch.samples, strict=True):
            if i >= 0:
                things[i] = sample.boxes
        class_IR, attribute_IRK = naming.places_of(things, self._name_place, self._attribute_place)
        if batch.regions is not None:
            class_IR = class_IR.masked_fill(~batch.regions.mask_IR, IGNORE)
        is_asked_IR = class_IR != IGNORE
        queries, asked = self.config.queries, is_asked_IR.any(1)
        boxes_I = is_asked_IR.sum(1).clamp(max=queries)
        nothing = self.config.nothing * float((queries - boxes_I)[asked].sum())
        counts = {"object_box": float(boxes_I.sum()), "object_class": float(boxes_I.sum()) + nothing}
        if self.attributes is not None:
            # Which boxes of a picture are left out is known only later; so of more boxes than queries, none is asked for attributes
            is_said_IR = is_asked_IR & attribute_IRK.any(2) & (is_asked_IR.sum(1, keepdim=True) <= queries)
            attribute_IRK = attribute_IRK & is_said_IR[..., None]
            counts["object_attribute"] = float(is_said_IR.sum()) + nothing
        labels = {"object_class": class_IR, "object_attribute": attribute_IRK}
        return replace(batch, image_labels={**batch.image_labels, **labels}, counts={**batch.counts, **counts})

    # --------------------------------------------------------------------------------------------------- training

    def forward(self, states: Sequence[Tensor], batch: Batch) -> dict[str, LossTerm]:
        """`states`: the decoded queries [I, Q, D] of every layer, the last one last."""
        state_LIQD = torch.stack([*states] if self.config.auxiliary else [states[-1]])
        class_LIQK, box_LIQ4 = self.classes(state_LIQD).float(), self.boxes(state_LIQD)
        attribute_LIQK = None if self.attributes is None else self.attributes(state_LIQD).float()
        class_IR = batch.image_labels["object_class"]
        true_IR4 = box_LIQ4.new_zeros(*class_IR.shape, 4) if batch.regions is None else batch.regions.box_IR4.float()
        attribute_IRK = batch.image_labels["object_attribute"].float()
        share_IRK = attribute_IRK / attribute_IRK.sum(2, keepdim=True).clamp(min=1)
        cost_LIQR = self.cost(class_LIQK, box_LIQ4, attribute_LIQK, class_IR, true_IR4, share_IRK)
        l_P, i_P, q_P, r_P = assign(cost_LIQR, class_IR != IGNORE)

        found_P4, true_P4 = box_LIQ4[l_P, i_P, q_P], true_IR4[i_P, r_P]
        far = (found_P4 - to_cxcywh(true_P4)).abs().sum()
        apart = (1 - giou(to_xyxy(found_P4)[:, None], true_P4[:, None])).sum()
        away = self.config.box_weight * far + self.config.giou_weight * apart

        is_asked_LIQ = (class_IR != IGNORE).any(1)[:, None].expand(class_LIQK.shape[:-1])
        nothing = class_LIQK.shape[-1] - 1
        label_LIQ = torch.where(is_asked_LIQ, nothing, IGNORE).index_put((l_P, i_P, q_P), class_IR[i_P, r_P])
        weight_LIQ = torch.where(label_LIQ == nothing, self.config.nothing, 1.0)
        wrong_LIQ = F.cross_entropy(class_LIQK.movedim(-1, 1), label_LIQ, ignore_index=IGNORE, reduction="none")

        last_P = l_P == len(state_LIQD) - 1
        boxes = batch.counts["object_box"]
        with torch.no_grad():
            right = (class_LIQK[-1, i_P[last_P], q_P[last_P]].argmax(1) == class_IR[i_P[last_P], r_P[last_P]]).sum()
            overlap = iou(to_xyxy(found_P4[last_P])[:, None], true_P4[last_P][:, None]).sum()
        terms = {
            "object_box": LossTerm(away, boxes, self.config.weight, {"iou": (overlap, boxes)}),
            "object_class": LossTerm(
                (wrong_LIQ * weight_LIQ).sum(), batch.counts["object_class"], self.config.weight, {"accuracy": (right, boxes)}
            ),
        }
        if attribute_LIQK is not None:
            target_LIQK = torch.zeros_like(attribute_LIQK)
            target_LIQK[..., -1] = (label_LIQ == nothing) * self.config.nothing
            target_LIQK[l_P, i_P, q_P, :-1] = share_IRK[i_P, r_P]
            missed = -(target_LIQK * attribute_LIQK.log_softmax(-1)).sum()
            guess_P1 = attribute_LIQK[-1, i_P[last_P], q_P[last_P], :-1].detach().argmax(1, keepdim=True)
            likely = attribute_IRK[i_P[last_P], r_P[last_P]].gather(1, guess_P1).sum()
            said = float(attribute_IRK.any(2).sum())
            weight = self.config.weight * self.config.attribute_weight
            terms["object_attribute"] = LossTerm(missed, batch.counts["object_attribute"], weight, {"accuracy": (likely, said)})
        return terms

    def boxes(self, state: Tensor) -> Tensor:
        """[..., 4] cxcywh in [0, 1] of the unpadded picture."""
        return self.box(state).float().sigmoid()

    @torch.no_grad()
    def cost(
        self,
        class_LIQK: Tensor,
        box_LIQ4: Tensor,
        attribute_LIQK: Tensor | None,
        class_IR: Tensor,
        true_IR4: Tensor,
        share_IRK: Tensor,
    ) -> Tensor:
        """[L, I, Q, R] of giving a query to a box."""
        of_LIQR = class_IR.clamp(min=0)[None, :, None].expand(*class_LIQK.shape[:3], -1)
        cost_LIQR = -class_LIQK.softmax(-1).gather(-1, of_LIQR)
        if attribute_LIQK is not None:
            with exact(share_IRK):  # which of two is cheaper is not for eight bits to say
                cost_LIQR = cost_LIQR - self.config.attribute_weight * attribute_LIQK.softmax(-1)[..., :-1] @ share_IRK.mT
        far_LIQR = (box_LIQ4[..., None, :] - to_cxcywh(true_IR4)[:, None]).abs().sum(-1)
        return cost_LIQR + self.config.box_weight * far_LIQR - self.config.giou_weight * giou(to_xyxy(box_LIQ4), true_IR4)


def assign(cost_LIQR: Tensor, is_asked_IR: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(layer, picture, query, box) of every pair that belongs together; one journey to the host for all of them."""
    largest = torch.finfo(
        torch.float32
    ).max  # what is no number is taken last: the loss says that it is none, and the step is skipped
    cost = torch.nan_to_num(cost_LIQR, nan=largest, posinf=largest, neginf=-largest).cpu().numpy()
    asked = [is_asked_R.nonzero()[0] for is_asked_R in is_asked_IR.cpu().numpy()]
    pairs = [
        (layer, i, q, boxes_R[r])
        for layer, cost_IQR in enumerate(cost)
        for i, boxes_R in enumerate(asked)
        if len(boxes_R)
        for q, r in zip(*linear_sum_assignment(cost_IQR[i][:, boxes_R]), strict=True)
    ]
    index_P4 = torch.tensor(pairs, dtype=torch.int64).view(-1, 4).to(cost_LIQR.device)
    return index_P4[:, 0], index_P4[:, 1], index_P4[:, 2], index_P4[:, 3]


class _Example(SetPrediction):
    """Two layers of three queries that see the mean of a picture's tokens, and the sum of the three losses, counted in boxes."""

    def label(self, batch: Batch) -> Batch:
        batch = super().label(batch)
        return replace(batch, counts={**batch.counts, "set_prediction": batch.counts["object_box"]})

    def forward(self, visual: Visual, batch: Batch) -> LossTerm:  # pyright: ignore[reportIncompatibleMethodOverride]
        query_QD = torch.eye(3, example_rows.WIDTH)
        states = [scale * visual.mean()[:, None] + query_QD for scale in (1.0, 0.5)]
        terms = super().forward(states, batch).values()
        return LossTerm(torch.stack([term.sum for term in terms]).sum(), batch.counts["set_prediction"])


def example() -> tuple[SetPrediction, Visual, Batch]:
    _, visual, batch = naming.example()
    config = SetPrediction.Config(names=("cat", "dog"), attributes=("red", "big"), queries=3)
    return _Example(config, example_rows.WIDTH), visual, batch
