"""The bound of block diffusion: its value, what its blocks see, which mixers serve it, and how it writes."""

import itertools
import math

import pytest
import torch
from conftest import TINY
from torch.nn import functional as F

import zoo
from zoo.models.decoding import unmask
from zoo.runs.train import train
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")
FOUR = ("task=parity", "task.length=4", "task.test_lengths=[]")
MIXERS = {
    "attention": [],
    "window": ["mixer.window=3"],
    "grouped": ["mixer.heads=4", "mixer.kv_heads=2", "mixer.sinks=2", "mixer.sink_logits=true"],
    "tempered": ["mixer.temperature=log", "mixer.softcap=20", "mixer.norm_qk=before", "mixer.output_gate=head"],
    "values": ["mixer.share_values=true", "mixer.value_embeddings=each"],
    "learned": ["position=learned"],
    "alibi": ["position=alibi"],
    "differential": ["mixer=differential_attention", "mixer.heads=2"],
    "latent": ["mixer=latent_attention"],
    "sparse": ["mixer=sparse_attention", "mixer.block=2", "mixer.local=1", "mixer.stride=2"],
    "mixture": ["ffn=moe", "ffn.experts=4"],
    "loops": ["backbone.loops=2"],
    "hyper": ["residual=hyper_connections"],
}


def model(*words, kind="block_diffusion", layers=2):
    """A model in float64 whose weights are large enough for tokens to matter, and its task."""
    config = zoo.compose(f"objective={kind}", "dim=16", f"layers={layers}", *words)
    task = make_task(config)
    torch.manual_seed(0)
    objective = make_objective(config, task).double().eval()
    with torch.no_grad():
        objective.head.weight.mul_(8)
        objective.stem.embedding.weight.mul_(3)
    return objective, task


def bound(objective, tokens, likelihood):
    """By its definition, in nats a token: each block, number of hidden tokens and set of so many in turn.

    ``likelihood(objective, text, hidden)`` gives log-probabilities (L, C) of a text that has hidden positions in its
    last block.
    """
    total, length, block = 0.0, len(tokens), objective.block
    for begin in range(0, length, block):
        end = min(begin + block, length)
        for k in range(1, end - begin + 1):
            sets = list(itertools.combinations(range(begin, end), k))
            for hidden in map(list, sets):
                said_LC = likelihood(objective, tokens[:end], hidden)
                lost = -sum(said_LC[position, tokens[position]] for position in hidden)
                total += lost * (end - begin) / k / len(sets) / (end - begin)
    return (total / length).item()


def masked(objective, tokens, hidden):
    """One sequence with the mask token at these positions."""
    text_L = tokens.clone()
    text_L[hidden] = objective.mask_token
    return text_L[None]


def by_itself(objective, tokens, hidden):
    """What a pass over the text up to the end of the block says of hidden tokens."""
    return objective.predict(masked(objective, tokens, hidden))[0].log_softmax(-1)


@torch.no_grad()
def expected(objective, tokens):
    """The loss, averaged over all that it may draw: each block's sets of hidden tokens with each others'."""
    length, block = len(tokens), objective.block
    spans = [range(begin, min(begin + block, length)) for begin in range(0, length, block)]
    choices = [[(c, k) for k in range(1, len(s) + 1) for c in itertools.combinations(s, k)] for s in spans]
    losses, shares = [], []
    for drawn in itertools.product(*choices):
        hidden_L = torch.zeros(length, dtype=torch.bool)
        weights_L, share = torch.zeros(length, dtype=torch.double), 1.0
        for span, (chosen, k) in zip(spans, drawn, strict=True):
            hidden_L[list(chosen)] = True
            weights_L[list(chosen)] = len(span) / k
            share /= len(span) * math.comb(len(span), k)
        objective.hide = lambda inputs, mask, masking=(hidden_L, weights_L): tuple(each[None] for each in masking)
        losses.append(objective({"inputs": tokens[None]})["loss"].item())
        shares.append(share)
    del objective.hide
    assert sum(shares) == pytest.approx(1)
    return sum(loss * share for loss, share in zip(losses, shares, strict=True))


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7])
def test_the_loss_is_an_explicit_sum_over_blocks(block):
    objective, _ = model(*FOUR, f"objective.block={block}")
    tokens_L = torch.tensor([0, 1, 1, 0])
    assert expected(objective, tokens_L) == pytest.approx(bound(objective, tokens_L, by_itself), rel=1e-12)


