"""Weights from outside: ours compute what Hugging Face's implementations compute, and give back what they were given."""

import json
import os

import pytest
import torch

import zoo
from zoo.base.errors import ZooError
from zoo.models.convert import from_huggingface, import_huggingface, to_huggingface

transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

F64 = torch.float64
SMALL = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LLAMA = {**SMALL, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 44, "max_position_embeddings": 32}  # fmt: skip
BODY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}  # fmt: skip
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=24, **SMALL)),
    "gpt2, untied, exact gelu": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_embd=16,
            n_layer=1,
            n_head=4,
            n_positions=24,
            n_inner=40,
            activation_function="gelu",
            tie_word_embeddings=False,
            **SMALL,
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama, grouped, tied, biased": lambda: LlamaForCausalLM(
        LlamaConfig(
            **LLAMA, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
        )
    ),
    "llama, linear": lambda: LlamaForCausalLM(
        LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    ),
    "llama, yarn": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, rope_parameters=YARN)),
    "llama, llama3": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, rope_parameters=LLAMA3)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=6)),
    "qwen3, tied, biased, yarn": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            **LLAMA,
            num_key_value_heads=4,
            head_dim=8,
            tie_word_embeddings=True,
            attention_bias=True,
            rope_parameters=YARN,
        )
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(**SMALL, **BODY, max_position_embeddings=24)),
    "vit": lambda: ViTForImageClassification(
        ViTConfig(**BODY, image_size=12, patch_size=4, num_channels=3, num_labels=5)
    ),
    "vit, height and width": lambda: ViTForImageClassification(
        ViTConfig(**BODY, image_size=[12, 12], patch_size=[4, 4], num_channels=3, num_labels=5)
    ),
}


@pytest.fixture(params=MODELS)
def theirs(request):
    """A model with every parameter at random, biases and norms too, so that no part is idle."""
    torch.manual_seed(0)
    model = MODELS[request.param]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def inputs_of(model):
    source = torch.Generator().manual_seed(1)
    if model.config.model_type == "vit":
        return torch.randn(3, 3, 12, 12, dtype=F64, generator=source)
    return torch.randint(0, 40, (3, 20), generator=source)


def ours_of(model, x):
    with torch.no_grad():
        if hasattr(model, "predict"):
            return model.predict(x)
        if x.is_floating_point():
            return model({"inputs": x, "labels": torch.zeros(len(x), dtype=torch.long)})["logits"]
        return model.step(x, model.init_state(*x.shape, torch.device("cpu"), F64))[0]


def test_logits_are_those_of_hugging_face(theirs):
    x = inputs_of(theirs)
    with torch.no_grad():
        expected = theirs(x).logits
    ours = from_huggingface(theirs)
    assert next(ours.parameters()).dtype == F64
    # Hugging Face's rotary positions are angles of float32, whatever the model's own precision
    near = 1e-5 if theirs.config.model_type in ("llama", "qwen3") else 1e-10
    torch.testing.assert_close(ours_of(ours, x), expected, rtol=near, atol=near)


def test_a_folder_goes_in_and_comes_out_as_it_was(theirs, here):
    theirs.save_pretrained("given")
    path = import_huggingface("given", None)
    assert str(path) == "given.safetensors"
    assert "from_pretrained" in to_huggingface(path, here / "back")
    given, back = load_file("given/model.safetensors"), load_file("back/model.safetensors")
    assert given.keys() == back.keys()
    types = "bert.embeddings.token_type_embeddings.weight"
    positions = "bert.embeddings.position_embeddings.weight"
    for name in given:
        expected = given[name]
        if name == types:
            expected = torch.zeros_like(expected)
        elif name == positions:
            expected = expected + given[types][0]
        torch.testing.assert_close(back[name], expected, rtol=0, atol=0, msg=name)
    x, again = inputs_of(theirs), type(theirs).from_pretrained("back").double().eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, theirs(x).logits)


