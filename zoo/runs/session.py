"""One training session: objects from a config, a Trainer around the loop, and the row that comes out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.base.contracts import Task
from zoo.base.errors import Diverged, ZooError
from zoo.base.files import atomic
from zoo.measure import choices, embeddings, memory, weights
from zoo.measure.causality import EXAMPLES, looks_ahead
from zoo.measure.example import example
from zoo.measure.flops import per_token
from zoo.measure.metrics import asks, metric
from zoo.runs.finished import TOKENIZER, finished, start
from zoo.runs.row import Row
from zoo.runs.run import Run
from zoo.training import hardware
from zoo.training.build import (
    active_parameters,
    chance,
    decoding_device_and_dtype,
    facts_of,
    implementations,
    make_objective,
    make_probes,
    make_task,
    parameters,
    trains,
)
from zoo.training.callbacks import Keeper, Signals
from zoo.training.ceiling import ceiling
from zoo.training.checkpoint import Damaged, keeper_state, load
from zoo.training.data import Held, Stream
from zoo.training.loggers import MetricsFile, finish_logger, flush_logger, make_logger
from zoo.training.processes import count, rank
from zoo.training.progress import Heartbeat, Progress
from zoo.training.trainer import make_loop, make_trainer


class Session:
    """A run from its objects to its measurements.

    Args:
        run: with its device chosen and its data hashed.
        beat: told the step about once a second; it returns whether the run is to save itself and to stop.
    """

    def __init__(self, run: Run, beat: Callable[[int], object] | None) -> None:
        self.planned, self.config, self.facts = run, run.config, run.row()
        self.device: hardware.Device = run.device
        config, folder = run.config, run.folder
        self.started, self.cpu_started = time.monotonic(), time.process_time()
        self.steps, settings = config["steps"], config["trainer"]
        hardware.set_up(self.device.accelerator, settings["threads"])
        self.peak = memory.Peak(self.device.accelerator)
        self.task = make_task(config)
        tokenizer = self.task.saved_tokenizer()
        if tokenizer is not None and rank() == 0:  # so that the model can be used where its data is not
            with atomic(folder / TOKENIZER) as file:
                file.write(tokenizer.encode())
        self.objective = make_objective(config, self.task)
        self.probes = make_probes(config, self.objective, self.task)
        if not trains(self.objective):
            self.config = config = {**config, "steps": 0}  # a control that learns nothing
            self.steps = 0
        if config.get("start_from") is not None:
            start(self.objective, Path(config["start_from"]))
        self.implementations = implementations(self.objective, self.device.accelerator, self.device.precision)
        self.stored = self._stored()
        self.model_facts = facts_of(config, self.task)
        # of several, each has another one
        counted_on = torch.device(self.device.accelerator if count() == 1 else "cpu")
        self.forward_flops, self.training_flops = per_token(self.objective.to(counted_on), self.task, counted_on)
        batch = self.task.train_batch(0, 0, torch.device("cpu"))
        self.examples = {key: value[:EXAMPLES] for key, value in batch.items()}
        self._refuse_looking_ahead(counted_on)
        self.step_tokens = self.task.tokens(batch) * settings["accumulate"]
        self.checkpoint = folder / "checkpoints" / "last.ckpt"
        identity = {"data_hash": str(run.data_hash), **self.device.identity()}
        self.reached = reached(self.checkpoint, identity)
        device = torch.device(self.device.accelerator)
        self.rank, self.processes = rank(), count()
        self.stream = Stream(
            self.task,
            config["seed"],
            device,
            self.steps * settings["accumulate"],
            (self.rank, self.processes),
        )
        seconds = settings["checkpoint_seconds"]
        self.signals = Signals()
        accumulate = settings["accumulate"]
        self.keeper = Keeper(self.checkpoint, seconds, self.stream, accumulate, identity, self.signals)
        self.keeper.since = self.started, self.cpu_started
        self.bars = (
            [Progress(config["label"], self.steps, metric(self.objective, self.task))]
            if settings["progress"] and self.rank == 0
            else []
        )
        self.watchers: list[Any] = [*self.bars, *([Heartbeat(beat, self.signals.ask)] if beat else [])]
        self.metrics = (
            MetricsFile(folder / "metrics.csv", self.reached, evaluated=self.reached >= self.steps)
            if self.rank == 0
            else None
        )
        if self.device.precision == "64-true":
            self.objective.double()  # before a checkpoint is read: Lightning would round its weights to float32 first
            if config.get("start_from") is not None:
                start(self.objective, Path(config["start_from"]))
        if self.device.compile:
            self.objective.compile()  # in place: names in checkpoints stay what they are
        self.loop = make_loop(config, self.objective, self.task, self._record, self.probes, self.device.graph)
        self.trainer = make_trainer(config, self.device, [*self.bars, self.keeper], folder)
        # Last, since only run() closes what is opened there.
        self.logger = make_logger(config, folder, folder.name) if self.rank == 0 else None
        self.keeper.before_saving = lambda: flush_logger(self.logger)

    def run(self) -> Row:
        """Train from where the last checkpoint left it, evaluate every held-out split, and return the whole row."""
        summary: dict[str, float] | None = None
        try:
            with self.signals:
                peak = self._fit()
                self._refuse_divergence()
                if self.processes == 1:
                    self._refuse_looking_ahead(self.loop.device)
                self._evaluate()
                self._refuse_unranked()
            row = self._row(dict(self.loop.results), peak)
            summary = {f"test/{name}": value for name, value in row["test"].items()}
            return row
        finally:
            if self.metrics is not None:
                self.metrics.close()
            finish_logger(self.logger, summary or {}, failed=summary is None)

    def _stored(self) -> Row:
        """What the weights take, as ``zoo export --packed`` would write them and as a decoder here would hold them."""
        device, dtype = decoding_device_and_dtype(self.device.accelerator, self.device.precision)
        parts = weights.stored(self.objective, device, dtype)
        disk, count = sum(part.disk_bytes for part in parts), parameters(self.objective)
        return {
            "weight_bytes": disk,
            "weight_memory_bytes": sum(part.memory_bytes for part in parts),
            "bytes_per_weight": disk / max(1, count),
        }

    def _record(self, step: int, values: dict[str, float]) -> None:
        if self.metrics is None:
            return  # the first process says it
        self.metrics.write(step, self.keeper.trained_seconds, values)
        if self.logger is not None:
            self.logger.log_metrics(values, step)
        for watcher in self.watchers:
            watcher.update(step, values)

    def _evaluate(self) -> None:
        self.loop.splits = self.task.splits()
        if self.loop.evaluated_at == self.steps:  # with these weights, when training ended
            self.loop.splits = tuple(split for split in self.loop.splits if split != "validation")
        loaders = [Held(self.task.held_out(split)) for split in self.loop.splits]
        self.signals.in_loops = True
        self.trainer.test(self.loop, loaders, verbose=False)
        self.signals.in_loops = False

    def _refuse_looking_ahead(self, device: torch.device) -> None:
        """Stop where the model says that it looks back only, and does not: it is given the answers.

        It is asked before training and after it, for a part may look ahead only once it has learned to.

        Raises:
            ZooError: it looks ahead.
        """
        if looks_ahead(self.objective, {key: value.to(device) for key, value in self.examples.items()}):
            raise ZooError(
                f"{self.config['label']}: what it predicts at a token depends on later tokens, which hold the answers, "
                f"so its scores would mean nothing; zoo check mixer=NAME (or ffn, norm ...) says which part looks ahead"
            )

    def _refuse_divergence(self) -> None:
        """Stop where the last update, which no loss was computed after, left weights that are not finite.

        Raises:
            Diverged: it did.
        """
        for name, weight in self.objective.named_parameters():
            if not torch.isfinite(weight).all():
                raise Diverged(self.steps, math.nan, f"the weight {name}")

    def _refuse_unranked(self) -> None:
        """Stop where a split has no finite score in the metric that ranks.

        Raises:
            Diverged: one has none.
        """
        name = metric(self.objective, self.task)
        for split, scores in self.loop.results.items():
            if not math.isfinite(scores[name]):
                raise Diverged(self.steps, scores[name], f"{split}/{name}")

    def _fit(self) -> int | None:
        """Train what is left to train; returns the peak of memory meanwhile."""
        if self.steps > self.reached:
            resumed: dict[str, Any] = {"ckpt_path": self.checkpoint, "weights_only": True} if self.reached else {}
            validation = Held(self.task.held_out("validation"))
            self.signals.in_loops = True
            self.trainer.fit(self.loop, self.stream, validation, **resumed)
            self.signals.in_loops = False
        elif self.reached:  # it stopped between training and evaluation
            saved = load(self.checkpoint)
            self.loop.load_state_dict(saved["state_dict"])
            self.keeper.load_state_dict(keeper_state(saved))
        graph = self.loop.graph
        if graph is not None:
            graph.release()
        return self.peak.read(graph.plain_peak_bytes if graph is not None else 0)

    def _speed(self) -> float | None:
        """Tokens per second of training once it had started; of all of it where that was no more than starting."""
        keeper = self.keeper
        batches = self.steps * self.config["trainer"]["accumulate"] - keeper.starting_batches
        seconds = keeper.trained_seconds - keeper.starting_seconds
        if batches <= keeper.starting_batches:
            batches, seconds = batches + keeper.starting_batches, keeper.trained_seconds
        each = self.step_tokens / self.config["trainer"]["accumulate"]
        return each * batches / seconds if seconds > 0 else None

    def _share(self, speed: float | None) -> Row:
        """The speed, what the device can multiply in a second, and how much of that the steps made use of."""
        most = ceiling(self.device.accelerator, self.device.precision)
        share = speed * self.training_flops / (most * self.processes) if most and speed else None
        return {"tokens_per_second": speed, "matmul_ceiling_flops_per_second": most, "matmul_share": share}

    def _launches(self) -> dict[str, str]:
        """How the passes of a step are launched, where there is a choice."""
        said = self.loop.graph.said if self.loop.graph is not None else None
        return {"training step": said} if said else {}

    def _embedding(self) -> Row | None:
        """Measures of the embeddings that the probe judged at the end, and whether they collapsed."""
        measures = self.loop.embeddings
        return {**measures, "collapse": embeddings.collapse(measures, self.config["dim"])} if measures else None

    def _charged(self, tokens: float, seconds: float) -> Row:
        """What training cost: with that of the run that it started from, and then by itself too."""
        own = {"tokens": tokens, "training_flops": self.training_flops * tokens, "training_seconds": round(seconds, 3)}
        if self.config.get("start_from") is None:
            return own
        before = finished(Path(self.config["start_from"])).row
        whole = {key: value + before[key] for key, value in own.items()}
        return {**whole, "own": {"steps": self.steps, **own}}

    def _row(self, results: dict[str, dict[str, float]], peak: int | None) -> Row:
        task, seconds = self.task, self.keeper.trained_seconds
        own_question = not self.probes and bool(asks(self.objective))
        without_learning = {} if own_question else chance(self.config)
        tokens, length = self.step_tokens * self.steps, task.facts()["max_len"]
        wall_seconds, cpu_seconds = self.keeper.took()
        return {
            **self.facts,
            "steps": self.steps,
            "status": "finished",
            "asks": asks(self.objective),
            "embedding": self._embedding(),
            "effective_rank": self.loop.embeddings.get("effective_rank"),
            "metric": metric(self.objective, task),
            "higher_is_better": task.higher_is_better,
            "solved": None if own_question else task.solved,
            "chance": without_learning,
            "example": example(self.objective, task, bool(self.probes)),
            "guess": next(iter(without_learning.values()), None),
            "shortcut": _strongest(without_learning, task),
            "margin": task.margin,
            "validation": results.pop("validation"),
            "test": results.pop("test"),
            "test_harder": {name.split("/", 1)[1]: values for name, values in results.items()},
            "decay": {split: counts for split, counts in self.loop.mistakes.items() if split != "validation"},
            "parameters": parameters(self.objective),
            "active_parameters": active_parameters(self.objective),
            **self.stored,
            "choices": choices.specialisation(self.objective, task, next(self.objective.parameters()).device),
            "forward_flops_per_token": self.forward_flops,
            **self._charged(tokens, seconds),
            "budget": self.config.get("budget_met", {}),
            "state_bytes": memory.decoding_state_bytes(self.objective, task.facts(), self.loop.device),
            "state_length": length,
            "state_bytes_by_length": memory.state_bytes_by_length(self.objective),
            "loss_spikes": {"count": self.loop.losses.spiked, "largest": self.loop.losses.spikes},
            "peak_memory_bytes": peak,
            "starting_seconds": round(self.keeper.starting_seconds, 3),
            **self._share(self._speed()),
            "wall_seconds": round(wall_seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "resumed_at": self.reached,
            "precision": self.device.precision,
            "compiled": self.device.compile,
            "implementations": self.implementations | self._launches(),
            "hardware": hardware.describe(self.device.accelerator) | {"processes": self.processes},
            "versions": hardware.versions(),
            "code": dict(self.planned.code),
            "data_hash": self.planned.data_hash,
            "facts": self.model_facts,
        }


def _strongest(without_learning: dict[str, float], task: Task) -> float | None:
    """The best score that needs no learning, references left out."""
    rules = [value for name, value in without_learning.items() if name not in task.references]
    return (max if task.higher_is_better else min)(rules, default=None)


def reached(checkpoint: Path, identity: dict[str, str]) -> int:
    """The step of the last checkpoint, or 0 where the run must start again.

    A checkpoint of other data or another precision is not gone on from, and one that is damaged or cannot be read
    safely is set aside as ``last.ckpt.unreadable``, with a warning.

    Raises:
        OSError: the file is there, and may not be read just now.
    """
    if not checkpoint.exists():
        return 0
    try:
        saved = load(checkpoint)
        step, saved_identity = int(saved["global_step"]), keeper_state(saved).get("identity")
    except OSError:
        raise
    except Exception as error:  # damaged, foreign or hostile
        aside = checkpoint.rename(checkpoint.with_name(checkpoint.name + ".unreadable"))
        reason = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        warnings.warn(f"{aside} cannot be read ({reason}); the run starts again", stacklevel=2)
        return 0
    return step if saved_identity == identity else 0
