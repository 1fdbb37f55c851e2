"""What can be typed: any text after --set, any bytes in a configuration, any words after `diptych`. Read, or refused in a line."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from diptych import cli, find
from diptych.config import UserError, flat, from_file, from_setting, resolve, to_yaml

PRESET = find.system("vilt:tiny").recipe
LEAVES = sorted(".".join(path) for path in flat(PRESET.model_dump()))
FEW = settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=2000, derandomize=False)


def thousands(attack: Callable[..., None], **drawn: st.SearchStrategy) -> Callable[..., None]:
    """The slow form of a test below: other examples each time."""
    return pytest.mark.slow(MANY(given(**drawn)(attack.hypothesis.inner_test)))


# fmt: off
ODD = [
    "", "1e400", ".inf", "-.nan", "2020-13-45", "!!int x", "!!bool x", "!!timestamp x", "0b_", '"\\ud83d"', "1" * 5000,
    "&a [*a]", "&a {lr: *a}", "<<: 5", "{<<: 5}", "{? [1] : 2}", "!!python/object/apply:os.system [true]",
    "\x00", "\u2028", "---", "...", "%", "@", "`", "[" * 1000,  # the last takes YAML quadratic time
]
# fmt: on
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


@FEW
@given(key=keys, value=values)
@example(key="train.lr", value=".inf")
@example(key="system.image.kind", value="[]")
def test_a_setting_is_taken_or_refused(key: str, value: str):
    """What is taken can be saved, and read back as it was."""
    try:
        recipe = resolve(PRESET, from_setting(f"{key}={value}"))
    except UserError:
        return
    saved = json.loads(json.dumps(recipe.model_dump(mode="json"), allow_nan=False))
    assert find.recipe(saved, "vilt") == recipe
    to_yaml(recipe)


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_odd_values(value: str):
    """None of them is a learning rate; what they are elsewhere is not this test's business, as long as it is an answer."""
    with pytest.raises(UserError, match=r"\S"):
        resolve(PRESET, from_setting(f"train.lr={value}"))
    for key in ("train.freeze", "text.vocab", "train", "data", "task"):
        with contextlib.suppress(UserError):
            resolve(PRESET, from_setting(f"{key}={value}"))


lines = st.lists(st.tuples(keys.map(lambda key: key.replace(".", ": {")), values).map(": ".join), max_size=4).map("\n".join)
contents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | lines.map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@FEW
@given(content=contents)
@example(content=BOMB.encode())
@example(content=f"{BOMB}train: {{freeze: *a59}}".encode())
@example(content=b"train: &a {lr: *a}")
@example(content=b"{a: " * 1000)
@example(content="train: {lr: 1}".encode("utf-16"))
@example(content=b'{"recipe": 5}')
def test_a_file_is_taken_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.getbasetemp() / "given.yaml"
    file.write_bytes(content)
    with contextlib.suppress(UserError):
        resolve(PRESET, from_file(file))


WORDS = "pretrain finetune evaluate ask list data check show convert vilt:tiny vilt vqa --from --data --set --config --out --resume"
WORDS += " --init --json --split folder:here here@2 here@nan image=here - --"
words = st.sampled_from(WORDS.split()) | st.text(max_size=12)


@FEW
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
    assume(not {"demo", "make", "scenes", "names"} & set(given))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(here)
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patched.setattr(find, "EMBEDDED", {})
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = cli.call(given)
    assert code in (0, 2), given
    assert code == 0 or (said.getvalue().startswith("diptych: ") and said.getvalue().count("\n") == 1), said.getvalue()


test_thousands_of_settings = thousands(test_a_setting_is_taken_or_refused, key=keys, value=values)
test_thousands_of_files = thousands(test_a_file_is_taken_or_refused, content=contents)
test_thousands_of_words = thousands(test_any_words_end_in_success_or_one_line, given=st.lists(words, max_size=6))


def test_the_longest_name_is_a_name(tmp_path: Path):
    (tmp_path / ("n" * 200)).mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        find.readers([str(tmp_path / ("n" * 200))], "train", "pretrain")
