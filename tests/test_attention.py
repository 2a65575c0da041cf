"""Attention and positions: definitions, and the properties that the papers state."""

import math

import pytest
import torch
from scans import F64
from torch.nn import functional as F

import zoo
from zoo.base.errors import ZooError
from zoo.measure import flops
from zoo.nn import state_bytes
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")
DIM, LENGTH = 32, 24


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def attention(*words, **facts):
    return part("mixer", "attention", *words, dtype=F64, **facts)


def model(*words):
    config = zoo.compose("task=recall", "task.rung=tiny", "dim=32", "layers=2", *words)
    return make_objective(config, make_task(config)).double().eval()


def sees(query, key, block, local, stride, many, causal):
    """The pattern of block-sparse attention, in plain Python."""
    if causal and key > query:
        return False
    if not causal and query < many:
        return True
    near = abs(query // block - key // block) < local
    strided = stride > 0 and (key // block) % stride == stride - 1
    return near or strided or key < many


PATTERNS = [(4, 2, 3, 2, True), (3, 1, 0, 0, True), (5, 1, 2, 1, True), (4, 2, 3, 2, False), (3, 1, 0, 0, False)]


def sparse(block, local, stride, many, causal, *words):
    settings = [f"mixer.block={block}", f"mixer.local={local}", f"mixer.stride={stride}", f"mixer.global_tokens={many}"]
    return part("mixer", "sparse_attention", "mixer.heads=2", *settings, *words, dtype=F64, causal=causal)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_block_sparse_attention_is_its_definition(pattern):
    mixer, x = sparse(*pattern, "position=none"), draw(2, LENGTH, DIM)
    q, k, v = (part(x).view(2, LENGTH, 2, 16).transpose(1, 2) for part in (mixer.query, mixer.key, mixer.value))
    seen = torch.tensor([[sees(t, s, *pattern) for s in range(LENGTH)] for t in range(LENGTH)])
    assert seen.any(1).all()
    assert not seen.all()
    weights = (q @ k.mT / 4).masked_fill(~seen, -torch.inf).softmax(-1)
    expected = (weights @ v).transpose(1, 2).flatten(2) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixer.attention_map(x), weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_flex_attention_computes_what_the_dense_mask_does(pattern):
    """By its plain form, which runs anywhere; the compiled one is for tests/gpu."""
    from torch.nn.attention.flex_attention import flex_attention

    mixer, x = sparse(*pattern, "mixer.kv_heads=1"), draw(2, LENGTH, DIM)
    with torch.no_grad():
        flex = mixer.merge(mixer.flex(x, flex_attention))
    torch.testing.assert_close(flex, mixer(x)[0], rtol=1e-6, atol=1e-6)


def test_sparse_attention_says_what_runs_and_refuses_what_cannot(zoo_main):
    status, out, _ = zoo_main(
        "show", "mixer=sparse_attention", "task=recall", "task.rung=tiny", "trainer.accelerator=cpu"
    )
    assert status == 0
    assert "sparse attention: dense, masked: FlexAttention trains on CUDA only" in out
    status, _, err = zoo_main(
        "show",
        "mixer=sparse_attention",
        "mixer.backend=flex",
        "task=recall",
        "task.rung=tiny",
        "trainer.accelerator=cpu",
    )
    assert status == 2
    assert "mixer.backend=flex cannot run here" in err


@pytest.mark.parametrize("causal", [True, False])
def test_sinks_are_keys_and_values_that_every_token_may_see(causal):
    mixer, x = (
        attention("mixer.heads=4", "mixer.kv_heads=2", "mixer.sinks=3", "position=none", causal=causal),
        draw(2, LENGTH, DIM),
    )
    with torch.no_grad():
        mixer.sink_values_GNK.normal_(generator=torch.Generator().manual_seed(3))
    q = mixer.query(x).view(2, LENGTH, 4, 8).transpose(1, 2)
    k, v = (p(x).view(2, LENGTH, 2, 8).transpose(1, 2) for p in (mixer.key, mixer.value))
    k, v = (
        torch.cat([sink.expand(2, -1, -1, -1), t], 2).repeat_interleave(2, 1)
        for sink, t in ((mixer.sink_keys_GNK, k), (mixer.sink_values_GNK, v))
    )
    scores = q @ k.mT / math.sqrt(8)
    if causal:
        scores[..., 3:] = scores[..., 3:].masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixer.attention_map(x), scores.softmax(-1), rtol=1e-9, atol=1e-9)


MAPPED = [
    ["mixer.heads=4", "mixer.kv_heads=2"],
    ["mixer.window=5", "mixer.heads=2"],
    ["position=alibi", "mixer.heads=2"],
    ["mixer.sinks=2", "mixer.heads=2"],
]


@pytest.mark.parametrize(
    "words", [["attention", *words] for words in MAPPED] + [["linear_attention", "mixer.heads=2"]], ids=" ".join
)
def test_a_map_is_the_weights_of_the_mean_and_a_head_can_be_left_out(words):
    name, *words = words
    mixer, x = part("mixer", name, *words, dtype=F64), draw(2, LENGTH, DIM)
    map_BHLM = mixer.attention_map(x)
    torch.testing.assert_close(map_BHLM.sum(-1), torch.ones(2, mixer.heads, LENGTH, dtype=F64), rtol=1e-5, atol=1e-5)
    whole = mixer(x)[0]
    parts = []
    for head in range(mixer.heads):
        mixer.kept_H = torch.arange(mixer.heads) == head
        parts.append(mixer(x)[0])
    torch.testing.assert_close(sum(parts), whole)
    assert all(not torch.allclose(one, whole) for one in parts)
    mixer.kept_H = torch.zeros(mixer.heads)
    assert not mixer(x)[0].any()


@pytest.mark.parametrize(("words", "layers", "kv_heads", "head_dim", "held"), [
    (["mixer.heads=4"], 2, 4, 8, 50), (["mixer.heads=4", "mixer.kv_heads=1", "layers=3"], 3, 1, 8, 50),
    (["mixer.heads=2", "mixer.head_dim=6"], 2, 2, 6, 50), (["mixer.heads=2", "mixer.window=7"], 2, 2, 16, 6),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_two_times_layers_tokens_heads_channels_bytes(words, layers, kv_heads, head_dim, held, dtype):
    state = model(*words).init_state(1, 50, CPU, dtype)
    assert state_bytes(state) == 2 * layers * held * kv_heads * head_dim * dtype.itemsize


def test_the_cache_grows_with_the_length_and_the_cost_of_attention_with_its_square():
    one = model("ffn=none", "layers=1")

    def scores(length):
        """FLOPs of attention alone: of the mixer, without its projections, which grow with the length."""
        tokens = torch.zeros(1, length, dtype=torch.long)
        counts = flops.by_module(one, {"inputs": tokens, "targets": tokens})
        mixer = counts["backbone.blocks.0.mixer"]
        return mixer - sum(counts[f"backbone.blocks.0.mixer.{name}"] for name in ("query", "key", "value", "out"))

    assert scores(64) == 4 * scores(32) == 16 * scores(16)
    assert scores(32) == 2 * 2 * 32 * 32 * 32  # two products of (L, K) and (K, L) in one head of 32 channels
    sizes = [state_bytes(one.init_state(1, length, CPU, torch.float32)) for length in (16, 32, 64)]
    assert sizes == [sizes[0], 2 * sizes[0], 4 * sizes[0]]


@pytest.mark.parametrize("position", ["none", "rotary", "alibi"])
def test_without_positions_attention_does_not_know_the_order(position):
    mixer, x = attention("mixer.heads=2", f"position={position}", causal=False), draw(2, LENGTH, DIM)
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))
    equal = torch.allclose(mixer(x[:, order])[0], mixer(x)[0][:, order], rtol=1e-9, atol=1e-9)
    assert equal == (position == "none")


@pytest.mark.parametrize("channels", [4, 64, 256])
def test_the_scale_keeps_the_variance_of_scores_at_one(channels):
    mixer = attention("mixer.heads=1", f"mixer.head_dim={channels}", "position=none")
    q, k = draw(1, 1, 500, channels), draw(1, 1, 500, channels, seed=1)
    logs = mixer.weights(q, k).log()  # scores, up to a constant in each row
    assert logs.var(-1).mean().item() == pytest.approx(1, rel=0.05)
    unscaled = (q @ k.mT).var(-1).mean().item()
    assert unscaled == pytest.approx(channels, rel=0.05)


def test_a_shift_of_sinusoids_is_one_linear_map():
    """Vaswani et al., section 3.5: the waves at t + k are those at t, each pair of channels turned by k times its frequency."""
    waves = part("position", "sinusoidal", dtype=F64, dim=16).add(torch.zeros(1, 60, 16, dtype=F64))[0]
    for shift in (1, 7, 20):
        turn = torch.zeros(16, 16, dtype=F64)
        for pair in range(8):
            angle = shift * 10000 ** (-2 * pair / 16)
            sine, cosine = 2 * pair, 2 * pair + 1
            turn[sine, sine] = turn[cosine, cosine] = math.cos(angle)  # sin(a + b) = sin a cos b + cos a sin b
            turn[cosine, sine], turn[sine, cosine] = math.sin(angle), -math.sin(angle)
        torch.testing.assert_close(waves[:-shift] @ turn, waves[shift:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("linear", {"factor": 4.0}),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 64}),
        ("yarn", {"factor": 1.0, "original_max_position_embeddings": 4096}),
        (
            "llama3",
            {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        ),
    ],
)
@pytest.mark.parametrize("head_dim", [16, 64])
def test_scaled_rotary_positions_are_those_of_hugging_face(kind, more, head_dim):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, max_position_embeddings=64, rope_parameters={"rope_type": kind, "rope_theta": 1e4, **more})  # fmt: skip
    expected, gain = rope.ROPE_INIT_FUNCTIONS[kind](config, CPU)
    words = [f"position.scaling={kind}", f"position.factor={more['factor']}"]
    if "original_max_position_embeddings" in more:
        words.append(f"position.trained_len={more['original_max_position_embeddings']}")
    ours = part("position", "rotary", *words, heads=1, head_dim=head_dim)
    torch.testing.assert_close(ours.frequency_K.float(), expected)
    assert ours.gain == pytest.approx(gain)


