"""Dyck-(k, m): strings of nested brackets of k kinds, at most m deep (Hewitt et al. 2020, arXiv:2010.07515)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo import Task, register, tenth_of

ASKS_NOTHING = -100
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHARES = {"validation": (0, 1), "test": (1, 2), "train": (2, 10)}
"""Tenths of all strings, by their hash."""


@register("task", "dyck", objective="next_token")
class Dyck(Task):
    """Close nested brackets of several kinds, at most depth deep: what is open must be remembered in order.

    Strings are prefixes of Dyck-(k, m) (Hewitt et al. 2020, arXiv:2010.07515), by a walk that opens or closes with
    even odds, opens at depth 0 and closes at the greatest depth. Training asks for every next bracket, as there.
    Metrics count closing brackets alone, and only among closing brackets, since when one closes is chance and which one
    is not. ``accuracy``: of all; ``far_accuracy``: of those opened ``far`` or more positions before.

    A hash of the string decides its split, 8 : 1 : 1, so no test string of the training length was ever trained on.

    Args:
        kinds: of brackets; tokens below it open, and ``kinds`` more closes.
        depth: how many may be open at once.
        length: how many brackets a model reads in training.
        test_lengths: longer strings to be tested on.
        batch_size: strings in a step.
        test_size: strings in each held-out split.
        far: how many positions apart, at least, ``far_accuracy`` asks for.
    """

    gives = ("inputs", "targets", "distances")
    metric, solved, writes = "accuracy", 0.99, True

    def __init__(
        self,
        kinds: int = 4,
        depth: int = 4,
        length: int = 32,
        test_lengths: Sequence[int] = (64, 128),
        batch_size: int = 64,
        test_size: int = 500,
        far: int = 8,
    ) -> None:
        if min(kinds, depth, length, batch_size, test_size, *test_lengths) < 1:
            raise ValueError("kinds, depth, lengths and sizes: expected 1 or more of each")
        self.kinds, self.depth, self.length, self.test_lengths = kinds, depth, length, list(test_lengths)
        self.batch_size, self.test_size, self.far = batch_size, test_size, far

    def facts(self) -> dict[str, int]:
        """What a model must know."""
        longest = max(self.length, *self.test_lengths, 0)
        return {"vocab_size": 2 * self.kinds, "classes": 2 * self.kinds, "max_len": longest}

    def train_batch(self, step: int, seed: int, device: torch.device) -> dict[str, Tensor]:
        """Fresh strings for this step and seed; every next bracket is asked for."""
        source = torch.Generator(device).manual_seed((seed + 1) * 1_000_003 + step)
        return self._batch(self._strings("train", self.batch_size, self.length, source), every=True)

    def splits(self) -> tuple[str, ...]:
        """Validation and test at the training length, and longer tests."""
        return ("validation", "test", *(f"test/{length}" for length in self.test_lengths))

    def held_out(self, split: str) -> list[dict[str, Tensor]]:
        """The same strings always; closing brackets alone are asked for."""
        source = torch.Generator().manual_seed(self.splits().index(split))
        name, _, length = split.partition("/")
        strings_NT = self._strings(name, self.test_size, int(length or self.length), source)
        return [self._batch(strings_BT, every=False) for strings_BT in strings_NT.split(self.batch_size)]

    def judge(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Closing brackets, each among all closing brackets."""
        closes_BL = batch["targets"] >= self.kinds
        right_BL = closes_BL & (outputs["logits"][..., self.kinds :].argmax(-1) == batch["targets"] - self.kinds)
        far_BL = closes_BL & (batch["distances"] >= self.far)
        return {
            "accuracy": (right_BL.sum(), closes_BL.sum()),
            "far_accuracy": ((right_BL & far_BL).sum(), far_BL.sum()),
        }

    def chance(self) -> dict[str, float]:
        """Guessing, and closing the bracket that was opened last, closed since or not."""
        right, count = 0, 0
        for batch in self.held_out("test"):
            positions_L = torch.arange(batch["inputs"].shape[1])
            last_BL = torch.where(batch["inputs"] < self.kinds, positions_L, 0).cummax(1).values
            asked_BL = batch["targets"] != ASKS_NOTHING
            right_BL = batch["inputs"].gather(1, last_BL) + self.kinds == batch["targets"]
            right, count = right + int((right_BL & asked_BL).sum()), count + int(asked_BL.sum())
        return {"guessing": 1 / self.kinds, "the last opened": right / max(count, 1)}

    def token_name(self, token: int) -> str:
        """A bracket, or a letter, small to open and large to close, where there are more kinds than brackets."""
        opening, closing = ("([{<", ")]}>") if self.kinds <= 4 else (LETTERS, LETTERS.upper())
        kind = token % self.kinds
        mark = "" if kind < len(opening) else str(kind // len(opening))
        return (opening if token < self.kinds else closing)[kind % len(opening)] + mark

    def encode(self, text: str) -> list[int]:
        """Brackets, with or without spaces between them."""
        tokens = {self.token_name(token): token for token in range(2 * self.kinds)}
        words = text.split() if any(len(name) > 1 for name in tokens) else [mark for mark in text if mark != " "]
        if unknown := [word for word in words if word not in tokens]:
            raise ValueError(f"{unknown[0]!r} in {text!r}: expected brackets of {' '.join(tokens)}")
        return [tokens[word] for word in words]

    def _strings(self, split: str, count: int, length: int, source: torch.Generator) -> Tensor:
        """``count`` strings of ``length + 1`` brackets whose hash belongs to the split."""
        first, end = SHARES[split]
        kept, missing = [], count
        for _ in range(1000):
            strings_NT = self._walks(count if split == "train" else 10 * count, length + 1, source)
            tenth_N = tenth_of(strings_NT)
            kept.append(strings_NT[(tenth_N >= first) & (tenth_N < end)][:missing])
            missing -= len(kept[-1])
            if not missing:
                return torch.cat(kept)
        raise ValueError(f"too few strings of length={length} belong to {split}: take a larger length, depth or kinds")

    def _walks(self, count: int, length: int, source: torch.Generator) -> Tensor:
        """Random strings (N, T): a free walk, folded to and fro between 0 and the depth, with a kind for each opening."""
        device = source.device
        steps_NT = 2 * torch.randint(2, (count, length), generator=source, device=device) - 1
        folded_NT = (steps_NT.cumsum(1) + self.depth) % (2 * self.depth) - self.depth
        depth_NT = torch.nn.functional.pad(folded_NT.abs(), (1, 0))
        opens_NT = depth_NT[:, 1:] > depth_NT[:, :-1]
        level_NT = torch.maximum(depth_NT[:, 1:], depth_NT[:, :-1])
        kind_NT = torch.randint(self.kinds, (count, length), generator=source, device=device)
        opened_NT = opened_at(opens_NT, level_NT, self.depth)
        return torch.where(opens_NT, kind_NT, kind_NT.gather(1, opened_NT) + self.kinds)

    def _batch(self, strings_BT: Tensor, every: bool) -> dict[str, Tensor]:
        """What is read, what comes next, and how far from a closing bracket its opening one stands (0 elsewhere)."""
        opens_BT = strings_BT < self.kinds
        level_BT = (2 * opens_BT.long() - 1).cumsum(1) + (~opens_BT).long()
        positions_T = torch.arange(strings_BT.shape[1], device=strings_BT.device)
        distance_BT = (positions_T - opened_at(opens_BT, level_BT, self.depth)).masked_fill(opens_BT, 0)
        targets_BT = strings_BT if every else strings_BT.masked_fill(opens_BT, ASKS_NOTHING)
        return {"inputs": strings_BT[:, :-1], "targets": targets_BT[:, 1:], "distances": distance_BT[:, 1:]}


def opened_at(opens_NT: Tensor, level_NT: Tensor, depth: int) -> Tensor:
    """Where the bracket of each position was opened: the last opening at its level."""
    positions_T = torch.arange(opens_NT.shape[1], device=opens_NT.device)
    opened_NT = torch.zeros_like(level_NT)
    for level in range(1, depth + 1):
        last_NT = torch.where(opens_NT & (level_NT == level), positions_T, 0).cummax(1).values
        opened_NT = torch.where(level_NT == level, last_NT, opened_NT)
    return opened_NT
