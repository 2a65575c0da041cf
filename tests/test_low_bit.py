"""Binary and ternary weights: formulas against slow float64 maths, published layers, and what training does to them."""

import math

import pytest
import torch
from conftest import COMPILERS, THOROUGH, TINY, covering, join_group, two_processes, whole_and_resumed
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.nn import straight_through
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.testing import CHECKS, linears, mixers, modules, parts
from zoo.testing.parts import factory, part
from zoo.training.build import make_objective, make_task
from zoo.training.loop import Loop
from zoo.training.parameter_groups import parameter_groups

VARIANTS = {
    "median": ("ternary", "linear.method=median"),
    "twn": ("ternary", "linear.method=twn"),
    "twn by row": ("ternary", "linear.method=twn", "linear.by_row=true"),
    "by row": ("ternary", "linear.by_row=true"),
    "four bits": ("ternary", "linear.activation_bits=4"),
    "weights alone": ("ternary", "linear.activation_bits=null"),
    "warmed up": ("ternary", "linear.warmup=0.5"),
    "xnor": ("binary", "linear.method=xnor"),
    "binary weights alone": ("binary", "linear.activation_bits=null"),
    "connect, one": ("binary_connect", "linear.scale=one"),
    "connect, 8 bits": ("binary_connect", "linear.activation_bits=8"),
    "stochastic": ("binary_connect", "linear.stochastic=true"),
}


@pytest.mark.parametrize("variant", covering([(name,) for name in VARIANTS], key=lambda row: VARIANTS[row[0]][:1]))
def test_variants_keep_the_laws_of_a_linear(variant, monkeypatch):
    name, *words = VARIANTS[variant]
    monkeypatch.setattr(parts, "part", lambda kind, name, **facts: part(kind, name, *words, **facts))
    for check in CHECKS["linear"]:
        check(name)


class Broken(nn.Linear):
    """A ternary linear that keeps its laws, unless told to break one."""

    def __init__(self, law, in_features=32, out_features=48, bias=True, **facts):
        super().__init__(in_features, out_features, bias)
        self.law = law

    def codes(self):
        scale = self.weight.float().abs().mean()
        codes = (self.weight.float() / scale).round().clamp(-1, 1)
        if self.law == "idempotent":
            codes = codes * (1 if len(self.weight.unique()) > 3 else -1)
        return codes.to(torch.int8), scale

    def packed(self, layout="planes"):
        codes, scale = self.codes()
        return Wrapped(codes * (2 if self.law == "packed" else 1), scale, self.bias)

    def forward(self, x):
        codes, scale = self.codes()
        weight = (codes * scale).to(x.dtype)
        with torch.no_grad():
            size = x.abs().amax() if self.law == "token" else x.abs().amax(-1, keepdim=True)
            rounded = (x * (127 / size)).round() * (size / 127)
        if self.law == "codes":  # the trick that rounds twice
            return F.linear(x, self.weight + (weight - self.weight).detach() * 1.01)
        if self.law == "gradient":
            weight = weight * (self.weight.detach().abs() < scale) + weight * (self.weight.detach().abs() >= scale)
            return F.linear(x, straight_through(self.weight * 0.5, weight))
        return F.linear(straight_through(x, rounded), straight_through(self.weight, weight), self.bias)


class Wrapped(nn.Module):
    def __init__(self, codes, scale, bias):
        super().__init__()
        self.register_buffer("codes", codes[:, :20].clone())  # smaller than the weights, as packed codes are
        self.full, self.scale, self.bias = codes, scale, bias
        self.out_features, self.in_features = codes.shape

    def held_bytes(self):
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def least_bytes(self, device, dtype):
        return self.held_bytes()

    def forward(self, x):
        size = x.abs().amax(-1, keepdim=True)
        return F.linear((x * (127 / size)).round() * (size / 127), self.full * self.scale, self.bias)

    def load_state_dict(self, state):
        self.full = Wrapped.last


