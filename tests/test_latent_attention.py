"""Latent attention: DeepSeek-V3's with the same weights, the bytes of its cache, and both ways to compute it."""

import pytest
import torch
from scans import F64

import zoo
from zoo.base.errors import ZooError
from zoo.nn import state_bytes
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")
DIM, LENGTH, HEADS = 32, 24, 4
SHAPE = ["mixer.heads=4", "mixer.head_dim=8", "mixer.value_dim=6", "mixer.turned_dim=4", "mixer.latent_dim=10"]


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def latent(*words, **facts):
    mixer = part("mixer", "latent_attention", *SHAPE, "norm=rmsnorm", "position=rotary", *words, dtype=F64, **facts)
    with torch.no_grad():
        for seed, parameter in enumerate(mixer.parameters()):
            parameter.add_(0.2 * draw(*parameter.shape, seed=seed))
    return mixer


def pieces(mixer, x, cuts, mask=None):
    state, outputs = mixer.init_state(len(x), x.shape[1], CPU, x.dtype), []
    for piece in x.split(cuts, 1):
        y, state = mixer(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("query_latent", [None, 12])
def test_it_is_that_of_deepseek_v3(query_latent):
    pytest.importorskip("transformers")
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    config = DeepseekV3Config(
        hidden_size=DIM, num_attention_heads=HEADS, num_key_value_heads=HEADS, q_lora_rank=query_latent, kv_lora_rank=10,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, rope_interleave=False, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = DeepseekV3Attention(config, layer_idx=0).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(0.3 * draw(*parameter.shape, seed=seed))
    ours = latent(f"mixer.query_latent_dim={query_latent or 'null'}")
    pairs = {"down": "kv_a_proj_with_mqa", "latent_norm": "kv_a_layernorm", "up": "kv_b_proj", "out": "o_proj"}
    if query_latent is None:
        pairs["query"] = "q_proj"
    else:
        pairs |= {"query_down": "q_a_proj", "query_norm": "q_a_layernorm", "query": "q_b_proj"}
    weights = theirs.state_dict()
    ours.load_state_dict({f"{own}.weight": weights[f"{name}.weight"] for own, name in pairs.items()})
    x = draw(2, LENGTH, DIM)
    turns = DeepseekV3RotaryEmbedding(config)(x, torch.arange(LENGTH).unsqueeze(0))
    seen = torch.ones(LENGTH, LENGTH).tril().bool()
    mask = torch.zeros(LENGTH, LENGTH, dtype=F64).masked_fill(~seen, -torch.inf)[None, None]
    expected, weights = theirs(x, [table.double() for table in turns], mask)
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.attention_map(x), weights, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pieces(ours, x, [1] * LENGTH)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cuts", [[1] * LENGTH, [10, 1, 1, 12], [LENGTH]])
@pytest.mark.parametrize("words", [[], ["position=alibi"], ["mixer.latent_dim=1"]], ids=" ".join)
def test_the_absorbed_form_is_the_naive_one(words, cuts, monkeypatch):
    mixer, x = latent(*words), draw(3, LENGTH, DIM)
    outputs = []
    for absorbed in (False, True):
        monkeypatch.setattr(type(mixer), "absorbs", lambda *_, absorbed=absorbed: absorbed)
        outputs.append(pieces(mixer, x, cuts)[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)
    monkeypatch.undo()
    torch.testing.assert_close(outputs[0], mixer(x)[0], rtol=1e-6, atol=1e-6)


def test_one_token_is_decoded_by_latents_and_a_prompt_by_keys():
    mixer = part("mixer", "latent_attention", "mixer.heads=8", dim=256, max_len=4096)
    assert mixer.absorbs(1, 4096)
    assert not mixer.absorbs(4096, 4096)
    rounded = part("mixer", "latent_attention", "linear=ternary")
    assert not rounded.absorbs(1, LENGTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_latent_and_turned_channels_a_token_whatever_the_heads(dtype):
    """DeepSeek-V3's: 512 + 64 numbers a token and layer; grouped queries with 128 heads of 128 take 32,768."""
    config = zoo.compose("task=recall", "task.rung=tiny", "dim=32", "layers=3", "mixer=latent_attention", *SHAPE)
    state = make_objective(config, make_task(config)).init_state(2, 50, CPU, dtype)
    assert state_bytes(state) == 3 * 2 * 50 * (10 + 4) * dtype.itemsize
    published = part("mixer", "latent_attention", "mixer.heads=128", "mixer.head_dim=1", "mixer.turned_dim=64", "mixer.latent_dim=512", dim=16)  # fmt: skip
    assert state_bytes(published.init_state(1, 1, CPU, dtype)) == 576 * dtype.itemsize


def test_a_head_can_be_left_out():
    mixer, x = latent(), draw(2, LENGTH, DIM)
    whole, parts = mixer(x)[0], []
    for head in range(HEADS):
        mixer.kept_H = torch.arange(HEADS) == head
        parts.append(mixer(x)[0])
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("name", ["head_dim", "value_dim", "turned_dim", "latent_dim", "query_latent_dim"])
def test_sizes_that_no_layer_has_are_refused(name):
    config = zoo.compose("task=text", "mixer=latent_attention", f"mixer.{name}=0")
    with pytest.raises(ZooError, match=f"mixer.{name}=0"):
        make_objective(config, make_task(config))
