"""How mistakes add up along an answer of several tokens: counts from one evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Tally:
    """Counts over the answers of a test, where each token is predicted given the right ones before it.

    Greedy decoding of an answer that depends only on its question follows the right tokens until its first mistake. So
    an answer is completely right exactly if every token is right given those before it, and nothing needs to be
    decoded.
    """

    def __init__(self) -> None:
        self.lengths: dict[int, list[int]] = {}
        self.squares = 0.0
        self.asked_T = self.wrong_T = torch.zeros(0, dtype=torch.long)
        self.share_T = self.share_squared_T = torch.zeros(0, dtype=torch.double)
        self.pairs_22 = torch.zeros(2, 2, dtype=torch.long)

    def add(self, logits_BSC: Tensor, targets_BS: Tensor) -> None:
        """Count these answers. Targets below zero are not asked."""
        # which tokens are asked and which are wrong, moved to the front of each row
        asked_BS = (targets_BS >= 0).cpu()
        wrong_BS = (logits_BSC.argmax(-1) != targets_BS).cpu() & asked_BS
        order_BS = (~asked_BS).byte().argsort(dim=1, stable=True)  # what is asked comes first, in its order
        asked_BS, wrong_BS = asked_BS.gather(1, order_BS), wrong_BS.gather(1, order_BS)
        # length, mistakes and share of mistakes of each answer, summed by position
        length_B, mistakes_B = asked_BS.sum(1), wrong_BS.sum(1)
        share_BS = (mistakes_B.double() / length_B.clamp(min=1)).unsqueeze(1) * asked_BS
        for name, counted in (
            ("asked_T", asked_BS),
            ("wrong_T", wrong_BS),
            ("share_T", share_BS),
            ("share_squared_T", share_BS**2),
        ):
            setattr(self, name, _plus(getattr(self, name), counted.sum(0)))
        # neighbouring tokens: right or wrong after right or wrong
        both_BS = asked_BS[:, 1:] & asked_BS[:, :-1]
        kinds = 2 * wrong_BS[:, :-1].long() + wrong_BS[:, 1:].long()
        self.pairs_22 += kinds[both_BS].bincount(minlength=4).view(2, 2)
        self.squares += float((mistakes_B.double() ** 2 / length_B.clamp(min=1)).sum())
        # by length: answers, answers without a mistake, wrong tokens
        for length in length_B.unique().tolist():
            of_length_B = length_B == length
            mistakes = mistakes_B[of_length_B]
            old = self.lengths.get(length, [0, 0, 0])
            new = [len(mistakes), int((mistakes == 0).sum()), int(mistakes.sum())]
            self.lengths[length] = [a + b for a, b in zip(old, new, strict=True)]

    def summary(self) -> dict[str, Any]:
        """The counts as plain data.

        ``lengths`` has, for each length, the number of answers, of those without a mistake, and of wrong tokens.
        ``asked`` and ``wrong`` count tokens by position. ``share`` and ``share_squared``, also by position, sum the
        share of wrong tokens of each answer that reaches that position, and its square. ``pairs`` counts neighbours,
        right or wrong after right or wrong. ``squares`` sums the square of an answer's mistakes over its length.
        """
        return {
            "lengths": [[length, *counts] for length, counts in sorted(self.lengths.items()) if length],
            "asked": self.asked_T.tolist(),
            "wrong": self.wrong_T.tolist(),
            "share": [round(value, 6) for value in self.share_T.tolist()],
            "share_squared": [round(value, 6) for value in self.share_squared_T.tolist()],
            "pairs": self.pairs_22.tolist(),
            "squares": self.squares,
        }


def _plus(one_T: Tensor, other_T: Tensor) -> Tensor:
    """The sum of two vectors of counts, of which one may be longer."""
    longest = max(len(one_T), len(other_T))
    return sum(torch.nn.functional.pad(each_T, (0, longest - len(each_T))) for each_T in (one_T, other_T))  # type: ignore[return-value]
