"""Low-bit linear layers against ``nn.Linear`` and Hugging Face's AutoBitLinear, in training and in decoding.

    python benchmarks/low_bit.py [training] [memory] [decoding]

Bars: at 512 channels and 2048 tokens under bfloat16 autocast a ternary layer takes at most 1.4 times a linear's forward
and backward pass, 1.15 times when both are compiled, at most 1.6 times its peak memory, and no longer than
AutoBitLinear; one token through packed 2048 x 2048 weights takes at most half of the time of a bfloat16 linear.
One process, by turns, medians.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timing import interleave, set_up
from torch import nn
from transformers.integrations.bitnet import AutoBitLinear

from zoo.measure.memory import Peak
from zoo.testing.parts import part

Results = dict[str, Any]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def say(results: Results, name: str, figures: dict[str, Any]) -> None:
    """Print a line and keep it."""
    results[name] = figures
    print(name, json.dumps(figures), flush=True)


def layers(dim: int) -> dict[str, nn.Module]:
    """The contenders, square and without bias."""
    made = {
        "linear": nn.Linear(dim, dim, bias=False),
        "ternary": part("linear", "ternary", in_features=dim, out_features=dim, bias=False),
        "ternary, weights alone": part(
            "linear", "ternary", "linear.activation_bits=null", in_features=dim, out_features=dim, bias=False
        ),
        "binary": part("linear", "binary", in_features=dim, out_features=dim, bias=False),
        "binary, xnor": part("linear", "binary", "linear.method=xnor", in_features=dim, out_features=dim, bias=False),
        "AutoBitLinear": AutoBitLinear(dim, dim, bias=False, online_quant=True),
    }
    return {name: layer.to(DEVICE).train() for name, layer in made.items()}


def step(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, low: bool) -> Callable[[], None]:
    """Forward and backward, under bfloat16 autocast where ``low``."""
    gradient = torch.randn_like(x).to(torch.bfloat16 if low else torch.float32)

    def call() -> None:
        x.grad = None
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low):
            y = layer(x)
        y.backward(gradient)

    return call


def training(cuda: bool, rounds: int = 40) -> Results:
    """The time of forward and backward over a linear's, by width, tokens and precision."""
    results: Results = {}
    for dim, tokens in ((128, 2048), (512, 2048), (1024, 2048), (512, 8192)):
        x = torch.randn(tokens, dim, device=DEVICE, requires_grad=True)
        for low in (False, True):
            calls = {name: step(layer, x, low) for name, layer in layers(dim).items()}
            if (dim, tokens) == (512, 2048):
                for name, layer in layers(dim).items():
                    torch._dynamo.reset()
                    calls[f"compiled {name}"] = step(torch.compile(layer), x, low)
                    calls[f"compiled {name}"]()
            seconds = interleave(calls, rounds, cuda)
            about = f"{dim} channels, {tokens} tokens, {'bfloat16 autocast' if low else 'float32'}"
            rival = {"AutoBitLinear over ternary": round(seconds["AutoBitLinear"] / seconds["ternary"], 3)}
            figures = {"linear ms": round(seconds["linear"] * 1e3, 2), **_ratios(seconds), **rival}
            say(results, about, figures)
    return results


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Of each to the plain linear, of what is compiled to the compiled one."""
    return {
        name: round(value / seconds["compiled linear" if name.startswith("compiled") else "linear"], 3)
        for name, value in seconds.items()
    }


def memory(cuda: bool, dim: int = 512, tokens: int = 65536) -> Results:
    """The peak of a forward and backward pass above what was held before, over a linear's."""
    results: Results = {}
    x = torch.randn(tokens, dim, device=DEVICE, requires_grad=True)
    for low in (False, True):
        peaks: dict[str, Any] = {}
        for name, layer in layers(dim).items():
            call = step(layer, x, low)
            call()
            x.grad = None
            peak = Peak(DEVICE.type)
            call()
            peaks[name] = peak.read()
        precision = "bfloat16 autocast" if low else "float32"
        ratios = {name: round(value / peaks["linear"], 3) for name, value in peaks.items()}
        about = f"peak, {dim} channels, {tokens} tokens, {precision}"
        say(results, f"{about}: linear {peaks['linear'] >> 20} MiB", ratios)
    return results


@torch.no_grad()
def decoding(cuda: bool, rounds: int = 60) -> Results:
    """A token through packed weights over a bfloat16 linear, by width; and many tokens."""
    results: Results = {}
    for dim in (512, 1024, 2048, 4096):
        packed = {
            name: part("linear", name, in_features=dim, out_features=dim, bias=False).packed().to(DEVICE)
            for name in ("ternary", "binary")
        }
        linear = nn.Linear(dim, dim, bias=False, device=DEVICE)
        low = nn.Linear(dim, dim, bias=False, device=DEVICE, dtype=torch.bfloat16)
        for tokens in (1, 64):
            x = torch.randn(tokens, dim, device=DEVICE)
            half = x.bfloat16()
            calls: dict[str, Callable[[], object]] = {
                "bfloat16 linear": lambda low=low, x=half: low(x),
                "float32 linear": lambda linear=linear, x=x: linear(x),
            }
            for name, layer in packed.items():
                calls[f"{name}, float32"] = lambda layer=layer, x=x: layer(x)
                calls[f"{name}, bfloat16"] = lambda layer=layer, x=half: layer(x)
            seconds = interleave(calls, rounds, cuda)
            base = seconds["bfloat16 linear"]
            ratios = {name: round(value / base, 2) for name, value in seconds.items()}
            say(results, f"{dim} x {dim}, {tokens} tokens: bfloat16 linear {base * 1e6:.0f} us", ratios)
        for dtype in (torch.float32, torch.bfloat16):
            say(results, f"{dim} x {dim}, {dtype}", packed["ternary"].implementations(DEVICE, dtype))
    return results


def main(names: Sequence[str] = ()) -> dict[str, Results]:
    """Print and return the ratios of these parts, or of all."""
    cuda = set_up()
    parts = {"training": training, "memory": memory, "decoding": decoding}
    return {name: parts[name](cuda) for name in names or parts}


if __name__ == "__main__":
    main(sys.argv[1:])
