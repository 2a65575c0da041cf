"""After training: packed codes, the kernels that read them, exported files, and starting from a finished run."""

import json
import sys

import pytest
import torch
from conftest import TINY, first

import zoo
from zoo.base.errors import RunFailed, ZooError
from zoo.base.files import read_json
from zoo.measure import weights
from zoo.runs.run import folder_of
from zoo.runs.train import train
from zoo.testing.parts import part
from zoo.training.build import make_objective, make_task

SMALL = ("task=parity", "task.test_size=8", *TINY)
FAILED_ROW = {
    "schema": 1,
    "id": "a",
    "status": "failed",
    "arch": "a",
    "label": "a",
    "task": "t",
    "seed": 1,
    "overrides": [],
    "time": "",
}
FAILED_ROW["error"] = "no luck"


def integers(linear, x):
    """The layer's output by exact integer sums, scaled in float32 as it says: the reference for the bits."""
    codes, scale = linear.codes()
    size = x.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    q = (x * (127.0 / size)).round().to(torch.int64)
    sums = (q.unsqueeze(-2) * codes.to(torch.int64)).sum(-1).float()
    y = sums * ((size * (1 / 127.0)) * scale.flatten())
    return y if linear.bias is None else y + linear.bias


@pytest.mark.parametrize("shape", [(64, 48), (130, 40), (255, 7), (1, 1), (3, 33)])
@pytest.mark.parametrize(
    "words", [("ternary",), ("ternary", "linear.by_row=true"), ("binary",), ("binary", "linear.method=xnor")]
)
def test_packed_gives_the_bits_of_exact_integers(shape, words):
    linear = part("linear", words[0], *words[1:], in_features=shape[0], out_features=shape[1])
    for tokens in ((1,), (2, 3), (5, 20), (0,)):
        x = torch.randn(*tokens, shape[0], generator=torch.Generator().manual_seed(1))
        for layout in ("planes", "base3"):
            assert torch.equal(linear.packed(layout)(x), integers(linear, x)), (tokens, layout)


@pytest.mark.parametrize(
    ("name", "layout", "bits"),
    [("ternary", "planes", 2), ("ternary", "base3", 1.6), ("binary", "planes", 1), ("binary", "base3", 1)],
)
def test_codes_take_the_bits_that_they_should(name, layout, bits):
    packed = part("linear", name, in_features=400, out_features=32, bias=False).packed(layout)
    assert packed.codes.dtype == torch.uint8
    assert packed.codes.numel() * 8 / (400 * 32) == pytest.approx(bits)
    assert packed.shape.tolist() == [32, 400]
    assert {key: t.numel() for key, t in packed.state_dict().items()} == {
        "codes": 32 * 50 * bits,
        "scale": 1,
        "shape": 2,
    }


def kernels_of(packed):
    return sys.modules[type(packed).__module__.rpartition(".")[0] + ".kernels"]


