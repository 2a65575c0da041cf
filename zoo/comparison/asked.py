"""What each task of a report asks: a line of its own documentation, what was typed for it, and one example."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.comparison.ledger import Ledger
from zoo.registry.discovery import load_plugins
from zoo.registry.kinds import unquoted
from zoo.registry.registry import entries

MOST_NAMED = 4
"""Tasks of one question that are named one by one."""


@dataclass(frozen=True)
class Question:
    """What one task asks, or several that differ in nothing that is said here.

    Attributes:
        tasks: as the comparison calls them.
        says: the first sentence of its documentation; empty where it is not installed here.
        words: what was typed for it, such as ``task.length=48``.
        reads, answers: one example; empty where its runs hold none.
    """

    tasks: tuple[str, ...]
    says: str
    words: str
    reads: str
    answers: str

    @property
    def named(self) -> str:
        """The tasks by name; of many the first and the last."""
        if len(self.tasks) <= MOST_NAMED:
            return ", ".join(self.tasks)
        return f"{self.tasks[0]} to {self.tasks[-1]} ({len(self.tasks)} tasks)"


def questions(ledger: Ledger) -> list[Question]:
    """What the tasks ask, in their order."""
    load_plugins()
    summaries = {entry.name: unquoted(entry.summary) for entry in entries("task")}
    tasks_by_question: dict[tuple[str, str, str, str], list[str]] = {}
    for task in ledger.tasks:
        about = next((s.about for s in ledger.on(task) if s.about), {})
        words = " ".join(word for word in about.get("overrides", ()) if word.startswith("task."))
        shown = about.get("example") or {}
        says = summaries.get(about.get("task", ""), "")
        key = says, words, shown.get("reads", ""), shown.get("answers", "")
        if any(key):
            tasks_by_question.setdefault(key, []).append(task)
    return [Question(tuple(tasks), *key) for key, tasks in tasks_by_question.items()]
