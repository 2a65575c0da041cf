"""Losses that keep experts equally busy. Each is normalised so that its coefficient does not depend on E, K and N."""

import torch
from torch import Tensor


class SideLosses:
    """Losses of the passes of a step: an encoder may read several views of a batch before one loss is made of them."""

    def __init__(self) -> None:
        self._passes: list[dict[str, Tensor]] = []

    def add(self, losses: dict[str, Tensor]) -> None:
        """Those of one more pass."""
        self._passes.append(losses)

    def taken(self) -> dict[str, Tensor]:
        """The mean over the passes since the last time, by name; nothing of them is kept, so no graph stays alive."""
        passes, self._passes = self._passes, []
        if len(passes) == 1:
            return passes[0]
        return {name: torch.stack([losses[name] for losses in passes]).mean() for name in (passes or [{}])[0]}


def mean(values_N: Tensor, weight_N: Tensor | None) -> Tensor:
    """The mean over tokens, or over real ones where ``weight_N`` is their mask as numbers. Of no tokens it is zero."""
    if weight_N is None:
        return values_N.sum(0) / max(1, values_N.shape[0])
    shaped = weight_N.to(values_N.dtype).view(-1, *[1] * (values_N.ndim - 1))
    return (values_N * shaped).sum(0) / weight_N.sum().clamp(min=1)


def balance(probability_NE: Tensor, counts_E: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """``E * sum_e f_e P_e``, with f the share of assignments and P the mean probability: 1 when both are uniform.

    Fedus et al. 2022, arXiv:2101.03961, equation 4. Here f is also divided by the number of choices K, so that uniform
    is 1 whatever K. Hugging Face does not divide, so a coefficient from there means K times as much here. Only P has a
    gradient.
    """
    share_E = counts_E / counts_E.sum().clamp(min=1)
    mean_E = mean(probability_NE, weight_N)
    return probability_NE.shape[1] * (share_E.to(mean_E.dtype) * mean_E).sum()


def coefficient_of_variation(sums_E: Tensor) -> Tensor:
    """The squared coefficient of variation, ``var / mean^2`` with the population's variance: 0 when uniform.

    Shazeer et al. 2017, arXiv:1701.06538, equation 6.
    """
    return sums_E.var(correction=0) / (sums_E.mean().square() + 1e-10)


def logit_size(logits_NE: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """The z-loss, the mean of ``logsumexp(logits)^2`` (Zoph et al. 2022, arXiv:2202.08906, equation 5)."""
    return mean(torch.logsumexp(logits_NE, -1).square(), weight_N)


def load_of_noisy(clean_NE: Tensor, noisy_NE: Tensor, deviation_NE: Tensor, choices: int) -> Tensor | None:
    """The probability that each expert would be chosen if only its own noise were drawn again, (N, E).

    Shazeer et al. 2017, equations 8 and 9: a smooth estimate of the load. An expert must exceed the K-th largest noisy
    logit of the others: that is the (K+1)-th of all for experts that were chosen, and the K-th for the rest. None if
    every expert is chosen.
    """
    if choices >= clean_NE.shape[1]:
        return None
    best_NK = noisy_NE.topk(choices + 1, dim=-1).values
    inside, outside = best_NK[:, choices : choices + 1], best_NK[:, choices - 1 : choices]
    bar_NE = torch.where(noisy_NE > inside, inside, outside)
    return torch.special.ndtr((clean_NE - bar_NE) / deviation_NE)
