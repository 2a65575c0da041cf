"""The published layers by name, each a matrix memory with its choices made."""

from typing import Literal

from zoo import register

from .mixer import MatrixMemory


@register("mixer", "retnet")
class RetNet(MatrixMemory):
    """Retention: linear attention whose heads forget at fixed rates, with rotated queries and keys.

    ``S_t = gamma S_{t-1} + k_t v_t^T`` and ``y_t = S_t^T q_t``, with ``gamma = 1 - 2^(-5 - h)`` in head h, then ``out(
    norm(y) * silu(W x))`` (Sun et al. 2023, arXiv:2307.08621, equations 6 and 8). The run's positions turn queries and
    keys, if they are of that kind (``position=rotary``). It is ``matrix_memory`` with ``decay=fixed`` and
    ``write=hebbian``. The state has one number more, the tokens seen.

    Args:
        heads: number of memories, each with a rate of its own. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``2 * dim``, as published.
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        position,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        convolution: int = 1,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay="fixed",
            write="hebbian",
            unit_keys=False,
            heads=heads,
            key_dim=key_dim,
            value_dim=2 * dim if value_dim is None else value_dim,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )
        self.position = position(heads=self.heads, head_dim=self.key_size)


@register("mixer", "gla")
class GatedLinearAttention(MatrixMemory):
    """Gated linear attention: each channel of the keys forgets as the token decides.

    ``S_t = Diag(a_t) S_{t-1} + k_t v_t^T`` and ``y_t = S_t^T q_t`` with ``a_t = sigmoid(W_2 W_1 x_t + b)^(1/16)``, then
    ``out(norm(y) * silu(W x))`` (Yang et al. 2023, arXiv:2312.06635, equations 3 and 4). It is ``matrix_memory`` with
    ``decay=vector`` and ``write=hebbian``.

    Args:
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default half of ``dim``, as published.
        value_dim: channels of the values of all heads together. By default ``dim``.
        decay_rank: rank of the projection to the decays.
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        decay_rank: int = 16,
        convolution: int = 1,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay="vector",
            write="hebbian",
            unit_keys=False,
            decay_form="sigmoid",
            heads=heads,
            key_dim=dim // 2 if key_dim is None else key_dim,
            value_dim=value_dim,
            decay_rank=decay_rank,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )


@register("mixer", "hgrn2")
class HGRN2(MatrixMemory):
    """A gated linear recurrence whose state is a matrix: what a channel of the keys forgets is what it writes.

    ``S_t = Diag(a_t) S_{t-1} + (1 - a_t) v_t^T`` and ``y_t = S_t^T silu(W_q x_t)`` with ``a_t = b + (1 - b) sigmoid(W_a
    x_t)``, then ``out(norm(y))`` (Qin et al. 2024, arXiv:2404.07904). The bound b rises with depth:
    it is ``layer / depth``, where the paper's starts; the paper trains it. The norm is one of each head. It is
    ``matrix_memory`` with ``decay=keys`` and ``write=hebbian``.

    Args:
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        least_decay: b. By default ``layer / depth``.
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        layer: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        least_decay: float | None = None,
        convolution: int = 1,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay="keys",
            write="hebbian",
            unit_keys=False,
            feature_map="silu",
            output_gate="none",
            least_decay=layer / depth if least_decay is None else least_decay,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )


@register("mixer", "deltanet")
class DeltaNet(MatrixMemory):
    """The delta rule: a token replaces what the memory held under its key, and nothing else is forgotten.

    ``S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T`` and ``y_t = S_t^T q_t`` with keys of length 1, then
    ``out(norm(y))`` (Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484). It is ``matrix_memory``
    with ``decay=none`` and ``output_gate=none``.

    Args:
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        beta_max: largest strength of a write; 2 allows negative eigenvalues (arXiv:2411.12537).
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        beta_max: float = 1.0,
        convolution: int = 4,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay="none",
            output_gate="none",
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            beta_max=beta_max,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )


