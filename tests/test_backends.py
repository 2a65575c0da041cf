"""Which implementation of a scan runs, that it says so, and that nothing is replaced in silence."""

import os
import re
import sys
import warnings
from types import ModuleType

import pytest
import torch
from conftest import TINY, first
from scans import scan_inputs, values_and_gradients

import zoo
from zoo.cli.show import measure
from zoo.nn import counting
from zoo.runs.train import train
from zoo.testing.parts import part
from zoo_plugins.mamba import backends, kernels, native
from zoo_plugins.mamba.selective_scan import selective_scan


def decide(wanted, kernel, device, dtype=torch.float32, states=16):
    return backends.decide(wanted, kernel, device, dtype, states)


needs_compiler = pytest.mark.skipif(native.why_not() is not None, reason=f"no compiled scan: {native.why_not()}")


@pytest.fixture
def fresh(monkeypatch):
    """Forget what was found out before, and after."""
    caches = (backends.decide, native.why_not, native._library, kernels._failure)
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def built_plainly(monkeypatch):
    """A library is built in a third of the time, where its speed is not the point."""
    monkeypatch.setattr(native, "FLAGS", [flag if flag != "-O3" else "-O0" for flag in native.FLAGS])


@needs_compiler
@pytest.mark.parametrize(("length", "channels", "states"), [(1, 3, 16), (33, 20, 16), (70, 40, 5), (40, 17, 64)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_scan_gives_the_same_results(length, channels, states, threads):
    inputs = scan_inputs(3, length, channels, states, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = values_and_gradients(lambda *tensors: selective_scan(*tensors, form="native"), inputs)
    finally:
        torch.set_num_threads(before)
    exact = values_and_gradients(selective_scan, [tensor.double() for tensor in inputs])
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).abs().max() <= 2e-6 * other.abs().max()


@needs_compiler
def test_the_compiled_scan_does_not_depend_on_threads_and_passes_on_what_is_not_a_number():
    inputs = scan_inputs(2, 40, 20, 16, torch.float32)
    results = []
    for threads in (1, 4):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(values_and_gradients(lambda *tensors: selective_scan(*tensors, form="native"), inputs))
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    inputs[1][0, 7, 3] = float("nan")
    y, _ = selective_scan(*inputs, form="native")
    assert y[0, 7:, 3].isnan().all()
    assert y[0, :7].isfinite().all()
    assert y[1].isfinite().all()


@needs_compiler
def test_the_compiled_operator_keeps_torchs_rules():
    inputs = [t.requires_grad_() for t in scan_inputs(2, 9, 4, 3, torch.float32)]
    torch.library.opcheck(torch.ops.zoo.selective_scan.default, (*inputs, "native"))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("none", "there is no C[+][+] compiler"),
        ("broken", "failed: "),
        ("wrong", "other results"),
        ("missing", "CXX names the compiler /nowhere/c.."),
    ],
)
def test_without_a_compiler_that_works_pytorch_runs_and_says_why(
    compiler, reason, fresh, built_plainly, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if compiler == "none":
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    if compiler == "missing":
        monkeypatch.setenv("CXX", "/nowhere/c++ -g")
    if compiler == "broken":
        monkeypatch.setattr(native, "FLAGS", ["-no-such-flag"])
    if compiler in ("wrong", "broken") and native.shutil.which("c++") is None:
        pytest.skip("there is no compiler")
    if compiler == "wrong":
        source = tmp_path / "selective_scan.cpp"
        source.write_text(native.SOURCE.read_text().replace("sum += h[n] * C_t[n];", "sum -= h[n] * C_t[n];"))
        monkeypatch.setattr(native, "SOURCE", source)
    name, why = decide("auto", "scan", "cpu")
    assert name == "torch"
    assert re.search(reason, why)
    assert part("mixer", "mamba1")(torch.randn(1, 5, 32))[0].isfinite().all()
    with pytest.raises(ValueError, match="native cannot run"):
        part("mixer", "mamba1", "mixer.backend=native")(torch.randn(1, 5, 32))


@needs_compiler
def test_a_library_that_was_cut_short_is_built_again(fresh, built_plainly, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.why_not() is None
    (library,) = (tmp_path / "zoo").glob("*.so")
    content = library.read_bytes()
    library.unlink()  # it is still mapped
    library.write_bytes(content[:1000])
    for cache in (native.why_not, native._library):
        cache.cache_clear()
    assert native.why_not() is None


def _others(path):
    """Give a file to another user."""
    if os.getuid():
        pytest.skip("only root gives files away")
    os.chown(path, 12345, 12345)


OPEN = {
    "a file that all may write": ("file", lambda path: path.chmod(0o707)),
    "a file that a group may write": (
        "file",
        lambda path: (path.chmod(0o770), os.getuid() or os.chown(path, 0, 12345)),
    ),
    "a file of another user": ("file", _others),
    "a link": (
        "file",
        lambda path: (path.rename(path.with_suffix(".other")), path.symlink_to(path.with_suffix(".other"))),
    ),
    "a folder that all may write": ("folder", lambda path: path.parent.chmod(0o707)),
    "a folder of another user": ("folder", lambda path: _others(path.parent)),
    "a folder above that all may write": ("folder", lambda path: path.parents[1].chmod(0o707)),
}


@needs_compiler
@pytest.mark.parametrize("opened", first(OPEN.values()), ids=OPEN)
def test_a_library_that_others_may_have_written_is_not_loaded(fresh, built_plainly, monkeypatch, tmp_path, opened):
    what, change = opened
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert native.why_not() is None
    (library,) = (tmp_path / "cache" / "zoo").glob("*.so")
    size = library.stat().st_size
    library.unlink()  # it is still mapped
    library.write_bytes(b"theirs".ljust(size))
    change(library)
    for cache in (native.why_not, native._library):
        cache.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert native.why_not() is None
    if what == "folder":
        assert "others may write to" in str(said[0].message)
        assert library.read_bytes().startswith(b"theirs"), "it is left as it is"
    else:
        assert not said
        assert library.read_bytes().startswith(b"\x7fELF"), "it is built again"


@needs_compiler
def test_the_check_of_the_library_does_not_depend_on_torchs_defaults(fresh):
    with torch.device("meta"):
        assert native.why_not() is None


@needs_compiler
@pytest.mark.parametrize("change", [torch.Tensor.double, lambda t: t.mT if t.ndim == 3 else t, lambda t: t[:1]])
def test_the_compiled_scan_refuses_what_it_would_misread(change):
    inputs = scan_inputs(2, 9, 4, 3, torch.float32)
    with pytest.raises(ValueError, match=r"the compiled scan needs|the scan was given"):
        native.forward(*(change(tensor) for tensor in inputs))


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_a_named_backend_that_cannot_run_is_refused_before_anything_is_trained(arch, here):
    words = [f"arch={arch}", "mixer.backend=mamba_ssm", "task=parity", "task.test_size=16", *TINY]
    with pytest.raises(zoo.ZooError, match=r"mamba_ssm cannot run: .* this is cpu\. Use mixer\.backend=auto or torch"):
        train(zoo.compose(*words))
    with pytest.raises(zoo.ZooError, match="mamba_ssm cannot run"):
        measure(zoo.compose(*words))
    mixer = part("mixer", "mamba1", "mixer.backend=mamba_ssm")
    with pytest.raises(ValueError, match="mamba_ssm cannot run"):
        mixer(torch.randn(1, 5, 32))
    with pytest.raises(zoo.ZooError, match="float64"):
        train(
            zoo.compose(
                "arch=mamba",
                "mixer.backend=native",
                "trainer.precision=64-true",
                "task=parity",
                "task.test_size=16",
                *TINY,
            )
        )
    with pytest.raises(zoo.ZooError, match="is a selective scan"):
        train(
            zoo.compose(
                "arch=mamba", "mixer.backend=native", "mixer.selective=false", "task=parity", "task.test_size=16", *TINY
            )
        )
    with counting():  # what it costs can be counted anywhere
        assert mixer(torch.randn(1, 5, 32))[0].isfinite().all()


def fake_package(monkeypatch, scan):
    """A mamba-ssm that imports; what its scan does is given."""
    names = ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"]
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].selective_scan_fn = scan
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object() if name == "mamba_ssm" else None)
    monkeypatch.setattr(
        kernels, "_numbers", lambda *shape: torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def broken(*arguments, **options):
    raise ImportError("undefined symbol: selective_scan_fwd")


def right(u, dt, A, B, C, return_last_state):
    y, last = selective_scan(u.mT, dt.mT, A, B.mT, C.mT)
    return y.mT, last


def wrong_values(*inputs, return_last_state):
    y, last = right(*inputs, return_last_state)
    return 1.5 * y, last


def wrong_state(*inputs, return_last_state):
    y, last = right(*inputs, return_last_state)
    return y, 1.5 * last


def wrong_gradient(*inputs, return_last_state):
    y, last = right(*inputs, return_last_state)
    return 2 * y - y.detach(), last


@pytest.mark.parametrize(
    ("scan", "chosen", "why"),
    [
        (broken, "torch", "mamba-ssm is installed but fails: ImportError: undefined symbol"),
        (wrong_values, "torch", "mamba-ssm gives other results than PyTorch"),
        (wrong_state, "torch", "mamba-ssm gives other results than PyTorch"),
        (wrong_gradient, "torch", "mamba-ssm gives other results than PyTorch"),
        (right, "mamba_ssm", "it works here"),
    ],
)
def test_a_fused_kernel_is_tried_before_it_is_trusted(scan, chosen, why, fresh, monkeypatch):
    fake_package(monkeypatch, scan)
    name, reason = decide("auto", "scan", "cuda")
    assert name == chosen
    assert why in reason
    if chosen == "torch":
        with pytest.raises(ValueError, match="mamba_ssm cannot run: mamba-ssm"):
            decide("mamba_ssm", "scan", "cuda")
    assert kernels.why_not("convolution", "cuda", torch.float32, 0) is not None, "causal-conv1d is another package"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"dtype": torch.float64}, "do not compute in float64"), ({"states": 300}, "at most 256 states")],
)
def test_what_a_fused_kernel_does_not_take_runs_in_pytorch(facts, reason, fresh, monkeypatch):
    fake_package(monkeypatch, right)
    assert decide("auto", "scan", "cuda", **facts)[0] == "torch"
    with pytest.raises(ValueError, match=reason):
        decide("mamba_ssm", "scan", "cuda", **facts)


