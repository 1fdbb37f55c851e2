"""Text-text contrast: a text finds its translation among all others (MURAL, Jain et al., Findings of EMNLP 2021).

InfoNCE both ways as in objectives/contrast.py, over pairs of texts. A pair is a sample without a picture whose texts say one thing,
and stands in a batch as two of its rows, one after the other (`data.texts_per_image=2`). The first of the two asks; side b of
`towers` holds in its row what the second one says. All other rows ask nothing and are nobody's negatives.

Pairs of one `Sample.group`, as the names of one concept in many languages are, are never each other's negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.contracts import IGNORE, ROWS_PER_SAMPLE, Batch, Towers
from diptych.objectives import example_rows
from diptych.objectives.contrast import Contrast, number_of


class T2T(Contrast):
    name = "t2t"

    class Config(Contrast.Config):
        def build(self) -> T2T:
            return T2T(self)

    def number(self, batch: Batch) -> Tensor:
        sample_B = batch.row_B // ROWS_PER_SAMPLE
        is_first_B = F.pad(sample_B[1:] == sample_B[:-1], (0, 1)) & ~F.pad(sample_B[1:] == sample_B[:-1], (1, 0))
        if batch.image_of_BN is not None:
            is_first_B &= batch.image_of_BN[:, 0] < 0
        if batch.samples:
            said = [(sample.group or sample.texts[0] if sample.texts else "").encode() for sample in batch.samples]
            sample_B = torch.tensor([number_of(text) for text in said], dtype=torch.int64)
        return sample_B.masked_fill(~is_first_B, IGNORE)


def translated(text_BE: Tensor, temperature: Tensor) -> Towers:
    """Texts of all rows as `T2T` compares them: each with that of the next row."""
    return Towers(text_BE, text_BE.roll(-1, 0), temperature)


def example() -> tuple[T2T, Towers, Batch]:
    random = torch.Generator().manual_seed(6)
    batch = example_rows.batch()
    batch.image_of_BN = None
    batch.row_B = torch.tensor([100, 100, 101, 102, 102, 103]) * ROWS_PER_SAMPLE  # two pairs, two texts on their own
    text_BE = F.normalize(torch.randn(6, example_rows.WIDTH, generator=random), dim=1)
    objective = T2T(T2T.Config(smoothing=0.1))
    return objective, translated(text_BE, objective.temperature), batch