TRAINED = {
    "gpt2": (["arch=gpt2", "task=recall", "task.rung=tiny"], "GPT2LMHeadModel"),
    "llama": (["arch=llama", "task=recall", "task.rung=tiny", "mixer.heads=2", "mixer.kv_heads=1"], "LlamaForCausalLM"),
    "qwen3": (["arch=qwen3", "task=recall", "task.rung=tiny", "mixer.heads=2", "mixer.kv_heads=1"], "Qwen3ForCausalLM"),
    "bert": (["arch=bert", "task=recall", "task.rung=tiny"], "BertForMaskedLM"),
    "vit": (["arch=vit", "task=digits"], "ViTForImageClassification"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_trained_here_runs_there(name, zoo_main):
    words, kind = TRAINED[name]
    size = [] if name == "vit" else ["task.test_size=8"]
    status, out, _ = zoo_main(
        "train", *words, *size, "dim=16", "layers=1", "steps=3", "trainer.progress=false", "trainer.accelerator=cpu"
    )
    assert status == 0
    run = out.strip().splitlines()[-1]
    status, out, _ = zoo_main("export", run, "--hf", "there")
    assert status == 0
    assert kind in out
    ours, theirs = zoo.load(run), getattr(transformers, kind).from_pretrained("there").eval()
    x = torch.randn(2, 1, 8, 8) if name == "vit" else torch.randint(0, 64, (2, 12))
    with torch.no_grad():
        expected = theirs(x).logits
        actual = ours.predict(x) if name == "bert" else ours({"inputs": x, "targets": x, "labels": x[:, 0, 0, 0].long() * 0})["logits"] if name == "vit" else ours({"inputs": x, "targets": x})["logits"]  # fmt: skip
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_no_family_says_of_each_why_not(zoo_main):
    status, out, _ = zoo_main(
        "train",
        "arch=lstm",
        "task=parity",
        "dim=16",
        "layers=1",
        "steps=2",
        "task.test_size=8",
        "trainer.progress=false",
    )
    status, _, err = zoo_main("export", out.strip().splitlines()[-1], "--hf", "there")
    assert status == 2
    assert "belongs to no published family" in err
    assert all(f"{name}: " in err for name in ("bert", "gpt2", "llama", "qwen3", "vit"))
    assert not os.path.exists("there")


def saved(folder, **changes):
    model = MODELS["gpt2"]()
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda t: t.pop("transformer.h.1.ln_2.bias"), "it has no transformer.h.1.ln_2.bias"),
        (lambda t: t.update({"transformer.extra": torch.zeros(3)}), "no part of the model uses transformer.extra"),
        (
            lambda t: t.update({"transformer.h.0.attn.c_attn.weight": torch.zeros(48, 16)}),
            r"transformer.h.0.attn.c_attn.weight is \(48, 16\), expected \(16, 48\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_named(break_it, says, here):
    tensors = saved(here / "given")
    break_it(tensors)
    save_file(tensors, "given/model.safetensors")
    with pytest.raises(ZooError, match=says):
        import_huggingface("given", None)
    assert not list(here.glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mamba"}, "known families are bert, gpt2, llama, qwen3, vit"),
        ({"activation_function": "mish"}, "its activation mish is none of ours"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scales scores in a way of its own"),
    ],
)
def test_a_config_that_we_have_no_counterpart_of_is_refused(changes, says, here, zoo_main):
    saved(here / "given", **changes)
    status, _, err = zoo_main("import", "hf", "given")
    assert status == 2
    assert says in err


def test_what_is_not_there_is_said(here, zoo_main):
    for words, says in [
        (["hf", "./nowhere"], "there is no folder ./nowhere"),
        (["nowhere"], "zoo import hf nowhere"),
        (["hf"], "name one"),
        (["hf", "given", "--to"], "--to needs the name of a file"),
    ]:
        status, _, err = zoo_main("import", *words)
        assert status == 2, words
        assert says in err
    (here / "given").mkdir()
    (here / "given" / "config.json").write_text("{")
    assert "no config.json that can be read" in zoo_main("import", "hf", "given")[2]
    saved(here / "pickled")
    (here / "pickled" / "model.safetensors").rename(here / "pickled" / "pytorch_model.bin")
    assert "a pickle" in zoo_main("import", "hf", "pickled")[2]


def test_a_body_without_its_head_and_shards_are_read(here):
    torch.manual_seed(0)
    model = MODELS["gpt2"]().eval()
    model.transformer.save_pretrained("body")
    model.save_pretrained("shards", max_shard_size="5KB")
    assert len(list((here / "shards").glob("*.safetensors"))) > 1
    x = torch.randint(0, 40, (2, 9))
    whole = ours_of(from_huggingface(model).double(), x)
    for folder in ("body", "shards"):
        torch.testing.assert_close(ours_of(from_huggingface(folder).double(), x), whole)


@pytest.mark.parametrize("words", [["mixer.window=20"], ["mixer=sparse_attention"], ["mixer.sinks=1"], ["backbone.pattern=ma", "mixer@alternate_mixer=sparse_attention", "layers=2"]], ids=" ".join)  # fmt: skip
def test_a_model_that_looks_elsewhere_is_not_taken_for_its_family(words, zoo_main):
    _, out, _ = zoo_main("train", "arch=llama", "task=text", "task.test_windows=4", "dim=16", "layers=1", "steps=2", "trainer.progress=false", "trainer.accelerator=cpu", *words)  # fmt: skip
    status, _, err = zoo_main("export", out.strip().splitlines()[-1], "--hf", "there")
    assert status == 2
    assert "expected full attention" in err


@pytest.mark.parametrize("words", [["mixer.norm_qk=after"], ["mixer.output_gate=head"], ["mixer.softcap=1"], ["mixer.sink_logits=true"], ["mixer.temperature=log"],
                                   ["position.share=0.5"], ["objective.logit_softcap=1"]], ids=" ".join)  # fmt: skip
def test_a_model_with_an_option_of_its_own_is_of_no_family(words, zoo_main):
    _, out, _ = zoo_main("train", "arch=llama", "task=text", "task.test_windows=4", "dim=16", "layers=1", "steps=2", "trainer.progress=false", "trainer.accelerator=cpu", *words)  # fmt: skip
    status, _, err = zoo_main("export", out.strip().splitlines()[-1], "--hf", "there")
    assert status == 2
    assert "belongs to no published family" in err


def test_layers_of_qwen3_in_a_window_are_refused():
    model = Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1))  # fmt: skip
    with pytest.raises(ZooError, match="some of its layers are in a window"):
        from_huggingface(model)


