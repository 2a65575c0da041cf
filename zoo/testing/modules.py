"""The laws of all kinds that are modules: gradients, saving, precision, compiling, memory, devices, cost, learning."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.base.contracts import HasInactiveParameters
from zoo.testing import parts
from zoo.testing.common import Check, call, close, coupled, inputs, seeded, sized


def _law(body: Callable[[str, str], str | None]) -> Callable[[str], Check]:
    """A law that holds for several kinds: called with a kind, it gives that kind's check."""

    def of(kind: str) -> Check:
        def check(name: str) -> str | None:
            return body(kind, name)

        check.__name__, check.__doc__ = body.__name__.replace("module", kind, 1), body.__doc__
        return sized(check) if getattr(body, "sized", False) else check

    of.__name__, of.__doc__ = body.__name__, body.__doc__
    return of


@_law
@sized
def module_treats_each_example_alone(kind: str, name: str) -> str | None:
    """An example's output does not depend on the rest of the batch; also in training, with the same random draws.

    A module that shares something among a batch's tokens by design, in training only, declares it:
    ``couples_training``.

    Mend: take means and norms over the last dimension, and keep the batch first in every reshape.
    """
    module, x_BLD = parts.part(kind, name, dtype=torch.float64), inputs(4, dtype=torch.float64)
    last = x_BLD.shape[0] - 1
    for row in {0, last}:
        alone = call(kind, module, x_BLD[row : row + 1], row)
        close(call(kind, module, x_BLD)[row : row + 1], alone, 1e-10, f"example {row} of {last + 1}, and alone: ")
    if coupled(module):
        return f"in evaluation; in training, {coupled(module)}"
    module.train()
    for row in {0, last}:
        changed = 3 * inputs(4, dtype=torch.float64, seed=9)
        changed[row] = x_BLD[row]
        one, other = (seeded(call, kind, module, each)[row] for each in (changed, x_BLD))
        close(one, other, 1e-10, f"in training, example {row} of {last + 1}, when the others are others: ")
    return None


@_law
def module_keeps_the_dtype(kind: str, name: str) -> None:
    """Outputs have the dtype of the inputs, also with a state; under autocast that dtype or bfloat16.

    Mend: make tensors as the input is, with ``x.new_zeros(...)`` or ``dtype=x.dtype``.
    """
    for dtype, autocast in ((torch.float32, False), (torch.float64, False), (torch.float32, True)):
        module, x_BLD = parts.part(kind, name, dtype=dtype), inputs(dtype=dtype)
        allowed = (dtype, torch.bfloat16) if autocast else (dtype,)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = {"": call(kind, module, x_BLD)}
            if kind == "mixer":
                state = module.init_state(x_BLD.shape[0], x_BLD.shape[1], x_BLD.device, dtype)
                outputs[" with a state"] = module(x_BLD, state)[0]
        for how, y_BLD in outputs.items():
            where = " under autocast to bfloat16" if autocast else ""
            assert y_BLD.dtype in allowed, f"given {dtype}{how}{where}, returned {y_BLD.dtype}"


@_law
def module_trains_every_parameter(kind: str, name: str) -> None:
    """Every parameter gets a gradient that is finite and not zero everywhere.

    Mend: use it in ``forward``, or keep it with ``register_buffer`` if it is not to be trained.
    """
    module = parts.part(kind, name).train()
    call(kind, module, inputs()).square().sum().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{parameter_name} has a gradient that is not finite"
        assert parameter.grad.any(), f"the gradient of {parameter_name} is zero everywhere"


@_law
def module_is_deterministic(kind: str, name: str) -> None:
    """In evaluation, the same input gives the same output, to the bit."""
    module, x_BLD = parts.part(kind, name), inputs()
    close(call(kind, module, x_BLD), call(kind, module, x_BLD), 0, "the same input twice: ")


@_law
def module_saves(kind: str, name: str) -> None:
    """Weights saved and loaded into another copy give the same output, to the bit.

    Mend: keep every tensor that the output depends on as a parameter or with ``register_buffer``.
    """
    module, x_BLD = parts.part(kind, name), inputs()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = parts.part(kind, name)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    first = seeded(call, kind, module, x_BLD)  # random draws are not this law's business
    close(seeded(call, kind, other, x_BLD), first, 0, "a loaded copy: ")


