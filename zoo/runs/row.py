"""The row of a run: what ``result.json`` holds. The types here are its documentation and its validator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from msgspec import Meta

from zoo.base import validation
from zoo.base.files import read_json
from zoo.base.validation import Count, Figure, FolderName, Number, Positive, Whole

SCHEMA = 1
UNREADABLE = "unreadable"
"""The status that reports and lists show for a run whose folder or result may not be read; no row has it."""

Scores = dict[str, Figure]
"""Metrics by name. The one that ranks is a finite number; others may be NaN, where nothing was asked for them."""


class BudgetMet(TypedDict):
    """How a run meets one budget."""

    target: Positive
    reached: Number
    by: str
    """What was solved for: ``dim``, ``layers`` or ``steps``."""
    value: Number
    """What it was set to."""


class Mistakes(TypedDict):
    """Counts along the answers of one split, as :meth:`zoo.measure.decay.Tally.summary` makes them."""

    lengths: list[Annotated[list[Count], Meta(min_length=4, max_length=4)]]
    """Length; then how many answers have it, how many of these are right throughout, how many tokens are wrong."""
    asked: list[Count]
    wrong: list[Count]
    share: list[Number]
    share_squared: list[Number]
    pairs: Annotated[list[Annotated[list[Count], Meta(min_length=2, max_length=2)]], Meta(min_length=2, max_length=2)]
    squares: Number


class Choice(TypedDict):
    """How much a module's choices (a router's experts) depend on the kind of token."""

    information: Figure
    """Mutual information of token and part, over the entropy of the part: 0 to 1."""
    tokens: dict[str, list[Figure]]


class Example(TypedDict):
    """One example of a task in words, as :func:`zoo.measure.example.example` says it."""

    reads: str
    """What a model reads."""
    answers: str
    """What it is to answer."""


class Embedding(TypedDict):
    """Measures of the embeddings that probes judged; more of them than are named here."""

    collapse: str


class Hardware(TypedDict):
    """The machine; more is said of it than is named here."""

    accelerator: str


class StartedRow(TypedDict):
    """What is known of a run before it starts."""

    schema: Whole
    id: FolderName
    status: str
    """``started``, ``finished`` or ``failed``."""
    arch: str
    label: str
    """The contestant's name in a comparison."""
    task: str
    seed: int
    overrides: list[str]
    """What was typed to make the run, complete."""
    time: str
    """When it started, in UTC, by ISO 8601."""


class FailedRow(StartedRow):
    """The row of a run that did not finish."""

    error: str
    steps: NotRequired[int]
    learning_rate: NotRequired[Figure | None]
    data_hash: NotRequired[str]
    budget: NotRequired[dict[str, BudgetMet]]
    diverged_at: NotRequired[int]
    """The step whose loss was not finite."""


class Own(TypedDict):
    """What the run cost by itself, where it started from another."""

    steps: Count
    tokens: Number
    training_flops: Number
    training_seconds: Number


