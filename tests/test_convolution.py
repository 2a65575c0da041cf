"""A short convolution in front of any mixer: it is split, padded and decoded as the mixer is."""

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.nn import Convolved, ShortConvolution
from zoo.training.build import make_objective, make_task

MIXERS = ["attention", "lstm", "mamba2", "linear_attention"]


def backbone(mixer, *words):
    config = zoo.compose(
        "arch=transformer", "task=parity", f"mixer={mixer}", "dim=32", "backbone.convolution=4", *words
    )
    torch.manual_seed(0)
    objective = make_objective(config, make_task(config)).eval()
    return next(module for module in objective.modules() if type(module).__name__ == "Layers")


def test_the_mixer_reads_the_convolved_input():
    class Seen(torch.nn.Module):
        def forward(self, x_BLD, state=None):
            return x_BLD, state

    torch.manual_seed(0)
    mixer, x_BLD = Convolved(Seen(), 8, 3), torch.randn(2, 5, 8)
    weight_D1W = mixer.convolution.weight.unsqueeze(1)
    direct_BDL = F.conv1d(F.pad(x_BLD.transpose(1, 2), (2, 0)), weight_D1W, groups=8)
    assert torch.allclose(mixer(x_BLD)[0], direct_BDL.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_sequence_in_pieces_is_the_sequence(mixer):
    body, x_BLD = backbone(mixer), torch.randn(2, 9, 32)
    assert sum(isinstance(module, ShortConvolution) and module.width == 4 for module in body.modules()) >= 2
    whole_BLD, _ = body(x_BLD)
    state, pieces = body.init_state(2, 9, x_BLD.device, x_BLD.dtype), []
    for piece_BLD in x_BLD.split([4, 1, 3, 1], 1):
        y_BLD, state = body(piece_BLD, state)
        pieces.append(y_BLD)
    assert torch.allclose(torch.cat(pieces, 1), whole_BLD, atol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_leaves_no_trace(mixer):
    body, x_BLD = backbone(mixer, "norm=layernorm"), torch.randn(2, 6, 32)
    mask_BL = torch.tensor([[False] * 3 + [True] * 6] * 2)
    padded_BLD, _ = body(torch.cat([torch.full((2, 3, 32), 1e3), x_BLD], 1), mask_BL=mask_BL)
    assert torch.allclose(padded_BLD[:, 3:], body(x_BLD)[0], atol=1e-4)


def test_an_encoder_convolves_both_ways():
    config = zoo.compose("arch=bert", "task=text", "dim=32", "layers=1", "backbone.convolution=3")
    torch.manual_seed(0)
    objective = make_objective(config, make_task(config)).eval()
    body = next(module for module in objective.modules() if type(module).__name__ == "Layers")
    x_BLD = torch.randn(1, 7, 32, requires_grad=True)
    # the plain sum of what a LayerNorm gives is 0 whatever comes in
    gradient_LD = torch.autograd.grad(body(x_BLD)[0][0, 3] @ torch.randn(32), x_BLD)[0][0]
    assert (gradient_LD.abs().sum(1) > 1e-6).all()


def test_a_width_below_one_is_refused():
    with pytest.raises(zoo.ZooError, match=r"backbone.convolution=0"):
        backbone("attention", "backbone.convolution=0")
