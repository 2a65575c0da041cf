"""The mixture: a router, many experts, and for each token the few that it is sent to."""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import is_counting, is_recomputing, project, sum_over_processes

from .balance import SideLosses
from .dispatch import Order, combine, count, dispatch, sort
from .expert_choice import ExpertChoice
from .linears import Rows, experts_of, run
from .parallel import Spread
from .routing import ROUTERS, Router, Routing, Sigmoid

BALANCE = {"noisy": 0.1, "sigmoid": 0.0}
"""Default coefficients of the balance losses, from the papers; 0.01 for the other gates."""


class Mixture(nn.Module):
    """Each token through K of E feed-forward layers: sorted by expert, multiplied by groups, gathered back.

    No token is dropped, unless ``capacity`` is given: then in training an expert takes at most ``capacity * N * K / E``
    of a batch's N tokens, first choices before second ones, and dropped choices contribute nothing.
    """

    takes_mask = True

    def __init__(
        self,
        router: Router,
        rows: Rows,
        body: nn.Module,
        shared: nn.ModuleList,
        layer: int,
        coefficients: dict[str, float],
        capacity: float | None,
    ) -> None:
        super().__init__()
        # the parts; a shared expert is a feed-forward layer that every token passes
        self.router, self.rows, self.body, self.shared = router, rows, body, shared
        self.layer, self.coefficients, self.capacity = layer, coefficients, capacity
        self.couples_training = "" if capacity is None else f"the tokens of a batch share ffn.capacity={capacity}"
        self.spread: Spread | None = None
        # counts of this process, since the last optimizer step and since the last report; not buffers, which data
        # parallelism would overwrite with those of the first process
        self.step_E = torch.zeros(router.experts, dtype=torch.int64)
        self.window_E, self.dropped = torch.zeros_like(self.step_E), torch.zeros((), dtype=torch.int64)
        self._losses = SideLosses()
        self._chosen_N: Tensor | None = None

    def spread_experts_(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Keep only this process's share of the experts. Tokens travel to the others."""
        self.spread = Spread(group, self.router.experts)
        self.spread.shard_(self.body)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D). ``mask_BL`` is false at padding, which counts in no loss, load or capacity."""
        # route: K experts and gates for each token, and the assignments sorted by expert
        x_ND = x_BLD.reshape(-1, x_BLD.shape[-1])
        real_N = None if mask_BL is None else mask_BL.reshape(-1)
        routing = self.router(x_ND, real_N)
        order = sort(routing.expert_NK, self.router.experts)
        # in training note losses and loads, and drop what exceeds the capacity
        if self.training:
            self._note(routing, order, real_N, self._within_capacity(routing, real_N))
        else:
            chosen_N = routing.expert_NK[:, 0].detach()
            self._chosen_N = chosen_N if real_N is None else chosen_N.masked_fill(~real_N, -1)
        # gather each token once per choice, (S = N K, D), and run the experts on their rows
        x_SD = dispatch(x_ND, order)
        if self.spread is None:
            y_SD = run(self.body, self.rows, x_SD, order.ends_E, x_ND, order.token_S)
        else:
            y_SD = self.spread.run(self.body, self.rows, x_SD, order.counts_E)
        # gather back, weighted by the gates and summed over the choices
        y_BLD = combine(y_SD, routing.gate_NK, order).view(*x_BLD.shape[:-1], y_SD.shape[-1])
        # shared experts see every token
        for expert in self.shared:
            y_BLD = y_BLD + expert(x_BLD)
        return y_BLD

    def _within_capacity(self, routing: Routing, real_N: Tensor | None) -> Tensor | None:
        """Set the gates that an expert has no room for to zero, and return how many those are."""
        if self.capacity is None:
            return None
        (N, K), experts = routing.expert_NK.shape, self.router.experts
        counted_NK, index_NK = routing.counted_NK(real_N), routing.expert_NK
        if counted_NK is not None:  # what does not count queues at an extra expert
            index_NK = index_NK.masked_fill(~counted_NK, experts)
        # the room of an expert, in choices
        if real_N is None:
            room = torch.full((), self.capacity * N * K / experts, device=index_NK.device)
        else:
            room = self.capacity * real_N.sum() * K / experts
        room = room.ceil().clamp(min=1)
        queue = sort(index_NK.t().reshape(-1, 1), experts + 1)  # all first choices, then all second ones
        # the position of each choice in its expert's queue
        starts_E = queue.counts_E.cumsum(0) - queue.counts_E
        position_S = torch.arange(N * K, device=room.device)
        position_S = position_S - starts_E.repeat_interleave(queue.counts_E, output_size=N * K)
        # choices beyond the room get a gate of zero
        kept_NK = (position_S < room).index_select(0, queue.inverse_S).view(K, N).t()
        routing.gate_NK = routing.gate_NK * kept_NK
        return (~kept_NK if counted_NK is None else ~kept_NK & counted_NK).sum()

    def _note(self, routing: Routing, order: Order, real_N: Tensor | None, dropped: Tensor | None) -> None:
        """Keep losses and counts of this pass, unless it only recomputes activations or counts operations."""
        if is_counting() or is_recomputing():
            return
        # losses with their coefficients, for the training loop
        weights = self.coefficients
        self._losses.add({name: weights[name] * loss for name, loss in routing.losses.items() if weights[name]})
        # loads of experts: real tokens and choices that were taken
        with torch.no_grad():
            counted_NK, counts_E = routing.counted_NK(real_N), order.counts_E
            if counted_NK is not None:
                counts_E = count(routing.expert_NK.reshape(-1), self.router.experts, counted_NK.reshape(-1))
            self.step_E, self.window_E = (total_E.to(counts_E.device) for total_E in (self.step_E, self.window_E))
            self.step_E += counts_E  # in place, so that a captured graph updates it too
            self.window_E += counts_E
            if dropped is not None:
                self.dropped = self.dropped.to(dropped.device)
                self.dropped += dropped

    def side_losses(self) -> dict[str, Tensor]:
        """The weighted balance and z-losses, the mean over passes since this was last asked. Handed out once."""
        return self._losses.taken()

    @torch.no_grad()
    def side_metrics(self) -> dict[str, Tensor]:
        """Over all processes since the last report: how even the load is, dead experts, dropped tokens."""
        # add up all processes, and start counting anew
        window_E, dropped = sum_over_processes(self.window_E).clone(), sum_over_processes(self.dropped).clone()
        self.window_E.zero_()
        self.dropped.zero_()
        total, experts = window_E.sum().clamp(min=1), self.router.experts
        share_E = window_E.double() / total
        # worst overload relative to an even share, entropy of the load (1 is even), experts without a token
        figures = {
            "max_violation": share_E.max() * experts - 1,
            "load_entropy": torch.special.entr(share_E).sum() / math.log(max(2, experts)),
            "dead_experts": (window_E == 0).sum().double(),
        }
        if self.capacity is not None:
            figures["dropped"] = dropped / total
        # under one name for all layers, and under each layer's own
        metrics = {f"moe/{name}": value for name, value in figures.items()}
        metrics |= {f"moe/layer{self.layer}/{name}": value for name, value in figures.items()}
        if experts <= 16:
            metrics |= {f"moe/layer{self.layer}/load{expert}": share_E[expert] for expert in range(experts)}
        return metrics

    def counters(self) -> dict[str, Tensor]:
        """What is counted since the last report."""
        return {"window_E": self.window_E, "dropped": self.dropped}

    @torch.no_grad()
    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Move the selection bias by the load of the whole step, over all processes."""
        if isinstance(self.router, Sigmoid):
            self.router.move_bias(sum_over_processes(self.step_E))
        self.step_E.zero_()

    def choices(self) -> Tensor | None:
        """The first choice of each token in the last evaluation pass, -1 at padding."""
        return self._chosen_N

    def parts(self) -> int:
        """How many experts there are."""
        return self.router.experts

    def inactive_parameters(self) -> int:
        """Expert parameters that a token does not meet, of those that this process holds."""
        experts = self.router.experts
        return (
            sum(parameter.numel() for parameter in self.body.parameters()) * (experts - self.router.choices) // experts
        )


