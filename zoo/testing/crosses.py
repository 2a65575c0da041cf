"""The laws of components that read another sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.nn import select_rows, tensors_of
from zoo.testing import parts
from zoo.testing.common import close, ends, inputs, same_shape, seeded
from zoo.testing.parts import LENGTH


def _memory(batch: int = 3) -> tuple[Tensor, Tensor]:
    """A memory of 9 tokens, and a mask of which tokens are real."""
    lengths_B1 = torch.tensor([9, 4, 1])[:batch, None]
    return inputs(batch, 9, torch.float64, seed=5), (torch.arange(9) < lengths_B1).to(parts.device())


def cross_treats_each_token_alone(name: str) -> None:
    """(B, L, D) in and out. A token's output does not depend on the tokens beside it, nor on other examples.

    The same holds in training, with the same random draws.
    """
    cross, (memory_BMD, mask_BM) = parts.part("cross", name, dtype=torch.float64), _memory()
    x_BLD = inputs(3, dtype=torch.float64)
    whole = cross(x_BLD, cross.read(memory_BMD, mask_BM))
    same_shape(whole, x_BLD)
    for row in range(3):
        state = cross.read(memory_BMD[row : row + 1], mask_BM[row : row + 1])
        pieces = [cross(piece, state) for piece in x_BLD[row : row + 1].split([1, 5, LENGTH - 6], 1)]
        close(torch.cat(pieces, 1)[0], whole[row], 1e-10, f"example {row} alone, in pieces: ")
    cross.train()
    for position in ends(LENGTH):
        changed = 3 * inputs(3, dtype=torch.float64, seed=9)
        changed[:, position] = x_BLD[:, position]
        one, other = (
            seeded(lambda x: cross(x, cross.read(memory_BMD, mask_BM)), each)[:, position] for each in (changed, x_BLD)
        )
        close(one, other, 1e-10, f"in training, token {position}, when the others are others: ")


def cross_leaves_no_trace_of_padding(name: str) -> None:
    """What stands in the memory where the mask is false changes nothing, as if it were not there."""
    cross, (memory_BMD, mask_BM) = parts.part("cross", name, dtype=torch.float64), _memory()
    x_BLD = inputs(3, dtype=torch.float64)
    whole = cross(x_BLD, cross.read(memory_BMD, mask_BM))
    noise_BMD = memory_BMD.masked_fill(~mask_BM.unsqueeze(-1), 1e3)
    close(cross(x_BLD, cross.read(noise_BMD, mask_BM)), whole, 1e-10, "other padding: ")
    for row, length in enumerate(mask_BM.sum(1).tolist()):
        alone = cross(x_BLD[row : row + 1], cross.read(memory_BMD[row : row + 1, :length]))
        close(alone[0], whole[row], 1e-10, f"a memory of {length} tokens without padding: ")


def cross_state_is_what_it_says(name: str) -> None:
    """``init_state`` is as large as what ``read`` makes of as many tokens, and its rows follow their sequences."""
    cross, (memory_BMD, mask_BM) = parts.part("cross", name, dtype=torch.float64), _memory()
    state = cross.read(memory_BMD, mask_BM)
    shapes = [tuple(t.shape) for t in tensors_of(cross.init_state(3, 9, parts.device(), torch.float64))]
    assert shapes == [tuple(t.shape) for t in tensors_of(state)]
    index_B, x_BLD = torch.tensor([2, 0], device=parts.device()), inputs(3, dtype=torch.float64)
    close(cross(x_BLD[index_B], select_rows(state, index_B)), cross(x_BLD, state)[index_B], 1e-10, "examples 2, 0: ")
