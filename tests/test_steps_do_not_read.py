"""A training step reads nothing back: on a GPU each value that Python asks for makes it wait for all that was launched.

Tensors without contents stand in for a device that is far away: whoever asks them for a value raises.
"""

import pytest
import torch
from conftest import ROOT, objective_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

TASKS = {"vit": ["task=shapes"]}
ON_A_GPU_ALONE = {"vaswani"}  # on a processor it looks whether a mask is right, which costs nothing there
ARCHS = sorted({path.stem for path in (ROOT / "conf/arch").glob("*.yaml")} - ON_A_GPU_ALONE)
OTHERS = [
    ("objective=masked_token", "task=recall"),
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


@pytest.mark.parametrize("arch", ARCHS)
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
        found = original(self, batch)
        return found | {"loss": found["loss"] * float(found["loss"])}

    monkeypatch.setattr(NextToken, "forward", reads)
    with pytest.raises(DataDependentOutputException):
        step("task=parity")
