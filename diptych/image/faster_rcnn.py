"""Faster R-CNN on a ResNeXt as VinVL has it: X152-C4 with attributes (Zhang et al., CVPR 2021; its code: scene_graph_benchmark).

    picture -> stem - stages 1 to 3, stride 16 -> [1024] -> 3 x 3 conv -> of each of 15 anchors: is something here, and its change
    14 x 14 of a proposal (RoIAlign) -> stage 4, stride 2 -> mean of 7 x 7 = the region feature [2048]
        -> class (background first), a change of the box for each class
    [feature ; Embedding(class)] -> Linear - ReLU - Linear -> attributes

Parameters have the published names behind `image.`, and shapes, so weights/x152c4.py only takes what is there. Read in that code:
stages, strides (in the 3 x 3 convolutions), heads and their widths, sizes of anchors, numbers of proposals, thresholds, the mean in
BGR, what is frozen. Remembered, as those files were out of reach: how anchors are rounded and ordered and how changes lie in their
tensors (py-faster-rcnn's ways, which the code descends from), the box's changes in tenths and fifths, and that its frozen norms add
nothing to the variance. Boxes there end on their last pixel, here behind it.

Norms stay as they were loaded. Without published weights this network is a shape: something to step, not to learn from.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torchvision.ops import roi_align

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.detector import Found, Named, TwoStage, sides
from diptych.image.grid_cnn import cells
from diptych.image.pixels import Channels, normalise
from diptych.nn.box import to_xyxy

CELL = 16  # pixels from one place of the map to the next
SHAPES = ((23, 12), (16, 16), (11, 22))  # width and height of anchors of size 16, as py-faster-rcnn rounds 1:2, 1:1 and 2:1
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # changes of boxes are told in tenths of a side, and fifths of a logarithm


class FasterRCNN(TwoStage):
    class Config(config.Config):
        kind: Literal["faster_rcnn"] = "faster_rcnn"
        blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 8, 36, 3)
        groups: PositiveInt = 32
        group_width: PositiveInt = 8
        frozen: int = Field(default=2, ge=0, le=5)  # how many of stem, stage 1 ... stage 4 do not learn
        anchors: tuple[PositiveFloat, ...] = (32, 64, 128, 256, 512)
        cells: PositiveInt = 14
        candidates: PositiveInt = 6000  # likeliest boxes of which overlapping ones are left out
        proposals: PositiveInt = 300
        label_width: PositiveInt = 256
        attribute_width: PositiveInt = 512
        most: PositiveInt = 100  # boxes of a picture
        least: PositiveInt = 10  # kept however unsure
        threshold: float = Field(default=0.2, ge=0, le=1)
        overlap: float = Field(default=0.5, gt=0, le=1)
        refine: bool = False  # move a proposal as its class says; the published features are of proposals as they are
        mean: Channels = (0.406, 0.456, 0.485)  # blue, green, red; on the scale of 255 the published numbers

        @property
        def features(self) -> int:
            return 2048

        def build(self, classes: int, attributes: int) -> FasterRCNN:
            return FasterRCNN(self, classes, attributes)

    def __init__(self, config: Config, classes: int, attributes: int):
        """classes: with background."""
        from torchvision.models.resnet import Bottleneck, ResNet
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__(config)
        net = ResNet(
            Bottleneck,
            list(config.blocks),
            groups=config.groups,
            width_per_group=config.group_width,
            norm_layer=partial(FrozenBatchNorm2d, eps=0.0),
        )
        for block in (block for block in net.modules() if isinstance(block, Bottleneck)):
            # frozen norms of a fresh network tame nothing: each of 50 blocks would double the variance
            block.bn3.weight.fill_(0.25)  # pyright: ignore[reportCallIssue]
        stem = nn.Sequential()
        for name in ("conv1", "bn1", "relu", "maxpool"):
            stem.add_module(name, getattr(net, name))
        stages = {"stem": stem, "layer1": net.layer1, "layer2": net.layer2, "layer3": net.layer3}
        for part in [*stages.values(), net.layer4][: config.frozen]:
            part.requires_grad_(False)
        width, anchors, features = 1024, len(config.anchors) * len(SHAPES), config.features
        self.backbone = nn.ModuleDict({"body": nn.ModuleDict(stages)})
        head = {"conv": nn.Conv2d(width, width, 3, padding=1), "cls_logits": nn.Conv2d(width, anchors, 1)}
        self.rpn = nn.ModuleDict({"head": nn.ModuleDict(head | {"bbox_pred": nn.Conv2d(width, 4 * anchors, 1)})})
        extractor = nn.ModuleDict({"head": nn.ModuleDict({"layer4": net.layer4})})
        predictor = nn.ModuleDict({"cls_score": nn.Linear(features, classes), "bbox_pred": nn.Linear(features, 4 * classes)})
        self.roi_heads = nn.ModuleDict({"box": nn.ModuleDict({"feature_extractor": extractor, "predictor": predictor})})
        attribute = {
            "cls_embedding": nn.Embedding(classes, config.label_width),
            "fc_attr": nn.Linear(features + config.label_width, config.attribute_width),
            "attr_score": nn.Linear(config.attribute_width, attributes),
        }
        self.attribute = nn.ModuleDict({"predictor": nn.ModuleDict(attribute)})
        for name, parameter in self.named_parameters():
            if not name.startswith("backbone") and "layer4" not in name:
                std = 0.001 if "box.predictor.bbox_pred" in name else 0.01
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=std)

    @property
    def candidates(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.config.candidates

    def _map(self, images: Images) -> Tensor:
        """[I, 1024, H, W]; black beside a picture is the mean, and norms reach over the edge as they do in the published code."""
        bgr = Images(images.pixel_I3HW.flip(1), images.mask_IHW)
        x_ICHW = normalise(bgr, self.config.mean, (1 / 255, 1 / 255, 1 / 255))
        height, width = x_ICHW.shape[-2:]
        x_ICHW = F.pad(x_ICHW, (0, -width % CELL, 0, -height % CELL))
        for stage in self.backbone["body"].values():  # pyright: ignore[reportCallIssue]
            x_ICHW = stage(x_ICHW)
        return x_ICHW

    def grid(self, images: Images) -> Visual:
        map_IDHW = self._map(images)
        rows, cols = map_IDHW.shape[-2:]
        box_IV4, mask_IV = cells(images.size_I2, rows, cols, CELL)
        return Visual(map_IDHW.flatten(2).mT, mask_IV, box_IV4)

    def forward(self, images: Images) -> Found:
        visual = self.grid(images)
        rows, cols = (-(-side // CELL) for side in images.pixel_I3HW.shape[-2:])
        head = self.rpn["head"]
        shared_IDHW = F.relu(head["conv"](visual.token_IVD.mT.unflatten(2, (rows, cols))))  # pyright: ignore[reportIndexIssue]
        score_IA, change_IX = (
            head[part](shared_IDHW).permute(0, 2, 3, 1).flatten(1)  # pyright: ignore[reportIndexIssue]
            for part in ("cls_logits", "bbox_pred")
        )
        anchor_A4 = self.anchors(rows, cols, score_IA.device)
        is_real_IA = visual.mask_IV.repeat_interleave(len(self.config.anchors) * len(SHAPES), 1)
        return Found(visual, (rows, cols), sides(images), anchor_A4, is_real_IA, score_IA, change_IX.unflatten(1, (-1, 4)))

    def anchors(self, rows: int, cols: int, device: torch.device) -> Tensor:
        """[A, 4] cell by cell, shape by shape, each in every size."""
        y_HW, x_HW = torch.meshgrid(*((torch.arange(n, device=device) + 0.5) * CELL for n in (rows, cols)), indexing="ij")
        centre_V12 = torch.stack([x_HW, y_HW], -1).view(-1, 1, 2)
        shapes = [(w * size / 16, h * size / 16) for w, h in SHAPES for size in self.config.anchors]
        centre_VA2, size_VA2 = torch.broadcast_tensors(centre_V12, torch.tensor(shapes, device=device)[None])
        return to_xyxy(torch.cat([centre_VA2, size_VA2], -1)).flatten(0, 1)

    def read(self, found: Found, boxes: list[Tensor], label_P: Tensor | None = None) -> Named:
        """The boxes of all pictures, one after the other. label: the class whose change is asked for; none: the likeliest's."""
        map_IDHW = found.visual.token_IVD.float().mT.unflatten(2, found.shape)
        last = torch.tensor([0.0, 0.0, 1.0, 1.0], device=map_IDHW.device)  # to the last pixel
        part_PDCC = roi_align(map_IDHW, [box_P4.float() - last for box_P4 in boxes], self.config.cells, 1 / CELL, aligned=False)
        extractor, predictor = (self.roi_heads["box"][part] for part in ("feature_extractor", "predictor"))  # pyright: ignore
        feature_PD = extractor["head"]["layer4"](part_PDCC).mean((2, 3))
        class_PK = predictor["cls_score"](feature_PD).float()
        if label_P is None and not self.config.refine:
            return Named(feature_PD, class_PK, class_PK.new_zeros(len(class_PK), 4))
        of_P = class_PK[:, 1:].argmax(1) + 1 if label_P is None else label_P.clamp(min=0)
        change_PK4 = predictor["bbox_pred"](feature_PD).float().unflatten(1, (-1, 4)) / class_PK.new_tensor(WEIGHTS)
        return Named(feature_PD, class_PK, change_PK4[torch.arange(len(of_P), device=of_P.device), of_P])

    def attributes(self, feature_PD: Tensor, label_P: Tensor) -> Tensor:
        """[P, K] logits; label: the true class in training, the likeliest afterwards."""
        part = self.attribute["predictor"]
        known_PX = torch.cat([feature_PD, part["cls_embedding"](label_P)], 1)  # pyright: ignore[reportIndexIssue]
        return part["attr_score"](F.relu(part["fc_attr"](known_PX))).float()  # pyright: ignore[reportIndexIssue]