def test_ntk_stretches_the_slowest_angle_by_the_factor_and_leaves_the_fastest():
    plain, scaled = (
        part("position", "rotary", *words, head_dim=16) for words in ([], ["position.scaling=ntk", "position.factor=4"])
    )
    ratio = plain.frequency_K / scaled.frequency_K
    assert ratio[0] == 1
    assert ratio[-1].item() == pytest.approx(4)


def test_rotary_scores_on_a_grid_depend_on_rows_and_columns_apart():
    position = part("position", "rotary_2d", dtype=F64, grid=(1, 4, 6))
    q, k = draw(2, 1, 1, 25, 16)[:, :, :, :1].expand(-1, -1, -1, 25, -1)
    turned_q, turned_k = position.rotate(q, k)
    scores = (turned_q @ turned_k.mT)[0, 0]
    for row, column in [(0, 0), (1, 3), (2, 2)]:
        here, there = 1 + row * 6 + column, 1 + (row + 1) * 6 + column + 2
        torch.testing.assert_close(scores[here, there], scores[1, 1 + 6 + 2], rtol=1e-6, atol=1e-6)
    assert not torch.isclose(scores[1, 1 + 6 + 2], scores[1, 1 + 12 + 1], rtol=1e-3)
    torch.testing.assert_close(turned_q[0, 0, 0], q[0, 0, 0])  # the class token stands nowhere