@pytest.mark.parametrize("bits", [8, 4, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_kernel_that_applies_gives_the_same(bits, dtype):
    linear = part(
        "linear",
        "ternary",
        f"linear.activation_bits={'null' if bits is None else bits}",
        in_features=256,
        out_features=64,
    )
    packed = linear.packed()
    kernels, outputs = kernels_of(packed), {}
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    problem = packed._problem("cpu", dtype, True)
    for name, kernel in kernels.KERNELS.items():
        if kernel.applies(problem):
            outputs[name] = kernels.prepare(name, packed.unpacked(), problem)(x, packed.scale, packed.bias).to(dtype)
    assert len(outputs) >= (4 if dtype == torch.bfloat16 and bits else 2 if bits else 1), outputs.keys()
    exact = linear.double()(x.double()) if bits is None else None
    for name, output in outputs.items():
        if dtype == torch.bfloat16:  # two roundings to eight bits, as of a bfloat16 layer
            torch.testing.assert_close(output, outputs["unpacked"], rtol=2e-2, atol=2e-2)
        else:
            assert torch.equal(output, outputs["unpacked"]), name
    if exact is not None:
        torch.testing.assert_close(outputs["unpacked"].double(), exact, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_weights_take_in_memory_does_not_depend_on_which_kernel_was_fast(dtype, monkeypatch):
    model = torch.nn.Sequential(part("linear", "ternary", in_features=64, out_features=32), torch.nn.Linear(32, 8))
    kernels, sizes = kernels_of(model[0].packed()), []
    for fast in ("first", "last"):  # another kernel is the fastest, and the one that is held

        def seconds(calls, *rest, fast=fast):
            names = [name for name in calls if name]
            return dict.fromkeys(calls, 1.0) | {names[0 if fast == "first" else -1]: 1e-9}

        monkeypatch.setattr(kernels, "_seconds", seconds)
        kernels.choose.cache_clear()
        sizes.append(weights.stored(model, torch.device("cpu"), dtype))
    kernels.choose.cache_clear()
    assert sizes[0] == sizes[1]
    packed = model[0].packed()
    kept = {torch.float32: 64 * 32, torch.bfloat16: 64 * 32 // 2 + 32 * 2 * 2 + 8}[dtype]  # int8, and int4 with scales
    assert sizes[0][0].memory_bytes == sizes[0][0].disk_bytes + kept
    assert sizes[0][0].disk_bytes == sum(t.numel() * t.element_size() for t in packed.state_dict().values())


@pytest.mark.parametrize("columns", [8, 24, 40, 43, 48, 72, 100, 168])
@pytest.mark.parametrize("rows", [3, 22, 48])
def test_kernels_of_torch_are_offered_only_what_their_source_proves_safe(rows, columns):
    """The int8 kernel for processors reads columns by sixteens and, on ARM, scales by fours; it checks neither."""
    packed = part("linear", "ternary", in_features=columns, out_features=rows).packed()
    kernels = kernels_of(packed)
    for bits in (8, None):
        problem = kernels.Problem("cpu", torch.bfloat16, bits, rows, columns, True)
        assert kernels.KERNELS["int8 container"].applies(problem) == (columns % 16 == 0 and rows % 4 == 0)
        assert kernels.KERNELS["int4 container"].applies(problem) == (columns % 32 == 0 and rows % 16 == 0)
    x = torch.randn(5, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(packed(x).float(), packed(x.float()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("bits", ["8", "null"])
def test_kernels_that_load_by_vectors_are_given_aligned_rows(bits):
    packed = part("linear", "ternary", f"linear.activation_bits={bits}", in_features=64, out_features=64).packed()
    kernels = kernels_of(packed)
    problem = packed._problem("cpu", torch.bfloat16, True)
    askew = torch.randn(5 * 64 + 1, generator=torch.Generator().manual_seed(0)).bfloat16()[1:].view(5, 64)
    wide = torch.randn(5, 70, generator=torch.Generator().manual_seed(0)).bfloat16()[:, 3:67]
    for name, kernel in kernels.KERNELS.items():
        if kernel.applies(problem):
            way = kernels.prepare(name, packed.unpacked(), problem)
            for x in (askew, wide):
                expected = way(x.clone(), packed.scale, packed.bias)
                assert torch.equal(way(x, packed.scale, packed.bias), expected), name


def test_a_kernel_that_errs_or_fails_is_not_chosen(monkeypatch):
    packed = part("linear", "ternary", in_features=64, out_features=64).packed()
    kernels = kernels_of(packed)
    honest = kernels.KERNELS["unpacked"]
    wrong = kernels.Kernel(honest.applies, honest.prepare, lambda x, codes: honest.multiply(x, codes) + 1)

    def fails(x, codes):
        raise RuntimeError("not on this device")

    for broken in (wrong, kernels.Kernel(honest.applies, honest.prepare, fails)):
        monkeypatch.setattr(kernels, "KERNELS", {"broken": broken, "unpacked": honest})
        kernels.choose.cache_clear()
        assert kernels.choose(packed._problem("cpu", torch.float32, True)).kernel == "unpacked"
    kernels.choose.cache_clear()


def test_packed_under_autocast_is_the_trained_layer_under_autocast():
    for words in (("ternary",), ("binary", "linear.subln=true")):
        linear = part("linear", *words, in_features=256, out_features=64)
        x = torch.randn(5, 256)
        with torch.autocast("cpu", torch.bfloat16):
            y, expected = linear.packed()(x), linear(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


@pytest.fixture
def run(here):
    """A finished run with low-bit weights, and its config."""
    config = zoo.compose("linear=ternary", *SMALL)
    train(config)
    return config


def test_an_exported_file_gives_the_bits_that_were_packed(run, zoo_main):
    folder = folder_of(run)
    status, out, _ = zoo_main("export", str(folder), "--packed")
    assert status == 0
    loaded = zoo.load(folder / "packed.safetensors")
    packed = zoo.load(folder)
    trained = zoo.load(folder)
    names = weights.pack_(packed, "planes")
    assert set(names) == {f"backbone.blocks.0.{layer}" for layer in ("mixer.query", "mixer.key", "mixer.value", "mixer.out",
                                                                     "ffn.gate", "ffn.up", "ffn.down")}  # fmt: skip
    batch = make_task(run).held_out("test")[0]
    with torch.no_grad():
        assert torch.equal(loaded(batch)["logits"], packed(batch)["logits"])
        torch.testing.assert_close(loaded(batch)["logits"], trained(batch)["logits"], rtol=0.1, atol=0.1)
        state = loaded.init_state(2, 8, torch.device("cpu"), torch.float32)
        logits, _ = loaded.step(batch["inputs"][:2, :8], state)
        whole = packed.step(batch["inputs"][:2, :8], packed.init_state(2, 8, torch.device("cpu"), torch.float32))[0]
    assert torch.equal(logits, whole)
    size = (folder / "packed.safetensors").stat().st_size
    assert f"{size:,} bytes on disk" in out
    row = read_json(folder / "result.json")
    assert f"as trained {row['test']['accuracy']:.4f}" in out
    stored = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert row["weight_bytes"] == stored < size < stored + 20_000, "what the report says is what the file holds"
    assert row["bytes_per_weight"] == pytest.approx(stored / row["parameters"])


def test_base3_is_smaller_and_gives_the_same_bits(run, zoo_main):
    folder = folder_of(run)
    batch = make_task(run).held_out("test")[0]
    outputs, sizes = [], []
    for layout in ("planes", "base3"):
        assert zoo_main("export", str(folder), f"--packed={layout}", "--to", f"{layout}.safetensors")[0] == 0
        with torch.no_grad():
            outputs.append(zoo.load(f"{layout}.safetensors")(batch)["logits"])
        sizes.append(sum(t.nbytes for t in zoo.load(f"{layout}.safetensors").state_dict().values()))
    assert torch.equal(*outputs)
    assert sizes[1] < sizes[0]


def test_without_packing_the_file_is_the_trained_model(run, zoo_main):
    folder = folder_of(run)
    status, out, _ = zoo_main("export", str(folder))
    assert status == 0
    assert "--packed" in out
    loaded, trained = zoo.load(folder / "model.safetensors"), zoo.load(folder)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), trained.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("words", [["arch=mamba", "linear=binary"], ["linear=ternary", "linear.subln=true", "mixer.bias=true"],
                                   ["task=digits", "linear=ternary", "mixer=gru", "position=none"],
                                   ["linear=binary_connect", "linear.stochastic=true", "linear@ffn.linear=ternary"]], ids=" ".join)  # fmt: skip
def test_other_models_are_exported_too(words, here, zoo_main):
    small = [word for word in SMALL if not ("digits" in " ".join(words) and word.startswith("task"))]
    config = zoo.compose(*small, *words)
    train(config)
    status, out, err = zoo_main("export", str(folder_of(config)), "--packed")
    assert status == 0, err
    assert "as trained" in out


def test_a_tied_weight_is_stored_once_and_tied_again(here, zoo_main):
    from safetensors import safe_open

    from zoo import register
    from zoo.registry import registry

    if ("objective", "tests_tied") not in registry._entries:

        @register("objective", "tests_tied")
        class Tied(torch.nn.Module):
            needs, gives = ("inputs", "targets"), ("logits",)

            def __init__(self, dim: int, classes: int, stem, backbone):
                super().__init__()
                self.stem, self.backbone = stem(), backbone(causal=True)
                self.head = torch.nn.Linear(dim, classes, bias=False)
                self.head.weight = self.stem.embedding.weight

            def forward(self, batch):
                logits = self.head(self.backbone(self.stem(batch["inputs"]))[0])
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
                return {"loss": loss, "logits": logits}

    config = zoo.compose("objective=tests_tied", "linear=ternary", *SMALL)
    row = train(config)
    path = folder_of(config) / "packed.safetensors"
    assert zoo_main("export", str(folder_of(config)), "--packed")[0] == 0
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        assert row["weight_bytes"] == sum(file.get_tensor(name).nbytes for name in names)
    assert len(names & {"head.weight", "stem.embedding.weight"}) == 1
    loaded = zoo.load(path)
    assert loaded.head.weight is loaded.stem.embedding.weight
    assert torch.equal(loaded.head.weight, zoo.load(folder_of(config)).head.weight)


def test_it_is_exported_and_loads_where_the_data_is_no_more(zoo_command, here):
    (here / "mine.txt").write_text("to be or not to be, that is the question\n" * 4000)
    words = ["task=text", "task.source=mine.txt", "task.length=16", "task.test_windows=4"]
    config = zoo.compose("linear=ternary", *words, *TINY)
    train(config)
    (here / "mine.txt").unlink()
    exported = zoo_command("export", str(folder_of(config)), "--packed", "--to", "model.safetensors")
    assert exported.returncode == 0, exported.stderr
    assert "not tested, for its data is not here" in exported.stdout
    code = "import zoo, torch; m = zoo.load('model.safetensors'); print(m({'inputs': torch.zeros(1, 4, dtype=torch.long), 'targets': torch.zeros(1, 4, dtype=torch.long)})['logits'].shape)"
    (here / "loads.py").write_text(code)
    done = zoo_command("loads.py")
    assert done.returncode == 0, done.stderr
    assert "256" in done.stdout


def test_a_file_that_was_written_wrongly_is_noticed(run, monkeypatch, zoo_main):
    import zoo.models.export as export

    class Forgetful:
        def __call__(self, path):
            model = zoo.load(path)
            model.head.weight.data.add_(1e-6)
            return model

    monkeypatch.setattr(export, "load", Forgetful())
    with pytest.raises(RunFailed, match="does not give back"):
        export.export(folder_of(run), "planes", None)
    assert not list(folder_of(run).glob("packed*")), "nothing is left that was not checked"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the folder of one finished run"),
        (["nowhere"], "nowhere is not a run"),
        (["RUN", "--packed=zip"], "expected planes or base3"),
        (["RUN", "--to"], "--to needs the name of a file"),
        (["RUN", "--pack"], "Did you mean --packed"),
        (["DENSE", "--packed"], "has no low-bit weights to pack"),
        (["FAILED"], "(it failed: no luck); finish it: zoo train seed=1"),
        (["STARTED"], "it was started and has not ended"),
        (["RUN", "--to", "--packed"], "--to needs the name of a file"),
        (["RUN", "--to", "/proc/nothing/model.safetensors"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_explained(words, message, run, zoo_main):
    dense = zoo.compose(*SMALL)
    if "DENSE" in words:
        train(dense)
    failed = folder_of(run).with_name("failed")
    failed.mkdir()
    (failed / "config.yaml").write_text("{overrides: [seed=1], experiment: a, runs: b}")
    (failed / "result.json").write_text(json.dumps(FAILED_ROW))
    started = folder_of(run).with_name("started")
    started.mkdir()
    (started / "config.yaml").write_text("{overrides: [seed=1], experiment: a, runs: b}")
    paths = {"RUN": folder_of(run), "DENSE": folder_of(dense), "FAILED": failed, "STARTED": started}
    status, _, err = zoo_main("export", *[str(paths.get(word, word)) for word in words])
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_foreign_file_is_refused(content, here):
    path = here / "model.safetensors"
    if content is None:
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ZooError, match="is not a model that zoo export wrote"):
        zoo.load(path)
    with pytest.raises(ZooError, match="there is no run or file"):
        zoo.load(here / "absent.safetensors")


def test_a_run_starts_from_another(here, zoo_main):
    first = zoo.compose(*SMALL)
    train(first)
    words = [*SMALL, "linear=ternary", f"start_from={folder_of(first)}"]
    untouched = zoo.compose(*words, "steps=0")
    row = train(untouched)
    source, model = zoo.load(folder_of(first)), make_objective(untouched, make_task(untouched))
    model.load_state_dict(source.state_dict())  # low-bit linears have a dense one's names
    from zoo.models.export import score

    assert row["test"] == pytest.approx(score(model.eval(), make_task(untouched), "test"))
    plain = zoo.compose(*[word for word in words if "start" not in word], "steps=0")
    assert train(plain)["id"] != row["id"]
    elsewhere = folder_of(first).with_name("copied")
    folder_of(first).rename(elsewhere)
    moved = zoo.compose(*[word for word in words if "start" not in word], f"start_from={elsewhere}", "steps=0")
    assert folder_of(moved).name == row["id"], "where the other run lies does not matter"
    assert train(moved)["skipped"]
    for wrong, message in (("start_from=nowhere", "there is no finished run"), ("dim=8", "does not fit this model")):
        status, _, err = zoo_main("train", *words[:-1], f"start_from={elsewhere}", "trainer.progress=false", wrong)
        assert status == 2
        assert message in err


@pytest.mark.parametrize("arch", first(["sequence_to_sequence", "next_token", "masked_token"]))
def test_a_tied_model_does_not_start_from_one_that_is_not(here, zoo_main, arch):
    """Of two matrices that differ one would be lost in silence; a tied start, and one into two matrices, are right."""
    words = [f"objective={arch}", "task=sort", "task.batch_size=4", "task.test_size=8", *TINY]
    runs = {tied: zoo.compose(*words, f"objective.tied={tied}") for tied in ("true", "false")}
    for config in runs.values():
        train(config)
    for start in runs:
        for tied in runs:
            given = [*words, f"objective.tied={tied}", f"start_from={folder_of(runs[start])}", "steps=0"]
            status, _, err = zoo_main("train", *given)
            if (start, tied) == ("false", "true"):
                assert status == 2
                assert "are one tensor in the model, and differ" in err
            else:
                assert status == 0, err


def test_a_run_that_is_being_made_again_is_not_taken_for_the_old_one(here, zoo_main):
    """Its data changed and the second run was interrupted: the checkpoint is not that of the result."""
    import torch as t

    from zoo.training.callbacks import AtomicCheckpointIO

    config = zoo.compose("linear=ternary", *SMALL)
    train(config)
    path = folder_of(config) / "checkpoints" / "last.ckpt"
    for change in (
        {"global_step": 2},
        {"callbacks": {"Keeper": {"identity": {"data_hash": "other", "precision": "32-true"}}}},
    ):
        saved = t.load(path, weights_only=True)
        AtomicCheckpointIO().save_checkpoint(saved | change, path)
        status, _, err = zoo_main("export", str(folder_of(config)), "--packed")
        assert status == 2
        assert "another execution of this run" in err
        t.save(saved, path)


def test_a_start_from_other_data_is_another_run(here):
    first = zoo.compose(*SMALL)
    train(first)
    child = zoo.compose(*SMALL, "linear=ternary", f"start_from={folder_of(first)}")
    before = folder_of(child).name
    row = read_json(folder_of(first) / "result.json")
    (folder_of(first) / "result.json").write_text(json.dumps(row | {"data_hash": "other"}))
    assert folder_of(child).name != before
    old = {key: value for key, value in child.items() if key != "start_from"}
    assert folder_of(old).name != before, "configs of earlier versions have no such key, and still have a name"


def test_a_float64_run_comes_back_in_float64(here, zoo_main):
    config = zoo.compose("linear=ternary", *SMALL, "trainer.precision=64-true")
    train(config)
    assert {p.dtype for p in zoo.load(folder_of(config)).parameters()} == {torch.float64}
    assert zoo_main("export", str(folder_of(config)), "--packed")[0] == 0
    assert zoo.load(folder_of(config) / "packed.safetensors").head.weight.dtype == torch.float64


def test_changed_code_is_said(run):
    row = read_json(folder_of(run) / "result.json")
    name = next(name for name in row["code"] if name.endswith("ternary"))
    (folder_of(run) / "result.json").write_text(json.dumps(row | {"code": row["code"] | {name: "other"}}))
    with pytest.warns(UserWarning, match=f"the code of {name} has changed"):
        zoo.load(folder_of(run))


def test_norms_that_a_start_has_not_keep_their_own(here):
    first = zoo.compose(*SMALL)
    train(first)
    config = zoo.compose(*SMALL, "linear=ternary", "linear.subln=true", f"start_from={folder_of(first)}")
    with pytest.warns(UserWarning, match=r"has no backbone\.blocks\.0\.ffn\.down\.norm\.weight"):
        train(config)


@pytest.mark.parametrize("shape", [(4096, 1024), (8192, 8), (256, 2), (1000, 1)])
def test_long_rows_of_weights_alone_find_a_kernel(shape):
    packed = part("linear", "binary_connect", in_features=shape[0], out_features=shape[1], bias=False).packed()
    for dtype in (torch.float32, torch.bfloat16):
        assert kernels_of(packed).choose(packed._problem("cpu", dtype, True)).kernel


def test_a_state_of_another_shape_is_refused_even_where_the_bytes_fit():
    packed, other = (part("linear", "ternary", in_features=k, out_features=4, bias=False).packed() for k in (33, 34))
    with pytest.raises(RuntimeError, match="shape is"):
        other.load_state_dict(packed.state_dict())


def test_packing_leaves_the_trained_layer_alone():
    linear = part("linear", "ternary", "linear.subln=true")
    linear.packed().to(torch.bfloat16)
    assert linear.norm.weight.dtype == torch.float32
    x = torch.randn(3, 32, dtype=torch.bfloat16)
    assert linear.bfloat16()(x).dtype == linear.packed()(x).dtype == torch.bfloat16


def test_show_names_low_bit_layers_their_bits_and_their_kernels(zoo_main):
    _, out, _ = zoo_main("show", "linear=ternary", "task=parity")
    flat = " ".join(out.split())
    assert "low-bit: 99.4% of the weights, 2.02 bits each" in flat
    assert "backbone.blocks.*.mixer.{query,key,value,out}" in flat
    assert "full precision: stem.embedding, backbone.blocks.*.{mixer_norm,ffn_norm}, backbone.norm, head" in flat
    assert "packed 64 to 168, 3 values by 8 bits, one token:" in flat
    _, out, _ = zoo_main("show", "task=parity")
    assert "low-bit" not in out
    assert "32 bits each" in " ".join(out.split())
