"""The contract of each kind, as checks that take a component's name and raise where it is broken."""

from __future__ import annotations

from typing import Any

from zoo.plugins import load_plugins
from zoo.registry import entries
from zoo.testing import crosses, linears, mixers, others
from zoo.testing.common import (
    Check,
    module_is_deterministic_and_saves,
    module_runs_in_bfloat16,
    module_trains_every_parameter,
)

CHECKS: dict[str, list[Check]] = {
    "mixer": [
        mixers.mixer_keeps_shape,
        mixers.mixer_obeys_the_law_of_splitting,
        mixers.mixer_does_not_see_the_future,
        mixers.mixer_treats_each_example_alone,
        mixers.mixer_state_is_bounded_by_what_it_says,
        mixers.mixer_state_follows_its_sequences,
        mixers.mixer_leaves_no_trace_of_padding,
    ],
    "cross": [
        crosses.cross_treats_each_token_alone,
        crosses.cross_leaves_no_trace_of_padding,
        crosses.cross_state_is_what_it_says,
    ],
    "ffn": [others.ffn_treats_each_token_alone],
    "linear": [
        linears.linear_is_a_drop_in,
        linears.linear_treats_each_token_alone,
        linears.linear_sees_its_codes_exactly,
        linears.linear_passes_gradients_straight_through,
        linears.linear_codes_stay_when_rounded_again,
        linears.linear_packs_to_the_same,
    ],
    "norm": [others.norm_keeps_shape],
    "position": [others.position_goes_on_at_an_offset],
    "probe": [others.probe_reads_off_what_is_plain],
    "family": [others.family_gives_back_what_it_was_given],
    "optimizer": [others.optimizer_lowers_a_loss],
    "schedule": [others.schedule_stays_between_zero_and_one],
}
for _kind in ("mixer", "cross", "ffn", "linear", "norm"):
    CHECKS[_kind] += [
        make(_kind)
        for make in (module_trains_every_parameter, module_is_deterministic_and_saves, module_runs_in_bfloat16)
    ]


def parametrize_with_checks(*kinds: str) -> Any:
    """A pytest decorator: every check of these kinds over every registered component.

    The test receives ``name`` and ``check``. A component that builds to nothing (``ffn=none``) is checked for that
    alone.
    """
    import pytest

    load_plugins()
    cases = [(entry, check) for kind in kinds for entry in entries(kind) for check in CHECKS.get(kind, [])]
    cases = [(entry, check) for entry, check in cases if entry.name != "none" or not _needs_module(entry.kind, check)]
    return pytest.mark.parametrize(
        ("name", "check"),
        [pytest.param(entry.name, check, id=f"{entry.kind}={entry.name}-{check.__name__}") for entry, check in cases],
    )


def _needs_module(kind: str, check: Check) -> bool:
    return kind == "ffn" and check is not others.ffn_treats_each_token_alone
