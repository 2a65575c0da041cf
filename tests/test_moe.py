"""Mixtures of experts: values and gradients by explicit sums, routers by their papers, losses, counts, any expert."""

import warnings

import pytest
import torch
from conftest import COMPILERS, THOROUGH, TINY, join_group, two_processes, whole_and_resumed
from torch import nn
from torch.nn import functional as F

import zoo
from zoo import register
from zoo.registry import registry
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo.training.loggers import read_metrics

GATES = ["mixtral", "switch", "gshard", "noisy", "sigmoid"]
DIM = 32


def mixture(*words, dtype=torch.float32, training=False, **facts):
    """A mixture at a small size, with a router that has learned something."""
    layer = part("ffn", "moe", *words, dtype=dtype, **{"layer": 0, **facts})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = layer.router.projection.weight
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.3)
    return layer.train(training)


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def explicit(layer, x_ND, routing):
    """The definition: for each token the sum over its choices of gate times expert, one token and choice at a time."""
    gate, up, down = layer.body.gate.weight, layer.body.up.weight, layer.body.down.weight
    rows = []
    for n, x_D in enumerate(x_ND):
        total = torch.zeros_like(x_D)
        for k, e in enumerate(routing.expert_NK[n].tolist()):
            total = total + routing.gate_NK[n, k] * (down[e] @ (F.silu(gate[e] @ x_D) * (up[e] @ x_D)))
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (4, 4), (5, 1), (64, 2), (16, 6)])
@pytest.mark.parametrize("gate", GATES)
def test_values_and_all_gradients_are_those_of_the_explicit_sum(gate, experts, top_k):
    if (gate == "gshard" and top_k != 2) or (gate in ("mixtral", "sigmoid") and top_k == 1):
        pytest.skip("this gate does not choose so many")
    words = [f"ffn.experts={experts}", f"ffn.top_k={top_k}", f"ffn.gate={gate}"]
    layer = mixture(*words, dtype=torch.float64)
    inputs = [tokens(2, 13, dtype=torch.float64).requires_grad_() for _ in "ab"]
    gradient = torch.randn(2, 13, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for x_BLD, whole in zip(inputs, (True, False), strict=True):
        layer.zero_grad()
        if whole:
            y_BLD = layer(x_BLD)
        else:
            x_ND = x_BLD.reshape(-1, DIM)
            y_BLD = explicit(layer, x_ND, layer.router(x_ND)).view_as(x_BLD)
        y_BLD.backward(gradient)
        parameters = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
        results.append({"y": y_BLD.detach(), "x": x_BLD.grad, **parameters})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(
            value, results[1][name], rtol=1e-11, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_all_experts_chosen_is_the_dense_mixture():
    layer = mixture("ffn.experts=4", "ffn.top_k=4", "ffn.gate=switch", dtype=torch.float64)
    x_ND = tokens(9, dtype=torch.float64)
    probability_NE = (x_ND @ layer.router.projection.weight.t()).softmax(-1)
    body = layer.body
    hidden = F.silu(torch.einsum("efd,nd->nef", body.gate.weight, x_ND)) * torch.einsum(
        "efd,nd->nef", body.up.weight, x_ND
    )
    dense = torch.einsum("ne,edf,nef->nd", probability_NE, body.down.weight, hidden)
    torch.testing.assert_close(layer(x_ND), dense, rtol=1e-12, atol=1e-12)


def test_equal_experts_are_one_feed_forward():
    layer, dense = mixture(dtype=torch.float64), part("ffn", "glu", dtype=torch.float64)
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(layer.body, name).weight.copy_(getattr(dense, name).weight)
    x_BLD = tokens(2, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x_BLD), dense(x_BLD), rtol=1e-12, atol=1e-12)


def test_the_order_of_tokens_does_not_matter():
    layer, x_ND = mixture(dtype=torch.float64), tokens(40, dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(layer(x_ND[order]), layer(x_ND)[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "words", [[], ["linear=ternary"], ["ffn@expert_ffn=mlp", "expert_ffn.bias=true"]], ids=" ".join
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_experts_without_tokens_have_gradients_of_zero(words, count):
    layer = mixture("ffn.experts=64", *words, training=True)
    x_ND = tokens(count)
    y_ND = layer(x_ND)
    assert y_ND.shape == x_ND.shape
    y_ND.sum().backward()
    idle = 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        idle += (
            int(not parameter.grad.any())
            if parameter.ndim < 3
            else int((parameter.grad.flatten(1).abs().sum(1) == 0).sum())
        )
    assert idle >= 58


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("gate", GATES)
def test_the_task_trains_the_router_whatever_the_gate(gate, top_k):
    if (gate == "gshard" and top_k != 2) or (gate in ("mixtral", "sigmoid") and top_k == 1):
        pytest.skip("refused: see below")
    layer = mixture(f"ffn.gate={gate}", f"ffn.top_k={top_k}", training=True)
    layer(tokens(50)).square().sum().backward()
    assert layer.router.projection.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ffn.top_k=1"], "the router would never learn"),
        (["ffn.gate=sigmoid", "ffn.top_k=1"], "the router would never learn"),
        (["ffn.top_k=9"], "expected 1 to ffn.experts=8"),
        (["ffn.gate=gshard", "ffn.top_k=3"], "chooses two experts"),
        (["ffn.every=5"], "none of the 1 layers would be a mixture"),
        (["ffn.first_dense=1"], "first_dense < layers"),
        (["ffn.capacity=0"], "ffn.capacity=0"),
        (["ffn.jitter=1"], "below 1"),
        (["ffn.gate=expert_choice", "ffn.capacity=1", "task=digits"], "does not read ffn.capacity"),
        (["ffn.expert_ffn.ratio=2"], "set expert_ffn.ratio="),
        (["expert_ffn=mlp"], "choose it with ffn@expert_ffn=mlp"),
        (["ffn.gate=expert_choice"], "a causal model would see the future"),
        (["ffn@expert_ffn=none"], "an expert must be a feed-forward"),
        (["ffn@expert_ffn=moe"], "inside itself"),
    ],
)
def test_what_cannot_be_meant_is_explained(words, message, zoo_main):
    tasks = [] if "task=digits" in words else ["task=parity"]
    status, _, err = zoo_main("train", "ffn=moe", *tasks, *words, *TINY)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_ties_go_to_the_first_experts():
    from zoo_plugins.moe.routing import top

    for experts, top_k in ((8, 2), (16, 4), (16, 6)):
        assert top(torch.zeros(3, experts), top_k).tolist() == [list(range(top_k))] * 3
    score_NE = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    for top_k in (1, 3, 4, 7):
        assert torch.equal(top(score_NE, top_k), score_NE.topk(top_k).indices)


def test_the_load_of_noisy_gates_is_the_chance_of_being_chosen():
    from zoo_plugins.moe.balance import load_of_noisy
    from zoo_plugins.moe.routing import top

    generator = torch.Generator().manual_seed(0)
    clean_NE, deviation_NE = torch.randn(3, 6, generator=generator), torch.rand(3, 6, generator=generator) + 0.3
    draws = 6000
    noisy = clean_NE + torch.randn(draws, 3, 6, generator=generator) * deviation_NE
    chosen = torch.zeros(draws * 3, 6).scatter(1, top(noisy.view(-1, 6), 2), 1.0).view(draws, 3, 6).mean(0)
    estimate = torch.stack([load_of_noisy(clean_NE, one, deviation_NE, 2) for one in noisy]).mean(0)
    torch.testing.assert_close(estimate, chosen, rtol=0, atol=0.03)
    assert load_of_noisy(clean_NE, clean_NE, deviation_NE, 6) is None


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_balance_loss_is_one_when_uniform_and_the_number_of_experts_at_collapse(top_k):
    from zoo_plugins.moe.balance import balance

    uniform_NE = torch.full((64, 8), 1 / 8)
    assert balance(uniform_NE, torch.full((8,), 8 * top_k)).item() == pytest.approx(1.0)
    collapsed_NE = torch.zeros(64, 8)
    collapsed_NE[:, 0] = 1
    assert balance(collapsed_NE, torch.tensor([64, *[0] * 7])).item() == pytest.approx(8.0)


def test_the_balance_loss_times_the_choices_is_hugging_faces():
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    from zoo_plugins.moe.balance import balance
    from zoo_plugins.moe.dispatch import count
    from zoo_plugins.moe.routing import top

    logits_NE = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    ours = balance(logits_NE.softmax(-1), count(top(logits_NE, 2).reshape(-1), 8))
    theirs = mixtral.load_balancing_loss_func((logits_NE,), 8, 2)
    torch.testing.assert_close(2 * ours, theirs)


def test_the_bias_moves_by_its_formula_and_leaves_the_gates_alone():
    layer = mixture("ffn.gate=sigmoid", "ffn.bias_rate=0.1", training=True)
    x_ND = tokens(100)
    layer(x_ND)
    counts_E = layer.step_E.double()
    layer.after_optimizer_step(1, 10)
    step_E = 0.1 * torch.sign(counts_E.mean() - counts_E)
    torch.testing.assert_close(layer.router.bias_E.double(), step_E - step_E.mean())
    assert not layer.step_E.any()
    with torch.no_grad():
        layer.router.bias_E[3] = 100.0  # chosen always, and weighed by its own score
    routing = layer.router(x_ND)
    assert (routing.expert_NK == 3).any(1).all()
    score_NE = (x_ND @ layer.router.projection.weight.t()).sigmoid()
    chosen_NK = score_NE.gather(1, routing.expert_NK)
    torch.testing.assert_close(routing.gate_NK, chosen_NK / chosen_NK.sum(1, keepdim=True))


def test_the_bias_alone_balances():
    layer = mixture("ffn.gate=sigmoid", "ffn.bias_rate=0.02", training=True)
    before = None
    for step in range(300):
        layer(tokens(256, seed=step))
        if before is None:
            before = layer.side_metrics()["moe/max_violation"].item()
        layer.after_optimizer_step(step, 300)
        if step == 200:
            layer.side_metrics()  # a window of the last hundred
    after = layer.side_metrics()
    assert after["moe/max_violation"] < 0.2 < before
    assert after["moe/dead_experts"] == 0
    assert abs(layer.router.bias_E.sum()) < 1e-5


def test_padding_and_evaluation_are_not_counted_and_recomputing_counts_once():
    layer, x_BLD = mixture("ffn.balance=1"), tokens(2, 10)
    layer(x_BLD)
    assert not layer.window_E.any(), "evaluation counted"
    assert layer.side_losses() == {}
    layer.train()
    mask_BL = torch.arange(10).expand(2, 10) >= torch.tensor([[4], [0]])
    layer(x_BLD, mask_BL=mask_BL)
    assert layer.window_E.sum() == 16 * 2
    losses = {name: value.item() for name, value in layer.side_losses().items()}
    layer(torch.cat([x_BLD[0, 4:], x_BLD[1]]))
    assert {name: value.item() for name, value in layer.side_losses().items()} == pytest.approx(losses)
    layer.side_metrics()
    x_BLD.requires_grad_()
    torch.utils.checkpoint.checkpoint(layer, x_BLD, use_reentrant=False).sum().backward()
    assert layer.window_E.sum() == 20 * 2, "a pass that recomputes activations was counted"


def test_a_capacity_serves_first_choices_first_and_says_what_it_drops():
    with pytest.warns(UserWarning, match="depends on the other tokens"):
        layer = mixture("ffn.experts=4", "ffn.capacity=0.5", training=True)
    x_ND = tokens(40)
    routing = layer.router(x_ND)
    y_ND = layer(x_ND)
    room, taken, kept = 10, [0] * 4, torch.zeros(40, 2, dtype=torch.bool)
    for k in range(2):
        for n in range(40):
            e = routing.expert_NK[n, k].item()
            kept[n, k], taken[e] = taken[e] < room, taken[e] + 1
    routing.gate_NK = routing.gate_NK * kept
    torch.testing.assert_close(y_ND, explicit(layer, x_ND, routing), rtol=1e-5, atol=1e-5)
    assert layer.side_metrics()["moe/dropped"].item() == pytest.approx((~kept).sum().item() / 80)
    assert torch.equal(layer.eval()(x_ND[:1]), layer(x_ND)[:1]) or torch.allclose(
        layer(x_ND[:1]), layer(x_ND)[:1], atol=1e-6
    )


def test_jitter_reaches_the_router_alone():
    layer = mixture("ffn.jitter=0.9", "ffn.top_k=8", "ffn.gate=switch", training=True)
    seen = []
    layer.body.gate.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x_ND = tokens(5)
    layer(x_ND)
    assert {tuple(row.tolist()) for row in seen[0].squeeze(0)} == {tuple(row.tolist()) for row in x_ND}
    assert not torch.equal(layer.router(x_ND).probability_NE, layer.router(x_ND).probability_NE)


def test_the_router_is_float32_under_autocast():
    layer, x_ND = mixture(training=True), tokens(20)
    with torch.autocast("cpu", torch.bfloat16):
        y_ND = layer(x_ND)
        routing = layer.router(x_ND)
    assert y_ND.dtype == torch.bfloat16
    assert routing.gate_NK.dtype == routing.probability_NE.dtype == torch.float32
    layer(x_ND)
    y_ND.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.fixture
def own_feed_forward():
    if ("ffn", "tests_own") not in registry._entries:

        @register("ffn", "tests_own")
        class Own(nn.Module):
            """Has a parameter of its own beside its linear."""

            def __init__(self, dim: int, linear):
                super().__init__()
                self.linear, self.shift = linear(in_features=dim, out_features=dim), nn.Parameter(torch.randn(dim))

            def forward(self, x):
                return self.linear(x) + self.shift


EXPERTS = {
    "glu": [],
    "mlp": ["ffn@expert_ffn=mlp"],
    "biases": ["expert_ffn.bias=true"],
    "norms": ["expert_ffn.subln=true"],
    "ternary": ["linear@expert_ffn.linear=ternary"],
    "ternary everywhere": ["linear=ternary"],
    "its own parameter": ["ffn@expert_ffn=tests_own"],
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_of_any_kind_are_each_a_feed_forward_of_its_own(kind, own_feed_forward):
    words = EXPERTS[kind]
    layer = mixture("ffn.experts=4", *words)
    x_ND = tokens(30)
    total, before = torch.zeros_like(x_ND), torch.zeros_like(x_ND)
    routing = layer.router(x_ND)
    for e in range(4):
        layer.rows.ends_E = torch.tensor([0] * e + [30] * (4 - e), dtype=torch.int32)  # every row is expert e's
        layer.rows.size = 30
        alone = layer.body(x_ND.unsqueeze(0)).squeeze(0)
        total = total + (routing.gate_NK * (routing.expert_NK == e)).sum(1, keepdim=True) * alone
        assert not torch.allclose(alone, before)
        before = alone
    torch.testing.assert_close(layer(x_ND), total, rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_hugging_faces_mixtral():
    transformers = pytest.importorskip("transformers")
    config = zoo.compose("ffn=moe", "task=recall", "task.rung=tiny", f"dim={DIM}", "mixer.heads=4", "mixer.kv_heads=2")
    ours = make_objective(config, make_task(config)).eval()
    body, vocabulary = ours.backbone.blocks[0].ffn.body, make_task(config).facts()["vocab_size"]
    theirs = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=vocabulary, hidden_size=DIM, intermediate_size=body.gate.weight.shape[1], num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-6, max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, sliding_window=None, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    own = theirs.state_dict()
    weights = {
        "model.embed_tokens.weight": ours.stem.embedding.weight,
        "model.norm.weight": ours.backbone.norm.weight,
        "lm_head.weight": ours.head.weight,
    }
    for i, block in enumerate(ours.backbone.blocks):
        at = f"model.layers.{i}."
        for name, module in {
            "q_proj": block.mixer.query,
            "k_proj": block.mixer.key,
            "v_proj": block.mixer.value,
            "o_proj": block.mixer.out,
        }.items():
            weights[f"{at}self_attn.{name}.weight"] = module.weight
        weights |= {
            at + "input_layernorm.weight": block.mixer_norm.weight,
            at + "post_attention_layernorm.weight": block.ffn_norm.weight,
        }
        experts = block.ffn.body
        stacked = torch.cat([experts.gate.weight, experts.up.weight], 1)
        for name in (n for n in own if n.startswith(at) and ("experts" in n or "mlp.gate" in n)):
            kind = "gate" if own[name].shape == (8, DIM) else "up" if "gate_up" in name else "down"
            weights[name] = {"gate": block.ffn.router.projection.weight, "up": stacked, "down": experts.down.weight}[
                kind
            ]
    theirs.load_state_dict(weights, strict=True)
    inputs = torch.randint(0, vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, _ = ours.step(inputs, ours.init_state(3, 20, torch.device("cpu"), torch.float32))
        torch.testing.assert_close(logits, theirs(inputs).logits, rtol=1e-4, atol=1e-4)


@THOROUGH
@pytest.mark.parametrize("backend", COMPILERS)
def test_compiles_whole_for_any_number_of_tokens(backend):
    layer = mixture("ffn.gate=switch", training=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for count in (16, 24, 40):
        results = []
        for model in (layer, compiled):
            layer.zero_grad()
            x_ND = tokens(count).requires_grad_()
            y_ND = model(x_ND)
            y_ND.square().sum().backward()
            results.append([y_ND.detach(), x_ND.grad, *(p.grad.clone() for p in layer.parameters())])
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_losses_and_load_reach_the_log_and_depth_does_not_change_them(here):
    config = zoo.compose("ffn=moe", "task=parity", "task.test_size=8", *TINY, "layers=2", "log_every=2")
    row = train(config)
    assert row["status"] == "finished"
    names = {point["name"] for point in read_metrics(folder_of(config) / "metrics.csv")}
    assert {
        "train/moe/max_violation",
        "train/moe/layer0/load0",
        "train/moe/layer1/load7",
        "train/moe/dead_experts",
    } <= names
    for layers in (1, 2, 4):
        made = make_objective(zoo.compose("ffn=moe", "task=parity", f"layers={layers}"), make_task(config))
        assert sum(m.coefficients["balance"] for m in made.modules() if hasattr(m, "coefficients")) == pytest.approx(
            0.01
        )


def test_which_layers_are_mixtures():
    def kinds(*words):
        config = zoo.compose("ffn=moe", "task=parity", "layers=4", "dim=16", *words)
        return "".join(
            "m" if hasattr(b.ffn, "router") else "d" for b in make_objective(config, make_task(config)).backbone.blocks
        )

    assert kinds() == "mmmm"
    assert kinds("ffn.every=2") == "dmdm"
    assert kinds("ffn.first_dense=1") == "dmmm"
    assert kinds("ffn.first_dense=2", "ffn.every=2") == "dddm"


def _loss(y_ND):
    return (y_ND * torch.linspace(-1, 1, DIM)).square().mean()


def _expert_parallel(rank, port, results, words):
    """Each process has half of the tokens and half of the experts; gradients as data parallelism leaves them."""
    dist = join_group(rank, port)
    from zoo_plugins.moe.parallel import spread_experts_

    layer = mixture("ffn.experts=6", *words, training=True)
    names = spread_experts_(layer)
    x_ND = tokens(30).chunk(2)[rank].clone().requires_grad_()
    y_ND = layer(x_ND)
    _loss(y_ND).backward()
    gradients = {}
    for name, parameter in layer.named_parameters():
        if name not in names:  # as data parallelism does
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        gradients[name] = parameter.grad.numpy()
    results.put((rank, y_ND.detach().numpy(), x_ND.grad.numpy(), gradients))
    dist.barrier()
    dist.destroy_process_group()


def _fully_sharded(rank, port, results, words):
    dist = join_group(rank, port)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layer = mixture("ffn.experts=6", "ffn.shared=1", *words, training=True)
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    x_ND = tokens(30).chunk(2)[rank].clone().requires_grad_()
    y_ND = layer(x_ND)
    _loss(y_ND).backward()
    gradients = {name: p.grad.full_tensor().numpy() for name, p in layer.named_parameters()}
    results.put((rank, y_ND.detach().numpy(), x_ND.grad.numpy(), gradients))
    dist.barrier()
    dist.destroy_process_group()


def _data_parallel(rank, port, results, words):
    dist = join_group(rank, port)
    layer = mixture("ffn.experts=6", "ffn.shared=1", *words, training=True)
    x_ND = tokens(30).chunk(2)[rank].clone().requires_grad_()
    model = nn.parallel.DistributedDataParallel(layer)  # kept, since its hooks live with it
    y_ND = model(x_ND)
    _loss(y_ND).backward()
    gradients = {name: p.grad.numpy() for name, p in layer.named_parameters()}
    layer.after_optimizer_step(1, 2)
    if "ffn.gate=sigmoid" in words:
        gradients["bias"] = layer.router.bias_E.numpy()
    results.put((rank, y_ND.detach().numpy(), x_ND.grad.numpy(), gradients))
    dist.barrier()
    dist.destroy_process_group()


def _two_processes(function, words):
    answers_by_rank = {rank: rest for rank, *rest in two_processes(function, words)}
    return [answers_by_rank[0], answers_by_rank[1]]


# widths of whole cache lines: the multiply's last bits depend on where in one a row begins
@pytest.mark.parametrize(
    "words",
    [("expert_ffn.ratio=2",), pytest.param(("expert_ffn.ratio=2", "linear=ternary"), marks=THOROUGH)],
    ids=["stacked", "listed"],
)
def test_experts_spread_over_two_processes_are_one(words):
    alone = mixture("ffn.experts=6", *words, training=True)
    x_ND = tokens(30).requires_grad_()
    y_ND = alone(x_ND)
    _loss(y_ND).backward()
    both = _two_processes(_expert_parallel, words)
    y, dx = (torch.cat([torch.tensor(rank[i]) for rank in both]) for i in (0, 1))
    assert torch.equal(y, y_ND.detach()), "not the same bits as in one process"
    torch.testing.assert_close(dx / 2, x_ND.grad, rtol=1e-5, atol=1e-8)  # each process's loss is the mean of half
    for name, parameter in alone.named_parameters():
        if ".parts." in name and name.startswith("body"):
            path, _, rest = name.partition(".parts.")
            number, _, leaf = rest.partition(".")
            here = torch.tensor(both[int(number) // 3][2][f"{path}.parts.{int(number) % 3}.{leaf}"])
        elif name.startswith("body"):
            here = torch.cat([torch.tensor(rank[2][name]) for rank in both])
        else:
            here = torch.tensor(both[0][2][name])
        torch.testing.assert_close(
            here, parameter.grad, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("function", "words"),
    [(_data_parallel, ("ffn.gate=sigmoid",)), pytest.param(_fully_sharded, (), marks=THOROUGH)],
    ids=["DDP", "FSDP2"],
)
def test_two_processes_of_data_are_one(function, words):
    alone = mixture("ffn.experts=6", "ffn.shared=1", *words, training=True)
    y_ND = alone(tokens(30))
    _loss(y_ND).backward()
    both = _two_processes(function, words)
    torch.testing.assert_close(torch.cat([torch.tensor(rank[0]) for rank in both]), y_ND.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(
            torch.tensor(both[0][2][name]),
            parameter.grad,
            rtol=1e-4,
            atol=1e-7,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    if "bias" in both[0][2]:
        alone.after_optimizer_step(1, 2)
        torch.testing.assert_close(torch.tensor(both[1][2]["bias"]), alone.router.bias_E)


def test_a_row_counts_active_parameters_and_says_which_tokens_go_where(here):
    config = zoo.compose("arch=mixtral", "task=recall", "task.rung=tiny", "task.test_size=16", *TINY)
    row = train(config)
    expert = 3 * 16 * 24  # of three matrices: 16 channels, 4/3 of them rounded to a multiple of 8
    assert row["parameters"] - row["active_parameters"] == 6 * expert
    table = row["choices"]["backbone.blocks.0.ffn"]
    assert 0 <= table["information"] <= 1
    assert all(sum(shares) == pytest.approx(1, abs=0.01) and len(shares) == 8 for shares in table["tokens"].values())
    plain = train(zoo.compose("task=recall", "task.rung=tiny", "task.test_size=16", *TINY))
    assert plain["active_parameters"] == plain["parameters"]
    assert plain["choices"] == {}


def test_the_information_of_a_choice_is_one_where_the_token_decides_and_none_where_nothing_does():
    from zoo.measure.choices import _table

    task = make_task(zoo.compose("task=text"))
    tokens_N = torch.arange(1000) % 4 + 97
    assert _table(tokens_N, tokens_N % 2, 2, task)["information"] == pytest.approx(1, abs=0.01)
    spread = _table(tokens_N, torch.arange(1000) // 4 % 2, 2, task)
    assert spread["information"] == pytest.approx(0, abs=1e-3)
    assert spread["tokens"]["a"] == [0.5, 0.5]


def test_show_tells_active_parameters_and_the_report_draws_what_mixtures_say(zoo_main, here):
    _, out, _ = zoo_main("show", "arch=mixtral", "task=parity")
    assert "of which each token uses" in out
    words = [
        "smoke",
        "compare.archs=[transformer,mixtral]",
        "compare.only=[recall]",
        "compare.seeds=[0]",
        "compare.tune={optimizer.lr:[0.01]}",
    ]
    status, out, _ = zoo_main("compare", *words, "trainer.accelerator=cpu", "log_every=5")
    assert status == 0
    page = (here / "runs/smoke/report.html").read_text()
    for text in (
        "moe/max_violation",
        "Which tokens go where",
        "active parameters",
        "backbone.blocks.0.ffn (information",
    ):
        assert text in page, text


def test_a_setting_may_be_for_one_place_alone():
    config = zoo.compose("arch=mixtral")
    ffn = config["objective"]["backbone"]["ffn"]
    assert ffn["expert_ffn"]["ratio"] == pytest.approx(4 / 3)
    assert ffn["dense_ffn"]["ratio"] == pytest.approx(8 / 3)
    assert zoo.compose("arch=mixtral", "expert_ffn.ratio=2")["objective"]["backbone"]["ffn"]["expert_ffn"]["ratio"] == 2
    assert zoo.compose("arch=mixtral", "ffn@expert_ffn=mlp")["objective"]["backbone"]["ffn"]["expert_ffn"]["ratio"] == 4


@pytest.mark.parametrize("kind", ["stacked", "listed"])
def test_expert_by_expert_is_all_at_once(kind, monkeypatch):
    import zoo_plugins.moe.linears as linears

    words = ["linear=ternary"] if kind == "listed" else []
    results = []
    for fewest in (0, 10**9):
        monkeypatch.setattr(linears, "FEWEST", fewest)
        layer, x_ND = mixture("expert_ffn.subln=true", *words, training=True), tokens(50).requires_grad_()
        y_ND = layer(x_ND)
        y_ND.square().sum().backward()
        results.append([y_ND.detach(), x_ND.grad, *(p.grad for p in layer.parameters())])
        with torch.autocast("cpu", torch.bfloat16):
            results[-1].append(layer(x_ND).detach().float())
    for one, all_ in zip(*results, strict=True):
        torch.testing.assert_close(one, all_, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_facts_are_learned_by_who_has_room_for_them(here):
    """The science in small: at as many active parameters a mixture stores more."""
    words = [
        "task=facts",
        "layers=1",
        "dim=32",
        "steps=250",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=0",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
    ]
    known = {
        arch: train(zoo.compose(f"arch={arch}", *words))["test"]["accuracy"] for arch in ("transformer", "mixtral")
    }
    assert known["mixtral"] > known["transformer"] + 0.1, known


def test_experts_choose_their_tokens_within_each_sequence():
    layer = part(
        "ffn", "moe", "ffn.gate=expert_choice", "ffn.experts=4", layer=0, causal=False, dtype=torch.float64
    ).train()
    x_BLD = tokens(3, 10, dtype=torch.float64)
    y_BLD = layer(x_BLD)
    score_BLE = (x_BLD @ layer.projection.weight.t()).softmax(-1)
    body, expected = layer.body, torch.zeros_like(x_BLD)
    for b in range(3):
        for e in range(4):
            for t in score_BLE[b, :, e].topk(5).indices.tolist():  # two of four experts a token on average
                x_D = x_BLD[b, t]
                out = body.down.weight[e] @ (F.silu(body.gate.weight[e] @ x_D) * (body.up.weight[e] @ x_D))
                expected[b, t] += score_BLE[b, t, e] * out
    torch.testing.assert_close(y_BLD, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(x_BLD[1:2]), y_BLD[1:2], rtol=1e-10, atol=1e-12)
    layer.side_metrics()
    layer(x_BLD)
    met = (expected.abs().sum(-1) > 0).double().mean()
    assert layer.side_metrics()["moe/unserved"].item() == pytest.approx(1 - met.item())
    y_BLD.sum().backward()
    assert layer.projection.weight.grad.any()
    mask_BL = torch.arange(10) >= torch.tensor([[7], [0], [4]])
    padded = layer(x_BLD, mask_BL=mask_BL)
    changed = layer(torch.where(mask_BL.unsqueeze(-1), x_BLD, x_BLD + 9), mask_BL=mask_BL)
    torch.testing.assert_close(padded[mask_BL], changed[mask_BL], rtol=1e-10, atol=1e-12)


def test_an_encoder_trains_with_experts_that_choose(here):
    row = train(zoo.compose("ffn=moe", "ffn.gate=expert_choice", "task=digits", *TINY))
    assert row["status"] == "finished"


@pytest.fixture
def reshaping_feed_forwards():
    if ("ffn", "tests_halves") in registry._entries:
        return

    @register("ffn", "tests_halves")
    class Halves(nn.Module):
        """Its linear sees each token as two rows, flat or not, or asks for a batch and a length."""

        def __init__(self, dim: int, linear, way: int = 0):
            super().__init__()
            self.linear, self.way, self.kind = linear(in_features=dim // 2, out_features=dim // 2), way, linear.target

        def forward(self, x_BLD):
            B, L, D = x_BLD.shape
            if self.way:
                return self.linear(x_BLD.unflatten(-1, (2, -1))).flatten(-2)
            return self.linear(x_BLD.reshape(-1, D // 2)).view(B, L, D)


@pytest.mark.parametrize("words", [[], ["linear=ternary"]], ids=["stacked", "listed"])
@pytest.mark.parametrize("way", [0, 1])
def test_an_expert_may_reshape_within_a_token(way, words, reshaping_feed_forwards, monkeypatch):
    import zoo_plugins.moe.linears as linears

    layer, x_BLD = mixture("ffn@expert_ffn=tests_halves", f"expert_ffn.way={way}", "ffn.shared=1", *words), tokens(2, 9)
    outputs = []
    for fewest in (0, 10**9):
        monkeypatch.setattr(linears, "FEWEST", fewest)
        outputs.append(layer(x_BLD))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    alone = torch.cat([layer(x_BLD[:, t : t + 1]) for t in range(9)], 1)
    torch.testing.assert_close(alone, outputs[0], rtol=1e-5, atol=1e-5)


def test_padding_takes_no_room_and_makes_no_sequence_longer():
    with pytest.warns(UserWarning, match="depends on the other tokens"):
        layer = mixture("ffn.experts=4", "ffn.capacity=1", training=True)
    x_BLD, pads = tokens(1, 20), torch.zeros(1, 60, DIM)
    layer(x_BLD)
    alone = layer.side_metrics()["moe/dropped"]
    layer(torch.cat([pads, x_BLD], 1), mask_BL=torch.arange(80).unsqueeze(0) >= 60)
    assert layer.side_metrics()["moe/dropped"] == alone
    choosing = part("ffn", "moe", "ffn.gate=expert_choice", layer=0, causal=False)
    short = tokens(1, 6)
    padded = choosing(torch.cat([torch.zeros(1, 14, DIM), short], 1), mask_BL=torch.arange(20).unsqueeze(0) >= 14)
    torch.testing.assert_close(padded[:, 14:], choosing(short), rtol=1e-5, atol=1e-6)


def test_a_second_choice_that_is_not_taken_counts_nowhere():
    layer = mixture("ffn.gate=gshard", training=True)
    torch.manual_seed(3)
    routing = layer.router(tokens(200))
    taken = int(routing.taken_NK.sum())
    assert 200 < taken < 400
    torch.manual_seed(3)
    layer(tokens(200))
    assert layer.window_E.sum() == taken
    assert (routing.gate_NK[~routing.taken_NK] == 0).all()
    first_E = torch.bincount(routing.expert_NK[:, 0], minlength=8) / 200
    torch.testing.assert_close(routing.losses["balance"], 8 * (first_E * routing.probability_NE.mean(0)).sum())


def test_gradients_of_side_losses_survive_recomputing():
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for recompute in (False, True):
        layer, x_ND = mixture("ffn.balance=10", training=True), tokens(30).requires_grad_()
        y_ND = checkpoint(layer, x_ND, use_reentrant=False) if recompute else layer(x_ND)
        (y_ND.sum() + sum(layer.side_losses().values())).backward()
        gradients.append(layer.router.projection.weight.grad)
    torch.testing.assert_close(*gradients)


def test_very_sure_routers_stay_finite():
    layer = mixture("ffn.gate=sigmoid")
    with torch.no_grad():
        layer.router.projection.weight.fill_(-20.0)
    assert layer(tokens(5).abs()).isfinite().all()


def test_a_model_is_copied_after_it_was_used():
    import copy

    for gate in GATES:
        layer = mixture(f"ffn.gate={gate}")
        layer(tokens(5))
        copied = copy.deepcopy(layer)
        assert torch.equal(copied(tokens(5)), layer(tokens(5)))


@pytest.mark.parametrize(
    "words",
    [
        ["ffn.gate=sigmoid", "ffn.bias_rate=0.1"],
        pytest.param(["ffn.gate=noisy", "ffn.jitter=0.1"], marks=THOROUGH),
        pytest.param(["ffn.gate=gshard", "linear=ternary"], marks=THOROUGH),
    ],
    ids=" ".join,
)
def test_a_resumed_run_is_the_uninterrupted_one(words, here, monkeypatch):
    words = ["ffn=moe", *words, "task=parity", "task.test_size=8", *TINY, "steps=8", "trainer.accumulate=2"]
    whole, resumed = whole_and_resumed(words, monkeypatch, batch=9)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    if "ffn.gate=sigmoid" in words:
        assert whole["objective.backbone.blocks.0.ffn.router.bias_E"].any()


@pytest.mark.parametrize(
    "words", [["ffn.capacity=0.5"], ["objective=masked_token", "ffn.gate=expert_choice"]], ids=" ".join
)
def test_a_resumed_run_reports_what_the_uninterrupted_one_does(words, here, monkeypatch):
    """What was counted since the last report when a run stopped is part of its next report."""
    words = [
        "ffn=moe",
        *words,
        "task=reverse",
        "task.batch_size=4",
        "task.test_size=8",
        *TINY,
        "steps=7",
        "log_every=7",
    ]
    with warnings.catch_warnings(action="ignore"):
        whole_and_resumed(words, monkeypatch, batch=4)
    curves = [
        {
            (row["step"], row["name"]): row["value"]
            for row in read_metrics(next(here.glob(f"runs/{name}/*/metrics.csv")))
        }
        for name in ("whole", "cut")
    ]
    assert any("/unserved" in name or "/dropped" in name for _, name in curves[0])
    assert curves[0] == curves[1]


def test_ternary_experts_are_packed_and_exported(here, zoo_main):
    config = zoo.compose("arch=mixtral", "linear=ternary", "task=parity", "task.test_size=8", *TINY)
    row = train(config)
    status, _, err = zoo_main("export", str(folder_of(config)), "--packed")
    assert status == 0, err
    assert row["weight_bytes"] < row["parameters"]  # of four bytes each as trained
    loaded = zoo.load(folder_of(config) / "packed.safetensors")
    assert sum(hasattr(module, "held_bytes") for module in loaded.modules()) == 4 + 3 * 8


def test_a_setting_for_a_place_that_is_none_is_refused(tmp_path, monkeypatch):
    from zoo.base.errors import ZooError
    from zoo.config.compose import resolve

    config = zoo.compose("arch=mixtral")
    assert config
    from omegaconf import OmegaConf

    with pytest.raises(ZooError, match="expert_fn"):
        resolve(
            OmegaConf.create({"settings": {"ffn/glu@expert_fn": {"ratio": 1}}, "parts": {}, "backbone": {}}), {}, []
        )
