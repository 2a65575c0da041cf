"""Which experts a token goes to, and how much each of them counts.

N tokens, E experts, K choices. Logits, probabilities and gates are float32 or wider whatever the autocast (Fedus et al.
2022, table 2: in bfloat16 training diverged).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn import project, sum_over_processes

from .balance import balance, coefficient_of_variation, load_of_noisy, logit_size
from .dispatch import count


@dataclass
class Routing:
    """A router's decision.

    Attributes:
        taken_NK: false where a choice was made but not taken; none if all are taken.
        noisy: logits with noise and the noise's deviation, (N, E) each, in training, for gates that have it.
    """

    expert_NK: Tensor
    gate_NK: Tensor
    probability_NE: Tensor
    taken_NK: Tensor | None = None
    noisy: tuple[Tensor, Tensor] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    def counted_NK(self, real_N: Tensor | None) -> Tensor | None:
        """Which choices count: those of real tokens that were taken. None if all do."""
        if real_N is None:
            return self.taken_NK
        real_NK = real_N.unsqueeze(1).expand_as(self.expert_NK)
        return real_NK if self.taken_NK is None else real_NK & self.taken_NK


def top(score_NE: Tensor, choices: int) -> Tensor:
    """The experts with the largest scores, (N, K), largest first. Of equal scores the first wins, on every device.

    (``torch.topk`` breaks ties differently on each device, and sends all tokens of an untrained router to the last
    experts.)
    """
    if choices > 4:
        return torch.sort(score_NE, dim=-1, descending=True, stable=True).indices[:, :choices]
    experts, score_NE = [], score_NE.detach()
    for choice in range(choices):
        if choice:
            score_NE = score_NE.scatter(1, experts[-1], float("-inf"))
        experts.append(score_NE.argmax(-1, keepdim=True))  # the first of equals
    return torch.cat(experts, 1)


class Router(nn.Module):
    """Scores experts by a projection. A subclass selects experts and weights them.

    Args:
        projection: (..., D) to (..., E), the run's ``precise_linear``.
        jitter: in training the router's input is multiplied by a uniform number from [1 - jitter, 1 + jitter].
    """

    renormalises = False
    """Whether the gates of the chosen experts sum to one. Then a single choice would give the router no gradient."""

    def __init__(self, projection: nn.Module, experts: int, choices: int, jitter: float) -> None:
        super().__init__()
        self.projection, self.experts, self.choices, self.jitter = projection, experts, choices, jitter

    def forward(self, x_ND: Tensor, real_N: Tensor | None = None) -> Routing:
        """Where each token goes. Losses exist in training only, and cover real tokens only."""
        # logits in float32 or wider, (N, E)
        with torch.autocast(x_ND.device.type, enabled=False):
            x_ND = x_ND.to(torch.promote_types(x_ND.dtype, torch.float32))
            if self.training and self.jitter:
                x_ND = x_ND * torch.empty_like(x_ND).uniform_(1 - self.jitter, 1 + self.jitter)
            logits_NE = project(self.projection, x_ND)
            # select and weight experts, then add the losses of training
            routing = self.route(logits_NE, x_ND)
            if self.training:
                routing.losses["z"] = logit_size(logits_NE, real_N)
                self.add_losses(routing, logits_NE, real_N)
            return routing

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """Select experts and weight them."""
        raise NotImplementedError(f"{type(self).__name__} must route")

    def add_losses(self, routing: Routing, logits_NE: Tensor, real_N: Tensor | None) -> None:
        """The balance loss of Switch."""
        self._balance(routing, routing.expert_NK, real_N)

    def _balance(self, routing: Routing, expert_NK: Tensor, real_N: Tensor | None) -> None:
        counted_NK = None if real_N is None else real_N.unsqueeze(1).expand_as(expert_NK).reshape(-1)
        counts_E = sum_over_processes(count(expert_NK.reshape(-1), self.experts, counted_NK))
        routing.losses["balance"] = balance(routing.probability_NE, counts_E, real_N)


class Switch(Router):
    """Softmax over all experts. A gate is the probability itself, which trains the router with a single choice too."""

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """Fedus et al. 2022, arXiv:2101.03961; with several choices as in OLMoE (arXiv:2409.02060)."""
        probability_NE = logits_NE.softmax(-1)
        expert_NK = top(probability_NE, self.choices)
        return Routing(expert_NK, probability_NE.gather(1, expert_NK), probability_NE)


class Mixtral(Router):
    """Softmax over the chosen experts only."""

    renormalises = True

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """Jiang et al. 2024, arXiv:2401.04088: the same as the largest of the whole softmax over their sum."""
        expert_NK = top(logits_NE, self.choices)
        return Routing(expert_NK, logits_NE.gather(1, expert_NK).softmax(-1), logits_NE.softmax(-1))


class GShard(Mixtral):
    """Two choices, of which the second is taken at random, with a probability of twice its gate."""

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1. A choice that is not taken counts nothing."""
        routing = super().route(logits_NE, x_ND)
        if self.training:
            taken_NK = torch.rand_like(routing.gate_NK) < 2 * routing.gate_NK.detach()
            taken_NK[:, 0] = True
            routing.gate_NK, routing.taken_NK = routing.gate_NK * taken_NK, taken_NK
        return routing

    def add_losses(self, routing: Routing, logits_NE: Tensor, real_N: Tensor | None) -> None:
        """The balance loss of first choices only, as in the paper."""
        self._balance(routing, routing.expert_NK[:, :1], real_N)


