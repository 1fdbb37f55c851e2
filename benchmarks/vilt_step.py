"""A ViLT pre-training step, MLM + ITM in two passes as published, against transformers' classes on the same weights.

Both sides: the same pictures (COCO-like sizes, short side 384), texts, labels and dropout 0; equal losses are checked before
anything is timed; forward, backward and AdamW. The peer is `ViltForMaskedLM`, called once with masked words and once for the
match, whose head it lacks (one linear layer, written here); in bf16 it gets the fused AdamW, in fp32 torch's default one.
Word-patch alignment is off on both sides: transformers has none. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.side_by_side import Ratio, compare
from diptych.contracts import IGNORE, Batch, Images, Tokenizer
from diptych.image.pixels import normalise
from diptych.systems.vilt import ViLT
from diptych.train.precision import autocast
from diptych.weights import vilt as weights

SIZES = ((384, 512), (512, 384), (384, 576), (384, 384), (384, 512), (480, 384), (384, 608), (384, 512))  # pixels
TOKENS = (13, 15, 12, 18, 14, 12, 16, 13)
VOCABULARY, MASK = 30522, 103
SHAPES = {
    "small, 6 layers x 384, 8 pairs": (6, 384, 6, 8),
    "base, 12 layers x 768, 2 pairs": (12, 768, 12, 2),
}


class Words:
    """All that ViLT asks of a tokenizer to be built."""

    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = VOCABULARY, 0, 100, 101, 102, MASK


class Peer(nn.Module):
    """transformers' ViLT, and the match head that it has no class for."""

    def __init__(self, layers: int, width: int, heads: int):
        super().__init__()
        from transformers import ViltConfig, ViltForMaskedLM

        size: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
        self.model = ViltForMaskedLM(ViltConfig(**size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        # the published files hold a decoder of its own
        self.model.mlm_score.decoder.weight = nn.Parameter(self.model.mlm_score.decoder.weight.detach().clone())
        self.match = nn.Linear(width, 2)

    def weights(self) -> dict[str, torch.Tensor]:
        """By the names of the published files."""
        return {**self.model.state_dict(), **{f"itm_score.fc.{end}": tensor for end, tensor in self.match.state_dict().items()}}

    def loss(self, batch: Batch) -> torch.Tensor:
        pairs = len(batch) // 2  # first the rows with masked words, then those with matches
        assert batch.images is not None
        picture: dict[str, Any] = {
            "pixel_values": normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            "pixel_mask": batch.images.mask_IHW.long(),
        }
        masked, whole = slice(0, pairs), slice(pairs, None)
        words: dict[str, Any] = {"input_ids": batch.text_BT[masked], "attention_mask": batch.text_mask_BT[masked].long()}
        mlm = self.model(**words, **picture, labels=batch.labels["mlm"][masked]).loss
        words = {"input_ids": batch.text_BT[whole], "attention_mask": batch.text_mask_BT[whole].long()}
        pooled = self.model.vilt(**words, **picture).pooler_output
        return mlm + F.cross_entropy(self.match(pooled).float(), batch.labels["itm"][whole])


def rows(pairs: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    sizes, lengths = SIZES[:pairs], torch.tensor(TOKENS[:pairs])
    mask_IHW = torch.zeros(pairs, max(h for h, _ in sizes), max(w for _, w in sizes), dtype=torch.bool)
    for mask_HW, (height, width) in zip(mask_IHW, sizes, strict=True):
        mask_HW[:height, :width] = True
    mask_BT = torch.arange(int(lengths.max())) < lengths[:, None]
    text_BT = torch.randint(1000, VOCABULARY, mask_BT.shape, generator=random) * mask_BT
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


def run(pairs: int = 7) -> Iterator[Ratio]:
    torch.set_num_threads(1)
    for shape, (layers, width, heads, size) in SHAPES.items():
        for precision in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            peer, batch = Peer(layers, width, heads), rows(size)
            system, state, report = weights.from_hugging_face(peer.weights(), peer.model.config.to_dict())
            assert not report, report
            model = ViLT(ViLT.Config.model_validate({**system, "wpa": None}), cast(Tokenizer, Words()))
            model.load_state_dict(state)

            def ours_loss(model: ViLT = model, batch: Batch = batch) -> torch.Tensor:
                return sum((term.sum / term.count for term in model(batch).values()), torch.zeros(()))

            def peer_loss(peer: Peer = peer, batch: Batch = batch) -> torch.Tensor:
                return peer.loss(batch)

            with torch.no_grad():
                torch.testing.assert_close(ours_loss(), peer_loss(), atol=1e-5, rtol=1e-5)
            is_bf16 = precision == torch.bfloat16
            settings: dict[str, Any] = {"lr": 1e-5, "betas": (0.9, 0.98), "weight_decay": 0.01}
            ours = _step(ours_loss, torch.optim.AdamW(model.parameters(), **settings, fused=True), precision)
            theirs = _step(peer_loss, torch.optim.AdamW(peer.parameters(), **settings, fused=is_bf16 or None), precision)
            name = f"ViLT step, {shape}, {'bf16' if is_bf16 else 'fp32'}"
            yield compare(name, ours, "transformers" + (" with fused AdamW" if is_bf16 else ", stock"), theirs, pairs)


def _step(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, precision: torch.dtype) -> Callable[[], None]:
    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