@register("mixer", "gated_deltanet")
class GatedDeltaNet(MatrixMemory):
    """The delta rule with a gate in each head that forgets, as in Qwen3-Next and Olmo Hybrid.

    ``S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T`` and ``y_t = S_t^T q_t`` with keys of length 1 and
    ``a_t = exp(-A softplus(w x_t + dt_bias))``, then ``out(norm(y) * silu(W x))`` (Yang et al. 2024, arXiv:2412.06464,
    equation 10). It is ``matrix_memory`` as it is by default.

    Args:
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        beta_max: largest strength of a write; 2 allows negative eigenvalues, as Olmo Hybrid has them.
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        beta_max: float = 1.0,
        convolution: int = 4,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            beta_max=beta_max,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )


@register("mixer", "kda")
class KimiDeltaAttention(MatrixMemory):
    """The delta rule with a gate of each channel of the keys (Kimi Delta Attention).

    ``S_t = (I - beta_t k_t k_t^T) Diag(a_t) S_{t-1} + beta_t k_t v_t^T`` and ``y_t = S_t^T q_t`` with keys of length 1
    and ``a_t = exp(-A softplus(W_2 W_1 x_t + dt_bias))``, then ``out(norm(y) * sigmoid(W_4 W_3 x))`` (Kimi team 2025,
    arXiv:2510.26692). Both low ranks are the channels of a head. It is ``matrix_memory`` with ``decay=vector`` and
    ``output_gate=sigmoid``.

    Args:
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        beta_max: largest strength of a write; 2 allows negative eigenvalues (arXiv:2411.12537).
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: tokens that are computed at once. It changes speed and memory, not the result.
        backend: ``torch`` is ours. ``fla`` is the fused kernels of flash-linear-attention, which need CUDA and half
            precision. ``auto`` takes them where they work.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        beta_max: float = 1.0,
        convolution: int = 4,
        chunk: int = 32,
        backend: Literal["auto", "torch", "fla"] = "auto",
    ) -> None:
        many = max(1, dim // 64) if heads is None else heads
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay="vector",
            output_gate="sigmoid",
            gate_rank=max(1, (dim if value_dim is None else value_dim) // max(1, many)),
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            beta_max=beta_max,
            convolution=convolution,
            chunk=chunk,
            backend=backend,
        )


@register("mixer", "delta_product")
class DeltaProduct(MatrixMemory):
    """Several delta rules a token, whose product of Householder matrices can rotate the memory.

    ``S <- a_t S_{t-1}`` (``a_t = 1`` without a gate), then ``S <- (I - beta_tj k_tj k_tj^T) S + beta_tj k_tj v_tj^T``
    for j = 1 .. n, and ``y_t = S^T q_t``, with keys of length 1 and beta in (0, 2) (Siems et al. 2025,
    arXiv:2502.10297). It is ``matrix_memory`` with ``householders`` and ``beta_max=2``.

    Args:
        householders: n, the writes of a token. Two make rotations, which permutations of few things need.
        decay: ``scalar`` is the gated form, ``none`` the plain one.
        heads: number of memories. By default one per 64 channels.
        key_dim: channels of the keys of all heads together. By default ``dim``.
        value_dim: channels of the values of all heads together. By default ``dim``.
        beta_max: largest strength of a write; without 2 there is no reflection.
        convolution: width in tokens of a short causal convolution, followed by SiLU. 1 means neither.
        chunk: writes that are computed at once. It changes speed and memory, not the result.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        linear,
        precise_linear,
        householders: int = 2,
        decay: Literal["none", "scalar"] = "scalar",
        heads: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        beta_max: float = 2.0,
        convolution: int = 4,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            dim,
            depth,
            linear,
            precise_linear,
            decay=decay,
            householders=householders,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            beta_max=beta_max,
            convolution=convolution,
            chunk=chunk,
        )
