"""What each kind of component must do. Nothing here knows an architecture.

Legend of shape suffixes, used everywhere: B batch, L length, S scored positions, D model channels, H heads,
G key-value heads, K channels of a head, V vocabulary, C classes, N state, E experts, M memory (cached positions).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""``inputs`` (B, L) or (B, channels, height, width); ``targets`` (B, S), -100 where nothing is asked;
``positions`` (B, S), where each target is read off, absent when S = L; ``labels`` (B,) of whole inputs; or
``token_labels`` (B, L), -100 where nothing is asked. ``inputs_mask`` (B, L) is false at padding, which stands behind;
what it holds changes no number. Of two sequences: ``source``, ``source_mask``, ``prefix``, ``prefix_mask``."""

State = Any
"""A nest of dicts, lists and tuples of tensors and ints: all that a mixer remembers of the past. Every tensor has the
batch first, so that a search may keep some sequences and drop others."""


@runtime_checkable
class Mixer(Protocol):
    """Mixes along the sequence.

    With ``causal=True`` a mixer obeys **the law of splitting**: feeding a sequence whole, or cut anywhere with
    the state carried over, gives the same outputs. Decoding, chunked prefill and streaming are this one law.

    Optional: ``unidirectional = True`` says that it looks back only whatever ``causal``, so that a backbone makes an
    encoder of it by running it in both directions. ``takes_mask = True`` says that ``forward(..., mask_BL=None)``
    takes the padding mask: where it is false a token leaves no trace, neither in the outputs of real tokens nor in
    the state. Padding stands in front of a sequence, or behind it where there is no state; a backbone has set it to
    zero, so it is always a number. ``takes_position_ids = True`` says that ``forward(..., position_ids_BL=None)`` takes
    position ids: without a state, a few tokens of a longer sequence may come, in rising order, and these are their
    positions there. ``takes_seen = True`` says that ``forward(..., seen_LL=None)`` takes who sees whom: true where the
    token of the row may see that of the column, itself always. It comes without a state, and with it tokens come in any
    order, also twice. It hides more than the mixer hides anyway; what a token may not see leaves no trace in its
    output. ``takes_shared = True`` says that ``forward(..., shared=None)`` takes a dict that all layers of one pass
    share: a layer may leave there what later ones read, under a key of its own, such as the values of the first
    attention. It starts with ``embedding``, the stream before the first layer, (B, L, D), and where inputs are tokens
    with ``tokens``, their ids (B, L), of which there are ``vocab_size``. In decoding each call has a new one, of the
    new tokens alone.
    """

    def __call__(self, x_BLD: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Mix. ``state=None`` means training: nothing is remembered and ``None`` is returned as the state.

        A state that was passed in is spent; only the returned one may be used again.
        """
        ...

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> State:
        """The empty state, allocated up to ``max_len`` positions where it grows with the sequence."""
        ...


@runtime_checkable
class Cross(Protocol):
    """Reads another sequence: each token alone looks at a memory, in any order.

    ``read`` prepares the memory once, so that decoding does not do it again for each token. Where its mask is false a
    token of the memory leaves no trace.
    """

    def __call__(self, x_BLD: Tensor, state: State) -> Tensor:
        """(B, L, D) to (B, L, D), given what :meth:`read` returned, which stays as it is."""
        ...

    def read(self, memory_BMD: Tensor, mask_BM: Tensor | None = None) -> State:
        """What is needed of the memory."""
        ...

    def init_state(self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype) -> State:
        """As much as ``read`` makes of ``max_len`` tokens."""
        ...


@runtime_checkable
class Residual(Protocol):
    """Joins one branch of a layer, a mixer or a feed-forward, to the residual stream; built once for each branch.

    Attributes:
        final_norm: whether the stream is normalised once more behind the last branch.

    Optional: ``wide = True`` says that the stream has another shape than (B, L, D). One more is then built without the
    fact ``layer``; its ``enter`` makes the stream of (B, L, D) before the first layer, and its ``leave`` reads it
    behind the last.
    """

    final_norm: ClassVar[bool]

    def __call__(
        self, x_BLD: Tensor, branch: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor], first_BLD: Tensor
    ) -> Tensor:
        """The stream with the branch joined to it.

        Args:
            x_BLD: the stream.
            branch: the mixer or feed-forward, (B, L, D) to (B, L, D); called once.
            norm: this branch's own norm.
            first_BLD: the stream before the first layer.
        """
        ...


class Position(nn.Module):
    """Says where a token is, in one of three ways; a subclass overrides one of them.

    ``additive`` positions are built once, on the residual stream, with the fact ``dim``; the others inside each
    attention, with the facts ``heads`` and ``head_dim``. Mixers that need no positions never ask for one.

    Attributes:
        bias_key: where the bias has no trained part: what tells it from the bias of another layer. Layers with equal
            keys make it once a pass; without one each layer makes its own.
    """

    additive: ClassVar[bool] = False
    bias_key: Hashable = None

    @classmethod
    def stand_in(cls, facts: Mapping[str, Any]) -> Position | None:
        """What stands in for this component where these facts are known; none where it is built itself.

        Within a mixer an additive position has nothing left to say, for the backbone has added it.
        """
        return Position() if cls.additive and "heads" in facts and "dim" not in facts else None

    def add(self, x_BLD: Tensor, offset: int | Tensor = 0) -> Tensor:
        """The stream with positions ``offset`` to ``offset + L - 1`` added, or with those given, (B, L)."""
        return x_BLD

    def rotate(self, q_BHLK: Tensor, k_BGLK: Tensor, offset: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Queries and keys, rotated by their positions: ``offset`` onwards, or those given, (B, L)."""
        return q_BHLK, k_BGLK

    def bias(self, query_L: Tensor, key_M: Tensor) -> Tensor | None:
        """A bias (H, L, M) on the scores between these positions, or none; (B, H, L, M) of positions (B, L), (B, M)."""
        return None


@runtime_checkable
class Objective(Protocol):
    """Heads and a loss over a backbone that it builds itself, for it knows whether the future may be seen.

    Attributes:
        needs: the keys that it reads from a batch.
        gives: the keys of its output that a task's metric may read, besides ``loss``.

    Optional: ``init_state`` and ``step(inputs_BL, state, mask_BL=None)`` (decoding), with ``read(source_BM, state,
    mask_BM=None)`` before the first step where it decodes from a source; ``embed`` (:class:`HasEmbedding`). A module of
    it with ``frozen = True`` is a copy that the loop leaves alone: a teacher. ``asks = "masked"`` says that the
    question is its own and not the task's: its output then has ``targets`` (B, S), and its metrics are named
    ``masked_...``. ``weights`` (B, S) beside these weigh each target's likelihood in a task's ``nats``.
    ``reads_in_order = "inputs"``, or another key of its batches, says that no answer, which it gives under its first
    key, depends on an entry of that sequence behind it: a run of a model of which that is not so is refused.
    """

    needs: ClassVar[tuple[str, ...]]
    gives: ClassVar[tuple[str, ...]]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": a scalar, ...}``; the other entries are read by the task's metric.

        The loss is a mean over what a batch asks, and zero where it asks nothing. ``count``, a scalar, says over how
        many: batches of one step are weighed by it, those of gradient accumulation and those of several processes.
        Without it they weigh alike.
        """
        ...


class Task:
    """Data and the metric that judges it. Its batches are a function of seed and step, never of the model.

    Attributes:
        gives: the keys of its batches.
        judges: what its metric reads from the objective's output.
        metric: the name of the metric that ranks; ``higher_is_better`` its direction.
        solved: the value from which a run counts as having solved the task, if there is one.
        margin: the difference of the metric that matters; a smaller one is called none, however sure it is.
        references: names in :meth:`chance` that are no rule to be beaten, such as a compressor of the whole test
            text, or a model that learns.
        writes: whether a model goes on writing what it was trained on; else it answers at some positions alone.
        chained: whether the answers of an example are one whole, which a single mistake spoils: how mistakes add up
            along it is then measured.
        start, end: tokens that start and end what a model writes, where the task has such.
    """

    gives: ClassVar[tuple[str, ...]] = ("inputs", "targets")
    judges: ClassVar[tuple[str, ...]] = ("logits",)
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    solved: ClassVar[float | None] = None
    margin: ClassVar[float] = 0.02
    references: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False
    chained: ClassVar[bool] = False
    start: ClassVar[int | None] = None
    end: ClassVar[int | None] = None

    def facts(self) -> dict[str, Any]:
        """What a model must know: ``max_len`` (the longest split) and ``classes``; ``vocab_size``, or
        ``image_size`` and ``channels``."""
        raise NotImplementedError(f"{type(self).__name__} must say its facts")

    def train_batch(self, step: int, seed: int, device: torch.device) -> Batch:
        """The batch of a step: the same for every model that is trained with this seed."""
        raise NotImplementedError(f"{type(self).__name__} must make training batches")

    def splits(self) -> tuple[str, ...]:
        """The names under which held-out data exists: ``validation``, ``test``, and harder ones, ``test/128``."""
        return ("validation", "test")

    def held_out(self, split: str) -> list[Batch]:
        """The batches of a held-out split, always the same ones, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must make held-out batches")

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts, whose quotient over all batches is each metric."""
        raise NotImplementedError(f"{type(self).__name__} must judge")

    def token_name(self, token: int) -> str:
        """What a reader calls a token of the inputs."""
        return str(token)

    def encode(self, text: str) -> list[int]:
        """The tokens of what a reader types.

        Raises:
            ValueError: it cannot be read; the message says what was expected.
        """
        symbols = self.facts()["vocab_size"]
        if not all(word.isdecimal() and int(word) < symbols for word in text.split()):
            raise ValueError(f"{text!r}: expected tokens by number, 0 to {symbols - 1}, with spaces between them")
        return [int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        """What a reader is shown of tokens."""
        return " ".join(self.token_name(token) for token in tokens)

    def saved_tokenizer(self) -> str | None:
        """The tokenizer as JSON of the ``tokenizers`` library, where tokens stand for text; it is kept with the run."""
        return None

    def chance(self) -> dict[str, float]:
        """What needs no learning: the metric of guessing, or of a simple rule, by name.

        The first is what knows nothing at all; comparisons over several tasks count from there.
        """
        return {}

    def fingerprint(self) -> str:
        """A hash of the data: every held-out batch, and the first training batches as made on the CPU."""
        cpu = torch.device("cpu")
        batches = [batch for split in self.splits() for batch in self.held_out(split)]
        batches += [self.train_batch(step, 0, cpu) for step in (0, 1)]
        digest = sha256()
        for batch in batches:
            for key in sorted(batch):
                digest.update(key.encode() + str(tuple(batch[key].shape)).encode())
                digest.update(batch[key].contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def reads(self) -> list[Path] | None:
        """The files and folders that the data comes from: none where code alone makes it; ``None`` if not known.

        While they are as they were, a command called again need not read the data to know its hash.
        """
        return None

    def tokens(self, batch: Batch) -> int:
        """How many tokens a batch holds, for speed and for cost per token."""
        return batch["inputs"].shape[0] * batch["inputs"].shape[1]


@dataclass(frozen=True)
class Correspondence:
    """One tensor of a published family, and what it is here.

    Attributes:
        theirs: its name there.
        ours: the names here; several stand in it one after the other, along the outputs.
        transposed: whether it is stored the other way round, (in, out).
        shape: its shape there, where numbers are the same and dimensions are not.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    shape: tuple[int, ...] | None = None


class Family:
    """A published family of models: how its config and its tensors become ours, and back.

    Attributes:
        model_type: what its config calls it.
        architecture: the class there whose tensors are meant.
        prefix: what tensors' names lack in a file of the body alone, without its head.
        ignored: patterns of names that stand for nothing here.
        renames: patterns and what replaces them in names of other releases.
        tied: tensors that only say again what another one says, and which one.
        example: a config of theirs, of a small model, for checks.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    prefix: ClassVar[str] = ""
    ignored: ClassVar[tuple[str, ...]] = ()
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    tied: ClassVar[dict[str, str]] = {}
    example: ClassVar[dict[str, Any]]

    def words(self, config: dict[str, Any]) -> list[str]:
        """The overrides that choose the same model here.

        Raises:
            ValueError: there is none; the message says which setting has no counterpart.
            KeyError: the config lacks a setting.
        """
        raise NotImplementedError(f"{type(self).__name__} must say the overrides")

    def facts(self, config: dict[str, Any]) -> dict[str, Any]:
        """What a task would tell the model: see :meth:`Task.facts`."""
        raise NotImplementedError(f"{type(self).__name__} must say the facts")

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """Every tensor."""
        raise NotImplementedError(f"{type(self).__name__} must say which tensor is which")

    def prepare(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
        """Their tensors, with what has no counterpart taken into others."""
        return tensors

    def finish(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
        """Tensors for them, with what has no counterpart added."""
        return tensors

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """Their config of a model of ours, given the config of its objective and the facts that it was told.

        Raises:
            ValueError, AttributeError, KeyError: it is none of this family.
        """
        raise NotImplementedError(f"{type(self).__name__} must make a config")


class Optimizer(Protocol):
    """Built over named groups of parameters; each group says its own weight decay where it differs.

    One that treats roles unlike names ``parameters_by_role`` in place of ``parameters``: each group then has a
    ``role``, one of :data:`ROLES`.

    Optional: ``entrywise = True`` says that a step is as large in each entry whatever the gradient's size, as Adam's
    is; ``parametrization=mup`` needs that.
    """

    def __call__(self, parameters: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these groups."""
        ...


@runtime_checkable
class AveragesWeights(Protocol):
    """An optimizer that trains other weights than it gives: evaluation and the finished run use their average."""

    def train(self) -> None:
        """Put the weights that are trained in place."""
        ...

    def eval(self) -> None:
        """Put the average in place."""
        ...


class Probe(Protocol):
    """Judges frozen embeddings: fitted to labelled ones, it says what others are. Nothing when the run has none.

    Optional: ``reads_positions = True`` asks for all positions of an input, (N, L, D), instead of their mean; where a
    task has padding, ``fit`` and the call are then given a mask (N, L) as their last argument, false at padding.
    ``probabilities = True`` says that the softmax of its logits are such, as metrics of likelihood need.
    """

    def fit(self, embeddings_ND: Tensor, labels_N: Tensor) -> None:
        """Fit to labelled examples of the training data; whether gradients are recorded is its own affair."""
        ...

    def __call__(self, embeddings_ND: Tensor) -> Tensor:
        """Logits (N, C)."""
        ...


class Schedule(Protocol):
    """The multiplier of the learning rate at a step, from 0 to ``steps - 1``.

    Optional: ``weight_decay(step)``, the multiplier of each group's weight decay.
    """

    def __call__(self, step: int) -> float:
        """The multiplier at this step."""
        ...


@runtime_checkable
class HasSideLosses(Protocol):
    """A module that adds a term to the loss (a router's balance): the loop sums them over the whole model."""

    def side_losses(self) -> dict[str, Tensor]:
        """Terms of the forward passes since this was last asked, already weighted: of several passes their mean."""
        ...


@runtime_checkable
class HasSideMetrics(Protocol):
    """A module that reports on itself (load per expert): the loop logs the mean over modules, by name."""

    def side_metrics(self) -> dict[str, Tensor]:
        """Detached scalars of the passes since this was last asked, on the device."""
        ...


@runtime_checkable
class HasCounters(Protocol):
    """A module whose ``side_metrics`` are made of counters since the last report: checkpoints hold them as well."""

    def counters(self) -> dict[str, Tensor]:
        """This process's counters by name: sums, which are added over processes and written into when a run resumes."""
        ...


@runtime_checkable
class HasChoices(Protocol):
    """A module that sends each token to one of several parts: results tell which tokens go where."""

    def choices(self) -> Tensor | None:
        """The part that each token of the last pass in evaluation went to, its first choice, flat; -1 at padding."""
        ...

    def parts(self) -> int:
        """How many parts there are."""
        ...


@runtime_checkable
class HasEmbedding(Protocol):
    """An objective whose encoder makes a vector of each position of an input, which a probe may judge.

    Optional: ``unidirectional = True`` says that each looks back only, so that the next token may be asked of it.
    """

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D), without what a stem puts before the input; a probe of whole inputs takes their mean.

        ``mask_BL``, false at padding, is given where the task has ``inputs_mask``.
        """
        ...


@runtime_checkable
class HasAttentionMaps(Protocol):
    """A layer whose heads take weighted means, which can be inspected; heads can be left out one by one.

    ``kept_H``, none unless somebody experiments, multiplies what each head gives.
    """

    heads: int
    kept_H: Tensor | None

    def attention_map(self, *arguments: Any, **named: Any) -> Tensor:
        """The weights (B, H, L, M) of the pass with these arguments; what is no token comes first among the M."""
        ...


@runtime_checkable
class HasImplementations(Protocol):
    """A module with more than one way to compute the same: ``zoo show`` and every result say which one runs."""

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """What runs on this device and, without autocast, in this dtype, by the operation's name, and why.

        Raises:
            ValueError: the config names a way that cannot run there.
        """
        ...


@runtime_checkable
class HasNoWeightDecay(Protocol):
    """A module that says which of its own parameters must not decay; vectors and scalars never do."""

    def no_weight_decay(self) -> set[str]:
        """Names relative to this module."""
        ...


ROLES = ("embedding", "head", "hidden", "vector", "position", "state")
"""What parameters are for: maps from symbols or patches, maps to outputs, the matrices between them (those of experts
and low-bit ones included), gains and biases, positions, and what sets the decay and the time step of a memory."""


@runtime_checkable
class HasParameterRoles(Protocol):
    """A module that says what its own parameters are for, where their shape and the component around them do not."""

    def parameter_roles(self) -> dict[str, str]:
        """The role, one of :data:`ROLES`, by name relative to this module."""
        ...


@runtime_checkable
class HasLearningRateScales(Protocol):
    """A module some of whose own parameters learn at another rate than the run's."""

    def learning_rate_scales(self) -> dict[str, float]:
        """The multiplier by name, relative to this module."""
        ...


