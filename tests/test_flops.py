"""Counted FLOPs against counts by hand, for each family: 2 for a multiply and add."""

import pytest
import torch

import zoo
from zoo.measure import flops, memory
from zoo.training.build import make_objective, make_task

B, L, D, V, DEPTH = 2, 32, 32, 64, 2
GLU = 8 * round(D * 2.6666667 / 8)


def model(*overrides):
    config = zoo.compose(
        "task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]", *overrides
    )
    task = make_task(config)
    batch = {key: value[:B] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    return make_objective(config, task), batch


def attention(heads, kv_heads):
    size = D // heads
    return 2 * D * size * (heads + 2 * kv_heads) + 2 * D * D + 4 * L * D


HANDS = {
    ("arch=transformer", "mixer.heads=4"): attention(4, 4),
    ("arch=transformer", "mixer.heads=4", "mixer.kv_heads=1"): attention(4, 1),
    ("arch=lstm",): 8 * D * 2 * D,
    ("arch=gru",): 6 * D * 2 * D,
    # projections, then within the chunk q k^T and its product with v and ones, and the state k^T v
    ("arch=linear_attention", "mixer.heads=2", "mixer.chunk=64"): 8 * D * D
    + 2 * (2 * L * 16 + 2 * L * 17 + 2 * 16 * 17)
    + 2 * 3 * D * 3,  # the short convolution, three tokens wide
    # projections of u and z, of B, C and the two channels of dt, and out; the scan, 6 for each channel and state
    ("arch=mamba", "ffn=glu"): 2 * D * 4 * D
    + 2 * 2 * D * (2 + 32)
    + 2 * 2 * 2 * D
    + 2 * 2 * D * D
    + 6 * 2 * D * 16
    + 2 * 2 * D * 4,
    # projections; within a chunk C B^T (one group) and, for each of 2 heads of 32, its product with x; of two chunks the
    # first leaves a state and the second reads it
    ("arch=mamba2", "ffn=glu", "mixer.head_dim=32", "mixer.state_size=8"): 2 * D * 4 * D
    + 2 * D * (16 + 2)
    + 2 * L * 8
    + 2 * 2 * L * 32
    + 2 * 2 * D * D
    + 2 * (2 * D + 16) * 4,
    ("arch=mamba2", "ffn=glu", "mixer.head_dim=32", "mixer.state_size=8", "mixer.chunk=16"): 2 * D * 4 * D
    + 2 * D * (16 + 2)
    + 2 * 16 * 8
    + 2 * 2 * 16 * 32
    + 2 * 2 * (2 * 32 * 8) // 2
    + 2 * 2 * D * D
    + 2 * (2 * D + 16) * 4,
}


@pytest.mark.parametrize("words", HANDS, ids=" ".join)
def test_forward_flops_equal_the_hand_count(words):
    objective, batch = model(*words)
    tokens, asked = B * L, batch["targets"].numel()
    expected = tokens * DEPTH * (HANDS[words] + 6 * D * GLU) + asked * 2 * D * V
    forward, training = flops.count(objective, batch)
    assert forward == expected
    assert 2.9 <= training / forward <= 3.3, "a backward pass costs twice the forward; attention's and a scan's more"


def test_counting_leaves_no_trace():
    objective, batch = model("stem.dropout=0.5")
    objective.eval()
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    flops.count(objective, batch)
    assert torch.equal(torch.rand(1), before)
    assert all(p.grad is None for p in objective.parameters())
    assert not objective.training


def test_flops_of_parts_add_up():
    objective, batch = model()
    parts = flops.by_module(objective, batch)
    whole = flops.count(objective, batch)[0]
    assert parts["backbone"] + parts["head"] == whole
    assert parts["backbone"] == sum(parts[f"backbone.blocks.{i}"] for i in range(DEPTH))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["arch=transformer", "mixer.heads=4"], lambda n: 2 * DEPTH * n * D * 4),
        (["arch=transformer", "mixer.heads=4", "mixer.kv_heads=1"], lambda n: 2 * DEPTH * n * D // 4 * 4),
        (["arch=transformer", "mixer.window=8"], lambda n: 2 * DEPTH * 7 * D * 4),
        (["arch=lstm"], lambda n: 2 * DEPTH * D * 4),
        (["arch=gru"], lambda n: DEPTH * D * 4),
        (["arch=mamba"], lambda n: DEPTH * 2 * D * (16 + 3) * 4),
        (["arch=mamba2", "mixer.head_dim=32"], lambda n: DEPTH * (2 * 32 * 64 + 3 * (2 * D + 2 * 64)) * 4),
        (["arch=mamba3", "mixer.head_dim=32"], lambda n: DEPTH * 2 * ((32 * 64 + 32 + 64) * 4 + 16 * 8)),
        (["arch=linear_attention", "mixer.heads=2"], lambda n: DEPTH * (2 * 16 * 17 + 2 * 3 * D) * 4),
    ],
)
def test_state_bytes_are_those_of_the_state(words, expected):
    objective, _ = model(*words)
    for length in (16, 64):
        assert memory.decoding_state_bytes(objective, {"max_len": length}, torch.device("cpu")) == expected(length)


def test_peak_memory_sees_what_was_held():
    peak = memory.Peak("cpu")
    held = torch.ones(64 * 2**20 // 4)
    read = peak.read()
    assert held.sum() > 0
    if read is None:
        pytest.skip("this system does not tell")
    assert 60 * 2**20 < read < 200 * 2**20