@pytest.mark.parametrize("words", MIXERS.values(), ids=MIXERS)
def test_each_mixer_that_is_not_refused_is_exact(words):
    """One pass over all blocks, noised and clean, against a pass for each."""
    objective, _ = model(*FOUR, "objective.block=2", *words)
    tokens_L = torch.tensor([1, 0, 1, 1])
    assert expected(objective, tokens_L) == pytest.approx(bound(objective, tokens_L, by_itself), rel=1e-11)


@pytest.mark.parametrize("words", [[], ["position=learned"], ["position=alibi"], ["mixer=latent_attention"]])
def test_one_layer_is_a_plain_encoder_over_what_a_block_has_read(words):
    """No mask at all: in a single layer clean tokens are read as they are, whoever they see."""
    words = [*FOUR, *words]
    objective, _ = model(*words, "objective.block=2", layers=1)
    plain, _ = model(*words, kind="masked_diffusion", layers=1)
    plain.load_state_dict(objective.state_dict())
    plain_pass = lambda _, tokens, hidden: plain.predict(masked(plain, tokens, hidden))[0].log_softmax(-1)  # noqa: E731
    tokens_L = torch.tensor([1, 1, 0, 1])
    assert expected(objective, tokens_L) == pytest.approx(bound(objective, tokens_L, plain_pass), rel=1e-12)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_it_bounds_a_likelihood_and_is_one_for_single_tokens(block):
    """Probabilities of all sequences sum to one; a bound of each says too little of them, and never too much."""
    objective, _ = model(*FOUR, f"objective.block={block}")
    every = [torch.tensor(tokens) for tokens in itertools.product(range(objective.mask_token), repeat=4)]
    total = sum(math.exp(-4 * expected(objective, tokens_L)) for tokens_L in every)
    assert total == pytest.approx(1, rel=1e-12) if block == 1 else total < 1 - 1e-6


