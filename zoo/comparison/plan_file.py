"""What ``comparison.json`` holds: :func:`zoo.comparison.plan.describe` writes it, the report reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from zoo.base.validation import Count, Figure, Plain, Positive
from zoo.runs.row import BudgetMet

Setting = dict[str, Plain]
"""One point of the tuning grid: values by key."""


class Tried(TypedDict):
    """A setting that was tuned, with its scores by tuning seed; none stands for a run that failed."""

    setting: Setting
    validation: list[Figure | None]
    test: NotRequired[list[Figure | None]]
    """By which nothing was chosen."""


class CellFile(TypedDict):
    """One contestant on one task."""

    contestant: str
    task: str
    component: NotRequired[str]
    """The task's component, as ``task/name``."""
    overrides: NotRequired[list[str]]
    grid: NotRequired[list[Setting]]
    chosen: Setting | None
    tried: list[Tried]
    edge: list[str]
    """Keys whose chosen value is the smallest or largest tried."""
    budget: NotRequired[dict[str, BudgetMet]]
    tune_seeds: NotRequired[list[int]]
    seeds: NotRequired[list[int]]
    tuning: list[str]
    """The ids of its tuning runs."""
    control: NotRequired[bool]
    """Whether it is the baseline once more, under other seeds."""
    reporting: list[str]
    """The ids of the runs that are reported."""


class PublishedFigure(TypedDict):
    """A figure of others that the report sets beside ours."""

    contestant: str
    task: str
    value: Figure
    source: str
    at: NotRequired[Any]
    settings: NotRequired[Any]
    of: NotRequired[str]
    """What was measured, where it is another quality than ours, such as ``recall``: only orders are compared then."""
    better: NotRequired[Literal["higher", "lower"]]
    """The direction of that quality; by default ``higher``."""


class Claim(TypedDict):
    """What a comparison was made to test."""

    says: Any
    better: Any
    than: Any
    tasks: NotRequired[list[str]]


class RungFile(TypedDict):
    """One rung of a ladder: a task at one size."""

    of: str
    task: str
    parameters: Positive
    flops: Positive
    stage: Literal["tuned", "checked", "predicted"]
    top: bool
    role: NotRequired[Literal["rung", "side", "trial"]]
    """``side``: another size of a rung's FLOPs. ``trial``: beyond the top rung, for the winner alone."""


class Session(TypedDict):
    """One time that the command made runs on this machine, and what it took."""

    runs: Count
    """That ended in it."""
    wall_seconds: Positive
    """From the start to the end, or to a minute before it where it was killed."""
    cores: Annotated[int, Meta(gt=0, le=2**20)]


class PlanFile(TypedDict):
    """A whole comparison."""

    schema: Literal[1]
    name: NotRequired[str]
    baseline: str | None
    overrides: list[str]
    """What was typed after ``zoo compare``."""
    cells: list[CellFile]
    published: NotRequired[list[PublishedFigure]]
    claims: NotRequired[list[Claim]]
    scaling: NotRequired[bool]
    ladder: NotRequired[list[RungFile]]
    """Its rungs, where it is a ladder."""
    margin: NotRequired[Figure | None]
    """The difference that matters, in place of each task's own."""
    more_seeds: NotRequired[list[int]]
    """Seeds of a second look, at those whom the first ones did not tell apart from the baseline."""
    pairs: NotRequired[bool]
    """Whether the report judges every pair of contestants."""
    abilities: NotRequired[dict[str, list[str]]]
    """The tasks that each ability is scored by, some of them ``TASK at LENGTH``."""
    beside: NotRequired[str | None]
    """Another comparison, by name or folder, whose order of contestants that of each ability is set beside."""
    workers: NotRequired[Count | None]
    sessions: NotRequired[list[Session]]
    """What its runs took, each time that some of them were made."""
