"""Encoders, decoders and both together: masked tokens, sequence to sequence, and decoding."""

import itertools

import pytest
import torch
from conftest import TINY
from scans import F64
from torch import nn

import zoo
from zoo.base.errors import ZooError
from zoo.comparison.ledger import read_ledger
from zoo.models.decoding import beam_search, generate
from zoo.nn import spans
from zoo.runs.train import train
from zoo.training.build import make_objective, make_task

CPU = torch.device("cpu")


def model(*words):
    config = zoo.compose("dim=32", "layers=2", *words)
    task = make_task(config)
    return make_objective(config, task).double().eval(), task


def test_the_original_transformer_is_torchs():
    """Encoder and decoder in float64, with the weights copied into torch.nn's layers."""
    ours, task = model("arch=vaswani", "task=reverse", "mixer.heads=4", "cross.heads=4")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    settings = {"d_model": 32, "nhead": 4, "dim_feedforward": 128, "dropout": 0.0, "batch_first": True, "dtype": F64}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**settings), 2, enable_nested_tensor=False).eval()
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**settings), 2).eval()

    def copy_attention(theirs, mixer):
        theirs.in_proj_weight.copy_(torch.cat([mixer.query.weight, mixer.key.weight, mixer.value.weight]))
        theirs.out_proj.weight.copy_(mixer.out.weight)
        theirs.in_proj_bias.zero_(), theirs.out_proj.bias.zero_()

    with torch.no_grad():
        for theirs, block in zip(
            [*encoder.layers, *decoder.layers], [*ours.encoder.blocks, *ours.backbone.blocks], strict=True
        ):
            copy_attention(theirs.self_attn, block.mixer)
            pairs = [(theirs.linear1, block.ffn.up), (theirs.linear2, block.ffn.down), (theirs.norm1, block.mixer_norm)]
            if block.reader() is None:
                pairs.append((theirs.norm2, block.ffn_norm))
            else:
                copy_attention(theirs.multihead_attn, block.cross)
                pairs += [(theirs.norm2, block.cross_norm), (theirs.norm3, block.ffn_norm)]
            for target, source in pairs:
                target.load_state_dict(source.state_dict())
        batch = task.train_batch(0, 0, CPU)
        placed = [ours.backbone.position.add(ours.stem(batch[key])) for key in ("source", "prefix")]
        memory = encoder(placed[0], src_key_padding_mask=~batch["source_mask"])
        length = batch["prefix"].shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = decoder(placed[1], memory, tgt_mask=future, memory_key_padding_mask=~batch["source_mask"])
        expected = x @ ours.stem.embedding.weight.T
        asked = batch["targets"] >= 0  # what stands behind is padding, which is no token here and one there
        torch.testing.assert_close(ours(batch)["logits"][asked], expected[asked], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("words", [["arch=vaswani"], ["arch=mamba", "objective=sequence_to_sequence"], ["arch=lstm", "objective=sequence_to_sequence", "objective.encoder_layers=1"]], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("task", ["reverse", "arithmetic"])
def test_decoding_step_by_step_from_a_source_equals_one_pass(words, task):
    ours, task = model(*words, f"task={task}")
    batch = task.train_batch(0, 0, CPU)
    with torch.no_grad():
        whole = ours(batch)["logits"]
        state = ours.read(
            batch["source"], ours.init_state(64, batch["prefix"].shape[1], CPU, F64), batch["source_mask"]
        )
        parts = []
        for piece in batch["prefix"].split([2, 1, batch["prefix"].shape[1] - 3], 1):
            logits, state = ours.step(piece, state)
            parts.append(logits)
        asked = batch["targets"] >= 0  # what stands behind is padding
        torch.testing.assert_close(torch.cat(parts, 1)[asked], whole[asked], rtol=1e-6, atol=1e-6)
        noise = {**batch, "source": torch.where(batch["source_mask"], batch["source"], 5)}
        torch.testing.assert_close(ours(noise)["logits"], whole, rtol=1e-9, atol=1e-9)
        later = {**batch, "prefix": batch["prefix"].clone()}
        later["prefix"][:, 3:] = 4
        torch.testing.assert_close(ours(later)["logits"][:, :3], whole[:, :3], rtol=1e-9, atol=1e-9)


def one_by_one(ours, prompt, tokens, end):
    """Greedy decoding without any cache: the whole sequence again for each token."""
    written = []
    for _ in range(tokens):
        line = torch.tensor([[*prompt, *written]])
        token = ours({"inputs": line, "targets": line})["logits"][0, -1].argmax().item()
        if token == end:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("arch", ["transformer", "mamba", "lstm"])
def test_greedy_decoding_with_a_cache_equals_decoding_without(arch):
    ours, _ = model(f"arch={arch}", "task=recall", "task.rung=tiny")
    prompts = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]  # of unlike lengths: padded and masked in one batch
    with torch.no_grad():
        written = generate(ours, prompts, 8, end=None)
        assert written == [one_by_one(ours, prompt, 8, None) for prompt in prompts]
        end = written[1][3]
        assert generate(ours, prompts, 8, end=end) == [one_by_one(ours, prompt, 8, end) for prompt in prompts]


class Table(nn.Module):
    """A model that decodes by a table: the logits of a token given the two before it."""

    def __init__(self, symbols=4, seed=0):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.symbols, self.table = symbols, nn.Parameter(2 * torch.randn(symbols, symbols, symbols, generator=source))

    def init_state(self, batch_size, max_len, device, dtype):
        return {"last": torch.zeros(batch_size, dtype=torch.long)}

    def step(self, inputs, state, mask=None):
        logits, last = [], state["last"]
        for token in inputs.T:
            logits.append(self.table[last, token])
            last = token
        return torch.stack(logits, 1), {"last": last}


def log_probability(table, prompt, written):
    tokens, total = [0, *prompt], 0.0
    for token in written:
        total += table.table[tokens[-2], tokens[-1]].double().log_softmax(-1)[token].item()
        tokens.append(token)
    return total


@pytest.mark.parametrize("end", [None, 3])
@pytest.mark.parametrize("power", [0.0, 0.6, 1.5])
def test_a_search_that_keeps_everything_finds_the_best_of_all(end, power):
    table, steps = Table(), 4
    prompts = [[1, 2], [2, 0]]
    rows_by_prompt = beam_search(table, prompts, steps, end=end, beams=4**steps, length_penalty=power)
    for prompt, rows in zip(prompts, rows_by_prompt, strict=True):
        every = {}
        for length in range(1, steps + 1):
            for written in itertools.product(range(4), repeat=length):
                cut = written.index(end) if end in written else None
                if (cut is not None and cut != length - 1) or (cut is None and length < steps):
                    continue
                score = log_probability(table, prompt, written) / ((5 + length) / 6) ** power
                every[tuple(written[:cut]) if cut is not None else written] = max(
                    score, every.get(tuple(written[:cut]), -1e9)
                )
        best = sorted(every.items(), key=lambda item: -item[1])[:5]
        for (written, score), (row, value) in zip(best, rows, strict=False):
            assert list(written) == row
            assert score == pytest.approx(value)


def test_one_beam_is_greedy_and_more_are_no_worse():
    improved = 0
    for seed in range(20):
        table = Table(6, seed)
        greedy = generate(table, [[1, 2]], 5)[0]
        assert beam_search(table, [[1, 2]], 5, beams=1)[0][0][0] == greedy
        best = beam_search(table, [[1, 2]], 5, beams=8)[0][0]
        assert best[1] * (10 / 6) ** 0.6 >= log_probability(table, [1, 2], greedy) - 1e-9
        improved += best[0] != greedy
    assert improved > 3


def test_a_search_stops_early_only_when_nothing_better_can_come():
    """The end is likely at once, and what goes on is worth more: a search that stopped at the first end would miss it."""
    table = Table(3)
    with torch.no_grad():
        table.table.fill_(-20.0)
        table.table[..., 2] = 0.1
        table.table[..., 1] = 0.0  # 52 % to end, 48 % to go on
        table.table[1, 1, 0] = 20.0
        table.table[1, 0] = torch.tensor([-20.0, -20.0, 20.0])
    rows = beam_search(table, [[1, 1]], 4, end=2, beams=2, length_penalty=3.0)[0]
    assert rows[0][0] == [0]


def test_a_search_over_a_real_model_keeps_states_and_sequences_together():
    ours, task = model("arch=vaswani", "task=sort", "task.length=4")
    batch = task.train_batch(0, 0, CPU)
    sources = [row[mask].tolist() for row, mask in zip(batch["source"], batch["source_mask"], strict=True)][:3]
    together = beam_search(ours, sources, 5, start=1, end=2, beams=3)
    for source, rows in zip(sources, together, strict=True):
        alone = beam_search(ours, [source], 5, start=1, end=2, beams=3)[0]
        assert [row for row, _ in rows] == [row for row, _ in alone]
        for written, score in rows:
            whole = [*written, 2] if len(written) < 5 else written
            prefix = torch.tensor([[1, *whole[:-1]]])
            line = {
                "source": torch.tensor([source]),
                "source_mask": torch.ones(1, len(source), dtype=torch.bool),
                "prefix": prefix,
                "targets": torch.tensor([whole]),
            }
            with torch.no_grad():
                steps = ours(line)["logits"][0].double().log_softmax(-1)
            value = steps[torch.arange(len(whole)), torch.tensor(whole)].sum().item()
            assert score == pytest.approx(value / ((5 + len(whole)) / 6) ** 0.6, rel=1e-4)


def test_draws_follow_the_softmax_and_their_seed():
    table = Table(5)
    first = generate(table, [[1, 2]] * 4000, 1, temperature=0.7, seed=1)
    assert first == generate(table, [[1, 2]] * 4000, 1, temperature=0.7, seed=1)
    assert first != generate(table, [[1, 2]] * 4000, 1, temperature=0.7, seed=2)
    share = torch.bincount(torch.tensor(first).flatten(), minlength=5) / 4000
    torch.testing.assert_close(share, (table.table[1, 2] / 0.7).softmax(-1).detach(), rtol=0, atol=0.03)


def test_generate_is_right_as_often_as_the_score_says(zoo_main):
    """Greedy decoding is right exactly where every token is the likeliest given the right ones before it."""
    words = ["arch=vaswani", "task=sort", "task.length=3", "task.symbols=4", "task.test_size=60", "dim=32", "layers=1"]
    status, out, _ = zoo_main(
        "train", *words, "steps=150", "optimizer.lr=0.01", "trainer.progress=false", "trainer.accelerator=cpu"
    )
    assert status == 0
    line, run = out.strip().splitlines()
    score = float(line.split()[2].rstrip(","))
    assert 0.1 < score < 1.01
    status, out, _ = zoo_main("generate", run)
    assert status == 0
    assert f"({score:.4f}), greedy" in out
    assert len(out.strip().splitlines()) == 6
    status, out, _ = zoo_main("generate", run, "--beams", "3", "--examples", "1")
    assert "3 beams" in out
    status, out, _ = zoo_main("generate", run, "--prompt", "2 1 3", "--prompt", "0 0")
    assert status == 0
    assert [row.split(" -> ")[0] for row in out.strip().splitlines()] == ["2 1 3", "0 0"]
    for words, says in [
        (["--prompt", "9 1"], "expected symbols from 0 to 3"),
        (["--prompt", "a"], "expected symbols from 0 to 3"),
        (["--prompt", ""], "is empty"),
        (["--tokens", "none"], "--tokens=none: expected a whole number"),
        (["--beams", "0"], "--beams=0: expected at least 1"),
        (["--beams", "2", "--temperature", "1"], "give one of them"),
        (["--beam", "2"], "Did you mean --beams"),
    ]:
        status, _, err = zoo_main("generate", run, *words)
        assert status == 2, words
        assert says in err


def test_generate_goes_on_from_text_and_says_where_it_cannot(zoo_main):
    small = ["dim=16", "layers=1", "steps=2", "trainer.progress=false", "trainer.accelerator=cpu"]
    _, out, _ = zoo_main("train", "arch=gpt2", "task=text", "task.test_windows=8", "task.length=32", *small)
    status, out, _ = zoo_main(
        "generate", out.strip().splitlines()[-1], "--prompt", "def f", "--tokens", "5", "--temperature", "1"
    )
    assert status == 0
    assert out.startswith("def f -> ")
    _, out, _ = zoo_main("train", "arch=vit", "task=digits", *small)
    status, _, err = zoo_main("generate", out.strip().splitlines()[-1])
    assert status == 2
    assert "task=digits, which writes nothing" in err


def test_spans_are_exact_disjoint_and_every_way_is_as_likely():
    source = torch.Generator().manual_seed(0)
    for length, count, span in [(20, 3, 1), (20, 7, 3), (9, 9, 4), (6, 6, 1), (5, 1, 5)]:
        drawn = spans(500, length, count, span, CPU, source)
        many = min(max(1, round(count / span)), length // span)
        assert drawn.shape == (500, many * span)
        assert (drawn.diff(dim=1) > 0).all()
        assert ((drawn >= 0) & (drawn < length)).all()
        starts = drawn.view(500, many, span)
        assert (starts.diff(dim=2) == 1).all()
    ways = spans(30_000, 6, 4, 2, CPU, source)[:, ::2]  # two spans of two in six positions: six ways
    _, counts = ways.unique(dim=0, return_counts=True)
    assert len(counts) == 6
    torch.testing.assert_close(counts / 30_000, torch.full((6,), 1 / 6), rtol=0, atol=0.01)
    for count, span in [(0, 1), (1, 0), (1, 7)]:
        with pytest.raises(ValueError, match="do not fit"):
            spans(1, 6, count, span, CPU)


def test_hidden_tokens_are_masked_replaced_and_left_in_the_published_shares():
    objective, _ = model("arch=bert", "task=text")
    objective.train()
    tokens = torch.randint(0, 256, (400, 100), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    hidden, positions = objective.hide(tokens)
    assert positions.shape == (400, 15)
    asked = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, positions, True)
    assert torch.equal(hidden[~asked], tokens[~asked])
    masked, left = hidden[asked] == 256, hidden[asked] == tokens[asked]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert left.float().mean().item() == pytest.approx(0.1 + 0.1 / 256, abs=0.015)
    assert not torch.equal(objective.hide(tokens)[1], positions)
    objective.eval()
    first, again = objective.hide(tokens), objective.hide(tokens)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_masked_token_is_predicted_without_seeing_it_and_from_both_sides():
    objective, _ = model("arch=bert", "task=text")
    tokens = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(0))
    hidden, positions = objective.hide(tokens)
    out = objective({"inputs": tokens})
    assert torch.equal(out["targets"], tokens.gather(1, positions))
    masked = hidden.gather(1, positions) == 256
    other = tokens.clone()
    changed = positions[masked.nonzero(as_tuple=True)[0][0], masked[0].nonzero()[0]]
    other[0, changed] = (other[0, changed] + 1) % 256  # what stands under the mask
    torch.testing.assert_close(objective({"inputs": other})["logits"], out["logits"])
    assert torch.equal(objective.predict(hidden).gather(1, positions[..., None].expand(-1, -1, 257)), out["logits"])
    for position in (0, 39):
        moved = hidden.clone()
        moved[0, position] = 7
        assert not torch.allclose(objective.predict(moved)[0, 20], objective.predict(hidden)[0, 20])


def test_masked_tokens_are_no_rivals_of_next_ones(here):
    words = ["task=recall", "task.rung=tiny", "task.test_size=8", *TINY, "experiment=both"]
    rows = [train(zoo.compose(f"arch={arch}", *words)) for arch in ("transformer", "bert")]
    assert [row["metric"] for row in rows] == ["accuracy", "masked_accuracy"]
    assert rows[1]["chance"] == {}
    assert rows[1]["solved"] is None
    ledger = read_ledger(here / "runs" / "both")
    assert sorted(ledger.tasks) == ["recall", "recall (masked)"]
    assert ledger.ranked("recall")[0].contestant.startswith("transformer")
    assert all(len(ledger.ranked(task)) == 1 for task in ledger.tasks)


@pytest.mark.parametrize(
    "words", [["arch=mamba"], ["arch=lstm"], ["arch=linear_attention"], ["arch=jamba"]], ids=" ".join
)
def test_any_mixer_is_an_encoder_of_masked_tokens(words):
    objective, _ = model("objective=masked_token", "task=text", *words)
    tokens = torch.randint(0, 256, (1, 30), generator=torch.Generator().manual_seed(0))
    before = objective.predict(tokens)[0, 15]
    for position in (2, 28):
        moved = tokens.clone()
        moved[0, position] = (moved[0, position] + 1) % 256
        assert not torch.allclose(objective.predict(moved)[0, 15], before)


def test_the_state_of_an_encoder_decoder_is_counted_on_its_longest_pair(here):
    words = ["arch=vaswani", "task=reverse", "task.length=6", "task.test_size=4", *TINY, "steps=1"]
    row = train(zoo.compose(*words))
    head = 16  # one layer; keys and values of 12 symbols read and 13 tokens written, and which of the source are there
    assert row["state_bytes"] == 2 * (12 + 13) * head * 4 + 12
    assert row["facts"]["source_len"] == 12
    ours, _ = model("arch=vaswani", "task=reverse")
    empty = ours.init_state(1, 4, CPU, F64)
    with pytest.raises(ValueError, match="read a source before the first step"):
        ours.step(torch.ones(1, 1, dtype=torch.long), empty)


def test_padding_is_neither_hidden_nor_asked_for():
    objective, task = model("arch=bert", "task=sort", "objective.ratio=0.5")
    batch = task.train_batch(0, 0, CPU)
    out = objective(batch)
    asked = out["targets"]
    _, positions = objective.hide(batch["inputs"])
    assert torch.equal(asked >= 0, batch["inputs_mask"].gather(1, positions))
    assert (asked == 0).sum() == 0
    loss = nn.functional.cross_entropy(out["logits"].flatten(0, 1), asked.flatten())
    torch.testing.assert_close(out["loss"], loss)
    noise = {**batch, "inputs": torch.where(batch["inputs_mask"], batch["inputs"], 7)}
    torch.testing.assert_close(objective(noise)["loss"], out["loss"])


@pytest.mark.parametrize(("length", "span", "many"), [(32, 10, 5), (12, 3, 2), (64, 100, 10), (100, 3, 15), (7, 2, 1)])
def test_spans_never_hide_more_than_is_asked_for(length, span, many):
    objective, _ = model("arch=bert", "task=text", f"objective.span={span}")
    objective.train()
    tokens = torch.zeros(200, length, dtype=torch.long)
    hidden, positions = objective.hide(tokens)
    assert positions.shape == (200, many)
    width = min(span, many)
    fate = (hidden.gather(1, positions) == 256).view(200, -1, width)
    assert torch.equal(fate.all(-1), fate.any(-1)), "a span is masked whole or not at all"


def test_a_task_that_is_not_written_on_is_not(zoo_main):
    _, out, _ = zoo_main("train", "arch=gpt2", "task=parity", "task.test_size=8", *TINY, "steps=2")
    status, _, err = zoo_main("generate", out.strip().splitlines()[-1], "--prompt", "1 0")
    assert status == 2
    assert "task=parity, which writes nothing" in err
    _, out, _ = zoo_main("train", "arch=vaswani", "task=sort", "task.test_size=8", *TINY, "steps=2")
    run = out.strip().splitlines()[-1]
    for words in (
        ["--temperature", "nan"],
        ["--temperature", "-1"],
        ["--tokens", "999999999999"],
        ["--seed", "9" * 25],
        ["--seed", "-1"],
    ):
        status, _, err = zoo_main("generate", run, *words)
        assert status == 2, words
        assert "expected at least" in err
    assert zoo_main("generate", run, "--temperature", "1e-300")[0] == 0


@pytest.mark.parametrize("words", [["objective.label_smoothing=1"], ["objective.label_smoothing=-0.1"], ["mixer.dropout=2"], ["position.base=1"], ["position.base=-5"],
                                   ["position.factor=4"], ["position.scaling=linear", "position.factor=.nan"], ["position.scaling=ntk", "position.factor=.inf"]], ids=" ".join)  # fmt: skip
def test_rates_and_factors_that_mean_nothing_are_refused(words):
    with pytest.raises(ZooError, match=words[-1].split("=")[0].split(".")[-1]):
        model("task=text", *words)


def test_a_window_in_an_encoder_looks_to_both_sides():
    ours, _ = model("objective=masked_token", "task=text", "mixer.window=3", "layers=1")
    mixer = ours.backbone.blocks[0].mixer
    seen = mixer.attention_map(torch.randn(1, 9, 32, dtype=F64))[0, 0] > 0
    positions = torch.arange(9)
    assert torch.equal(seen, (positions[:, None] - positions).abs() < 3)
