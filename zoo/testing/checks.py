"""The contract of each kind, as checks that take a component's name and raise if it is broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.config.hydra import prepare
from zoo.registry.registry import entries, target
from zoo.testing import crosses, linears, mixers, modules, objectives, others, residuals, tasks
from zoo.testing.common import Check, laws_in

_MODULES = ("mixer", "cross", "ffn", "linear", "norm")
CHECKS: dict[str, list[Check]] = {
    "mixer": laws_in(mixers),
    "cross": laws_in(crosses),
    "ffn": [others.ffn_treats_each_token_alone],
    "linear": laws_in(linears),
    "norm": [others.norm_keeps_shape],
    "residual": laws_in(residuals),
    "position": [
        others.position_goes_on_at_an_offset,
        others.position_goes_on_beyond_its_tables,
        others.position_trains_every_parameter,
        others.position_is_deterministic,
        others.position_saves,
    ],
    "objective": laws_in(objectives),
    "task": laws_in(tasks),
    "probe": [others.probe_reads_off_what_is_plain],
    "family": [others.family_gives_back_what_it_was_given],
    "optimizer": [
        others.optimizer_lowers_a_loss,
        others.optimizer_steps_as_torch_says,
        others.optimizer_resumes,
        others.optimizer_heeds_its_groups,
    ],
    "schedule": [others.schedule_stays_between_zero_and_one],
}
for _kind in _MODULES:
    CHECKS[_kind] += modules.laws(_kind)


def laws_of(kind: str, name: str) -> list[Check]:
    """The checks of this component. One that builds to nothing (``ffn=none``) has only the check that allows it."""
    laws = CHECKS.get(kind, [])
    if kind == "ffn" and name == "none":
        return [law for law in laws if law is others.ffn_treats_each_token_alone]
    return laws


def known_failures(kind: str, name: str) -> dict[str, str]:
    """The checks that a component declares to fail, and why: ``known_failures = {"mixer_keeps_shape": "..."}``.

    Raises:
        ZooError: there is no such check, or no reason is given.
    """
    said = getattr(target(kind, name), "known_failures", {})
    laws = [law.__name__ for law in laws_of(kind, name)]
    if not isinstance(said, dict):
        raise ZooError(
            f"{kind}={name}: known_failures is {said!r}; expected a dict from checks to reasons, such as "
            f'{{"{(laws or ["a_check"])[0]}": "why it fails"}}'
        )
    for law, reason in said.items():
        if law not in laws:
            raise ZooError(f"{kind}={name}: known_failures: " + unknown("check", str(law), laws))
        if not isinstance(reason, str) or not reason.strip():
            raise ZooError(
                f"{kind}={name}: known_failures[{law!r}] is {reason!r}; expected the reason why it fails, in words"
            )
    return dict(said)


def parametrize_with_checks(*kinds: str, names: Sequence[str] | None = None) -> Any:
    """A pytest decorator: every check of these kinds on every registered component, or only on those with these names.

    The test receives ``name`` and ``check``. A check that a component declares to fail is expected to fail.

    Raises:
        ZooError: no component of these kinds has one of the names.
    """
    import pytest

    prepare()
    known_names = [entry.name for kind in kinds for entry in entries(kind)]
    for name in names or ():
        if name not in known_names:
            raise ZooError(unknown("component", name, known_names))
    cases = []
    for kind in kinds:
        for entry in [each for each in entries(kind) if names is None or each.name in names]:
            known = known_failures(kind, entry.name)
            for law in laws_of(kind, entry.name):
                reason = known.get(law.__name__)
                marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
                cases.append(pytest.param(entry.name, law, id=f"{kind}={entry.name}-{law.__name__}", marks=marks))
    return pytest.mark.parametrize(("name", "check"), cases)
