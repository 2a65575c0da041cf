"""Block-sparse attention beside full attention, forward and backward, as the sequence grows.

python benchmarks/sparse.py

On CUDA by FlexAttention, which skips blocks that nobody sees; elsewhere by a dense mask, which saves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from timing import interleave, set_up
from torch import nn

from zoo.testing.parts import part

WORDS = ["mixer.heads=8", "mixer.block=128", "mixer.local=2", "mixer.stride=8", "mixer.global_tokens=1"]


def call_of(mixer: nn.Module, x_BLD: torch.Tensor) -> Callable[[], None]:
    """One pass forward and backward."""

    def call() -> None:
        y_BLD, _ = mixer(x_BLD)
        y_BLD.sum().backward()
        mixer.zero_grad()

    return call


def main(rounds: int = 10) -> dict[str, Any]:
    """Print and return milliseconds of both, and full over sparse, by length."""
    cuda = set_up()
    device, dim = torch.device("cuda" if cuda else "cpu"), 512 if cuda else 256
    results = {}
    for length in (1024, 4096, 16384) if cuda else (512, 1024, 2048):
        facts = {"dim": dim, "max_len": length}
        mixers = {
            "full": part("mixer", "attention", WORDS[0], **facts),
            "sparse": part("mixer", "sparse_attention", *WORDS, **facts),
        }
        x_BLD = torch.randn(2 if cuda else 1, length, dim, device=device)
        ways = {name: call_of(mixer.to(device).train(), x_BLD) for name, mixer in mixers.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            seconds = interleave(ways, rounds, cuda)
        runs = mixers["sparse"].implementations(device, torch.float32)["sparse attention"]
        milliseconds = {f"{name} ms": round(1e3 * value, 2) for name, value in seconds.items()}
        results[str(length)] = {
            **milliseconds,
            "full over sparse": round(seconds["full"] / seconds["sparse"], 3),
            "by": runs,
        }
        print(length, json.dumps(results[str(length)]), flush=True)
    return results


if __name__ == "__main__":
    main()
