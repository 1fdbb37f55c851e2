"""What fine-tuning takes over of a pre-training's recipe, and what it changes: where the tasks' `finetuning` start from."""

from __future__ import annotations

from diptych.config import Config, Recipe


def tenth(recipe: Recipe, task: Config, batch_size: int | None = None) -> Recipe:
    """ViLT's fine-tuning, scaled: a tenth of the steps (1,000 at least, where there were so many), at the same learning rate.

    Nothing is frozen, and a sample is one text. The batch is that of the pre-training, of at most 256 samples.
    """
    steps = max(recipe.train.steps // 10, min(recipe.train.steps, 1000))
    batch_size = batch_size or min(recipe.train.batch_size, 256)
    train = recipe.train.model_copy(update={"freeze": (), "steps": steps, "batch_size": batch_size})
    data = recipe.data.model_copy(update={"texts_per_image": 1})
    return recipe.model_copy(update={"task": task, "train": train, "data": data})
