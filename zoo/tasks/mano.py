"""Mano: modular arithmetic of nested operations, worked out without writing a step."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.registry.registry import register
from zoo.tasks._generated import Problems, TokenAnswers, of_rung

OPERATORS = ("+", "-", "*")
RUNGS: dict[str, tuple[int, int]] = {  # length, modulus
    "small": (3, 7),
    "medium": (6, 11),
    "large": (10, 23),
}


@register("task", "mano")
class Mano(TokenAnswers, Problems):
    """Give the value of an expression such as ``- * 3 5 4``, modulo a number, at the ``=`` behind it.

    Allen-Zhu 2025, "Physics of language models: part 4.1", arXiv:2512.17351, task Mano. An expression in prefix form
    has 1 to ``length`` operations, each number of them equally often, and one number more than operations. No step is
    written, so the operations must be nested within the layers, and the tables of ``+``, ``-`` and ``*`` must be known
    by heart. Here every shape of the tree is equally likely for its number of operations. A test beyond the training
    length asks for longer expressions only. A hash of the expression decides its split, so none is trained on and
    tested.

    Args:
        rung: a set of defaults for ``length`` and ``modulus``, from ``small`` to ``large``.
        length: most operations in training. By default the rung's.
        modulus: of the arithmetic; numbers are 0 to one less. By default the rung's.
        batch_size: number of expressions per training batch.
        test_lengths: further numbers of operations to test, under ``test/LENGTH``. By default twice the training
            length.
        test_size: number of expressions in validation and in each test, fewer where there are no more.
    """

    stream = "mano"

    def __init__(
        self,
        rung: Literal["small", "medium", "large"] = "small",
        length: int | None = None,
        modulus: int | None = None,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.modulus = of_rung(RUNGS[rung], length, modulus)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[2 * length])
        if self.modulus < 2:
            raise ZooError(f"task.modulus={self.modulus}: expected at least 2")

    def facts(self) -> dict[str, Any]:
        """Numbers, operators, ``=`` and padding in; numbers out."""
        longest = 2 * self._longest() + 2
        return {"vocab_size": self.modulus + len(OPERATORS) + 2, "classes": self.modulus, "max_len": longest}

    def chance(self) -> dict[str, float]:
        """The commonest value, and the commonest for the first operator, of 20,000 expressions."""
        source = torch.Generator().manual_seed(0)
        problems_NW = self._draw((20_000,), 1, self.length, source)
        value_N, counts_OM = self._value(problems_NW), []
        for operator in range(len(OPERATORS)):
            mine_N = problems_NW[:, 1] == self.modulus + operator
            counts_OM.append(F.one_hot(value_N[mine_N], self.modulus).sum(0))
        by_first = sum(float(counts_M.max()) for counts_M in counts_OM) / len(value_N)
        commonest = float(torch.stack(counts_OM).sum(0).max()) / len(value_N)
        return {"the commonest value": commonest, "the commonest for the first operator": by_first}

    def token_name(self, token: int) -> str:
        """A number, an operator, ``=`` or padding."""
        return str(token) if token < self.modulus else (*OPERATORS, "=", "pad")[token - self.modulus]

    def encode(self, text: str) -> list[int]:
        """An expression in prefix form with spaces between its parts; ``=`` is put behind it.

        Raises:
            ValueError: a part is no number below the modulus and no operator.
        """
        known = {self.token_name(token): token for token in range(self.modulus + len(OPERATORS))}
        words = text.removesuffix("=").split()
        if not all(word in known for word in words):
            raise ValueError(
                f"{text!r}: expected numbers below {self.modulus} and {', '.join(OPERATORS)}, with spaces between them"
            )
        return [*(known[word] for word in words), self.modulus + len(OPERATORS)]

    def _draw(self, shape: tuple[int, ...], low: int, high: int, source: torch.Generator) -> Tensor:
        """The number of operations, then the expression with padding behind, (..., 2 + 2 * high)."""
        device, count = source.device, 1
        for size in shape:
            count *= size
        many_N1 = torch.randint(low, high + 1, (count, 1), generator=source, device=device)
        # operators and numbers in any order: of all turns of such a row exactly one is an expression, the one that
        # begins behind the first position where numbers are most ahead of operators (Dvoretzky and Motzkin's cycle
        # lemma)
        position_W = torch.arange(2 * high + 1, device=device)
        there_NW = position_W <= 2 * many_N1
        order_NW = torch.rand(count, 2 * high + 1, generator=source, device=device).where(there_NW, 2.0).argsort(1)
        operator_NW = order_NW < many_N1
        ahead_NW = torch.where(operator_NW, 1, -1).where(there_NW, 0).cumsum(1)
        begin_N1 = ahead_NW.where(there_NW, 2 * high).argmin(1, keepdim=True) + 1
        operator_NW = operator_NW.gather(1, (position_W + begin_N1) % (2 * many_N1 + 1))
        # which operator and which number
        number_NW = torch.randint(0, self.modulus, operator_NW.shape, generator=source, device=device)
        which_NW = torch.randint(0, len(OPERATORS), operator_NW.shape, generator=source, device=device)
        tokens_NW = torch.where(operator_NW, self.modulus + which_NW, number_NW)
        tokens_NW = tokens_NW.where(there_NW, self.modulus + len(OPERATORS) + 1)
        return torch.cat([many_N1, tokens_NW], 1).view(*shape, -1)

    def _identity(self, problems: Tensor) -> tuple[Tensor, Tensor | None]:
        """The expression without its padding."""
        return problems[..., 1:], 2 * problems[..., 0] + 1

    def _pose(self, problems_BW: Tensor, length: int) -> Batch:
        ends_B1 = 2 * problems_BW[:, :1] + 1
        inputs_BL = F.pad(problems_BW[:, 1:], (0, 1), value=self.modulus + len(OPERATORS) + 1)
        inputs_BL = inputs_BL.scatter(1, ends_B1, self.modulus + len(OPERATORS))
        return {"inputs": inputs_BL, "targets": self._value(problems_BW)[:, None], "positions": ends_B1}

    def _value(self, problems_BW: Tensor) -> Tensor:
        """The value of each expression, read from its end with a stack, (B,)."""
        stack_BT = torch.zeros_like(problems_BW)
        top_B1 = torch.full_like(problems_BW[:, :1], -1)
        for token_B in problems_BW[:, 1:].flip(1).unbind(1):
            token_B1 = token_B[:, None]
            pads_B1 = token_B1 > self.modulus + len(OPERATORS)
            number_B1 = token_B1 < self.modulus
            # an operator takes the two uppermost values and puts one
            first_B1 = stack_BT.gather(1, top_B1.clamp(min=0))
            second_B1 = stack_BT.gather(1, (top_B1 - 1).clamp(min=0))
            results_BO = torch.cat([first_B1 + second_B1, first_B1 - second_B1, first_B1 * second_B1], 1)
            which_B1 = (token_B1 - self.modulus).clamp(0, len(OPERATORS) - 1)
            put_B1 = torch.where(number_B1, token_B1, results_BO.gather(1, which_B1) % self.modulus)
            top_B1 = top_B1 + torch.where(number_B1, 1, -1).where(~pads_B1, 0)
            at_B1 = top_B1.clamp(min=0)
            stack_BT = stack_BT.scatter(1, at_B1, put_B1.where(~pads_B1, stack_BT.gather(1, at_B1)))
        return stack_BT[:, 0]