@pytest.mark.parametrize(
    ("law", "check"),
    [
        ("token", linears.linear_treats_each_token_alone),
        ("codes", linears.linear_sees_its_codes_exactly),
        ("gradient", linears.linear_passes_gradients_straight_through),
        ("idempotent", linears.linear_codes_stay_when_rounded_again),
        ("packed", linears.linear_packs_to_the_same),
    ],
)
def test_each_check_catches_the_law_that_it_names(law, check, monkeypatch):
    def made(law):
        def make(kind, name, dtype=torch.float32, **facts):
            torch.manual_seed(0)
            linear = Broken(law, **facts).to(dtype)
            Wrapped.last = linear.packed().full
            return linear

        return make

    monkeypatch.setattr(parts, "part", made(None))
    check("sound")
    monkeypatch.setattr(parts, "part", made(law))
    with pytest.raises(AssertionError):
        check("broken")


def slow(method, row, weights):
    """Codes and scale of one row by the papers' formulas, number by number in float64; ``weights`` share the scale."""
    sizes = sorted(abs(w) for w in weights)
    mean = math.fsum(sizes) / len(sizes)
    if method == "bitnet":
        return [max(-1, min(1, round(w / mean))) for w in row], mean
    if method == "median":
        middle = sizes[(len(sizes) - 1) // 2]
        return [max(-1, min(1, round(w / middle))) for w in row], middle
    if method == "twn":
        kept = [s for s in sizes if s > 0.7 * mean]
        return [0 if abs(w) <= 0.7 * mean else (1 if w > 0 else -1) for w in row], math.fsum(kept) / len(kept)
    centre = math.fsum(weights) / len(weights) if method == "b1" else 0.0
    return [1 if w >= centre else -1 for w in row], mean


@pytest.mark.parametrize(
    ("name", "words", "method", "by_row"),
    [
        ("ternary", [], "bitnet", False),
        ("ternary", ["linear.by_row=true"], "bitnet", True),
        ("ternary", ["linear.method=median"], "median", False),
        ("ternary", ["linear.method=median", "linear.by_row=true"], "median", True),
        ("ternary", ["linear.method=twn"], "twn", False),
        ("ternary", ["linear.method=twn", "linear.by_row=true"], "twn", True),
        ("binary", [], "b1", False),
        ("binary", ["linear.method=xnor"], "sign", True),
    ],
)
def test_codes_and_scales_are_the_papers(name, words, method, by_row):
    linear = part("linear", name, *words, in_features=37, out_features=11, bias=False)
    with torch.no_grad():
        linear.weight += 0.02  # so that centring matters
    codes, scale = linear.codes()
    rows = linear.weight.double().tolist()
    every = [w for row in rows for w in row]
    for i, row in enumerate(rows):
        expected, size = slow(method, row, row if by_row else every)
        assert codes[i].tolist() == expected
        assert scale.flatten()[i if by_row else 0].item() == pytest.approx(size, rel=1e-6)


def test_zeros_and_outliers_stay_finite():
    for name in ("ternary", "binary", "binary_connect"):
        linear = part("linear", name)
        assert linear(torch.zeros(2, 32)).isfinite().all()
        x = torch.randn(3, 32)
        torch.testing.assert_close(linear(x * 1e6) - linear.bias, (linear(x) - linear.bias) * 1e6, rtol=1e-4, atol=1.0)
        nn.init.zeros_(linear.weight)
        assert linear(x).isfinite().all()
        assert linear.packed()(x).isfinite().all()


def test_a_value_is_replaced_exactly_where_the_usual_trick_drifts():
    drifted = 0
    for seed in range(20):
        weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) * (0.02 + 0.001 * seed)
        weight = weight.bfloat16().requires_grad_()
        scale = weight.detach().float().abs().mean()
        value = ((weight.detach().float() / scale).round().clamp(-1, 1) * scale).bfloat16()
        assert torch.equal(straight_through(weight, value), value)
        drifted += len((weight + (value - weight).detach()).unique()) > 3
    assert drifted > 0
    straight_through(weight, value.float()).sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    assert (weight.grad == 1).all()


def test_training_that_diverged_is_not_hidden_by_signs():
    for words in (("binary_connect",), ("binary",), ("binary", "linear.method=xnor"), ("ternary",)):
        linear = part("linear", *words)
        with torch.no_grad():
            linear.weight[0, 0] = float("nan")
        assert linear(torch.ones(1, 32)).isnan().any(), words


def test_a_projection_into_the_residual_stream_starts_smaller_whatever_its_kind():
    from zoo.nn import scale_residual_

    for name in ("dense", "ternary", "binary", "binary_connect"):
        x = torch.randn(64, 32)
        plain, scaled = part("linear", name, bias=False), scale_residual_(part("linear", name, bias=False), 8)
        assert (scaled(x).std() / plain(x).std()).item() == pytest.approx(0.25, rel=1e-3)
    assert scaled.learning_rate_scales() == {"weight": pytest.approx(0.25)}, "a step is the same share of H"


