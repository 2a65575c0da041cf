"""A training step of each transformer preset beside Hugging Face's model of the same family and the same weights.

python benchmarks/presets.py

One process, by turns, medians; the same batch, optimizer, clipping and parameters. Both get float32, no dropout and
``scaled_dot_product_attention``. Hugging Face's BERT is given its hidden tokens; ours hides them itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from decoder import step_of
from timing import interleave, set_up
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups

SIZES = {"dim 128, 4 layers": (128, 4, 12, 64), "dim 256, 4 layers": (256, 4, 8, 128)}
Contender = tuple[nn.Module, Callable[[nn.Module, dict[str, Tensor]], Tensor]]


def tokens(batch_size: int, length: int) -> Tensor:
    """Random tokens of a vocabulary of 256."""
    return torch.randint(0, 256, (batch_size, length), generator=torch.Generator().manual_seed(0))


def decoder_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Next tokens by their model."""
    return cross_entropy(model(batch["inputs"]).logits.flatten(0, 1), batch["targets"].flatten())


def ours_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss of one of our objectives."""
    return model(batch)["loss"]


def gpt2(dim: int, layers: int, batch_size: int, length: int) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """GPT-2 with a tied head."""
    config = transformers.GPT2Config(
        vocab_size=256,
        n_positions=length,
        n_embd=dim,
        n_layer=layers,
        n_head=dim // 32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    line = tokens(batch_size, length + 1)
    return transformers.GPT2LMHeadModel(config), decoder_loss, {"inputs": line[:, :-1], "targets": line[:, 1:]}


def llama(dim: int, layers: int, batch_size: int, length: int) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """Llama with two queries to a key."""
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=dim,
        intermediate_size=8 * round(dim / 3),
        num_hidden_layers=layers,
        num_attention_heads=dim // 32,
        num_key_value_heads=dim // 64,
        max_position_embeddings=length,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    line = tokens(batch_size, length + 1)
    return transformers.LlamaForCausalLM(config), decoder_loss, {"inputs": line[:, :-1], "targets": line[:, 1:]}


def bert(dim: int, layers: int, batch_size: int, length: int) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """BERT; theirs gets the 15 % that are asked for as labels."""
    config = transformers.BertConfig(
        vocab_size=256,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=dim // 32,
        intermediate_size=4 * dim,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForMaskedLM(config)
    for parameter in (model.bert.embeddings.token_type_embeddings.weight,):
        parameter.requires_grad_(False)  # ours has it in the positions
    line = tokens(batch_size, length)
    asked = torch.rand(line.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    labels = line.masked_fill(~asked, -100)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["hidden"]).logits
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    return model, loss, {"inputs": line, "hidden": line.masked_fill(asked, 103), "labels": labels}


def vit(dim: int, layers: int, batch_size: int, length: int) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """ViT on images of as many patches as there are tokens elsewhere."""
    side = 4 * round(length**0.5)
    config = transformers.ViTConfig(
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=dim // 32,
        intermediate_size=4 * dim,
        image_size=side,
        patch_size=4,
        num_channels=3,
        num_labels=10,
    )
    images = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % 10
    return (
        transformers.ViTForImageClassification(config),
        lambda m, b: cross_entropy(m(b["inputs"]).logits, b["labels"]),
        {"inputs": images, "labels": labels},
    )


def vaswani(dim: int, layers: int, batch_size: int, length: int) -> tuple[Contender, Contender, dict[str, Tensor]]:
    """The original beside Marian, which is it with fixed sinusoids; ours gets biases in attention, as Marian has."""
    words = [
        "arch=vaswani",
        "task=reverse",
        f"dim={dim}",
        f"layers={layers}",
        f"task.batch_size={batch_size}",
        f"task.length={length}",
        "task.symbols=253",
        "task.test_lengths=[]",
        "mixer.bias=true",
        "cross.bias=true",
    ]
    config = zoo.compose(*words)
    task = make_task(config)
    ours = make_objective(config, task)
    theirs = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=256,
            d_model=dim,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=dim // 32,
            decoder_attention_heads=dim // 32,
            encoder_ffn_dim=4 * dim,
            decoder_ffn_dim=4 * dim,
            activation_function="relu",
            dropout=0.0,
            max_position_embeddings=length + 2,
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=1,
            use_cache=False,
        )
    )

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(
            input_ids=batch["source"],
            attention_mask=batch["source_mask"].long(),
            decoder_input_ids=batch["prefix"],
        ).logits
        return cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    return (ours, ours_loss), (theirs, loss), task.train_batch(0, 0, torch.device("cpu"))


def contenders(name: str, size: tuple[int, int, int, int]) -> tuple[Contender, Contender, dict[str, Tensor]]:
    """Ours and theirs, of the same weights where there is a table for them, and a batch."""
    if name == "vaswani":
        return vaswani(*size)
    theirs, loss, batch = {"gpt2": gpt2, "llama": llama, "bert": bert, "vit": vit}[name](*size)
    return (zoo.from_huggingface(theirs), ours_loss), (theirs, loss), batch


def main(rounds: int = 20) -> dict[str, Any]:
    """Print and return milliseconds a step of both, and their time over ours."""
    cuda = set_up()
    device = torch.device("cuda" if cuda else "cpu")
    optimizer = Factory(zoo.compose()["optimizer"])
    results = {}
    for name in ("gpt2", "llama", "bert", "vaswani", "vit"):
        for label, size in SIZES.items():
            torch.manual_seed(0)
            (ours, ours_of), (theirs, theirs_of), batch = contenders(name, size)
            batch = {key: value.to(device) for key, value in batch.items()}
            ours, theirs = ours.to(device).train(), theirs.to(device).train()
            counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
            assert abs(counts[0] - counts[1]) <= 0.001 * counts[1], (name, counts)
            calls = {
                key: step_of(model, loss, batch, optimizer(parameters=parameter_groups(model)))
                for key, model, loss in (("ours", ours, ours_of), ("theirs", theirs, theirs_of))
            }
            seconds = interleave(calls, rounds, cuda)
            figures = {
                "parameters": counts[0],
                **{f"{key} ms": round(1e3 * value, 2) for key, value in seconds.items()},
            }
            figures["speed ratio"] = round(seconds["theirs"] / seconds["ours"], 3)
            results[f"{name}, {label}"] = figures
            print(name, label, json.dumps(figures), flush=True)
    return results


if __name__ == "__main__":
    main()
