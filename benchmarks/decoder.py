"""Training our decoder against Hugging Face transformers' Llama of equal size, and our GPT-2 against a plain one.

    python benchmarks/decoder.py

Bar: at least as fast. nanoGPT has no package: the plain GPT-2 is a loop of ours over the same model, which ties its
head to the embedding as well.

One process, one thread, steps by turns, medians of processor time. Both models have the same shape, data and optimizer.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from plain_gpt import PlainGPT
from timing import interleave, set_up
from transformers import LlamaConfig, LlamaForCausalLM

import zoo
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups

SETTINGS = {
    "d=64, 2 layers, 64 x 64 tokens": (64, 2, 64, 64),
    "d=128, 4 layers, 12 x 64 tokens (nanoGPT's CPU size)": (128, 4, 12, 64),
    "d=384, 6 layers, 4 x 256 tokens": (384, 6, 4, 256),
}
PLAIN = {"a plain GPT-2, d=128, 4 layers, 12 x 256 tokens": (128, 4, 12, 256)}


def step_of(
    model: torch.nn.Module, loss_of: Any, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> Any:
    """One training step on this batch."""

    def step() -> None:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


Contender = tuple[torch.nn.Module, Any]
Contenders = tuple[Contender, Contender, dict[str, Any], dict[str, torch.Tensor]]


def ours(arch: str, size: tuple[int, int, int, int], device: torch.device, *words: str) -> tuple[Any, Any, Any]:
    """Our objective at this size, its config, and a batch."""
    dim, layers, batch_size, length = size
    config = zoo.compose(
        f"arch={arch}",
        "task=text",
        f"dim={dim}",
        f"layers={layers}",
        f"task.batch_size={batch_size}",
        f"task.length={length}",
        *words,
    )
    task = make_task(config)
    return make_objective(config, task).to(device), config, task.train_batch(0, 0, device)


def llamas(size: tuple[int, int, int, int], device: torch.device) -> Contenders:
    """Ours and Hugging Face's Llama."""
    model, config, batch = ours("transformer", size, device)
    dim, layers, _, length = size
    heads = model.backbone.blocks[0].mixer.heads
    settings = LlamaConfig(
        vocab_size=256,
        hidden_size=dim,
        intermediate_size=model.backbone.blocks[0].ffn.down.in_features,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        use_cache=False,
    )

    def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            model(batch["inputs"]).logits.flatten(0, 1), batch["targets"].flatten()
        )

    return (model, lambda m, b: m(b)["loss"]), (LlamaForCausalLM(settings).to(device), loss), config, batch


def gpts(size: tuple[int, int, int, int], device: torch.device) -> Contenders:
    """Ours and a plain GPT-2."""
    model, config, batch = ours("gpt2", size, device)
    dim, layers, _, length = size
    plain = PlainGPT(256, dim, layers, model.backbone.blocks[0].mixer.heads, length).to(device)
    return (model, lambda m, b: m(b)["loss"]), (plain, lambda m, b: m(b["inputs"], b["targets"])), config, batch


def beside(
    mine: Contender,
    other: Contender,
    config: dict[str, Any],
    batch: dict[str, torch.Tensor],
    rounds: int,
    cuda: bool,
) -> dict[str, Any]:
    """Milliseconds a step of both, by turns, and their time over ours."""
    sizes = [sum(p.numel() for p in model.parameters()) for model, _ in (mine, other)]
    assert sizes[0] == sizes[1], sizes
    optimizer = Factory(config["optimizer"])
    calls = {
        name: step_of(model, loss, batch, optimizer(parameters=parameter_groups(model)))
        for name, (model, loss) in (("ours", mine), ("theirs", other))
    }
    seconds = interleave(calls, rounds, cuda)
    speed = {f"{key} ms": round(value * 1e3, 2) for key, value in seconds.items()}
    return {"parameters": sizes[0], **speed, "speed ratio": round(seconds["theirs"] / seconds["ours"], 3)}


def main(rounds: int = 30) -> dict[str, Any]:
    """Print and return milliseconds a step of both, and their time over ours, for each setting."""
    cuda = set_up()
    device = torch.device("cuda" if cuda else "cpu")
    results = {}
    for name, size in SETTINGS.items():
        results[name] = beside(*llamas(size, device), rounds, cuda)
        print(name, json.dumps(results[name]), flush=True)
    for name, size in PLAIN.items():
        results[name] = beside(*gpts(size, device), rounds, cuda)
        print(name, json.dumps(results[name]), flush=True)
    return results


if __name__ == "__main__":
    main()
