"""One run: config, objects, Trainer, one row of results."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.composition import Config, prepare
from zoo.errors import RunFailed, ZooError
from zoo.files import read_json, write_json, write_yaml
from zoo.identity import code_hashes, run_id

Row = dict[str, Any]
SCHEMA = 1


def train(config: Config, beat: Callable[[int], None] | None = None) -> Row:
    """Train and test one run, or return the row of an equal run that is finished already.

    The run's folder is ``runs/experiment/id``: ``config.yaml``, ``metrics.csv``, ``checkpoints/last.ckpt`` and, at
    the end, ``result.json``. A run that was started and not finished goes on from its last checkpoint, bit for bit.

    Args:
        config: from :func:`zoo.compose`.
        beat: told the step about once a second.

    Raises:
        ZooError: the config cannot work; nothing was run, and the row says so.
        RunFailed: it started and failed; the row and ``error.txt`` say why.
    """
    prepare()
    folder = folder_of(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(folder / "config.yaml", config)
    except OSError as error:
        raise ZooError(f"runs={config['runs']}: cannot write to {folder}: {error.strerror}") from error
    try:
        from zoo.assembly import fingerprint

        data_hash = fingerprint(config)
        old = read_json(folder / "result.json")
        if old and old["status"] == "finished" and old["data_hash"] == data_hash:
            return {**old, "skipped": True}
        return _train(config, folder, data_hash, beat)
    except Exception as error:
        known = isinstance(error, ZooError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        _write_failure(config, folder, reason, traceback.format_exc())
        if isinstance(error, RunFailed) or known:
            raise
        raise RunFailed(
            f"{folder.name}: {reason.splitlines()[0]} (the traceback is in {folder / 'error.txt'})"
        ) from error


def folder_of(config: Config) -> Path:
    """Where the run lives."""
    return Path(config["runs"], config["experiment"], run_id(config))


def base_row(config: Config) -> Row:
    """What is known of a run before it starts."""
    return {
        "schema": SCHEMA,
        "id": run_id(config),
        "status": "started",
        "arch": config["arch"],
        "label": config["label"],
        "task": config["task"]["_component_"].split("/")[1],
        "seed": config["seed"],
        "steps": config["steps"],
        "learning_rate": config["optimizer"].get("lr"),
        "overrides": config["overrides"],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_failure(config: Config, folder: Path, reason: str, trace: str) -> None:
    try:
        (folder / "error.txt").write_text(trace)
        write_json(folder / "result.json", {**base_row(config), "status": "failed", "error": reason})
    except OSError as error:  # a full disk must not hide the first reason
        logging.getLogger("zoo").warning("the failure of %s cannot be recorded: %s", folder, error)


def quiet() -> None:
    """Lightning's hints are not about this run."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*|.*litlogger.*|.*isinstance\(treespec.*")