def test_sinusoids_on_a_grid_are_those_of_rows_and_of_columns():
    added = (
        part("position", "sinusoidal_2d", "position.gain=1", dtype=F64, dim=16, grid=(2, 3, 4)).add(
            torch.zeros(1, 14, 16, dtype=F64)
        )[0]
        * 4
    )
    line = part("position", "sinusoidal", "position.gain=1", dtype=F64, dim=8).add(torch.zeros(1, 4, 8, dtype=F64))[
        0
    ] * math.sqrt(8)
    assert not added[:2].any()
    for row in range(3):
        for column in range(4):
            expected = torch.cat([line[row], line[column]])
            torch.testing.assert_close(added[2 + row * 4 + column], expected, rtol=1e-5, atol=1e-5)


def test_learned_positions_on_a_grid_are_a_row_and_a_column():
    position = part("position", "learned_2d", dtype=F64, dim=8, grid=(1, 2, 3))
    added = position.add(torch.zeros(1, 7, 8, dtype=F64))[0]
    assert not added[0].any()
    torch.testing.assert_close(added[1 + 3 + 2], position.row_RD[1] + position.column_CD[2])


def test_gelu_has_three_forms():
    x = draw(2, 5, DIM)
    forms = {"gelu": x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), "gelu_sigmoid": x * torch.sigmoid(1.702 * x),
             "gelu_tanh": 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))}  # fmt: skip
    for name, expected in forms.items():
        torch.testing.assert_close(part("ffn", "mlp", f"ffn.activation={name}").activation(x), expected)
    for name in ("gelu_sigmoid", "gelu_tanh"):  # as near to the exact form as they are said to be
        assert (forms[name] - forms["gelu"]).abs().max() < {"gelu_sigmoid": 0.021, "gelu_tanh": 0.001}[name]
        assert not torch.equal(forms[name], forms["gelu"])
    assert F.gelu(x, approximate="tanh").allclose(forms["gelu_tanh"])