def test_who_names_pytorch_gets_it_and_nothing_else_is_tried(fresh, monkeypatch):
    fake_package(monkeypatch, broken)
    monkeypatch.setattr(kernels, "_failure", lambda kernel: pytest.fail("tried"))
    monkeypatch.setattr(native, "why_not", lambda: pytest.fail("tried"))
    assert decide("torch", "scan", "cuda") == decide("torch", "scan", "cpu") == ("torch", "as named")


def test_the_fused_convolution_gets_rows_that_it_can_read(monkeypatch):
    module, seen = ModuleType("causal_conv1d"), []

    def fused(x_BDL, weight, bias, activation):
        seen.append(x_BDL.stride())
        return x_BDL

    module.causal_conv1d_fn = fused
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    wide = torch.randn(2, 5, 26)
    for x in (wide[..., :16], wide[..., 8:24], torch.randn(2, 5, 32)[..., :16], torch.randn(5, 2, 16).transpose(0, 1)):
        torch.testing.assert_close(kernels.fused_convolution(x, torch.ones(16, 4), None), x)
    assert all(stride[1] == 1 and stride[2] % 8 == 0 and stride[0] % 8 == 0 for stride in seen), seen
    assert kernels.fits_convolution(wide[..., :16], 4)
    assert not kernels.fits_convolution(wide[..., :10], 4)
    assert not kernels.fits_convolution(wide[..., :16], 5)
    assert not kernels.fits_convolution(wide[..., :16].double(), 4)


