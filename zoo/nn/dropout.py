"""Dropout that costs nothing where nothing is dropped."""

from __future__ import annotations

from torch import nn


def make_dropout(share: float) -> nn.Module:
    """A module that drops this share of its input in training (Srivastava et al. 2014); of none, it does nothing.

    ``nn.Dropout(0)`` takes as long as a small matrix product in each call, which shows in decoding.
    """
    return nn.Dropout(share) if share else nn.Identity()
