"""Writing token by token: beam search over whatever says how likely each next token is.

    score(text) = sum over its tokens of log p(token | those before) / length ^ length_penalty

A text ends with the `end` token, which counts in its length, or is cut at `most` tokens. A beam of 1 without a penalty is greedy
decoding. Texts of a row compete with each other only, so a row is written the same in any company.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def write(
    next_logits: Callable[[Tensor, Tensor], Tensor],
    rows: int,
    begin: int,
    end: int,
    most: int,
    beam: int = 1,
    length_penalty: float = 0.0,
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """The best text of each row, without `begin` and `end`, of at most `most` tokens.

    next_logits(row_P, prefix_PT) -> [P, K]: of each of P prefixes, which row it belongs to and what may come next.
    """
    row_P, prefix_PT = torch.arange(rows, device=device), torch.full((rows, 1), begin, device=device)
    score_P = torch.zeros(rows, dtype=torch.float32, device=device)
    done: list[list[tuple[float, list[int]]]] = [[] for _ in range(rows)]
    for length in range(1, most + 1):
        log_p_PK = next_logits(row_P, prefix_PT).float().log_softmax(-1)
        kinds = log_p_PK.shape[1]
        total_PK = score_P[:, None] + log_p_PK
        kept: list[tuple[int, int]] = []
        of_row = row_P.tolist()
        best_PN = total_PK.topk(min(beam + 1, kinds), dim=1)  # one of a prefix's ways may end it; enough others go on
        candidates: dict[int, list[tuple[float, int, int]]] = {}
        for p, (scores, tokens) in enumerate(zip(best_PN.values.tolist(), best_PN.indices.tolist(), strict=True)):
            candidates.setdefault(of_row[p], []).extend((score, p, token) for score, token in zip(scores, tokens, strict=True))
        for row, ways in candidates.items():
            going = 0
            for score, p, token in sorted(ways, key=lambda way: (-way[0], way[1:])):
                if going == beam:
                    break
                if token == end:
                    done[row].append((score / length**length_penalty, prefix_PT[p, 1:].tolist()))
                elif length == most:
                    going += 1
                    done[row].append((score / length**length_penalty, [*prefix_PT[p, 1:].tolist(), token]))
                elif not _is_beaten(score, done[row], beam, most, length_penalty):
                    going += 1
                    kept.append((p, token))
        if not kept:
            break
        parent_P = torch.tensor([p for p, _ in kept], device=device)
        token_P = torch.tensor([token for _, token in kept], device=device)
        row_P, score_P = row_P[parent_P], total_PK[parent_P, token_P]
        prefix_PT = torch.cat([prefix_PT[parent_P], token_P[:, None]], 1)
    return [max(texts, key=lambda text: text[0])[1] for texts in done]


def _is_beaten(score: float, done: list[tuple[float, list[int]]], beam: int, most: int, length_penalty: float) -> bool:
    """Whether `beam` texts are finished that nothing this one may become can overtake: scores only fall, lengths end at `most`."""
    best = score / most**length_penalty if length_penalty > 0 else score
    return sum(finished >= best for finished, _ in done) >= beam
