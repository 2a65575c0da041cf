"""The step of our GRU over our LSTM's, and of attention within a window over full attention.

python benchmarks/mixers.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from timing import by_turns, quartiles, set_up

from zoo.testing.parts import part


def step(name: str, *words: str, dim: int, length: int) -> Callable[[], None]:
    """A forward and a backward pass of a mixer over one sequence."""
    mixer = part("mixer", name, *words, dim=dim, max_len=length)
    x_BLD = torch.randn(1, length, dim, requires_grad=True)

    def call() -> None:
        mixer(x_BLD, None)[0].sum().backward()

    return call


def main(rounds: int = 9, length: int = 8192, window: int = 256, dim: int = 256) -> dict[str, Any]:
    """Print and return the quartiles of both ratios, by turns."""
    cuda = set_up()
    found = {}
    for title, calls in {
        "gru over lstm": {
            "lstm": step("lstm", dim=dim, length=length // 16),
            "gru": step("gru", dim=dim, length=length // 16),
        },
        "window over full": {
            "full": step("attention", "mixer.heads=4", dim=dim, length=length),
            "window": step("attention", "mixer.heads=4", f"mixer.window={window}", dim=dim, length=length),
        },
    }.items():
        first, second = by_turns(calls, rounds, cuda).values()
        found[title] = quartiles([one / other for one, other in zip(second, first, strict=True)])
        print(title, json.dumps(found[title]), flush=True)
    return found


if __name__ == "__main__":
    main()
