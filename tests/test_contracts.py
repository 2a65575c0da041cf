"""Every registered component keeps the contract of its kind; a new plugin is tested the day it is registered."""

import pytest
import torch

from zoo.registry import KINDS, entries
from zoo.testing import CHECKS, common, mixers, parametrize_with_checks, parts
from zoo.testing.parts import part

VARIANTS = {
    "grouped": ("attention", "mixer.heads=4", "mixer.kv_heads=2"),
    "window": ("attention", "mixer.window=4"),
    "one-token window": ("attention", "mixer.window=1"),
    "sinks": ("attention", "mixer.sinks=3", "mixer.heads=4", "mixer.kv_heads=2"),
    "window and sinks": ("attention", "mixer.window=4", "mixer.sinks=1", "position=alibi"),
    "blocks of three": ("sparse_attention", "mixer.block=3", "mixer.stride=3", "mixer.global_tokens=2"),
    "blocks, no stride": ("sparse_attention", "mixer.block=4", "mixer.local=1", "mixer.stride=0", "position=alibi"),
    "alibi": ("attention", "position=alibi", "mixer.heads=2"),
    "window and alibi": ("attention", "mixer.window=5", "position=alibi", "mixer.kv_heads=1"),
    "short chunks": ("linear_attention", "mixer.chunk=5", "mixer.heads=2"),
    "convolution": ("linear_attention", "mixer.convolution=4", "mixer.chunk=7"),
    "mamba1 in PyTorch": ("mamba1", "mixer.backend=torch"),
    "mamba1, time-invariant": ("mamba1", "mixer.selective=false"),
    "mamba1, no gate": ("mamba1", "mixer.gate=false", "mixer.state_size=3"),
    "mamba1, no convolution": ("mamba1", "mixer.convolution=1", "mixer.expand=1"),
    "mamba2, groups": ("mamba2", "mixer.head_dim=16", "mixer.groups=2", "mixer.chunk=5", "mixer.state_size=8"),
    "mamba2, time-invariant": ("mamba2", "mixer.selective=false", "mixer.head_dim=32"),
    "mamba2, no gate or convolution": ("mamba2", "mixer.gate=false", "mixer.convolution=1", "mixer.chunk=1"),
    "mamba3, groups": ("mamba3", "mixer.head_dim=16", "mixer.groups=2", "mixer.chunk=7", "mixer.rotated=1"),
    "mamba3, no rotation": ("mamba3", "mixer.rotated=0", "mixer.state_size=5"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "check", [c for c in CHECKS["mixer"] if c.__name__.startswith("mixer_")], ids=lambda c: c.__name__
)
def test_variants_of_a_mixer_keep_its_laws(variant, check, monkeypatch):
    name, *words = VARIANTS[variant]
    monkeypatch.setattr(parts, "part", lambda kind, name, **facts: part(kind, name, *words, **facts))
    check(name)


@parametrize_with_checks(*CHECKS)
def test_component(name, check):
    check(name)


def test_every_kind_has_checks_or_is_run_whole():
    whole = {"stem", "backbone", "objective", "task"}  # test_presets and test_tasks run these
    assert set(CHECKS) | whole == set(KINDS)
    assert all(entries(kind) for kind in KINDS)


class Broken(torch.nn.Module):
    """A mixer that keeps its contract, unless told to break one law."""

    def __init__(self, law):
        super().__init__()
        self.law, self.scale, self.idle = law, torch.nn.Parameter(torch.ones(32)), None
        if law == "trains":
            self.idle = torch.nn.Parameter(torch.ones(1))

    def init_state(self, batch_size, max_len, device, dtype):
        shape = (1, batch_size, 32) if self.law == "sequences" else (batch_size, 1, 32)
        return {"sum": torch.zeros(shape, dtype=dtype), "seen": 0}

    def forward(self, x, state=None, mask_BL=None):
        x = x * self.scale
        if mask_BL is not None and self.law != "padding":
            x = x * mask_BL[..., None]
        if self.law == "shape":
            x = x[:, :-1]
        if self.law == "future":
            return x + x.mean(1, keepdim=True), state
        if self.law == "batch":
            return x + x.mean(0, keepdim=True), state
        start = 0 if state is None or self.law == "splitting" else state["sum"]
        if self.law == "sequences" and state is not None:
            start = start.transpose(0, 1)
        y = x.cumsum(1) + start
        if state is not None:
            state = {"sum": y[:, -1:].clone(), "seen": 0}
            if self.law == "state":
                state["sum"] = torch.cat([y, y], 1)
            if self.law == "sequences":
                state["sum"] = state["sum"].transpose(0, 1).contiguous()
        if self.law == "deterministic":
            y = y + torch.rand(())
        return y, state


@pytest.mark.parametrize(
    ("law", "check"),
    [
        ("shape", mixers.mixer_keeps_shape),
        ("splitting", mixers.mixer_obeys_the_law_of_splitting),
        ("future", mixers.mixer_does_not_see_the_future),
        ("batch", mixers.mixer_treats_each_example_alone),
        ("sequences", mixers.mixer_state_follows_its_sequences),
        ("state", mixers.mixer_state_is_bounded_by_what_it_says),
        ("padding", mixers.mixer_leaves_no_trace_of_padding),
        ("trains", common.module_trains_every_parameter("mixer")),
        ("deterministic", common.module_is_deterministic_and_saves("mixer")),
    ],
)
def test_each_check_catches_the_law_that_it_names(law, check, monkeypatch):
    monkeypatch.setattr(parts, "part", lambda kind, name, dtype=torch.float32, **facts: Broken(None).to(dtype))
    check("sound")
    monkeypatch.setattr(parts, "part", lambda kind, name, dtype=torch.float32, **facts: Broken(law).to(dtype))
    with pytest.raises((AssertionError, RuntimeError)):
        check("broken")
