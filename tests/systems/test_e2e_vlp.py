"""E2E-VLP: what its decoder sees in either role, what it learns from, and its published sizes."""

from dataclasses import replace

import pytest
import torch
from test_every_system import TOKENIZER, Case

from diptych.config import UserError
from diptych.contracts import IGNORE
from diptych.systems.e2e_vlp import E2EVLP, paper
from diptych.tasks.caption import CaptionTask
from diptych.tasks.detection import DetectionTask


@pytest.fixture
def case() -> Case:
    return Case("e2e_vlp")


def test_captions_and_things_do_not_see_the_text(case):
    """Whatever the encoder reads, what is written and detected depends on pictures and on the true text's earlier words alone."""
    system = case.build().eval()
    batch = case.batch(system)
    other = replace(batch, text_BT=batch.text_BT.where(~batch.text_mask_BT | (batch.text_BT == TOKENIZER.cls_id), 7))
    with torch.no_grad():
        one, two = system(batch), system(other)
    for name, term in one.items():
        assert torch.equal(term.sum, two[name].sum) == (name not in ("mlm", "itm")), name


def test_the_true_text_is_written_where_another_was_put_in_its_place(case):
    system = case.build()
    batch = case.batch(system)
    is_swapped_B = batch.labels["itm"] == 0
    assert is_swapped_B.any()
    for b in is_swapped_B.nonzero()[:, 0].tolist():
        label_T = batch.labels["captioning"][b]
        text = case.samples[b // 2].texts[int(batch.row_B[b]) % 4096]
        assert label_T[label_T != IGNORE].tolist() == TOKENIZER.encode(text, 40).ids[1:]


def test_training_and_writing_agree(case):
    """What is said to come next after a prefix is what training saw there; greedy writing takes it."""
    system = case.build().eval()
    batch = case.batch(system)
    seen = []
    hook = system.captioning.head.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        system(batch)
        hook.remove()
        prefix_BT, is_read_BT = system.captioning.prefix(batch)
        source = system.source(system.see(batch))
        (asked,), at = seen, 0
        for b, length in enumerate(is_read_BT.sum(1).tolist()):
            for t in range(1, length + 1):
                ids = prefix_BT[b : b + 1, :t]
                state = system.read_on(ids, torch.ones_like(ids, dtype=torch.bool), source, batch.image_of_BN[b])
                logit = system.captioning.head(state[:, -1], system.text.word.weight)[0]
                torch.testing.assert_close(logit, asked[at], atol=1e-4, rtol=1e-4)
                at += 1
        assert at == len(asked)
        written = system.decode(batch, most=5)
    assert len(written) == len(batch.images.pixel_I3HW)
    for i, ids in enumerate(written):
        expected = [TOKENIZER.cls_id]
        while len(expected) < 6 and (len(expected) == 1 or expected[-1] != TOKENIZER.sep_id):
            prefix = torch.tensor([expected])
            with torch.no_grad():
                state = system.read_on(prefix, torch.ones_like(prefix, dtype=torch.bool), source, torch.tensor([i]))
                expected.append(int(system.captioning.head(state[:, -1], system.text.word.weight).argmax()))
        assert ids == [token for token in expected[1:] if token != TOKENIZER.sep_id]


def test_it_overfits_to_boxes_and_captions(case):
    """After some steps on six pictures the surest boxes are the annotated ones, and captions are theirs."""
    system = case.build()
    batch = case.batch(system)
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for _ in range(250):
        terms = system(batch)
        torch.stack([term.weight * term.sum / term.count for term in terms.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        system.after_step()
    system.eval()
    found = system.detect(batch)
    names = [system.region_classes[k] for k in found.soft_label_IRK[0, :2, 1:].argmax(-1) + 1]
    assert sorted(names) == sorted(box.name for box in case.samples[0].boxes)
    said = [TOKENIZER.decode(ids) for ids in system.decode(batch, most=20, beam=3)]
    assert all(text in case.samples[i].texts for i, text in enumerate(said)), said


def test_without_a_role_of_the_decoder_nothing_of_it_is_built_or_asked(case):
    whole = case.recipe.system
    for off, left in (
        ({"detection": None}, ["captioning"]),
        ({"captioning": None}, ["object_class"]),
        ({"detection": None, "captioning": None}, []),
    ):
        case.recipe = case.recipe.model_copy(update={"system": whole.model_copy(update=off)})
        system = case.build()
        batch = case.batch(system)
        losses = system(batch)
        assert {"mlm", "itm"} <= set(losses) and all(any(name.startswith(one) for name in losses) for one in left)
        assert (system.decoder is None) == (not left)
        if "detection" in off:
            assert not any(name.startswith("object") for name in losses) and system.queries is None
            with pytest.raises(UserError, match="without detection"):
                system.detect(batch)
            with pytest.raises(UserError, match="without detection"):
                DetectionTask(DetectionTask.Config(), system, TOKENIZER)
        if "captioning" in off:
            assert "captioning" not in losses
            with pytest.raises(UserError, match="without captioning"):
                system.decode(batch, most=3)
            with pytest.raises(UserError, match="without captioning"):
                CaptionTask(CaptionTask.Config(), system, TOKENIZER)


def test_published_sizes():
    """ResNet-50 (23.5 M without its classifier), six encoder layers as BERT's, six decoder layers with one attention more."""
    recipe = paper()
    detection = recipe.system.detection.model_copy(
        update={"names": tuple(f"n{k}" for k in range(1600)), "attributes": tuple(f"a{k}" for k in range(400))}
    )
    with torch.device("meta"):
        system = E2EVLP(recipe.system.model_copy(update={"detection": detection}), TOKENIZER)
    of_part = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    attention, norm, ffn = 4 * (768 * 768 + 768), 2 * 768, 2 * 768 * 3072 + 768 + 3072
    layer = attention + ffn + 2 * norm
    assert layer == 7_087_872
    assert of_part["fusion"] == 6 * layer + 2 * 768 + (768 * 768 + 768)
    assert of_part["decoder"] == 6 * (layer + attention + norm) + norm
    assert of_part["queries"] == 100 * 768
    assert of_part["detection"] == 769 * (1601 + 401 + 4) + 2 * 769 * 768
    norms = 2 * sum(m.weight.numel() for m in system.image.modules() if type(m).__name__ == "FrozenBatchNorm2d")
    assert of_part["image"] + norms == 25_557_032 - 2_049_000 + 2048 * 768 + 2 * 768


@pytest.mark.slow
def test_the_published_system_takes_a_step():
    """On pictures of 128 px: finite, and everything that learns has a gradient."""
    recipe = paper()
    case = Case("e2e_vlp")
    image = recipe.data.image.model_copy(update={"short": 128, "long": 128})
    system = E2EVLP.prepare(recipe.system, [case.samples], TOKENIZER)
    case.recipe = recipe.model_copy(update={"system": system, "data": recipe.data.model_copy(update={"image": image})})
    model = case.build().train()
    terms = model(case.batch(model, range(3)))
    torch.stack([term.sum / term.count for term in terms.values()]).sum().backward()
    for name, p in model.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.isfinite().all()), name