def test_a_missing_package_says_how_to_install_it(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert "--no-build-isolation" in decide("auto", "ssd", "cuda")[1]


@pytest.mark.parametrize(
    ("name", "kernel", "expected_calls"), [("mamba1", "fused_scan", 1), ("mamba2", "fused_ssd", 2)]
)
def test_the_fused_path_of_a_layer_computes_what_ours_does(name, kernel, expected_calls, fresh, monkeypatch):
    """With stand-ins for the kernels that compute on the processor, so that the layers' own wiring is tested."""
    fake_package(monkeypatch, right)
    x = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    mixer = part("mixer", name, "mixer.backend=torch")
    expected, expected_state = mixer(x, mixer.init_state(2, 24, torch.device("cpu"), torch.float32))
    module, calls = sys.modules[type(mixer).__module__], []
    monkeypatch.setattr(module, "backend_of", lambda wanted, kernel, x, states: "mamba_ssm")
    fused_scan = module.fused_scan if name == "mamba1" else None

    def stand_in(*tensors):
        calls.append(kernel)
        if fused_scan:
            return fused_scan(*tensors)
        x, dt, A, B, C, state = tensors
        return module.ssd(x * dt[..., None], dt * A, B, C, state, 64)

    monkeypatch.setattr(module, kernel, stand_in)
    torch.testing.assert_close(mixer(x)[0], expected)
    y, state = mixer(x, mixer.init_state(2, 24, torch.device("cpu"), torch.float32))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state["memory"], expected_state["memory"])
    assert len(calls) == expected_calls, "the fused scan of mamba1 cannot go on from a state"


def test_show_and_every_result_say_what_ran(here):
    config = zoo.compose("arch=mamba", "task=parity", "task.test_size=16", "mixer.backend=torch", *TINY, "steps=2")
    assert measure(config)[0]["mamba1 scan"] == "torch: as named"
    assert train(config)["implementations"] == {"mamba1 scan": "torch: as named"}
