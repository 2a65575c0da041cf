"""The laws of objectives, each built on a small task that it can read."""

from __future__ import annotations

import copy
import io
from functools import lru_cache
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.config.tree import Config
from zoo.measure.metrics import trained_modules
from zoo.registry.registry import generation, target
from zoo.testing import parts
from zoo.testing.common import close, seeded
from zoo.training.build import make_objective, make_probes, make_task, trains

TASKS = ("parity", "digits", "reverse", "clusters", "shapes", "compression", "moving_shapes", "code", "facts")
"""Tasks to try, in this order, if no override names one."""
PADDED = ("reverse",)
"""The same, of those that pad their batches."""
ANSWERS = ("targets", "labels", "token_labels")
MASKS = {"inputs": "inputs_mask", "source": "source_mask", "prefix": "prefix_mask"}
SIZE = ("dim=32", "layers=2")


@lru_cache(maxsize=16)
def _config_that_fits(name: str, words: tuple[str, ...], generation: int, tasks: tuple[str, ...] = TASKS) -> Config:
    """The config of a run with this objective, on the first task that fits it."""
    reasons = ["none gives what it needs"]
    needs = set(getattr(target("objective", name), "needs", ()))  # some know it only once built
    readable = [task for task in tasks if needs <= set(target("task", task).gives)]  # type: ignore[attr-defined]
    for task in [None] if any(word.startswith("task=") for word in words) else readable:
        for probe in ([], ["probe=linear"]):
            chosen = [f"objective={name}", *([f"task={task}"] if task else []), *probe]
            try:
                config = parts.composed(*SIZE, *chosen)
                made = make_task(config)
                make_probes(config, make_objective(config, made), made)
            except ZooError as error:
                reasons.append(str(error))
            else:
                return config
    raise SkipTest(f"no task here fits it; name one: task=NAME ({reasons[-1]})")


def _objective(name: str, tasks: tuple[str, ...] = TASKS) -> tuple[Any, Batch]:
    """The objective in training mode, from a fixed seed, and a batch of four."""
    config = _config_that_fits(name, parts.overrides(), generation(), tasks)
    task = make_task(config)
    objective = make_objective(config, task).to(parts.device()).train()
    return objective, _rows(task.train_batch(0, 0, parts.device()), slice(0, 4))


def _rows(batch: Batch, which: slice) -> Batch:
    return {key: tensor[which] for key, tensor in batch.items()}


def objective_gives_what_it_says(name: str) -> None:
    """It reads only what ``needs`` names, and gives a finite scalar ``loss`` and everything in ``gives``."""
    objective, batch = _objective(name)
    extra = {key: value for key, value in batch.items() if key in (*objective.needs, "positions", *MASKS.values())}
    for mode in (True, False):
        outputs = seeded(objective.train(mode), extra)
        assert "loss" in outputs, f"its output has {', '.join(outputs)}, and no loss"
        assert outputs["loss"].ndim == 0, f"its loss has the shape {tuple(outputs['loss'].shape)}, expected a scalar"
        assert outputs["loss"].isfinite(), f"its loss is {outputs['loss'].item()}"
        missing = set(objective.gives) - set(outputs)
        assert not missing, f"its output lacks {', '.join(sorted(missing))}, which gives = {objective.gives} promises"


def objective_trains_every_parameter(name: str) -> str | None:
    """Every parameter that is not frozen gets a finite gradient from the loss."""
    objective, batch = _objective(name)
    if not trains(objective):
        return "it has nothing to learn"
    learned = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    seeded(objective, batch)["loss"].backward()
    alive = {id(p) for module in trained_modules(objective) for p in module.parameters(recurse=False)}
    for parameter_name, parameter in learned.items():
        if id(parameter) in alive:
            assert parameter.grad is not None, f"{parameter_name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{parameter_name} has a gradient that is not finite"
    return None


def _error(objective: Any, outputs: dict[str, Tensor], batch: Batch) -> float | None:
    """How far its logits are from the answers it was asked for: mean square, or -log probability of the right class."""
    known = {key: batch[key] for key in ANSWERS if key in batch and key in objective.needs}
    asked = outputs if "targets" in objective.gives else known
    answers, logits = next((asked[key] for key in ANSWERS if key in asked), None), outputs.get("logits")
    if answers is None or logits is None:
        return None
    if answers.is_floating_point():
        return F.mse_loss(logits, answers).item() if logits.shape == answers.shape else None
    if logits.shape[:-1] != answers.shape:
        return None
    return F.cross_entropy(logits[answers >= 0], answers[answers >= 0]).item()


