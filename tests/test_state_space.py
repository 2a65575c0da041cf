"""State-space layers against sequential recurrences, published references and published models."""

import math

import pytest
import torch
from oracles import published  # noqa: F401
from scans import F64, draw, scan_by_hand, scan_inputs, ssd_by_hand, ssd_inputs, values_and_gradients
from torch.nn import functional as F

import zoo
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task
from zoo.training.parameter_groups import parameter_groups
from zoo_plugins.mamba.common import heads_of
from zoo_plugins.mamba.selective_scan import selective_scan
from zoo_plugins.mamba.ssd import ssd
from zoo_plugins.mamba.time_invariant import time_invariant

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("speed", [1.0, 20.0])
def test_the_selective_scan_is_its_recurrence(length, speed):
    inputs = scan_inputs(length=length, speed=speed)
    for ours, theirs in zip(
        values_and_gradients(selective_scan, inputs), values_and_gradients(scan_by_hand, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 5, 37])
@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
def test_state_space_duality_is_its_recurrence(length, chunk):
    inputs = ssd_inputs(length=length)
    ours = values_and_gradients(lambda *tensors: ssd(*tensors, chunk=chunk), inputs)
    for one, other in zip(ours, values_and_gradients(ssd_by_hand, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_state_space_duality_without_each_tokens_own_term():
    x, decay, B, C, h = ssd_inputs()
    own = (B * C).sum(-1).repeat_interleave(2, 2)[..., None] * x
    y, last = ssd(x, decay, B, C, h, chunk=8, own=False)
    expected, state = ssd_by_hand(x, decay, B, C, h)
    torch.testing.assert_close(y + own, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last, state, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (37, 8), (32, 8), (5, 64)])
def test_the_time_invariant_space_is_its_recurrence(length, chunk):
    u, dt, A, _, _, h = scan_inputs(length=length)
    inputs = [u, dt[0, 0], A, draw(6, 5, seed=8), draw(6, 5, seed=9), h]

    def by_hand(u, dt, A, B, C, h):
        ys = []
        for t in range(length):
            h = torch.exp(dt[:, None] * A) * h + dt[:, None] * B * u[:, t, :, None]
            ys.append((C * h).sum(-1))
        return torch.stack(ys, 1), h

    ours = values_and_gradients(lambda *tensors: time_invariant(*tensors, chunk), inputs)
    for one, other in zip(ours, values_and_gradients(by_hand, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_are_right_by_finite_differences():
    scan = [t.requires_grad_() for t in scan_inputs(1, 6, 2, 3)]
    assert torch.autograd.gradcheck(selective_scan, scan)
    dual = [t.requires_grad_() for t in ssd_inputs(1, 6, 2, 2, 1, 3)]
    assert torch.autograd.gradcheck(lambda *tensors: ssd(*tensors, chunk=4), dual)


def test_the_operator_keeps_torchs_rules():
    inputs = [t.float().requires_grad_() for t in scan_inputs(2, 9, 4, 3)]
    torch.library.opcheck(torch.ops.zoo.selective_scan.default, (*inputs, "torch"))


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_a_layer_compiles_without_a_graph_break(name):
    mixer, x = part("mixer", name, "mixer.backend=torch").train(), draw(2, 24, 32, dtype=torch.float32)
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], mixer(x)[0])
    compiled(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in mixer.parameters())


# published references


def test_the_selective_scan_is_mamba_ssms(published):  # noqa: F811
    u, dt, A, B, C, _ = scan_inputs(length=40)
    D, z, bias = draw(6, seed=11), draw(2, 40, 6, seed=12), draw(6, seed=13)
    theirs, last = published("selective_scan_ref")(
        u.mT, dt.mT, A, B.mT, C.mT, D, z.mT, bias, delta_softplus=True, return_last_state=True
    )
    y, h = selective_scan(u, F.softplus(dt + bias), A, B, C)
    torch.testing.assert_close((y + D * u) * F.silu(z), theirs.mT, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(h, last, rtol=1e-9, atol=1e-9)


def test_mamba1_is_mamba_ssms_layer(published):  # noqa: F811
    """The whole layer: its inputs, convolution, selection, scan and gate, with mamba-ssm's scan."""
    mixer, x = part("mixer", "mamba1", dtype=F64), draw(2, 24, 32)
    u, z = (x @ mixer.inputs.weight.T).chunk(2, -1)
    weight, bias = mixer.convolution.weight, mixer.convolution.bias
    u = F.silu(F.conv1d(u.mT, weight[:, None], bias, padding=3, groups=64)[..., :24])
    low, B, C = (mixer.selection.weight @ u).split([2, 16, 16], 1)
    y = published("selective_scan_ref")(
        u, mixer.dt_weight @ low, -mixer.A_log.exp(), B, C, mixer.D, z.mT, mixer.dt_bias, delta_softplus=True
    )
    torch.testing.assert_close(mixer(x)[0], y.mT @ mixer.out.weight.T, rtol=1e-9, atol=1e-9)


def test_mamba2_is_mamba_ssms_layer(published):  # noqa: F811
    words = ["mixer.head_dim=16", "mixer.groups=2", "mixer.state_size=8"]
    mixer, x = part("mixer", "mamba2", *words, dtype=F64), draw(2, 24, 32)
    inner, z = (x @ mixer.inputs.weight.T).chunk(2, -1)
    both, dt = (x @ mixer.selection.weight.T).split([32, 4], -1)
    convolved = []
    for part_, convolution in ((inner, mixer.convolution), (both, mixer.selection_convolution)):
        y = F.conv1d(part_.mT, convolution.weight[:, None], convolution.bias, padding=3, groups=part_.shape[-1])
        convolved.append(F.silu(y[..., :24]).mT)
    B, C = convolved[1].view(2, 24, 2, 2, 8).unbind(2)
    y = published("ssd_chunk_scan_combined_ref")(
        convolved[0].view(2, 24, 4, 16), dt, -mixer.A_log.exp(), B, C, 8, mixer.D, None, mixer.dt_bias, True
    )
    y = published("rms_norm_ref")(y.flatten(2), mixer.norm_weight, None, z, 1e-5, 32, norm_before_gate=False)
    torch.testing.assert_close(mixer(x)[0], y @ mixer.out.weight.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rotated", [0.5, 1.0])
def test_mamba3_is_mamba_ssms_step(published, rotated):  # noqa: F811
    """The whole layer, one token at a time, by the package's reference of its decoding step."""
    words = ["mixer.head_dim=16", "mixer.state_size=8", f"mixer.rotated={rotated}", "mixer.chunk=8"]
    mixer, x = part("mixer", "mamba3", *words, dtype=F64), draw(2, 24, 32)
    for parameter in mixer.parameters():
        parameter.data += 0.1 * draw(*parameter.shape, seed=7)
    H, K, N, R = 4, 16, 8, mixer.angles
    z, inner = (t.view(2, 24, H, K) for t in (x @ mixer.inputs.weight.T).chunk(2, -1))
    B, C, dt, A, mixture, angle = (x @ mixer.selection.weight.T).split(mixer.sizes, -1)
    dt, A = F.softplus(dt + mixer.dt_bias), -F.softplus(A).clamp_min(1e-4)
    B, C = (published("rms_norm_ref")(t, w, None, eps=1e-5) for t, w in ((B, mixer.B_weight), (C, mixer.C_weight)))
    turn, step = published("apply_rotary_qk_inference_reference"), published("selective_state_update_fused_ref_v2")
    h, angles, ones = (
        torch.zeros(2, H, K, N, dtype=F64),
        torch.zeros(2, H, R, dtype=F64),
        torch.ones(1, H, K, dtype=F64),
    )
    last_B, last_x, ys = torch.zeros(2, 1, H, N, dtype=F64), torch.zeros(2, H, K, dtype=F64), []
    for t in range(24):
        rows = [part_[:, t, None, None].expand(-1, -1, H, -1) for part_ in (C, B)]
        rate = angle[:, t, None].expand(-1, H, -1)
        C_t, B_t, angles = turn(*rows, angles, rate, dt[:, t], mixer.C_bias[None], mixer.B_bias[None])
        y, h = step(
            h, A[:, t], B_t, C_t, ones, inner[:, t], ones, z[:, t], dt[:, t], last_B, last_x, mixture[:, t].sigmoid(),
            mixer.D, ones, F64,
        )  # fmt: skip
        last_B, last_x = B_t, inner[:, t]
        ys.append(y)
    torch.testing.assert_close(mixer(x)[0], torch.stack(ys, 1).flatten(2) @ mixer.out.weight.T, rtol=1e-9, atol=1e-9)


# published models


def model(*words):
    config = zoo.compose("task=recall", "task.rung=tiny", "dim=32", "layers=2", "norm.eps=1e-5", *words)
    return make_objective(config, make_task(config))


def hugging_face(kind, ours, layers):
    """Their model with our weights."""
    transformers = pytest.importorskip("transformers")
    shared = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "tie_word_embeddings": False,
        "residual_in_fp32": False, "use_cache": False, "layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    if kind == "mamba":
        theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**shared, state_size=16))
    else:
        config = transformers.Mamba2Config(**shared, state_size=64, num_heads=1, head_dim=64, n_groups=1, chunk_size=8)
        theirs = transformers.Mamba2ForCausalLM(config)
    weights = {
        "backbone.embeddings.weight": ours.stem.embedding.weight,
        "backbone.norm_f.weight": ours.backbone.norm.weight,
        "lm_head.weight": ours.head.weight,
    }
    for i, block in enumerate(ours.backbone.blocks):
        weights[f"backbone.layers.{i}.norm.weight"] = block.mixer_norm.weight
        weights |= {f"backbone.layers.{i}.mixer.{name}": tensor for name, tensor in layers(block.mixer).items()}
    theirs.load_state_dict(weights, strict=True)
    return theirs.double().eval()


def mamba1_weights(mixer):
    return {
        "in_proj.weight": mixer.inputs.weight,
        "conv1d.weight": mixer.convolution.weight.unsqueeze(1),
        "conv1d.bias": mixer.convolution.bias,
        "x_proj.weight": mixer.selection.weight,
        "dt_proj.weight": mixer.dt_weight,
        "dt_proj.bias": mixer.dt_bias,
        "A_log": mixer.A_log,
        "D": mixer.D,
        "out_proj.weight": mixer.out.weight,
    }


def mamba2_weights(mixer):
    x, z = mixer.inputs.weight.chunk(2)
    return {
        "in_proj.weight": torch.cat([z, x, mixer.selection.weight]),
        "conv1d.weight": torch.cat([mixer.convolution.weight, mixer.selection_convolution.weight]).unsqueeze(1),
        "conv1d.bias": torch.cat([mixer.convolution.bias, mixer.selection_convolution.bias]),
        "dt_bias": mixer.dt_bias,
        "A_log": mixer.A_log,
        "D": mixer.D,
        "norm.weight": mixer.norm_weight,
        "out_proj.weight": mixer.out.weight,
    }


@pytest.mark.parametrize(("kind", "layers"), [("mamba", mamba1_weights), ("mamba2", mamba2_weights)])
def test_logits_equal_hugging_faces(kind, layers):
    ours = model(f"arch={kind}").double().eval()
    theirs = hugging_face(kind, ours, layers)
    tokens = torch.randint(0, 64, (3, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, _ = ours.step(tokens, ours.init_state(3, 21, CPU, F64))
        expected = theirs(tokens).logits.double()
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)  # theirs computes parts in float32


# initialisation, stability, errors


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "mamba3"])
def test_it_starts_as_published(name):
    torch.manual_seed(3)
    mixer = part("mixer", name, "mixer.dt_min=0.001", "mixer.dt_max=0.1", dim=256)
    dt = F.softplus(mixer.dt_bias.double()).log()
    assert math.log(0.001) - 1e-3 <= dt.min()
    assert dt.max() <= math.log(0.1) + 1e-3
    if name == "mamba1":
        assert dt.mean().item() == pytest.approx(math.log(0.01), abs=0.2)
        assert torch.equal(mixer.A_log.exp().round(), torch.arange(1.0, 17).expand(512, 16))
        assert mixer.dt_weight.abs().max() <= 16**-0.5
    if name == "mamba2":
        assert 1 <= mixer.A_log.exp().min() <= mixer.A_log.exp().max() <= 16
    assert (mixer.D == 1).all()


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("mamba1", {"A_log", "D", "dt_bias", "convolution.bias"}),
        ("mamba2", {"A_log", "D", "dt_bias", "norm_weight", "convolution.bias", "selection_convolution.bias"}),
        ("mamba3", {"D", "dt_bias", "B_bias", "C_bias", "B_weight", "C_weight"}),
    ],
)
def test_what_sets_time_scales_does_not_decay(name, spared):
    mixer = part("mixer", name)
    group = next(group for group in parameter_groups(mixer) if group["name"] == "no_decay")
    names = {id(parameter): name for name, parameter in mixer.named_parameters()}
    assert {names[id(parameter)] for parameter in group["params"]} == spared


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "mamba3"])
def test_a_very_long_sequence_stays_exact_in_float32(name):
    x = draw(1, 65_536, 16, dtype=torch.float32)
    with torch.no_grad():
        y = part("mixer", name, dim=16)(x)[0]
        exact = part("mixer", name, dim=16, dtype=F64)(x.double())[0]
    assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("speed", [1e-3, 1.0, 50.0])
