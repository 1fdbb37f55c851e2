"""A recipe can be changed by file and by --set, saved, and fed back; a mistake is one line that names the place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from diptych import config
from diptych.config import Config, Recipe, TrainConfig, UserError, from_file, from_setting, resolve, to_yaml


class Single(Config):
    kind: Literal["single"] = "single"
    layers: PositiveInt = 12
    rate: float = 0.1


class Dual(Config):
    kind: Literal["dual"] = "dual"
    layers: PositiveInt = 6
    crossed: bool = True


class Alignment(Config):
    weight: float = 0.1
    steps: PositiveInt = 50


class Toy(Config):
    kind: Literal["toy"] = "toy"
    width: PositiveInt = 64
    fusion: Annotated[Single | Dual, Field(discriminator="kind")] = Single()
    wpa: Alignment | None = None
    stages: tuple[Alignment, ...] = (Alignment(), Alignment(weight=1))
    weights: dict[str, float] = Field(default_factory=dict)
    name: str = "x"


PRESET = Recipe(
    system=Toy(fusion=Single(layers=2)),
    train=TrainConfig(steps=10, batch_size=4, lr=1e-3),
)


def changed(*settings: str) -> Recipe:
    return resolve(PRESET, *(from_setting(setting) for setting in settings))


positive = st.integers(1, 10**9)
finite = st.floats(allow_nan=False, allow_infinity=False)
fusions = st.builds(Single, layers=positive, rate=finite) | st.builds(Dual, layers=positive, crossed=st.booleans())
alignments = st.builds(Alignment, weight=finite, steps=positive)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
recipes = st.builds(
    Recipe,
    system=st.builds(
        Toy,
        width=positive,
        fusion=fusions,
        wpa=st.none() | alignments,
        stages=st.lists(alignments, max_size=3).map(tuple),
        name=words,
    ),
    train=st.builds(
        TrainConfig,
        steps=positive,
        batch_size=positive,
        lr=st.floats(0, 1, exclude_min=True),
        clip=st.none() | st.floats(0, 10, exclude_min=True),
        freeze=st.lists(words).map(tuple),
        seed=st.integers(),
    ),
    data=st.builds(config.DataConfig, limit=st.none() | positive),
)


LIKE_NUMBERS = PRESET.model_copy(update={"train": PRESET.train.model_copy(update={"freeze": ("0E0", "1e5", "-.5e+3", "1.5")})})


@settings(deadline=None)
@example(recipe=LIKE_NUMBERS, start=PRESET)
@given(recipe=recipes, start=recipes)
def test_a_saved_recipe_fed_back_over_any_other_is_that_recipe(
    recipe: Recipe, start: Recipe, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("fed")
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    (folder / "config.json").write_text(
        json.dumps({"verb": "pretrain", "recipe": recipe.model_dump(mode="json")}), encoding="utf-8"
    )
    assert resolve(start, from_file(folder / "recipe.yaml")) == recipe
    assert resolve(start, from_file(folder / "config.json")) == recipe
    assert config.checked(json.loads((folder / "config.json").read_text())["recipe"], Toy, None) == recipe


@settings(deadline=None)
@given(recipe=recipes)
def test_every_leaf_can_be_set_on_the_command_line(recipe: Recipe):
    leaves = config.flat(recipe.model_dump(mode="json"))
    typed = [from_setting(f"{'.'.join(path)}={json.dumps(value)}") for path, value in leaves.items() if value != {}]
    assert resolve(PRESET, [change for setting in typed for change in setting]) == recipe


def test_set_is_typed_by_its_field():
    recipe = changed(
        "train.lr=3e-4", "train.clip=None", "data.limit=none", "data.image.augment=none", "text.vocab=123", "system.name=null",
        "train.betas.1=0.9", "train.freeze=[image., text.]", "train.freeze.1=fusion.", "train.freeze.2=head.",
        "system.wpa.weight=2", "system.stages.1.steps=7", "system.weights.mlm=.5",
    )  # fmt: skip
    assert recipe.train.lr == 3e-4 and recipe.train.clip is None and recipe.train.betas == (0.9, 0.9)
    assert recipe.data.limit is None and recipe.data.image.augment == "none" and recipe.text.vocab == "123"
    assert recipe.train.freeze == ("image.", "fusion.", "head.")
    system = recipe.system
    assert isinstance(system, Toy)
    assert system.name == "null" and system.wpa == Alignment(weight=2) and system.weights == {"mlm": 0.5}
    assert system.stages == (Alignment(), Alignment(weight=1, steps=7))


def test_another_kind_keeps_what_both_know():
    system = changed("system.fusion.rate=.3", "system.fusion.kind=dual", "system.fusion.crossed=false").system
    assert isinstance(system, Toy) and system.fusion == Dual(layers=2, crossed=False)
    assert changed("system.fusion={kind: dual, layers: 3}").system == Toy(fusion=Dual(layers=3))


def test_later_layers_win(tmp_path: Path):
    file = tmp_path / "my.yaml"
    file.write_text("train:\n  lr: 3e-4\n  steps: 20\n")
    recipe = resolve(PRESET, from_file(file), from_setting("train.steps=30"))
    assert (recipe.train.lr, recipe.train.steps, recipe.train.batch_size) == (3e-4, 30, 4)
    file.write_text("# nothing yet\n")
    assert resolve(PRESET, from_file(file)) == PRESET


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("lr=1", "unknown key 'lr'; did you mean 'train.lr'?"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'?"),
        ("task.head=1", "unknown key 'task'"),
        (
            "system.fusion.crossed=1",
            "unknown key 'system.fusion.crossed'; valid: kind, layers, rate",
        ),
        ("system.fusion.kind=duel", "system.fusion.kind cannot be 'duel'; did you mean 'dual'?"),
        ("system.kind=soho", "system.kind cannot be 'soho'; valid: toy"),
        ("train.lr=-1", "must be greater than 0, not -1"),
        ("train.lr=fast", "must be a valid number, unable to parse string as a number, not 'fast'"),
        ("train.lr.x=1", "train.lr is one value (0.001), it has no 'x' in it"),
        ("train.betas.5=1", "train.betas is a list of 2"),
        ("train.lr", "write it as a.b=c"),
        ("=1", "write it as a.b=c"),
        ("train.lr={", "not valid YAML"),
        ("system.fusion.layers=0", "greater than 0, not 0"),
        ("train=null", "train cannot be null, it holds keys of its own: steps, batch_size"),
        ("data.image=3", "data.image cannot be 3, it holds keys of its own: short, long, multiple, augment"),
        ("system.fusion=dual", "system.fusion cannot be 'dual', it holds keys of its own: system.fusion.kind=single or dual"),
        ("data.pairs=yes", "data.pairs cannot be True, it holds keys of its own: short; null switches it off"),
        ("train.betas=3", "must be a list, as in [a, b], not 3"),
        ("train.betas=[.9]", "is missing"),
        ("train.steps=null", "must be a valid integer, not null"),
    ],
)
def test_a_mistake_on_the_command_line(setting: str, said: str):
    with pytest.raises(UserError, match="^" + re.escape(f"--set {setting}: ")) as caught:
        changed(setting)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  lr: 1\n  lrr: 2", "line 3: unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("train:\n  lr: 1\n  lr: 2", "line 3: train.lr is given twice"),
        ("train:\n  lr: -1\n  steps: many", "line 2: train.lr: must be greater than 0, not -1"),
        ("train: {lr: -1}\nsystem:\n  fusion:\n    layers: x", "line 4: system.fusion.layers: must be a valid integer"),
        ("train: [\n", "line 2: not valid YAML"),
        ("- a\n- b", "a configuration is keys and values"),
    ],
)
def test_a_mistake_in_a_file(text: str, said: str, tmp_path: Path):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="^" + re.escape(str(file))) as caught:
        resolve(PRESET, from_file(file))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_that_is_absent_and_of_many_kinds_asks_for_its_kind():
    class Host(Config):
        kind: Literal["host"] = "host"
        hinge: Single | Dual | None = None

    recipe = PRESET.model_copy(update={"system": Host()})
    with pytest.raises(UserError, match=r"say first which kind: system\.hinge\.kind=single or dual"):
        resolve(recipe, from_setting("system.hinge.layers=3"))
    assert resolve(recipe, from_setting("system.hinge={layers: 3, kind: dual}")).system == Host(hinge=Dual(layers=3))


def test_two_names_that_are_as_near_are_both_meant():
    assert config.nearest("vitl", ["vit", "vilt", "soho"]) == "; did you mean 'vit' or 'vilt'?"
    assert config.nearest("vilq", ["vit", "vilt", "soho"], "x.") == "; did you mean 'x.vilt'?"
    assert config.nearest("coco", ["concepts", "coco_captions"]) == "; did you mean 'coco_captions'?"
    assert config.nearest("q", ["vit", "soho"]) == "; valid: soho, vit"


def test_differences_name_keys():
    there, here = {"train": {"lr": 1, "steps": 2}, "x": 1}, {"train": {"lr": 2, "steps": 2}}
    assert config.differences(there, here) == ["train.lr: 1 there, 2 here", "x: 1 there, absent here"]
    assert config.differences(here, here) == []


def test_yaml_is_yaml():
    assert yaml.safe_load(to_yaml(PRESET)) == PRESET.model_dump(mode="json")