def objective_learns(name: str) -> str:
    """Ten steps of Adam on one batch, with the same draws, lower its loss and bring its logits nearer to the answers.

    The second is checked as well, because a loss of the wrong sign falls like any other.
    """
    objective, batch = _objective(name)
    if not trains(objective):
        return "it has nothing to learn"
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses, errors = [], []
    for _ in range(11):
        outputs = seeded(objective, batch)
        losses.append(outputs["loss"].item())
        errors.append(_error(objective, outputs, batch))
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
    said = f"its loss went from {losses[0]:.4g} to {losses[-1]:.4g} in ten steps on one batch"
    assert losses[-1] < losses[0] - 1e-3 * abs(losses[0]), f"{said}; expected it to fall"
    first, last = errors[0], errors[-1]
    if first is None or last is None:
        return f"{said}; it gives no logits for answers that are known here"
    said += f", the error of its logits from {first:.4g} to {last:.4g}"
    assert last < first, f"{said}; expected both to fall: has the loss the wrong sign?"
    return said


def objective_is_a_function_of_its_seed(name: str) -> None:
    """Its random draws come from torch's default generator: the same seed gives the same loss, to the bit."""
    objective, batch = _objective(name)
    close(seeded(objective, batch)["loss"], seeded(objective, batch)["loss"], 0, "the same seed twice: ")


def objective_saves(name: str) -> None:
    """Its weights, saved and loaded into another copy, give the same loss, to the bit."""
    objective, batch = _objective(name)
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(objective)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    first = seeded(objective.eval(), batch)["loss"]
    close(seeded(other.eval(), batch)["loss"], first, 0, "a loaded copy: ")


def objective_does_not_read_the_answer(name: str) -> str | None:
    """Logits depend neither on the answer they are asked for nor on later ones: changing the last changes nothing."""
    objective, batch = _objective(name)
    if "logits" not in objective.gives or "targets" in objective.gives:
        return "it gives no logits for the task's own answers"
    objective.eval()
    whole = seeded(objective, batch)["logits"]
    answers = [key for key in ANSWERS if key in batch and key in objective.needs]
    for key in answers:
        changed = batch[key].clone()
        flat = changed.unsqueeze(1) if changed.ndim == 1 else changed
        flat[:, -1] = torch.where(flat[:, -1] > 0, 0, 1).to(flat.dtype)
        where = f"logits, when the last of {key} is another: "
        close(seeded(objective, {**batch, key: changed})["logits"], whole, 1e-5, where)
    return None


def objective_answers_each_example_alone(name: str) -> str | None:
    """In evaluation an example's logits do not depend on the others in its batch."""
    objective, batch = _objective(name)
    if "logits" not in objective.gives or "targets" in objective.gives:
        return "it gives no logits for the task's own answers"
    objective.eval()
    whole, alone = (seeded(objective, each)["logits"] for each in (batch, _rows(batch, slice(2, 3))))
    close(alone, whole[2:3], 1e-4, "example 2 of 4, and alone: ")
    return None


def objective_is_blind_to_padding(name: str) -> str | None:
    """What a batch holds where its masks are false changes neither the loss nor a gradient, to the bit."""
    try:
        objective, batch = _objective(name, PADDED)
    except SkipTest:
        return "no task here that pads its batches fits it"
    masks = {key: batch[mask] for key, mask in MASKS.items() if key in batch and mask in batch}
    if not masks:
        return "its task pads nothing"
    other = dict(batch)
    for key, real_BL in masks.items():
        real = real_BL.view(*real_BL.shape, *[1] * (batch[key].ndim - 2))
        other[key] = torch.where(real, batch[key], batch[key][:, :1])  # the first token instead of padding
    passes = []
    for each in (batch, other):
        copied = copy.deepcopy(objective)
        loss = seeded(copied, each)["loss"]
        if loss.requires_grad:
            loss.backward()
        gradients = {key: p.grad for key, p in copied.named_parameters() if p.grad is not None}
        passes.append({"loss": loss.detach()} | gradients)
    for key, expected in passes[0].items():
        close(passes[1][key], expected, 0, f"{key}, when padding holds something else: ")
    return None


def objective_has_a_loss_where_nothing_is_asked(name: str) -> str | None:
    """The loss of a batch without one answer is a number, and so are its gradients: never 0 / 0."""
    objective, batch = _objective(name)
    answers = [key for key in ANSWERS if key in batch and key in objective.needs and not batch[key].is_floating_point()]
    if not answers:
        return "it asks for no class"
    loss = seeded(objective, batch | {key: torch.full_like(batch[key], -100) for key in answers})["loss"]
    assert loss.isfinite(), f"the loss of a batch that asks nothing is {loss.item()}, expected zero"
    loss.backward()
    for key, parameter in objective.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"{key} has a gradient that is not finite"
    return None
