"""RWKV-7 against its recurrence written out, and against the `rwkv` package."""

import pytest
import torch
from scans import F64, draw, values_and_gradients
from torch.nn import functional as F

import zoo
from zoo.measure import flops, memory
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo_plugins.matrix_memory.rule import rewrite

CPU = torch.device("cpu")


def by_hand(r, w, k, v, p, a, memory):
    """``S <- Diag(w) S - (a p) (p^T S) + k v^T``, which reads what is erased before the decay."""
    outputs = []
    for t in range(r.shape[1]):
        held = torch.einsum("bhkv,bhk->bhv", memory, p[:, t])
        memory = memory * w[:, t].exp()[..., None]
        memory = memory - (p * a)[:, t, ..., None] * held[..., None, :] + k[:, t, ..., None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", memory, r[:, t]))
    return torch.stack(outputs, 1), memory


def by_chunks(r, w, k, v, p, a, memory, chunk):
    return rewrite(r, k, v, w, (p, p * a), memory, chunk)


@pytest.mark.parametrize(("length", "chunk"), [(1, 32), (37, 32), (40, 16), (21, 2), (37, 128)])
def test_chunks_compute_the_recurrence(length, chunk):
    shape = (2, length, 3, 5)
    r, k, v, w, p, a = (draw(*shape, seed=seed) for seed in range(6))
    tensors = [r, -0.6065 * w.sigmoid(), k, v, F.normalize(p, dim=-1), a.sigmoid(), draw(2, 3, 5, 5, seed=6)]
    ours = values_and_gradients(lambda *each: by_chunks(*each, chunk), tensors)
    for one, other in zip(ours, values_and_gradients(by_hand, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def layer_by_hand(layer, x_BLD, first_BLD):
    """The paper's equations, with the weights of our layer; what it returns last are its own values."""

    def low(part, x):
        y = part.activation(x @ part.down.weight.T) @ part.up.weight.T
        return y if part.bias is None else y + part.bias

    before = torch.cat([torch.zeros_like(x_BLD[:, :1]), x_BLD[:, :-1]], 1)
    xr, xk, xv, xg, xw, xa = (x_BLD + (before - x_BLD) * m for m in layer.mix_ND)
    r, k, v = xr @ layer.receptance.weight.T, xk @ layer.key.weight.T, xv @ layer.value.weight.T
    own, a = v, low(layer.rate, xa).sigmoid()
    if layer.value_share is not None:
        v = v + (first_BLD - v) * low(layer.value_share, xv).sigmoid()
    w, kk = -torch.exp(torch.tensor(-0.5, dtype=F64)) * low(layer.decay, xw).sigmoid(), k * layer.erase_D
    k = k * (1 + (a - 1) * layer.write_D)
    r, w, k, v, kk, a = (each.unflatten(-1, (layer.heads, -1)) for each in (r, w, k, v, kk, a))
    y, _ = by_hand(
        r, w, k, v, F.normalize(kk, dim=-1), a, torch.zeros(len(x_BLD), *layer.bonus_HK.shape, r.shape[-1], dtype=F64)
    )
    y = F.layer_norm(y, y.shape[-1:], eps=64e-5).flatten(2) * layer.norm_weight + layer.norm_bias
    y = y + ((r * k * layer.bonus_HK).sum(-1, keepdim=True) * v).flatten(2)
    return (y * low(layer.gate, xg)) @ layer.out.weight.T, own


def test_layers_are_the_equations_and_share_the_first_values():
    x_BLD, shared, first_BLD = draw(2, 41, 32), {}, None
    for number in (0, 1):
        layer = part("mixer", "rwkv7", "mixer.heads=2", "mixer.chunk=8", layer=number, dtype=F64)
        for parameter in layer.parameters():
            parameter.data.add_(0.3 * draw(*parameter.shape, seed=number))
        wanted_BLD, own_BLD = layer_by_hand(layer, x_BLD, first_BLD)
        torch.testing.assert_close(layer(x_BLD, shared=shared)[0], wanted_BLD, rtol=1e-9, atol=1e-9)
        first_BLD = own_BLD if first_BLD is None else first_BLD


def test_the_whole_model_is_that_of_the_rwkv_package(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rwkv")
    monkeypatch.setenv("RWKV_V7_ON", "1")
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    from rwkv.model import RWKV

    config = zoo.compose("task=recall", "arch=rwkv7", "dim=32", "layers=2", "task.test_lengths=[]", "mixer.heads=2")
    objective = make_objective(config, make_task(config)).eval()
    for number, parameter in enumerate(objective.parameters()):
        parameter.data.add_(0.3 * draw(*parameter.shape, seed=number, dtype=torch.float32))
    ours, theirs = dict(objective.named_parameters()), {}
    names = {"emb.weight": "stem.embedding.weight", "head.weight": "head.weight"}
    for one in ("weight", "bias"):
        names |= {f"blocks.0.ln0.{one}": f"backbone.embeddings_norm.{one}", f"ln_out.{one}": f"backbone.norm.{one}"}
        for i in (0, 1):
            names |= {f"blocks.{i}.ln1.{one}": f"backbone.blocks.{i}.mixer_norm.{one}"}
            names |= {f"blocks.{i}.ln2.{one}": f"backbone.blocks.{i}.mixer_2_norm.{one}"}
            names |= {f"blocks.{i}.att.ln_x.{one}": f"backbone.blocks.{i}.mixer.norm_{one}"}
    for i in (0, 1):
        at, to = f"blocks.{i}.att.", f"backbone.blocks.{i}.mixer."
        names |= {f"{at}{a}.weight": f"{to}{a}.weight" for a in ("receptance", "key", "value")}
        names |= {f"{at}output.weight": f"{to}out.weight", f"{at}k_k": f"{to}erase_D", f"{at}k_a": f"{to}write_D"}
        names |= {f"{at}r_k": f"{to}bonus_HK", f"blocks.{i}.ffn.x_k": f"backbone.blocks.{i}.mixer_2.mix_D"}
        names |= {f"blocks.{i}.ffn.key.weight": f"backbone.blocks.{i}.mixer_2.up.weight"}
        names |= {f"blocks.{i}.ffn.value.weight": f"backbone.blocks.{i}.mixer_2.down.weight"}
        for letter, name in (("w", "decay"), ("a", "rate"), ("g", "gate"), ("v", "value_share")):
            if letter == "v" and not i:
                continue
            theirs |= {f"{at}{letter}{n}": ours[f"{to}{name}.{way}.weight"].T for n, way in ((1, "down"), (2, "up"))}
            if letter != "g":
                names[f"{at}{letter}0"] = f"{to}{name}.bias"
        theirs |= {f"{at}x_{letter}": mix for letter, mix in zip("rkvgwa", ours[to + "mix_ND"], strict=True)}
    theirs |= {name: ours[own] for name, own in names.items()}
    torch.save({name: value.detach().clone() for name, value in theirs.items()}, tmp_path / "model.pth")
    tokens = list(range(3, 30))
    with torch.no_grad():
        model = RWKV(str(tmp_path / "model"), "cpu fp32")
        wanted, _ = model.forward(tokens, None, full_output=True)
        hidden, _ = objective.backbone(objective.stem(torch.tensor([tokens])))
        torch.testing.assert_close(objective.head(hidden)[0], wanted, rtol=1e-4, atol=1e-4)


B, L, D, V, DEPTH, H, K, C = 2, 32, 32, 64, 2, 2, 16, 16


def model(*overrides):
    words = ["task=recall", "task.rung=tiny", f"dim={D}", f"layers={DEPTH}", "task.test_lengths=[]"]
    config = zoo.compose(*words, "mixer=rwkv7", f"mixer.heads={H}", "position=none", "ffn=none", *overrides)
    task = make_task(config)
    return make_objective(config, task), {key: value[:B] for key, value in task.train_batch(0, 0, CPU).items()}


def test_costs_are_those_counted_by_hand():
    objective, batch = model(f"mixer.chunk={C}")
    pairs, block, rows = 2 * C, 8, 2 * 8
    # scores of a query and of p with pairs of its block, and of all blocks; what p finds of the values, and the solve;
    # what is read of the chunk; of two chunks one leaves a memory of two pairs a token, and one is read by p and q
    rule = 2 * K * rows * (2 * block + pairs) // block + 2 * C * K + C * 2 * K + 2 * pairs * K
    rule += (2 + 1 + 1) * 2 * K * K // 2
    layers = DEPTH * (4 * 2 * D * D + 3 * 4 * D * 32 + H * rule) + 4 * D * 32  # the second has a share of first values
    assert flops.count(objective, batch)[0] == B * L * layers + batch["targets"].numel() * 2 * D * V
    for length in (16, 64):
        assert memory.decoding_state_bytes(objective, {"max_len": length}, CPU) == DEPTH * (H * K * K + D) * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer.heads=3"], "heads=3 does not divide dim=32"),
        (["mixer.gate_rank=0"], "gate_rank=0; expected at least 1"),
        (["mixer@alternate_mixer=rwkv7_channel_mix", "backbone.pattern=a", "alternate_mixer.ratio=0"], "ratio=0"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model(*words)
