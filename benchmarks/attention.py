"""Options of attention and its kin beside plain attention: a training step of each, and decoding by latents.

    python benchmarks/attention.py

One process, steps by turns. Bars: QK-norm at most 1.05 of the plain step, output gates 1.08; decoding latent attention
takes no longer than grouped queries whose cache has as many bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from decoder import step_of
from timing import by_turns, interval, set_up

import zoo
from zoo.nn import state_bytes
from zoo.registry.factory import Factory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups

SIZE = ["arch=transformer", "task=text", "dim=256", "layers=4", "task.batch_size=4", "task.length=256"]
OPTIONS = [
    "mixer.norm_qk=before",
    "mixer.norm_qk=after",
    "mixer.output_gate=head",
    "mixer.output_gate=channel",
    "mixer.sink_logits=true",
    "mixer.temperature=log",
    "mixer.softcap=50",
    "position.share=0.5",
    "objective.logit_softcap=30",
    "objective.z_loss=0.0001",
    "mixer=latent_attention",
    "mixer=forgetting_attention position=none",
    "mixer=differential_attention",
]
CONTEXT, HEADS = 4096, 8
CACHES = {"64 numbers a token": (1, 48, 16), "128 numbers a token": (2, 96, 32)}
"""Key and value heads of 32 channels, and the latent and turned channels that take as many bytes."""


def training(words: str, device: torch.device) -> Callable[[], Any]:
    """A training step of the model with these words."""
    torch.manual_seed(0)
    config = zoo.compose(*SIZE, *words.split())
    task = make_task(config)
    model = make_objective(config, task).to(device)
    optimizer = Factory(config["optimizer"])(parameters=parameter_groups(model))
    step: Callable[[], Any] = step_of(model, lambda m, b: m(b)["loss"], task.train_batch(0, 0, device), optimizer)
    return step


def decoding(name: str, words: list[str], batch_size: int, device: torch.device) -> tuple[Callable[[], Any], int]:
    """One token of one layer behind a context of CONTEXT tokens, and the bytes of the cache."""
    mixer = part("mixer", name, f"mixer.heads={HEADS}", *words, dim=256, max_len=2 * CONTEXT).to(device)
    state = mixer.init_state(batch_size, CONTEXT + 1, device, torch.float32)
    size = state_bytes(state)
    with torch.inference_mode():
        for piece_BLD in torch.randn(batch_size, CONTEXT, 256, device=device).split(1024, 1):
            _, state = mixer(piece_BLD, state)
    x_BLD = torch.randn(batch_size, 1, 256, device=device)

    @torch.inference_mode()
    def call() -> None:
        mixer(x_BLD, state)  # the state that comes back is dropped, so each call decodes the same token

    return call, size


def ratios(contenders: dict[str, Callable[[], Any]], rounds: int, cuda: bool) -> dict[str, Any]:
    """Milliseconds of each, and its time over that of the first: the median and its interval over the rounds."""
    seconds = by_turns(contenders, rounds, cuda)
    first = next(iter(seconds.values()))
    timings = {}
    for name, values in seconds.items():
        low, median, high = interval([one / other for one, other in zip(values, first, strict=True)])
        timings[name] = {"ms": round(1e3 * interval(values)[1], 2), "ratio": [round(x, 3) for x in (low, median, high)]}
        print(name, json.dumps(timings[name]), flush=True)
    return timings


def main(rounds: int = 20) -> dict[str, Any]:
    """Print and return milliseconds and ratios of all."""
    cuda = set_up()
    device = torch.device("cuda" if cuda else "cpu")
    steps = {words or "plain": training(words, device) for words in ("", *OPTIONS)}
    results = {"training": ratios(steps, rounds, cuda)}
    for batch_size in (1, 8):
        for name, (groups, latent, turned) in CACHES.items():
            grouped, size = decoding("attention", [f"mixer.kv_heads={groups}"], batch_size, device)
            words = [f"mixer.latent_dim={latent}", f"mixer.turned_dim={turned}"]
            latents, same = decoding("latent_attention", words, batch_size, device)
            assert size == same, (size, same)
            calls = {"grouped queries": grouped, "latents": latents}
            print(f"decoding behind {CONTEXT} tokens, batch {batch_size}, {name}")
            results[f"batch {batch_size}, {name}"] = ratios(calls, 4 * rounds, cuda)
    return results


if __name__ == "__main__":
    main()
