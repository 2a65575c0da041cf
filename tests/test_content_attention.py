"""PaTH, stick-breaking and MoBA, token by token from their definitions, in float64."""

import pytest
import torch
from scans import F64, draw
from torch.nn import functional as F

import zoo
from zoo.testing.parts import part

CPU = torch.device("cpu")
DIM, LENGTH = 32, 23


def pieces(layer, x_BLD, cuts):
    state, outputs = layer.init_state(len(x_BLD), x_BLD.shape[1], CPU, x_BLD.dtype), []
    with torch.no_grad():
        for piece_BLD in x_BLD.split(cuts, 1):
            y_BLD, state = layer(piece_BLD, state)
            outputs.append(y_BLD)
    return torch.cat(outputs, 1)


def heads(part, x_BLD, many):
    return part(x_BLD).unflatten(-1, (many, -1)).transpose(1, 2)


@pytest.mark.parametrize("groups", [4, 2])
def test_stick_breaking_is_its_definition(groups):
    words = ["mixer.heads=4", f"mixer.kv_heads={groups}", "position=none"]
    layer, x_BLD = part("mixer", "stick_breaking_attention", *words, dtype=F64), draw(2, LENGTH, DIM)
    q = heads(layer.query, x_BLD, 4)
    k, v = (heads(each, x_BLD, groups).repeat_interleave(4 // groups, 1) for each in (layer.key, layer.value))
    weights = torch.zeros(2, 4, LENGTH, LENGTH, dtype=F64)
    for i in range(LENGTH):
        left = torch.ones(2, 4, dtype=F64)
        for j in range(i - 1, -1, -1):
            share = ((q[:, :, i] * k[:, :, j]).sum(-1) / 8**0.5).sigmoid()
            weights[:, :, i, j], left = left * share, left * (1 - share)
    wanted = layer.out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x_BLD)[0], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.attention_map(x_BLD), weights, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pieces(layer, x_BLD, [1] * LENGTH), wanted, rtol=1e-9, atol=1e-9)
    assert (weights.sum(-1) < 1).all()


def test_no_share_of_a_stick_overflows():
    layer, x = part("mixer", "stick_breaking_attention", "position=none"), 100 * draw(1, 64, DIM, dtype=torch.float32)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("groups", "chunk", "rank"), [(4, 64, None), (2, 5, 3)])
def test_path_is_its_definition(groups, chunk, rank):
    words = ["mixer.heads=4", f"mixer.kv_heads={groups}", f"mixer.chunk={chunk}", f"mixer.rank={rank or 'null'}"]
    layer, x_BLD = part("mixer", "path_attention", *words, dtype=F64), draw(2, LENGTH, DIM)
    repeat = lambda each: each.repeat_interleave(4 // groups, 1)  # noqa: E731
    q = heads(layer.query, x_BLD, 4)
    k, v = (repeat(heads(each, x_BLD, groups)) for each in (layer.key, layer.value))
    low = x_BLD if rank is None else layer.turn_down(x_BLD)
    w = F.silu(layer.convolution(layer.turn(low))[0]).unflatten(-1, (groups, -1)).transpose(1, 2)
    w = repeat(w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt())
    beta = repeat(2 * layer.strength(x_BLD).sigmoid().mT)
    scores = torch.full((2, 4, LENGTH, LENGTH), -torch.inf, dtype=F64)
    for j in range(LENGTH):
        seen = k[:, :, j]
        for i in range(j, LENGTH):
            if i > j:  # H_i
                seen = seen - (beta[:, :, i] * (w[:, :, i] * seen).sum(-1)).unsqueeze(-1) * w[:, :, i]
            scores[:, :, i, j] = (q[:, :, i] * seen).sum(-1) / 8**0.5
    weights = scores.softmax(-1)
    wanted = layer.out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x_BLD)[0], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.attention_map(x_BLD), weights, rtol=1e-9, atol=1e-9)
    for cuts in ([1] * LENGTH, [10, 1, 12]):
        torch.testing.assert_close(pieces(layer, x_BLD, cuts), wanted, rtol=1e-9, atol=1e-9)


def test_path_stays_exact_in_float32():
    x = draw(1, 1024, DIM, dtype=torch.float32)
    with torch.no_grad():
        y, exact = part("mixer", "path_attention")(x)[0], part("mixer", "path_attention", dtype=F64)(x.double())[0]
    assert (y - exact).abs().max() <= 1e-4 * exact.abs().max()


