"""The mixture: a router, many experts, and for each token the few that it was sent to."""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import register
from zoo.nn import is_counting

from .dispatch import Order, combine, count, dispatch, sort
from .expert_choice import ExpertChoice
from .linears import Rows, experts_of, run
from .parallel import Spread
from .routing import GShard, Mixtral, Noisy, Router, Routing, Sigmoid, Switch

SIMPLE: dict[str, type[Router]] = {"mixtral": Mixtral, "switch": Switch, "gshard": GShard}
BALANCE = {"noisy": 0.1, "sigmoid": 0.0}
"""Coefficients of the balance losses where ``balance`` is not given: the papers' own; 0.01 for the others."""


class Mixture(nn.Module):
    """Each token through ``choices`` of ``experts`` feed-forwards: sorted by expert, multiplied by groups, gathered
    back.

    No token is dropped, unless ``capacity`` says so: then in training an expert takes at most ``capacity * N * K / E``
    of a batch's N tokens, first choices before second ones, and what is left over contributes nothing.
    """

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
        self.router, self.rows, self.body, self.shared = router, rows, body, shared
        self.layer, self.coefficients, self.capacity = layer, coefficients, capacity
        self.register_buffer("step_E", torch.zeros(router.experts, dtype=torch.int64), persistent=False)
        self.register_buffer("window_E", torch.zeros(router.experts, dtype=torch.int64), persistent=False)
        self.register_buffer("dropped", torch.zeros((), dtype=torch.int64), persistent=False)
        self._losses: dict[str, Tensor] = {}
        self.spread: Spread | None = None
        self._chosen_N: Tensor | None = None

    def spread_experts_(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Keep this process's share of the experts; tokens travel to the others'."""
        self.spread = Spread(group, self.router.experts)
        self.spread.shard_(self.body)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D); ``mask_BL`` is false at padding, which counts in no loss and no load."""
        x_ND = x_BLD.reshape(-1, x_BLD.shape[-1])
        real_N = None if mask_BL is None else mask_BL.reshape(-1)
        routing = self.router(x_ND, real_N)
        order = sort(routing.expert_NK, self.router.experts)
        if self.training:
            gate_NK, dropped = self._within_capacity(routing, order, real_N)
            routing.gate_NK = gate_NK
            self._note(routing, order, real_N, dropped)
        elif not torch.compiler.is_compiling():
            self._chosen_N = routing.expert_NK[:, 0].detach()
        x_SD = dispatch(x_ND, order)
        if self.spread is None:
            y_SD = run(self.body, self.rows, x_SD, order.ends_E, x_ND, order.token_S)
        else:
            y_SD = self.spread.run(self.body, self.rows, x_SD, order.counts_E)
        y_ND = combine(y_SD, routing.gate_NK, order)
        for expert in self.shared:
            y_ND = y_ND + expert(x_ND)
        return y_ND.view(*x_BLD.shape[:-1], y_ND.shape[-1])

    def _within_capacity(self, routing: Routing, order: Order, real_N: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Gates with zeros for what an expert has no room for, and how many those are."""
        if self.capacity is None:
            return routing.gate_NK, None
        N, K = routing.expert_NK.shape
        experts = self.router.experts
        room = max(4, math.ceil(self.capacity * N * K / experts))
        by_choice = sort(routing.expert_NK.t().reshape(-1, 1), experts)  # all first choices, then all second ones
        starts_E = by_choice.counts_E.cumsum(0) - by_choice.counts_E
        place_S = torch.arange(N * K, device=starts_E.device)
        place_S = place_S - starts_E.repeat_interleave(by_choice.counts_E, output_size=N * K)
        kept_NK = (place_S < room).index_select(0, by_choice.inverse_S).view(K, N).t()
        return routing.gate_NK * kept_NK, (~kept_NK if real_N is None else ~kept_NK & real_N.unsqueeze(1)).sum()

    def _note(self, routing: Routing, order: Order, real_N: Tensor | None, dropped: Tensor | None) -> None:
        """Keep losses and counts of this pass, unless it only recomputes activations or counts operations."""
        if is_counting() or (not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1):
            return
        weights = self.coefficients
        self._losses = {name: weights[name] * loss for name, loss in routing.losses.items() if weights[name]}
        with torch.no_grad():
            counts_E = order.counts_E
            if real_N is not None:
                counts_E = count(routing.expert_NK[real_N].reshape(-1), self.router.experts)
            self.step_E += counts_E
            self.window_E += counts_E
            if dropped is not None:
                self.dropped += dropped

    def side_losses(self) -> dict[str, Tensor]:
        """Balance and z-loss of the last pass, weighted; asked for once, so that no graph is kept alive."""
        losses, self._losses = self._losses, {}
        return losses

    @torch.no_grad()
    def side_metrics(self) -> dict[str, Tensor]:
        """Of all tokens since the last report: how even the load is, who is dead, what was dropped."""
        load_E, total = self.window_E.double(), self.window_E.sum().clamp(min=1)
        share_E, experts = load_E / total, self.router.experts
        found = {
            "max_violation": share_E.max() * experts - 1,
            "load_entropy": torch.special.entr(share_E).sum() / math.log(max(2, experts)),
            "dead_experts": (self.window_E == 0).sum().double(),
        }
        if self.capacity is not None:
            found["dropped"] = self.dropped / total
        metrics = {f"moe/{name}": value for name, value in found.items()}
        metrics |= {f"moe/layer{self.layer}/{name}": value for name, value in found.items()}
        if experts <= 16:
            metrics |= {f"moe/layer{self.layer}/load{expert}": share_E[expert] for expert in range(experts)}
        self.window_E.zero_()
        self.dropped.zero_()
        return metrics

    @torch.no_grad()
    def after_optimizer_step(self, step: int, steps: int) -> None:
        """Move the selection's bias by the load of the whole step, over all processes."""
        if isinstance(self.router, Sigmoid):
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(self.step_E)
            self.router.move_bias(self.step_E)
        self.step_E.zero_()

    def choices(self) -> Tensor | None:
        """The first choice of each token of the last pass in evaluation."""
        return self._chosen_N

    def parts(self) -> int:
        """How many experts there are."""
        return self.router.experts

    def inactive_parameters(self) -> int:
        """Parameters of experts that a token does not meet."""
        here = self.router.experts if self.spread is None else self.spread.local
        each = sum(parameter.numel() for parameter in self.body.parameters()) // here
        return each * (here - self.router.choices)


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
    every: int = 1,
    first_dense: int = 0,
    capacity: float | None = None,
    balance: float | None = None,
    z_loss: float = 1e-3,
    jitter: float = 0.0,
    bias_rate: float = 1e-3,
    gate_scale: float = 1.0,
):
    """A mixture of experts: each token goes to ``top_k`` of ``experts`` feed-forwards, chosen by a router.

    Shazeer et al. 2017, arXiv:1701.06538. An expert is any feed-forward (``ffn@expert_ffn=mlp``, ``expert_ffn.ratio``)
    of any linear (``linear@expert_ffn.linear=ternary``). ``gate``: ``mixtral`` (softmax of the chosen), ``switch``
    (probability itself), ``gshard`` (two, the second at random), ``noisy`` (Shazeer), ``sigmoid`` (DeepSeek-V3:
    balanced by a bias that moves by ``bias_rate``), ``expert_choice`` (experts pick tokens; encoders alone).
    ``shared`` experts see every token. The first ``first_dense`` layers and all but every ``every``-th are
    ``dense_ffn``. Loss coefficients are divided by the number of mixtures, so depth does not change them. ``capacity``
    drops tokens in training and couples those of a batch.
    """
    layers = [i for i in range(depth) if i >= first_dense and (i + 1) % every == 0] if every > 0 else []
    if not layers:
        raise ValueError(
            f"ffn.every={every}, ffn.first_dense={first_dense}: none of the {depth} layers would be a mixture; "
            f"expected every >= 1, and both no more than the layers"
        )
    if layer not in layers:
        return dense_ffn(layer=layer)
    if not 1 <= top_k <= experts:
        raise ValueError(f"ffn.top_k={top_k}: expected 1 to ffn.experts={experts}")
    if gate == "gshard" and top_k != 2:
        raise ValueError(f"ffn.gate=gshard chooses two experts, ffn.top_k={top_k}; use gate=switch for another number")
    if top_k == 1 and gate in ("mixtral", "sigmoid"):
        raise ValueError(
            f"ffn.gate={gate} makes the gates of the chosen experts sum to one, so with ffn.top_k=1 the router would "
            f"never learn; use ffn.gate=switch or more choices"
        )
    if gate == "expert_choice" and causal:
        raise ValueError(
            "ffn.gate=expert_choice lets experts pick tokens of the whole sequence, so a causal model would see the "
            "future; use another gate, or an encoder such as task=digits"
        )
    if capacity is not None:
        warnings.warn(
            f"ffn.capacity={capacity}: in training what a token gets depends on the other tokens of its batch",
            stacklevel=2,
        )
    projection = precise_linear(in_features=dim, out_features=experts, bias=False)
    rows = Rows()
    body = experts_of(expert_ffn, rows, experts, layer=layer)
    every_token = nn.ModuleList(expert_ffn(layer=layer) for _ in range(shared))
    if gate == "expert_choice":
        return ExpertChoice(projection, rows, body, every_token, layer, experts, top_k, z_loss / len(layers))
    if gate == "noisy":
        noise = precise_linear(in_features=dim, out_features=experts, bias=False)
        router: Router = Noisy(projection, experts, top_k, jitter, noise)
    elif gate == "sigmoid":
        router = Sigmoid(projection, experts, top_k, jitter, bias_rate, gate_scale)
    else:
        router = SIMPLE[gate](projection, experts, top_k, jitter)
    weight = (BALANCE.get(gate, 0.01) if balance is None else balance) / len(layers)
    coefficients = {"balance": weight, "importance": weight, "load": weight, "z": z_loss / len(layers)}
    return Mixture(router, rows, body, every_token, layer, coefficients, capacity)
