"""A small two-stage detector with attributes: Faster R-CNN's order of things (Ren et al., 2015) as BUTD and VinVL use it.

    cells of a GridCNN -> 3 x 3 conv -> of each anchor: is something here, and how its box differs             (proposals)
    5 x 5 parts of a proposal -> Linear - ReLU = the region feature -> class (background first), finer box
    [feature ; Embedding(class)] -> Linear - ReLU - Linear -> attributes

One feature level and anchors that are squares of a few sizes: enough for drawn things of similar size, and a step that a CPU can
afford. A part of a region is the mean of the cells under it by area, as in nn/box.py, so padding never enters, as it would by
RoIAlign at the picture's edge. Boxes are class-agnostic, as is the suppression of overlapping ones, for a region is kept for its
feature, not for its name (VinVL's extraction does so too). All boxes are xyxy in pixels of the padded canvas inside this file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.grid_cnn import GridCNN
from diptych.nn.box import to_cxcywh, to_xyxy
from diptych.nn.transformer import initialise

LARGEST = 4.0  # of the logarithm of a change of size: exp of more is no box


class Found(NamedTuple):
    """What one look at the pictures gives before any box is chosen."""

    visual: Visual
    shape: tuple[int, int]  # rows and columns of cells
    side_I14: Tensor  # width, height, width, height of each picture
    anchor_A4: Tensor
    is_real_IA: Tensor  # anchors whose centre lies in the picture
    score_IA: Tensor  # logits that something is there
    change_IA4: Tensor


class Named(NamedTuple):
    """What P boxes hold."""

    feature_PD: Tensor
    class_PK: Tensor  # logits, background first
    change_P4: Tensor


class TwoStage(nn.Module):
    """What detectors with proposals share: which boxes are looked at, and which are kept."""

    config: Any  # with `proposals`, `most`, `least`, `threshold` and `overlap`
    candidates: int  # likeliest boxes among which overlapping ones are left out

    def __init__(self, config: config.Config):
        super().__init__()
        self.config = config

    @torch.no_grad()
    def propose(self, found: Found) -> list[Tensor]:
        """[P, 4] of each picture: the likeliest boxes that do not overlap much."""
        box_IA4 = inside(changed(found.anchor_A4, found.change_IA4), found.side_I14)
        proposals = []
        for box_A4, score_A, is_real_A in zip(box_IA4, found.score_IA, found.is_real_IA, strict=True):
            may_A = is_real_A & ((box_A4[:, 2:] - box_A4[:, :2]) >= 1).all(1)
            box_P4, score_P = box_A4[may_A].float(), score_A[may_A].float()
            first_P = score_P.topk(min(len(score_P), self.candidates)).indices
            kept = nms(box_P4[first_P], score_P[first_P], 0.7)[: self.config.proposals]
            proposals.append(box_P4[first_P][kept])
        return proposals

    def choose(self, box_P4: Tensor, chance_PK: Tensor) -> Tensor:
        """Places of the boxes of one picture that are kept, the surest first."""
        sure_P = chance_PK[:, 1:].amax(1)
        kept = nms(box_P4, sure_P, self.config.overlap)[: self.config.most]
        is_sure = sure_P[kept] >= self.config.threshold
        is_sure[: self.config.least] = True
        return kept[is_sure]


class Detector(TwoStage):
    class Config(config.Config):
        image: GridCNN.Config = GridCNN.Config(channels=(32, 64, 96), strides=(4, 2, 1))
        width: PositiveInt = 96  # of the feature map
        features: PositiveInt = 256  # of a region
        cells: PositiveInt = 5  # a region is read on a grid of so many by so many
        anchors: tuple[PositiveFloat, ...] = (26, 44, 70)  # sides, in pixels of the picture as it is read
        proposals: PositiveInt = 32
        label_width: PositiveInt = 64
        most: PositiveInt = 12  # boxes of a picture
        least: PositiveInt = 1  # kept however unsure
        threshold: float = Field(default=0.2, ge=0, le=1)
        overlap: float = Field(default=0.5, gt=0, le=1)  # of two boxes that are one

        def build(self, classes: int, attributes: int) -> Detector:
            return Detector(self, classes, attributes)

    def __init__(self, config: Config, classes: int, attributes: int):
        """classes: with background."""
        super().__init__(config)
        width, anchors = config.width, len(config.anchors)
        self.grid = config.image.build(width)
        self.around = nn.Conv2d(width, width, 3, padding=1)
        self.score = nn.Conv2d(width, anchors, 1)
        self.change = nn.Conv2d(width, 4 * anchors, 1)
        self.region = nn.Linear(width * config.cells**2, config.features)
        self.of_class = nn.Linear(config.features, classes)
        self.finer = nn.Linear(config.features, 4)
        self.label = nn.Embedding(classes, config.label_width)
        self.attribute = nn.Sequential(
            nn.Linear(config.features + config.label_width, config.features), nn.ReLU(), nn.Linear(config.features, attributes)
        )
        for part in (self.score, self.change, self.of_class, self.finer, self.label):
            part.apply(initialise)
        assert self.score.bias is not None
        nn.init.constant_(self.score.bias, -4.0)  # one anchor in fifty is something: so few that zero would drown them at first

    @property
    def candidates(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 8 * self.config.proposals

    def forward(self, images: Images) -> Found:
        visual = self.grid(images)
        cell = self.config.image.cell
        rows, cols = (-(-side // cell) for side in images.pixel_I3HW.shape[-2:])
        map_IDHW = (visual.token_IVD * visual.mask_IV[..., None]).mT.unflatten(2, (rows, cols))
        shared_IDHW = F.relu(self.around(map_IDHW))
        anchor_A4 = self.anchors(rows, cols, map_IDHW.device)
        score_IA = self.score(shared_IDHW).permute(0, 2, 3, 1).flatten(1)
        change_IA4 = self.change(shared_IDHW).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        is_real_IA = visual.mask_IV.repeat_interleave(len(self.config.anchors), 1)
        return Found(visual, (rows, cols), sides(images), anchor_A4, is_real_IA, score_IA, change_IA4)

    def anchors(self, rows: int, cols: int, device: torch.device) -> Tensor:
        """[A, 4] cell by cell, each with every size."""
        cell = self.config.image.cell
        y_HW, x_HW = torch.meshgrid(*((torch.arange(n, device=device) + 0.5) * cell for n in (rows, cols)), indexing="ij")
        centre_V12 = torch.stack([x_HW, y_HW], -1).view(-1, 1, 2)
        size_1A2 = torch.tensor(self.config.anchors, dtype=torch.float32, device=device)[None, :, None].expand(-1, -1, 2)
        centre_VA2, size_VA2 = torch.broadcast_tensors(centre_V12, size_1A2)
        return to_xyxy(torch.cat([centre_VA2, size_VA2], -1)).flatten(0, 1)

    def read(self, found: Found, boxes: list[Tensor], label_P: Tensor | None = None) -> Named:
        """The boxes of all pictures, one after the other; their changes are the same whatever the label.

        Cells lie on a grid, so the area that a part shares with a cell is a share of rows times a share of columns: two small
        products, where weighing every cell for every part (`nn.box.pool`) took more time than the whole network.
        """
        box_IP4 = pad_sequence(boxes, batch_first=True)
        (rows, cols), map_IVD = found.shape, found.visual.token_IVD
        row_IPCH = self.shares(box_IP4[..., 1], box_IP4[..., 3], found.side_I14[..., 1], rows).to(map_IVD.dtype)
        col_IPCW = self.shares(box_IP4[..., 0], box_IP4[..., 2], found.side_I14[..., 0], cols).to(map_IVD.dtype)
        line_IPCX = row_IPCH.flatten(1, 2) @ map_IVD.unflatten(1, (rows, cols)).flatten(2)  # X: columns and width
        line_IPCWD = line_IPCX.unflatten(1, row_IPCH.shape[1:3]).unflatten(3, (cols, -1))
        part_IPCCD = col_IPCW[:, :, None] @ line_IPCWD
        part_PX = torch.cat([part_PCCD[: len(box_P4)] for part_PCCD, box_P4 in zip(part_IPCCD, boxes, strict=True)]).flatten(1)
        feature_PD = F.relu(self.region(part_PX))
        return Named(feature_PD, self.of_class(feature_PD).float(), self.finer(feature_PD).float())

    def shares(self, low_IP: Tensor, high_IP: Tensor, side_I1: Tensor, cells: int) -> Tensor:
        """[I, P, C, cells] along one axis: what each of a box's C parts takes from each cell, the last of which may be cut."""
        edge_N = torch.linspace(0, 1, self.config.cells + 1, device=low_IP.device)
        edge_IPN = low_IP[..., None] + edge_N * (high_IP - low_IP)[..., None]
        edge_IV = torch.minimum(torch.arange(cells + 1, device=low_IP.device) * self.config.image.cell, side_I1)
        width_IV, tiny = edge_IV.diff(dim=1), torch.finfo(low_IP.dtype).tiny
        first_IPCV = torch.maximum(edge_IPN[..., :-1, None], edge_IV[:, None, None, :-1])
        last_IPCV = torch.minimum(edge_IPN[..., 1:, None], edge_IV[:, None, None, 1:])
        covered_IPCV = (last_IPCV - first_IPCV).clamp(min=0) / width_IV[:, None, None].clamp(min=tiny)
        return covered_IPCV / covered_IPCV.sum(3, keepdim=True).clamp(min=tiny)

    def attributes(self, feature_PD: Tensor, label_P: Tensor) -> Tensor:
        """[P, K] logits; label: the true class in training, the likeliest afterwards."""
        return self.attribute(torch.cat([feature_PD, self.label(label_P)], 1)).float()


def sides(images: Images) -> Tensor:
    """[I, 1, 4] width, height, width, height."""
    return images.size_I2.flip(1).repeat(1, 2)[:, None].float()


def changed(box: Tensor, change: Tensor) -> Tensor:
    """[..., 4] boxes moved by (dx, dy) of their size and scaled by exp(dw, dh)."""
    cxcywh = to_cxcywh(box)
    centre, size = cxcywh[..., :2], cxcywh[..., 2:]
    return to_xyxy(torch.cat([centre + change[..., :2] * size, size * change[..., 2:].clamp(max=LARGEST).exp()], -1))


def change_to(box: Tensor, target: Tensor) -> Tensor:
    """What `changed` needs to make `box` the target."""
    here, there = to_cxcywh(box), to_cxcywh(target)
    size, wanted = here[..., 2:].clamp(min=1e-3), there[..., 2:].clamp(min=1e-3)
    return torch.cat([(there[..., :2] - here[..., :2]) / size, (wanted / size).log()], -1)


def inside(box_IP4: Tensor, side_I14: Tensor) -> Tensor:
    """Boxes cut to their picture."""
    return torch.minimum(box_IP4.clamp(min=0), side_I14)
