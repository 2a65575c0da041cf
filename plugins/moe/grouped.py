"""A matrix multiply by groups of rows: each group has its own weight.

``grouped_mm(x_SK, weight_ENK, ends_E)`` multiplies rows ``ends[e - 1] : ends[e]`` by ``weight[e]`` transposed. It is a
loop of plain multiplies behind one operator: it takes any floating-point dtype, never indexes the stacked weight under
autograd (whose backward pass would write a whole stack of zeros for each expert), and does not break a compiled graph.
On GPUs from Hopper on, bfloat16 runs ``torch.nn.functional.grouped_mm``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("zoo::grouped_mm", mutates_args=())
def _forward(x_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> Tensor:
    y_SN = x_SK.new_empty(x_SK.shape[0], weight_ENK.shape[1])
    for weight_NK, rows in _groups(weight_ENK, ends_E):
        torch.mm(x_SK[rows], weight_NK.t(), out=y_SN[rows])
    return y_SN


@_forward.register_fake
def _(x_SK, weight_ENK, ends_E):
    return x_SK.new_empty(x_SK.shape[0], weight_ENK.shape[1])


@torch.library.custom_op("zoo::grouped_mm_backward", mutates_args=())
def _backward(gradient_SN: Tensor, x_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> tuple[Tensor, Tensor]:
    dx_SK, dweight_ENK = torch.empty_like(x_SK), torch.empty_like(weight_ENK)
    # each expert's rows: gradient of the inputs, and of the expert's weight
    start = 0
    for expert, end in enumerate(ends_E.tolist()):
        rows = slice(start, end)
        if end > start:
            torch.mm(gradient_SN[rows], weight_ENK[expert], out=dx_SK[rows])
            torch.mm(gradient_SN[rows].t(), x_SK[rows], out=dweight_ENK[expert])
        else:
            dweight_ENK[expert].zero_()  # no token, no gradient: empty_like holds garbage
        start = end
    return dx_SK, dweight_ENK


@_backward.register_fake
def _(gradient_SN, x_SK, weight_ENK, ends_E):
    return torch.empty_like(x_SK), torch.empty_like(weight_ENK)


def _groups(weight_ENK: Tensor, ends_E: Tensor):
    """Each expert that has rows, with its rows."""
    start = 0
    for expert, end in enumerate(ends_E.tolist()):
        if end > start:
            yield weight_ENK[expert], slice(start, end)
        start = end


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, gradient_SN: Tensor):
    x_SK, weight_ENK, ends_E = ctx.saved_tensors
    return *_backward(gradient_SN.contiguous(), x_SK, weight_ENK, ends_E), None


_forward.register_autograd(_gradients, setup_context=_setup)


@register_flop_formula(torch.ops.zoo.grouped_mm)
def _flops(x, weight, ends, *, out_shape=None, **rest) -> int:
    return 2 * x[0] * x[1] * weight[1]  # every row meets one expert


@register_flop_formula(torch.ops.zoo.grouped_mm_backward)
def _flops_backward(gradient, x, weight, ends, *, out_shape=None, **rest) -> int:
    return 4 * x[0] * x[1] * weight[1]


def by_torch(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's own grouped multiply is used there.

    It is a single kernel on recent GPUs in bfloat16, and a loop outside Python on CPUs. On other GPUs it is a loop that
    waits for the device, as ours is.
    """
    if device.type == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) >= (9, 0)
    compiling = torch.compiler.is_compiling() and dtype != torch.bfloat16  # its compiled form knows bfloat16 alone
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and not compiling


def grouped_mm(x_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> Tensor:
    """(S, K) by (E, N, K) to (S, N). ``ends_E`` (int32) is where each expert's rows end; the last is S."""
    N, K = weight_ENK.shape[1:]
    if by_torch(x_SK.device, x_SK.dtype) and N % 8 == 0 and K % 8 == 0 and x_SK.shape[0]:
        return F.grouped_mm(x_SK, weight_ENK.transpose(1, 2), offs=ends_E)
    return _forward(x_SK, weight_ENK, ends_E)
