"""What every system keeps, found by looking: each module of diptych/systems, in its preset `tiny`."""

import io
import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import config, find
from diptych.contracts import IGNORE, Batch, Box, Detected, Images, Phrase, Regions, Sample, System
from diptych.data.collate import Collate
from diptych.data.mixture import Source
from diptych.draw import Draw
from diptych.text.tokenizer import wordpiece
from diptych.train.loop import Loop
from diptych.train.run import pretrain

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "dog",
    "cat",
    "gira",
    "##ffe",
    "ball",
    "the",
    "small",
    "is",
    "and",
    "there",
    "are",
    "two",
    "yes",
    "no",
]
TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
OF_REGIONS = ("mrfr", "mrc", "mrc_kl", "omvm")  # labels as long as the batch's longest list of regions
COLOURS, THINGS = ("red", "blue", "green"), ("dog", "cat", "giraffe", "ball")
SIZES = ((64, 64), (64, 48), (32, 64))


def sample(i: int) -> Sample:
    """Two texts about one thing, each with a near text that is false and the phrase that the picture decides."""
    colour, other, thing = COLOURS[i % 3], COLOURS[(i + 1) % 3], THINGS[i % 4]
    texts = (f"a {colour} {thing}", f"the small {thing} is {colour} and there are two")
    return Sample(
        key=f"sample-{i}",
        images=(png(i),),
        texts=texts,
        false_texts=tuple(text.replace(colour, other) for text in texts),
        phrases=tuple((Phrase(text.index(colour), text.index(colour) + len(colour), "colour", 0),) for text in texts),
        boxes=(Box((4, 4, 40, 30), thing, (colour,)), Box((20, 10, 44, 30), THINGS[(i + 1) % 4], (other,))),
        labels={"label": thing},
    )


def detected(i: int) -> Detected:
    """What a detector might have seen in picture i: one to three regions; features and classes go with the colour and the thing."""
    random, count = np.random.default_rng(100 + i), 1 + i % 3
    box_R4 = np.sort(random.random((count, 2, 2)), 1).reshape(count, 4).astype(np.float32)
    soft_label_RK = np.full((count, 1 + len(THINGS)), 0.05)
    soft_label_RK[:, 1 + i % 4] = 0.8
    feature_RD = random.standard_normal((count, 8)) + 3 * np.eye(8)[i % 3]
    return Detected(box_R4, feature_RD.astype(np.float16), soft_label_RK.astype(np.float16))


class Samples:
    """As a reader gives them, with what a detector saw where the system reads that; two pairs of texts for one that reads those."""

    fingerprint = "0" * 64
    region_classes = ("background", *THINGS)

    def __init__(self, with_regions: bool, with_pairs: bool = False):
        self.with_regions, self.with_pairs = with_regions, with_pairs

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.with_pairs and index % 3 == 2:
            return Sample(f"pair-{index}", texts=sample(index).texts)
        return replace(sample(index), regions=(detected(index),)) if self.with_regions else sample(index)


def picture(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (*SIZES[i % 3], 3), dtype=np.uint8)


@cache
def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, "png")
    return file.getvalue()


def variants(name: str) -> list[str]:
    """The kinds of fusion that a system can be built with; and each objective alone, where one is drawn for each step (`mix`)."""
    fields = find.system_class(name).Config.model_fields
    kinds = get_args(fields["fusion"].annotation) if "fusion" in fields else ()
    mix = fields["mix"].annotation.model_fields if "mix" in fields else ()
    return [
        *([f"{name}+{kind.model_fields['kind'].default}" for kind in kinds] or [name]),
        *(f"{name}++{objective}" for objective in mix),
    ]


