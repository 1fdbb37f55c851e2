import torch
import torch.nn.functional as F
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from diptych.contracts import Visual
from diptych.image.gated_neck import GatedNeck
from diptych.image.grid_cnn import cells
from diptych.nn.sine import sine


def test_sine_positions_are_those_of_detr():
    """transformers' of the same mask, for a picture that fills the canvas and one that leaves whole cells free."""
    mask_IHW = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask_IHW[0], mask_IHW[1, :2, :4] = True, True
    theirs = DetrSinePositionEmbedding(num_position_features=8, normalize=True)
    expected = theirs(torch.Size((2, 16, 3, 5)), device="cpu", dtype=torch.float32, mask=mask_IHW)
    box_IV4, mask_IV = cells(torch.tensor([[48, 80], [32, 64]]), 3, 5, 16)
    expected = expected if expected.shape[1] == 15 else expected.flatten(2).mT
    torch.testing.assert_close(sine(box_IV4, 16)[mask_IV], expected[mask_IV], atol=1e-4, rtol=1e-4)


def test_the_neck_is_torch_s_own_layers_in_a_row():
    torch.manual_seed(0)
    neck = GatedNeck.Config().build(8)
    mask_IV = torch.tensor([[True] * 4, [True, True, False, False]])
    cell_IVD, word_IVD, box_IV4 = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.rand(2, 4, 4)
    visual = Visual(cell_IVD, mask_IV, box_IV4)
    found = neck.placed(neck(visual, word_IVD)).token_IVD[mask_IV]
    word_PD, cell_PD = neck.align(word_IVD[mask_IV]), cell_IVD[mask_IV]
    assert neck.gate is not None
    score_P2 = F.batch_norm(torch.cat([word_PD, cell_PD], 1) @ neck.gate.weight.T, None, None, training=True)
    share_P2 = score_P2.softmax(1)
    mixed_PD = share_P2[:, :1] * word_PD + share_P2[:, 1:] * cell_PD
    expected = F.layer_norm(mixed_PD + sine(box_IV4, 8)[mask_IV], (8,))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = GatedNeck.Config(gated=False).build(8)
    torch.testing.assert_close(plain(visual, word_IVD).token_IVD, plain.align(word_IVD) + cell_IVD)
