"""The one LightningModule: it trains any objective on any task, and knows no architecture."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.base.contracts import (
    AveragesWeights,
    Batch,
    HasAfterOptimizerStep,
    HasCounters,
    HasProgress,
    HasSideLosses,
    HasSideMetrics,
    Probe,
    Schedule,
    Task,
)
from zoo.base.errors import ZooError
from zoo.base.seeds import reseed
from zoo.measure.decay import Tally
from zoo.measure.embeddings import diagnostics
from zoo.measure.metrics import asks, fit, judge, labelled, metric, trained_modules
from zoo.nn import is_sharded, processes, sum_over_processes
from zoo.registry.factory import Factory
from zoo.training import cuda_graphs as graphs
from zoo.training.cuda_graphs import StepGraph
from zoo.training.fsdp import shard_
from zoo.training.losses import LossWatch
from zoo.training.parameter_groups import make_optimizer
from zoo.training.slim import L


class Loop(L.LightningModule):
    """Forward, loss, optimizer, metrics.

    Logging stays out of the step: losses are summed on the device and read every ``log_every`` steps (each key
    given to Lightning's own ``self.log`` costs 0.3 to 0.4 ms a step). Dropout draws from a stream seeded by seed and
    step, so a resumed run repeats the uninterrupted one bit for bit.

    Args:
        record: receives ``(step, {name: value})`` at each flush and each evaluation.
        graph: ``auto`` or ``true`` where forward and backward may or must be one CUDA graph.
    """

    def __init__(
        self,
        objective: torch.nn.Module,
        task: Task,
        optimizer: Factory,
        schedule: Schedule,
        steps: int,
        seed: int,
        log_every: int,
        record: Callable[[int, dict[str, float]], None],
        probes: dict[str, Probe] | None = None,
        graph: str | None = None,
        roles: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.roles = roles
        self.objective, self.task = objective, task
        self.optimizer_factory, self.schedule, self.steps = optimizer, schedule, steps
        self.seed, self.log_every, self.record = seed, log_every, record
        self.splits: tuple[str, ...] = ("validation",)
        self.results: dict[str, dict[str, float]] = {}
        self.evaluated_at = -1  # the step of these results
        self.probes = probes or {}
        self.embeddings: dict[str, float] = {}
        modules = list(dict.fromkeys(trained_modules(objective)))
        self._losses = [m for m in modules if isinstance(m, HasSideLosses)]
        self._reports = [m for m in modules if isinstance(m, HasSideMetrics)]
        self._paced: list[HasProgress] = [m for m in modules if isinstance(m, HasProgress)]
        self._followers: list[HasAfterOptimizerStep] = [m for m in modules if isinstance(m, HasAfterOptimizerStep)]
        self._decay = getattr(schedule, "weight_decay", None)
        self.losses = LossWatch()
        self.graph: StepGraph | None = None
        if graph is not None:
            self.graph = StepGraph(
                self._loss, self._begin, objective, graphs.record_cuda, max(0, steps - 1), graph == "true"
            )
        self._count: Tensor | None = None
        self._weights: list[Tensor] = []
        self._sharded = False
        self._done = 0
        self._trained: list[Tensor] = []
        self._totals: dict[int, dict[str, list[Tensor]]] = {}
        self._counts_mistakes = task.chained and not self.probes and not asks(objective)
        self._tallies: dict[int, Tally] = {}
        self.mistakes: dict[str, dict[str, Any]] = {}

    def configure_model(self) -> None:
        """Under FSDP, give each process its part of every weight; once, for Lightning asks before each of its loops."""
        if self.device_mesh is not None and not self._sharded:
            self._sharded = True
            shard_(self.objective, self.device_mesh["data_parallel"])

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes which hook it is in, some 30 times a step; that is neither a module nor a parameter."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The run's optimizer over named groups; the schedule scales each group's own learning rate."""
        factory = self.optimizer_factory
        try:
            optimizer = make_optimizer(factory, self.objective, self.roles)
        except ValueError as error:
            raise ZooError(f"optimizer={factory.name}: {error}") from error
        if isinstance(optimizer, AveragesWeights) and self.schedule(self.steps - 1) < self.schedule(self.steps // 2):
            warnings.warn(
                f"optimizer={factory.name} averages weights in place of a learning rate that falls, and the rate of "
                f"this run falls too; add schedule=constant",
                stacklevel=1,  # whoever calls is Lightning, whose warnings are not shown
            )
        groups = optimizer.param_groups
        self._rates = [group["lr"] * group.get("learning_rate_scale", 1.0) for group in groups]
        self._decays = [group.get("weight_decay", 0.0) * group.get("weight_decay_scale", 1.0) for group in groups]
        for decay, group in zip(self._decays, groups, strict=True):
            if "weight_decay_scale" in group:
                group["weight_decay"] = decay
        return optimizer

    def on_train_start(self) -> None:
        """Note where a resumed run goes on, and the parameters, which a walk over all modules would find each step."""
        self._done = self.global_step
        self._clipped = list(self.objective.parameters())
        self._use_average(False)

    def on_validation_start(self) -> None:
        """Evaluate the weights that the optimizer would give, where it keeps an average of them."""
        self._use_average(True)

    def on_validation_end(self) -> None:
        """Go on with the weights that it trains, unless training is over."""
        self._use_average(self.global_step >= self.steps)

    def _use_average(self, whether: bool) -> None:
        """Put the average of the weights in their place, or the weights in its, where the optimizer keeps one.

        The weights are kept meanwhile: worked out of the average again they would be others in the last digit, and how
        often a run is evaluated would change what it learns.
        """
        for optimizer in self.trainer.optimizers:
            if not isinstance(optimizer, AveragesWeights):
                continue
            weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            if whether:
                self._trained = self._trained or [parameter.detach().clone() for parameter in weights]
                optimizer.eval()
            else:
                optimizer.train()
                with torch.no_grad():
                    for parameter, kept in zip(weights, self._trained or weights, strict=True):
                        parameter.copy_(kept)
                self._trained = []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Training batches are made on the device; held-out ones are moved there."""
        return {key: value.to(device, non_blocking=True) for key, value in batch.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One forward pass; returns the loss with every side loss added."""
        self._begin(batch_idx)
        loss = self._loss(batch) if self.graph is None else self.graph.loss(batch, batch_idx)
        count = self._count
        if not self._weighs():
            self.losses.add(loss, count=count)
            return loss
        weight = loss.new_ones(()) if count is None else count / len(batch["inputs"])
        self._weights.append(weight)
        self.losses.add(loss, weight, count)
        return loss

    def _weighs(self) -> bool:
        """Whether a step is made of several batches, which are then weighted by their targets."""
        return self.trainer.accumulate_grad_batches > 1 or processes() > 1

    def _begin(self, batch_idx: int) -> None:
        """Seed what is drawn in a pass, and say how far training is."""
        reseed(self.device, self.seed, "dropout", batch_idx, *([self.global_rank] if self.global_rank else []))
        for paced in self._paced:
            paced.set_progress(batch_idx // self.trainer.accumulate_grad_batches, self.steps)

    def _loss(self, batch: Batch) -> Tensor:
        """The loss with every side loss, times the targets per example where a step is made of several batches."""
        # drop the side losses of passes outside training steps
        for module in self._losses:
            module.side_losses()
        outputs = self.objective(batch)
        loss: Tensor = outputs["loss"]
        for module in self._losses:
            for term in module.side_losses().values():
                loss = loss + term
        # keep the number of targets where a recorded pass writes it again
        count = outputs.get("count")
        if count is None:
            return loss
        if self._count is None:
            self._count = torch.zeros((), dtype=torch.long, device=count.device)
        self._count.copy_(count)
        return loss * (count / len(batch["inputs"])) if self._weighs() else loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients. (Lightning's own way refuses fused optimizers under any autocast.)"""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self._clipped, gradient_clip_val)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make gradients those of the mean over the whole step, and set learning rate and weight decay.

        Each loss came multiplied by its batch's weight, its targets per example. Gradients were averaged over batches
        and processes, and are divided by the mean weight. Learning rate and weight decay are functions of the step
        alone, so there is no scheduler to save.
        """
        if self._weights:
            weight = sum_over_processes(torch.stack(self._weights).sum()) / (len(self._weights) * processes())
            scale = torch.where(weight > 0, 1 / weight, 0.0)  # a step without one target has no gradient
            self._weights = []
            for parameter in self.objective.parameters():
                gradient = parameter.grad
                if gradient is not None:
                    local = gradient.to_local() if is_sharded(gradient) else gradient
                    local.mul_(scale.to(local.dtype))
        factor = self.schedule(self.global_step)
        for rate, group in zip(self._rates, optimizer.param_groups, strict=True):
            group["lr"] = rate * factor
        if self._decay is not None:
            factor = self._decay(self.global_step)
            for decay, group in zip(self._decays, optimizer.param_groups, strict=True):
                group["weight_decay"] = decay * factor

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the optimizer: a teacher may follow, and at intervals the sums are read."""
        step = self.global_step
        if step == self._done:
            return  # gradients still accumulate
        self._done = step
        self.losses.end_step()
        for follower in self._followers:
            follower.after_optimizer_step(step, self.steps)
        if step == self.steps:
            self._use_average(True)
        if step % self.log_every == 0 or step == self.steps:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Read the losses of the steps since the last time and the modules' own metrics, and record them.

        Raises:
            Diverged: the loss of one of them is not finite.
        """
        loss = self.losses.read(step)
        if loss is None:
            return
        named: dict[str, list[Tensor]] = {}
        for module in self._reports:
            for name, value in module.side_metrics().items():
                named.setdefault(name, []).append(value)
        values = {f"train/{name}": torch.stack(parts).float().mean() for name, parts in named.items()}
        read = torch.stack(list(values.values())).tolist() if values else []
        empty = self.losses.without_targets()
        counted = {"train/batches_without_targets": float(empty)} if empty else {}
        self.record(step, {"train/loss": loss, **counted, **dict(zip(values, read, strict=True))})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what was seen of the losses, and counters of reports that are not complete, over all processes."""
        checkpoint["losses"] = self.losses.state_dict(self.device)
        checkpoint["counters"] = {
            path: {name: sum_over_processes(counter.to(self.device)).cpu() for name, counter in counters.items()}
            for path, counters in self._counters().items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on watching and counting: the first process with what all had counted, the others from zero."""
        first = self.global_rank == 0
        if "losses" in checkpoint:
            self.losses.load_state_dict(checkpoint["losses"], first)
        saved = checkpoint.get("counters", {})
        for path, counters in self._counters().items():
            for name, counter in counters.items():
                counter.copy_(saved.get(path, {}).get(name, torch.zeros_like(counter)) * first)

    def _counters(self) -> dict[str, dict[str, Tensor]]:
        """The counters of each module that has some, by its path."""
        modules = self.objective.named_modules()
        return {path: module.counters() for path, module in modules if isinstance(module, HasCounters)}

    def on_validation_epoch_start(self) -> None:
        """Fit the probes to what the encoder makes of labelled training examples now."""
        if self.probes:
            known = labelled(self.objective, self.task, self.device)
            fit(self.probes, known)
            self.embeddings = diagnostics(known.pooled(), known.labels_N, known.positions_N)
            step = self.steps if self.trainer.testing else self.global_step
            if step != self.evaluated_at:  # then they are written already
                self.record(step, {f"embedding/{name}": value for name, value in self.embeddings.items()})

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add this batch to the sums of its split. Whatever is drawn is drawn alike in each evaluation of a split."""
        if batch_idx == 0:
            reseed(self.device, self.seed, "evaluation", self.splits[dataloader_idx])
        outputs = self.objective(batch)
        for name, (total, count) in judge(self.objective, self.task, outputs, batch, self.probes).items():
            sums = self._totals.setdefault(dataloader_idx, {}).setdefault(
                name, [torch.zeros_like(total), torch.zeros_like(count)]
            )
            sums[0] += total
            sums[1] += count
        if self._counts_mistakes and self.trainer.testing:
            tally = self._tallies.setdefault(dataloader_idx, Tally())
            tally.add(outputs[self.task.judges[0]], batch["targets"])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Turn sums into metrics, by split, and record them."""
        step = self.steps if self.trainer.testing else self.global_step
        ranking = metric(self.objective, self.task)
        for index, metrics in self._totals.items():
            split = self.splits[index]
            if ranking in metrics and not metrics[ranking][1]:
                raise ZooError(f"the task asks nothing in its split {split}, so there is no {ranking} to report")
            self.results[split] = {
                name: (total.double() / count).item() for name, (total, count) in metrics.items() if count
            }
            self.record(step, {f"{split}/{name}": value for name, value in self.results[split].items()})
        self._totals, self.evaluated_at = {}, step
        self.mistakes = {self.splits[index]: tally.summary() for index, tally in self._tallies.items()}
        self._tallies = {}

    on_test_epoch_end = on_validation_epoch_end


# Lightning asks for it in each step, and to find it takes 30 microseconds
Loop.training_step.__signature__ = inspect.signature(Loop.training_step)  # type: ignore[attr-defined]
