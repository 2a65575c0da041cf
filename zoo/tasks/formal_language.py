"""Formal languages, by what a machine must have to follow them: a finite state, a counter, or a stack."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator
from zoo.registry.registry import register
from zoo.tasks._generated import TokenAnswers
from zoo.tasks._shortcuts import by_position, by_window, commonest

RUNGS: dict[str, tuple[int, list[int], str]] = {  # length, test_lengths, asks
    "small": (32, [64, 128], "always"),
    "published": (40, [100, 200, 500], "once"),
}
WINDOW = 4
"""Tokens that the strongest local rule sees: a bracket with two numbers in it, but for its opening."""


class Draw(NamedTuple):
    """What draws random numbers for a batch of sequences of one length."""

    batch_size: int
    length: int
    source: torch.Generator

    def whole(self, many: int, length: int | None = None) -> Tensor:
        """Whole numbers below ``many``, (B, L)."""
        shape = (self.batch_size, self.length if length is None else length)
        return torch.randint(0, many, shape, generator=self.source, device=self.source.device)

    def uniform(self, length: int) -> Tensor:
        """Numbers from 0 to below 1, (B, L)."""
        return torch.rand(self.batch_size, length, generator=self.source, device=self.source.device)


Words = tuple[Tensor, Tensor]
"""Tokens (B, L), and what is asked after each of them, (B, L), -100 where nothing is."""


def even_pairs(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """Whether as many pairs ``ab`` as ``ba`` came so far, which is whether the last letter is the first again."""
    bits_BL = draw.whole(2)
    return bits_BL, (bits_BL == bits_BL[:, :1]).long()


def cycle_navigation(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """The position on a cycle after the steps so far: 0 stays, 1 goes on, 2 goes back."""
    steps_BL = draw.whole(3)
    return steps_BL, steps_BL.where(steps_BL < 2, -1).cumsum(1) % modulus


def majority(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """Whether more ones than zeros came so far."""
    bits_BL = draw.whole(2)
    return bits_BL, ((2 * bits_BL - 1).cumsum(1) > 0).long()


def modular_arithmetic(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """The value modulo m of the numbers so far, joined by plus, minus and times, of which times binds first."""
    inputs_BL, targets_BL = draw.whole(modulus), draw.whole(1) - 100
    operators_BN = draw.whole(3)[:, 1::2]
    # what the terms before came to, and the term that times may still make larger, with its sign
    total_B, term_B = torch.zeros_like(inputs_BL[:, 0]), inputs_BL[:, 0]
    targets_BL[:, 0] = term_B
    for position in range(2, draw.length, 2):
        operator_B, number_B = operators_BN[:, position // 2 - 1], inputs_BL[:, position]
        times_B = operator_B == 2
        total_B = (total_B + term_B.masked_fill(times_B, 0)) % modulus
        term_B = torch.where(times_B, term_B * number_B, number_B * (1 - 2 * operator_B)) % modulus
        targets_BL[:, position] = (total_B + term_B) % modulus
    inputs_BL[:, 1::2] = operators_BN + modulus
    return inputs_BL, targets_BL


def modular_brackets(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """The value modulo m of each bracket that closes, as in ``((3+2)*(1-4))``.

    Operations are put into brackets in random order, so inner ones come first. Sequences have one token more than a
    multiple of four, which is at most the length.
    """
    many = (draw.length - 1) // 4
    numbers_BM, operators_BN = draw.whole(modulus, many + 1), draw.whole(3, many)
    order_BN = draw.uniform(many).argsort(1)
    rank_BN = order_BN.argsort(1)
    # of each operation, the first and the last number in its bracket: it ends before an operation of higher rank
    index_N = torch.arange(many, device=rank_BN.device)
    later_BNN = rank_BN[:, None, :] > rank_BN[:, :, None]
    before_NN = index_N < index_N[:, None]
    left_BN = ((later_BNN & before_NN) * (index_N + 1)).amax(2)
    right_BN = many - ((later_BNN & before_NN.T) * (many - index_N)).amax(2)
    # the values, inner brackets first; what a bracket comes to is kept at its first number
    value_BM, result_BN = numbers_BM.clone(), torch.zeros_like(order_BN)
    for chosen_B1 in order_BN.split(1, 1):
        left_B1, operator_B1 = left_BN.gather(1, chosen_B1), operators_BN.gather(1, chosen_B1)
        a_B1, b_B1 = value_BM.gather(1, left_B1), value_BM.gather(1, chosen_B1 + 1)
        found_B1 = torch.where(operator_B1 == 2, a_B1 * b_B1, a_B1 + b_B1 * (1 - 2 * operator_B1)) % modulus
        value_BM.scatter_(1, left_B1, found_B1)
        result_BN.scatter_(1, chosen_B1, found_B1)
    # where everything stands: each number behind the brackets that open before it and those that closed before
    opened_BM = torch.zeros_like(numbers_BM).scatter_add_(1, left_BN, torch.ones_like(left_BN)).cumsum(1)
    closing_BM = torch.zeros_like(numbers_BM).scatter_add_(1, right_BN, torch.ones_like(right_BN))
    at_BM = opened_BM + closing_BM.cumsum(1) - closing_BM + 2 * torch.arange(many + 1, device=rank_BN.device)
    inner_BNN = (right_BN[:, None, :] == right_BN[:, :, None]) & ~later_BNN
    end_BN = at_BM.gather(1, right_BN) + inner_BNN.sum(2)
    inputs_BL = torch.full_like(draw.whole(1, 4 * many + 1), modulus + 3)  # an opening bracket wherever nothing else is
    inputs_BL.scatter_(1, at_BM, numbers_BM).scatter_(1, (at_BM + closing_BM)[:, :-1] + 1, operators_BN + modulus)
    inputs_BL.scatter_(1, end_BN, modulus + 4)
    return inputs_BL, torch.full_like(inputs_BL, -100).scatter_(1, end_BN, result_BN)


def stack(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """What lies on top of a stack once something was taken off it; ``kinds`` if nothing does."""
    symbols_BL, push_BL = draw.whole(kinds), draw.whole(2) == 1
    walk_BL = (2 * push_BL.long() - 1).cumsum(1)
    depth_BL = walk_BL - walk_BL.cummin(1).values.clamp(max=0)  # taking off an empty stack leaves it empty
    top_BL = _top(symbols_BL, push_BL, depth_BL, kinds)
    return symbols_BL.where(push_BL, kinds), top_BL.masked_fill(push_BL, -100)


def dyck(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """Which bracket closes, wherever the next one does."""
    symbols_BL = draw.whole(kinds, draw.length + 1)
    # the distance from 0 of a random walk: a bracket closes or opens alike, and opens where none is open
    depth_BL = (2 * draw.whole(2, draw.length + 1) - 1).cumsum(1).abs()
    push_BL = torch.cat([torch.ones_like(depth_BL[:, :1]), depth_BL.diff(dim=1)], 1) > 0
    top_BL = _top(symbols_BL, push_BL, depth_BL, 0)
    closed_BL = torch.cat([top_BL[:, :1], top_BL[:, :-1]], 1) + kinds
    return symbols_BL.where(push_BL, closed_BL)[:, :-1], top_BL[:, :-1].masked_fill(push_BL[:, 1:], -100)


def _top(symbols_BL: Tensor, push_BL: Tensor, depth_BL: Tensor, empty: int) -> Tensor:
    """The symbol on top of a stack of this depth after each step: what last raised it to there."""
    position_L = torch.arange(1, depth_BL.shape[1] + 1, device=depth_BL.device)
    same_BLL = (
        (depth_BL[:, None, :] == depth_BL[:, :, None]) & push_BL[:, None, :] & (position_L <= position_L[:, None])
    )
    last_BL = (same_BLL * position_L).amax(2)
    return symbols_BL.gather(1, (last_BL - 1).clamp(min=0)).masked_fill(last_BL == 0, empty)


def flip_flop(draw: Draw, modulus: int, kinds: int, ignore: float) -> Words:
    """The bit that was written last, wherever it is read: pairs of an instruction (write, read, ignore) and a bit."""
    bits_BP = draw.whole(2)[:, ::2]
    pairs = bits_BP.shape[1]
    drawn_BP = draw.uniform(pairs)
    # 2 writes, 3 reads, 4 ignores; the first writes and the last reads
    instructions_BP = 2 + (drawn_BP >= (1 - ignore) / 2).long() + (drawn_BP >= 1 - ignore).long()
    instructions_BP[:, 0], instructions_BP[:, -1] = 2, 3
    positions_BP = torch.arange(pairs, device=bits_BP.device).where(instructions_BP == 2, 0).cummax(1).values
    state_BP = bits_BP.gather(1, positions_BP)
    read_BP = instructions_BP == 3
    inputs_BP2 = torch.stack([instructions_BP, bits_BP.where(~read_BP, state_BP)], 2)
    targets_BP2 = torch.stack([state_BP.where(read_BP, -100), torch.full_like(state_BP, -100)], 2)
    return inputs_BP2.flatten(1), targets_BP2.flatten(1)


class Language(NamedTuple):
    """How a language is drawn, its number of tokens and of answers by modulus and kinds, and its shortest sequence."""

    draw: Any
    sizes: Any
    least: int = 1


LANGUAGES = {
    "even_pairs": Language(even_pairs, lambda m, k: (2, 2)),
    "cycle_navigation": Language(cycle_navigation, lambda m, k: (3, m)),
    "modular_arithmetic": Language(modular_arithmetic, lambda m, k: (m + 3, m)),
    "flip_flop": Language(flip_flop, lambda m, k: (5, 2), 4),
    "majority": Language(majority, lambda m, k: (2, 2)),
    "stack": Language(stack, lambda m, k: (k + 1, k + 1), 2),
    "dyck": Language(dyck, lambda m, k: (2 * k, k), 2),
    "modular_brackets": Language(modular_brackets, lambda m, k: (m + 5, m), 5),
}


@register("task", "formal_language")
class FormalLanguage(TokenAnswers):
    """Follow a formal language: after each token, say what a simple machine that read it would say.

    Delétang et al. 2023, "Neural networks and the Chomsky hierarchy", arXiv:2207.02098; flip-flops are those of Liu et
    al. 2023, arXiv:2306.00946. What each language asks:

    | language | asked | a machine needs |
    |---|---|---|
    | ``even_pairs`` | whether as many ``ab`` as ``ba`` came | two states |
    | ``cycle_navigation`` | the position on a cycle of ``modulus``, after steps of 0, 1 and -1 | a state |
    | ``modular_arithmetic`` | the value of numbers joined by ``+ - *``, modulo ``modulus`` | a state |
    | ``flip_flop`` | the bit that was written last, where it is read | two states, kept for long |
    | ``majority`` | whether more ones than zeros came | a counter |
    | ``stack`` | what lies on top of a stack of ``kinds``, where something was taken off | a stack |
    | ``dyck`` | which of ``kinds`` of brackets closes, where one does | a stack |
    | ``modular_brackets`` | the value of each bracket that closes, modulo ``modulus`` | a stack |

    Every sequence is random and fresh. Parity, the other classic, is a task of its own; so are words of groups.

    Args:
        language: what is followed.
        rung: a set of defaults for the next three: ``small``, or ``published``, the lengths of Delétang et al., who ask
            once.
        length: tokens per training sequence. By default the rung's.
        test_lengths: further lengths to test, under ``test/LENGTH``. By default the rung's.
        asks: ``always``, wherever there is an answer; or ``once``, at one such position, drawn anew in each sequence,
            and the last in tests beyond the training length. By default the rung's.
        modulus: what numbers are taken modulo, and how many positions a cycle has.
        kinds: kinds of brackets, and of things on a stack.
        ignore: of ``flip_flop``, the share of instructions that ignore their bit; half of the others write.
        batch_size: number of sequences per training batch.
        test_size: number of sequences in validation and in each test.
    """

    stream = "formal language"
    chained = True

    def __init__(
        self,
        language: Literal[
            "even_pairs",
            "cycle_navigation",
            "modular_arithmetic",
            "flip_flop",
            "majority",
            "stack",
            "dyck",
            "modular_brackets",
        ] = "modular_arithmetic",
        rung: Literal["small", "published"] = "small",
        length: int | None = None,
        test_lengths: list[int] | None = None,
        asks: Literal["always", "once"] | None = None,
        modulus: int = 5,
        kinds: int = 2,
        ignore: float = 0.8,
        batch_size: int = 64,
        test_size: int = 500,
    ) -> None:
        default = RUNGS[rung]
        self._set_sizes(default[0] if length is None else length, test_lengths, batch_size, test_size, default[1])
        self.language, self.asks = language, default[2] if asks is None else asks
        self.modulus, self.kinds, self.ignore = modulus, kinds, ignore
        least, shortest = LANGUAGES[language].least, min([self.length, *self.test_lengths])
        if shortest < least:
            raise ZooError(f"{language} needs sequences of at least {least} tokens, given {shortest}")
        if modulus < 2 or kinds < 2:
            raise ZooError(f"task.modulus={modulus} task.kinds={kinds}: expected at least 2 each")
        if not 0 <= ignore < 1:
            raise ZooError(f"task.ignore={ignore}: expected a share of at least 0 and below 1")

    def facts(self) -> dict[str, Any]:
        """Tokens in, answers out."""
        vocab_size, classes = LANGUAGES[self.language].sizes(self.modulus, self.kinds)
        return {"vocab_size": vocab_size, "classes": classes, "max_len": self._longest()}

    def chance(self) -> dict[str, float]:
        """Guessing; the commonest answer, in all and at each position; and what the last four tokens tell."""
        facts = self.facts()
        vocab_size, classes = facts["vocab_size"], facts["classes"]
        batch = self._make(4000, self.length, generator("cpu", self.stream, "chance"))
        return {
            "guessing": 1 / classes,
            "the commonest answer": commonest(batch, classes),
            "the commonest answer at each place": by_position(batch, classes),
            f"the last {WINDOW} tokens": by_window(batch, WINDOW, vocab_size, classes),
        }

    def _make(self, batch_size: int, length: int, source: torch.Generator) -> Batch:
        draw = Draw(batch_size, length, source)
        inputs_BL, targets_BL = LANGUAGES[self.language].draw(draw, self.modulus, self.kinds, self.ignore)
        if self.asks == "always":
            return {"inputs": inputs_BL, "targets": targets_BL}
        # one of the positions that have an answer, or the last of them
        beyond = length > self.length
        order_BL = (
            torch.arange(1, inputs_BL.shape[1] + 1, device=source.device)
            if beyond
            else draw.uniform(inputs_BL.shape[1])
        )
        position_B1 = (order_BL * (targets_BL >= 0)).argmax(1, keepdim=True)
        return {"inputs": inputs_BL, "targets": targets_BL.gather(1, position_B1), "positions": position_B1}
