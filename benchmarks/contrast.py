"""Peak memory of one contrastive step: all rows at once, and in pieces whose activations are forgotten (nn/pieces.py).

Two towers of 3 layers x 192 in fp32, one thread: pictures of 64 pixels in patches of 16, kept as bytes, and texts of 18 tokens.
Each step, forward and backward with AdamW, is a process of its own that says its highest resident size, interpreter and libraries
included. That loss and gradients are those of all rows at once is tested (tests/nn/test_pieces.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.memory import HERE, highest_gb
from benchmarks.side_by_side import Row
from diptych.contracts import ROWS_PER_SAMPLE, Batch, Images, Towers
from diptych.draw import Draw
from diptych.image.patches import Patches
from diptych.nn.pieces import in_pieces
from diptych.nn.transformer import Transformer
from diptych.objectives.contrast import Contrast
from diptych.text.embedding import TextEmbedding

VOCABULARY, TOKENS, SIDE, PATCH = 30522, 18, 64, 16


class Scale(NamedTuple):
    width: int = 192
    layers: int = 3
    compared: int = 2048  # pairs that are taken at once, too
    most: int = 8192  # pairs that are taken in pieces alone
    piece: int = 128


FULL = Scale()
LEAST = Scale(16, 1, 8, 16, 4)


class Pair(nn.Module):
    def __init__(self, scale: Scale):
        super().__init__()
        config = Transformer.Config(layers=scale.layers, heads=scale.width // 16, dropout=0)
        self.image = Patches.Config(patch=PATCH, grid=SIDE // PATCH, dropout=0).build(scale.width)
        self.text = TextEmbedding.Config(dropout=0).build(scale.width, VOCABULARY)
        self.image_encoder, self.text_encoder = Transformer(config, scale.width), Transformer(config, scale.width)
        self.contrast = Contrast.Config(learnable=True).build()

    def forward(self, batch: Batch, piece: int | None) -> Tensor:
        def encode_image(pixel_I3HW: Tensor, mask_IHW: Tensor) -> Tensor:
            token_IVD, mask_IV, _ = self.image(Images(pixel_I3HW, mask_IHW))
            return self.image_encoder(token_IVD, mask_IV).mean(1)

        def encode_text(text_BT: Tensor, mask_BT: Tensor, segment_BT: Tensor) -> Tensor:
            return self.text_encoder(self.text(text_BT, segment_BT), mask_BT).mean(1)

        assert batch.images is not None
        a_BE = in_pieces(encode_image, piece, batch.images.pixel_I3HW, batch.images.mask_IHW)
        b_BE = in_pieces(encode_text, piece, batch.text_BT, batch.text_mask_BT, batch.segment_BT)
        towers = Towers(F.normalize(a_BE, dim=1), F.normalize(b_BE, dim=1), self.contrast.temperature)
        term = self.contrast(towers, self.contrast.corrupt(batch, Draw(0)))
        return term.sum / term.count


def run(scale: Scale = FULL) -> Iterator[Row]:
    pieces, whole = peak_gb(scale, scale.compared, scale.piece), peak_gb(scale, scale.compared, None)
    shape = f"two towers, {scale.layers} layers x {scale.width}, fp32"
    yield Row(
        f"peak memory, contrast of {scale.compared:,} pairs, {shape}",
        whole / pieces,
        "x",
        "all at once",
        how=f"{pieces:.2f} GB to {whole:.2f} GB",
    )
    how = f"in pieces of {scale.piece}"
    yield Row(f"peak memory, contrast of {scale.most:,} pairs, {shape}", peak_gb(scale, scale.most, scale.piece), "GB", how=how)


def peak_gb(scale: Scale, pairs: int, piece: int | None) -> float:
    asked = json.dumps({"scale": scale, "pairs": pairs, "piece": piece})
    done = subprocess.run([sys.executable, "-m", "benchmarks.contrast", asked], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def step(scale: Scale, pairs: int, piece: int | None) -> None:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    mask_BT, own_B = torch.ones(pairs, TOKENS, dtype=torch.bool), torch.arange(pairs)
    text_BT = torch.randint(VOCABULARY, (pairs, TOKENS), generator=random)
    pixel_I3HW = torch.randint(256, (pairs, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    batch = Batch(
        text_BT=text_BT,
        text_mask_BT=mask_BT,
        segment_BT=torch.zeros_like(text_BT),
        word_BT=torch.zeros_like(text_BT),
        row_B=own_B * ROWS_PER_SAMPLE,
        image_of_BN=own_B[:, None],
        images=Images(pixel_I3HW, torch.ones(pairs, SIDE, SIDE, dtype=torch.bool)),
    )
    model = Pair(scale)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(batch, piece).backward()
    optimizer.step()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    step(Scale(*given["scale"]), given["pairs"], given["piece"])
    print(highest_gb())
