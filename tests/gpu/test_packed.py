"""Low-bit layers on a GPU; skipped without one."""

import sys

import pytest
import torch
from conftest import TINY

import zoo
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.testing.parts import part

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]


@pytest.mark.parametrize("name", ["ternary", "binary"])
@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_packed_gives_the_bits_of_the_processor(name, tokens):
    linear = part("linear", name, in_features=256, out_features=64)
    x = torch.randn(tokens, 256)
    expected = linear.packed()(x)
    assert torch.equal(linear.packed().cuda()(x.cuda()).cpu(), expected)
    torch.testing.assert_close(linear.cuda()(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kernel_that_applies_runs_and_is_right(dtype):
    packed = part("linear", "ternary", in_features=512, out_features=256).packed().cuda()
    kernels = sys.modules[type(packed).__module__.rpartition(".")[0] + ".kernels"]
    x, ran = torch.randn(32, 512, device="cuda", dtype=dtype), {}
    problem = packed._problem("cuda", dtype, False)
    for name, kernel in kernels.KERNELS.items():
        if kernel.applies(problem):
            ran[name] = kernels.prepare(name, packed.unpacked(), problem)(x, packed.scale, packed.bias)
    assert ran.keys() >= ({"int8", "unpacked"} | ({"tinygemm int4"} if dtype == torch.bfloat16 else set()))
    for output in ran.values():
        torch.testing.assert_close(
            output,
            ran["unpacked"],
            rtol=0 if dtype == torch.float32 else 2e-2,
            atol=0 if dtype == torch.float32 else 2e-2,
        )


def test_a_run_in_bfloat16_is_exported(here):
    from zoo.models.export import export

    words = [word for word in TINY if not word.startswith("trainer.accelerator")]
    config = zoo.compose("linear=ternary", "task=parity", "task.test_size=8", *words)
    assert train(config)["precision"] == "bf16-mixed"
    export(folder_of(config), "planes", None)


def test_compiles_without_a_graph_break():
    linear, x = part("linear", "ternary").cuda().train(), torch.randn(6, 32, device="cuda")
    torch.testing.assert_close(torch.compile(linear, fullgraph=True)(x), linear(x), rtol=1e-3, atol=1e-3)