def test_the_class_token_and_registers_are_no_patches():
    config = zoo.compose("task=digits", "arch=vit", "stem.registers=3", "objective.pool=mean", "dim=16", "layers=1")
    objective = make_objective(config, make_task(config)).eval()
    assert objective.stem.max_len == 16 + 4
    assert objective.stem.grid == (4, 4, 4)
    images = make_task(config).held_out("test")[0]["inputs"][:3]
    x = objective.backbone(objective.stem(images))[0]
    expected = objective.head(x[:, 4:].mean(1))
    batch = {"inputs": images, "labels": torch.zeros(3, dtype=torch.long)}
    torch.testing.assert_close(objective(batch)["logits"], expected)
    assert torch.equal(objective.stem(images)[:, 0], objective.stem.token_D.expand(3, -1))
    with pytest.raises(ValueError, match="images of 4 x 8 pixels met a stem for 8 x 8"):
        objective.stem(images[:, :, :4])


@pytest.mark.parametrize(("words", "says"), [
    (["mixer.heads=0"], "expected both at least 1"), (["mixer.heads=4", "mixer.kv_heads=3"], "heads a multiple of kv_heads"),
    (["mixer.heads=3"], "dim=64 is not divisible by mixer.heads=3"), (["mixer.head_dim=0", "mixer.heads=2"], "mixer.head_dim=0"),
    (["mixer.sinks=-1"], "mixer.sinks=-1"), (["mixer=sparse_attention", "mixer.block=0"], "mixer.block=0"),
    (["position.scaling=yarn", "position.factor=2"], "needs position.trained_len"), (["position.factor=0.5"], "position.factor=0.5"),
    (["position=learned_2d"], "positions on a grid need a stem of images"), (["ffn.hidden=0"], "ffn.hidden=0"),
    (["task=digits", "stem.patch_size=3"], "do not divide into patches"), (["task=digits", "stem.registers=-1"], "stem.registers=-1"),
    (["objective=masked_token", "objective.ratio=0"], "objective.ratio=0"), (["objective=masked_token", "objective.mask_token=256"], "objective.mask_token=256"),
    (["objective=sequence_to_sequence"], "reads source, source_mask, prefix"), (["task=digits", "objective=masked_token"], "the task does not give tokens"),
    (["task=reverse", "objective=sequence_to_sequence", "cross.heads=5"], "cross.heads=5"),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")  # fmt: skip
def test_what_cannot_be_built_is_said_before_anything_runs(words, says, here):
    base = [] if any(word.startswith("task=") for word in words) else ["task=text"]
    config = zoo.compose(*base, *words)
    with pytest.raises(ZooError, match=says.replace("(", r"\(")):
        make_objective(config, make_task(config))


def test_a_mask_of_the_wrong_shape_is_refused():
    one = model()
    tokens = torch.zeros(2, 5, dtype=torch.long)
    for mask in (torch.ones(2, 4, dtype=torch.bool), torch.ones(5, dtype=torch.bool), torch.ones(2, 5)):
        with pytest.raises(ValueError, match=r"expected that shape and torch\.bool"):
            one.step(tokens, one.init_state(2, 5, CPU, F64), mask)