class Case:
    """A system's preset, or the same with another hinge, or with one objective: `vilt+dual_stream`, `uniter++mrfr`."""

    def __init__(self, spec: str, preset: str = "tiny"):
        self.name, hinge, alone = (*spec.split("+"), "", "")[:3]
        self.cls = find.system_class(self.name)
        recipe = find.system(f"{self.name}:{preset}").recipe
        if alone:
            shares = {objective: float(objective == alone) for objective in recipe.system.mix.model_dump()}
            recipe = config.resolve(recipe, *(config.from_setting(f"system.mix.{key}={value}") for key, value in shares.items()))
        if hinge and hinge != recipe.system.fusion.kind:
            layers, heads = recipe.system.fusion.layers, recipe.system.fusion.heads
            settings = (f"kind={hinge}", f"layers={layers}", f"heads={heads}", "dropout=0")
            recipe = config.resolve(recipe, *(config.from_setting(f"system.fusion.{setting}") for setting in settings))
        self.samples = Samples(self.cls.reads_regions or self.cls.taught_by_regions, "translations" in self.cls.purpose)
        system = self.cls.prepare(recipe.system, [self.samples], TOKENIZER)
        data = recipe.data.model_copy(update={"texts_per_image": 2})
        self.recipe = recipe.model_copy(update={"system": system, "data": data})
        self.collate = Collate(TOKENIZER, recipe.text, data, training=True)

    def build(self, seed: int = 0, fusing: bool = False) -> System:
        """`fusing`: as a task that reads fused rows has it."""
        torch.manual_seed(seed)
        settings = self.recipe.system
        return self.cls(self.cls.for_task(settings, ("fuse",)) if fusing else settings, TOKENIZER)

    def batch(self, system: System, ids=range(6)) -> Batch:
        """As the loader makes it; sample n has the same content and the same draws in any company."""
        others = [[self.samples[(i + 2) % 6]] * system.negatives for i in ids]
        own = [self.samples[i] for i in ids]
        pictures = [[picture(i)] * len(one.images) for i, one in zip(ids, own, strict=True)]
        batch = self.collate(own, pictures, list(ids), Draw(3), others)
        return replace(system.corrupt(system.label(batch), Draw(3)), samples=(), phrases=(), others=())


SPECS = [spec for name in sorted(find.catalogue("systems")) for spec in variants(name)]


@pytest.fixture(params=SPECS)
def case(request) -> Case:
    return Case(request.param)


def with_pictures(batch: Batch) -> Batch:
    return batch.rows((batch.image_of_BN[:, 0] >= 0).nonzero()[:, 0])


def total(system: System, batch: Batch) -> torch.Tensor:
    return torch.stack([term.weight * term.sum / term.count for term in system(batch).values()]).sum()


def offers_fuse(case: Case) -> bool:
    return case.cls.fuse is not System.fuse


