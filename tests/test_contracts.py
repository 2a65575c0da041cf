"""Every registered component keeps the contract of its kind; a new plugin is tested the day it is registered."""

import pytest
from conftest import THOROUGH

from zoo.registry.kinds import KINDS
from zoo.registry.registry import entries
from zoo.testing import CHECKS, parametrize_with_checks, parts
from zoo.testing.parts import part

SMALL = ("mixer.heads=2", "mixer.key_dim=12", "mixer.value_dim=20", "mixer.chunk=10")
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
    "norm before turning": ("attention", "mixer.norm_qk=before", "mixer.heads=4", "mixer.kv_heads=2"),
    "norm after turning, sinks": ("attention", "mixer.norm_qk=after", "mixer.sinks=1", "mixer.heads=2"),
    "gate per head": ("attention", "mixer.output_gate=head", "mixer.heads=4", "mixer.kv_heads=1"),
    "gate per channel, window": ("attention", "mixer.output_gate=channel", "mixer.window=4", "mixer.heads=2"),
    "softcap": ("attention", "mixer.softcap=2", "mixer.heads=4", "mixer.kv_heads=2"),
    "softcap, window, bias": ("attention", "mixer.softcap=2", "mixer.window=4", "position=alibi", "mixer.heads=2"),
    "sink logits": ("attention", "mixer.sink_logits=true", "mixer.heads=4", "mixer.kv_heads=2"),
    "all sinks, window": ("attention", "mixer.sink_logits=true", "mixer.sinks=2", "mixer.window=4", "mixer.heads=2"),
    "sharpness by length": ("attention", "mixer.temperature=log", "mixer.heads=4", "mixer.kv_heads=2"),
    "sharpness, window, sinks": ("attention", "mixer.temperature=log", "mixer.window=5", "mixer.sinks=1"),
    "half turned": ("attention", "position.share=0.5", "mixer.heads=2", "mixer.sinks=1"),
    "latents": ("latent_attention", "mixer.heads=4"),
    "latents, never absorbed": ("latent_attention", "mixer.heads=2", "mixer.latent_dim=400", "mixer.value_dim=3"),
    "latents, also of queries": ("latent_attention", "mixer.query_latent_dim=8", "mixer.heads=2", "position=alibi"),
    "differences, grouped, window": ("differential_attention", "mixer.heads=8", "mixer.kv_heads=4", "mixer.window=4"),
    "differences, alibi": ("differential_attention", "mixer.heads=4", "position=alibi"),
    "forgetting, all options": (
        "forgetting_attention",
        "mixer.heads=4",
        "mixer.kv_heads=2",
        "mixer.norm_qk=before",
        "mixer.output_gate=channel",
        "position=none",
    ),
    "forgetting, alibi": ("forgetting_attention", "mixer.heads=2", "position=alibi"),
    "sticks, alibi": ("stick_breaking_attention", "mixer.heads=2", "mixer.kv_heads=1", "position=alibi"),
    "path, grouped, alibi": ("path_attention", "mixer.heads=4", "mixer.kv_heads=2", "mixer.chunk=5", "position=alibi"),
    "moba, grouped, alibi": ("moba_attention", "mixer.kv_heads=1", "mixer.block=3", "position=alibi"),
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
    **{
        f"matrix memory, {decay}, {write}": ("matrix_memory", f"mixer.decay={decay}", f"mixer.write={write}", *SMALL)
        for decay in ("none", "fixed", "scalar", "vector")
        for write in ("hebbian", "delta")
    },
    "matrix memory, three writes": ("matrix_memory", "mixer.householders=3", "mixer.beta_max=2", "mixer.chunk=13"),
    "matrix memory, three writes, vector": (
        "matrix_memory",
        "mixer.decay=vector",
        "mixer.householders=3",
        "mixer.gate_rank=3",
    ),
    "matrix memory, sum": (
        "matrix_memory",
        "mixer.decay=none",
        "mixer.write=hebbian",
        "mixer.feature_map=elu",
        "mixer.readout=sum",
        "mixer.convolution=1",
    ),
    "matrix memory, sigmoid": ("matrix_memory", "mixer.decay_form=sigmoid", "mixer.output_gate=none"),
    "mlstm, heads and chunks": ("mlstm", "mixer.heads=4", "mixer.key_dim=12", "mixer.chunk=5"),
    "slstm, heads": ("slstm", "mixer.heads=4", "mixer.convolution=1"),
    "rg_lru, heads, no convolution": ("rg_lru", "mixer.heads=4", "mixer.width=24", "mixer.convolution=1"),
    "minlstm, wider": ("minlstm", "mixer.expand=2"),
    "hgrn, wider, slow": ("hgrn", "mixer.expand=2", "mixer.least_decay=0.9"),
    "short convolution with biases": ("short_convolution", "mixer.bias=true", "mixer.width=4"),
    "rotary retention": ("retnet", "position=rotary", "mixer.heads=2"),
}


def laws_of_variants():
    """Each law for each variant. In the default run mixers keep all laws with their defaults, variants these."""
    quick = ("mixer_does_not_see_the_future", "mixer_obeys_the_law_of_splitting", "mixer_leaves_no_trace_of_padding")
    for check in (check for check in CHECKS["mixer"] if check.__name__.startswith("mixer_")):
        for variant in VARIANTS:
            marks = () if check.__name__ in quick else THOROUGH
            yield pytest.param(variant, check, marks=marks, id=f"{check.__name__}-{variant}")


@pytest.mark.parametrize(("variant", "check"), laws_of_variants())
def test_variants_of_a_mixer_keep_its_laws(variant, check, monkeypatch):
    name, *words = VARIANTS[variant]
    monkeypatch.setattr(parts, "part", lambda kind, name, **facts: part(kind, name, *words, **facts))
    check(name)


@parametrize_with_checks(*CHECKS)
def test_component(name, check):
    check(name)


def test_every_kind_has_checks_or_is_run_whole():
    whole = {"stem", "backbone"}  # test_presets runs these
    assert set(CHECKS) | whole == set(KINDS)
    assert all(entries(kind) for kind in KINDS)