@_law
def module_runs_in_bfloat16(kind: str, name: str) -> None:
    """Autocast to bfloat16 gives a finite output close to that of float32."""
    module, x_BLD = parts.part(kind, name), inputs()
    with torch.autocast(x_BLD.device.type, torch.bfloat16):
        low = seeded(call, kind, module, x_BLD)
    close(low.float(), seeded(call, kind, module, x_BLD), 0.1, "under autocast to bfloat16: ")


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Inside it, uninitialised memory from torch holds NaN."""
    settings = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic  # a module whose setting is a property
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(settings[0], warn_only=settings[1])
        deterministic.fill_uninitialized_memory = filled


def _outputs(kind: str, name: str) -> dict[str, Tensor]:
    """A component's output for a whole input, all gradients, and for a mixer also piece by piece with a state."""
    module, x_BLD = parts.part(kind, name), inputs().requires_grad_()
    y_BLD = call(kind, module, x_BLD)
    y_BLD.square().sum().backward()
    tensors = {"the output": y_BLD.detach()}
    for leaf_name, leaf in [("the input", x_BLD), *module.named_parameters()]:
        if leaf.grad is not None:
            tensors[f"the gradient of {leaf_name}"] = leaf.grad
    if kind == "mixer":
        state = module.init_state(x_BLD.shape[0], x_BLD.shape[1], x_BLD.device, x_BLD.dtype)
        with torch.no_grad():
            for piece_BLD in x_BLD.split(5, dim=1):
                piece_BLD, state = module(piece_BLD, state)
                tensors[f"piece {len(tensors)} of the output"] = piece_BLD
    return tensors


@_law
def module_reads_no_stray_memory(kind: str, name: str) -> None:
    """Uninitialised memory may hold anything, such as NaN: no output or gradient shows it.

    Mend: write all of what ``torch.empty`` makes, or use ``torch.zeros``.
    """
    with _poisoned_memory():
        poisoned = _outputs(kind, name)
    for what, given in poisoned.items():
        assert given.isfinite().all(), f"NaN from memory that was never written (torch.empty) reached {what}"


@_law
def module_compiles(kind: str, name: str) -> str:
    """``torch.compile`` gives the same outputs and gradients. Graph breaks are reported."""
    from torch._dynamo.utils import counters

    module, x_BLD = parts.part(kind, name).train(), inputs(length=9)  # a loop over tokens is unrolled
    other = copy.deepcopy(module)
    torch._dynamo.reset()
    counters.clear()
    # the compiler's front end and its autograd, running PyTorch's own kernels
    compiled = torch.compile(lambda x: call(kind, other, x), backend="aot_eager")
    results = []
    for function in (lambda x: call(kind, module, x), compiled):
        leaf = x_BLD.clone().requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            y_BLD = function(leaf)
        results.append((y_BLD, *torch.autograd.grad(y_BLD.square().sum(), leaf)))
    breaks = dict(counters["graph_break"])
    torch._dynamo.reset()
    for what, plain, made in zip(("output", "gradient"), *results, strict=True):
        close(made, plain, 1e-4, f"compiled, its {what}: ")
    reasons = "; ".join(reason.strip().split("\n")[0] for reason in breaks)
    return f"{sum(breaks.values())} graph breaks: {reasons}" if breaks else "in one graph"


@_law
def module_agrees_on_cuda(kind: str, name: str) -> None:
    """CPU and CUDA give the same output and gradient, in float32."""
    if not torch.cuda.is_available():
        raise SkipTest("there is no CUDA device here")
    results = []
    for device in ("cpu", "cuda"):
        module, leaf = parts.part(kind, name).to(device), inputs().to(device).requires_grad_()
        y_BLD = call(kind, module, leaf)
        results.append((y_BLD, *torch.autograd.grad(y_BLD.square().sum(), leaf)))
    for what, here, there in zip(("output", "gradient"), *results, strict=True):
        close(there.cpu(), here, 2e-3, f"on CUDA, its {what}: ")


def _weights(kind: str, module: nn.Module, x_BLD: Tensor) -> tuple[int, list[str]]:
    """How many weights each token meets in a matrix multiply or in a custom operator, and the names of these.

    What is multiplied element by element alone, such as the taps of a short filter, is no matrix.
    """
    with torch.no_grad(), _Meetings(x_BLD, module) as meetings:
        call(kind, module, x_BLD)
    matrices = {name: p for name, p in module.named_parameters() if p.ndim >= 2 and name in meetings.met}
    inactive = sum(m.inactive_parameters() for m in module.modules() if isinstance(m, HasInactiveParameters))
    return sum(p.numel() for p in matrices.values()) - inactive, list(matrices)


