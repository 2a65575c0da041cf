"""Floating-point operations, counted from the operations that really run (2 for a multiply and add).

torch's counter knows matrix multiplies and, on CUDA, attention; before torch 2.12 only where each head has a key of its
own. On the CPU it counts ``scaled_dot_product_attention``, LSTM and grouped matrix multiplies as nothing, which would
rank an LSTM at half its cost. Their formulas are added here.
Element-wise operations count as nothing, in every architecture alike. A scan's recurrence is not element-wise, and its
plugin registers what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import log2, prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from zoo.base.contracts import Batch, Task
from zoo.measure import flops
from zoo.nn import counting

Shape = tuple[int, ...]


@cache
def register_formulas() -> None:
    """Teach torch's counter the operations that it does not know, once per process."""
    aten = torch.ops.aten

    def attention(q: Shape, k: Shape, v: Shape, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])  # the scores, and their product with the values

    def attention_backward(
        grad: Shape, q: Shape, k: Shape, v: Shape, *rest: Any, out_shape: Any = None, **more: Any
    ) -> int:
        return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])  # the scores again, then dQ, dK, and dV, dP

    def lstm(x: Shape, weight: Shape, recurrent: Shape, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        steps, batch, inputs = x
        gates, hidden = recurrent
        return 2 * steps * batch * gates * (inputs + hidden)

    def lstm_backward(x: Shape, weight: Shape, recurrent: Shape, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        return 2 * lstm(x, weight, recurrent)

    def grouped(a: Shape, b: Shape, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        if len(a) == 2:
            return 2 * a[0] * a[1] * b[-1]  # every row meets one group
        return 2 * a[1] * a[2] * b[-1] * (a[0] if len(b) == 3 else 1)

    def triangular(a: Shape, b: Shape, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        rows, columns = b[-2:]
        return prod(b[:-2]) * rows * rows * columns  # half of a product's, as half of the matrix is zero

    def real_fft(x: Shape, dims: Sequence[int], *rest: Any, out_shape: Any = None, **more: Any) -> int:
        # 5 N log2 N for complex numbers, half of it for real ones (Cooley and Tukey's count, by radix 2)
        signal = max(prod(shape[dim] for dim in dims) for shape in (x, out_shape))
        return int(2.5 * max(prod(x), prod(out_shape)) * log2(max(signal, 2)))

    kernels = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    attentions: dict[str, Callable[..., int]] = {f"_scaled_dot_product_{name}": attention for name in kernels}
    attentions |= {f"_scaled_dot_product_{name}_backward": attention_backward for name in kernels}
    formulas = {
        **attentions,
        "mkldnn_rnn_layer": lstm,
        "mkldnn_rnn_layer_backward": lstm_backward,
        "_grouped_mm": grouped,
        "_scaled_grouped_mm": grouped,
        "linalg_solve_triangular": triangular,
        "_fft_r2c": real_fft,
        "_fft_c2r": real_fft,
        "_fft_c2c": lambda x, dims, *rest, out_shape=None, **more: 2 * real_fft(x, dims, out_shape=out_shape),
        "_int_mm": lambda a, b, *rest, out_shape=None, **more: 2 * a[0] * a[1] * b[1],
    }
    for name, formula in formulas.items():
        operation = getattr(aten, name, None)
        if name in attentions:
            flop_registry.pop(operation, None)
        if operation is not None and operation not in flop_registry:
            register_flop_formula(operation)(formula)


def count(objective: nn.Module, batch: Batch) -> tuple[int, int]:
    """FLOPs of one forward pass on this batch, and of forward and backward together, which is 0 if nothing learns.

    Gradients are cleared afterwards and the mode is restored. Random numbers come from a stream of its own.
    """
    register_formulas()
    training = objective.training
    with torch.random.fork_rng(devices=[]), counting():
        with FlopCounterMode(display=False) as forward:
            loss = objective.train()(batch)["loss"]
        with FlopCounterMode(display=False) as backward:
            if loss.requires_grad:
                loss.backward()
    objective.zero_grad(set_to_none=True)
    objective.train(training)
    whole = forward.get_total_flops() + backward.get_total_flops() if loss.requires_grad else 0
    return forward.get_total_flops(), whole


def by_module(objective: nn.Module, batch: Batch) -> dict[str, int]:
    """FLOPs of one forward pass for each module, by name."""
    register_formulas()
    with torch.no_grad(), counting(), FlopCounterMode(display=False) as counter:
        objective(batch)
    root = type(objective).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name != "Global"
    }


DRAWS = 16


def per_token(objective: nn.Module, task: Task, device: torch.device | None = None) -> tuple[float, float]:
    """FLOPs per token, forward and in training, counted on two examples if these are representative.

    Masks of varying size and comparisons within a batch make the cost vary. So if another seed or twice as many
    examples cost something else, whole batches are counted, ``DRAWS`` of them if chance decides.

    Args:
        objective: the model.
        task: whose batches are counted.
        device: the model's; large models take seconds on a CPU.
    """
    device = device or torch.device("cpu")
    batch = task.train_batch(0, 0, device)

    def count(examples: int | None, seed: int) -> tuple[float, float]:
        part = {key: value[:examples] for key, value in batch.items()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            forward, training = flops.count(objective, part)
        return forward / task.tokens(part), training / task.tokens(part)

    first, other, more = count(2, 0), count(2, 1), count(4, 0)
    if first == other == more:
        return first
    counts = [count(None, seed) for seed in range(DRAWS if first != other else 1)]
    forward, training = (sum(part) / len(counts) for part in zip(*counts, strict=True))
    return forward, training