def test_no_decay_overflows(speed):
    x, decay, B, C, h = ssd_inputs(length=700, dtype=torch.float32, speed=speed)
    y, state = ssd(x, decay, B, C, h, chunk=256)
    exact, last = ssd_by_hand(*(t.double() for t in (x, decay, B, C, h)))
    assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert (state - last).abs().max() <= 1e-5 * last.abs().max()
    u, dt, A, B, C, h = scan_inputs(length=700, dtype=torch.float32, speed=speed)
    y, _ = selective_scan(u, dt, A, B, C, h)
    exact, _ = scan_by_hand(*(t.double() for t in (u, dt, A, B, C, h)))
    assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "mamba3"])
def test_under_bfloat16_the_state_stays_wide(name):
    mixer, x = part("mixer", name), draw(1, 2048, 32, dtype=torch.float32)
    state = mixer.init_state(1, 2048, CPU, torch.bfloat16)
    assert state["memory"].dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, state = mixer(x, mixer.init_state(1, 2048, CPU, torch.float32))
    with torch.no_grad():
        exact, expected = mixer(x, mixer.init_state(1, 2048, CPU, torch.float32))
    assert state["memory"].dtype == torch.float32
    assert (y - exact).abs().max() <= 0.03 * exact.abs().max()
    assert (state["memory"] - expected["memory"]).abs().max() <= 0.03 * expected["memory"].abs().max()


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "mamba3"])
def test_a_state_that_does_not_fit_is_refused(name):
    mixer, x = part("mixer", name), draw(2, 3, 32, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"3 sequences met a batch of 2.*init_state\(batch_size=2"):
        mixer(x, mixer.init_state(3, 8, CPU, torch.float32))
    with pytest.raises(ValueError, match=r"a state of torch\.float64 met inputs of torch\.float32"):
        mixer(x, mixer.init_state(2, 8, CPU, F64))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["arch=mamba2", "mixer.head_dim=24"], "head_dim=24 does not divide expand . dim = 64"),
        (["arch=mamba2", "mixer.head_dim=16", "mixer.groups=3"], "groups=3 does not divide the 4 heads"),
        (["arch=mamba3", "mixer.head_dim=16", "mixer.groups=3"], "groups=3 does not divide the 4 heads"),
        (["arch=mamba", "mixer.state_size=0"], "state_size=0; expected at least 1"),
        (["arch=mamba", "mixer.dt_min=0.2"], "dt_min=0.2, mixer.dt_max=0.1 and mixer.dt_floor=0.0001"),
        (["arch=mamba", "mixer.dt_max=inf"], "expected a finite number"),
        (["arch=mamba2", "mixer.A_min=0"], "A_min=0.0 and"),
        (["arch=mamba2", "mixer.A_max=inf"], "A_max=inf: expected"),
        (["arch=mamba", "stem.std=-1"], "stem.std=-1.0: expected"),
        (["arch=mamba3", "mixer.rotated=2"], "rotated=2.0: expected a share"),
    ],
)
def test_widths_that_do_not_fit_are_refused(words, message):
    with pytest.raises(zoo.ZooError, match=message):
        model(*words)


@pytest.mark.parametrize(
    ("inner", "groups", "heads"),
    [
        (128, 1, 2),
        (256, 1, 4),
        (1024, 1, 16),
        (104, 1, 2),
        (96, 1, 2),
        (102, 1, 2),
        (134, 1, 2),
        (32, 1, 1),
        (192, 3, 3),
    ],
)
def test_heads_have_about_64_channels_whatever_the_width(inner, groups, heads):
    assert heads_of(inner, None, groups) == heads
