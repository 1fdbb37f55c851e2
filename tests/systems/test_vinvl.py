"""VinVL: tags behind the text, and rows whose caption or tags are another picture's."""

from dataclasses import replace

import pytest
import torch
from test_every_system import THINGS, TOKENIZER, Case, Samples, picture

from diptych.contracts import IGNORE, Batch
from diptych.draw import Draw
from diptych.objectives.contrast3 import FALSE_CAPTION, FALSE_TAGS, MATCH
from diptych.systems.vinvl import VinVL


def plain(case: Case, repeats: int = 1) -> Batch:
    """Rows as the loader has them before `corrupt`."""
    ids = list(range(6))
    others = [[case.samples[(i + 2) % 6]] * 2 for i in ids]
    pictures = [[picture(i)] for i in ids]
    batch = case.collate([case.samples[i] for i in ids], pictures, ids, Draw(3), others)
    many = batch.rows(torch.arange(len(batch)).repeat(repeats))
    return replace(many, row_B=torch.arange(len(many)))


def tags(case: Case, i: int) -> list[list[int]]:
    """Token ids of each tag of sample i, region by region."""
    label_RK = case.samples[i].regions[0].soft_label_RK
    names = [("background", *THINGS)[max(range(1, 5), key=lambda k: label_K[k])] for label_K in label_RK]
    return [TOKENIZER.ids_of(name) for name in names]


def expected_text(text: list[int], tags_: list[list[int]], most: int) -> list[int]:
    kept: list[int] = []
    for tag in tags_:
        if len(kept) + len(tag) > most:
            break
        kept += tag
    return text + kept + ([TOKENIZER.sep_id] if kept else [])


@pytest.mark.parametrize("most", [16, 3, 1])
def test_tags_stand_behind_the_text_in_a_segment_of_their_own(most: int):
    case = Case("vinvl")
    system = case.build()
    system.config = system.config.model_copy(update={"tags": most})
    batch = plain(case)
    tagged = system.with_tags(batch, system.classes(batch))
    for b, sample_id in enumerate((batch.image_of_BN[:, 0]).tolist()):
        text = batch.text_BT[b, batch.text_mask_BT[b]].tolist()
        wanted = expected_text(text, tags(case, sample_id), most)
        assert tagged.text_BT[b, tagged.text_mask_BT[b]].tolist() == wanted
        assert tagged.segment_BT[b, tagged.text_mask_BT[b]].tolist() == [0] * len(text) + [1] * (len(wanted) - len(text))
        words = tagged.word_BT[b, len(text) : max(len(wanted) - 1, len(text))]
        assert (words > batch.word_BT[b].max()).all()
    assert not batch.segment_BT.any(), "the batch that was given is as it was"


def test_half_of_the_rows_match_and_the_others_have_one_thing_of_another_picture():
    case = Case("vinvl")
    system = case.build()
    batch = plain(case, repeats=200)
    clean = system.with_tags(batch, system.classes(batch))
    system.mlm.config = system.mlm.config.model_copy(update={"mask": 0.0, "random": 0.0})  # words as they are
    corrupted = system.corrupt(batch, Draw(5))
    label_B = corrupted.labels["contrast3"]
    share = {kind: (label_B == kind).float().mean().item() for kind in (MATCH, FALSE_TAGS, FALSE_CAPTION)}
    assert share == pytest.approx({MATCH: 0.5, FALSE_TAGS: 0.25, FALSE_CAPTION: 0.25}, abs=0.04)
    for b in range(0, len(batch), 7):
        own, other = (tags(case, (int(batch.image_of_BN[b, 0]) + more) % 6) for more in (0, 2))
        true = batch.text_BT[b, batch.text_mask_BT[b]].tolist()
        false = batch.false_text.token_BT[b, batch.false_text.mask_BT[b]].tolist()
        kind = int(label_B[b])
        text, tag = false if kind == FALSE_CAPTION else true, other if kind == FALSE_TAGS else own
        assert corrupted.text_BT[b, corrupted.text_mask_BT[b]].tolist() == expected_text(text, tag, system.config.tags)
    assert clean.text_BT.shape[0] == len(batch)


def test_tags_that_are_the_same_stay_a_match():
    case = Case("vinvl")
    system = case.build()
    batch = plain(case, repeats=20)
    same = tuple(
        tuple(replace(other, regions=own.regions) for other in others)
        for own, others in zip(batch.samples, batch.others, strict=True)
    )
    label_B = system.corrupt(replace(batch, others=same), Draw(5)).labels["contrast3"]
    assert not (label_B == FALSE_TAGS).any()
    assert (label_B == FALSE_CAPTION).any()


def test_a_task_gets_the_states_of_its_own_text_with_the_tags_read_beside():
    case = Case("vinvl")
    system = case.build().eval()
    batch = plain(case)
    tagged = system.with_tags(batch, system.classes(batch))
    with torch.no_grad():
        fused = system.fuse(batch)
        whole = system.fuse(replace(tagged, labels={"contrast3": torch.zeros(len(batch), dtype=torch.int64)}))
    length = batch.text_BT.shape[1]
    assert fused.text_BTD.shape[1] == length
    real_BT = batch.text_mask_BT
    torch.testing.assert_close(fused.text_BTD[real_BT], whole.text_BTD[:, :length][real_BT])
    torch.testing.assert_close(fused.pooled_BD, whole.pooled_BD)


def test_words_of_polluted_rows_may_be_left_unasked():
    case = Case("vinvl")
    system = case.build()
    system.config = system.config.model_copy(update={"mask_on_polluted": False})
    batch = system.corrupt(plain(case, repeats=20), Draw(5))
    asked_B = (batch.labels["mlm"] != IGNORE).any(1)
    assert torch.equal(asked_B, batch.labels["contrast3"] == MATCH)
    assert batch.counts["mlm"] == (batch.labels["mlm"] != IGNORE).sum()


def test_names_come_from_the_store():
    prepared = VinVL.prepare(VinVL.Config(), [Samples(with_regions=True)], TOKENIZER)
    assert prepared.names == ("background", *THINGS)
    assert prepared.image.features == 8
