"""Word problems of finite groups: after each element, give the product of all so far."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError, unknown
from zoo.nn import held
from zoo.registry.registry import register
from zoo.tasks._generated import Generated
from zoo.tasks._metrics import Ratios, running_accuracy

Permutation = tuple[int, ...]
GROUPS = {"S3": (3, False), "S4": (4, False), "S5": (5, False), "A4": (4, True), "A5": (5, True)}
"""Symmetric and alternating groups: how many things they permute, and whether only by even permutations."""


def elements(group: str) -> list[Permutation]:
    """Every element as a permutation, the identity first.

    Raises:
        ZooError: there is no such group.
    """
    if group.startswith("Z") and group[1:].isdecimal() and 2 <= int(group[1:]) <= 120:
        n = int(group[1:])
        return [tuple((i + shift) % n for i in range(n)) for shift in range(n)]
    if group not in GROUPS:
        raise ZooError("task.group: " + unknown("group", group, [*GROUPS, "Z2", "Z60"]))
    n, even = GROUPS[group]
    return [p for p in itertools.permutations(range(n)) if not even or _is_even(p)]


def _is_even(permutation: Permutation) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0


@lru_cache(maxsize=8)
def table(group: str) -> Tensor:
    """(N, N): the number of the product ``a b``, which applies ``a`` first and then ``b``."""
    permutations = elements(group)
    number = {permutation: index for index, permutation in enumerate(permutations)}
    return torch.tensor([[number[tuple(b[i] for i in a)] for b in permutations] for a in permutations])


@register("task", "word_problem")
class WordProblem(Generated):
    """After each element of a group, give the product of all elements so far: state tracking in its purest form.

    ``y_t = x_1 x_2 ... x_t`` in the group. Merrill et al. 2024, arXiv:2404.08819: for S5 and A5, which are not
    solvable, a recurrent layer tracks the state at any length, and attention or a linear state space of fixed depth
    cannot. ``last_accuracy`` is the accuracy at the last position only.

    Args:
        group: S3, S4, S5, A4, A5, or Z2 to Z120 (Z2 is parity).
        length: elements per training sequence.
        generators: draw tokens only from the identity and a smallest set of generators, instead of from all elements.
        batch_size: number of sequences per training batch.
        test_lengths: further lengths to test, under ``test/LENGTH``.
        test_size: number of sequences in validation and in each test.
    """

    stream = "word_problem"
    chained = True
    metric, solved = "accuracy", 0.99

    def __init__(
        self,
        group: str = "S5",
        length: int = 16,
        generators: bool = False,
        batch_size: int = 64,
        test_lengths: list[int] = [32, 64],
        test_size: int = 500,
    ) -> None:
        self._set_sizes(length, test_lengths, batch_size, test_size)
        self.group = group
        self.table_NN = table(group)
        whole = list(range(len(self.table_NN)))
        self.tokens_V = torch.tensor([0, *_generators(self.table_NN)] if generators else whole)
        self._on = held(self.tokens_V, self.table_NN)

    def facts(self) -> dict[str, Any]:
        """Elements in, elements out."""
        longest = max([self.length, *self.test_lengths])
        return {"vocab_size": len(self.tokens_V), "classes": len(self.table_NN), "max_len": longest}

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """Accuracy over positions, over whole sequences, and at the last position."""
        return running_accuracy(outputs, batch["targets"])

    def chance(self) -> dict[str, float]:
        """Guessing among all elements, and knowing the first product alone."""
        guess = 1 / len(self.table_NN)
        return {"guessing": guess, "the first token alone": (1 + (self.length - 1) * guess) / self.length}

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        tokens_V, table_NN = self._on(source.device)
        inputs_BL = torch.randint(0, len(tokens_V), (batch_size, length), generator=source, device=source.device)
        products = [tokens_V[inputs_BL[:, 0]]]
        for token_B in tokens_V[inputs_BL[:, 1:]].unbind(1):
            products.append(table_NN[products[-1], token_B])
        return {"inputs": inputs_BL, "targets": torch.stack(products, 1)}


def _generators(table_NN: Tensor) -> list[int]:
    """A smallest set of elements, the first in order, whose products are the whole group."""
    product = table_NN.tolist()
    for count in itertools.count(1):
        for chosen in itertools.combinations(range(1, len(product)), count):
            if len(_closure(chosen, product)) == len(product):
                return list(chosen)
    raise AssertionError("a finite group is generated by its elements")


def _closure(chosen: tuple[int, ...], product: list[list[int]]) -> set[int]:
    closure, border = set(chosen), set(chosen)
    while border:
        border = {product[a][b] for a in border for b in chosen} - closure
        closure |= border
    return closure
