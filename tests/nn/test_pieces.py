"""Cached pieces against the same pieces kept: loss and gradients, with dropout and batch normalisation; and the memory."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.contracts import Towers
from diptych.nn import batch_norm
from diptych.nn.batch_norm import BatchNorm
from diptych.nn.pieces import in_pieces, separate
from diptych.objectives import example_rows
from diptych.objectives.contrast import Contrast


class Encoder(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, width), nn.Tanh())
        self.norm, self.head = BatchNorm(width), nn.Linear(width, 4)
        separate(self)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layers(x_BD)[:, :, None, None])[:, :, 0, 0])


def contrasted(a_BE: torch.Tensor, b_BE: torch.Tensor) -> torch.Tensor:
    """The contrast of a whole batch: no sum over pieces."""
    a_BE, b_BE = (nn.functional.normalize(side, dim=1) for side in (a_BE, b_BE))
    return nn.functional.cross_entropy(a_BE @ b_BE.T / 0.1, torch.arange(len(a_BE)))


def kept(encode, size, *rows):
    """The reference: the same pieces, and nothing forgotten."""
    return torch.cat([encode(*piece) for piece in zip(*(tensor.split(size) for tensor in rows), strict=True)])


def step(way) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    sides = nn.ModuleList([Encoder(), Encoder()])
    rows = torch.randn(2, 11, 8)
    torch.manual_seed(1)
    loss = contrasted(*(way(side, 4, x_BD) for side, x_BD in zip(sides, rows, strict=True)))
    loss.backward()
    after = torch.rand(3)
    batch_norm.commit(sides)
    gradients = {name: p.grad for name, p in sides.named_parameters()}
    return loss.detach(), gradients, dict(sides.named_buffers()) | {"random state": after}


def test_forgotten_pieces_are_those_that_were_kept():
    """Within 1e-6 in fp32, the running statistics to the bit: nothing is staged twice; random numbers go on as if nothing was."""
    (loss, gradients, state), (expected, wanted, left) = step(in_pieces), step(kept)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-6)
    assert all(torch.equal(state[name], tensor) for name, tensor in left.items())


def test_without_normalisation_pieces_do_not_matter():
    torch.manual_seed(0)
    encode, x_BD = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)), torch.randn(11, 8)
    found = []
    for size in (None, 3, 11):
        encode.zero_grad()
        side_BE = in_pieces(encode, size, x_BD)
        contrasted(side_BE, side_BE.roll(1, 1)).backward()
        found.append([p.grad.clone() for p in encode.parameters()])
    for gradients in found[1:]:
        for gradient, expected in zip(gradients, found[0], strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and (place := tensor.untyped_storage()).data_ptr() not in self.known:
                self.known.add(place.data_ptr())
                self.now += place.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(place, self._gone, place.data_ptr(), place.nbytes())
        return made

    def _gone(self, pointer: int, size: int) -> None:
        self.known.discard(pointer)
        self.now -= size


def peak(size: int | None, rows: int) -> int:
    torch.manual_seed(0)
    encode, x_BD = Encoder(width=256, dropout=0.0), torch.randn(rows, 8)
    gc.collect()
    with Held() as held:
        in_pieces(encode, size, x_BD).square().sum().backward()
    return held.most


def test_memory_is_that_of_a_piece():
    """Whole, it grows with the rows; in pieces of 64 only the embeddings do, [rows, 4] of them and their gradients."""
    whole, pieced = peak(None, 4096), peak(64, 4096)
    assert pieced < whole / 8
    grown = pieced - peak(64, 2048)
    assert grown < 2048 * 4 * 4 * 8, "a few copies of the embeddings"


def test_random_state_and_groups_go_through_evaluation_untouched():
    encode = Encoder().eval()
    x_BD = torch.randn(9, 8)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(encode, 2, x_BD), encode(x_BD))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_contrast_in_pieces_is_the_contrast(smoothing: float):
    """Through the objective itself, both sides and its learnt temperature."""
    batch = example_rows.batch()
    found = []
    for way in (lambda *given: in_pieces(given[0], 2, *given[1:]), lambda encode, x_BD: encode(x_BD)):
        torch.manual_seed(0)
        sides, rows = [nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)) for _ in range(2)], torch.randn(2, 6, 8)
        objective = Contrast.Config(learnable=True, smoothing=smoothing).build()
        asked = objective.corrupt(batch, None)
        a_BE, b_BE = (nn.functional.normalize(way(side, x_BD), dim=1) for side, x_BD in zip(sides, rows, strict=True))
        term = objective(Towers(a_BE, b_BE, objective.temperature), asked)
        term.sum.backward()
        parameters = [*objective.parameters(), *(p for side in sides for p in side.parameters())]
        found.append([term.sum.detach(), *(p.grad for p in parameters)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_what_is_done_again_is_marked_only_while_it_is():
    norm = BatchNorm(2)
    for mark, staged in ((nullcontext(), 1), (batch_norm.again(), 1), (nullcontext(), 2)):
        with mark:
            norm(torch.randn(3, 2, 1, 1))
        assert len(norm._staged) == staged
