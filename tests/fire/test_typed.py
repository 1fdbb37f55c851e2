"""What can be typed: any text after --set, any bytes in a configuration, any words after `diptych`. Read, or refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diptych import cli, find
from diptych.config import UserError, flat, from_file, from_setting, resolve, to_yaml

PRESET = find.system("vilt:tiny").recipe
LEAVES = sorted(".".join(path) for path in flat(PRESET.model_dump()))
EVERYTHING = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))

ODD = [
    "1e400",
    ".inf",
    "-.nan",
    "2020-13-45",
    "!!int x",
    "!!bool x",
    "0b_",
    '"\\ud83d"',
    "&a [*a]",
    "&a {lr: *a}",
    "[" * 3000,
    "1" * 5000,
]
ODD += [
    "!!python/object/apply:os.system [true]",
    "!!timestamp x",
    "<<: 5",
    "{<<: 5}",
    "{? [1] : 2}",
    "\x00",
    "\u2028",
    "---",
    "...",
    "%",
    "@",
    "`",
]
values = (
    st.sampled_from(ODD)
    | st.text(max_size=30)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value))
)
keys = st.sampled_from(LEAVES) | st.sampled_from(LEAVES).map(lambda leaf: leaf.rpartition(".")[0] or leaf) | st.text(max_size=20)
keys |= st.tuples(st.sampled_from(LEAVES), st.sampled_from(["0", "7", "٣", "²", "9" * 5000, "x", ""])).map(".".join)

BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}\n" for n in range(1, 60))


def one_line(error: UserError) -> None:
    said = " ".join(str(error).split())
    assert said
    assert "Traceback" not in said


@EVERYTHING
@given(key=keys, value=values)
@example(key="train.lr", value=".inf")
def test_a_setting_is_taken_or_refused(key: str, value: str):
    """What is taken can be saved, and read back as it was."""
    try:
        recipe = resolve(PRESET, from_setting(f"{key}={value}"))
    except UserError as error:
        one_line(error)
        return
    saved = json.loads(json.dumps(recipe.model_dump(mode="json"), allow_nan=False))
    assert find.recipe(saved, "vilt") == recipe
    to_yaml(recipe)


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("key", ["train.lr", "train.freeze", "text.vocab", "train"])
def test_odd_values(key: str, value: str):
    try:
        resolve(PRESET, from_setting(f"{key}={value}"))
    except UserError as error:
        one_line(error)


lines = st.lists(st.tuples(keys.map(lambda key: key.replace(".", ": {")), values).map(": ".join), max_size=4).map("\n".join)
contents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | lines.map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@EVERYTHING
@given(content=contents)
@example(content=BOMB.encode())
@example(content=f"{BOMB}train: {{freeze: *a59}}".encode())
@example(content=b"train: &a {lr: *a}")
@example(content=b"{a: " * 3000)
@example(content="train: {lr: 1}".encode("utf-16"))
@example(content=b'{"recipe": 5}')
def test_a_file_is_taken_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.getbasetemp() / "given.yaml"
    file.write_bytes(content)
    try:
        resolve(PRESET, from_file(file))
    except UserError as error:
        one_line(error)


WORDS = "pretrain finetune evaluate ask list data check show convert vilt:tiny vilt vqa --from --data --set --config --out --resume"
WORDS += " --init --json --split folder:here here@2 here@nan image=here - --"
words = st.sampled_from(WORDS.split()) | st.text(max_size=12)


@EVERYTHING
@given(given=st.lists(words, max_size=6))
@example(given=["pretrain", "vilt:tiny", "--data", "\ud83d"])
@example(given=["pretrain", "vilt:tiny", "--data", "a\x00b"])
@example(given=["pretrain", "vilt:tiny", "--data", "a" * 5000])
@example(given=["pretrain", "..", "--data", "here"])
@example(given=["pretrain", "vilt.:tiny"])
@example(given=["finetune", "vqa", "--from", "a" * 5000])
@example(given=["ask", "a.jpg", "x", "--from", "\x00"])
@example(given=["data", "check", "a" * 5000])
@example(given=["pretrain", "vilt:tiny", "--config", "\x00"])
@example(given=["pretrain", "vilt:tiny", "--config", "a" * 5000])
def test_any_words_end_in_success_or_one_line(given: list[str], tmp_path_factory: pytest.TempPathFactory):
    """In an empty directory, so that nothing is ever trained."""
    here = tmp_path_factory.getbasetemp() / "empty"
    (here / "here").mkdir(parents=True, exist_ok=True)
    if {"demo", "make"} & set(given) or "scenes" in given or "names" in given:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(here)
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patched.setattr(find, "EMBEDDED", {})
        assert cli.call(given) in (0, 2), given


def test_the_longest_name_is_a_name(tmp_path: Path):
    (tmp_path / ("n" * 200)).mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        find.readers([str(tmp_path / ("n" * 200))], "train", "pretrain")
