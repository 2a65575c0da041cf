"""On a GPU: our state-space models on each backend against mamba-ssm's own model of equal size.

    python benchmarks/fused.py

Forward and backward of a whole language model in bfloat16, tokens per second, by turns. Bars: the fused backend within
5 % of mamba-ssm's own model; our compiled PyTorch form of Mamba-2 within a factor of 2 of the fused one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from timing import interleave, set_up
from torch.nn import functional as F

import zoo
from zoo.assembly import make_objective, make_task

DIM, LAYERS, BATCH, LENGTH, VOCABULARY = 768, 8, 8, 2048, 256


def step(loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    """Forward and backward on one batch of tokens."""
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), device="cuda")

    def call() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()

    return call


def ours(arch: str, backend: str, compiled: bool) -> Callable[[], None]:
    """The preset at this size."""
    config = zoo.compose(
        f"arch={arch}",
        "task=text",
        f"dim={DIM}",
        f"layers={LAYERS}",
        f"task.length={LENGTH}",
        f"mixer.backend={backend}",
    )
    model = make_objective(config, make_task(config)).cuda()
    if compiled:
        model.compile()
    return step(lambda inputs, targets: model({"inputs": inputs, "targets": targets})["loss"])


def theirs(layer: str) -> Callable[[], None]:
    """mamba-ssm's language model with as many layers of the same width."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    cfg: dict[str, Any] = {"layer": layer, **({"d_state": 64} if layer == "Mamba2" else {})}
    config = MambaConfig(
        d_model=DIM, n_layer=LAYERS, vocab_size=VOCABULARY, ssm_cfg=cfg, pad_vocab_size_multiple=1, tie_embeddings=False
    )
    model = MambaLMHeadModel(config, device="cuda")
    return step(lambda inputs, targets: F.cross_entropy(model(inputs).logits.flatten(0, 1).float(), targets.flatten()))


def main(rounds: int = 20) -> dict[str, Any]:
    """Print and return tokens per second of each contender that runs here, and why others do not."""
    set_up()
    results: dict[str, Any] = {}
    for arch, layer in (("mamba", "Mamba1"), ("mamba2", "Mamba2")):
        makers: dict[str, Callable[[], Callable[[], None]]] = {
            f"{arch} fused": lambda arch=arch: ours(arch, "mamba_ssm", False),
            **({"mamba Triton": lambda: ours("mamba", "triton", False)} if arch == "mamba" else {}),
            f"{arch} PyTorch": lambda arch=arch: ours(arch, "torch", False),
            f"{arch} PyTorch, compiled": lambda arch=arch: ours(arch, "torch", True),
            f"mamba-ssm's {layer}": lambda layer=layer: theirs(layer),
        }
        contenders = {}
        for name, make in makers.items():
            try:
                contenders[name] = make()
                contenders[name]()
            except Exception as error:
                contenders.pop(name, None)
                results[name] = f"does not run here: {type(error).__name__}: {str(error)[:200]}"
        for name, seconds in interleave(contenders, rounds, True).items():
            results[name] = round(BATCH * LENGTH / seconds)
    print(json.dumps(results, indent=1), flush=True)
    return results


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here")
    main()
