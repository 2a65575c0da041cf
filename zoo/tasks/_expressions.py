"""Nested operations on digits, many expressions at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
PAD, END, FIRST = 0, 15, 11
"""The 16 tokens: padding 0, the digits from 1 on, the operators from 11 on, and the closing bracket 15."""
NESTING = 0.25
"""Share of arguments that are operations themselves, as published."""


class Level(NamedTuple):
    """The nodes of all trees at one depth, children in the order of their parents."""

    parents: Integers
    """The index of each node's parent in the level above; for a root, its own tree."""
    operators: Integers
    """The operator, 0 to 3, or -1 for a digit."""
    digits: Integers


class Trees(NamedTuple):
    """Expressions level by level, roots first, with the size and value of each node."""

    levels: list[Level]
    sizes: list[Integers]
    """Number of tokens of each node with everything inside it."""
    results: list[Integers]

    @property
    def lengths(self) -> Integers:
        """Tokens of each tree."""
        return self.sizes[0]

    @property
    def values(self) -> Integers:
        """The value of each tree."""
        return self.results[0]

    def tokens(self, wanted: NDArray[np.bool_], width: int) -> Integers:
        """The tokens of the wanted trees, (trees, width), padded behind."""
        row = np.where(wanted, np.cumsum(wanted) - 1, -1)
        table = np.full((int(wanted.sum()), width), PAD, dtype=np.int64)
        start = np.zeros_like(row)
        for depth, (level, size) in enumerate(zip(self.levels, self.sizes, strict=True)):
            if depth:  # a child starts behind its parent's operator and its elder siblings
                before = np.cumsum(size) - size
                first = np.searchsorted(level.parents, level.parents)
                row, start = row[level.parents], start[level.parents] + 1 + before - before[first]
            kept, operation = row >= 0, level.operators >= 0
            table[row[kept], start[kept]] = np.where(operation, FIRST + level.operators, 1 + level.digits)[kept]
            closed = kept & operation
            table[row[closed], start[closed] + size[closed] - 1] = END
        return table


def grow(count: int, depth: int, arguments: int, most: int, source: np.random.Generator) -> Trees:
    """Trees whose root is an operation. Those that are sure to exceed ``most`` tokens stop growing."""
    levels, trees = [], np.arange(count)
    parents, bulk = np.arange(count), np.zeros(count, dtype=np.int64)
    for level in range(depth + 1):
        # each node of this level: an operation or a digit; the last level is digits only
        nests = source.random(len(parents)) < (NESTING if level else 1.0)
        if level == depth:
            nests[:] = False
        nests &= bulk[trees] < most
        operators = np.where(nests, source.integers(0, len(OPERATORS), len(parents)), -1)
        levels.append(Level(parents, operators, source.integers(0, 10, len(parents))))
        # operations get their arguments, which are the next level
        many = np.where(nests, source.integers(2, arguments + 1, len(parents)), 0)
        parents = np.repeat(np.arange(len(many)), many)
        trees = trees[parents]
        bulk += np.bincount(trees, minlength=count)
        if not len(parents):
            break
    # sizes and values, from the leaves up; trees that stopped growing are too long, so nobody asks for them
    sizes: list[Integers] = []
    results: list[Integers] = []
    for level_ in reversed(levels):
        leaf = level_.operators < 0
        size, value = np.ones(len(leaf), dtype=np.int64), level_.digits
        if sizes:
            below = levels[len(levels) - len(sizes)]
            size = np.where(leaf, 1, 2 + np.bincount(below.parents, sizes[-1], len(leaf)).astype(np.int64))
            value = np.where(leaf, value, _apply(level_.operators, below.parents, results[-1]))
        sizes.append(size)
        results.append(value)
    return Trees(levels, sizes[::-1], results[::-1])


def _apply(operators: Integers, parents: Integers, values: Integers) -> Integers:
    """The value of each operation, given its arguments' values, which stand together."""
    # sort the arguments of each operation: then smallest, largest and median stand at known indices
    many = np.bincount(parents, minlength=len(operators))
    first = np.cumsum(many) - many
    ordered = values[np.lexsort((values, parents))]
    low, high = first, first + np.maximum(many, 1) - 1
    safe = np.append(ordered, 0)  # what has no arguments reads something, and is not used
    low, high, middle = (np.minimum(i, len(ordered)) for i in (low, high, first + (many - 1) // 2))
    upper = np.minimum(first + many // 2, len(ordered))
    sums = np.bincount(parents, values, len(operators)).astype(np.int64) % 10
    median = (safe[middle] + safe[upper]) // 2
    result: Integers = np.choose(np.maximum(operators, 0), [safe[low], safe[high], median, sums])
    return result
