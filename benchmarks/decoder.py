"""Training our decoder against Hugging Face transformers' Llama of equal size. Bar: at least as fast.

    python benchmarks/decoder.py

One process, one thread, steps by turns, medians of processor time. Both models have the same shape, data and optimizer.
"""

from __future__ import annotations

import json
from typing import Any

import torch
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


def main(rounds: int = 30) -> dict[str, Any]:
    """Print and return milliseconds a step of both, and tokens per second of ours over theirs."""
    cuda = set_up()
    device = torch.device("cuda" if cuda else "cpu")
    results = {}
    for name, (dim, layers, batch_size, length) in SETTINGS.items():
        config = zoo.compose(
            "arch=transformer",
            "task=text",
            f"dim={dim}",
            f"layers={layers}",
            f"task.batch_size={batch_size}",
            f"task.length={length}",
        )
        task = make_task(config)
        ours = make_objective(config, task).to(device)
        batch = task.train_batch(0, 0, device)
        heads = ours.backbone.blocks[0].mixer.heads
        theirs = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=256,
                hidden_size=dim,
                intermediate_size=ours.backbone.blocks[0].ffn.down.in_features,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=length,
                tie_word_embeddings=False,
                use_cache=False,
            )
        ).to(device)
        sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
        assert sizes[0] == sizes[1], sizes
        seconds = interleave(
            {
                "ours": step_of(
                    ours,
                    lambda m, b: m(b)["loss"],
                    batch,
                    Factory(config["optimizer"])(parameters=parameter_groups(ours)),
                ),
                "theirs": step_of(
                    theirs,
                    lambda m, b: torch.nn.functional.cross_entropy(
                        m(b["inputs"]).logits.flatten(0, 1), b["targets"].flatten()
                    ),
                    batch,
                    Factory(config["optimizer"])(parameters=parameter_groups(theirs)),
                ),
            },
            rounds,
            cuda,
        )
        speed = {f"{key} ms": round(value * 1e3, 2) for key, value in seconds.items()}
        results[name] = {"parameters": sizes[0], **speed, "speed ratio": round(seconds["theirs"] / seconds["ours"], 3)}
        print(name, json.dumps(results[name]), flush=True)
    return results


if __name__ == "__main__":
    main()
