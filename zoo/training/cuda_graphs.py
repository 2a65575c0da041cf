"""One launch for a whole forward and backward pass: CUDA graphs for models whose kernels are shorter than their launch.

A step of a small model is some hundred kernels of a few microseconds, and Python needs longer to launch each. A graph
records them once and launches them together. What it records is frozen: an attribute that Python sets, a number that
Python draws, a shape that depends on data. So a recording is tried before it is trusted: the pass must leave no trace
in Python, the recording must give the losses and gradients of the plain pass on other data, another random stream and
another step, and it must be the quicker one. Otherwise the plain pass goes on, and the result's row says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError

Passes = tuple[Tensor, list[Tensor]]
"""A loss, and the gradient of each parameter that has one."""
Recorder = Callable[[Callable[[Batch], Passes], Batch], Callable[[Batch], Passes]]
"""Records what a function does with a batch; what it returns repeats that on other batches of the same shapes."""

PLAIN_STEPS = 3
"""Steps before the recording: compilers, libraries and caches have settled by then."""
LONGEST_SECONDS = 0.05
"""Of a plain step; a longer one is not held up by its launches."""
GAIN = 0.95
"""What a replay may take of the time of a plain pass."""
TIMED = 5
"""Passes whose time is compared."""
AGREEMENT = 1e-2
"""The most that gradients may differ by, of their norm: sums in bfloat16 may be taken in another order."""


class StepGraph:
    """Losses of training steps, whose gradients may come from a recorded pass.

    Args:
        loss_of: the loss of a batch, with all that is added to it.
        begin: told a step, seeds what is drawn in it and sets what depends on it.
        model: what is trained.
        recorder: :func:`record_cuda`, or another.
        last: the last step that there will be, at which the recording is tried as well.
        must: a step that cannot be recorded is an error, and none is compared by its time.
    """

    def __init__(
        self,
        loss_of: Callable[[Batch], Tensor],
        begin: Callable[[int], None],
        model: nn.Module,
        recorder: Recorder,
        last: int,
        must: bool = False,
    ) -> None:
        self.loss_of, self.begin, self.model, self.recorder = loss_of, begin, model, recorder
        self.last, self.must = last, must
        self.seen = 0
        self.said: str | None = None
        self.plain_peak_bytes = 0
        """The most memory that plain steps had taken: trials hold copies, and a replay's memory is not counted."""
        self._replay: Callable[[Batch], Passes] | None = None
        self._used: list[nn.Parameter] = []
        self._shapes: dict[str, torch.Size] = {}

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The loss of this step, for :meth:`~torch.Tensor.backward`; ``begin`` was called.

        Raises:
            ZooError: the step cannot be recorded, and must be.
        """
        if self.said is None:
            self.seen += 1
            if self.seen > PLAIN_STEPS:
                self._decide(batch, step)
        if self._replay is None or {key: value.shape for key, value in batch.items()} != self._shapes:
            return self._forward(batch)
        loss, gradients = self._replay(batch)
        replayed: Tensor = _Replayed.apply(loss, gradients, *self._used)
        return replayed

    def release(self) -> None:
        """Let go of the recording and of the memory that it holds; what comes after training does not need it."""
        self._replay = None

    def _decide(self, batch: Batch, step: int) -> None:
        before = Traces(self.model)
        self.plain_peak_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        try:
            reason = self._record(batch, step, before)
        except ZooError:
            raise
        except Exception as error:  # whatever a device raises at what it cannot record: the plain pass can go on
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        if reason is not None:
            self._replay = None
            self.said = f"launch by launch: {reason}"
        before.restore()
        self.begin(step)
        if reason is not None and self.must:
            raise ZooError(f"trainer.graph=true cannot work: {reason}. Use trainer.graph=auto")

    def _record(self, batch: Batch, step: int, before: Traces) -> str | None:
        """Record the pass and try it; returns why it is of no use, or nothing."""
        self._passes(batch)  # what is compiled for it is compiled now
        plain = _timed(lambda: self._passes(batch))
        if plain > LONGEST_SECONDS and not self.must:
            return f"a step of {plain * 1e3:.0f} ms is not held up by its launches"
        changed = before.changed()
        if changed is not None:
            return f"its forward pass sets {changed}, which a recording would not do again"
        before.restore()
        self.begin(step)
        self._replay = self.recorder(self._passes, batch)
        self._shapes = {key: value.shape for key, value in batch.items()}
        other = {key: value.roll(1, 0) for key, value in batch.items()}
        for at, given in ((step, batch), (self.last if step != self.last else 0, other)):
            outcomes = []
            for passes in (self._passes, self._replay):
                before.restore()
                self.begin(at)
                outcomes.append(_copied(passes(given)))
            if not agree(*outcomes):
                return "a recording of it gives other results"
        if self.must:
            self.said = "one CUDA graph: as named"
            return None
        plain, recorded = self._fastest(self._passes, batch), self._fastest(self._replay, batch)
        said = f"{recorded * 1e3:.2f} ms for {plain * 1e3:.2f} ms launch by launch"
        if recorded > GAIN * plain:
            return f"a CUDA graph takes {said}"
        self.said = f"one CUDA graph: {said}"
        return None

    @staticmethod
    def _fastest(passes: Callable[[Batch], Passes], batch: Batch) -> float:
        return min(_timed(lambda: passes(batch)) for _ in range(TIMED))

    def _forward(self, batch: Batch) -> Tensor:
        """The loss as it is recorded: where autocast keeps no copies of weights, for these would be frozen with it."""
        device = next(iter(batch.values())).device.type
        kind, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        with torch.autocast(device, kind, enabled=enabled, cache_enabled=False):
            return self.loss_of(batch)

    def _passes(self, batch: Batch) -> Passes:
        """Loss and gradients, without touching those that are kept."""
        loss = self._forward(batch)
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with torch.autocast(loss.device.type, enabled=False):  # as a step's backward pass is
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        pairs = [
            (parameter, gradient) for parameter, gradient in zip(wanted, gradients, strict=True) if gradient is not None
        ]
        self._used = [parameter for parameter, _ in pairs]
        return loss.detach(), [gradient for _, gradient in pairs]


class Traces:
    """What the modules of a model hold besides parameters, to see whether a pass changes it and to put it back."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [(path, module, dict(_state(module))) for path, module in model.named_modules()]
        tensors = [value for _, _, state in self._held for value in state.values() if isinstance(value, Tensor)]
        self._contents = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def changed(self) -> str | None:
        """The first attribute that is another object now; what was written into a tensor does not count."""
        for path, module, state in self._held:
            now = dict(_state(module))
            for name in sorted(state.keys() | now.keys()):
                old, new = state.get(name, self), now.get(name, self)
                if old is not new and not (_is_plain(old) and _is_plain(new) and old == new):
                    return f"{path or type(module).__name__}.{name}"
        return None

    def restore(self) -> None:
        """Everything as it was, the contents of tensors included."""
        for _, module, state in self._held:
            for name, now in list(_state(module)):
                if name not in state:
                    delattr(module, name)
                elif now is not state[name]:
                    setattr(module, name, state[name])
        with torch.no_grad():
            for tensor, content in self._contents:
                tensor.copy_(content)


