"""A training step reads nothing back: on a GPU each value that Python asks for makes it wait for all that was launched.

Tensors without contents stand in for a device that is far away: whoever asks them for a value raises. What an operator
reads by itself they do not show; a profile of the processor does.
"""

import pytest
import torch
from conftest import ROOT, first, objective_of, one_way_each, words_of_tasks
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from zoo.nn import sent
from zoo.training.build import make_task

CPU, FAR = torch.device("cpu"), torch.device("meta")

TASKS = {"vit": ["task=shapes"]}
ON_A_GPU_ALONE = {"vaswani"}  # on a processor it looks whether a mask is right, which costs nothing there
ARCHS = sorted({path.stem for path in (ROOT / "conf/arch").glob("*.yaml")} - ON_A_GPU_ALONE)
OTHERS = [
    ("objective=masked_token", "task=recall"),
    ("objective=block_diffusion", "task=recall"),
    ("objective=jepa", "task=recall"),
    ("objective=next_latent", "task=recall"),
    ("ffn=moe", "ffn.gate=expert_choice", "objective=masked_token", "task=recall"),
]


def without_contents(module, mode):
    """The module with parameters and buffers that hold nothing."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    empty = mode.from_tensor(value.detach())
                    held[name] = torch.nn.Parameter(empty, value.requires_grad) if held is part._parameters else empty
    return module


def step(*words):
    objective, task = objective_of(*words, "dim=16", "layers=2", "task.batch_size=4")
    batch = task.train_batch(0, 0, torch.device("cpu"))
    objective.train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.autocast("cpu", torch.bfloat16):
        loss = without_contents(objective, mode)({key: mode.from_tensor(value) for key, value in batch.items()})["loss"]
        loss.backward()


@pytest.mark.parametrize("arch", first(ARCHS, 10))
def test_no_preset_reads_a_value_in_its_step(arch):
    step(f"arch={arch}", *TASKS.get(arch, ["task=recall", "task.rung=tiny"]))


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_no_objective_reads_a_value_in_its_step(words):
    step(*words)


def test_the_blocks_of_images_are_drawn_where_they_are_asked_for():
    from zoo_plugins.joint_embedding.masks import block_split

    far = torch.device("meta")  # which has no values to be asked for
    context_BS, target_BMT = block_split(4, 8, 8, 4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0), far)
    assert (context_BS.device.type, target_BMT.device.type) == ("meta", "meta")
    assert (len(context_BS), target_BMT.shape[:2]) == (4, (4, 4))


def test_who_reads_one_is_found_out(monkeypatch):
    from zoo_plugins.next_token import NextToken

    original = NextToken.forward

    def reads(self, batch):
        outputs = original(self, batch)
        return outputs | {"loss": outputs["loss"] * float(outputs["loss"])}

    monkeypatch.setattr(NextToken, "forward", reads)
    with pytest.raises(DataDependentOutputException):
        step("task=parity")


class FarGenerator(torch.Generator):
    """Stands where the far device's would: that device draws nothing."""

    device = FAR


class AnyGenerator(torch.Generator):
    """Of the far device, or any other's."""

    def __new__(cls, device="cpu"):
        return FarGenerator() if torch.device(device) == FAR else super().__new__(torch.Generator, device)


def on(device, *values):
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor) and x.device == device]


class Copies(TorchDispatchMode):
    """What is sent to the far device while the processor waits: by a copy, or to an operator on what is there."""

    def __init__(self):
        super().__init__()
        self.waited_for = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = dict(kwargs or {})
        if on(FAR, args):
            given.pop("generator", None)  # which operators without contents refuse
        result, here = func(*args, **given), on(CPU, args)
        aside = given.get("non_blocking") or (func is torch.ops.aten.copy_.default and args[2:] == (True,))
        several = any(x.dim() for x in here)  # a number travels with the launch
        if not aside and on(FAR, args, result) and (several or (here and func is torch.ops.aten._to_copy.default)):
            self.waited_for.append(str(func))
        return result


class Lists(TorchFunctionMode):
    """Numbers of Python that become a tensor on the far device."""

    def __init__(self):
        super().__init__()
        self.waited_for = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor) and on(FAR, result)
        picked = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and on(FAR, args[0])
        indices = args[1] if picked and isinstance(args[1], tuple) else args[1:2]
        if made or (picked and any(isinstance(index, list) for index in indices)):
            self.waited_for.append(func.__name__)
        return result


