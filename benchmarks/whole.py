"""A whole command of ours beside a plain program that does the same: data, training, validation, tests, a checkpoint.

    python benchmarks/whole.py [--rounds 3] [--steps 600]

Two things that people do on a processor: a GPT-2 on characters at nanoGPT's size for one (Karpathy 2022), and a cell of
Zoology's associative recall (Arora et al. 2023). Neither project has a package to install, so the other side is a plain
loop of ours over the same kind of model and data, as a careful engineer would write it. It runs the same steps and
evaluates on as much held-out data, as often.

Each is a process of its own, by turns; the figure is its processor time over ours, start-up included. Both say the
score that they reach, for speed that costs quality is none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from startup import seconds

HERE = str(Path(__file__).resolve().parent)
EVALUATE_EVERY, WINDOWS, ROWS, RATE = 200, 200, 1000, 1e-3
"""Steps between validations; how much is held out: windows of text, and rows of recall; and the learning rate."""
TEXT = {"dim": 128, "layers": 4, "heads": 4, "length": 64, "batch_size": 12, "vocab_size": 256}
RECALL = {"dim": 64, "layers": 2, "heads": 1, "length": 64, "batch_size": 64, "vocab_size": 8192}
PAIRS = 4
ENDINGS = {"train": "train", "validation": "dev", "test": "test"}
"""Of the files of text, one for each split."""
CELLS: dict[str, tuple[dict[str, int], list[str]]] = {
    "text at nanoGPT's size": (TEXT, ["task=text", "task.source=babylm", f"task.test_windows={WINDOWS}"]),
    "recall, a cell of Zoology's": (
        RECALL,
        ["task=recall", "task.rung=zoology64", f"task.test_size={ROWS}", "task.test_lengths=[]"],
    ),
}


def ours(name: str, steps: int, text: Path) -> list[str]:
    """The words of our command."""
    size, words = CELLS[name]
    return [
        "train",
        "arch=gpt2",
        *words,
        *([f"task.files={text}", f"task.length={size['length']}"] if "task=text" in words else []),
        f"optimizer.lr={RATE}",
        f"dim={size['dim']}",
        f"layers={size['layers']}",
        f"mixer.heads={size['heads']}",
        f"task.batch_size={size['batch_size']}",
        f"steps={steps}",
        f"evaluate_every={EVALUATE_EVERY}",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
    ]


def plain(name: str, steps: int, text: Path) -> None:
    """The other side, in a process of its own, which writes its weights and its test score."""
    import torch
    from plain_gpt import PlainGPT, adamw

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, words = CELLS[name]
    batch, held_out = _text(text) if "task=text" in words else _recall()
    model = PlainGPT(size["vocab_size"], size["dim"], size["layers"], size["heads"], size["length"])
    optimizer = adamw(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for step in range(1, steps + 1):
        loss = model(*batch())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % EVALUATE_EVERY == 0:
            _evaluate(model, held_out("validation"))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
    Path("scores.json").write_text(json.dumps(_evaluate(model, held_out("test"))))


def _evaluate(model: Any, batches: list[Any]) -> dict[str, float]:
    """The two metrics of ours, over all targets."""
    import torch

    losses, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            asked = targets != -100
            logits = model.logits(inputs, asked)
            losses += float(torch.nn.functional.cross_entropy(logits, targets[asked], reduction="sum"))
            hits += int((logits.argmax(-1) == targets[asked]).sum())
            count += int(asked.sum())
    return {"bits_per_byte": losses / count / math.log(2), "accuracy": hits / count}


def _text(path: Path) -> tuple[Callable[[], Any], Callable[[str], list[Any]]]:
    """Random windows of the training text, and even ones of the others."""
    import numpy as np
    import torch

    data = {
        split: torch.from_numpy(np.fromfile(path / f"text.{ending}", np.uint8)) for split, ending in ENDINGS.items()
    }
    length = TEXT["length"]

    def windows(split: str, starts: torch.Tensor) -> Any:
        rows = data[split][starts[:, None] + torch.arange(length + 1)].long()
        return rows[:, :-1], rows[:, 1:]

    def batch() -> Any:
        return windows("train", torch.randint(len(data["train"]) - length - 1, (TEXT["batch_size"],)))

    def held_out(split: str) -> list[Any]:
        starts = torch.linspace(0, len(data[split]) - length - 1, WINDOWS).long()
        return [windows(split, each) for each in starts.split(64)]

    return batch, held_out


def _recall() -> tuple[Callable[[], Any], Callable[[str], list[Any]]]:
    """Pairs of a key and a value, and behind them each key once more, whose value is the target; the rest is 0."""
    import torch

    length, vocab = RECALL["length"], RECALL["vocab_size"]

    def rows(count: int) -> Any:
        keys = 1 + torch.rand(count, vocab // 2 - 1).topk(PAIRS).indices
        values = vocab // 2 + torch.rand(count, vocab // 2).topk(PAIRS).indices
        inputs, targets = torch.zeros(count, length).long(), torch.full((count, length), -100)
        inputs[:, 0 : 2 * PAIRS : 2], inputs[:, 1 : 2 * PAIRS : 2] = keys, values
        positions = 2 * PAIRS + torch.rand(count, length - 2 * PAIRS).topk(PAIRS).indices
        inputs.scatter_(1, positions, keys)
        targets.scatter_(1, positions, values)
        return inputs, targets

    def held_out(split: str) -> list[Any]:
        with torch.random.fork_rng():
            torch.manual_seed(1 + (split == "test"))
            return [rows(min(64, ROWS - first)) for first in range(0, ROWS, 64)]

    return lambda: rows(RECALL["batch_size"]), held_out


def main(rounds: int = 3, steps: int = 600) -> dict[str, Any]:
    """Print and return processor seconds of both sides, their ratio, and the test score that each reached."""
    comparisons: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        text, first = Path(top, "text"), 0
        text.mkdir()
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        whole = b"\n".join(path.read_bytes() for path in sources)
        for ending, size in zip(ENDINGS.values(), (2**20, 2**16, 2**16), strict=True):
            (text / f"text.{ending}").write_bytes(whole[first : first + size])
            first += size
        for name in CELLS:
            taken: dict[str, list[float]] = {"ours": [], "plain": []}
            for round_ in range(rounds):
                folder = Path(top, f"{name} {round_}")  # nothing is finished there
                folder.mkdir()
                program = f"import sys; sys.path.insert(0, {HERE!r}); import whole, pathlib; "
                program += f"whole.plain({name!r}, {steps}, pathlib.Path({str(text)!r}))"
                taken["ours"].append(seconds(sys.executable, ours(name, steps, text), folder))
                taken["plain"].append(seconds(sys.executable, program, folder))
            ratios = [theirs / mine for mine, theirs in zip(taken["ours"], taken["plain"], strict=True)]
            metric = "bits_per_byte" if CELLS[name][0] is TEXT else "accuracy"
            row = json.loads(next(folder.glob("runs/train/*/result.json")).read_text())
            comparisons[name] = {
                **{f"{side} seconds": round(median(values), 2) for side, values in taken.items()},
                "plain over ours": round(median(ratios), 3),
                "least": round(min(ratios), 3),
                "most": round(max(ratios), 3),
                f"test {metric}, ours": round(row["test"][metric], 3),
                f"test {metric}, plain": round(json.loads((folder / "scores.json").read_text())[metric], 3),
            }
            print(name, json.dumps(comparisons[name]), flush=True)
    return comparisons


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    main(given.rounds, given.steps)
