"""``zoo generate``: what a trained model writes, from a prompt or from the examples of its test."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

from zoo.base.contracts import Task
from zoo.base.errors import ZooError
from zoo.base.terminal import say
from zoo.models.decoding import Scored, beam_search, generate, unmask
from zoo.models.load import model_of, task_of
from zoo.runs.finished import finished
from zoo.training.build import user_error

WRITING = ("next_token", "next_latent", "masked_diffusion", "block_diffusion", "sequence_to_sequence")
"""Objectives whose models write, as a message lists them; whether one does is asked of the model."""
AT_ONCE = 64
"""Examples that are decoded side by side."""


@dataclass
class GenerateOptions:
    """What to write and how."""

    prompts: list[str] = field(default_factory=list)
    tokens: int | None = None
    beams: int = 1
    temperature: float = 0.0
    seed: int = 0
    examples: int = 5


def generate_texts(
    run: Any,
    *prompts: str,
    tokens: int | None = None,
    beams: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Continue texts by the model of a finished run. (This is ``zoo.generate``.)

    ``zoo.generate("runs/train/<id>", "To be")`` is ``zoo generate runs/train/<id> --prompt "To be"``.

    Args:
        run: the folder of the run, or what ``zoo.train`` returned.
        prompts: texts to continue, at least one; tokens by their numbers where the task has no text.
        tokens: the most tokens to write; by default half of the longest sequence, or the longest answer.
        beams: how many likeliest continuations are followed; 1 takes the likeliest token each time.
        temperature: of the softmax that tokens are drawn from; 0 draws nothing.
        seed: of the draws.

    Returns:
        What was written, a text for each prompt.

    Raises:
        ZooError: there is no such run, its model does not write, or a prompt cannot be read.
    """
    folder = Path(getattr(run, "folder", run))
    model, task = _writer(folder)
    if not prompts:
        raise ZooError(f"zoo.generate({str(folder)!r}): give at least one prompt")
    options = GenerateOptions(list(prompts), tokens, beams, temperature, seed)
    return [task.decode(written[0][0]) for written in _continued(model, task, options)]


def _writer(folder: Path) -> tuple[Any, Task]:
    """The model and the task of a finished run that writes.

    Raises:
        ZooError: there is no such run, or its model does not decode.
    """
    run = finished(folder)
    model, task = model_of(run), task_of(run)
    name = run.config["objective"]["_component_"].split("/")[1]
    decodes = hasattr(model, "step") or _fills_in(model)
    if not decodes or "logits" not in cast(Any, model).gives or not task.writes:
        what, expected = f"objective={name}", f"objective={', '.join(WRITING[:-1])} or {WRITING[-1]}"
        if not task.writes:
            what, expected = f"task={run.row['task']}", "text, or a task of two sequences"
        raise ZooError(f"{folder} was trained with {what}, which writes nothing; expected a run with {expected}")
    return model, task


def _fills_in(model: Any) -> bool:
    """Whether it writes by filling in hidden tokens, as a model of a diffusion does."""
    return getattr(model, "asks", "") == "diffusion_bound" and hasattr(model, "predict")


def _continued(model: Any, task: Task, options: GenerateOptions) -> list[list[Scored]]:
    """What the model writes after each prompt of the options.

    Raises:
        ZooError: a prompt is empty or cannot be read.
    """
    prompts = [user_error(task.encode, text) for text in options.prompts]
    for text, tokens in zip(options.prompts, prompts, strict=True):
        if not tokens:
            raise ZooError(f"the prompt {text!r} is empty; give at least one token")
    return _write(model, task, prompts, options.tokens or _tokens(task), options)


def run_generate(folder: Path, options: GenerateOptions) -> None:
    """Print what the model of a finished run writes.

    Raises:
        ZooError: there is no such run, its model does not decode, or a prompt cannot be read.
    """
    model, task = _writer(folder)
    if options.prompts:
        for text, written in zip(options.prompts, _continued(model, task, options), strict=True):
            say(f"{text} -> {task.decode(written[0][0])}")
            for other, score in written[1:]:
                say(f"{' ' * len(text)}    {task.decode(other)}  ({score:.3f})")
    elif "source" in task.gives:
        _examples(model, task, options)
    else:
        rows = [row for batch in islice(task.held_out("test"), options.examples) for row in batch["inputs"].tolist()]
        prompts = [row[: max(1, len(row) // 2)] for row in rows[: options.examples]]
        many = options.tokens or _tokens(task)
        for prompt, written in zip(prompts, _write(model, task, prompts, many, options), strict=True):
            say(f"{task.decode(prompt)}\n-> {task.decode(written[0][0])}\n")


def _tokens(task: Task) -> int:
    """How many tokens to write: those of the longest answer, or half of the longest sequence."""
    if "source" in task.gives:
        return task.held_out("test")[0]["targets"].shape[1]
    return max(1, int(task.facts()["max_len"]) // 2)


def _write(
    model: Any, task: Task, prompts: list[list[int]], tokens: int, options: GenerateOptions
) -> list[list[Scored]]:
    """For each prompt what was written, the best first; without beams one continuation, without a score."""
    if _fills_in(model):
        if options.beams > 1:
            raise ZooError("a model that fills in hidden tokens cannot use beam search; leave beams out")
        filled = user_error(unmask, model, prompts, tokens, temperature=options.temperature, seed=options.seed)
        return [[(row, 0.0)] for row in filled]
    ends = {"start": task.start, "end": task.end}
    if options.beams > 1:
        continuations: list[list[Scored]] = user_error(beam_search, model, prompts, tokens, **ends, beams=options.beams)
        return continuations
    rows = user_error(generate, model, prompts, tokens, **ends, temperature=options.temperature, seed=options.seed)
    return [[(row, 0.0)] for row in rows]


def _examples(model: Any, task: Task, options: GenerateOptions) -> None:
    """The first examples of the test, and the share of all of them that is right."""
    right, shown, total = 0, 0, 0
    for batch in task.held_out("test"):
        sources = [row[mask].tolist() for row, mask in zip(batch["source"], batch["source_mask"], strict=True)]
        wanted = [row[row >= 0].tolist()[:-1] for row in batch["targets"]]
        many = options.tokens or batch["targets"].shape[1]
        for first in range(0, len(sources), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            for source, target, written in zip(
                sources[part], wanted[part], _write(model, task, sources[part], many, options), strict=True
            ):
                right, total = right + (written[0][0] == target), total + 1
                if shown < options.examples:
                    shown += 1
                    verdict = "right" if written[0][0] == target else f"expected {task.decode(target)}"
                    say(f"{task.decode(source)} -> {task.decode(written[0][0])}  ({verdict})")
    how = f"{options.beams} beams" if options.beams > 1 else "greedy" if not options.temperature else "sampled"
    say(f"{right} of {total} right ({right / total:.4f}), {how}")
