"""Text as bytes and as tokens: what is read, where it is kept, and what is said of it."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import THOROUGH

import zoo
from zoo import ZooError
from zoo.base.tokenizer import Bytes, Saved, bytes_as_json, whole_characters
from zoo.tasks import _corpus, _encoded, _stored
from zoo.tasks._metrics import recurs
from zoo.training.build import make_task

CPU = torch.device("cpu")
TINY = ["dim=16", "layers=1", "steps=2", "trainer.progress=false", "trainer.accelerator=cpu", "task.test_windows=4", "task.length=16"]  # fmt: skip
WORDS = [
    "naïve",
    "café",
    "über",
    "Straße",
    "漢字",
    "emoji",
    "🙂",
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _corpus.read_corpus.cache_clear()
    yield
    _corpus.read_corpus.cache_clear()


def prose(count=6000, seed=0):
    source = random.Random(seed)
    return "".join(source.choice(WORDS) + source.choice("    \n") for _ in range(count))


def text(*words):
    return make_task(zoo.compose("task=text", *words))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(prose(), encoding="utf-8")
    return path


def bpe(path, *words):
    return text(f"task.source={path}", "task.tokenizer=bpe", "task.vocab_size=300", "task.length=20", *words)


# tokens


def test_tokens_are_the_text_and_their_bytes_add_up(file):
    task = bpe(file)
    whole = file.read_bytes()
    assert task.facts() == {"vocab_size": 300, "classes": 300, "max_len": 20}
    for split in ("train", "validation", "test"):
        tokens = task.parts[split].whole().tolist()
        said = task.decode(tokens)
        assert said.encode() in whole
        assert sum(task.tokenizer.sizes[token] for token in tokens) == task.bytes[split] == len(said.encode())
        assert 0 <= len(getattr(task.corpus, split)) - task.bytes[split] <= 6, "a cut within a character loses no more"
    assert sum(task.bytes.values()) >= len(whole) - 12


def test_a_tokenizer_is_trained_on_the_training_split_alone(tmp_path):
    head, tail = "abab " * 4000, "zqzq " * 400
    (tmp_path / "a.txt").write_text(head + tail)
    task = bpe(tmp_path / "a.txt", "task.vocab_size=262")
    names = {task.token_name(number) for number in range(256, task.facts()["vocab_size"])}
    assert any("ab" in name for name in names)
    assert not any("zq" in name for name in names), names


def test_the_same_tokenizer_is_trained_again(file):
    one = bpe(file).tokenizer.json
    other = _encoded.trained(whole_characters(_stored.pieces(bpe(file).corpus.train), "a"), 300).json
    assert json.loads(one) == json.loads(other)


def test_bits_per_byte_do_not_depend_on_the_tokens(file):
    """A model that knows nothing of bytes but their number has 8 bits per byte, and one of tokens log2(300) a token."""
    for task in (text(f"task.source={file}", "task.length=20"), bpe(file)):
        size = task.facts()["vocab_size"]
        batch = task.held_out("test")[0]
        logits = torch.zeros(*batch["targets"].shape, size)
        total, count = task.judge({"logits": logits}, batch)["bits_per_byte"]
        said = sum(len(task.decode(row).encode(errors="ignore")) for row in batch["targets"].tolist())
        shown = sum(task.tokenizer.sizes[token] for row in batch["targets"].tolist() for token in row)
        assert total.item() == pytest.approx(batch["targets"].numel() * math.log2(size))
        assert count.item() == shown
        assert size == 256 or shown < said * 1.5, "replacement characters aside, these are the bytes"
        assert size == 256 or shown > batch["targets"].numel()


def test_a_question_of_its_own_counts_bytes_where_it_asks_alone(file):
    task = bpe(file)
    batch = task.held_out("test")[0]
    asked = torch.full_like(batch["targets"], -100)
    asked[:, 3] = batch["inputs"][:, 3]
    outputs = {"logits": torch.zeros(*asked.shape, 300), "targets": asked}
    ratios = task.judge(outputs, {**batch, "targets": asked})
    assert ratios["bits_per_byte"][1].item() == sum(task.tokenizer.sizes[token] for token in asked[:, 3].tolist())
    assert ratios.keys() == {"bits_per_byte", "accuracy"}


def test_a_saved_tokenizer_gives_the_same_tokens_as_the_one_it_was(file, tmp_path):
    one = bpe(file)
    (tmp_path / "tokenizer.json").write_text(one.saved_tokenizer())
    other = text(f"task.source={file}", f"task.tokenizer={tmp_path}/tokenizer.json", "task.length=20")
    assert torch.equal(one.held_out("test")[0]["inputs"], other.held_out("test")[0]["inputs"])
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != bpe(file, "task.vocab_size=290").fingerprint(), "the data hash holds the tokenizer"


def test_bytes_are_a_tokenizer_of_the_library_too():
    every = bytes(range(256)).decode("latin1") + prose(50)
    saved = Saved(bytes_as_json(), "bytes")
    assert saved.encode(every) == Bytes().encode(every) == list(every.encode())
    assert saved.decode(saved.encode(every)) == every
    assert saved.sizes == Bytes().sizes


def test_special_tokens_of_a_saved_tokenizer_count_their_own_bytes(file):
    inner = Saved(bpe(file).saved_tokenizer(), "x").inner
    inner.add_special_tokens(["⟨end⟩"])
    saved = Saved(inner.to_str(), "x")
    piece = "naïve⟨end⟩café\n".encode()
    (tokens,) = saved.encoded([piece])
    assert saved.vocab_size - 1 in tokens
    assert sum(saved.sizes[token] for token in tokens) == len(piece)


def test_pieces_never_cut_a_character():
    data = prose(3000).encode()
    for size in (5, 64, 1000):
        for cut in range(6):
            parts = [data[cut:][i : i + 7] for i in range(0, len(data) - cut, 7)]
            pieces = list(whole_characters(parts, "x", size))
            assert all(part.decode() for part in pieces)
            assert len(data) - cut - sum(map(len, pieces)) <= 3


# where they are kept


def test_tokens_are_made_once_and_what_is_damaged_again(file, tmp_path, monkeypatch):
    first = bpe(file)
    want = first.parts["train"].whole().tolist()
    with monkeypatch.context() as patched:
        patched.setattr(_encoded, "_write", lambda *a: pytest.fail("made again"))
        assert _encoded.encoded(first.corpus, "x", "bpe", 300).splits["train"].whole().tolist() == want
    (folder,) = [path for path in (tmp_path / "cache" / "zoo" / "tokens").iterdir() if path.is_dir()]
    for name, damage in (("train.bin", lambda data: data[:-2]), ("test.bin", lambda data: b"\1" + data[1:]),
                         ("tokenizer.json", lambda data: data[:90]), ("about.json", lambda data: b"{}")):  # fmt: skip
        path = folder / name
        path.write_bytes(damage(path.read_bytes()))
        assert _encoded.encoded(first.corpus, "x", "bpe", 300).splits["train"].whole().tolist() == want
    assert not list((tmp_path / "cache" / "zoo" / "tokens").glob("*partial*"))


@pytest.mark.parametrize("words", [[], ["task.tokenizer=bpe", "task.vocab_size=300"]])
def test_a_text_on_the_disk_trains_as_one_in_memory(file, words, monkeypatch, tmp_path):
    def everything(task):
        batches = (
            [task.train_batch(step, 3, CPU) for step in range(3)] + task.held_out("test") + task.held_out("validation")
        )
        return torch.cat([batch[key].flatten() for batch in batches for key in ("inputs", "targets")]), task.chance()

    words = [f"task.source={file}", "task.length=20", *words]
    in_memory, chance = everything(text(*words))
    monkeypatch.setattr(_stored, "IN_MEMORY", 100)
    monkeypatch.setattr(_corpus, "IN_MEMORY", 100)
    _corpus.read_corpus.cache_clear()
    task = text(*words, "task.max_bytes=199999999")  # another config, so it is not the task that was made before
    assert all(tokens.whole() is None for tokens in task.parts.values())
    on_disk, said = everything(task)
    assert torch.equal(in_memory, on_disk)
    assert said == chance


def test_documents_beyond_memory_are_split_as_in_memory(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    for number in range(120):
        (tmp_path / "texts" / f"{number}.txt").write_text(prose(60, number))
    want = _corpus.read_corpus(str(tmp_path / "texts"), None, "text", 10**9)
    few = [_corpus._from_documents(iter([("a", b"x" * 5000), ("b", b"y" * 4000)]), 10**9)]
    monkeypatch.setattr(_corpus, "IN_MEMORY", 1000)
    _corpus.read_corpus.cache_clear()
    corpus = _corpus.read_corpus(str(tmp_path / "texts"), None, "text", 10**9)
    few.append(_corpus._from_documents(iter([("a", b"x" * 5000), ("b", b"y" * 4000)]), 10**9))
    assert isinstance(corpus.train, _stored.Part)
    assert corpus.hash == want.hash
    assert corpus.documents == want.documents == 120
    assert few[0].hash == few[1].hash


@THOROUGH
@pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux counts it")
def test_memory_stays_flat_on_a_large_file(tmp_path):
    """400 MB of text take no more than 100 MB above what one of 1 MB takes."""
    for name, size in (("small.txt", 2**20), ("large.txt", 400 * 10**6)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # all of it is one hole, which takes no disk
    code = """