@pytest.fixture
def far(monkeypatch):
    """Generators and autocast for the far device, which has none."""
    monkeypatch.setattr(torch, "Generator", AnyGenerator)
    for name in ("autocast", "get_autocast_dtype", "is_autocast_enabled"):
        original = getattr(torch, name)

        def near(kind, *args, _original=original, **kwargs):
            return _original("cpu" if kind == FAR.type else kind, *args, **kwargs)

        monkeypatch.setattr(torch, name, near)


READS = {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "bincount")}


def ways_to_wait(*words):
    """Values that are read while the second batch of a task is made, and copies that are waited for."""
    task = make_task(zoo.compose(*words))
    task.train_batch(0, 0, CPU)
    with torch.autograd.profiler.profile(use_kineto=False) as profile:
        task.train_batch(1, 0, CPU)
    with Copies():
        task.train_batch(0, 0, FAR)  # what never changes is sent now
    with Copies() as copies, Lists() as lists:
        batch = task.train_batch(1, 0, FAR)
    assert {value.device for value in batch.values()} == {FAR}
    read = [event.name for event in profile.function_events if event.name in READS]
    return read + copies.waited_for + lists.waited_for


@pytest.mark.parametrize("words", one_way_each(words_of_tasks()))
def test_no_task_waits_for_its_batch(words, files_of_tasks, far):
    assert ways_to_wait(*(word.format(files=files_of_tasks) for word in words)) == []


@pytest.mark.parametrize(
    "words", [*([f"arch={arch}", *TASKS.get(arch, ["task=recall", "task.rung=tiny"])] for arch in ARCHS), *OTHERS,
              ("objective=jepa", "task=digits"), ("objective=jepa_pairs", "task=moving_shapes"),
              ("ffn=moe", "ffn.capacity=1.0", "task=recall")], ids=" ".join)  # fmt: skip
def test_no_pass_waits_for_a_copy(words, far):
    objective, task = objective_of(*words, "dim=16", "layers=2", "task.batch_size=4")
    batch = {key: value.to(FAR) for key, value in task.train_batch(0, 0, CPU).items()}
    objective.to(FAR).train()
    objective(batch)  # what never changes is sent now
    with Copies() as copies, Lists() as lists:
        objective(batch)
    assert copies.waited_for + lists.waited_for == []


@pytest.mark.parametrize(
    ("made", "operation"),
    [
        (lambda device: torch.multinomial(torch.ones(2, 3, device=device), 2), "aten::_local_scalar_dense"),
        (lambda device: torch.ones(3, device=device).sum().item() if device == CPU else 0, "aten::_local_scalar_dense"),
        (lambda device: torch.ones(3, device=device).nonzero() if device == CPU else 0, "aten::nonzero"),
        (lambda device: torch.arange(3).to(device), "aten._to_copy.default"),
        (lambda device: torch.zeros(3, device=device).copy_(torch.ones(3)), "aten.copy_.default"),
        (lambda device: torch.zeros(3, device=device)[torch.arange(2)], "aten.index.Tensor"),
        (lambda device: torch.zeros(3, device=device)[[0, 2]], "__getitem__"),
        (lambda device: torch.zeros(3, 3, device=device).__setitem__(([0, 2], 0), 1.0), "__setitem__"),
        (lambda device: torch.tensor([3], device=device), "tensor"),
        (lambda device: torch.as_tensor(3.5, device=device), "as_tensor"),
    ],
)
def test_a_task_that_waits_is_found_out(made, operation, far, monkeypatch):
    from zoo.tasks.parity import Parity

    original = Parity.train_batch

    def waits(self, step, seed, device):
        made(device)
        return original(self, step, seed, device)

    monkeypatch.setattr(Parity, "train_batch", waits)
    assert operation in ways_to_wait("task=parity")


def test_what_is_sent_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch):
    done = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: done.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: done.append((device.type, non_blocking)))
    for device in (torch.device("cuda"), CPU):
        sent(torch.zeros(3), device)
    assert done == ["pinned", ("cuda", True), ("cpu", True)]


def test_whatever_is_sent_at_once_is_pinned():
    folders = (ROOT / "zoo/tasks", ROOT / "plugins")
    assert not [path for folder in folders for path in folder.rglob("*.py") if "non_blocking" in path.read_text()]
