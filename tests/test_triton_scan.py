"""The scan in Triton, run by Triton's interpreter on a processor, beside its definition."""

import os
import subprocess
import sys

import pytest
import torch
from scans import scan_inputs, values_and_gradients

from zoo.testing.parts import part
from zoo_plugins.mamba import backends, triton_scan
from zoo_plugins.mamba.selective_scan import selective_scan

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves")


def in_triton(*inputs):
    return selective_scan(*inputs, form="triton")


@pytest.mark.parametrize(
    ("length", "channels", "states"),
    [(2, 3, 16), (16, 32, 4), (33, 7, 5), (17, 5, 1), (20, 35, 16)],
    ids=["less than a chunk", "whole blocks", "ragged", "one state", "several blocks"],
)
def test_it_computes_what_the_definition_says(length, channels, states):
    inputs = scan_inputs(2, length, channels, states, torch.float32)
    ours = values_and_gradients(in_triton, inputs)
    exact = values_and_gradients(selective_scan, [tensor.double() for tensor in inputs])
    for name, one, other in zip(("y", "last", "u", "dt", "A", "B", "C", "first"), ours, exact, strict=True):
        assert (one - other).abs().max() <= 3e-6 * other.abs().max(), name


@pytest.mark.thorough  # as those of the compiled operator, in test_backends.py
def test_the_operator_keeps_torchs_rules():
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(2, 18, 3, 4, torch.float32)]
    torch.library.opcheck(torch.ops.zoo.selective_scan.default, (*inputs, "triton"))


def test_a_sequence_may_be_cut_anywhere():
    u, dt, A, B, C, state = scan_inputs(2, 40, 6, 4, torch.float32)
    whole, last = in_triton(u, dt, A, B, C, state)
    pieces = []
    for piece in (slice(0, 7), slice(7, 32), slice(32, 40)):
        y, state = in_triton(u[:, piece], dt[:, piece], A, B[:, piece], C[:, piece], state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-6)


def test_it_passes_on_what_is_not_a_number_and_leaves_the_other_sequences_alone():
    inputs = scan_inputs(2, 20, 6, 4, torch.float32)
    expected, _ = in_triton(*inputs)
    inputs[0][1, 9, 2] = float("nan")
    y, last = in_triton(*inputs)
    assert torch.equal(y[0], expected[0])
    assert torch.equal(y[1, :9], expected[1, :9])
    assert y[1, 9:, 2].isnan().all()
    assert last[1, 2].isnan().all()
    assert not y[1, :, [0, 1, 3, 4, 5]].isnan().any()


def test_no_sequences_are_no_trouble():
    inputs = [tensor[:0] if tensor.ndim == 3 else tensor for tensor in scan_inputs(2, 20, 6, 4, torch.float32)]
    for value in values_and_gradients(in_triton, inputs)[:2]:
        assert value.numel() == 0


@pytest.mark.thorough
def test_its_own_trial_finds_a_scan_that_is_wrong(monkeypatch):
    assert triton_scan.agrees("cpu")
    right = triton_scan.forward
    monkeypatch.setattr(triton_scan, "forward", lambda u, *rest: right(u * 1.01, *rest))
    assert not triton_scan.agrees("cpu")


@pytest.mark.thorough
def test_a_gradient_that_is_wrong_is_found_as_well(monkeypatch):
    right = triton_scan.backward

    def wrong(*inputs):
        *gradients, last = right(*inputs)
        return *gradients, last * 1.01

    monkeypatch.setattr(triton_scan, "backward", wrong)
    assert not triton_scan.agrees("cpu")


@pytest.mark.thorough
def test_the_whole_layer_runs_on_it(monkeypatch):
    layer = part("mixer", "mamba1", "mixer.backend=torch")
    x_BLD = torch.randn(2, 21, layer.out.out_features)
    expected, _ = layer(x_BLD)
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    monkeypatch.setattr("zoo_plugins.mamba.mamba1.backend_of", lambda *facts: "triton")
    outputs, _ = layer(x_BLD)
    outputs.square().sum().backward()
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(layer.parameters(), gradients, strict=True):
        torch.testing.assert_close(one.grad, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("works", "chosen"), [({"mamba_ssm", "triton"}, "mamba_ssm"), ({"triton"}, "triton"), (set(), "torch")]
)
def test_what_is_fastest_of_what_works_is_chosen_on_a_gpu(monkeypatch, works, chosen):
    monkeypatch.setattr(backends.kernels, "why_not", lambda *facts: None if "mamba_ssm" in works else "it is broken")
    monkeypatch.setattr(triton_scan, "why_not", lambda *facts: None if "triton" in works else "it is broken")
    name, why = backends.decide.__wrapped__("auto", "scan", "cuda", torch.float32, 16)
    assert name == chosen
    assert ("without mamba_ssm, since it is broken" in why) == (chosen != "mamba_ssm")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (("cpu", torch.float32, 16), "this is cpu"),
        (("cuda", torch.float64, 16), "float64"),
        (("cuda", torch.float32, 64), "at most 32 states"),
    ],
)
def test_where_it_cannot_run_it_says_why(facts, why):
    assert why in triton_scan.why_not(*facts)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zoo_plugins.mamba import triton_kernels, triton_scan

constants = triton_scan._constants(16)
for kernel in (triton_kernels.forward, triton_kernels.backward):
    types = {name: "i32" if name in triton_kernels.SIZES else "*fp32" for name in kernel.arg_names}
    signature = types | dict.fromkeys(constants, "constexpr")
    aligned = {(at,): [["tt.divisibility", 16]] for at, kind in enumerate(signature.values()) if kind == "*fp32"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)  # as tensors of torch are
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    counts = [compiled.asm["ptx"].count(word) for word in ("shfl", "st.shared")]
    print(kernel.__name__, len(compiled.asm["cubin"]), *counts)
"""


@pytest.mark.thorough
def test_the_kernels_compile_for_a_gpu(tmp_path):
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert [(name, int(size) > 0) for name, size, *_ in kernels] == [("forward", True), ("backward", True)]
    assert kernels[0][2:] == ["0", "0"], "sums over states need no exchange between threads"
    sums = 2 * 16 * 5 * triton_scan.UNROLL  # of the gradients of B and C over a warp, for each state
    assert int(kernels[1][2]) == sums, "and only the gradients of B and C do"
