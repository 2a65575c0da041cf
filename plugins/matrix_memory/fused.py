"""The fused kernels of the package ``flash-linear-attention``, where they really work.

They compute in half precision, with decays, their sums and the memory in float32. That the package imports does not
mean that its kernels run, so each is tried once before it is used: on small inputs, values and gradients, against
:func:`~.rule.remember`. The interface is that of fla-core 0.6.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn import is_counting

from .rule import remember, rewrite

INSTALL = 'pip install "flash-linear-attention>=0.6" (docs/kernels.md)'
LARGEST = 256
"""Channels of a key that the kernels hold."""
KERNELS = {
    ("hebbian", "none"): ("simple_gla", "chunk_simple_gla"),
    ("hebbian", "scalar"): ("simple_gla", "chunk_simple_gla"),
    ("hebbian", "vector"): ("gla", "chunk_gla"),
    ("delta", "none"): ("delta_rule", "chunk_delta_rule"),
    ("delta", "scalar"): ("gated_delta_rule", "chunk_gated_delta_rule"),
    ("delta", "vector"): ("kda", "chunk_kda"),
    ("erase", "vector"): ("rwkv7", "chunk_rwkv7"),
}
"""By what a token writes and how it forgets: the module under ``fla.ops``, and its function."""
Rule = tuple[str, str]


@torch.compiler.disable  # the package compiles its kernels itself
def fused(
    rule: Rule,
    dtype: torch.dtype,
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    decay: Tensor | None,
    beta_BLH: Tensor | None,
    memory_BHKV: Tensor | None,
    erase: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`~.rule.remember` with one write a token, by a kernel in this dtype.

    Args:
        rule: a key of :data:`KERNELS`.
        dtype: bfloat16 or float16.
        q_BLHK: queries.
        k_BLHK: keys.
        v_BLHV: values.
        decay: logarithms of the decay, (B, L, H) or (B, L, H, K).
        beta_BLH: strengths of the delta rule.
        memory_BHKV: the memory before the first token.
        erase: p and b of ``S_t = (Diag(a_t) - b_t p_t^T) S_{t-1} + k_t v_t^T``.
    """
    module, name = KERNELS[rule]
    kernel = getattr(import_module(f"fla.ops.{module}"), name)
    q, k, v = (each.to(dtype).contiguous() for each in (q_BLHK, k_BLHK, v_BLHV))
    more = {"scale": 1.0, "initial_state": memory_BHKV, "output_final_state": True}
    if erase is not None and decay is not None:
        p, b = (each.to(dtype).contiguous() for each in erase)
        y, last = kernel(r=q, w=decay.to(dtype).contiguous(), k=k, v=v, a=-p, b=b, **more)
    else:
        gates = {"g": decay, "beta": None if beta_BLH is None else beta_BLH.to(dtype)}
        more |= {key: gate.contiguous() for key, gate in gates.items() if gate is not None}
        y, last = kernel(q=q, k=k, v=v, **more)
    return y.to(q_BLHK.dtype), last


@cache
def decide(wanted: str, rule: Rule | None, device: str, dtype: torch.dtype, keys: int) -> tuple[str, str]:
    """Whether ``fla`` or ``torch`` runs for so many channels of a key on a kind of device, and why.

    Raises:
        ValueError: the user named ``fla``, which cannot run here. Only ``auto`` falls back.
    """
    if wanted == "torch":
        return wanted, "as named"
    reason = _why_not(rule, device, dtype, keys)
    if reason is None:
        return "fla", "as named" if wanted == "fla" else "it works here"
    if wanted == "fla":
        raise ValueError(f"mixer.backend=fla cannot run: {reason}. Use mixer.backend=auto or torch")
    return "torch", f"without fla, since {reason}"


def backend_of(wanted: str, rule: Rule | None, x: Tensor, keys: int) -> str:
    """The name of the implementation that runs on tensors like this one.

    Raises:
        ValueError: as :func:`decide`.
    """
    return "torch" if is_counting() else _name(wanted, rule, x.device.type, x.dtype, keys)


@torch.compiler.assume_constant_result
def _name(wanted: str, rule: Rule | None, device: str, dtype: torch.dtype, keys: int) -> str:
    return decide(wanted, rule, device, dtype, keys)[0]


def _why_not(rule: Rule | None, device: str, dtype: torch.dtype, keys: int) -> str | None:
    if device != "cuda":
        return f"the kernels of flash-linear-attention run on CUDA, and this is {device}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    if dtype not in (torch.bfloat16, torch.float16):
        said = str(dtype).removeprefix("torch.")
        return f"the kernels of flash-linear-attention compute in half precision, and this is {said}"
    if rule not in KERNELS:
        return "flash-linear-attention has no kernel of this rule that the zoo uses"
    if keys > LARGEST:
        return f"the kernels of flash-linear-attention hold {LARGEST} channels of a key, and this has {keys}"
    return _failure(rule)


@cache
def _failure(rule: Rule) -> str | None:
    if find_spec("fla") is None:
        return f"flash-linear-attention is not installed; {INSTALL}"
    try:
        ours, theirs = _tried(rule)
        agree = all(
            (one - other).abs().max() <= 0.05 * other.abs().max() for one, other in zip(theirs, ours, strict=True)
        )
    except Exception as error:  # whatever a build that does not fit raises: it must not end the run
        return f"flash-linear-attention is installed but fails: {type(error).__name__}: {str(error)[:200]}"
    return None if agree else "flash-linear-attention gives other results than PyTorch on this device"


def _tried(rule: Rule) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, memories and gradients on small numbers, by PyTorch in float32 and by the kernel in bfloat16."""
    write, decays = rule
    batch, length, heads, size = 2, 80, 2, 32
    shape = (batch, length, heads, size)
    q, k, p = (F.normalize(_numbers(*shape) - 0.5, dim=-1) for _ in range(3))
    v, memory = _numbers(*shape) - 0.5, _numbers(batch, heads, size, size) - 0.5
    given = {"q": q, "k": k, "v": v, "memory": memory}
    if decays != "none":
        given["decay"] = -0.5 * _numbers(*(shape if decays == "vector" else shape[:3]))
    if write == "delta":
        given["beta"] = _numbers(*shape[:3])
    if write == "erase":
        given |= {"p": p, "b": p * _numbers(*shape)}
    given = {key: value.bfloat16().float() for key, value in given.items()}

    def plain(q, k, v, memory, decay=None, beta=None, p=None, b=None) -> tuple[Tensor, Tensor | None]:
        beta = None if beta is None else beta.unsqueeze(2)
        if p is None:
            return remember(q, k.unsqueeze(2), v.unsqueeze(2), decay, beta, memory, 32)
        return rewrite(q, k, v, decay, (p, b), memory, 32)

    def by_kernel(q, k, v, memory, decay=None, beta=None, p=None, b=None) -> tuple[Tensor, Tensor]:
        return fused(rule, torch.bfloat16, q, k, v, decay, beta, memory, None if p is None else (p, b))

    return _with_gradients(plain, given), _with_gradients(by_kernel, given)


def _with_gradients(function: Callable, given: dict[str, Tensor]) -> list[Tensor]:
    leaves = {key: value.clone().requires_grad_() for key, value in given.items()}
    y, last = function(**leaves)
    (y.square().sum() + last.square().sum()).backward()
    return [y.detach(), last.detach(), *(leaf.grad for leaf in leaves.values())]


def _numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))).cuda()
