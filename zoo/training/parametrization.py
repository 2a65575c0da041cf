"""Rates and initial scales that follow the width, so that a small model's learning rate suits a large one (muP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.training.parameter_groups import parameter_roles


@torch.no_grad()
def scale_by_width_(model: Any, base: nn.Module) -> None:
    """Give the model the maximal update parametrization, in which it equals the standard one at the base's width.

    For a matrix whose inputs are ``m`` times as many as the base's, with optimizers of entrywise updates such as Adam:

    ============================================ ================== =============
    matrix                                       initial deviation  learning rate
    ============================================ ================== =============
    inputs alone grow with the width (a head)    base's / m         base's / m
    inputs and outputs grow (hidden)             base's / sqrt(m)   base's / m
    outputs alone grow (an embedding), a vector  base's             base's
    ============================================ ================== =============

    Yang et al. 2022, arXiv:2203.03466, table 8, with the head's multiplier in its weight and rate. Weight decay times
    rate stays as it is. Which dimensions grow is read off the shapes of both models. Heads of attention should grow in
    number and not in width (``mixer.head_dim``), for scores are divided by the root of their width.

    The initial weights are rescaled in place; ``model.width_rates`` then has the factor of each rate that is not 1.

    Args:
        model: the objective.
        base: the same objective, of the base's width.

    Raises:
        ValueError: the output projection is the token embedding, which would need both rules.
    """
    roles, small = parameter_roles(model), dict(base.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    rates = {}
    for name, parameter in model.named_parameters():
        grown, input_ratio = _growth(parameter, small[name])
        if parameter.ndim < 2 or not grown:
            continue
        if len({roles[other] == "head" for other in names[id(parameter)]}) > 1:
            raise ValueError("parametrization=mup: expected an output projection of its own; add objective.tied=false")
        read = roles[name] in ("embedding", "position", "state", "vector") or input_ratio == 1
        if not read:
            rates[name] = 1 / input_ratio
        if roles[name] not in ("state", "vector") and not parameter.is_meta:
            wanted = 1.0 if read else input_ratio ** (-0.5 if grown > 1 else -1.0)
            ours, theirs = (float(each.float().std()) for each in (parameter, small[name]))
            if ours and theirs:
                parameter.mul_(wanted * theirs / ours)
    model.width_rates = rates


def _growth(ours: Tensor, theirs: Tensor) -> tuple[int, float]:
    """How many dimensions are not the base's, and the ratio of the last, which counts the inputs of a matrix."""
    ratios = [a / b for a, b in zip(ours.shape, theirs.shape, strict=True)]
    return sum(ratio != 1 for ratio in ratios), ratios[-1] if ratios else 1.0