@runtime_checkable
class HasInactiveParameters(Protocol):
    """A module of whose parameters one token meets only some: the experts that it was not sent to."""

    def inactive_parameters(self) -> int:
        """How many of this module's parameters a token does not meet."""
        ...


@runtime_checkable
class HasProgress(Protocol):
    """A module that computes otherwise early in training: it is told the step before each forward pass.

    A module that was never told computes as it does at the end.
    """

    def set_progress(self, step: int, steps: int) -> None:
        """This is step ``step`` of ``steps``, counted from 0."""
        ...


@runtime_checkable
class HasAfterOptimizerStep(Protocol):
    """A module that acts on its weights after each optimizer step: a teacher follows, a latent weight is clipped."""

    def after_optimizer_step(self, step: int, steps: int) -> None:
        """``step`` of ``steps`` optimizer steps are done."""
        ...


@runtime_checkable
class UsesParts(Protocol):
    """A backbone that may leave out mixers and feed-forwards that it is given."""

    def uses(self) -> dict[str, bool]:
        """Each of them by its name, and whether a layer is made of it."""
        ...


@runtime_checkable
class HasShards(Protocol):
    """A module whose parts may hold their weights whole one after the other, when weights are spread over processes."""

    def shards(self) -> list[nn.Module]:
        """Parts that compute with their own weights alone, and only when they are called."""
        ...


@runtime_checkable
class PackedWeight(Protocol):
    """A linear for inference, whose state is bytes of packed codes, their scale and true shape.

    Loading that state into a layer packed from other weights gives the same bits as where it was saved.
    """

    in_features: int
    out_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The codes in bytes, the scale, the shape, and a bias if there is one."""
        ...

    def held_bytes(self) -> int:
        """What it holds in memory now: its state, and what kernels made of it."""
        ...

    def least_bytes(self, device: torch.device, dtype: torch.dtype) -> int:
        """What it would hold there with the kernel that holds least, of those that run: no timing decides it."""
        ...


@runtime_checkable
class HasLowBitWeight(Protocol):
    """A linear whose forward pass sees ``codes * scale``, and that can be stored as these once it is trained."""

    def codes(self) -> tuple[Tensor, Tensor]:
        """The codes, small integers as int8 (out_features, in_features), and their scale: a scalar, or one a row."""
        ...

    def packed(self, layout: str = "planes") -> nn.Module | None:
        """The same layer for inference, a :class:`PackedWeight`; none where full-precision weights are tested.

        ``planes`` is quick to unpack, ``base3`` the smallest for three values.

        Raises:
            ValueError: there is no such layout.
        """
        ...
