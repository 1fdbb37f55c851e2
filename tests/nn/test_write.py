"""Beam search against every text there is, and greedy decoding against the loop that it is."""

import itertools

import pytest
import torch

from diptych.nn.write import write

BEGIN, END, KINDS, MOST = 0, 1, 4, 4


def model(seed: int):
    """Of each of three rows a table of what follows each token; the logits say the same of a prefix in any company."""
    table = torch.randn(3, KINDS, KINDS, generator=torch.Generator().manual_seed(seed)) * 2
    return table, lambda row_P, prefix_PT: table[row_P, prefix_PT[:, -1]] + 0.3 * prefix_PT.sum(1, keepdim=True).sin()


def texts():
    """Every text: some tokens that do not end it, then the end, or as many as may be."""
    others = [token for token in range(KINDS) if token != END]
    for length in range(MOST + 1):
        for tokens in itertools.product(others, repeat=length):
            yield (*tokens, END) if length < MOST else tokens


def score(next_logits, row: int, text, penalty: float) -> float:
    total = 0.0
    for t, token in enumerate(text):
        prefix = torch.tensor([[BEGIN, *text[:t]]])
        total += float(next_logits(torch.tensor([row]), prefix).log_softmax(-1)[0, token])
    return total / len(text) ** penalty


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_loses_nothing_finds_the_best_of_all_texts(seed, penalty):
    _, next_logits = model(seed)
    found = write(next_logits, 3, BEGIN, END, MOST, beam=KINDS**MOST, length_penalty=penalty)
    for row in range(3):
        best = max(texts(), key=lambda text: score(next_logits, row, text, penalty))
        assert found[row] == [token for token in best if token != END]


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_takes_the_likeliest_token_each_time(seed):
    _, next_logits = model(seed)
    found = write(next_logits, 3, BEGIN, END, MOST)
    for row in range(3):
        text = [BEGIN]
        while len(text) <= MOST:
            token = int(next_logits(torch.tensor([row]), torch.tensor([text])).argmax())
            if token == END:
                break
            text.append(token)
        assert found[row] == text[1:]
