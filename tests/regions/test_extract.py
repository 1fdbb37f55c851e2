"""What `diptych regions extract` puts into a store is what the network says of each picture alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_every_system import TOKENIZER

from diptych import find
from diptych.config import TextConfig, UserError
from diptych.data import coco_captions
from diptych.data.collate import Collate
from diptych.data.mixture import Source
from diptych.data.picture import decode_sample
from diptych.draw import Draw
from diptych.regions.extract import extract
from diptych.regions.score import score
from diptych.regions.store import RegionStore
from diptych.systems.cnn import CNN
from diptych.systems.detector import RegionDetector


def test_annotated_boxes_are_described_picture_by_picture_and_none_twice(tmp_path):
    coco_captions.example(tmp_path)
    reader = coco_captions.COCOCaptions.open(tmp_path, "val")
    recipe = find.system("cnn:tiny").recipe
    naming = recipe.system.naming.model_copy(update={"names": ("dog", "cat"), "attributes": ("red",)})
    torch.manual_seed(0)
    system = CNN(recipe.system.model_copy(update={"naming": naming}), TOKENIZER)
    sources, out, made = [Source("coco", reader)], tmp_path / "store", {"from": "cnn"}

    with pytest.raises(UserError, match="CNN finds no boxes; --boxes true"):
        extract(system, recipe, TOKENIZER, sources, out, "detected", made)
    some = [Source("coco", coco_captions.COCOCaptions.open(tmp_path, "val", limit=3))]
    assert len(extract(system, recipe, TOKENIZER, some, out, "true", made)) == 3
    store = extract(system, recipe, TOKENIZER, sources, out, "true", made)
    assert (len(store), store.width, store.classes) == (4, recipe.system.width, ("background", "dog", "cat"))
    assert store.about["rows"] == sum(len(reader[i].boxes) for i in range(4))

    collate = Collate(TOKENIZER, TextConfig(), recipe.data, training=False)
    for i in range(4):
        sample = replace(reader[i], texts=())
        batch = collate([sample], [decode_sample(sample, recipe.data.image)], [0], Draw(0))
        seen = store[sample.images[0]]
        with torch.no_grad():
            visual = system.see(batch)
        for r, box_4 in enumerate(batch.regions.box_IR4[0]):
            share_V, mean_D = [], 0.0
            for cell_4, token_D in zip(visual.box_IV4[0].tolist(), visual.token_IVD[0], strict=True):
                x1, y1 = (max(a, b) for a, b in zip(box_4.tolist()[:2], cell_4[:2], strict=True))
                x2, y2 = (min(a, b) for a, b in zip(box_4.tolist()[2:], cell_4[2:], strict=True))
                share_V.append(max(x2 - x1, 0) * max(y2 - y1, 0))
                mean_D = mean_D + share_V[-1] * token_D
            assert np.allclose(seen.feature_RD[r], mean_D / sum(share_V), atol=5e-3)
            assert np.allclose(seen.box_R4[r], box_4)
        assert seen.soft_label_RK[:, 0].max() == 0, "an annotated box is no background"
        assert np.allclose(seen.soft_label_RK.astype(np.float32).sum(1), 1, atol=2e-3)
    with pytest.raises(UserError, match="begun with other made"):
        extract(system, recipe, TOKENIZER, sources, out, "true", {"from": "another"})
    assert RegionStore(out).fingerprint == store.fingerprint


def test_a_detector_is_scored_by_what_it_finds_and_by_what_it_calls_things(tmp_path):
    """A detector that gives back what is annotated, or something worse."""
    coco_captions.example(tmp_path)
    reader = coco_captions.COCOCaptions.open(tmp_path, "val")
    recipe = find.system("detector:tiny").recipe
    config = recipe.system.model_copy(update={"names": ("cat", "dog"), "attributes": ("red",)})
    system = RegionDetector(config, TOKENIZER).eval()

    class Oracle(RegionDetector):
        says = 2

        def detect(self, batch):
            soft_IRK = torch.eye(3)[self.says].expand(*batch.regions.mask_IR.shape, 3)
            return replace(
                batch.regions, feature_IRD=torch.zeros(*soft_IRK.shape[:2], config.image.features), soft_label_IRK=soft_IRK
            )

        def describe(self, batch, regions):
            return self.detect(batch)

    oracle = Oracle(config, TOKENIZER)
    scored = score(oracle, recipe, TOKENIZER, reader)
    assert (scored["AP50"], scored["AP50_where"], scored["class"]) == (100, 100, 100)
    assert (scored["pictures"], scored["boxes"], scored["known_boxes"]) == (4, 4, 4)
    oracle.says = 1
    scored = score(oracle, recipe, TOKENIZER, reader)
    assert (scored["AP50"], scored["AP50_where"], scored["class"]) == (0, 100, 0)
    assert 0 <= score(system, recipe, TOKENIZER, reader)["AP50"] <= 100
