"""Parameters in named groups: what decays and what must not, and what each parameter is for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from zoo.base.contracts import ROLES, HasLearningRateScales, HasNoWeightDecay, HasParameterRoles
from zoo.registry.factory import KIND_OF

_ROLE_BY_KIND = {"stem": "embedding", "position": "position", "backbone": "hidden", "objective": "head"}
"""The role of a matrix by the innermost component of one of these kinds that holds it."""


def make_optimizer(
    factory: Callable[..., Any], model: nn.Module, roles: Mapping[str, Mapping[str, float]] | None = None
) -> torch.optim.Optimizer:
    """The optimizer over the model's groups; by role for one that asks for them.

    Each group's ``lr`` and ``weight_decay`` are what the optimizer was given; the multipliers stand beside them.
    """
    target = getattr(factory, "target", factory)
    if getattr(model, "width_rates", {}) and not getattr(target, "entrywise", False):
        raise ValueError(
            "parametrization=mup: its learning rates suit only optimizers whose steps do not depend on the gradient's "
            "size, such as the default one; leave optimizer out, or add parametrization=standard"
        )
    asks = inspect.signature(target).parameters
    name = "parameters_by_role" if "parameters_by_role" in asks else "parameters"
    groups = parameter_groups(model, roles, by_role=name == "parameters_by_role")
    optimizer: torch.optim.Optimizer = factory(**{name: groups})
    return optimizer


def parameter_groups(
    model: nn.Module, roles: Mapping[str, Mapping[str, float]] | None = None, by_role: bool = False
) -> list[dict[str, Any]]:
    """Named groups: matrices decay; vectors, scalars, embeddings of positions and whatever a module exempts do not.

    A module exempts its own parameters by ``no_weight_decay()``, and scales their learning rate by
    ``learning_rate_scales()``: parameters of another rate are a group of their own, with that factor as
    ``learning_rate_scale``, and of another decay with ``weight_decay_scale``. Frozen parameters are left out.

    Args:
        model: the objective with all that is in it.
        roles: the run's multipliers of learning rate and weight decay, by role.
        by_role: whether each role has groups of its own, with the role as ``role``: for an optimizer that treats them
            unlike.
    """
    exempt = _exempt(model)
    scales = {
        path + name: scale
        for path, module in _with_paths(model)
        if isinstance(module, HasLearningRateScales)
        for name, scale in module.learning_rate_scales().items()
    }
    existing = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for method, names in (("no_weight_decay", exempt), ("learning_rate_scales", set(scales))):
        if names - existing:
            raise ValueError(f"{method}() names parameters that do not exist: {', '.join(sorted(names - existing))}")
    role_of, by_width = parameter_roles(model), getattr(model, "width_rates", {})
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "no_decay" if parameter.ndim < 2 or name in exempt else "decay"
        role, factors = role_of[name], (roles or {}).get(role_of[name], {})
        width = by_width.get(name, 1.0)
        rate = scales.get(name, 1.0) * factors.get("learning_rate", 1.0) * width
        decay = factors.get("weight_decay", 1.0) / width if kind == "decay" else 1.0
        label = f"{kind}, {role}" if by_role else kind
        group = groups.setdefault((label, rate, decay), {"name": label, "params": []})
        group["params"].append(parameter)
        if by_role:
            group["role"] = role
        if kind == "no_decay":
            group["weight_decay"] = 0.0
        if rate != 1.0:
            group |= {"name": f"{label}, learning rate x {rate:g}", "learning_rate_scale": rate}
        if decay != 1.0:
            group |= {"name": f"{group['name']}, weight decay x {decay:g}", "weight_decay_scale": decay}
    return [groups[key] for key in sorted(groups)]


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """What each parameter is for, one of :data:`zoo.base.contracts.ROLES`, by its name in the model.

    A matrix of a stem is an embedding, of a backbone hidden (stacked experts and low-bit weights included), of the
    objective itself a head; all of a position is that. What has fewer than two dimensions is a vector. A module says
    where this is wrong, by ``parameter_roles()``.

    Raises:
        ValueError: a module says a role that there is not, or names a parameter that it does not have.
    """
    role_by_path: dict[str, str] = {}
    said: dict[str, str] = {}
    for path, module in _with_paths(model):
        prefix = path.removesuffix(".")
        around = role_by_path[prefix.rpartition(".")[0]] if prefix else "hidden"
        role_by_path[prefix] = _ROLE_BY_KIND.get(getattr(module, KIND_OF, ""), around)
        if isinstance(module, HasParameterRoles):
            said |= {path + name: role for name, role in module.parameter_roles().items()}
    roles = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        inherited = role_by_path[name.rpartition(".")[0]]
        vector = inherited != "position" and parameter.ndim < 2
        roles[name] = said.pop(name, "vector" if vector else inherited)
    if said:
        raise ValueError(f"parameter_roles() names parameters that do not exist: {', '.join(sorted(said))}")
    wrong = sorted(set(roles.values()) - set(ROLES))
    if wrong:
        raise ValueError(f"parameter_roles() says {', '.join(wrong)}; expected {', '.join(ROLES)}")
    return roles


def rescale_initial_(model: nn.Module, roles: Mapping[str, Mapping[str, float]]) -> None:
    """Multiply the weights of each role by the run's factor of their initial size, each parameter once."""
    factors = {role: of["initial_scale"] for role, of in roles.items() if of["initial_scale"] != 1.0}
    role_of = parameter_roles(model) if factors else {}
    with torch.no_grad():
        for name, parameter in model.named_parameters() if factors else ():
            if role_of[name] in factors:
                parameter.mul_(factors[role_of[name]])


def _exempt(model: nn.Module) -> set[str]:
    """The names of all parameters that a module exempts from weight decay."""
    return {
        path + name
        for path, module in _with_paths(model)
        if isinstance(module, HasNoWeightDecay)
        for name in module.no_weight_decay()
    }


def _with_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module, with what stands in front of the names of its parameters."""
    for prefix, module in model.named_modules():
        yield f"{prefix}." if prefix else "", module