def _train(config: Config, folder: Path, data_hash: str, beat: Callable[[int], None] | None) -> Row:
    import lightning as L
    import torch

    quiet()

    from zoo import hardware
    from zoo.assembly import make_objective, make_task
    from zoo.callbacks import AtomicCheckpointIO, Heartbeat, Keeper, Progress
    from zoo.factory import Factory, build
    from zoo.loggers import MetricsFile, finish_logger, make_logger
    from zoo.loop import Held, Loop, Stream
    from zoo.measure import flops, memory

    settings, steps = config["trainer"], config["steps"]
    chosen = hardware.choose(settings, steps)
    hardware.set_up(chosen["accelerator"], settings["threads"])
    started, cpu_started = time.monotonic(), time.process_time()
    device = torch.device(chosen["accelerator"])
    peak = memory.Peak(chosen["accelerator"])
    task = make_task(config)
    objective = make_objective(config, task)
    small = {key: value[:2] for key, value in task.train_batch(0, 0, torch.device("cpu")).items()}
    forward_flops, training_flops = flops.count(objective, small)
    batch_tokens, small_tokens = task.tokens(task.train_batch(0, 0, torch.device("cpu"))), task.tokens(small)
    accumulate = settings["accumulate"]

    checkpoint = folder / "checkpoints" / "last.ckpt"
    reached = _reached(checkpoint)
    stream = Stream(task, config["seed"], device, steps * accumulate)
    keeper = Keeper(checkpoint, settings["checkpoint_seconds"], stream, accumulate, batch_tokens * accumulate)
    metrics = MetricsFile(folder / "metrics.csv", reached)
    extra = make_logger(config, folder, folder.name)
    watchers: list[Any] = [Progress(config["label"], steps, task.metric)] if settings["progress"] else []
    heart = [Heartbeat(beat)] if beat else []

    def record(step: int, values: dict[str, float]) -> None:
        metrics.write(step, keeper.trained_seconds, values)
        if extra is not None:
            extra.log_metrics(values, step)
        for watcher in (*watchers, *heart):
            watcher.update(step, values)

    loop = Loop(
        objective,
        task,
        Factory(config["optimizer"]),
        build(config["schedule"], steps=steps),
        steps,
        config["seed"],
        config["log_every"],
        record,
        torch.compile(objective) if chosen["compile"] else None,
    )
    every = config["evaluate_every"] or max(1, -(-steps // 10))
    trainer = L.Trainer(
        accelerator="gpu" if chosen["accelerator"] == "cuda" else chosen["accelerator"],
        devices=settings["devices"],
        strategy=settings["strategy"],
        precision=chosen["precision"],
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=config["gradient_clip"],
        val_check_interval=min(every, steps) * accumulate or None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[*watchers, keeper],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    failed, summary = True, {}
    try:
        validation = Held(task.held_out("validation"))
        if steps > reached:
            trainer.fit(
                loop,
                stream,
                validation,
                ckpt_path=checkpoint if reached else None,
                weights_only=True if reached else None,
            )
        elif reached:
            loop.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"])
            keeper.trained_seconds = _saved_seconds(checkpoint)
        results = _evaluate(trainer, loop, task, steps)
        row = {
            **base_row(config),
            "status": "finished",
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "solved": task.solved,
            "chance": task.chance(),
            "validation": results.pop("validation"),
            "test": results.pop("test"),
            "test_harder": {name.split("/", 1)[1]: values for name, values in results.items()},
            "parameters": sum(p.numel() for p in objective.parameters()),
            "forward_flops_per_token": forward_flops / small_tokens,
            "training_flops": training_flops / small_tokens * batch_tokens * accumulate * steps,
            "tokens": batch_tokens * accumulate * steps,
            "state_bytes": memory.decoding_state_bytes(objective, task.facts()["max_len"], loop.device),
            "state_length": task.facts()["max_len"],
            "peak_memory_bytes": peak.read(),
            "training_seconds": round(keeper.trained_seconds, 3),
            "tokens_per_second": batch_tokens * accumulate * steps / keeper.trained_seconds
            if keeper.trained_seconds
            else None,
            "wall_seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(time.process_time() - cpu_started, 3),
            "resumed_at": reached,
            "precision": chosen["precision"],
            "compiled": chosen["compile"],
            "hardware": hardware.describe(chosen["accelerator"]),
            "versions": hardware.versions(),
            "code": code_hashes(config),
            "data_hash": data_hash,
        }
        summary, failed = {f"test/{name}": value for name, value in row["test"].items()}, False
        write_json(folder / "result.json", row)
        (folder / "error.txt").unlink(missing_ok=True)
        return row
    finally:
        metrics.close()
        finish_logger(extra, summary, failed)


def _evaluate(trainer: Any, loop: Any, task: Any, steps: int) -> dict[str, dict[str, float]]:
    """Every held-out split, on the trained weights."""
    loop.splits = task.splits()
    from zoo.loop import Held

    trainer.test(loop, [Held(task.held_out(split)) for split in loop.splits], verbose=False)
    return dict(loop.results)


def _reached(checkpoint: Path) -> int:
    """The step of the last checkpoint, or 0 where there is none that can be read."""
    import torch

    if not checkpoint.exists():
        return 0
    try:
        return int(torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"])
    except Exception:
        checkpoint.unlink()
        return 0


def _saved_seconds(checkpoint: Path) -> float:
    import torch

    callbacks = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["callbacks"]
    return float(next(state["trained_seconds"] for name, state in callbacks.items() if "Keeper" in name))
