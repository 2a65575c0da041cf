"""What the config beside a run, and the metadata of an exported model, must hold before anything is built of them."""

from __future__ import annotations

from zoo.registry.nodes import COMPONENT
from zoo.validation import Form, anything, count, integer, many, maybe, number, record, simple, table, text


def component(kind: str) -> Form:
    """The config of a component of this kind; whether it is registered is another question."""
    expected = f"a component, {COMPONENT}: {kind}/NAME"
    return simple(expected, lambda node: isinstance(node, dict) and str(node.get(COMPONENT)).startswith(f"{kind}/"))


COMMAND = record({"overrides": many(text), "experiment": text, "runs": text})
"""What says how to make the run again."""
CONFIG = record({
    **{kind: component(kind) for kind in ("objective", "task", "probe", "optimizer", "schedule")},
    "more_probes": table(component("probe")), "dim": count, "layers": count, "steps": count, "seed": integer,
    "gradient_clip": maybe(number), "trainer": table(anything),
})  # fmt: skip
ABOUT = record({
    "objective": component("objective"), "facts": table(anything), "code": table(text), "layout": maybe(text),
})  # fmt: skip
"""Of an exported model, beside its schema."""
