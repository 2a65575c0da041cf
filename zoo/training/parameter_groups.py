"""Parameters in named groups: what decays and what must not."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.base.contracts import HasLearningRateScales, HasNoWeightDecay


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Named groups: matrices decay; vectors, scalars, embeddings of positions and whatever a module exempts do not.

    A module exempts its own parameters by ``no_weight_decay()``, and scales their learning rate by
    ``learning_rate_scales()``: parameters of another rate are a group of their own, with that factor as
    ``learning_rate_scale``. Frozen parameters are left out.
    """
    exempt: set[str] = set()
    scales: dict[str, float] = {}
    for prefix, module in model.named_modules():
        path = f"{prefix}." if prefix else ""
        if isinstance(module, HasNoWeightDecay):
            exempt |= {path + name for name in module.no_weight_decay()}
        if isinstance(module, HasLearningRateScales):
            scales |= {path + name: scale for name, scale in module.learning_rate_scales().items()}
    existing = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for method, names in (("no_weight_decay", exempt), ("learning_rate_scales", set(scales))):
        if names - existing:
            raise ValueError(f"{method}() names parameters that do not exist: {', '.join(sorted(names - existing))}")
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "no_decay" if parameter.ndim < 2 or name in exempt else "decay"
            scale = scales.get(name, 1.0)
            group = groups.setdefault((kind, scale), {"name": kind, "params": []})
            group["params"].append(parameter)
            if kind == "no_decay":
                group["weight_decay"] = 0.0
            if scale != 1.0:
                group |= {"name": f"{kind}, learning rate x {scale:g}", "learning_rate_scale": scale}
    return [groups[key] for key in sorted(groups)]