def _rank(rank, port, results):
    dist = join_group(rank, port)
    net = _small_net()
    model = nn.parallel.DistributedDataParallel(net)
    _three_steps(model, _data()[rank * 4 : rank * 4 + 4])
    results.put([parameter.detach().numpy() for parameter in net.parameters()])
    dist.barrier()
    dist.destroy_process_group()


def _small_net():
    torch.manual_seed(0)
    first = factory("linear", "ternary")(in_features=16, out_features=32, bias=True)
    return nn.Sequential(first, nn.ReLU(), factory("linear", "binary")(in_features=32, out_features=4, bias=True))


def _data():
    return torch.arange(8 * 16).float().sin().view(8, 16)


def _three_steps(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_two_processes_train_as_one():
    alone = _small_net()
    _three_steps(alone, _data())
    together = two_processes(_rank)
    for ours, parameter in [pair for rank in together for pair in zip(rank, alone.parameters(), strict=True)]:
        torch.testing.assert_close(torch.tensor(ours), parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def published(monkeypatch):
    """The layers of Hugging Face's BitNet, run as they are written, without compiling."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    with torch.compiler.set_stance("force_eager"):
        yield bitnet


def test_a_ternary_layer_is_the_published_one_in_value_and_gradient(published):
    ours = part("linear", "ternary")
    theirs = published.AutoBitLinear(32, 48, bias=True, online_quant=True)
    theirs.load_state_dict(ours.state_dict())  # the same names as torch.nn.Linear
    x = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    inputs = [x.clone().requires_grad_() for _ in "ab"]
    for layer, leaf in zip((ours, theirs), inputs, strict=True):
        layer(leaf).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-4)


def test_logits_are_those_of_the_published_bitnet(published):
    transformers = pytest.importorskip("transformers")
    words = ["mixer.heads=4", "mixer.kv_heads=2", "ffn.activation=squared_relu", "mixer.subln=true", "ffn.subln=true"]
    config = zoo.compose("linear=ternary", "task=recall", "task.rung=tiny", "dim=32", *words)
    ours = make_objective(config, make_task(config)).eval()
    vocabulary = make_task(config).facts()["vocab_size"]
    theirs = transformers.BitNetForCausalLM(
        transformers.BitNetConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=ours.backbone.blocks[0].ffn.down.in_features, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=0, eos_token_id=1,
        )
    ).eval()  # fmt: skip
    for layer in theirs.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, linear in list(owner.named_children()):
                if isinstance(linear, nn.Linear):
                    published_linear = published.AutoBitLinear(
                        linear.in_features, linear.out_features, bias=False, online_quant=True
                    )
                    setattr(owner, name, published_linear)
    with torch.no_grad():
        for norm in [m for m in ours.modules() if isinstance(m, nn.RMSNorm)]:
            norm.weight.uniform_(0.5, 1.5)
    weights = {"model.embed_tokens.weight": ours.stem.embedding.weight, "model.norm.weight": ours.backbone.norm.weight}
    weights["lm_head.weight"] = ours.head.weight
    for i, block in enumerate(ours.backbone.blocks):
        names = {"self_attn.q_proj": block.mixer.query, "self_attn.k_proj": block.mixer.key, "self_attn.v_proj": block.mixer.value,
                 "self_attn.o_proj": block.mixer.out, "self_attn.attn_sub_norm": block.mixer.subln, "mlp.gate_proj": block.ffn.gate,
                 "mlp.up_proj": block.ffn.up, "mlp.down_proj": block.ffn.down, "mlp.ffn_sub_norm": block.ffn.subln,
                 "input_layernorm": block.mixer_norm, "post_attention_layernorm": block.ffn_norm}  # fmt: skip
        weights |= {f"model.layers.{i}.{name}.weight": module.weight for name, module in names.items()}
    theirs.load_state_dict(weights, strict=True)
    tokens = torch.randint(0, vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, _ = ours.step(tokens, ours.init_state(3, 20, torch.device("cpu"), torch.float32))
        torch.testing.assert_close(logits, theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_stochastic_binary_weights_have_the_clipped_weight_as_their_mean():
    linear = part(
        "linear",
        "binary_connect",
        "linear.stochastic=true",
        "linear.scale=one",
        in_features=7,
        out_features=1,
        bias=False,
    )
    latent = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    with torch.no_grad():
        linear.weight.copy_(latent)
        linear.train()
        seen = torch.stack([linear(torch.eye(7)).flatten() for _ in range(4000)])
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(seen.mean(0), latent.clamp(-1, 1), atol=0.06, rtol=0)
    assert torch.equal(linear.eval()(torch.eye(7)).flatten(), latent), "the paper's test uses the latent weights"
    assert linear.packed() is None


def test_binary_connect_clips_scales_its_learning_rate_and_does_not_decay(here):
    config = zoo.compose(
        "linear=binary_connect", "linear.scale=one", "task=parity", "task.test_size=8", *TINY, "optimizer.lr=0.05"
    )
    objective = make_objective(config, make_task(config))
    groups = {group["name"]: group for group in parameter_groups(objective)}
    query = objective.backbone.blocks[0].mixer.query
    own = next(g for g in groups.values() if any(p is query.weight for p in g["params"]))
    assert own["learning_rate_scale"] == pytest.approx(math.sqrt((16 + 16) / 1.5))  # one over Glorot's
    assert own["weight_decay"] == 0.0
    train(config)
    saved = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=True)
    latent = saved["state_dict"]["objective.backbone.blocks.0.mixer.query.weight"]
    assert latent.abs().max() == 1.0, "a step of 0.05 * 4.6 at a weight of up to 1 is clipped"
    rates = {group["name"]: group["lr"] for group in saved["optimizer_states"][0]["param_groups"]}
    assert rates[own["name"]] == pytest.approx(rates["decay"] * own["learning_rate_scale"])
    assert part("linear", "binary_connect").learning_rate_scales() == {"weight": 1.0}, "at Glorot's size the run's own"


def test_warming_up_goes_from_full_precision_to_codes():
    linear = part("linear", "ternary", "linear.warmup=0.5")
    plain = nn.Linear(32, 48)
    plain.load_state_dict(linear.state_dict())
    x = torch.randn(5, 32)
    quantised = linear(x)
    linear.set_progress(0, 2000)
    assert (linear(x) - plain(x)).abs().max() < 0.05 * (quantised - plain(x)).abs().max()
    linear.set_progress(499, 2000)
    half = torch.lerp(plain.weight, linear.codes()[0] * linear.codes()[1], 0.5)
    torch.testing.assert_close(linear.seen_weight(torch.float32), half)
    for step in (999, 1999):
        linear.set_progress(step, 2000)
        assert torch.equal(linear(x), quantised)
    assert part("linear", "ternary").state_dict().keys() == linear.state_dict().keys() == plain.state_dict().keys()


RECIPES = {
    "ternary": ["linear=ternary", "linear.warmup=0.7", "schedule=two_stage"],
    "stochastic": ["linear=binary_connect", "linear.stochastic=true"],
    "mamba": ["arch=mamba", "linear=binary", "linear@precise_linear=ternary"],
}


@pytest.mark.parametrize(
    "recipe", ["stochastic", *(pytest.param(name, marks=THOROUGH) for name in ("ternary", "mamba"))]
)
def test_a_resumed_run_is_the_uninterrupted_one(recipe, here, monkeypatch):
    words = [*RECIPES[recipe], "task=parity", "task.test_size=8", *TINY, "steps=8", "evaluate_every=4"]
    whole, resumed = whole_and_resumed(words, monkeypatch, batch=4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_step_of_a_fused_optimizer_is_seen_at_once():
    linear, x = part("linear", "ternary").train(), torch.randn(4, 32)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.5, fused=True)
    before = linear(x)
    before.square().sum().backward()
    optimizer.step()
    fresh = part("linear", "ternary")
    fresh.load_state_dict(linear.state_dict())
    assert torch.equal(linear(x), fresh(x))
    assert not torch.allclose(linear(x), before)


def test_the_two_stages_drop_at_the_midpoint_and_end_weight_decay(here):
    schedule = factory("schedule", "two_stage")(steps=1000)
    assert schedule(499) == pytest.approx(0.501)
    assert schedule(500) == pytest.approx(0.5 * 2 / 3)
    assert [schedule.weight_decay(step) for step in (0, 499, 500, 999)] == [1.0, 1.0, 0.0, 0.0]
    words = ["schedule=two_stage", "task=parity", "task.test_size=8", *TINY]
    config = zoo.compose(*words)
    seen = []

    class Watch(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append({group["name"]: group["weight_decay"] for group in self.param_groups})
            return super().step(closure)

    task = make_task(config)
    loop = Loop(make_objective(config, task), task, lambda parameters: Watch(parameters, weight_decay=0.1), factory("schedule", "two_stage")(steps=4),
                4, 0, 1, lambda step, values: None)  # fmt: skip
    optimizer = loop.configure_optimizers()
    for step in range(4):
        loop.trainer = type("At", (), {"global_step": step})()
        loop.on_before_optimizer_step(optimizer)
        optimizer.step()
    assert seen == [{"decay": 0.1, "no_decay": 0.0}] * 2 + [{"decay": 0.0, "no_decay": 0.0}] * 2


@pytest.mark.parametrize("arch", ["transformer", "mamba", "mamba2", "mamba3"])
def test_one_place_decides_what_keeps_full_precision(arch):
    def low(*words):
        config = zoo.compose(f"arch={arch}", "linear=ternary", "task=recall", "task.rung=tiny", "dim=32", *words)
        model = make_objective(config, make_task(config))
        return {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "packed")}, model

    ours, model = low()
    assert not ours & {"head", "selection"}
    assert {"mamba": {"inputs", "out"}, "mamba2": {"inputs", "out"}}.get(arch, ours) == ours
    every, _ = low("linear@precise_linear=binary")
    assert every >= {"head"} | ({"selection"} if arch != "transformer" else set())
    state = model.init_state(2, 8, torch.device("cpu"), torch.float32)
    logits, _ = model.step(torch.zeros(2, 8, dtype=torch.long), state)
    assert logits.isfinite().all()
    one = zoo.compose(f"arch={arch}", "linear@objective.precise_linear=ternary", "task=recall", "task.rung=tiny")
    assert one["objective"]["precise_linear"]["_component_"] == "linear/ternary"
    assert one["objective"]["backbone"]["mixer"]["linear"]["_component_"] == "linear/dense"


@pytest.mark.parametrize("arch", ["transformer", "mamba", "mamba2", "linear_attention"])
def test_a_mixer_of_ternary_weights_stays_causal(arch, monkeypatch):
    name = zoo.compose(f"arch={arch}")["objective"]["backbone"]["mixer"]["_component_"].split("/")[1]
    monkeypatch.setattr(parts, "part", lambda kind, name, **facts: part(kind, name, "linear=ternary", **facts))
    mixers.mixer_does_not_see_the_future(name)
    modules.module_treats_each_example_alone("mixer")(name)
    modules.module_trains_every_parameter("mixer")(name)


@pytest.mark.parametrize("backend", COMPILERS)
def test_compiles_without_a_graph_break_and_computes_the_same(backend):
    net = nn.Sequential(
        part("linear", "ternary", "linear.warmup=0.5"), nn.ReLU(), part("linear", "binary", in_features=48)
    ).train()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    x = torch.randn(6, 32)
    for mix in (1, 100):  # how far quantisation has come in is no constant of the graph
        net[0].set_progress(mix - 1, 200)
        results = []
        for model in (net, compiled):
            net.zero_grad()
            y = model(x)
            y.square().sum().backward()
            results.append([y.detach(), *(p.grad.clone() for p in net.parameters())])
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_autocast_keeps_gradients_in_float32():
    linear, x = part("linear", "ternary", in_features=256), torch.randn(9, 256)
    plain = linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = linear(x)
    assert low.dtype == torch.bfloat16
    assert (low.float() - plain).norm() / plain.norm() < 6e-3
    low.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["linear=ternary", "linear.activation_bits=1"], "expected 2 to 8"),
        (["linear=binary", "linear.warmup=2"], "expected a share"),
        (["linear=ternary", "linear.method=xnor"], "expected one of bitnet, median, twn"),
        (["schedule=two_stage", "schedule.midpoint=3"], "expected a share"),
        (["linear=trenary"], "Did you mean linear=ternary"),
    ],
)
def test_what_cannot_be_meant_is_explained(words, message, zoo_main):
    status, _, err = zoo_main("train", "task=parity", "task.test_size=16", *words, *TINY)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
