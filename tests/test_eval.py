"""The lm-evaluation-harness on models here: the same numbers as by its own adapter, for every mixer, and saved."""

import itertools
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

import zoo
from zoo.base.tokenizer import Bytes, Saved, from_json
from zoo.training.build import make_objective, make_task

pytest.importorskip("lm_eval")
from zoo.models import evaluate as ours
from zoo.models.harness import Adapter

TINY = ["task=text", "task.length=48", "task.test_windows=4", "dim=16", "layers=2", "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip
PAIRS = [
    ("the cat", " sat on the mat"),
    ("the cat ", "sat"),  # a space at the end moves to the answer
    ("", "alone"),
    ("x", "y"),
    ("a long question, longer than all that the model reads: " * 3, "naïve 漢字"),
    ("a long question, longer than all that the model reads: " * 3, " other"),
    ("q" * 40, "answer" * 5),
]


def asked(*arguments):
    return [SimpleNamespace(args=each, task_name="") for each in arguments]


@pytest.fixture(scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def run(request, tmp_path_factory):
    """A run on text, whose model is made sure of what it says."""
    folder = tmp_path_factory.mktemp("eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "a.txt").write_text("the cat sat on the mat; naïve 漢字 answer\n" * 1500)
        words = ["arch=llama", *TINY, "task.source=a.txt", f"task.tokenizer={request.param}", "task.vocab_size=300"]
        yield zoo.train(zoo.compose(*words, "steps=30", "optimizer.lr=1e-2"))


def adapter_of(run, batch_size=4, tokens=None):
    model, about = ours.described(run.folder)
    tokenizer = from_json(about["tokenizer"], "x")
    return Adapter(model, tokenizer, about["facts"]["max_len"], batch_size, tokens)


@pytest.fixture
def theirs(run, tmp_path, offline):
    """The harness's own adapter, on the same model as their library reads it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    from zoo.models.convert import to_huggingface

    to_huggingface(run.folder, tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    line = tokenizer.convert_ids_to_tokens(tokenizer("\n")["input_ids"][0])
    tokenizer.eos_token = tokenizer.pad_token = line
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    more = {"prefix_token_id": tokenizer.convert_tokens_to_ids(line), "max_length": 48, "add_bos_token": False}
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=3, device="cpu", **more)


def test_log_likelihoods_are_those_of_the_harness(run, theirs):
    mine = adapter_of(run)
    want = theirs.loglikelihood(asked(*PAIRS), disable_tqdm=True)
    log_likelihoods = mine.loglikelihood(asked(*PAIRS))
    assert [score for score, _ in log_likelihoods] == pytest.approx([score for score, _ in want], rel=1e-5, abs=1e-4)
    assert [greedy for _, greedy in log_likelihoods] == [greedy for _, greedy in want]
    assert len({round(score) for score, _ in log_likelihoods}) > 3, "the pairs differ"


def test_rolling_log_likelihoods_are_those_of_the_harness(run, theirs):
    texts = [("short",), ("the cat sat on the mat; naïve 漢字 answer\n" * 8,), ("x" * 48,), ("x" * 49,)]
    want = theirs.loglikelihood_rolling(asked(*texts), disable_tqdm=True)
    assert adapter_of(run).loglikelihood_rolling(asked(*texts)) == pytest.approx(want, rel=1e-5, abs=1e-4)


def test_what_is_written_is_what_the_harness_lets_it_write(run, theirs):
    options = {"until": ["mat", "\n"], "max_gen_toks": 12}
    prompts = [("the cat", options), ("the c", options), ("the cat sat on the mat; " * 6, options), ("naï", dict(options, until=[]))]  # fmt: skip
    want = theirs.generate_until(
        [SimpleNamespace(args=(text, dict(more))) for text, more in prompts], disable_tqdm=True
    )
    texts = adapter_of(run).generate_until(asked(*prompts))
    # theirs stops at the end of text too, which is a line's end there
    assert [text.split("\n")[0] for text in texts] == want
    assert all("mat" not in text for text in texts[:3])


@pytest.mark.parametrize("arch", ["gru", "mamba", "gated_deltanet", "griffin", "llama"])
def test_every_mixer_is_served_and_batches_change_nothing(arch):
    """A whole pass in a batch of unlike lengths, against one token after another by states."""
    config = zoo.compose(f"arch={arch}", *TINY)
    model = make_objective(config, make_task(config)).eval()
    together, alone = (Adapter(model, Bytes(), 48, size, None) for size in (8, 1))
    log_likelihoods = together.loglikelihood(asked(*PAIRS))
    assert [score for score, _ in log_likelihoods] == pytest.approx([s for s, _ in alone.loglikelihood(asked(*PAIRS))], rel=1e-4, abs=1e-3)  # fmt: skip
    before, after = list(b"the cat"), list(b" sat on the mat")
    state, scored = model.init_state(1, 48, torch.device("cpu"), torch.float32), 0.0
    with torch.no_grad():
        for position, (token, following) in enumerate(itertools.pairwise(before + after), 1):
            logits, state = model.step(torch.tensor([[token]]), state)
            scored += logits[0, -1].log_softmax(-1)[following].item() if position >= len(before) else 0.0
    assert log_likelihoods[0][0] == pytest.approx(scored, rel=1e-4, abs=1e-3)
    written = together.generate_until(asked(("the cat", {"max_gen_toks": 5}), ("a", {"max_gen_toks": 5}), ("the dog", {"max_gen_toks": 5})))  # fmt: skip
    assert written == [alone.generate_until(asked((text, {"max_gen_toks": 5})))[0] for text in ("the cat", "a", "the dog")]  # fmt: skip


ROWS = [
    {"question": "the cat", "choices": ["sat on the mat", "flew", "naïve 漢字"], "right": 0},
    {"question": "on the", "choices": ["mat", "answer it"], "right": 1},
    {"question": "the cat sat on the mat; " * 5, "choices": ["naïve", "漢字"], "right": 0},
]
KINDS = {
    "mine_choice": 'output_type: multiple_choice\ndoc_to_choice: "{{choices}}"\ndoc_to_target: right\nmetric_list:\n- metric: acc',
    "mine_answer": 'output_type: loglikelihood\ndoc_to_target: " {{choices[0]}}"\nmetric_list:\n- metric: acc\n- metric: perplexity',
    "mine_text": 'output_type: loglikelihood_rolling\ndoc_to_target: "{{question}}"\nmetric_list:\n- metric: bits_per_byte',
    "mine_written": 'output_type: generate_until\ndoc_to_target: "{{choices[0]}}"\ngeneration_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 8\nmetric_list:\n- metric: exact_match',
}  # fmt: skip


@pytest.fixture
def tasks(tmp_path, monkeypatch, offline):
    """Tasks from local files."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in KINDS.items():
        question = '"{{question}}"' if name != "mine_text" else '""'
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/rows.jsonl\n"
            f"test_split: test\ndoc_to_text: {question}\n{text}\n"
        )
    return folder


def test_the_command_scores_local_tasks_and_keeps_what_it_found(run, tasks, capsys):
    from zoo.cli.main import main

    words = ["eval", str(run.folder), "--include", str(tasks), "--on", "cpu"]
    assert main([*words, "--tasks", "mine_choice,mine_answer,mine_text"]) == 0
    assert main([*words, "--tasks", "mine_written", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "answer_bits_per_byte" in out
    assert max(map(len, out.splitlines())) <= 200
    saved = json.loads((run.folder / "evaluation.json").read_text())
    assert saved["tasks"].keys() == KINDS.keys(), "what was found before stays"
    mine = adapter_of(run)
    choices = [[score for score, _ in mine.loglikelihood(asked(*((row["question"], f" {c}") for c in row["choices"])))] for row in ROWS]  # fmt: skip
    right = [max(range(len(scores)), key=scores.__getitem__) == row["right"] for scores, row in zip(choices, ROWS, strict=True)]  # fmt: skip
    bits = -sum(scores[row["right"]] for scores, row in zip(choices, ROWS, strict=True)) / math.log(2)
    size = sum(len(row["choices"][row["right"]].encode()) + 1 for row in ROWS)
    evaluation = saved["tasks"]["mine_choice"]
    assert evaluation["examples"] == 3
    assert evaluation["metrics"]["acc"]["value"] == pytest.approx(sum(right) / 3)
    assert evaluation["metrics"]["answer_bits_per_byte"] == {"value": pytest.approx(bits / size), "bytes": size}
    bits = -sum(scores[0] for scores in choices) / math.log(2)
    size = sum(len(row["choices"][0].encode()) + 1 for row in ROWS)
    assert saved["tasks"]["mine_answer"]["metrics"]["answer_bits_per_byte"]["value"] == pytest.approx(bits / size)
    rolling = mine.loglikelihood_rolling(asked(*((row["question"],) for row in ROWS)))
    size = sum(len(row["question"].encode()) for row in ROWS)
    said = saved["tasks"]["mine_text"]["metrics"]["bits_per_byte"]["value"]
    assert said == pytest.approx(-sum(rolling) / math.log(2) / size)
    assert saved["tasks"]["mine_written"]["examples"] == 2
    assert "answer_bits_per_byte" not in saved["tasks"]["mine_written"]["metrics"]


def test_an_exported_file_is_judged_as_its_run(run, tasks, tmp_path):
    from zoo.models.export import export

    path = export(run.folder, None, tmp_path / "m.safetensors")
    settings = {"include": tasks, "accelerator": "cpu"}
    one = zoo.evaluate(run, ["mine_choice"], to=tmp_path / "one.json", **settings)
    other = zoo.evaluate(path, "mine_choice", **settings)
    assert one["tasks"] == other["tasks"]
    assert other["file"] == str(tmp_path / "m.evaluation.json")


def test_a_model_of_theirs_comes_with_its_tokenizer(run, tasks, tmp_path):
    from zoo.models.convert import import_huggingface, to_huggingface

    to_huggingface(run.folder, tmp_path / "theirs")
    path = import_huggingface(str(tmp_path / "theirs"), tmp_path / "again.safetensors")
    settings = {"include": tasks, "accelerator": "cpu", "to": tmp_path / "x.json"}
    one, other = (zoo.evaluate(each, "mine_answer", **settings)["tasks"]["mine_answer"] for each in (run, path))
    assert one["metrics"]["answer_bits_per_byte"]["value"] == pytest.approx(other["metrics"]["answer_bits_per_byte"]["value"])  # fmt: skip


def test_shots_stand_in_front_of_each_question(run, tasks, tmp_path):
    (tasks / "mine_choice.yaml").write_text((tasks / "mine_choice.yaml").read_text() + "fewshot_split: test\n")
    settings = {"include": tasks, "accelerator": "cpu", "to": tmp_path / "x.json"}
    none, two = (zoo.evaluate(run, "mine_choice", shots=shots, **settings)["tasks"]["mine_choice"] for shots in (0, 2))
    assert (none["shots"], two["shots"]) == (0, 2)
    assert none["metrics"]["answer_bits_per_byte"] != two["metrics"]["answer_bits_per_byte"]


@pytest.mark.parametrize("run", ["bytes"], indirect=True)
def test_mistakes_get_one_line(run, tasks, tmp_path, monkeypatch, capsys):
    from zoo.cli.main import main

    def said(*words, folder=run.folder):
        assert main(["eval", str(folder), "--include", str(tasks), "--on", "cpu", *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    assert "name at least one task" in said()
    with monkeypatch.context() as patch:  # its own tasks take seconds to list
        patch.setattr("lm_eval.tasks.TaskManager", lambda include_path, **more: SimpleNamespace(all_tasks=list(KINDS)))
        assert "the harness has no task mine_choise. Did you mean mine_choice" in said("--tasks", "mine_choise")
    assert "--limit=0: expected at least 1" in said("--tasks", "mine_choice", "--limit", "0")
    assert "there is no such folder" in said("--tasks", "mine_choice", "--include", "nowhere")
    written = tasks / "mine_written.yaml"
    written.write_text(written.read_text().replace("max_gen_toks: 8", "max_gen_toks: 64"))
    assert "up to 64 tokens, and the model reads 48, question included" in said("--tasks", "mine_written")
    assert main(["eval", str(run.folder), "--include", str(tasks), "--on", "cpu", "--tasks", "mine_written", "--tokens", "9"]) == 0  # fmt: skip
    written.write_text(
        written.read_text().replace("max_gen_toks: 64", "max_gen_toks: 8\n  do_sample: true\n  top_p: 0.5")
    )
    assert "write with top_p" in said("--tasks", "mine_written")
    rows = tasks / "rows.jsonl"
    rows.write_text(json.dumps({"question": "q", "choices": ["x" * 3000, "y"], "right": 0}))
    assert "an answer of" in said("--tasks", "mine_choice")
    rows.write_text('{"question": ')
    assert "the harness cannot run mine_choice" in said("--tasks", "mine_choice")
    kept = run.folder / "tokenizer.json"
    text = kept.read_text()
    larger = Saved(text, "x").inner
    larger.add_tokens(["more"])
    for wrong, message in ((larger.to_str(), "its tokenizer has 257 tokens and the model 256"), ("{", "is no tokenizer.json")):  # fmt: skip
        kept.write_text(wrong)
        assert message in said("--tasks", "mine_choice")
    kept.write_text(text)
    monkeypatch.chdir(tmp_path)
    words = ["dim=16", "layers=1", "steps=1", "trainer.progress=false", "trainer.accelerator=cpu"]
    parity = zoo.train(zoo.compose("task=parity", "task.test_size=8", *words)).folder
    assert "its task (parity) has no text" in said("--tasks", "mine_choice", folder=parity)
    masked = zoo.train(zoo.compose("arch=bert", "task=text", "task.test_windows=4", *words)).folder
    assert "objective=masked_token, which gives no probabilities" in said("--tasks", "mine_choice", folder=masked)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert 'pip install -e ".[eval]"' in said("--tasks", "mine_choice")
