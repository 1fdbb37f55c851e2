"""Scenes drawn freely and described: what pre-training and retrieval feed on.

Regions alone (Visual Genome's role) for most, dense captions and instances too (COCO's role) for the rest: as with the originals,
the two sets share some pictures.
"""

from __future__ import annotations

from random import Random
from typing import Any

from diptych.atelier import coco, visual_genome
from diptych.atelier.compose import Scene, crowd, stage
from diptych.atelier.vocabulary import World

SCENES = 1


def with_regions(
    world: World, rng: Random, index: int, image_ids: list[int], group: str
) -> tuple[list[Scene], dict[str, list[Any]]]:
    scene = stage(rng, crowd(world, rng))
    return [scene], visual_genome.describe(scene, image_ids[0], world, rng)


def with_captions(
    world: World, rng: Random, index: int, image_ids: list[int], group: str
) -> tuple[list[Scene], dict[str, list[Any]]]:
    [scene], rows = with_regions(world, rng, index, image_ids, group)
    picture = [coco.image(image_ids[0], world.split)]
    rows["captions"] = coco.caption_records(scene, image_ids[0], world, rng)
    rows["instances"] = coco.instances(scene, image_ids[0])
    return [scene], rows | {"captions.images": picture, "instances.images": picture}