class Gated(nn.Module):
    """A shared expert times a number of each token: ``sigmoid(w x) * expert(x)``."""

    def __init__(self, expert: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.expert, self.gate = expert, gate

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return project(self.gate, x_BLD).sigmoid() * self.expert(x_BLD)


@register("ffn", "moe")
def moe(
    dim: int,
    depth: int,
    layer: int,
    causal: bool,
    expert_ffn,
    dense_ffn,
    precise_linear,
    experts: int = 8,
    top_k: int = 2,
    gate: Literal["mixtral", "switch", "gshard", "noisy", "sigmoid", "expert_choice"] = "mixtral",
    shared: int = 0,
    shared_gate: bool = False,
    every: int = 1,
    first_dense: int = 0,
    capacity: float | None = None,
    balance: float | None = None,
    z_loss: float = 1e-3,
    jitter: float = 0.0,
    bias_rate: float = 1e-3,
    gate_scale: float = 1.0,
):
    """A mixture of experts: each token goes to ``top_k`` of ``experts`` feed-forward layers, chosen by a router.

    ``y = sum_k g_k E_k(x) + sum_s S_s(x)`` with gates g from the router's logits ``W x``, over the chosen experts E and
    the shared ones S. Shazeer et al. 2017, arXiv:1701.06538. An expert is any feed-forward layer
    (``ffn@expert_ffn=mlp``, ``expert_ffn.ratio``) of any linear (``linear@expert_ffn.linear=ternary``). Coefficients of
    losses are divided by the number of mixtures, so that depth does not change them.

    Args:
        experts: number of experts per layer.
        top_k: number of experts per token, or on average with ``gate=expert_choice``.
        gate: how experts are chosen and weighted. ``mixtral`` is a softmax over the chosen, ``switch`` the probability
            itself, ``gshard`` two with the second at random, ``noisy`` adds learned noise (Shazeer), ``sigmoid`` is
            DeepSeek-V3's, balanced by a bias. In ``expert_choice`` experts pick tokens, for encoders only.
        shared: number of further experts that every token passes.
        shared_gate: multiply what each shared expert gives by ``sigmoid(w x)``, one number a token, as Qwen2-MoE and
            Qwen3-Next do (Yang et al. 2024, arXiv:2407.10671).
        every: every so many layers are mixtures, and the others ``dense_ffn``. 1 means every layer.
        first_dense: number of layers at the start that are ``dense_ffn``.
        capacity: most tokens of an expert in training, relative to an even share. It drops tokens and couples those of
            a batch. By default there is no limit.
        balance: coefficient of the balance loss. By default 0.01, for ``noisy`` 0.1 and for ``sigmoid`` 0.
        z_loss: coefficient of the z-loss, the mean of ``logsumexp(logits)^2``, which keeps logits small.
        jitter: in training the router's input is multiplied by random numbers from 1 - jitter to 1 + jitter; below 1.
        bias_rate: how far ``gate=sigmoid`` moves its selection bias per step, towards an even load.
        gate_scale: factor on the gates of ``gate=sigmoid``.
    """
    # which layers are mixtures; this one may be an ordinary feed-forward layer
    layers = [i for i in range(depth) if i >= first_dense and (i + 1) % every == 0] if every > 0 else []
    if not layers:
        raise ValueError(
            f"ffn.every={every}, ffn.first_dense={first_dense}: none of the {depth} layers would be a mixture; "
            f"expected 1 <= every <= layers and first_dense < layers"
        )
    if layer not in layers:
        return dense_ffn(layer=layer)
    # refuse settings that do not go together
    _check(
        experts,
        top_k,
        gate,
        causal,
        shared,
        shared_gate,
        capacity,
        {"balance": balance or 0, "z_loss": z_loss, "jitter": jitter},
    )
    if capacity is not None:
        warnings.warn(
            f"ffn.capacity={capacity}: in training what a token gets depends on the other tokens of its batch",
            stacklevel=2,
        )
    # the router's projection, and all experts as one module for rows sorted by expert
    projection = precise_linear(in_features=dim, out_features=experts, bias=False)
    rows = Rows()
    body = experts_of(expert_ffn, rows, experts, layer=layer)
    every_token = nn.ModuleList(expert_ffn(layer=layer) for _ in range(shared))
    if shared_gate:
        every_token = nn.ModuleList(
            Gated(expert, precise_linear(in_features=dim, out_features=1, bias=False)) for expert in every_token
        )
    # experts that choose, or tokens that choose, with what the gate needs besides
    if gate == "expert_choice":
        return ExpertChoice(projection, rows, body, every_token, layer, experts, top_k, z_loss / len(layers))
    extra = {
        "noisy": lambda: {"noise": precise_linear(in_features=dim, out_features=experts, bias=False)},
        "sigmoid": lambda: {"rate": bias_rate, "scale": gate_scale},
    }
    router = ROUTERS[gate](projection, experts, top_k, jitter, **extra.get(gate, dict)())
    # coefficients per layer
    weight = (BALANCE.get(gate, 0.01) if balance is None else balance) / len(layers)
    coefficients = {"balance": weight, "importance": weight, "load": weight, "z": z_loss / len(layers)}
    return Mixture(router, rows, body, every_token, layer, coefficients, capacity)


def _check(
    experts: int,
    top_k: int,
    gate: str,
    causal: bool,
    shared: int,
    shared_gate: bool,
    capacity: float | None,
    sizes: dict[str, float],
) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: a number is out of range, or does not go with the gate.
    """
    # ranges
    if not 1 <= top_k <= experts:
        raise ValueError(f"ffn.top_k={top_k}: expected 1 to ffn.experts={experts}")
    for name, value in {**sizes, "shared": shared, "capacity": 1 if capacity is None else capacity}.items():
        if value < 0 or (name == "capacity" and value == 0) or (name == "jitter" and value >= 1):
            raise ValueError(f"ffn.{name}={value}: expected at least 0" + (", below 1" if name == "jitter" else ""))
    if shared_gate and not shared:
        raise ValueError("ffn.shared_gate=true gates shared experts, and ffn.shared=0; choose ffn.shared=1 or more")
    # experts that choose see the whole sequence, and need no balancing
    if gate == "expert_choice":
        if causal:
            raise ValueError(
                "ffn.gate=expert_choice lets experts pick tokens of the whole sequence, so a causal model would see "
                "the future; use another gate, or an encoder such as task=digits"
            )
        unread = [name for name, value in {**sizes, "capacity": capacity}.items() if value and name != "z_loss"]
        if unread:
            raise ValueError(f"ffn.gate=expert_choice is even by construction and does not read ffn.{unread[0]}")
        return
    # gates that need a certain number of choices
    if gate == "gshard" and top_k != 2:
        raise ValueError(f"ffn.gate=gshard chooses two experts, ffn.top_k={top_k}; use gate=switch for another number")
    if top_k == 1 and ROUTERS[gate].renormalises:
        raise ValueError(
            f"ffn.gate={gate} makes the gates of the chosen experts sum to one, so with ffn.top_k=1 the router would "
            f"never learn; use ffn.gate=switch or more choices"
        )