class FinishedRow(StartedRow):
    """The row of a finished run."""

    metric: str
    """The metric that ranks."""
    higher_is_better: bool
    validation: Scores
    test: Scores
    test_harder: dict[str, Scores]
    """Scores by the name of a harder test, such as a longer one."""
    chance: Scores
    """What needs no learning, by the name of the rule."""
    example: NotRequired[Example | None]
    """One example of the task in words; none where the objective asks its own question."""
    guess: Number | None
    """The first of these."""
    shortcut: NotRequired[Number | None]
    """The best of these, but for references that are no rule to be beaten."""
    margin: NotRequired[Number]
    """The difference of the metric that matters."""
    solved: Number | None
    """The score from which the task counts as solved."""
    asks: str
    """The objective's own question, where that is not the task's: ``masked``."""
    decay: dict[str, Mistakes]
    embedding: NotRequired[Embedding | None]
    effective_rank: NotRequired[Figure | None]
    choices: NotRequired[dict[str, Choice] | None]
    budget: dict[str, BudgetMet]

    steps: Count
    learning_rate: Figure | None
    own: NotRequired[Own]
    """What this run alone cost, where it started from another (``start_from``); else it is what stands here."""
    tokens: Number
    """Of training, all steps together, with those of the runs that it started from."""
    training_flops: Number
    """Of all these steps together, counted."""
    forward_flops_per_token: NotRequired[Number]
    parameters: Count
    active_parameters: Number
    """Those that one token meets."""
    weight_bytes: Number
    """As an exported, packed file holds them."""
    weight_memory_bytes: Number
    """As a decoder on this machine holds them."""
    bytes_per_weight: Number
    state_bytes: NotRequired[Number | None]
    """Of the decoding state of one sequence of ``state_length`` tokens; none where the model does not decode."""
    state_length: NotRequired[Count]
    state_bytes_by_length: NotRequired[dict[str, Number]]
    """Of the decoding state, by tokens of context."""
    peak_memory_bytes: NotRequired[Number | None]
    """Beyond what the process held before training."""
    tokens_per_second: NotRequired[Number | None]
    matmul_ceiling_flops_per_second: NotRequired[Number | None]
    matmul_share: NotRequired[Number | None]
    """Of the fastest matrix multiply measured on this device, how much training made use of."""
    loss_spikes: NotRequired[dict[str, Any]]
    training_seconds: Number
    """Without evaluation and checkpoints, with that of the runs that it started from."""
    starting_seconds: NotRequired[Number]
    """Of the first steps, in which libraries start."""
    wall_seconds: Number
    cpu_seconds: Number
    """Both of all processes that made the run, up to a checkpoint where one was stopped."""
    resumed_at: NotRequired[Count]
    """The step from which the last process went on."""

    precision: str
    compiled: bool
    implementations: NotRequired[dict[str, str]]
    """Which of several ways to compute the same was chosen, and why."""
    hardware: Hardware
    versions: dict[str, Any]
    code: dict[str, str]
    """A hash of each module whose code the result depends on."""
    data_hash: str
    facts: dict[str, Any]
    """What the model was told of the run and of its data."""


Row = dict[str, Any]
"""A row in use. Its form is one of those above, by its ``status``."""


def flaw(row: Any) -> str:
    """Say what is wrong with a row; nothing where reports and later runs can rely on it."""
    wrong = validation.flaw(row, StartedRow)
    if wrong:
        return wrong
    if row["status"] != "finished":
        return validation.flaw(row, FailedRow)
    return validation.flaw(row, FinishedRow) or _unranked(row) or _impossible(row)


def read_row(path: Path) -> Row | None:
    """A run's row, or ``None`` where there is none to rely on: not JSON, cut off, or of another form."""
    row = read_json(path)
    return None if flaw(row) else cast(Row, row)


def _unranked(row: Row) -> str:
    """The metric that ranks must be a finite number on every split."""
    splits = {key: row[key] for key in ("validation", "test")}
    splits |= {f"test_harder.{name}": scores for name, scores in row["test_harder"].items()}
    for name, scores in splits.items():
        if row["metric"] not in scores:
            return f"{name}.{row['metric']} is missing"
        if wrong := validation.flaw(scores[row["metric"]], Number):
            return f"{name}.{row['metric']}{wrong.removeprefix('it')}"
    return ""


def _impossible(row: Row) -> str:
    """Counts of mistakes must be those of one evaluation, for statistics are drawn from them by chance."""
    for split, counts in row["decay"].items():
        positions = len(counts["asked"])
        if any(len(counts[key]) != positions for key in ("wrong", "share", "share_squared")):
            return f"decay.{split} has positions in one list that are not in another"
        if any(wrong > asked for wrong, asked in zip(counts["wrong"], counts["asked"], strict=True)):
            return f"decay.{split} has more wrong tokens at a position than were asked"
        for length, answers, unbroken, mistakes in counts["lengths"]:
            if not 1 <= length <= positions or not answers >= 1 or unbroken > answers or mistakes > length * answers:
                return f"decay.{split}.lengths has {[length, answers, unbroken, mistakes]}, which cannot be"
    return ""
