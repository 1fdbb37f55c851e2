"""The detector that the package ships: what its papers say of it, and that it sees what it says it sees."""

import io
import json
from random import Random

import numpy as np

import diptych
from diptych import config, find
from diptych.atelier.compose import crowd, paint, stage
from diptych.atelier.vocabulary import World
from diptych.metrics.average_precision import Detection, Truth, average_precision
from diptych.regions.extract import AtSight
from tools.ship_detector import COMMAND, PLACE, card


def test_it_is_what_its_command_makes_and_says_what_it_scores():
    about, result = find.read_config(PLACE), json.loads((PLACE / "result.json").read_text())
    recipe = config.resolve(find.system("detector:small").recipe, config.from_setting(COMMAND.split()[-1]))
    shipped = find.recipe(about["recipe"], "detector")
    learnt = recipe.system.model_copy(update={"names": shipped.system.names, "attributes": shipped.system.attributes})
    assert shipped == recipe.model_copy(update={"system": learnt})
    assert (PLACE / "README.md").read_text() == card(about, result)
    assert sum(file.stat().st_size for file in PLACE.iterdir()) < 4_000_000
    assert {*result["scores"]} == {"test", "test-style"}


def test_it_finds_and_names_what_is_in_scenes_it_has_not_seen():
    model, world = diptych.load(find.SHIPPED), World("test")
    sight, found, true = AtSight(model.system, model.recipe, model.tokenizer), [], []
    names = model.system.region_classes
    for seed in range(30):
        scene, picture = stage(Random(seed), crowd(world, Random(seed))), io.BytesIO()
        paint(scene).save(picture, "PNG")
        seen = sight[picture.getvalue()]
        label_RK = seen.soft_label_RK[:, 1:]
        found.append(Detection(seen.box_R4, 1 + label_RK.argmax(1), label_RK.max(1).astype(np.float32)))
        box_R4 = np.array([thing.box for thing in scene.things]) / 128
        true.append(Truth(box_R4, np.array([names.index(thing.kind.word) for thing in scene.things])))
    assert average_precision(found, true) > 90
