"""The same ViLT twice, ours and transformers', and a batch that both can read: what several benchmarks measure.

Pictures have COCO-like sizes (short side 384), texts COCO-like lengths, weights are random and equal, dropout is 0. Word-patch
alignment is off on both sides: transformers has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from diptych.contracts import IGNORE, Batch, Images, Tokenizer, Trainable
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.image.patches import Patches
from diptych.image.pixels import normalise
from diptych.systems.vilt import ViLT
from diptych.text.embedding import TextEmbedding
from diptych.train.precision import autocast
from diptych.weights import vilt as weights

if TYPE_CHECKING:
    from benchmarks.peers.hf_vilt import ForPreTraining

SIZES = ((384, 512), (512, 384), (384, 576), (384, 384), (384, 512), (480, 384), (384, 608), (384, 512))  # pixels
TOKENS = (13, 15, 12, 18, 14, 12, 16, 13)
MASK = 103
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPTIMIZER: dict[str, Any] = {"lr": 1e-5, "betas": (0.9, 0.98), "weight_decay": 0.01}


class Shape(NamedTuple):
    name: str
    layers: int
    width: int
    heads: int
    pairs: int  # of picture and text in a batch
    vocabulary: int = 30522
    shrink: int = 1  # pictures of this many times shorter sides

    def __str__(self) -> str:
        return f"{self.name}, {self.layers} layers x {self.width}, {self.pairs} pairs"


SMALL, BASE = Shape("small", 6, 384, 6, 8), Shape("base", 12, 768, 12, 2)
TOY = Shape("toy", 2, 32, 2, 3, vocabulary=500, shrink=4)


class Words:
    """All that ViLT asks of a tokenizer to be built."""

    pad_id, unk_id, cls_id, sep_id, mask_id = 0, 100, 101, 102, MASK

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size


def config_of(shape: Shape) -> ViLT.Config:
    """Ours, for what `peer_of` builds from transformers' defaults."""
    return ViLT.Config(
        width=shape.width,
        image=Patches.Config(dropout=0),
        text=TextEmbedding.Config(dropout=0),
        fusion=SingleStream.Config(layers=shape.layers, heads=shape.heads, eps=1e-12, dropout=0),
        wpa=None,
    )


def ours_of(shape: Shape) -> ViLT:
    torch.manual_seed(0)
    return ViLT(config_of(shape), cast(Tokenizer, Words(shape.vocabulary)))


