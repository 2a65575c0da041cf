"""Stacks of layers: what a pattern says, how branches join the stream, and what layers of one pass share."""

import itertools

import pytest
import torch
from conftest import first
from torch import nn

import zoo
from zoo import ZooError
from zoo.config.compose import compose
from zoo.training.build import make_objective, make_task
from zoo_plugins.backbones.block import Block
from zoo_plugins.backbones.pattern import layers_of

SMALL = ["task=recall", "task.rung=tiny", "dim=16", "mixer.heads=2"]
KINDS = {"mixer": "mixer", "alternate_mixer": "mixer", "ffn": "ffn", "local": "mixer", "mlp": "ffn"}


def model(*words: str, dtype: torch.dtype = torch.float64, heads: bool = True):
    """A small model; ``heads`` gives the run's mixer two, where it is attention."""
    heads = heads and not any(word.startswith(("mixer=", "arch=")) for word in words)
    small = [word for word in SMALL if heads or not word.startswith("mixer.")]
    config = compose(*small, *words)
    return make_objective(config, make_task(config)).to(dtype).eval()


def names(block: Block) -> list[list[str]]:
    return [[type(getattr(block, name)).__name__ for _, name in stage] for stage in block.stages]


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("m", [[["mixer"], ["ffn"]]]),
        ("mma", [[["mixer"], ["ffn"]], [["mixer"], ["ffn"]], [["alternate_mixer"], ["ffn"]]]),
        (["local"], [[["local"], ["ffn"]]]),
        ("local", [[["local"], ["ffn"]]]),
        (["local*2", "mixer"], [[["local"], ["ffn"]], [["local"], ["ffn"]], [["mixer"], ["ffn"]]]),
        (["local+none", "mlp"], [[["local"]], [["mlp"]]]),
        (["local|mixer"], [[["local", "mixer"], ["ffn"]]]),
        (["mixer|ffn"], [[["mixer", "ffn"]]]),
        (["mixer+mlp+local+ffn"], [[["mixer"], ["mlp"], ["local"], ["ffn"]]]),
    ],
)
def test_a_pattern_says_its_layers(pattern, layers):
    assert layers_of(pattern, KINDS) == layers


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("mmx", "expected letters m"), ("", "expected letters"), ([], "expected letters"), ([""], "expected letters"),
        (["locl"], "Did you mean local"), (["none"], "needs a mixer or a feed-forward"), (["mixer*0"], "number of layers"),
        (["mixer*x"], "number of layers"), (["mixer++ffn"], "there is no ''"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_pattern_is_explained(pattern, said):
    with pytest.raises(ValueError, match=said):
        layers_of(pattern, KINDS)


def test_layers_are_typed_in_one_word():
    backbone = model("backbone.pattern=[gru*2,attention|mamba2,mixer+none,ffn]", "layers=5").backbone
    glu = names(model().backbone.blocks[0])[1]
    assert [names(block) for block in backbone.blocks] == [
        [["GRU"], glu], [["GRU"], glu], [["Attention", "Mamba2"], glu], [["Attention"]], [glu]
    ]  # fmt: skip


def test_a_named_part_has_its_own_choice_and_values():
    config = compose(
        *SMALL, "mixer@local=attention", "local.window=4", "local.heads=1", "backbone.pattern=[local,mixer]"
    )
    backbone = config["objective"]["backbone"]
    assert (backbone["parts"]["local"]["window"], backbone["mixer"]["window"]) == (4, None)
    mixers = [block.mixer for block in make_objective(config, make_task(config)).backbone.blocks]
    assert [(each.window, each.heads) for each in mixers] == [(4, 1), (None, 2)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mixer@alternate_mixr=gru"], "Did you mean mixer@alternate_mixer"),
        (["mixer@local=gru", "backbone.pattern=[locl]"], "names no local"),
        (["mixer@local=atention", "backbone.pattern=[local]"], "Did you mean"),
        (["mixer@local=attention", "local.windw=3", "backbone.pattern=[local]"], "Did you mean"),
    ],
)
def test_a_mistake_in_a_named_part_is_explained(words, said):
    with pytest.raises(ZooError, match=said):
        compose(*SMALL, *words)


