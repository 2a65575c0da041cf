"""Writing text greedily beside Hugging Face's ``generate``, with one Llama's weights in both. Bar: half as fast again.

    python benchmarks/generating.py

Both read the same prompts and keep what they read. A turn is one call of each, in one process with one thread; the
figure is the median of the turns' ratios of processor time. In float64 both have to write the same tokens; in float32,
where they are timed, the likeliest of an untrained model's is now and then a matter of rounding.
"""

from __future__ import annotations

import copy
import json
from functools import partial
from statistics import median
from typing import Any

import torch
from presets import llama
from timing import by_turns, quartiles, set_up

import zoo
from zoo.models.decoding import generate

PROMPT, WRITTEN = 64, 64
"""Tokens that are read, and tokens that are written behind them."""


def main(rounds: int = 8, dim: int = 128, layers: int = 4, batch_sizes: tuple[int, ...] = (1, 32)) -> dict[str, Any]:
    """Print and return milliseconds a written token of both sides, and their time over ours.

    Args:
        rounds: how often both write.
        dim, layers: of the model.
        batch_sizes: how many texts are written at once.
    """
    cuda = set_up()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(0)
    theirs = llama(dim, layers, 1, PROMPT + WRITTEN)[0].to(device).eval()
    theirs.generation_config.pad_token_id = 0
    ours = zoo.from_huggingface(theirs).to(device).eval()
    results = {}
    for batch_size in batch_sizes:
        prompt_BL = torch.randint(0, 256, (batch_size, PROMPT), generator=torch.Generator().manual_seed(1)).to(device)
        calls = {"ours": partial(_ours, ours, prompt_BL), "theirs": partial(_theirs, theirs, prompt_BL)}
        exact = _ours(copy.deepcopy(ours).double(), prompt_BL), _theirs(copy.deepcopy(theirs).double(), prompt_BL)
        same = sum(a == b for a, b in zip(*exact, strict=True)) / batch_size
        seconds = by_turns(calls, rounds, cuda)
        ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
        milliseconds = {f"{key} ms a token": round(1e3 * median(each) / WRITTEN, 3) for key, each in seconds.items()}
        results[f"batch {batch_size}"] = milliseconds | {"texts alike": same, "theirs over ours": quartiles(ratios)}
        print(f"batch {batch_size}", json.dumps(results[f"batch {batch_size}"]), flush=True)
    return results


def _ours(model: torch.nn.Module, prompt_BL: torch.Tensor) -> list[list[int]]:
    return generate(model, prompt_BL.tolist(), WRITTEN)


def _theirs(model: Any, prompt_BL: torch.Tensor) -> list[list[int]]:
    whole = torch.ones_like(prompt_BL)  # otherwise a token that could be padding is taken for it
    written = model.generate(prompt_BL, attention_mask=whole, max_new_tokens=WRITTEN, do_sample=False, use_cache=True)
    return written[:, PROMPT:].tolist()


if __name__ == "__main__":
    main()
