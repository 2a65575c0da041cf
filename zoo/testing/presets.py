"""The laws of presets (``arch=NAME``): what a preset claims is measured.

A preset claims something in its own file, with the words under which it holds::

    claims:
      mup: [mixer.head_dim=16]

A preset that is made of another one takes its claims over; ``mup: null`` takes one back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.errors import ZooError, unknown
from zoo.config.compose import compose
from zoo.config.explain import check
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task, user_error
from zoo.training.parameter_groups import make_optimizer

WIDTHS = (64, 128, 256, 512)
STEPS = 6
SEEDS = tuple(range(6))
LEARNING_RATE = 0.01
"""Large, so that six steps move the weights far enough for what grows with the width to show."""
LARGEST_EXPONENT = 0.1
TEXT = ("task=text", "task.length=32", "task.batch_size=8")


def claims_of(arch: str) -> dict[str, list[str]]:
    """What a preset claims, with the words under which each claim holds.

    Raises:
        ZooError: there is no such preset, or it claims what nothing here can measure.
    """
    claims = check([f"arch={arch}"]).base.tree.get("claims") or {}
    words_by_claim = {str(name): list(words) for name, words in claims.items() if words is not None}
    for name in words_by_claim:
        if name not in CLAIMS:
            raise ZooError(f"arch={arch}: claims: {unknown('claim', name, CLAIMS)}")
    return words_by_claim


def mup_keeps_outputs_as_large_at_every_width(arch: str, words: Sequence[str] = ()) -> str:
    """Under muP, outputs after some steps do not grow with the width: the coordinate check.

    The root mean square of what each layer and the head put out goes like ``width^e``, with ``e`` fitted in logarithms.
    It is broken where the 95 % interval over seeds of some ``e`` lies beyond -0.1 to 0.1: six seeds know ``e`` to 0.1
    or so. Yang et al. 2022, arXiv:2203.03466, appendix D.1.

    Args:
        arch: the preset.
        words: further overrides, such as ``mixer.head_dim=16``.
    """
    exponents_by_name = exponents([f"arch={arch}", *words, "parametrization=mup"])
    least = {name: abs(each.value) - each.half for name, each in exponents_by_name.items()}
    name = max(exponents_by_name, key=lambda each: (least[each] > LARGEST_EXPONENT, abs(exponents_by_name[each].value)))
    said = f"widths {WIDTHS[0]} to {WIDTHS[-1]}: the output of {name} goes like width^{exponents_by_name[name]}"
    assert least[name] <= LARGEST_EXPONENT, f"{said}, expected at most {LARGEST_EXPONENT} either way"
    return said


@dataclass(frozen=True)
class Exponent:
    """How an output grows with the width: the mean over seeds, and half of its 95 % interval (Student's)."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.value - self.half:.2f} to {self.value + self.half:.2f})"


CLAIMS: dict[str, Callable[[str, Sequence[str]], str]] = {"mup": mup_keeps_outputs_as_large_at_every_width}


def exponents(
    words: Sequence[str],
    widths: Sequence[int] = WIDTHS,
    seeds: Sequence[int] = SEEDS,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
) -> dict[str, Exponent]:
    """How the output of the stem, of each layer and of the head grows with the width after some steps on text.

    Of each, the exponent ``e`` in ``rms = c width^e``, by least squares in logarithms over the widths of each seed.

    Args:
        words: overrides of the run; its width is set here.
        widths: values of ``dim``; the smallest is ``base_dim`` too.
        seeds: of initial weights and of batches.
        steps: of the optimizer before the outputs are measured.
        learning_rate: before it is scaled by the width.

    Raises:
        ZooError: there is no such run.
    """
    from scipy.special import stdtrit

    logs = [math.log(width) for width in widths]
    middle = fmean(logs)
    spread = sum((log - middle) ** 2 for log in logs)
    slopes: dict[str, list[float]] = {}
    for seed in seeds:
        sizes = [
            output_sizes([*words, f"dim={width}", f"base_dim={min(widths)}", f"seed={seed}"], steps, learning_rate)
            for width in widths
        ]
        for name in sizes[0]:
            grown = sum((log - middle) * math.log(size[name]) for log, size in zip(logs, sizes, strict=True))
            slopes.setdefault(name, []).append(grown / spread)
    count = len(seeds)
    factor = float(stdtrit(count - 1, 0.975)) / math.sqrt(count) if count > 1 else math.inf
    return {
        name: Exponent(fmean(each), factor * stdev(each) if count > 1 else math.inf) for name, each in slopes.items()
    }


def output_sizes(words: Sequence[str], steps: int = STEPS, learning_rate: float = LEARNING_RATE) -> dict[str, float]:
    """The root mean square of what the stem, each layer and the head put out after some steps, by name."""
    config = compose(*TEXT, *words)
    task = make_task(config)
    objective: Any = make_objective(config, task)
    optimizer: Any = user_error(make_optimizer, Factory(config["optimizer"]), objective)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("learning_rate_scale", 1.0)
    sizes: dict[str, float] = {}
    for name, module in _modules_to_measure(objective):
        module.register_forward_hook(_noting(sizes, name))
    for step in range(steps):
        optimizer.zero_grad()
        objective(task.train_batch(step, config["seed"], torch.device("cpu")))["loss"].backward()
        optimizer.step()
    # what is noted is of the last pass, behind all steps
    objective(task.train_batch(steps, config["seed"], torch.device("cpu")))
    return sizes


def _modules_to_measure(objective: nn.Module) -> list[tuple[str, nn.Module]]:
    """The stem, the head, and every layer: what stands in a list of modules that is not within another."""
    modules = [(name, getattr(objective, name)) for name in ("stem", "head") if hasattr(objective, name)]
    lists = {name: module for name, module in objective.named_modules() if isinstance(module, nn.ModuleList)}
    for name, layers in lists.items():
        if not any(name.startswith(f"{other}.") for other in lists):
            modules += [(f"{name}.{index}", layer) for index, layer in enumerate(layers)]
    return modules


def _noting(sizes: dict[str, float], name: str) -> Callable[..., None]:
    def note(module: nn.Module, given: Any, out: Any) -> None:
        tensor = out[0] if isinstance(out, tuple) else out
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            sizes[name] = float(tensor.detach().float().square().mean().sqrt())

    return note