@pytest.mark.parametrize(
    ("words", "unused", "others"),
    [
        (["mixer@alternate_mixer=gru"], "alternate_mixer", "mixer, ffn"),
        (["alternate_mixer.heads=1"], "alternate_mixer", "mixer, ffn"),
        (["backbone.pattern=[gru]", "mixer=lstm"], "mixer", "ffn, gru"),
        (["position@mixer.position=none", "backbone.pattern=[gru]"], "mixer", "ffn, gru"),
        (["backbone.pattern=[mixer+none]", "ffn=mlp"], "ffn", "mixer"),
        (["arch=gemma3", "mixer.window=3"], "mixer", "ffn, local, whole"),
    ],
)
def test_what_no_layer_is_made_of_is_not_chosen_nor_set(words, unused, others):
    config = compose("task=recall", "task.rung=tiny", "dim=32", *words)
    with pytest.raises(ZooError, match=f"no layer is made of {unused}, .* Layers are made of {others}$"):
        make_objective(config, make_task(config))


def test_what_one_of_two_stacks_is_made_of_may_be_set():
    words = ["task=reverse", "objective=sequence_to_sequence", "dim=16", "backbone@objective.encoder_backbone=layers"]
    config = compose(*words, "objective.encoder_backbone.pattern=[gru]", "mixer.heads=1")
    assert make_objective(config, make_task(config)).backbone.uses()["mixer"]


def test_parts_are_those_that_the_pattern_names():
    config = compose(*SMALL, "backbone.pattern=[gru,attention]")
    assert set(config["objective"]["backbone"]["parts"]) == {"gru", "attention"}
    assert compose(*SMALL)["objective"]["backbone"]["parts"] == {}


PATTERNS = [
    "backbone.pattern=[mixer|ffn]", "backbone.pattern=[mixer|gru,ffn]", "backbone.pattern=[gru+none,mixer+gru+ffn]",
    "backbone.pattern=[attention|mamba2,mixer] backbone.parallel_weights=trained", "residual=sandwich", "residual=post",
    "residual=sandwich residual.before=false", "residual=scaled residual.embedding=0.5 residual.each_channel=true",
    "residual=hyper_connections", "residual=hyper_connections residual.sinkhorn_steps=0 residual.dynamic=false",
    "backbone.loops=3", "backbone.loops=2 backbone.inject=true residual=hyper_connections",
]  # fmt: skip


@pytest.mark.parametrize("words", PATTERNS)
def test_decoding_token_by_token_equals_one_pass(words):
    objective = model("layers=3", *words.split())
    tokens_BL = torch.randint(1, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = objective.backbone(objective.stem(tokens_BL))
        state, pieces = objective.backbone.init_state(2, 9, torch.device("cpu"), torch.float64), []
        for piece_BL in tokens_BL.split([1, 3, 1, 4], dim=1):
            y_BLD, state = objective.backbone(objective.stem(piece_BL), state)
            pieces.append(y_BLD)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)


def test_sandwich_parallel_and_scaled_are_the_sums_that_they_say():
    x_BLD = torch.randn(2, 5, 16, dtype=torch.float64)

    def stream(objective):
        return objective.backbone.blocks[0], objective.backbone

    block, backbone = stream(model("layers=1", "residual=sandwich"))
    y = x_BLD + block.mixer_residual.after_norm(block.mixer(block.mixer_norm(x_BLD))[0])
    y = y + block.ffn_residual.after_norm(block.ffn(block.ffn_norm(y)))
    torch.testing.assert_close(backbone(x_BLD)[0], backbone.norm(y))

    block, backbone = stream(model("layers=1", "backbone.pattern=[mixer|ffn]"))
    read = block.mixer_norm(x_BLD)
    torch.testing.assert_close(backbone(x_BLD)[0], backbone.norm(x_BLD + block.mixer(read)[0] + block.ffn(read)))

    block, backbone = stream(model("layers=1", "residual=scaled", "residual.embedding=0.25"))
    for part in (block.mixer_residual, block.ffn_residual):
        part.branch.data.fill_(0.5)
        part.stream.data.fill_(2.0)
    y = 2 * x_BLD + 0.25 * x_BLD
    y = y + 0.5 * block.mixer(block.mixer_norm(y))[0]
    y = 2 * y + 0.25 * x_BLD
    y = y + 0.5 * block.ffn(block.ffn_norm(y))
    torch.testing.assert_close(backbone(x_BLD)[0], backbone.norm(y))


