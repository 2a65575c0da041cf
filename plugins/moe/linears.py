"""Per-expert weights behind one module: rows that are sorted by expert meet their own expert's weights.

A feed-forward layer built of these is one feed-forward layer per expert, whatever it does between them. It runs in one
of two ways, with the same result: all rows at once, each matrix multiply by groups; or expert by expert, so that an
expert's rows stay in a processor's cache from the first multiply to the last.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn import compute_dtype, rescale_

from .grouped import grouped_mm

FEWEST = 160
"""Average rows per expert from which going expert by expert is faster on a CPU."""


class Rows:
    """Which rows belong to which expert during a forward pass. Empty between passes.

    Attributes:
        ends_E, size: where each expert's rows end, int32, and how many rows there are.
        expert: the expert that is running, where they run one by one.
        chunk, source: its rows, and the tokens (N, D) with the indices of those that the rows were taken from.
    """

    ends_E: Tensor | None = None
    size: int = 0
    expert: int | None = None
    chunk: Tensor | None = None
    source: tuple[Tensor, Tensor] | None = None

    def ends_among(self, rows: int) -> Tensor:
        """Where each expert's rows end among ``rows`` rows: the rows themselves, or each of them in as many pieces.

        Raises:
            ValueError: ``rows`` is not a multiple of the number of rows.
        """
        pieces = rows // max(1, self.size)
        if rows != pieces * self.size:
            raise ValueError(
                f"an expert's linear got {rows} rows of {self.size} tokens; an expert must keep tokens apart"
            )
        return self.ends_E if pieces == 1 else self.ends_E * pieces

    def counts(self, rows: int) -> list[int]:
        """How many of this many rows each expert has."""
        return [b - a for a, b in itertools.pairwise([0, *self.ends_among(rows).tolist()])]


class _LinearOfTaken(torch.autograd.Function):
    """A linear on gathered rows. For backward it keeps the source, which lives anyway, and gathers the rows again."""

    @staticmethod
    def forward(ctx, chunk_RK: Tensor, weight_NK: Tensor, x_MK: Tensor, index_R: Tensor) -> Tensor:
        ctx.save_for_backward(weight_NK, x_MK, index_R)
        return F.linear(chunk_RK, weight_NK)

    @staticmethod
    def backward(ctx, gradient_1RN: Tensor):
        weight_NK, x_MK, index_R = ctx.saved_tensors
        dweight_NK = gradient_1RN.squeeze(0).t() @ x_MK.index_select(0, index_R)
        return gradient_1RN @ weight_NK, dweight_NK, None, None


class StackedLinear(nn.Module):
    """The dense weights of all experts, (E, N, K), in one parameter."""

    def __init__(self, rows: Rows, linears: list[nn.Linear]) -> None:
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.stack([linear.weight.detach() for linear in linears]))
        self.unbound: tuple[Tensor, ...] = ()

    def forward(self, x_SK: Tensor) -> Tensor:
        """(..., K), sorted by expert, to (..., N)."""
        rows = self.rows
        # one expert at a time: its own weight, and the memory-saving form for rows fresh from the tokens
        if rows.expert is not None:
            weight_NK = self.unbound[rows.expert]
            if x_SK is rows.chunk and not torch.is_autocast_enabled(x_SK.device.type):
                return _LinearOfTaken.apply(x_SK, weight_NK, *rows.source)
            return F.linear(x_SK, weight_NK)
        # all experts at once: one grouped multiply
        dtype = compute_dtype(x_SK)
        flat_SK = x_SK.reshape(-1, x_SK.shape[-1]).to(dtype).contiguous()
        y_SN = grouped_mm(flat_SK, self.weight.to(dtype), rows.ends_among(flat_SK.shape[0]))
        return y_SN.view(*x_SK.shape[:-1], y_SN.shape[-1])


class Listed(nn.Module):
    """Modules of any kind, each on its own rows. One without rows still runs, so that it has a gradient."""

    def __init__(self, rows: Rows, parts: list[nn.Module]) -> None:
        super().__init__()
        self.rows, self.parts = rows, nn.ModuleList(parts)

    def scale_(self, factor: float) -> None:
        """Multiply what each module gives."""
        for part in self.parts:
            rescale_(part, factor)

    def forward(self, x_SK: Tensor) -> Tensor:
        """(..., K), sorted by expert, to (..., N)."""
        if self.rows.expert is not None:
            return self.parts[self.rows.expert](x_SK)
        flat_SK = x_SK.reshape(-1, x_SK.shape[-1])
        chunks = flat_SK.split(self.rows.counts(flat_SK.shape[0]))
        y_SN = torch.cat([part(chunk.unsqueeze(0)).squeeze(0) for part, chunk in zip(self.parts, chunks, strict=True)])
        return y_SN.view(*x_SK.shape[:-1], y_SN.shape[-1])


def run(body: nn.Module, rows: Rows, x_SD: Tensor, ends_E: Tensor, x_ND: Tensor, token_S: Tensor) -> Tensor:
    """Rows through their experts, (S, D) to (S, D), sorted by expert. They are tokens ``token_S`` of x (N, D)."""
    few = x_SD.shape[0] < FEWEST * ends_E.shape[0]
    if x_SD.is_cuda or torch.compiler.is_compiling() or few:
        return at_once(body, rows, x_SD, ends_E)
    rows.ends_E, rows.size = ends_E, x_SD.shape[0]
    try:
        return _one_by_one(body, rows, x_SD, x_ND, token_S)
    finally:
        rows.ends_E = None


def at_once(body: nn.Module, rows: Rows, x_SD: Tensor, ends_E: Tensor) -> Tensor:
    """All rows through their experts by grouped multiplies, as one long sequence."""
    rows.ends_E, rows.size = ends_E, x_SD.shape[0]
    try:
        return body(x_SD.unsqueeze(0)).squeeze(0)
    finally:
        rows.ends_E = None


def _one_by_one(body: nn.Module, rows: Rows, x_SD: Tensor, x_ND: Tensor, token_S: Tensor) -> Tensor:
    stacked = [module for module in body.modules() if isinstance(module, StackedLinear)]
    for module in stacked:  # once: indexing E times would write E stacks of zeros
        module.unbound = module.weight.unbind(0)
    # each expert's rows through the whole feed-forward layer before the next expert's
    counts, expert_outputs = rows.counts(rows.size), []
    try:
        for expert, (chunk, indices) in enumerate(zip(x_SD.split(counts), token_S.split(counts), strict=True)):
            rows.expert, rows.chunk, rows.source = expert, chunk.unsqueeze(0), (x_ND, indices)
            expert_outputs.append(body(rows.chunk).squeeze(0))
    finally:
        rows.expert = rows.chunk = rows.source = None
        for module in stacked:
            module.unbound = ()
    return torch.cat(expert_outputs)


def experts_of(expert_ffn, rows: Rows, experts: int, **facts) -> nn.Module:
    """As many feed-forward layers as there are experts, as one module for sorted rows: (S, D) to (S, D).

    Dense linears without biases are stacked. Other linears, and norms, are listed. A feed-forward layer that has other
    parameters besides is listed whole.

    Raises:
        ValueError: the feed-forward is ``none``.
    """

    def wrap(factory):
        def build(**here) -> nn.Module:
            made = [factory(**here) for _ in range(experts)]
            dense = all(type(part) is nn.Linear and part.bias is None for part in made)
            return (StackedLinear if dense else Listed)(rows, made)

        return build

    # build the layer once, with each of its linears and norms replaced by one for all experts
    body = expert_ffn.wrapping("linear", wrap).wrapping("norm", wrap)(**facts)
    if body is None:
        raise ValueError("ffn@expert_ffn=none: an expert must be a feed-forward")
    # parameters that were not replaced would be shared by all experts: then list the layer whole
    grouped = [module for module in body.modules() if isinstance(module, StackedLinear | Listed)]
    if sum(p.numel() for p in body.parameters()) > sum(p.numel() for module in grouped for p in module.parameters()):
        return Listed(rows, [expert_ffn(**facts) for _ in range(experts)])
    return body