def test_what_is_said_twice_must_be_the_same_and_nothing_else_is_passed_over(here):
    tensors = saved(here / "given")
    for more, says in [
        ({"lm_head.weight": tensors["transformer.wte.weight"].clone()}, None),
        ({"lm_head.weight": tensors["transformer.wte.weight"] + 1}, "lm_head.weight is not transformer.wte.weight"),
        (
            {"transformer.q_norm.weight": tensors["transformer.ln_f.weight"].clone()},
            "no part of the model uses transformer.q_norm",
        ),
    ]:
        save_file(tensors | more, "given/model.safetensors")
        if says is None:
            from_huggingface("given")
        else:
            with pytest.raises(ZooError, match=says):
                from_huggingface("given")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 3},
        {"n_head": 0},
        {"n_layer": 0},
        {"n_head": "x"},
        {"layer_norm_epsilon": "x"},
        {"vocab_size": None},
        {"n_embd": [1]},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_built_is_said_in_one_line(changes, here, zoo_main):
    saved(here / "given", **changes)
    status, _, err = zoo_main("import", "hf", "given")
    assert status == 2
    assert "given" in err
    assert "Traceback" not in err


def test_files_that_are_no_config_or_index(here, zoo_main):
    saved(here / "given")
    for name, text, says in [
        ("config.json", "[]", "expected names and values"),
        ("model.safetensors.index.json", "{}", "no weight_map"),
        ("model.safetensors.index.json", "{", "no weight_map"),
    ]:
        kept = (here / "given" / "config.json").read_text()
        (here / "given" / name).write_text(text)
        status, _, err = zoo_main("import", "hf", "given")
        assert status == 2
        assert says in err
        (here / "given" / "config.json").write_text(kept)
    (here / "given" / "model.safetensors.index.json").unlink()
    (here / "folder").mkdir()
    for target in ("folder", "given/model.safetensors"):
        status, _, err = zoo_main("import", "hf", "given", "--to", target)
        assert status == 2
        assert "expected the name of a file" in err


def test_a_side_that_is_no_square_is_refused():
    from zoo_plugins.families.common import square

    for wrong in ([8, 4], [], [8, 8, 8], "8", None, 8.5, True):
        with pytest.raises(ValueError, match="expected one side of a square"):
            square({"image_size": wrong}, "image_size")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LocalEntryNotFoundError", "the hub cannot be reached to look for it; check the network, or download it"),
        ("GatedRepoError", "open https://huggingface.co/owner/model, then type: hf auth login"),
        ("RepositoryNotFoundError", "owner/model is neither a folder here nor a model on the hub"),
        ("HfHubHTTPError", "the hub: HfHubHTTPError: 503 of the hub"),
    ],
)
def test_what_the_hub_refuses_is_said_in_our_words(name, says, monkeypatch, zoo_main):
    hub = pytest.importorskip("huggingface_hub")
    kind = getattr(hub.errors, name)

    def refuse(*_, **__):
        error = kind.__new__(kind)  # its constructor asks for the answer of a server
        Exception.__init__(error, "503 of the hub")
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    status, _, err = zoo_main("import", "hf", "owner/model")
    assert status == 2
    assert says in err
    assert len(err.splitlines()) == 1