def test_branches_in_parallel_are_weighted():
    x_BLD = torch.randn(2, 5, 16, dtype=torch.float64)
    outputs_by_weights = {}
    for weights in ("one", "mean", "trained"):
        backbone = model(
            "layers=1", "backbone.pattern=[mixer|gru+none]", f"backbone.parallel_weights={weights}"
        ).backbone
        block = backbone.blocks[0]
        outputs = [getattr(block, name)(block.mixer_norm(x_BLD))[0] for name in ("mixer", "mixer_2")]
        factors = {"one": (1, 1), "mean": (0.5, 0.5), "trained": (0.3, 2.0)}[weights]
        if weights == "trained":
            block.mixer_weights.data.copy_(torch.tensor(factors))
        wanted = x_BLD + sum(factor * each for factor, each in zip(factors, outputs, strict=True))
        outputs_by_weights[weights] = backbone(x_BLD)[0]
        torch.testing.assert_close(outputs_by_weights[weights], backbone.norm(wanted), msg=weights)


def test_loops_run_the_same_weights_again():
    x_BLD = torch.randn(2, 5, 16, dtype=torch.float64)
    once, thrice = model("layers=2"), model("layers=2", "backbone.loops=3")
    assert sum(p.numel() for p in once.parameters()) == sum(p.numel() for p in thrice.parameters())
    thrice.load_state_dict(once.state_dict())
    y, norm, once.backbone.norm = x_BLD, once.backbone.norm, nn.Identity()
    for _ in range(3):
        y = once.backbone(y)[0]
    torch.testing.assert_close(thrice.backbone(x_BLD)[0], norm(y))
    from zoo.measure import flops

    batch = {"inputs": torch.ones(1, 8, dtype=torch.long), "targets": torch.ones(1, 8, dtype=torch.long)}
    counts = [flops.by_module(each.eval(), batch)["backbone"] for each in (once, thrice)]
    assert counts[1] == 3 * counts[0]


def deepseek():
    """Their hyper-connection and the head that closes the streams, with the same small config."""
    theirs = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    from transformers import DeepseekV4Config

    config = DeepseekV4Config(hidden_size=16, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6)
    return theirs.DeepseekV4HyperConnection(config), theirs.DeepseekV4HyperHead(config)


def test_hyper_connections_are_deepseeks():
    """Theirs computes in float32 whatever it is given, so they agree to its rounding."""
    connection, head = deepseek()
    backbone = model("layers=1", "residual=hyper_connections", dtype=torch.float32).backbone
    ours, ends = backbone.blocks[0].mixer_residual, backbone.stream
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (ours, ends):
            for parameter in part.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.5)
        connection.fn.copy_(ours.weight)
        connection.base.copy_(ours.base)
        connection.scale.copy_(ours.scale)
        head.hc_fn.copy_(ends.weight)
        head.hc_base.copy_(ends.base)
        head.hc_scale.copy_(ends.scale)
        x_BLND = torch.randn(2, 5, 4, 16, generator=source)
        branch = nn.Linear(16, 16)
        post, comb, collapsed = connection(x_BLND)
        wanted = post.unsqueeze(-1) * branch(collapsed).unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), x_BLND)
        torch.testing.assert_close(ours(x_BLND, branch, nn.Identity(), x_BLND), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ends.leave(x_BLND), head(x_BLND), rtol=1e-5, atol=1e-5)


def test_hyper_connections_start_as_a_plain_stream_and_keep_sums():
    plain, streams = model("layers=2"), model("layers=2", "residual=hyper_connections")
    missing = streams.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    x_BLD = torch.randn(2, 5, 16, dtype=torch.float64)
    a, b = plain.backbone(x_BLD)[0], streams.backbone(x_BLD)[0]
    assert (a - b).norm() / a.norm() < 0.01
    part = streams.backbone.blocks[0].mixer_residual
    comb = part._comb(torch.randn(3, 4, 4, dtype=torch.float64))
    for dim in (-1, -2):
        torch.testing.assert_close(comb.sum(dim), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-4)


