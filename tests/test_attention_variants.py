"""Forgetting and differential attention: their definitions, and published modules with the same weights."""

import math

import pytest
import torch
from scans import F64

import zoo
from zoo.base.errors import ZooError
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

DIM, LENGTH = 32, 24


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def mixer_of(name, *words, **facts):
    mixer = part("mixer", name, *words, dtype=F64, **facts)
    with torch.no_grad():
        for seed, parameter in enumerate(mixer.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=seed))
    return mixer


def test_forgetting_attention_is_its_definition():
    """Equation 3 of the paper, with products of gates written out pair by pair."""
    mixer, x = mixer_of("forgetting_attention", "mixer.heads=4", "mixer.kv_heads=2", "position=none"), draw(2, LENGTH, DIM)  # fmt: skip
    gate = torch.sigmoid(x @ mixer.forget.weight.T + mixer.forget.bias)
    q, k, v = (p(x).view(2, LENGTH, -1, 8).transpose(1, 2) for p in (mixer.query, mixer.key, mixer.value))
    expected, weights = torch.zeros(2, LENGTH, 4, 8, dtype=F64), torch.zeros(2, 4, LENGTH, LENGTH, dtype=F64)
    for b in range(2):
        for h in range(4):
            for i in range(LENGTH):
                fading = torch.stack([gate[b, j + 1 : i + 1, h].prod() for j in range(i + 1)])
                score = fading * (q[b, h, i] @ k[b, h // 2, : i + 1].T / math.sqrt(8)).exp()
                weights[b, h, i, : i + 1] = score / score.sum()
                expected[b, i, h] = weights[b, h, i, : i + 1] @ v[b, h // 2, : i + 1]
    torch.testing.assert_close(mixer(x)[0], expected.flatten(2) @ mixer.out.weight.T, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mixer.attention_map(x), weights, rtol=1e-8, atol=1e-8)


def test_a_gate_that_never_forgets_leaves_plain_attention():
    mixer, plain = mixer_of("forgetting_attention", "mixer.heads=2"), mixer_of("attention", "mixer.heads=2")
    plain.load_state_dict({name: value for name, value in mixer.state_dict().items() if "forget" not in name})
    x = draw(2, LENGTH, DIM)
    with torch.no_grad():
        mixer.forget.weight.zero_()
        mixer.forget.bias.fill_(40.0)
    torch.testing.assert_close(mixer(x)[0], plain(x)[0], rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        mixer.forget.bias.fill_(-40.0)  # and one that forgets all leaves each token its own value
    torch.testing.assert_close(mixer(x)[0], mixer.out(mixer.value(x)), rtol=1e-9, atol=1e-9)


def test_an_encoder_forgets_in_both_directions():
    config = zoo.compose("task=digits", "mixer=forgetting_attention", "dim=16", "layers=1")
    objective = make_objective(config, make_task(config))
    assert type(objective.backbone.blocks[0].mixer).__name__ == "Bidirectional"


@pytest.mark.parametrize(("layer", "groups"), [(0, 8), (3, 4), (1, 2)])
def test_differential_attention_is_that_of_diff_llama(layer, groups):
    pytest.importorskip("transformers")
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention, DiffLlamaRotaryEmbedding

    config = DiffLlamaConfig(
        hidden_size=DIM, num_attention_heads=8, num_key_value_heads=groups, head_dim=4, num_hidden_layers=4,
        rms_norm_eps=1e-5, attention_dropout=0.0, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = DiffLlamaAttention(config, layer_idx=layer).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(0.4 * draw(*parameter.shape, seed=seed))
    words = ["mixer.heads=8", f"mixer.kv_heads={groups}", "mixer.head_dim=4", "position=rotary"]
    ours = mixer_of("differential_attention", *words, layer=layer)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    state = {f"{own}.weight": getattr(theirs, name).weight for own, name in names.items()}
    state["query_lambda_2K"] = torch.stack([theirs.lambda_q1, theirs.lambda_q2])
    state["key_lambda_2K"] = torch.stack([theirs.lambda_k1, theirs.lambda_k2])
    ours.load_state_dict(state)
    x = draw(2, LENGTH, DIM)
    turns = DiffLlamaRotaryEmbedding(config)(x, torch.arange(LENGTH).unsqueeze(0))
    mask = torch.zeros(LENGTH, LENGTH, dtype=F64).masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf)
    expected, weights = theirs(x, [table.double() for table in turns], mask[None, None])
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.attention_map(x), weights, rtol=1e-6, atol=1e-6)


def test_heads_of_differences_come_in_pairs():
    config = zoo.compose("task=text", "mixer=differential_attention", "mixer.heads=4", "mixer.kv_heads=1")
    with pytest.raises(ZooError, match=r"mixer\.kv_heads=1: expected even numbers"):
        make_objective(config, make_task(config))


def test_leaving_out_a_head_of_a_pair_leaves_the_other():
    mixer, x = mixer_of("differential_attention", "mixer.heads=4", "position=none"), draw(1, LENGTH, DIM)
    mixer.kept_H = torch.tensor([1.0, 1.0, 0.0, 0.0])  # no second maps: plain attention with a norm
    v = mixer.value(x).view(1, LENGTH, 4, 8).transpose(1, 2)
    weights = mixer.attention_map(x)[:, :2]
    y = weights @ torch.cat(v.chunk(2, 1), -1)
    y = (1 - mixer.least) * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.transpose(1, 2).flatten(2)), rtol=1e-9, atol=1e-9)
