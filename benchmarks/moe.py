"""A mixture of experts against a dense feed-forward of equal active size, and against Hugging Face's Mixtral block.

    python benchmarks/moe.py

Bars (forward and backward, over the dense layer): at 256 channels, 8192 tokens, float32, at most 1.15 with 8 experts
and two choices, at most 1.4 with 64; nowhere slower than Hugging Face's grouped or eager block; memory kept for the
backward pass at most 1.2 times the dense layer's. One process, one thread, by turns, medians of processor time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import interleave, set_up
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from zoo.testing.parts import part

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def layers(dim: int, experts: int, top_k: int, hidden: int) -> dict[str, nn.Module]:
    """Ours, a dense layer of ``top_k`` times an expert's width, and Hugging Face's in both of its ways."""
    gate = "switch" if top_k == 1 else "mixtral"
    words = [f"ffn.experts={experts}", f"ffn.top_k={top_k}", f"ffn.gate={gate}", f"expert_ffn.ratio={hidden / dim}"]
    made: dict[str, nn.Module] = {
        "dense": part("ffn", "glu", f"ffn.ratio={top_k * hidden / dim}", dim=dim),
        "ours": part("ffn", "moe", *words, dim=dim, layer=0),
    }
    for way in ("grouped_mm", "eager"):
        config = MixtralConfig(
            hidden_size=dim, intermediate_size=hidden, num_local_experts=experts, num_experts_per_tok=top_k
        )
        config._experts_implementation = way
        block = MixtralSparseMoeBlock(config)
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=dim**-0.5)
        made[f"Hugging Face, {way}"] = block
    return {name: layer.to(DEVICE).train() for name, layer in made.items()}


def step(layer: nn.Module, x_BLD: torch.Tensor) -> Callable[[], None]:
    """Forward and backward."""
    gradient = torch.randn_like(x_BLD)

    def call() -> None:
        x_BLD.grad = None
        y = layer(x_BLD)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(gradient)

    return call


def kept_bytes(layer: nn.Module, x_BLD: torch.Tensor) -> int:
    """What the graph of a forward pass keeps alive beyond parameters and inputs: every saved tensor's memory, once."""
    known = {t.untyped_storage().data_ptr() for t in [*layer.parameters(), x_BLD]}
    bytes_by_pointer: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            bytes_by_pointer[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x_BLD)
        y = y[0] if isinstance(y, tuple) else y
    return sum(bytes_by_pointer.values())


def main(dim: int = 256, rounds: int = 12) -> dict[str, Any]:
    """Print and return the ratios of time, and of memory kept."""
    cuda = set_up()
    results: dict[str, Any] = {}
    for tokens in (2048, 8192):
        for experts in (8, 16, 64):
            for top_k in (1, 2):
                x_BLD = torch.randn(1, tokens, dim, device=DEVICE, requires_grad=True)
                made = layers(dim, experts, top_k, hidden=2 * dim)
                slow = {"Hugging Face, eager"} if experts == 64 else set()
                seconds = interleave({k: step(m, x_BLD) for k, m in made.items() if k not in slow}, rounds, cuda)
                name = f"{tokens} tokens, {experts} experts, {top_k} a token"
                ratios = {key: round(value / seconds["dense"], 3) for key, value in seconds.items()}
                kept = {key: kept_bytes(layer, x_BLD) for key, layer in made.items() if key not in slow}
                memory = {key: round(value / kept["dense"], 3) for key, value in kept.items()}
                rival = round(seconds["Hugging Face, grouped_mm"] / seconds["ours"], 3)
                results[name] = {"dense ms": round(seconds["dense"] * 1e3, 1), "time": ratios, "kept": memory}
                results[name]["Hugging Face, grouped over ours"] = rival
                print(name, json.dumps(results[name]), flush=True)
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