class Reads(nn.Module):
    """A mixer that offers what it was given, and reads what an earlier layer of the pass offered."""

    takes_shared = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(dim)), []

    def init_state(self, batch_size, max_len, device, dtype):
        return {}

    def forward(self, x_BLD, state=None, mask_BL=None, shared=None):
        first_BLD = shared.setdefault("first", x_BLD)
        self.seen.append((shared["embedding"], first_BLD))
        return self.weight * first_BLD, state


def test_layers_of_one_pass_share():
    zoo.register("mixer", "tests_reads")(Reads)
    backbone = model("layers=3", "mixer=tests_reads", "backbone.convolution=2").backbone
    parts = [block.mixer.mixer for block in backbone.blocks]
    for length in (4, 3):
        x_BLD = torch.randn(2, length, 16, dtype=torch.float64)
        backbone(x_BLD)
        firsts = [part.seen[-1][1] for part in parts]
        assert all(first is firsts[0] for first in firsts), "later layers read what the first one offered"
        assert firsts[0].shape == x_BLD.shape, "and each pass starts anew"
        assert all(part.seen[-1][0] is parts[0].seen[-1][0] for part in parts)


def test_every_hybrid_of_two_letters_is_a_list_too():
    for pattern in itertools.product("ma", repeat=3):
        words = ["layers=3", *["mixer@alternate_mixer=gru"] * ("a" in pattern)]
        letters = model(*words, f"backbone.pattern={''.join(pattern)}", heads="m" in pattern)
        named = [{"m": "mixer", "a": "alternate_mixer"}[letter] for letter in pattern]
        listed = model(*words, f"backbone.pattern=[{','.join(named)}]", heads="m" in pattern)
        for (name, one), (other_name, other) in zip(letters.named_parameters(), listed.named_parameters(), strict=True):
            assert name == other_name
            assert torch.equal(one, other)


def kinds_of(arch: str, layers: int) -> list[str]:
    """Per layer of ours: whether its mixers look at a window, at all, or carry a state; or that it has none."""
    layer_kinds = []
    for block in model(f"arch={arch}", f"layers={layers}", dtype=torch.float32).backbone.blocks:
        kinds = []
        for mixer in block.mixers():
            attends = hasattr(mixer, "window")
            kinds.append(
                "linear_attention" if not attends else "sliding_attention" if mixer.window else "full_attention"
            )
        layer_kinds.append("hybrid" if len(kinds) > 1 else kinds[0] if kinds else "mlp")
    return layer_kinds


@pytest.mark.parametrize(
    ("arch", "published", "layers"),
    [
        ("gemma3", "gemma3_text", 12), ("olmo3", "olmo3", 8), ("gpt_oss", "gpt_oss", 4), ("qwen3_next", "qwen3_next", 8),
        ("falcon_h1", "falcon_h1", 3),
    ],
)  # fmt: skip
def test_a_preset_has_the_published_order_of_layers(arch, published, layers):
    config = pytest.importorskip("transformers").AutoConfig.for_model(published)
    assert kinds_of(arch, layers) == list(config.layer_types[:layers])


def test_nemotron_has_one_branch_a_layer_in_the_published_order():
    """Nemotron-H 8B begins ``M-M-M-M*-``: Mamba-2, feed-forwards, attention."""
    config = pytest.importorskip("transformers").NemotronHConfig(hybrid_override_pattern="M-M-M-M*-")
    assert kinds_of("nemotron_h", 9) == list(config.layer_types)
    blocks = model("arch=nemotron_h", "layers=9", dtype=torch.float32).backbone.blocks
    assert all(len(block.stages) == 1 and len(block.stages[0]) == 1 for block in blocks)


def test_every_fourth_layer_of_smollm3_has_no_positions():
    config = pytest.importorskip("transformers").AutoConfig.for_model("smollm3")
    blocks = model("arch=smollm3", "layers=8").backbone.blocks
    turned = [type(block.mixer.position) is type(blocks[0].mixer.position) for block in blocks]
    assert list(map(int, turned)) == config.no_rope_layers[:8]


