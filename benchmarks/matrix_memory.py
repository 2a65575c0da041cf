"""Matrix memories against Mamba-2, against each other and against transformers' layers, side by side in one process.

    python benchmarks/matrix_memory.py [LENGTH ...]

Forward and backward of one layer of 128 channels, batch 8; one thread, by turns, medians of processor time. Bars: a
decay of each head at most 1.15 of Mamba-2's time, one of each channel at most 2; n writes of a token at most n + 0.3
times one; no layer slower than transformers' of the same rule and sizes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from state_space import BATCH, DIM, Mixed, step
from timing import interleave, set_up
from torch import nn

HEADS, SIZE = 2, DIM // 2


class Theirs(nn.Module):
    """A layer of transformers in float32, whose parameters are numbers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        for parameter in self.parameters():  # some come as they are in memory
            nn.init.normal_(parameter, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix."""
        return self.layer(x)


def qwen3_next() -> nn.Module:
    """Their Gated DeltaNet, of our sizes."""
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextConfig, Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=DIM,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=SIZE,
        linear_value_head_dim=SIZE,
        num_hidden_layers=1,
    )
    return Theirs(Qwen3NextGatedDeltaNet(config, 0))


def kimi_linear() -> nn.Module:
    """Their Kimi Delta Attention, of our sizes."""
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearConfig, KimiLinearDeltaAttention

    config = KimiLinearConfig(hidden_size=DIM, linear_num_heads=HEADS, linear_head_dim=SIZE, num_hidden_layers=1)
    return Theirs(KimiLinearDeltaAttention(config, 0))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "mamba2": lambda: Mixed("mamba2"),
    "gated_deltanet": lambda: Mixed("gated_deltanet"),
    "kda": lambda: Mixed("kda"),
    "gla": lambda: Mixed("gla"),
    "retnet": lambda: Mixed("retnet"),
    "rwkv7": lambda: Mixed("rwkv7"),
    **{f"{n} writes": lambda n=n: Mixed("delta_product", f"mixer.householders={n}") for n in (1, 2, 3, 4)},
    "Qwen3-Next": qwen3_next,
    "Kimi Linear": kimi_linear,
}
BARS = {  # one over another, and what it may be at most
    ("gated_deltanet", "mamba2"): 1.15,
    ("kda", "mamba2"): 2.0,
    **{(f"{n} writes", "1 writes"): n + 0.3 for n in (2, 3, 4)},
    ("gated_deltanet", "Qwen3-Next"): 1.0,
    ("kda", "Kimi Linear"): 1.0,
}
ROUNDS = {256: 9, 1024: 5, 4096: 3}


def main(lengths: list[int]) -> dict[str, Any]:
    """Print and return milliseconds, and each ratio beside its bar, by length."""
    set_up()
    results: dict[str, Any] = {"batch": BATCH, "dim": DIM}
    for length in lengths:
        calls = {name: step(make(), length) for name, make in LAYERS.items()}
        seconds = interleave(calls, ROUNDS.get(length, 3), False)
        ratios = {
            f"{one} / {other}": f"{seconds[one] / seconds[other]:.2f} (at most {bar})"
            for (one, other), bar in BARS.items()
        }
        results[f"length {length}"] = {name: round(value * 1e3, 1) for name, value in seconds.items()} | ratios
        print(f"length {length}", json.dumps(results[f"length {length}"], indent=1), flush=True)
    return results


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [*ROUNDS])
