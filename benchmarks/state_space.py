"""State-space layers against published implementations and against attention, side by side in one process.

    pip install mambapy && python benchmarks/state_space.py

Forward and backward of one layer, batch 8; one thread, by turns, medians of processor time; peak memory of each in a
process of its own. Bars: Mamba-1 at least 5 times as fast as mamba.py's parallel scan at length 1024 with at most a
sixth of its memory, and 50 times as fast as Hugging Face's default on a processor at length 256; Mamba-2 at most 0.85
of the time of Hugging Face's at its best chunk; as fast as attention with its feed-forward at length 4096 or before;
decoding at one speed from 1k to 64k tokens; an error of at most 1e-5 at length 65536.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import clock, interleave, set_up
from torch import nn

from zoo.measure.memory import Peak
from zoo.nn import state_bytes
from zoo.testing.parts import part

BATCH, DIM = 8, 128


class AttentionAndFeedForward(nn.Module):
    """Our own transformer layer: what a Mamba layer stands in for."""

    def __init__(self) -> None:
        super().__init__()
        facts = {"dim": DIM, "max_len": 65_536}
        self.mixer = part("mixer", "attention", "mixer.heads=2", **facts)
        self.ffn, self.norm = part("ffn", "mlp", dim=DIM), part("norm", "rmsnorm", dim=DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both branches."""
        x = x + self.mixer(x)[0]
        return x + self.ffn(self.norm(x))


class Mixed(nn.Module):
    """A mixer of ours, without its state."""

    def __init__(self, name: str, *overrides: str) -> None:
        super().__init__()
        self.mixer = part("mixer", name, *overrides, dim=DIM, max_len=65_536)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix."""
        return self.mixer(x)[0]


def mamba_py() -> nn.Module:
    """mamba.py's block with its parallel scan."""
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=DIM, n_layers=1, d_state=16))


def hugging_face_1() -> nn.Module:
    """Hugging Face's mixer, which without CUDA loops over time."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(MambaConfig(hidden_size=DIM, state_size=16, num_hidden_layers=1), 0)


def hugging_face_2(chunk: int) -> nn.Module:
    """Hugging Face's Mamba-2 mixer."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=DIM,
        state_size=64,
        head_dim=64,
        num_heads=2 * DIM // 64,
        n_groups=1,
        chunk_size=chunk,
        num_hidden_layers=1,
    )
    return Mamba2Mixer(config, 0)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Mixed("attention", "mixer.heads=2"),
    "attention + feed-forward": AttentionAndFeedForward,
    "mamba1 (C++)": lambda: Mixed("mamba1", "mixer.backend=native"),
    "mamba1 (PyTorch)": lambda: Mixed("mamba1", "mixer.backend=torch"),
    "mamba2": lambda: Mixed("mamba2"),
    "mamba3": lambda: Mixed("mamba3"),
    "mamba.py": mamba_py,
    "Hugging Face mamba": hugging_face_1,
    "Hugging Face mamba2, chunk 64": lambda: hugging_face_2(64),
    "Hugging Face mamba2, chunk 128": lambda: hugging_face_2(128),
    "Hugging Face mamba2, chunk 256": lambda: hugging_face_2(256),
}
OURS = ["mamba1 (C++)", "mamba1 (PyTorch)", "mamba2", "mamba3"]
THEIRS_2 = [name for name in LAYERS if "mamba2, chunk" in name]
GROUPS = {  # length, contenders, rounds
    "length 256": (256, ["attention", "attention + feed-forward", *OURS, "mamba.py", *THEIRS_2], 9),
    "length 256, against Hugging Face's loop": (256, ["mamba1 (C++)", "mamba1 (PyTorch)", "Hugging Face mamba"], 3),
    "length 1024": (1024, ["attention", "attention + feed-forward", *OURS, "mamba.py", *THEIRS_2], 7),
    "length 4096": (4096, ["attention", "attention + feed-forward", *OURS], 3),
}


def step(layer: nn.Module, length: int) -> Callable[[], None]:
    """One forward and backward pass."""
    x = torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def call() -> None:
        layer(x).square().mean().backward()

    return call


def peak(name: str, length: int) -> float:
    """Mebibytes at the peak of one pass above what was held before, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "peak", name, str(length)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def peak_here(name: str, length: int) -> None:
    """Print what :func:`peak` reads."""
    set_up()
    layer = LAYERS[name]()
    step(layer, 32)()
    call, watch = step(layer, length), Peak("cpu")
    call()
    print((watch.read() or 0) / 2**20)


def decoding() -> dict[str, Any]:
    """Microseconds for a token, and bytes of state, after contexts of several lengths."""
    costs: dict[str, Any] = {}
    for name in ("mamba1", "mamba2", "mamba3", "attention"):
        mixer = part("mixer", name, dim=256, max_len=65_600)
        for context in (1024, 8192, 65_536):
            with torch.no_grad():
                state = mixer.init_state(1, context + 64, torch.device("cpu"), torch.float32)
                for piece in torch.randn(1, context, 256).split(1024, dim=1):
                    state = mixer(piece, state)[1] if name != "attention" else state
                if name == "attention":
                    state["seen"] = context  # what the cache holds does not change its speed
                token, seconds = torch.randn(1, 1, 256), []
                for _ in range(40):
                    start = clock(False)
                    state = mixer(token, state)[1]
                    seconds.append(clock(False) - start)
            costs[f"{name} after {context}"] = {
                "microseconds": round(sorted(seconds)[20] * 1e6),
                "state KiB": round(state_bytes(state) / 1024),
            }
            print(f"{name} after {context}", costs[f"{name} after {context}"], flush=True)
    return costs


def error_at(length: int) -> dict[str, float]:
    """The largest error of float32 against float64, relative to the largest value, by layer."""
    errors = {}
    for name, words in (
        ("mamba1", ["mixer.backend=native"]),
        ("mamba1", ["mixer.backend=torch"]),
        ("mamba2", []),
        ("mamba3", []),
    ):
        x = torch.randn(1, length, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            low = part("mixer", name, *words)(x)[0].double()
            exact = part("mixer", name, dtype=torch.float64)(x.double())[0]
        errors[" ".join([name, *words])] = float(f"{((low - exact).abs().max() / exact.abs().max()).item():.2g}")
    return errors


def main() -> dict[str, Any]:
    """Print and return milliseconds by group, memory, decoding and errors."""
    set_up()
    results: dict[str, Any] = {}
    for group, (length, names, rounds) in GROUPS.items():
        layers = {name: LAYERS[name]() for name in names}
        seconds = interleave({name: step(layer, length) for name, layer in layers.items()}, rounds, False)
        results[group] = {name: round(value * 1e3, 1) for name, value in seconds.items()}
        print(group, json.dumps(results[group]), flush=True)
    results["peak MiB at length 1024"] = {name: round(peak(name, 1024), 1) for name in [*LAYERS][:7] + THEIRS_2}
    print("peak MiB at length 1024", json.dumps(results["peak MiB at length 1024"]), flush=True)
    results["error at length 65536"] = error_at(65_536)
    print("error at length 65536", json.dumps(results["error at length 65536"]), flush=True)
    results["decoding"] = decoding()
    return results


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak_here(sys.argv[2], int(sys.argv[3]))
    else:
        main()