def test_a_part_of_a_preset_can_be_chosen_anew():
    config = compose("arch=gemma3", "mixer@local=gru")
    assert config["objective"]["backbone"]["parts"]["local"]["_component_"] == "mixer/gru"
    config = compose("arch=gemma3", "local.window=7", "mixer@whole=attention", "position@whole.position=none")
    parts = config["objective"]["backbone"]["parts"]
    assert (parts["local"]["window"], parts["whole"]["position"]["_component_"]) == (7, "position/none")
    assert not compose("arch=smollm3", "backbone.pattern=m")["objective"]["backbone"]["parts"]


def test_values_of_the_first_layer_reach_the_others():
    """Layer 1 keeps its own values, layer 2 takes half of them, by an explicit sum; and decoding gives the same."""
    objective = model("layers=2", "mixer.share_values=true", "position=none")
    first, second = (block.mixer for block in objective.backbone.blocks)
    second.value_share.data.fill_(0.25)
    x_BLD = torch.randn(2, 6, 16, dtype=torch.float64)
    shared: dict = {}
    first(x_BLD, shared=shared)
    y_BLD = torch.randn(2, 6, 16, dtype=torch.float64)
    output_BLD, _ = second(y_BLD, shared=shared)
    plain = model("layers=2", "position=none").backbone.blocks[1].mixer
    plain.load_state_dict({k: v for k, v in second.state_dict().items() if k != "value_share"})
    q, k, v = (part(y_BLD).view(2, 6, 2, 8).transpose(1, 2) for part in (plain.query, plain.key, plain.value))
    v = 0.25 * v + 0.75 * first.value(x_BLD).view(2, 6, 2, 8).transpose(1, 2)
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=8**-0.5)
    torch.testing.assert_close(output_BLD, plain.out(wanted.transpose(1, 2).flatten(2)))
    # alone it has nobody to mix with
    torch.testing.assert_close(second(y_BLD)[0], plain(y_BLD)[0])
    assert not model("layers=1").backbone.blocks[0].mixer.takes_shared


@pytest.mark.parametrize("words", ["", "backbone.convolution=3", "backbone.pattern=[mixer,mamba2,mixer]"])
def test_share_valuess_are_decoded_as_they_are_trained(words):
    test_decoding_token_by_token_equals_one_pass(f"mixer.share_values=true {words}".strip())


@pytest.mark.parametrize("arch", ["gemma3", "smollm3"])
def test_a_choice_within_a_part_of_a_preset_needs_no_other(arch):
    part = {"gemma3": "whole", "smollm3": "placeless"}[arch]
    parts = compose(f"arch={arch}", f"position@{part}.position=alibi")["objective"]["backbone"]["parts"]
    assert parts[part]["position"]["_component_"] == "position/alibi"
    with pytest.raises(ZooError, match="Did you mean"):
        compose(f"arch={arch}", f"position@{part}x.position=alibi")


def test_a_part_of_a_preset_may_be_of_another_kind():
    config = compose("arch=gemma3", "ffn@local=mlp", "local.hidden=24", "dim=32", "layers=6", "task.rung=tiny")
    part = config["objective"]["backbone"]["parts"]["local"]
    assert part["_component_"] == "ffn/mlp"
    assert part["hidden"] == 24
    assert "window" not in part
    assert "~" not in config["label"]
    blocks = make_objective(config, make_task(config)).backbone.blocks
    assert [[kind for stage in block.stages for kind, _ in stage] for block in blocks[4:]] == [
        ["ffn"],
        ["mixer", "ffn"],
    ]
    # its own words make it again
    again = compose(*config["overrides"])
    assert again["objective"] == config["objective"]


def test_an_encoder_names_parts_of_its_own():
    words = ["task=reverse", "objective=sequence_to_sequence", "dim=16", "backbone@objective.encoder_backbone=layers",
             "objective.encoder_backbone.pattern=[gru,local]", "mixer@local=attention", "local.window=3"]  # fmt: skip
    config = compose(*words)
    objective = config["objective"]
    assert set(objective["encoder_backbone"]["parts"]) == {"gru", "local"}
    assert objective["backbone"]["parts"] == {}
    built = make_objective(config, make_task(config))
    # an encoder runs what looks back only in both directions
    assert [type(block.mixer).__name__ for block in built.encoder.blocks] == ["Bidirectional", "Attention"]
    assert built.encoder.blocks[1].mixer.window == 3
    with pytest.raises(ZooError, match=r"objective\.encoder_backbone\.pattern=.* names no lcal"):
        compose(*words, "mixer@lcal=gru")