def test_counts_are_as_announced_and_one_batch_can_be_learnt(case):
    system = case.build()
    batch = case.batch(system)
    terms = system(batch)
    assert {name: term.count for name, term in terms.items()} == batch.counts
    assert all(term.count > 0 and term.sum.isfinite() for term in terms.values())
    optimizer = torch.optim.AdamW(
        [{"params": group.params, "lr": case.recipe.train.lr * group.lr_factor} for group in system.param_groups()]
    )
    losses = []
    for step in range(43):
        if step == 3:  # the first steps are the real ones, with dropout; then it is taken away to judge the descent
            for module in system.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0
        loss = total(system, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        system.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses[::6]


def test_parameter_groups_hold_every_parameter_once(case):
    system = case.build()
    grouped = [id(parameter) for group in system.param_groups() for parameter in group.params]
    assert sorted(grouped) == sorted(id(parameter) for parameter in system.parameters())


def test_what_is_drawn_for_a_sample_does_not_depend_on_its_company(case):
    system = case.build()

    def drawn(*groups):
        """row id -> its texts and labels, pass by pass, without padding."""
        found, counts = defaultdict(list), defaultdict(float)
        for ids in groups:
            batch = case.batch(system, ids)
            for b, row in enumerate(batch.row_B.tolist()):
                real = batch.text_mask_BT[b]
                labels = {n: x[b][real] if x[b].shape == real.shape else x[b] for n, x in batch.labels.items()}
                asked = {n: (x != IGNORE).nonzero().tolist() if n in OF_REGIONS else x.tolist() for n, x in labels.items()}
                found[row].append([batch.text_BT[b][real].tolist(), asked])
            for name, count in batch.counts.items():
                counts[name] += count
        return found, counts

    assert drawn(range(6)) == drawn([4, 1], [0], [5, 3, 2])


def test_rows_that_share_a_picture_see_what_rows_with_their_own_copy_see(case):
    if not offers_fuse(case):
        pytest.skip("no fusion")
    system = case.build(fusing=True).eval()
    batch = with_pictures(case.batch(system))
    of_B = batch.image_of_BN[:, 0]
    copies = Images(batch.images.pixel_I3HW[of_B], batch.images.mask_IHW[of_B])
    regions = batch.regions and Regions(*(None if part is None else part[of_B] for part in vars(batch.regions).values()))
    own = replace(batch, images=copies, regions=regions, image_of_BN=torch.arange(len(of_B))[:, None])
    with torch.no_grad():
        for shared, copied in zip(system.fuse(batch), system.fuse(own), strict=True):
            torch.testing.assert_close(shared, copied)


def test_states_that_are_read_are_those_of_a_whole_pass(case):
    """However few they are; [CLS] and what is pooled from it always are."""
    if not offers_fuse(case):
        pytest.skip("no fusion")
    system = case.build(fusing=True).eval()
    batch = with_pictures(case.batch(system))
    with torch.no_grad():
        whole = system.fuse(batch)
        for read_BT in (torch.zeros_like(batch.text_mask_BT), (batch.text_BT % 2 == 0) & batch.text_mask_BT):
            some = system.fuse(batch, read_BT=read_BT)
            torch.testing.assert_close(some.pooled_BD, whole.pooled_BD)
            torch.testing.assert_close(some.text_BTD[:, 0], whole.text_BTD[:, 0])
            torch.testing.assert_close(some.text_BTD[read_BT], whole.text_BTD[read_BT])


def test_padding_of_texts_and_pictures_changes_nothing(case):
    system = case.build().eval()
    batch = case.batch(system)
    images, width = batch.images, batch.text_BT.shape[1] + 4

    def longer(tensor, value):
        wide = tensor.new_full((len(tensor), width, *tensor.shape[2:]), value)
        wide[:, : tensor.shape[1]] = tensor
        return wide

    padded = replace(
        batch,
        text_BT=longer(batch.text_BT, TOKENIZER.pad_id),
        text_mask_BT=longer(batch.text_mask_BT, False),
        segment_BT=longer(batch.segment_BT, 0),
        word_BT=longer(batch.word_BT, -1),
        labels={n: longer(x, IGNORE) if x.shape[1:2] == batch.text_BT.shape[1:2] else x for n, x in batch.labels.items()},
        images=Images(
            torch.nn.functional.pad(images.pixel_I3HW, (0, 32, 0, 16), value=255),
            torch.nn.functional.pad(images.mask_IHW, (0, 32, 0, 16), value=False),
        ),
    )
    with torch.no_grad():
        expected, found = system(batch), system(padded)
    for name, term in expected.items():
        torch.testing.assert_close(found[name].sum, term.sum, atol=1e-4, rtol=1e-4)


def test_configuration_and_weights_make_the_same_system_again(case):
    system = case.build().eval()
    batch = case.batch(system)
    system_config = case.cls.Config.model_validate(json.loads(case.recipe.system.model_dump_json()))
    assert system_config == case.recipe.system
    torch.manual_seed(99)
    again = case.cls(system_config, TOKENIZER).eval()
    again.load_state_dict(system.state_dict())
    with torch.no_grad():
        for name, term in system(batch).items():
            assert torch.equal(again(batch)[name].sum, term.sum)


def test_three_steps_are_three_steps_with_a_crash_between(case, tmp_path, monkeypatch):
    """Weights, optimiser and whatever the system commits after a step, bit for bit."""
    train = case.recipe.train.model_copy(update={"steps": 3, "batch_size": 4, "checkpoint_every": 2})
    recipe = case.recipe.model_copy(update={"train": train})

    def run(name: str) -> None:
        pretrain(recipe, case.cls, [Source("samples", case.samples)], tmp_path / name, tokenizer=TOKENIZER, trackers=(), quiet=True)

    run("whole")
    report = Loop.report

    def crash(loop: Loop, outcome) -> None:
        report(loop, outcome)
        if loop.progress.step == 3:
            raise RuntimeError("crash")

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "report", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run("again")
    assert [path.name for path in (tmp_path / "again" / "checkpoints").iterdir()] == ["step-00000002"]
    run("again")
    for file in ("model.safetensors", *(f"checkpoints/step-00000003/{kind}.safetensors" for kind in ("model", "optimizer"))):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_every_preset_is_a_recipe_of_this_system(case):
    for preset in find.catalogue("systems")[case.name].presets:
        recipe = find.system(f"{case.name}:{preset}").recipe
        assert isinstance(recipe.system, case.cls.Config)
        assert recipe.system.kind == case.name
