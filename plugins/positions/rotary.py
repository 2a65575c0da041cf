"""Rotary positions, and the scalings that let them reach beyond the trained length."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from zoo import Position, register
from zoo.nn import may_own_derivative, once_a_pass

LONGEST_TABLE = 16_384
"""Number of positions whose angles each layer keeps from the start."""
_LONGER: dict[tuple, tuple[Tensor, Tensor]] = {}
"""Angles of later positions, computed on demand and shared by all layers, by frequencies, gain and device."""
MOST_LONGER = 4


@register("position", "rotary")
class RotaryPosition(Position):
    """Queries and keys rotated by an angle proportional to their position.

    The pair of channels ``i`` and ``i + head_dim / 2``, as in GPT-NeoX and Llama, turns by ``t base^(-2i / head_dim)``
    radians at position t, so that scores depend on distance only. Su et al. 2021, arXiv:2104.09864.

    Args:
        base: sets the slowest rotation, above 1. Larger bases tell more distant positions apart.
        scaling: how a model reads beyond its trained length. ``linear`` divides positions (Chen et al.
            2023, arXiv:2306.15595). ``ntk`` raises the base, so that slow rotations stretch and fast ones hardly change
            (Peng and Quesnelle 2023). ``yarn`` slows only slow rotations and sharpens the scores (Peng et al.
            2023, arXiv:2309.00071). ``llama3`` is the blend of Llama 3.1 (Dubey et al. 2024, arXiv:2407.21783).
        factor: how many times the trained length is to be read, at least 1. Above 1 it needs a ``scaling``.
        trained_len: the length in tokens that the model was trained on. ``yarn`` and ``llama3`` need it.
        share: share of a head's channels that turn, the first ones, above 0 and at most 1 (Wang and Komatsuzaki 2021,
            GPT-J). The others have no positions. ``head_dim`` above is then the number of channels that turn.
    """

    def __init__(
        self,
        head_dim: int,
        max_len: int,
        base: float = 10000.0,
        scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none",
        factor: float = 1.0,
        trained_len: int | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        # refuse what has no meaning, in words that say what to change
        if not 0 < share <= 1:
            raise ValueError(f"position.share={share}: expected more than 0 and at most 1")
        turned = int(head_dim * share)
        if share < 1 and (turned % 2 or not turned):
            raise ValueError(
                f"position.share={share} of head_dim={head_dim} is {turned} channels: expected an even number of them"
            )
        if head_dim % 2:
            raise ValueError(f"position=rotary needs an even head_dim, given {head_dim}; change mixer.heads")
        head_dim = turned
        if not 1 < base < math.inf:
            raise ValueError(f"position.base={base}: expected more than 1")
        if not 1 <= factor < math.inf or (scaling == "none" and factor != 1):
            raise ValueError(
                f"position.factor={factor} with position.scaling={scaling}: expected at least 1, and a scaling where "
                f"it is more, such as position.scaling=linear"
            )
        if scaling in ("yarn", "llama3") and (trained_len is None or trained_len < 1):
            raise ValueError(
                f"position.scaling={scaling} needs position.trained_len, the tokens that the model was trained on; "
                f"given {trained_len}"
            )
        if scaling == "ntk" and head_dim == 2:
            raise ValueError("position.scaling=ntk needs a head_dim above 2; change mixer.heads")
        self.max_len = max_len
        # YaRN's temperature: both queries and keys grow, so scores grow by its square
        self.gain = 0.1 * math.log(factor) + 1 if scaling == "yarn" else 1.0
        # cosines and sines (L, K) of the positions that a task has, in float32
        self.frequency_K = frequencies(head_dim, base, scaling, factor, trained_len)
        self._key = (head_dim, base, scaling, factor, trained_len)  # of which they are made
        cos_LK, sin_LK = (table.float() for table in self._angles(0, min(max_len, LONGEST_TABLE)))
        self.register_buffer("cos_LK", cos_LK, persistent=False)
        self.register_buffer("sin_LK", sin_LK, persistent=False)

    def rotate(self, q_BHLK: Tensor, k_BGLK: Tensor, offset: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys by positions from ``offset`` on, or by given ones, computed beyond the table."""
        if isinstance(offset, Tensor):
            cos_BLK, sin_BLK = (table.unsqueeze(1) for table in self._at(offset, q_BHLK))
            return _turned(q_BHLK, k_BGLK, cos_BLK, sin_BLK)
        # consecutive positions: from the table, else computed, and in decoding from the shared longer table
        end = offset + q_BHLK.shape[2]
        if end <= self.cos_LK.shape[0] and q_BHLK.dtype != torch.float64:  # the table is of float32
            cos_LK, sin_LK = self.cos_LK[offset:end], self.sin_LK[offset:end]
        elif q_BHLK.dtype == torch.float64 or torch.compiler.is_compiling():
            cos_LK, sin_LK = (t.to(q_BHLK) for t in self._angles(offset, end))
        else:
            cos_LK, sin_LK = (table[offset:end] for table in self._longer(end, q_BHLK.device))
        return _turned(q_BHLK, k_BGLK, cos_LK, sin_LK)

    def _at(self, position_BL: Tensor, q_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of these positions, (B, L, K), wherever they are."""
        if q_BHLK.dtype == torch.float64 or (torch.compiler.is_compiling() and self.max_len > len(self.cos_LK)):
            return self._computed(position_BL)
        end = self.max_len
        may_read = not self.training and position_BL.device.type in ("cpu", "cuda")  # in training nobody waits for it
        if not torch.compiler.is_compiling() and may_read:
            end = once_a_pass(
                ("rotary",), lambda: int(position_BL.max()) + 1 if position_BL.numel() else 0, position_BL
            )
        tables = (self.cos_LK, self.sin_LK) if end <= len(self.cos_LK) else self._longer(end, q_BHLK.device)
        try:
            return tables[0][position_BL], tables[1][position_BL]
        except IndexError:  # on a processor in training, beyond the length that the task has
            return tuple(table.to(self.cos_LK) for table in self._computed(position_BL))

    def _computed(self, position_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of these positions, (B, L, K), in float64 and without a table."""
        return tables(position_BL.double().unsqueeze(-1) * self.frequency_K.to(position_BL.device), self.gain)

    def _longer(self, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of at least ``end`` positions, from a table that doubles when it is too short."""
        key = (self._key, self.gain, device)
        table = _LONGER.pop(key, None)
        if table is None or len(table[0]) < end:
            with torch.inference_mode(False), torch.no_grad():  # usable in training later
                cos_LK, sin_LK = self._angles(0, 1 << (end - 1).bit_length())
                table = cos_LK.float().to(device), sin_LK.float().to(device)
        _LONGER[key] = table  # the newest last
        while len(_LONGER) > MOST_LONGER:
            del _LONGER[next(iter(_LONGER))]
        return table

    def _angles(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        return tables(torch.outer(torch.arange(start, end, dtype=torch.float64), self.frequency_K), self.gain)


def frequencies(
    head_dim: int, base: float, scaling: str = "none", factor: float = 1.0, trained_len: int | None = None
) -> Tensor:
    """Radians that each pair of channels turns from one position to the next, (head_dim / 2,), in float64."""
    if scaling == "ntk":
        base = base * factor ** (head_dim / (head_dim - 2))
    plain_K = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling == "linear":
        return plain_K / factor
    if scaling == "llama3":  # by turns within the trained length: below 1 stretched, above 4 left alone
        turns_K = (trained_len or 0) * plain_K / (2 * math.pi)
        share_K = ((turns_K - 1) / (4 - 1)).clamp(0, 1)
        return plain_K * (share_K + (1 - share_K) / factor)
    if scaling == "yarn":  # the same, with a linear ramp over pairs from 32 turns to one

        def channel(turns: float) -> float:
            return head_dim * math.log((trained_len or 0) / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(math.floor(channel(32)), 0), min(math.ceil(channel(1)), head_dim - 1)
        # share of stretching per pair, 0 below the ramp and 1 above it
        steps_K = torch.arange(head_dim // 2, dtype=torch.float64)
        stretched_K = ((steps_K - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain_K * (1 - stretched_K + stretched_K / factor)
    return plain_K


def tables(angle_Lk: Tensor, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (..., K), of the angles of each pair of channels; sines are negative in the first half.

    Args:
        angle_Lk: in radians, (..., K / 2).
        gain: what both are multiplied by.
    """
    cos_Lk, sin_Lk = angle_Lk.cos() * gain, angle_Lk.sin() * gain
    return torch.cat([cos_Lk, cos_Lk], -1), torch.cat([-sin_Lk, sin_Lk], -1)


def _turned(q_BHLK: Tensor, k_BGLK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, rotated. Those of a single token are rotated together, in half as many calls."""
    if q_BHLK.shape[2] != 1:
        return turn(q_BHLK, cos_LK, sin_LK), turn(k_BGLK, cos_LK, sin_LK)
    both_BNLK = turn(torch.cat([q_BHLK, k_BGLK], 1), cos_LK, sin_LK)
    heads = q_BHLK.shape[1]
    return both_BNLK[:, :heads], both_BNLK[:, heads:]


def turn(x_BHLK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
    """Rotate each pair of channels, of the first that there are angles for; the others stay as they are.

    Args:
        x_BHLK: queries or keys.
        cos_LK, sin_LK: as :func:`tables` makes them.
    """
    cos_LK, sin_LK = cos_LK.to(x_BHLK.dtype), sin_LK.to(x_BHLK.dtype)
    turned = cos_LK.shape[-1]
    if turned < x_BHLK.shape[-1]:
        return torch.cat([turn(x_BHLK[..., :turned], cos_LK, sin_LK), x_BHLK[..., turned:]], -1)
    if may_own_derivative(x_BHLK):
        y_BHLK: Tensor = _Turn.apply(x_BHLK, cos_LK, sin_LK)
        return y_BHLK
    first, second = x_BHLK.chunk(2, dim=-1)
    return torch.addcmul(x_BHLK * cos_LK, torch.cat([second, first], dim=-1), sin_LK)


class _Turn(torch.autograd.Function):
    """The same in three passes over memory in each direction, where written out it takes four and six."""

    @staticmethod
    def forward(ctx: Any, x_BHLK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
        ctx.save_for_backward(cos_LK, sin_LK)
        return _halves_turned(x_BHLK, cos_LK, *sin_LK.chunk(2, -1))

    @staticmethod
    def backward(ctx: Any, given_BHLK: Tensor) -> tuple[Tensor, None, None]:
        cos_LK, sin_LK = ctx.saved_tensors
        return _halves_turned(given_BHLK, cos_LK, *reversed(sin_LK.chunk(2, -1))), None, None


def _halves_turned(x_BHLK: Tensor, cos_LK: Tensor, of_second: Tensor, of_first: Tensor) -> Tensor:
    """``(first cos + second of_second, second cos + first of_first)`` of the halves of the channels."""
    half = x_BHLK.shape[-1] // 2
    y_BHLK = x_BHLK * cos_LK
    y_BHLK[..., :half].addcmul_(x_BHLK[..., half:], of_second)
    y_BHLK[..., half:].addcmul_(x_BHLK[..., :half], of_first)
    return y_BHLK
