"""``zoo eval``: a trained model on the tasks of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from zoo.base.errors import ZooError, close
from zoo.base.files import read_json, write_json
from zoo.base.tokenizer import Bytes, Saved, from_json
from zoo.config.compose import compose
from zoo.models.load import described
from zoo.training import hardware

ANSWER = "answer_bits_per_byte"
"""The metric that is added: bits of the right answer, over its bytes."""


def evaluate(
    run: Any,
    tasks: Sequence[str] | str,
    include: str | Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    tokens: int | None = None,
    accelerator: str = "auto",
    to: str | Path | None = None,
) -> dict[str, Any]:
    """Judge a trained model on text by tasks of the lm-evaluation-harness (``pip install -e ".[eval]"``).

    Log-likelihoods come from whole passes over batches; what a model writes comes from its steps and states. Both serve
    every mixer. A context that is longer than what the model was trained on loses its start, as in the harness. An
    empty context is a line's end, for text here has no other token that starts it.

    Beside the metrics of a task there is ``answer_bits_per_byte``, ``-log2 p(right answer | question) / bytes of the
    answer``, summed over examples, wherever answers are scored. It moves long before accuracy does.

    Args:
        run: the folder of a finished run on text, a file that ``zoo export`` wrote, or what ``zoo.train`` returned.
        tasks: names of tasks or groups; in one string, with commas between them.
        include: a folder with tasks of your own, as YAML. Python that they name is run.
        shots: examples in front of each question; by default what the task says.
        limit: the most examples of each task.
        batch_size: sequences per pass.
        tokens: the most tokens to write; by default what the task says.
        accelerator: ``cpu``, ``cuda``, or ``auto`` for what is there.
        to: the file for what is found; by default ``evaluation.json`` in the run's folder, where other tasks stay.

    Returns:
        ``tasks``: for each its ``metrics`` (``value``, and ``stderr`` where there is one), ``examples`` and ``shots``;
        and what it was found with.

    Raises:
        ZooError: there is no such run or task, the model does not write text, an answer does not fit into the model,
            or the harness is not installed or cannot read a task.
    """
    harness = _harness()
    source = Path(getattr(run, "folder", run))
    model, about = described(source)
    tokenizer = _tokenizer(model, about, source)
    names = [name for name in (tasks.split(",") if isinstance(tasks, str) else tasks) if name]
    manager = _manager(names, include)
    device = torch.device(hardware.choose(compose()["trainer"] | {"accelerator": accelerator}).accelerator)
    from zoo.models.harness import Adapter

    adapter = Adapter(model.to(device), tokenizer, int(about["facts"]["max_len"]), batch_size, tokens)
    try:
        # it would ask git for the commit of the folder that it is called in, which may be none; and pip, for seconds,
        # for all that is installed, which nobody reads
        with (
            mock.patch("lm_eval.evaluator.get_git_commit_hash", return_value=None),
            mock.patch("lm_eval.evaluator.add_env_info"),
        ):
            evaluation = harness.simple_evaluate(
                model=adapter,
                tasks=names,
                task_manager=manager,
                num_fewshot=shots,
                limit=limit,
                bootstrap_iters=1000,
                log_samples=True,
            )
    except ZooError:
        raise
    except Exception as error:  # of datasets, of YAML, of a task's own Python
        said = " ".join(str(error).split())[:300]
        raise ZooError(f"the harness cannot run {','.join(names)}: {type(error).__name__}: {said}") from error
    result = {
        "schema": 1,
        "model": about["label"],
        "context": adapter.max_length,
        "harness": _version(),
        "tasks": {name: _of_task(name, evaluation, limit) for name in evaluation["results"]},
    }
    path = Path(to) if to is not None else _beside(source)
    before = read_json(path) if to is None else None
    kept = before["tasks"] if isinstance(before, dict) and isinstance(before.get("tasks"), dict) else {}
    try:
        write_json(path, result | {"tasks": kept | result["tasks"]})
    except OSError as error:
        raise ZooError(f"{path} cannot be written: {error.strerror or error}") from error
    return result | {"file": str(path)}


def _beside(source: Path) -> Path:
    return source / "evaluation.json" if source.is_dir() else source.with_suffix(".evaluation.json")


def _harness() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import lm_eval.evaluator
    except ImportError as error:
        raise ZooError(
            'this needs EleutherAI\'s lm-evaluation-harness: pip install -e ".[eval]", in the folder of the zoo'
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval


def _version() -> str:
    from importlib.metadata import version

    return version("lm-eval")


def _tokenizer(model: Any, about: dict[str, Any], source: Path) -> Bytes | Saved:
    """How the model reads text.

    Raises:
        ZooError: it does not, or it does not predict one token after another.
    """
    objective = about["objective"]["_component_"].split("/")[1]
    if not hasattr(model, "step") or hasattr(model, "read") or "logits" not in model.gives:
        raise ZooError(
            f"{source} was trained with objective={objective}, which gives no probabilities of the next token; "
            f"expected objective=next_token or next_latent"
        )
    if about.get("tokenizer") is None:
        raise ZooError(
            f"{source} keeps no tokenizer: its task ({about['task']}) has no text, or an earlier version made it; "
            f"expected a run on task=text"
        )
    reader = from_json(
        about["tokenizer"], f"{source}/tokenizer.json" if source.is_dir() else f"the tokenizer in {source}"
    )
    if reader.vocab_size > about["facts"]["vocab_size"]:
        raise ZooError(
            f"{source}: its tokenizer has {reader.vocab_size} tokens and the model {about['facts']['vocab_size']}, so "
            f"it was trained with another one; put that back, or make the run again"
        )
    return reader


def _manager(names: list[str], include: str | Path | None) -> Any:
    """What finds tasks by name.

    Raises:
        ZooError: there is no such folder or task.
    """
    from lm_eval.tasks import TaskManager

    if not names:
        raise ZooError("name at least one task, such as: --tasks lambada_openai,blimp")
    if include is not None and not Path(include).is_dir():
        raise ZooError(f"--include {include}: there is no such folder (looked in {Path.cwd()})")
    if include is not None:  # without the harness's own, which take long to list
        manager = TaskManager(include_path=str(include), include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=None if include is None else str(include))
    known = set(manager.all_tasks)
    for name in names:
        if name not in known:
            near = close(name, known)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ZooError(
                f"the harness has no task {name}.{hint} All {len(known):,} are listed by: lm-eval ls tasks; say where "
                f"yours are: --include FOLDER"
            )
    return manager


def _of_task(name: str, evaluation: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The metrics of one task or group, and the bits of its right answers."""
    metrics: dict[str, dict[str, Any]] = {}
    for key, value in evaluation["results"][name].items():
        label, _, kind = key.partition(",")
        if not kind or not isinstance(value, int | float):
            continue
        label, kind = (label, "") if kind == "none" else (label, f",{kind}")
        if label.endswith("_stderr"):
            metrics.setdefault(label.removesuffix("_stderr") + kind, {})["stderr"] = value
        else:
            metrics.setdefault(label + kind, {})["value"] = value
    samples = (evaluation.get("samples") or {}).get(name, [])
    config = (evaluation.get("configs") or {}).get(name, {})
    bits, size = _answers(samples, str(config.get("output_type")))
    if size:
        metrics[ANSWER] = {"value": bits / size, "bytes": size}
    return {
        "metrics": metrics,
        "examples": len({sample["doc_id"] for sample in samples}),
        "limit": limit,
        "shots": (evaluation.get("n-shot") or {}).get(name),
        "version": (evaluation.get("versions") or {}).get(name),
    }


def _answers(samples: list[dict[str, Any]], kind: str) -> tuple[float, int]:
    """Bits and bytes of the right answers; none where answers are not scored, or nobody says which is right."""
    bits, size, seen = 0.0, 0, set()
    for sample in samples:
        if sample["doc_id"] in seen or kind not in ("multiple_choice", "loglikelihood"):
            continue  # several filters of one response
        seen.add(sample["doc_id"])
        right = 0
        if kind == "multiple_choice":
            target = sample["target"]
            target = target[0] if isinstance(target, list) and target else target
            if not str(target).lstrip("-").isdigit() or not 0 <= int(target) < len(sample["arguments"]):
                continue
            right = int(target)
        score = _flat(sample["resps"][right])
        answer = sample["arguments"][right][1]
        bits, size = bits - score / math.log(2), size + len(answer.encode())
    return bits, size


def _flat(response: Any) -> float:
    """The log-likelihood in a response, which the harness wraps in lists."""
    while isinstance(response, list | tuple):
        response = response[0]
    return float(response)
