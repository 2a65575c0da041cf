"""Encoders of mixers that look one way, and padding that leaves no trace."""

import itertools
import math

import pytest
import torch
from conftest import composed, covering
from scans import F64, draw

from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")


def model(*words):
    config = composed("task=recall", "task.rung=tiny", "dim=32", "layers=2", *words)
    return make_objective(config, make_task(config))


BOTH_WAYS = itertools.product(["mamba", "mamba2", "mamba3", "lstm", "jamba"], ["tied", "separate", "none"])


@pytest.mark.parametrize(("arch", "ways"), covering(BOTH_WAYS))
def test_an_encoder_looks_both_ways_unless_told_otherwise(arch, ways):
    config = composed("task=digits", f"arch={arch}", f"backbone.bidirectional={ways}", "dim=16")
    encoder = make_objective(config, make_task(config)).double().eval().backbone
    x, layers = draw(1, 9, 16).requires_grad_(), [block.mixer for block in encoder.blocks]
    encoder(x)[0][0, 4].sum().backward()
    moved = x.grad.abs().sum(-1)[0] > 0
    assert moved[:5].all()
    assert moved[5:].all() if ways != "none" or arch == "jamba" else not moved[5:].any()
    if ways != "none":
        mixer = layers[0]
        ahead, behind = mixer.forwards, mixer.backwards or mixer.forwards
        assert (ahead is behind) == (ways == "tied")
        expected = (ahead(x)[0] + behind(x.flip(1))[0].flip(1)) / math.sqrt(2)
        torch.testing.assert_close(mixer(x)[0], expected)
        with pytest.raises(ValueError, match="sees the future"):
            mixer.init_state(1, 9, CPU, F64)


ARCHS = [
    "mamba",
    "mamba2",
    "mamba3",
    "jamba",
    "transformer",
    "lstm",
    "gru",
    "linear_attention",
    "hybrid",
    "gated_deltanet",
    "retnet",
    "rwkv7",
    "xlstm",
    "griffin",
    "lfm2",
]
POSITIONS = ["learned", "sinusoidal", "alibi"]


@pytest.mark.parametrize(
    "words", [[f"arch={arch}"] for arch in ARCHS] + [["arch=transformer", f"position={name}"] for name in POSITIONS]
)
def test_prompts_of_unlike_lengths_decode_in_one_batch_as_alone(words):
    objective = model(*words).double().eval()
    pads, prompt = (0, 2, 7), 12
    tokens = torch.randint(0, 64, (3, prompt + 4), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(prompt) >= torch.tensor(pads)[:, None]
    with torch.no_grad():
        state, logits = objective.init_state(3, prompt + 4, CPU, F64), []
        for piece, real in zip(tokens[:, :prompt].split(5, 1), mask.split(5, 1), strict=True):
            more, state = objective.step(piece, state, real)
            logits.append(more)
        for token in tokens[:, prompt:].split(1, 1):
            more, state = objective.step(token, state)
            logits.append(more)
        for row, pad in enumerate(pads):
            alone, _ = objective.step(tokens[row : row + 1, pad:], objective.init_state(1, prompt + 4, CPU, F64))
            torch.testing.assert_close(torch.cat(logits, 1)[row, pad:], alone[0], rtol=1e-5, atol=1e-5)


def test_a_mask_that_does_not_fit_is_refused():
    objective = model("arch=mamba")
    state = objective.init_state(2, 8, CPU, torch.float32)
    with pytest.raises(ValueError, match=r"a mask of \(2, 3\) and torch.bool met tokens of \(2, 4\)"):
        objective.step(torch.zeros(2, 4, dtype=torch.long), state, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "words",
    [[f"arch={arch}"] for arch in ARCHS if arch != "linear_attention"]
    + [["arch=linear_attention", "mixer.convolution=1"], ["arch=lstm", "backbone.bidirectional=separate"]]
    + [["arch=transformer", f"position={name}"] for name in POSITIONS],
)
def test_an_encoder_sees_no_padding(words):
    config = composed("task=digits", *words, "dim=32")
    encoder = make_objective(config, make_task(config)).double().eval().backbone
    x, real = draw(3, 12, 32), [12, 9, 5]
    behind = torch.arange(12) < torch.tensor(real)[:, None]
    for mask in (behind, behind.flip(1)):
        y, _ = encoder(x, mask_BL=mask)
        for row in range(3):
            alone, _ = encoder(x[row : row + 1, mask[row]])
            torch.testing.assert_close(y[row, mask[row]], alone[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "mamba3", "linear_attention", "transformer"])
def test_what_is_not_a_number_under_padding_stays_there(arch):
    objective = model(f"arch={arch}").double().eval()
    x = draw(2, 9, 32)
    x[1, :3] = float("nan")
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :3] = False
    y, _ = objective.backbone(x, objective.init_state(2, 9, CPU, F64), mask)
    assert y[0].isfinite().all()
    assert y[1, 3:].isfinite().all()


@pytest.mark.parametrize(
    ("before", "mask"), [(0, [1, 1, 0]), (0, [0, 1, 0]), (2, [0, 1, 1])], ids=["behind", "around", "after real tokens"]
)
def test_padding_where_it_would_leave_a_trace_is_refused(before, mask):
    objective = model("arch=mamba")
    state, tokens = objective.init_state(1, 8, CPU, torch.float32), torch.zeros(1, 3, dtype=torch.long)
    if before:
        _, state = objective.step(tokens[:, :before], state)
    with pytest.raises(ValueError, match="put it in front"):
        objective.step(tokens, state, torch.tensor([mask], dtype=torch.bool))
    with pytest.raises(ValueError, match="put it in front"):
        objective.backbone(draw(1, 3, 32, dtype=torch.float32), None, torch.tensor([[True, False, True]]))


def test_a_mixer_that_knows_no_padding_is_named(monkeypatch):
    for ways in (["task=digits"], ["task=recall", "task.rung=tiny"]):
        config = composed(*ways, "arch=lstm", "dim=32")
        backbone = make_objective(config, make_task(config)).backbone
        mixer = backbone.blocks[0].mixer
        mixer = getattr(mixer, "forwards", mixer)
        monkeypatch.setattr(mixer, "takes_mask", False)
        with pytest.raises(ValueError, match="LSTM knows no padding"):
            backbone(draw(1, 3, 32, dtype=torch.float32), None, torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_in_nothing_out(arch):
    objective = model(f"arch={arch}")
    for batch, length in ((0, 4), (2, 0)):
        state = objective.init_state(batch, 8, CPU, torch.float32)
        logits, state = objective.step(torch.zeros(batch, length, dtype=torch.long), state)
        assert logits.shape == (batch, length, 64)
        assert objective.step(torch.zeros(batch, 2, dtype=torch.long), state)[0].isfinite().all()


def test_the_deviation_of_embeddings_is_what_was_asked_for():
    assert model("stem.std=0.5").stem.embedding.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model().stem.embedding.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