@pytest.mark.parametrize("length", [16, 13])
def test_a_block_as_long_as_the_sequence_is_masked_diffusion(length):
    whole, task = model("task=text", "task.length=16", "objective.block=16")
    plain, _ = model("task=text", "task.length=16", kind="masked_diffusion")
    plain.load_state_dict(whole.state_dict())
    batch = {"inputs": task.train_batch(0, 0, CPU)["inputs"][:5, :length]}
    for training in (True, False):
        losses = []
        for objective in (whole, plain):
            torch.manual_seed(3)
            losses.append(objective.train(training)(batch)["loss"].item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("block", [1, 3, 5, 16])
@pytest.mark.parametrize("padded", [False, True])
def test_each_block_hides_any_number_of_its_tokens(block, padded):
    objective, _ = model("task=text", "task.length=13", f"objective.block={block}")
    inputs_BL = torch.randint(0, 50, (3000, 13), generator=torch.Generator().manual_seed(0))
    mask_BL = torch.arange(13) < torch.tensor([13, 7, 0]).repeat(1000)[:, None] if padded else None
    for training in (True, False):
        hidden_BL, weights_BL = objective.train(training).hide(inputs_BL, mask_BL)
        real_BL = torch.ones_like(hidden_BL) if mask_BL is None else mask_BL
        assert not (hidden_BL & ~real_BL).any()
        for begin in range(0, 13, block):
            part = slice(begin, begin + block)
            for length in sorted({*real_BL[:, part].sum(1).tolist()}):
                rows_B = real_BL[:, part].sum(1) == length
                many_B = hidden_BL[rows_B, part].sum(1)
                torch.testing.assert_close(weights_BL[rows_B, part].sum(1), torch.full_like(many_B, length).float())
                if length:
                    share_K = torch.bincount(many_B, minlength=length + 1)[1:] / len(many_B)
                    torch.testing.assert_close(share_K, torch.full_like(share_K, 1 / length), rtol=0, atol=0.03)


@pytest.mark.parametrize("words", MIXERS.values(), ids=MIXERS)
def test_no_block_sees_a_later_one_nor_its_own_hidden_tokens(words):
    objective, _ = model("task=text", "task.length=11", "objective.block=4", *words)
    source = torch.Generator().manual_seed(0)
    tokens_BL, other_BL = (torch.randint(0, 60, (2, 11), generator=source) for _ in range(2))
    hidden_BL = torch.rand(2, 11, generator=source) < 0.5
    mask_BL = torch.arange(11) < torch.tensor([11, 10])[:, None]
    for mask in (None, mask_BL):
        said_BLC = objective.fill_in(tokens_BL, hidden_BL, mask)
        for begin in (0, 4, 8):
            # all later blocks are others, and what is hidden in this one
            position_L = torch.arange(11)
            open_BL = (position_L < begin) | ((position_L < begin + 4) & ~hidden_BL)
            changed = objective.fill_in(torch.where(open_BL, tokens_BL, other_BL), hidden_BL, mask)
            part = slice(begin, begin + 4)
            torch.testing.assert_close(changed[:, part], said_BLC[:, part], rtol=0, atol=1e-12)
            # and it does see the block before
            if begin:
                changed = objective.fill_in(torch.where(position_L < begin, other_BL, tokens_BL), hidden_BL, mask)
                assert not torch.allclose(changed[:, part], said_BLC[:, part], atol=1e-6)


@pytest.mark.parametrize("words", [[], ["mixer.window=4"], ["mixer=sparse_attention"]], ids=str)
def test_a_long_text_is_read_as_its_blocks_are(words):
    """A window that is short enough to be computed in blocks of its own reaches the clean text all the same."""
    objective, _ = model("task=text", "task.length=200", "objective.block=5", *words)
    source = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(0, 60, (2, 200), generator=source)
    hidden_BL = torch.rand(2, 200, generator=source) < 0.5
    said_BLC = objective.fill_in(tokens_BL, hidden_BL)
    for begin in range(0, 200, 35):
        position_L = torch.arange(begin + 5)
        text_BL = tokens_BL[:, : begin + 5].masked_fill(
            hidden_BL[:, : begin + 5] & (position_L >= begin), objective.mask_token
        )
        torch.testing.assert_close(
            objective.predict(text_BL)[:, begin:], said_BLC[:, begin : begin + 5], rtol=0, atol=1e-11
        )


def test_no_gradient_goes_from_a_block_to_later_tokens():
    objective, _ = model("task=text", "task.length=12", "objective.block=4")
    leaves = []
    objective.stem.register_forward_hook(
        lambda stem, given, out: leaves.append(out.detach().requires_grad_()) or leaves[-1]
    )
    tokens_BL = torch.randint(0, 60, (1, 12), generator=torch.Generator().manual_seed(0))
    objective.fill_in(tokens_BL, torch.zeros_like(tokens_BL, dtype=torch.bool))[0, 4:8].square().sum().backward()
    size_M = leaves[0].grad[0].abs().sum(-1)  # of 12 noised tokens and the 8 clean ones before the last block
    assert (size_M > 0).nonzero().flatten().tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=mamba2"], "Mamba2 cannot be told which tokens see which"),
        (["mixer=lstm"], "LSTM cannot be told which tokens see which"),
        (["mixer=forgetting_attention"], "ForgettingAttention cannot be told"),
        (["backbone.pattern=ma", "mixer@alternate_mixer=gated_deltanet"], "cannot be told which tokens see which"),
        (["backbone.convolution=3"], "Convolved cannot be told which tokens see which"),
        (["ffn=moe", "ffn.gate=expert_choice"], "tokens may not see all others here, and with ffn.gate=expert_choice"),
        (["objective.block=0"], "objective.block=0: expected at least 1"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_cannot_be_exact_is_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model("task=text", *words)


def test_a_capacity_is_refused():
    with (
        pytest.raises(zoo.ZooError, match=r"and the tokens of a batch share ffn.capacity=1.0"),
        pytest.warns(UserWarning, match="depends on the other tokens"),
    ):
        model("task=text", "ffn=moe", "ffn.capacity=1")


def test_it_learns_and_stands_beside_other_bounds(here):
    words = ["task=recall", "task.rung=tiny", "task.test_size=8", *TINY, "experiment=both", "steps=60"]
    first = train(zoo.compose(*words, "objective=block_diffusion", "steps=1", "experiment=none"))
    row = train(zoo.compose(*words, "objective=block_diffusion"))
    assert row["metric"] == "diffusion_bound_accuracy"
    assert row["solved"] is None
    assert row["test"]["diffusion_bound_nats"] < first["test"]["diffusion_bound_nats"] - 0.1


class Knows:
    """Says of each position the number of tokens before it in its text, and notes what it is shown."""

    mask_token, block = 99, 4

    def __init__(self, max_len=100):
        self.seen, self.stem = [], torch.nn.Identity()
        self.stem.max_len = max_len

    def parameters(self):
        return iter([torch.zeros(1)])

    def predict(self, inputs_BL):
        self.seen.append(inputs_BL[0].tolist())
        return 50 * F.one_hot(torch.arange(inputs_BL.shape[1]).expand_as(inputs_BL), 99).float()


def test_blocks_are_written_in_turn():
    knows = Knows()
    assert unmask(knows, [[0, 1]], 7, steps=3) == [[2, 3, 4, 5, 6, 7, 8]]
    # the prompt's block is finished, the next one written, and the last one too, though one token of it is wanted
    assert [len(text) for text in knows.seen] == [4, 8, 12]
    assert knows.seen[1] == [0, 1, 2, 3, *[99] * 4]
    knows = Knows(max_len=9)
    assert unmask(knows, [[0, 1, 2, 3]], 5) == [[4, 5, 6, 7, 8]]
    assert [len(text) for text in knows.seen] == [8] * 4 + [9]


@pytest.mark.parametrize("steps", [10, 12, 15, 19, 21, 29, 39, 40])
def test_as_many_passes_are_made_as_are_asked_for(steps):
    knows = Knows(max_len=64)
    unmask(knows, [[0, 1, 2, 3]], 40, steps=steps)
    assert len(knows.seen) == steps


def test_draws_have_the_models_distribution():
    """All texts of four tokens, drawn by blocks of two, as often as the model says by the chain of its draws."""
    objective, _ = model(*FOUR, "objective.block=2")
    symbols = objective.mask_token
    count = 4000
    drawn = unmask(objective, [[0]] * count, 3, temperature=1.0)

    def chance(tokens, order):
        """The probability of filling in the hidden positions of the last block with these tokens in this order."""
        text_L, total = tokens.clone(), 1.0
        text_L[order] = symbols
        for position in order:
            total *= objective.predict(text_L[None])[0, position].softmax(-1)[tokens[position]].item()
            text_L[position] = tokens[position]
        return total

    for rest in itertools.product(range(symbols), repeat=3):
        text_L = torch.tensor([0, *rest])
        with torch.no_grad():
            said = chance(text_L[:2], [1]) * (chance(text_L, [2, 3]) + chance(text_L, [3, 2])) / 2
        frequency = sum(row == list(rest) for row in drawn) / count
        assert abs(frequency - said) < 4 * math.sqrt(said * (1 - said) / count) + 1e-3


def test_a_block_diffusion_writes(here):
    words = ["objective=block_diffusion", "task=text", "task.length=16", "task.test_windows=4", "steps=2"]
    row = train(zoo.compose(*words, *[word for word in TINY if not word.startswith(("task.", "steps"))]))
    short, longer = zoo.generate(row, "To be", "To be or", tokens=6)
    assert len(short) == len(longer) == 6
    assert zoo.generate(row, "To be", tokens=6) == [short]
