"""Which tokens go where, in modules that send each token to one of several parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import HasChoices, Task

MOST_TOKENS, MOST_MODULES = 32, 4
"""A result covers at most this many kinds of tokens, the most frequent, and this many modules, the first."""


@torch.no_grad()
def specialisation(objective: nn.Module, task: Task, device: torch.device) -> dict[str, Any]:
    """For each module: how much a token's identity says about its part, and the share of each part by token.

    ``information`` is the mutual information of token and part over the entropy of the part: 0 if all kinds of tokens
    are spread alike, 1 if the kind decides. Measured on the first test batch. Empty if no module chooses, or if inputs
    are not tokens.
    """
    modules = [(name, m) for name, m in objective.named_modules() if isinstance(m, HasChoices)][:MOST_MODULES]
    if not modules:
        return {}
    batch = task.held_out("test")[0]
    tokens_BL = batch.get("inputs")
    if tokens_BL is None or tokens_BL.is_floating_point() or tokens_BL.ndim != 2:
        return {}
    objective.eval()  # not the compiled form, which may be for another device
    objective.forward({key: value.to(device) for key, value in batch.items()})
    tables = {}
    for name, module in modules:
        part_N = module.choices()
        if part_N is not None and part_N.numel() == tokens_BL.numel():
            part_N = part_N.cpu()
            real_N = part_N >= 0  # without padding
            tables[name] = _table(tokens_BL.flatten()[real_N], part_N[real_N], module.parts(), task)
    return tables


def _table(token_N: Tensor, part_N: Tensor, parts: int, task: Task) -> dict[str, Any]:
    kinds, inverse_N = token_N.unique(return_inverse=True)
    counts_TP = torch.zeros(len(kinds), parts, dtype=torch.float64)
    counts_TP.view(-1).scatter_add_(0, inverse_N * parts + part_N, torch.ones(len(token_N), dtype=torch.float64))
    share_TP = counts_TP / counts_TP.sum()
    entropies = [torch.special.entr(p).sum() for p in (share_TP.sum(0), share_TP.sum(1), share_TP)]
    # a finite sample overstates the information by (T - 1)(P - 1) / 2N nats (Miller and Madow 1955)
    bias = (len(kinds) - 1) * (parts - 1) / (2 * len(token_N))
    information = ((entropies[0] + entropies[1] - entropies[2] - bias) / entropies[0].clamp(min=1e-12)).clamp(0, 1)
    often = counts_TP.sum(1).argsort(descending=True, stable=True)[:MOST_TOKENS].tolist()
    rows = {
        task.token_name(int(kinds[t])): [round(v, 3) for v in (counts_TP[t] / counts_TP[t].sum()).tolist()]
        for t in often
    }
    return {"information": round(information.item(), 4), "tokens": rows}