@pytest.mark.parametrize(("groups", "top_k"), [(4, 3), (2, 1), (1, 2)])
def test_moba_is_its_definition(groups, top_k):
    words = ["mixer.heads=4", f"mixer.kv_heads={groups}", "mixer.block=4", f"mixer.top_k={top_k}", "position=none"]
    layer, x_BLD = part("mixer", "moba_attention", *words, dtype=F64), draw(2, LENGTH, DIM)
    q = heads(layer.query, x_BLD, 4)
    k, v = (heads(each, x_BLD, groups).repeat_interleave(4 // groups, 1) for each in (layer.key, layer.value))
    scores = torch.full((2, 4, LENGTH, LENGTH), -torch.inf, dtype=F64)
    for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(LENGTH)).tolist():
        own = i // 4
        liked = sorted(range(own), key=lambda n: -(q[b, h, i] @ k[b, h, 4 * n : 4 * n + 4].mean(0)).item())
        for n in [own, *liked[: top_k - 1]]:
            for j in range(4 * n, min(4 * n + 4, i + 1)):
                scores[b, h, i, j] = q[b, h, i] @ k[b, h, j] / 8**0.5
    wanted = layer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x_BLD)[0], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.attention_map(x_BLD), scores.softmax(-1), rtol=1e-9, atol=1e-9)
    for cuts in ([1] * LENGTH, [10, 1, 12]):
        torch.testing.assert_close(pieces(layer, x_BLD, cuts), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [512, 300])
def test_moba_by_flex_attention_is_that_by_a_mask(length):
    """By its plain form, which runs anywhere; the compiled one is for tests/gpu."""
    from torch.nn.attention.flex_attention import flex_attention

    words = ["mixer.heads=4", "mixer.kv_heads=2", "mixer.block=128", "mixer.top_k=2"]
    layer, x_BLD = part("mixer", "moba_attention", *words, max_len=512), draw(2, length, DIM, dtype=torch.float32)
    with torch.no_grad():
        q, k, v, _, sight, _ = layer.prepare(x_BLD, None, None)
        flex = layer.merge(layer.flex(q, k, v, sight, flex_attention))
        seen_BHLN, _ = layer._seen_blocks(q, k, sight)
        blocks = layer.block_mask(seen_BHLN)
    torch.testing.assert_close(flex, layer(x_BLD)[0], rtol=1e-5, atol=1e-5)
    # the plain form reads no lists of blocks: they hold those that some query of a tile sees, and no others
    listed = blocks.to_dense()
    wanted = torch.stack([tile.any(2) for tile in seen_BHLN.split(128, 2)], 2)
    assert torch.equal(listed.bool(), wanted)
    assert not wanted.all()


def test_moba_takes_flex_attention_on_cuda_alone():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    layer = part("mixer", "moba_attention", "mixer.block=128")
    assert layer.implementations(cuda, torch.float32)["block attention"].startswith("FlexAttention")
    assert "FlexAttention trains on CUDA only" in layer.implementations(cpu, torch.float32)["block attention"]
    small = part("mixer", "moba_attention", "mixer.block=16").implementations(cuda, torch.float32)["block attention"]
    assert "blocks of 16 are no multiple of 128" in small
    with pytest.raises(ValueError, match="backend=flex cannot run here"):
        part("mixer", "moba_attention", "mixer.backend=flex").implementations(cpu, torch.float32)


def test_moba_of_all_blocks_is_attention_and_says_that_it_saves_nothing():
    layer, plain = part("mixer", "moba_attention", "mixer.top_k=9", dtype=F64), part("mixer", "attention", dtype=F64)
    plain.load_state_dict(layer.state_dict())
    x_BLD = draw(2, LENGTH, DIM)
    torch.testing.assert_close(layer(x_BLD)[0], plain(x_BLD)[0])
    assert "as expensive as full attention" in layer.implementations(CPU, F64)["block attention"]


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("path_attention", "mixer.beta_max=3", "beta_max=3.0"),
        ("path_attention", "mixer.rank=0", "rank=0; expected at least 1"),
        ("moba_attention", "mixer.block=0", "block=0; expected at least 1"),
        ("moba_attention", "mixer.top_k=0", "top_k=0; expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(name, word, message):
    with pytest.raises(ValueError, match=message):
        part("mixer", name, word)


@pytest.mark.parametrize("name", ["path_attention", "stick_breaking_attention"])
def test_an_encoder_runs_them_in_both_directions(name):
    config = zoo.compose("task=digits", f"mixer={name}", "dim=16", "layers=1")
    objective = zoo.training.build.make_objective(config, zoo.training.build.make_task(config))
    assert type(objective.backbone.blocks[0].mixer).__name__ == "Bidirectional"