class _Replayed(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()  # the next replay writes over it

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *torch._foreach_mul(ctx.gradients, outer[0])


def record_cuda(function: Callable[[Batch], Passes], batch: Batch) -> Callable[[Batch], Passes]:
    """Record by a CUDA graph, after a pass on another stream that must not wait for the device.

    Raises:
        RuntimeError: something in it waits for the device, or cannot be recorded.
        ZooError: it was begun and broke off, and the device cannot be given back what it had before.
    """
    held = {key: value.clone() for key, value in batch.items()}
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    debug = torch.cuda.get_sync_debug_mode()
    with torch.cuda.stream(aside):
        function(held)  # libraries make what they need for another stream
        torch.cuda.set_sync_debug_mode("error")
        try:
            function(held)
        finally:
            torch.cuda.set_sync_debug_mode(debug)
    torch.cuda.current_stream().wait_stream(aside)
    graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            recorded = function(held)
    except Exception as error:
        _abandon(pool, stream, error)
        raise

    def replay(batch: Batch) -> Passes:
        for key, value in batch.items():
            held[key].copy_(value, non_blocking=True)
        graph.replay()
        return recorded

    return replay


def _abandon(pool: Any, stream: torch.cuda.Stream, error: Exception) -> None:
    """Leave a recording that broke off: the stream, the pool of memory and the random numbers that it had taken over.

    torch gives back none of them by itself. The next step seeds the new random numbers, as every step does.
    """
    torch.cuda.set_stream(stream)
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # it may have been ended
        torch._C._cuda_endAllocateToPool(device, pool)
    try:
        torch.cuda.synchronize()
        fresh = torch.Generator(f"cuda:{device}").graphsafe_get_state()
        torch.cuda.default_generators[device].graphsafe_set_state(fresh)
    except (RuntimeError, AttributeError) as worse:
        reason = str(error).splitlines()[0][:200]
        raise ZooError(
            f"recording a step as a CUDA graph broke off ({reason}), and the device does not go on after that "
            f"({str(worse).splitlines()[0][:200]}); type trainer.graph=false"
        ) from error


def agree(one: Passes, other: Passes) -> bool:
    """Whether two passes are the same but for the order of sums."""
    if len(one[1]) != len(other[1]):
        return False
    pairs = list(zip([one[0], *one[1]], [other[0], *other[1]], strict=True))
    off = torch.stack([(a.double() - b.double()).square().sum() for a, b in pairs]).sum()
    size = torch.stack([a.double().square().sum() for a, _ in pairs]).sum()
    return bool((off <= AGREEMENT**2 * size) & torch.isfinite(off + size))


def _copied(passes: Passes) -> Passes:
    return passes[0].clone(), [gradient.clone() for gradient in passes[1]]


def _timed(call: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _state(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """Attributes and buffers, but no parameters, no modules and nothing of torch's own."""
    yield from module._buffers.items()
    yield from ((name, value) for name, value in module.__dict__.items() if name not in _OF_TORCH)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, bool | int | float | str)


_OF_TORCH = frozenset(nn.Module().__dict__)
