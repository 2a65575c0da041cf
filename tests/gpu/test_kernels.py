"""The fused kernels of state spaces and matrix memories against our own form; skipped where they do not work."""

import pytest
import torch
from scans import scan_inputs, values_and_gradients

from zoo.testing.parts import part
from zoo_plugins.mamba import backends, triton_scan
from zoo_plugins.mamba.selective_scan import selective_scan
from zoo_plugins.matrix_memory import fused as memories

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
LAYERS = [("mamba1", "scan", []), ("mamba2", "ssd", ["mixer.head_dim=32", "mixer.groups=2", "mixer.state_size=32"])]


def decide(wanted, kernel, device):
    return backends.decide(wanted, kernel, device, torch.float32, 16)


def fused(kernel):
    name, why = decide("auto", kernel, "cuda")
    if name != "mamba_ssm":
        pytest.skip(why)


def outputs(mixer, x_BLD):
    """Values, and the gradient of the input and of every parameter."""
    leaf = x_BLD.clone().requires_grad_()
    y_BLD = mixer(leaf)[0]
    y_BLD.square().mean().backward()
    return [y_BLD.detach(), leaf.grad, *(parameter.grad for parameter in mixer.parameters())]


@pytest.mark.parametrize(("name", "kernel", "words"), LAYERS)
@pytest.mark.parametrize("length", [1, 37, 512])
def test_fused_and_ours_agree(name, kernel, words, length):
    fused(kernel)
    x_BLD = torch.randn(2, length, 64, device="cuda")
    ours, theirs = (
        outputs(part("mixer", name, f"mixer.backend={backend}", *words, dim=64).cuda(), x_BLD)
        for backend in ("torch", "mamba_ssm")
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(("name", "kernel", "words"), LAYERS)
def test_decoding_after_a_fused_prefill_goes_on_as_ours(name, kernel, words):
    fused(kernel)
    x_BLD = torch.randn(2, 80, 64, device="cuda")
    mixer = part("mixer", name, "mixer.backend=mamba_ssm", *words, dim=64).cuda()
    with torch.no_grad():
        whole, _ = mixer(x_BLD)
        state, pieces = mixer.init_state(2, 80, x_BLD.device, torch.float32), []
        for piece in x_BLD.split([70, 1, 9], dim=1):
            y_BLD, state = mixer(piece, state)
            pieces.append(y_BLD)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["retnet", "gla", "hgrn2", "deltanet", "gated_deltanet", "kda", "rwkv7"])
@pytest.mark.parametrize("length", [37, 512])
def test_matrix_memories_by_flash_linear_attention_are_ours(name, length):
    """Under bfloat16, to what that loses; from a state too."""
    layers = [part("mixer", name, f"mixer.backend={way}", "mixer.heads=2", dim=64).cuda() for way in ("torch", "auto")]
    way, why = memories.decide("auto", layers[0].rule, "cuda", torch.bfloat16, 32)
    if way != "fla":
        pytest.skip(why)
    x_BLD = torch.randn(2, length, 64, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        ours, theirs = (outputs(layer, x_BLD) for layer in layers)
    for one, other in zip(theirs, ours, strict=True):
        assert (one - other).abs().max() <= 0.1 * other.abs().max()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        state = layers[1].init_state(2, length, x_BLD.device, torch.float32)
        pieces = []
        for piece in x_BLD.split([length - 5, 1, 4], dim=1):
            y_BLD, state = layers[1](piece, state)
            pieces.append(y_BLD)
    assert (torch.cat(pieces, 1) - ours[0]).abs().max() <= 0.1 * ours[0].abs().max()


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_a_missing_kernel_is_explained(name):
    kernel = {"mamba1": "scan", "mamba2": "ssd"}[name]
    chosen, why = decide("auto", kernel, "cuda")
    assert chosen in ("torch", "triton", "mamba_ssm")
    assert why
    if chosen != "mamba_ssm":
        with pytest.raises(ValueError, match="mamba_ssm cannot run"):
            part("mixer", name, "mixer.backend=mamba_ssm").cuda()(torch.randn(1, 4, 32, device="cuda"))


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"), [(2, 1000, 96, 16), (3, 77, 33, 5), (1, 4096, 64, 32)]
)
def test_the_scan_in_triton_computes_what_the_definition_says(batch, length, channels, states):
    inputs = [tensor.cuda() for tensor in scan_inputs(batch, length, channels, states, torch.float32)]
    ours = values_and_gradients(lambda *tensors: selective_scan(*tensors, form="triton"), inputs)
    again = values_and_gradients(lambda *tensors: selective_scan(*tensors, form="triton"), inputs)
    exact = values_and_gradients(selective_scan, [tensor.double() for tensor in inputs])
    for one, two, other in zip(ours, again, exact, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()
        assert torch.equal(one, two), "a run can be repeated to the bit"


def test_the_scan_in_triton_is_tried_and_runs():
    assert triton_scan.why_not("cuda", torch.float32, 16) is None
    assert decide("triton", "scan", "cuda")[0] == "triton"