def test_a_name_goes_before_letters():
    """Nothing but the backbone knows that m and a are letters."""
    assert layers_of("m", {**KINDS, "m": "ffn"}) == [[["m"]]]
    backbone = model("backbone.pattern=m", "mixer@m=gru", "layers=1", heads=False).backbone
    assert type(backbone.blocks[0].mixer).__name__ == "GRU"


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, 60, shape, generator=torch.Generator().manual_seed(0))


def test_value_embeddings_are_nanochats_sum():
    """``v + 3 sigmoid(gate(x[:12])) E[token]`` in the last layer and every second one before it."""
    objective = model("layers=3", "mixer.value_embeddings=alternate", "position=none")
    mixers = [block.mixer for block in objective.backbone.blocks]
    assert [mixer.value_table is not None for mixer in mixers] == [True, False, True]
    assert [mixer.takes_shared for mixer in mixers] == [True, False, True]
    mixer, tokens_BL = mixers[2], random_tokens(2, 6)
    x_BLD = torch.randn(2, 6, 16, dtype=torch.float64)
    q, k, v = (part(x_BLD).view(2, 6, 2, 8) for part in (mixer.query, mixer.key, mixer.value))
    gate = 3 * torch.sigmoid(x_BLD[..., :12] @ mixer.value_gate.weight.T)
    v = v + gate.unsqueeze(-1) * mixer.value_table.weight[tokens_BL].view(2, 6, 2, 8)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=8**-0.5)
    output_BLD, _ = mixer(x_BLD, shared={"tokens": tokens_BL})
    torch.testing.assert_close(output_BLD, mixer.out(wanted.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(
    "words", ["", "backbone.convolution=3", "backbone.loops=2", "mixer.share_values=true", "mixer.window=3"]
)
def test_value_embeddings_are_decoded_as_they_are_trained(words):
    objective = model("layers=2", "mixer.value_embeddings=each", *words.split())
    tokens_BL = random_tokens(2, 9)
    with torch.no_grad():
        whole_BLC = objective.logits(objective.embed(tokens_BL))
        state, pieces = objective.init_state(2, 9, torch.device("cpu"), torch.float64), []
        for piece_BL in tokens_BL.split([1, 3, 1, 4], dim=1):
            logits_BLC, state = objective.step(piece_BL, state)
            pieces.append(logits_BLC)
    torch.testing.assert_close(torch.cat(pieces, 1), whole_BLC, rtol=0, atol=1e-10)
    # and tokens count: another table gives other logits
    objective.backbone.blocks[0].mixer.get_submodule(
        "mixer" if "convolution" in words else ""
    ).value_table.weight.data.mul_(2)
    assert not torch.allclose(objective.logits(objective.embed(tokens_BL)), whole_BLC)


@pytest.mark.parametrize(
    "words",
    [
        ["objective=masked_token"],
        ["objective=masked_diffusion"],
        ["objective=block_diffusion"],
        ["objective=next_latent"],
        ["objective.predict=2"],
    ],
)
def test_every_objective_of_tokens_hands_their_ids_on(words):
    """The table is as large as the stem's, a mask token included, and what it says reaches the loss."""
    config = compose("task=text", "dim=16", "layers=2", "mixer.value_embeddings=each", "task.length=32", *words)
    task = make_task(config)
    objective = make_objective(config, task).train()
    objective({key: part[:2] for key, part in task.train_batch(0, 0, torch.device("cpu")).items()})["loss"].backward()
    tables = {name: each for name, each in objective.named_parameters() if name.endswith("value_table.weight")}
    assert len(tables) >= 2
    stem = next(each for name, each in objective.named_parameters() if name.endswith("stem.embedding.weight"))
    assert all(len(each) == len(stem) for each in tables.values())
    trained = [name for name, each in tables.items() if each.requires_grad]
    assert trained
    assert all(tables[name].grad.any() for name in trained)


def test_value_embeddings_cost_parameters_and_their_gates():
    from zoo.measure.flops import count
    from zoo.training.build import parameters
    from zoo.training.parameter_groups import parameter_roles

    plain, more = (model("layers=2", f"mixer.value_embeddings={how}", dtype=torch.float32) for how in ("none", "each"))
    table = more.backbone.blocks[0].mixer.value_table.weight
    assert parameters(more) - parameters(plain) == 2 * (table.numel() + 12 * 2)
    batch = {"inputs": random_tokens(2, 6), "targets": random_tokens(2, 6)}
    gates = 2 * (2 * 6) * 12 * 2  # a multiply and an add for each channel of two heads' gates, in two layers
    assert count(more, batch)[0] - count(plain, batch)[0] == 2 * gates
    assert parameter_roles(more)["backbone.blocks.0.mixer.value_table.weight"] == "embedding"


def test_value_embeddings_need_tokens():
    config = compose("task=digits", "dim=16", "mixer.value_embeddings=each")
    with pytest.raises(ZooError, match="needs token ids, and the inputs here are none"):
        make_objective(config, make_task(config))
    objective = model("mixer.value_embeddings=each")
    with pytest.raises(ValueError, match="was told none"):
        objective.backbone(torch.randn(1, 3, 16, dtype=torch.float64))


def test_nanochat_has_value_embeddings():
    mixers = [block.mixer for block in model("arch=nanochat", "layers=4", dtype=torch.float32).backbone.blocks]
    assert [mixer.value_table is not None for mixer in mixers] == [False, True, False, True]


def test_a_preset_whose_settings_name_a_part_takes_another_pattern():
    config = compose("arch=gemma3", "backbone.pattern=mma")
    assert config["objective"]["backbone"]["parts"] == {}
    assert compose("arch=nemotron_h", "backbone.pattern=[mixer]")["objective"]["backbone"]["pattern"] == ["mixer"]


def test_a_pattern_of_one_name_as_text():
    assert set(compose(*SMALL, "backbone.pattern=gated_deltanet")["objective"]["backbone"]["parts"]) == {
        "gated_deltanet"
    }


@pytest.mark.parametrize(
    "words",
    first(
        [
            "backbone.pattern=[local*2,mixer] mixer@local=gru,lstm",
            "arch=gemma3 mixer@local=attention,gru",
            "arch=gemma3 ffn@local=mlp,glu",
        ]
    ),
)
def test_a_part_is_swept_over(words, zoo_main, tmp_path):
    short = ["task=parity", "steps=1", "dim=32", "layers=1", "trainer.progress=false", f"runs={tmp_path}"]
    status, out, err = zoo_main("train", "-m", *words.split(), *short)
    assert status == 0, err
    assert "2 of 2 runs finished" in out + err


def test_a_contestant_may_have_a_list_with_blanks():
    from zoo.comparison.plan import make_plan

    listed = 'compare.archs=[transformer,"transformer backbone.pattern=[gru, attention] layers=2"]'
    plan = make_plan("smoke", [listed])
    patterns = {str(cell.base["objective"]["backbone"]["pattern"]) for cell in plan.cells}
    assert patterns == {"m", "['gru', 'attention']"}


def test_a_decoder_that_reads_needs_a_mixer():
    words = ["task=reverse", "objective=sequence_to_sequence", "backbone.pattern=[ffn]"]
    config = compose(*words, "dim=16")
    with pytest.raises(ZooError, match="needs a layer with a mixer"):
        make_objective(config, make_task(config))


def test_streams_are_not_rounded_by_autocast():
    part = model("layers=1", "residual=hyper_connections", dtype=torch.float32).backbone.blocks[0].mixer_residual
    x_BLND = torch.randn(2, 5, 4, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = part(x_BLND, torch.zeros_like, nn.Identity(), x_BLND)
    with torch.no_grad():
        whole = part(x_BLND, torch.zeros_like, nn.Identity(), x_BLND)
    torch.testing.assert_close(low, whole, rtol=1e-5, atol=1e-5)
