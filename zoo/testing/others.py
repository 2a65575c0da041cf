"""The laws of feed-forwards, norms, positions, probes, families, optimizers and schedules."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.config.compose import compose
from zoo.registry.factory import build
from zoo.testing import parts
from zoo.testing.common import close, each_token_alone, ends, inputs, same_shape, seeded, sized
from zoo.testing.parts import LENGTH


@sized
def ffn_treats_each_token_alone(name: str) -> str | None:
    """A token's output does not depend on the tokens around it, also in training. No layer at all is allowed too.

    A module that shares something among a batch's tokens by design, in training only, declares it:
    ``couples_training``.
    """
    ffn = parts.part("ffn", name, dtype=torch.float64)
    if ffn is None:
        return None
    x_BLD = inputs(dtype=torch.float64)
    same_shape(ffn(x_BLD), x_BLD)
    return each_token_alone(ffn, x_BLD)


@sized
def norm_keeps_shape(name: str) -> None:
    """(..., D) in and out, each token separately, also in training."""
    norm = parts.part("norm", name, dtype=torch.float64)
    x_BLD = inputs(dtype=torch.float64)
    same_shape(norm(x_BLD), x_BLD)
    for position in ends(x_BLD.shape[1]):
        close(norm(x_BLD[:, position]), norm(x_BLD)[:, position], 1e-10, f"token {position} as (B, D): ")
    each_token_alone(norm, x_BLD)


def position_goes_on_at_an_offset(name: str) -> None:
    """A later piece of a sequence gets the positions that it has in the whole."""
    position = parts.part("position", name, dtype=torch.float64)
    x_BLD = inputs(dtype=torch.float64)
    q_BHLK = x_BLD.view(2, LENGTH, 2, 16).transpose(1, 2)
    torch.testing.assert_close(position.add(x_BLD)[:, 10:], position.add(x_BLD[:, 10:], 10))
    for whole, later in zip(
        position.rotate(q_BHLK, q_BHLK), position.rotate(q_BHLK[:, :, 10:], q_BHLK[:, :, 10:], 10), strict=True
    ):
        torch.testing.assert_close(whole[:, :, 10:], later)
    index_L = torch.arange(LENGTH, device=parts.device())
    bias = position.bias(index_L, index_L)
    if bias is not None:
        assert bias.shape == (2, LENGTH, LENGTH)
        later = position.bias(index_L[10:], index_L)
        close(later, bias[:, 10:], 1e-10, "the bias of queries from 10 on: ")


def position_goes_on_beyond_its_tables(name: str) -> None:
    """Positions given one by one, (B, L), are those of the same offset, also where a table ends; or are refused.

    The ``ValueError`` of a refusal names how many there are. A bias of positions (B, L) and (B, M) is (B, H, L, M).
    """
    for dtype in (torch.float32, torch.float64):
        position = parts.part("position", name, dtype=dtype, max_len=20_000)
        for start in (10, 16_384 - 5, 20_000 - LENGTH, 20_000):
            x_BLD = inputs(dtype=dtype)
            q_BHLK = x_BLD.view(2, LENGTH, 2, 16).transpose(1, 2)
            index_L = start + torch.arange(LENGTH, device=x_BLD.device)
            index_BL = index_L.expand(2, -1)
            try:
                expected = [position.add(x_BLD, start), *position.rotate(q_BHLK, q_BHLK, start)]
                given = [position.add(x_BLD, index_BL), *position.rotate(q_BHLK, q_BHLK, index_BL)]
            except ValueError as error:
                refused = str(error)
                assert str(start + LENGTH) in refused, f"a refusal that does not name {start + LENGTH}: {refused}"
                continue
            bias = position.bias(index_L, index_L)
            if bias is not None:
                expected.append(bias.expand(2, -1, -1, -1))
                given.append(position.bias(index_BL, index_BL))
            for one, other in zip(given, expected, strict=True):
                assert one.shape == other.shape, (
                    f"of positions (B, L) {tuple(one.shape)}, expected {tuple(other.shape)}"
                )
                close(one, other, 1e-5, f"positions {start} to {start + LENGTH - 1}, given and counted: ")


def _made(position: Any) -> list[Tensor]:
    """Everything that a position makes of fixed inputs: what is added, what is rotated, and the bias."""
    x_BLD = inputs()
    q_BHLK, index_L = x_BLD.view(2, LENGTH, 2, 16).transpose(1, 2), torch.arange(LENGTH, device=x_BLD.device)
    made = [position.add(x_BLD), *position.rotate(q_BHLK, q_BHLK), position.bias(index_L, index_L)]
    return [each for each in made if each is not None]


def position_trains_every_parameter(name: str) -> None:
    """Every parameter gets a gradient that is finite and not zero everywhere."""
    position = parts.part("position", name).train()
    source = torch.Generator().manual_seed(1)
    weighed = sum((each * torch.randn(each.shape, generator=source).to(each.device)).sum() for each in _made(position))
    if isinstance(weighed, Tensor) and weighed.requires_grad:
        weighed.backward()
    for parameter_name, parameter in position.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{parameter_name} has a gradient that is not finite"
        assert parameter.grad.any(), f"the gradient of {parameter_name} is zero everywhere"


def position_is_deterministic(name: str) -> None:
    """In evaluation it does the same to the same input, to the bit."""
    position = parts.part("position", name)
    for one, other in zip(_made(position), _made(position), strict=True):
        close(one, other, 0, "the same input twice: ")


def position_saves(name: str) -> None:
    """Weights saved and loaded into another copy do the same, to the bit."""
    position, other = parts.part("position", name), parts.part("position", name)
    file = io.BytesIO()
    torch.save(position.state_dict(), file)
    file.seek(0)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(torch.load(file, weights_only=True))
    for loaded, saved in zip(seeded(_made, other), seeded(_made, position), strict=True):
        close(loaded, saved, 0, "a loaded copy: ")


def family_gives_back_what_it_was_given(name: str) -> None:
    """A published model becomes ours and then the same again: every tensor, and a config of the same meaning."""
    from zoo.models.convert import adopt, theirs_of
    from zoo.registry.registry import target

    family = target("family", name)()
    config = {**family.example, "model_type": family.model_type}
    config_here, facts = compose(*family.words(config)), family.facts(config)
    facts |= {"dim": config_here["dim"], "depth": config_here["layers"]}
    rows, blank = family.correspondences(config), build(config_here["objective"], **facts)
    source = torch.Generator().manual_seed(0)
    given = {
        key: torch.randn(tensor.shape, generator=source) for key, tensor in theirs_of(rows, blank.state_dict()).items()
    }
    given = family.finish(given, config)
    model, about = adopt(config, given, name)
    back = family.finish(theirs_of(rows, model.state_dict()), config)
    assert back.keys() == given.keys()
    for key in given:
        assert torch.equal(back[key], given[key]), f"{key} came back changed"
    again = family.config(model, about["objective"], about["facts"])
    for made in ("words", "facts"):
        expected, actual = getattr(family, made)(config), getattr(family, made)(again)
        assert actual == expected, f"the {made} of the config that came back: {actual}, expected {expected}"


def probe_reads_off_what_is_plain(name: str) -> None:
    """Embeddings in one cluster per class are told apart, and pure noise is not. ``none`` builds nothing."""
    probe = parts.factory("probe", name)(classes=3, dim=8)
    if probe is None:
        return
    source = torch.Generator().manual_seed(0)
    labels_N = torch.randint(0, 3, (300,), generator=source)
    noise = torch.randn(300, 8, generator=source)
    heaps = noise + 20 * torch.nn.functional.one_hot(labels_N, 8)
    if getattr(probe, "reads_positions", False):  # the class shows at the second of four positions
        around_NLD = torch.randn(300, 4, 8, generator=source)
        heaps, noise = around_NLD.index_copy(1, torch.tensor([1]), heaps.unsqueeze(1)), around_NLD
    for embeddings, low, high in ((heaps, 0.99, 1.0), (noise, 0.15, 0.55)):
        with torch.inference_mode():  # as a run's evaluation does
            probe.fit(embeddings[:200], labels_N[:200])
            logits_NC = probe(embeddings[200:])
        assert logits_NC.shape == (100, 3)
        right = (logits_NC.argmax(1) == labels_N[200:]).double().mean().item()
        assert low <= right <= high, f"{right:.2f} of labels were right, expected {low} to {high}"


def optimizer_lowers_a_loss(name: str) -> None:
    """Two hundred steps at the default learning rate lower the loss of a small regression by a tenth."""
    from zoo.training.parameter_groups import make_optimizer

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = make_optimizer(parts.factory("optimizer", name), model)
    x, losses = torch.randn(64, 4), []
    for _ in range(200):
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], (losses[0], losses[-1])


def _regression() -> tuple[torch.nn.Linear, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 1), torch.randn(64, 4)

    def loss() -> torch.Tensor:
        error: torch.Tensor = model(x) - x.sum(1, keepdim=True)
        return error.square().mean()

    return model, loss


def optimizer_steps_as_torch_says(name: str) -> None:
    """``step()`` and ``step(closure)`` move alike, the latter returns the loss, parameters without gradient stay."""
    from zoo.training.parameter_groups import make_optimizer

    moved = []
    for closed in (False, True):
        model, loss = _regression()
        idle = torch.nn.Parameter(torch.ones(2, 2))
        model.register_parameter("idle", idle)
        optimizer = make_optimizer(parts.factory("optimizer", name), model)

        def closure(loss: Callable[[], torch.Tensor] = loss, model: torch.nn.Module = model) -> torch.Tensor:
            model.zero_grad()
            value = loss()
            value.backward()
            return value

        if closed:
            given: Any = optimizer.step(closure)  # type: ignore[arg-type]
            assert given is not None, "step(closure) returns the closure's loss, and this one nothing"
        else:
            closure()
            optimizer.step()
        assert torch.equal(idle, torch.ones(2, 2)), "a parameter without a gradient moved"
        moved.append(model.weight.detach().clone())
    close(moved[1], moved[0], 0, "a step with a closure, and one without: ")


def optimizer_resumes(name: str) -> None:
    """Saved and loaded by its ``state_dict``, it continues as if it had never stopped, to the bit."""
    from zoo.training.parameter_groups import make_optimizer

    results = []
    for stops in (False, True):
        model, loss = _regression()
        optimizer = make_optimizer(parts.factory("optimizer", name), model)
        for step in range(8):
            if stops and step == 4:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = make_optimizer(parts.factory("optimizer", name), model)
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        results.append(model.weight.detach().clone())
    close(results[1], results[0], 0, "stopped after 4 of 8 steps, and not stopped: ")


def optimizer_heeds_its_groups(name: str) -> None:
    """Parameters move by their group's own ``lr``, also when it changes between steps. At zero they stay."""
    from zoo.training.parameter_groups import make_optimizer

    model, loss = _regression()
    optimizer = make_optimizer(parts.factory("optimizer", name), model)
    for group in optimizer.param_groups:
        assert "lr" in group, "a group has no 'lr', which schedules set"
        group["lr"] = 0.0 if group["name"].startswith("no_decay") else group["lr"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss().backward()
    optimizer.step()
    assert torch.equal(model.bias, before["bias"]), "with a learning rate of 0 a parameter moved"
    assert not torch.equal(model.weight, before["weight"]), "a parameter of the other group did not move"


def schedule_stays_between_zero_and_one(name: str) -> None:
    """The multiplier is within [0, 1] at every step and gets close to 1, in short runs and long ones."""
    for steps in (1, 2, 100):
        schedule = parts.factory("schedule", name)(steps=steps)
        values = [schedule(step) for step in range(steps)]
        assert all(0 <= value <= 1 for value in values), values
        assert max(values) > 0.9, values