class _Meetings(TorchDispatchMode):
    """Notes which parameters, or what was made of them alone, meet the input in an operation that multiplies matrices.

    These are the operations that torch has a FLOP formula for, custom operators, which may do anything, and those whose
    output is larger than the input, where each element meets several weights.
    """

    def __init__(self, x_BLD: Tensor, module: nn.Module) -> None:
        super().__init__()
        self.met: set[str] = set()
        self.kept: list[Tensor] = [x_BLD]  # so that no other tensor gets the memory of one that is known
        self.data = {_memory(x_BLD)}
        self.weights = {_memory(p): {name} for name, p in module.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, and note what its inputs and outputs are made of."""
        from torch.utils.flop_counter import flop_registry

        result = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        given = [_memory(t) for t in inputs]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        names = set().union(*(self.weights.get(memory, set()) for memory in given))
        self.kept += made
        if self.data.isdisjoint(given):
            for tensor in made:
                self.weights.setdefault(_memory(tensor), set()).update(names)
            return result
        self.data |= {_memory(tensor) for tensor in made} - self.weights.keys()
        multiplies = func._overloadpacket in flop_registry or func.namespace not in ("aten", "prims")
        largest = max(t.numel() for t in inputs if _memory(t) in self.data)
        if multiplies or any(t.numel() > largest for t in made):  # or by hand: each input with several weights
            self.met |= names
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@_law
def module_counts_its_operations(kind: str, name: str) -> str:
    """The counter sees at least one multiplication and addition for each weight of a matrix and token.

    Mend: give a custom operator a formula, with ``torch.utils.flop_counter.register_flop_formula``.

    If a class gives its own count, ``forward_flops(batch_size, length)``, the two agree within 1 %.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from zoo.measure.flops import register_formulas
    from zoo.nn import counting

    register_formulas()
    module, x_BLD = parts.part(kind, name), inputs()
    rows, length = x_BLD.shape[:2]
    with torch.no_grad(), counting(), FlopCounterMode(display=False) as counter:
        call(kind, module, x_BLD)
    with counting():
        weights, matrices = _weights(kind, module, x_BLD)
    counted, least = counter.get_total_flops(), 2 * weights * rows * length
    if kind == "cross":
        least = 0  # some of its weights read the memory, of another length
    assert counted >= 0.99 * least, (
        f"{counted:,} operations counted for {rows} x {length} tokens, where its matrices need {least:,}: "
        f"{', '.join(matrices)}"
    )
    by_hand = getattr(module, "forward_flops", None)
    if by_hand is not None:
        said = by_hand(rows, length)
        assert abs(counted - said) <= 0.01 * said, f"{counted:,} operations counted, by hand {said:,}"
        return f"{counted:,} operations for {rows} x {length} tokens, as counted by hand"
    return f"{counted:,} operations for {rows} x {length} tokens"


@_law
def module_learns(kind: str, name: str) -> str | None:
    """Sixty steps of Adam halve its distance to a copy with other weights, on one input.

    So its gradients point downhill, whatever it computes.
    """
    student = parts.part(kind, name).train()
    learned = [p for p in student.parameters() if p.requires_grad]
    if not learned:
        return "it has nothing to learn"
    source = torch.Generator().manual_seed(3)
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in teacher.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter += (0.5 * spread + 0.1) * torch.randn(parameter.shape, generator=source).to(parameter.device)
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    losses, x_BLD = [], inputs(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        with torch.no_grad():
            wanted = call(kind, teacher, x_BLD)
        for _ in range(60):
            loss = (call(kind, student, x_BLD) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    before, after = losses[0], sum(losses[-5:]) / 5
    assert after < 0.5 * before, (
        f"its distance was {before:.3g} at first and {after:.3g} after 60 steps; expected less than half"
    )
    return f"its distance fell from {before:.3g} to {after:.3g}"


def laws(kind: str) -> list[Any]:
    """The checks of all modules, for one kind."""
    return [
        law(kind)
        for law in (
            module_treats_each_example_alone,
            module_keeps_the_dtype,
            module_trains_every_parameter,
            module_is_deterministic,
            module_saves,
            module_runs_in_bfloat16,
            module_reads_no_stray_memory,
            module_compiles,
            module_agrees_on_cuda,
            module_counts_its_operations,
            module_learns,
        )
    ]