import resource, sys, torch, zoo
from zoo.training.build import make_task
for name in ("small.txt", "large.txt"):
    task = make_task(zoo.compose("task=text", f"task.source={name}", "task.max_bytes=2000000000"))
    task.fingerprint()
    for step in range(100): task.train_batch(step, 0, torch.device("cpu"))
    task.held_out("test")
    print(len(task.parts["train"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (_, before), (size, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert size == 360_000_000
    assert after - before < 100, (before, after)


# recurrence and position


def test_what_recurs_is_what_stood_in_the_row_before():
    rows = np.random.default_rng(0).integers(0, 3, (20, 40))
    for ngram in (1, 2, 3, 6):
        recurrences = recurs(torch.from_numpy(rows), ngram).tolist()
        for row, said in zip(rows.tolist(), recurrences, strict=True):
            seen = set()
            for position in range(len(row)):
                gram = tuple(row[position - ngram + 1 : position + 1])
                assert said[position] == (position >= ngram - 1 and gram in seen)
                if position >= ngram - 1:
                    seen.add(gram)
    assert not recurs(torch.zeros(1, 3, dtype=torch.long), 5).any()


def test_bits_are_split_by_recurrence_and_position(file):
    task = text(f"task.source={file}", "task.length=40", "task.ngram=3")
    batch = task.held_out("test")[0]
    logits = torch.randn(*batch["targets"].shape, 256, generator=torch.Generator().manual_seed(0))
    ratios = task.judge({"logits": logits}, batch)
    bits = -logits.double().log_softmax(-1).gather(-1, batch["targets"].unsqueeze(-1))[..., 0] / math.log(2)
    want = {"recurring": [], "new": [], "from_0": [], "from_16": [], "from_32": []}
    for row, window, last in zip(
        bits.tolist(), batch["inputs"].tolist(), batch["targets"][:, -1].tolist(), strict=True
    ):
        window, seen = [*window, last], set()
        for position, value in enumerate(row):
            seen.add(tuple(window[max(0, position - 2) : position + 1]))
            gram = tuple(window[max(0, position - 1) : position + 2])
            want["recurring" if len(gram) == 3 and gram in seen else "new"].append(value)
            want["from_0" if position < 16 else "from_16" if position < 32 else "from_32"].append(value)
    for name, values in want.items():
        total, count = ratios[f"bits_per_byte_{name}"]
        assert values
        assert (total.item(), count.item()) == (pytest.approx(sum(values)), len(values))
    for names in (("recurring", "new"), ("from_0", "from_16", "from_32")):
        parts = [ratios[f"bits_per_byte_{name}"] for name in names]
        assert sum(count for _, count in parts) == ratios["bits_per_byte"][1]


# corpora with their published splits


def test_wikitext_has_its_own_splits(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / f"wiki.{split}.raw").write_text(prose(2000, number))
    task = text("task.source=wikitext-103", f"task.files={tmp_path}", "task.length=20")
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert bytes(getattr(task.corpus, split)) == (tmp_path / f"wiki.{name}.raw").read_bytes()


def test_the_held_out_stories_are_the_test_and_training_gives_validation(tmp_path):
    (tmp_path / "TinyStoriesV2-GPT4-train.txt").write_text(prose(9000, 1))
    (tmp_path / "TinyStoriesV2-GPT4-valid.txt").write_text(prose(1000, 2))
    task = text("task.source=tinystories", f"task.files={tmp_path}", "task.length=20", "task.tokenizer=bpe")
    whole = (tmp_path / "TinyStoriesV2-GPT4-train.txt").read_bytes()
    assert task.corpus.test == (tmp_path / "TinyStoriesV2-GPT4-valid.txt").read_bytes()
    assert task.corpus.train + task.corpus.validation == whole
    assert len(task.corpus.validation) == pytest.approx(len(whole) / 20, abs=2)


def test_enwik8_is_cut_as_published_and_babylm_by_its_folders(tmp_path):
    data = prose().encode()
    (tmp_path / "enwik8").write_bytes(data)
    corpus = text("task.source=enwik8", f"task.files={tmp_path}/enwik8", "task.length=20").corpus
    assert corpus.train == data[: len(data) * 90 // 100]
    assert corpus.test == data[len(data) * 95 // 100 :]
    for split in ("train", "dev", "test"):
        (tmp_path / "baby" / split).mkdir(parents=True)
        for name in ("childes", "gutenberg"):
            (tmp_path / "baby" / split / f"{name}.{split}").write_text(f"{name} {split} " * 200)
    corpus = text("task.source=babylm", f"task.files={tmp_path}/baby", "task.length=20").corpus
    assert corpus.validation == b"childes dev " * 200 + b"gutenberg dev " * 200


def test_rows_of_files_are_documents_that_lie_in_one_split(tmp_path):
    rows = [f"row {number} " + "amet " * 30 for number in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows) + "\n\n")
    one = text("task.source=fineweb-edu", f"task.files={tmp_path}", "task.length=20").corpus
    assert one.documents == 400
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "b.parquet")
    for corpus in (one, text(f"task.source={tmp_path}/b.parquet", "task.length=20").corpus):
        splits = [set(getattr(corpus, split).decode().splitlines()) for split in ("train", "validation", "test")]
        assert set.union(*splits) == set(rows)
        assert sum(map(len, splits)) == 400


def test_a_data_set_keeps_the_splits_that_it_has(tmp_path):
    pytest.importorskip("datasets")
    for split, seed in (("train", 0), ("validation", 1)):
        rows = [json.dumps({"text": f"{split} {i} {prose(20, seed)}"}) for i in range(300)]
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / f"{split}.jsonl").write_text("\n".join(rows))
    corpora = [
        _corpus._from_datasets(str(tmp_path / "hub"), None, "text", 10**9, streamed) for streamed in (False, True)
    ]
    assert corpora[0].hash == corpora[1].hash
    lines = {split: {line.split(b" ")[0] for line in getattr(corpora[0], split).split(b"\n") if line[:5] in (b"train", b"valid")} for split in ("train", "validation", "test")}  # fmt: skip
    assert lines == {"train": {b"train"}, "validation": {b"train"}, "test": {b"validation"}}


# what is wrong with a file


def _files(folder):
    (folder / "good.txt").write_text(prose(), encoding="utf-8")
    (folder / "latin.txt").write_bytes(prose().encode("latin1", errors="replace"))
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "cut.jsonl").write_text('{"text": "a"}\n{"text": "b')
    (folder / "number.jsonl").write_text('{"text": 5}\n')
    (folder / "cut.parquet").write_bytes(b"PAR1\0\0\0\0")
    (folder / "empty.json").write_bytes(b"")
    (folder / "cut.json").write_text(bytes_as_json()[:500])
    (folder / "binary.json").write_bytes(b"\xff\xfe")
    words = json.loads(bytes_as_json()) | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    (folder / "words.json").write_text(json.dumps(words))
    ascii_alone = json.loads(bytes_as_json())
    ascii_alone["model"]["vocab"] = {k: v for k, v in ascii_alone["model"]["vocab"].items() if v < 128}
    (folder / "ascii.json").write_text(json.dumps(ascii_alone))
    lower = json.loads(bytes_as_json()) | {
        "normalizer": {"type": "Replace", "pattern": {"String": "the"}, "content": "a"}
    }
    (folder / "changes.json").write_text(json.dumps(lower))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task.source=latin.txt task.tokenizer=bpe", r"latin.txt is not UTF-8 \(byte \d+\).*iconv.*task.tokenizer=bytes"),
        ("task.source=empty.jsonl", "0 bytes, expected at least 1024"),
        ("task.source=cut.jsonl", "cut.jsonl, line 2: no JSON .*is the file cut"),
        ("task.source=cut.jsonl task.column=body", "task.column=body: line 1 of cut.jsonl has text"),
        ("task.source=number.jsonl", "line 1 of number.jsonl has int where a text is expected"),
        ("task.source=cut.parquet", "cut.parquet is no Parquet file that can be read"),
        ("task.source=good.txt task.tokenizer=empty.json", "empty.json is no tokenizer.json"),
        ("task.source=good.txt task.tokenizer=cut.json", "cut.json is no tokenizer.json"),
        ("task.source=good.txt task.tokenizer=binary.json", "binary.json is no text: byte 0"),
        ("task.source=good.txt task.tokenizer=words.json", "words.json is not a byte-level tokenizer .its decoder is WordPiece"),
        ("task.source=good.txt task.tokenizer=ascii.json", r"ascii.json does not fit the text: it cannot write '[^\x00-\x7f]'"),
        ("task.source=good.txt task.tokenizer=changes.json", "changes.json does not fit the text: it changes the line"),
        ("task.source=good.txt task.tokenizer=nowhere.json", "task.tokenizer=nowhere.json: no such file .*expected bytes, bpe"),
        ("task.source=good.txt task.tokenizer=bpe task.vocab_size=256", "task.vocab_size=256: expected 257"),
        ("task.source=good.txt task.ngram=10", "task.ngram=10: expected 1 to 7 of 256 tokens"),
        ("task.source=good.txt task.tokenizer=bpe task.length=99999", r"the smallest split of good.txt has \d+ tokens"),
        ("task.source=enwik8", "say where they are: task.files=FOLDER"),
        ("task.source=wikitext-103 task.files=.", "has no file of wikitext-103 named wiki.train.* and wiki.valid"),
        ("task.source=wikitext-103 task.files=nowhere", "task.files=nowhere: no such file or folder"),
        ("task.source=wikitxt-103 task.files=.", "Did you mean .*wikitext-103"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line(words, message, tmp_path, monkeypatch, zoo_main):
    monkeypatch.chdir(tmp_path)
    _files(tmp_path)
    status, _, err = zoo_main("train", "task=text", *TINY, *words.split())
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert __import__("re").search(message, err), err
    assert not (tmp_path / "runs").exists(), "it leaves no run"


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3000)
    part = _stored.Part(path.open("rb"))
    assert part.read(10, 5) == b"xxxxx"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ZooError, match="was changed while it was read"):
        part.read(10, 5)


# a run of tokens, from training to what it writes


def test_a_run_of_tokens_is_used_like_one_of_bytes(tmp_path, monkeypatch, zoo_main):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(prose(), encoding="utf-8")
    words = ["arch=llama", "task=text", "task.source=a.txt", "task.tokenizer=bpe", "task.vocab_size=300", *TINY]
    row = zoo.train(zoo.compose(*words))
    assert row["facts"]["vocab_size"] == 300
    folder = row.folder
    for extra in ([], ["--beams", "2"], ["--temperature", "1"]):
        status, out, err = zoo_main("generate", str(folder), "--prompt", "naïve 漢", "--tokens", "5", *extra)
        assert (status, out.startswith("naïve 漢 -> ")) == (0, True), err
    status, out, _ = zoo_main("export", str(folder), "--to", "m.safetensors")
    assert status == 0
    from zoo.models.load import described

    assert described("m.safetensors")[1]["tokenizer"] == (folder / "tokenizer.json").read_text()
    assert zoo_main("export", "m.safetensors", "--hf", "theirs")[0] == 0
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained("theirs")
    ours = make_task(zoo.compose(*words))
    assert theirs(prose(40))["input_ids"] == ours.encode(prose(40))
    assert theirs.decode(ours.encode("naïve 漢字 🙂")) == "naïve 漢字 🙂"
    # of another vocabulary, in each contestant
    measured = ["measure", "llama", "lstm task.vocab_size=280", *[word for word in words[2:5] if "vocab" not in word], "task.length=16", "dim=16", "layers=1"]  # fmt: skip
    assert zoo_main(*measured, "--lengths", "8,16", "--rounds", "3")[0] == 0
