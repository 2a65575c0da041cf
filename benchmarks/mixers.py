"""The step of our GRU over our LSTM's, and of attention within a window over full attention.

python benchmarks/mixers.py
"""

from __future__ import annotations

import json
from typing import Any

from exponents import layer
from timing import by_turns, quartiles, set_up


def main(rounds: int = 9, length: int = 8192, window: int = 256, dim: int = 256) -> dict[str, Any]:
    """Print and return the quartiles of both ratios, by turns."""
    cuda = set_up()
    ratios = {}
    for title, calls in {
        "gru over lstm": {
            "lstm": layer("mixer", "lstm", dim=dim, length=length // 16),
            "gru": layer("mixer", "gru", dim=dim, length=length // 16),
        },
        "window over full": {
            "full": layer("mixer", "attention", "mixer.heads=4", dim=dim, length=length),
            "window": layer("mixer", "attention", "mixer.heads=4", f"mixer.window={window}", dim=dim, length=length),
        },
    }.items():
        first, second = by_turns(calls, rounds, cuda).values()
        ratios[title] = quartiles([one / other for one, other in zip(second, first, strict=True)])
        print(title, json.dumps(ratios[title]), flush=True)
    return ratios


if __name__ == "__main__":
    main()