def peer_of(shape: Shape) -> ForPreTraining:
    from transformers import ViltConfig  # here, not above: where memory is measured, our side does without them

    from benchmarks.peers.hf_vilt import ForPreTraining

    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocabulary,
    }
    return ForPreTraining(ViltConfig(**size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def both(shape: Shape) -> tuple[ViLT, ForPreTraining]:
    """The same weights in our class and in transformers'; that their losses are equal is checked here."""
    ours, peer, batch = ours_of(shape), peer_of(shape), rows(shape)
    system, state, report = weights.from_hugging_face(peer.weights(), peer.model.config.to_dict())
    assert not report, report
    assert ViLT.Config.model_validate({**system, "wpa": None}) == ours.config
    ours.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(our_loss(ours, batch), peer(**peer_inputs(batch))["loss"], atol=1e-5, rtol=1e-5)
    return ours, peer


def two_streams(shape: Shape) -> ViLT:
    """Our ViLT of the same depth and width with the other hinge, which no class of transformers has."""
    torch.manual_seed(0)
    fusion = DualStream.Config(layers=shape.layers, heads=shape.heads, dropout=0)
    return ViLT(config_of(shape).model_copy(update={"fusion": fusion}), cast(Tokenizer, Words(shape.vocabulary)))


def rows(shape: Shape) -> Batch:
    """First the rows with masked words, then those with matches, over the same pictures."""
    random, pairs = torch.Generator().manual_seed(0), shape.pairs
    sizes = [tuple(side // shape.shrink for side in SIZES[i % len(SIZES)]) for i in range(pairs)]
    lengths = torch.tensor([TOKENS[i % len(TOKENS)] for i in range(pairs)])
    mask_IHW = torch.zeros(pairs, max(h for h, _ in sizes), max(w for _, w in sizes), dtype=torch.bool)
    for mask_HW, (height, width) in zip(mask_IHW, sizes, strict=True):
        mask_HW[:height, :width] = True
    mask_BT = torch.arange(int(lengths.max())) < lengths[:, None]
    text_BT = torch.randint(MASK + 1, shape.vocabulary, mask_BT.shape, generator=random) * mask_BT
    is_masked_BT = mask_BT & (torch.rand(mask_BT.shape, generator=random) < 0.15)
    is_masked_BT[:, 3] = True  # at least one word a text
    labels_BT = torch.where(is_masked_BT, text_BT, IGNORE)
    nothing_BT, nothing_B = torch.full_like(labels_BT, IGNORE), torch.full((pairs,), IGNORE)
    return Batch(
        text_BT=torch.cat([torch.where(is_masked_BT, MASK, text_BT), text_BT]),
        text_mask_BT=mask_BT.repeat(2, 1),
        segment_BT=torch.zeros_like(text_BT).repeat(2, 1),
        word_BT=torch.zeros_like(text_BT).repeat(2, 1),
        row_B=torch.arange(2 * pairs),
        image_of_BN=torch.arange(pairs).repeat(2)[:, None],
        images=Images(torch.randint(0, 256, (pairs, 3, *mask_IHW.shape[1:]), generator=random, dtype=torch.uint8), mask_IHW),
        labels={
            "mlm": torch.cat([labels_BT, nothing_BT]),
            "itm": torch.cat([nothing_B, torch.arange(pairs) % 2]),
        },
        counts={"mlm": float(is_masked_BT.sum()), "itm": float(pairs)},
    )


def our_loss(model: Trainable, batch: Batch) -> Tensor:
    return sum((term.sum / term.count for term in model(batch).values()), torch.zeros(()))


def peer_inputs(batch: Batch) -> dict[str, Any]:
    """A batch of ViLT's two passes, one after the other, as transformers' classes read it: each row with its own picture."""
    half = len(batch) // 2
    first, second = torch.arange(half), torch.arange(half, len(batch))
    assert batch.images is not None
    pixel_I3HW = normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return {
        "masked": words_and_pictures(batch.rows(first), pixel_I3HW),
        "masked_labels": batch.labels["mlm"][first],
        "whole": words_and_pictures(batch.rows(second), pixel_I3HW),
        "is_match": batch.labels["itm"][second],
    }


def words_and_pictures(batch: Batch, pixel_I3HW: Tensor) -> dict[str, Tensor]:
    assert batch.images is not None and batch.image_of_BN is not None
    of_B, pixel_mask_IHW = batch.image_of_BN[:, 0], batch.images.mask_IHW.long()
    if not torch.equal(of_B, torch.arange(len(pixel_I3HW))):  # otherwise a copy would cost the peer time for nothing
        pixel_I3HW, pixel_mask_IHW = pixel_I3HW[of_B], pixel_mask_IHW[of_B]
    return {
        "input_ids": batch.text_BT,
        "attention_mask": batch.text_mask_BT.long(),
        "pixel_values": pixel_I3HW,
        "pixel_mask": pixel_mask_IHW,
    }


def our_step(model: ViLT, batch: Batch, precision: torch.dtype) -> Callable[[], None]:
    return _step(model, lambda: our_loss(model, batch), precision, is_fused=True)


def peer_step(peer: ForPreTraining, batch: Batch, precision: torch.dtype) -> Callable[[], None]:
    """As documented; in bf16, which is not the default, with the fused AdamW."""

    def loss() -> Tensor:
        return peer(**peer_inputs(batch))["loss"]

    return _step(peer, loss, precision, is_fused=precision == torch.bfloat16)


def _step(model: nn.Module, loss: Callable[[], Tensor], precision: torch.dtype, is_fused: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER, fused=is_fused or None)

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
