"""Parameters in named groups: what decays and what must not."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.contracts import HasNoWeightDecay


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: matrices decay; vectors, scalars, embeddings of positions and whatever a module exempts do not.

    A module exempts its own parameters by ``no_weight_decay()``. Frozen parameters are left out; empty groups too.
    """
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, HasNoWeightDecay)
        for name in module.no_weight_decay()
    }
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    unknown = exempt - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if unknown:
        raise ValueError(f"no_weight_decay() names parameters that do not exist: {', '.join(sorted(unknown))}")
    decay = [parameter for name, parameter in named if parameter.ndim >= 2 and name not in exempt]
    rest = [parameter for name, parameter in named if parameter.ndim < 2 or name in exempt]
    groups: list[dict[str, Any]] = [
        {"name": "decay", "params": decay},
        {"name": "no_decay", "params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
