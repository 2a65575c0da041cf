"""What ``comparison.json`` must hold, as :func:`zoo.comparison.plan.describe` writes it and the report reads it."""

from __future__ import annotations

from zoo.base.validation import anything, figure, many, maybe, plain, record, simple, switch, table, text

SETTING = table(plain)
CELL = record({
    "contestant": text, "task": text, "chosen": maybe(SETTING), "edge": many(text), "tuning": many(text),
    "tried": many(record({"setting": SETTING, "validation": many(maybe(figure))})), "reporting": many(text),
})  # fmt: skip
PUBLISHED = record({"contestant": text, "task": text, "value": figure, "source": text})
CLAIM = record({"says": anything, "better": anything, "than": anything})
RULES = record(
    {
        "schema": simple("1, which this version reads", lambda value: value == 1),
        "baseline": maybe(text),
        "overrides": many(text),
        "cells": many(CELL),
    },
    optional={"published": many(PUBLISHED), "claims": many(CLAIM), "scaling": switch},
)