class Noisy(Router):
    """Noise of learned size on the logits in training, and two losses: of importance and of load."""

    def __init__(self, projection: nn.Module, experts: int, choices: int, jitter: float, noise: nn.Module) -> None:
        super().__init__(projection, experts, choices, jitter)
        self.noise = noise
        for linear in (projection, noise):
            nn.init.zeros_(linear.weight)  # at first only noise routes, so load is even

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """Shazeer et al. 2017, arXiv:1701.06538, equations 3 to 5 and appendix A."""
        noisy_NE, noisy = logits_NE, None
        # in training add normal noise whose deviation is learned per expert and token
        if self.training:
            deviation_NE = F.softplus(project(self.noise, x_ND)) + 1e-2
            noisy_NE = logits_NE + torch.randn_like(logits_NE) * deviation_NE
            noisy = (noisy_NE, deviation_NE)
        # select by the noisy logits, and weight by a softmax over the chosen
        expert_NK = top(noisy_NE, self.choices)
        if self.choices == 1:  # a softmax over one logit is one, without gradient
            gate_NK = noisy_NE.softmax(-1).gather(1, expert_NK)
        else:
            gate_NK = noisy_NE.gather(1, expert_NK).softmax(-1)
        return Routing(expert_NK, gate_NK, logits_NE.softmax(-1), noisy=noisy)

    def add_losses(self, routing: Routing, logits_NE: Tensor, real_N: Tensor | None) -> None:
        """Squared coefficients of variation of importance (sums of gates) and of load (expected choices)."""
        noisy_NE, deviation_NE = routing.noisy
        gates_NE = torch.zeros_like(noisy_NE).scatter(1, routing.expert_NK, routing.gate_NK)
        load_NE = load_of_noisy(logits_NE, noisy_NE, deviation_NE, self.choices)
        if load_NE is None:
            load_NE = torch.zeros_like(gates_NE).scatter(1, routing.expert_NK, 1.0)
        if real_N is not None:
            gates_NE, load_NE = (t * real_N.unsqueeze(1) for t in (gates_NE, load_NE))
        routing.losses["importance"] = coefficient_of_variation(sum_over_processes(gates_NE.sum(0)))
        routing.losses["load"] = coefficient_of_variation(sum_over_processes(load_NE.sum(0)))


class Sigmoid(Router):
    """Sigmoid scores. A bias on the selection only follows the load, so that no balance loss is needed."""

    renormalises = True

    def __init__(
        self, projection: nn.Module, experts: int, choices: int, jitter: float, rate: float, scale: float
    ) -> None:
        super().__init__(projection, experts, choices, jitter)
        self.rate, self.scale = rate, scale
        self.register_buffer("bias_E", torch.zeros(experts))

    def route(self, logits_NE: Tensor, x_ND: Tensor) -> Routing:
        """DeepSeek-AI 2024, arXiv:2412.19437, equations 12 to 16; Wang et al. 2024, arXiv:2408.15664."""
        expert_NK = top(logits_NE.sigmoid() + self.bias_E.to(logits_NE.dtype), self.choices)
        logarithm_NE = F.logsigmoid(logits_NE)  # their softmax is sigmoid / sum, and never 0 / 0
        gate_NK = logarithm_NE.gather(1, expert_NK).softmax(-1) * self.scale
        return Routing(expert_NK, gate_NK, logarithm_NE.softmax(-1))

    @torch.no_grad()
    def move_bias(self, counts_E: Tensor) -> None:
        """After an optimizer step: up for experts below the mean load, down for those above."""
        counts_E = counts_E.to(self.bias_E)
        step_E = self.rate * torch.sign(counts_E.mean() - counts_E)
        self.bias_E += step_E - step_E.mean()


ROUTERS: dict[str, type[Router]] = {
    "mixtral": Mixtral,
    "switch": Switch,
    "gshard": GShard,
    "noisy": Noisy,
    "sigmoid": Sigmoid,
}
