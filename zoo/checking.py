"""``zoo check``: every law of its kind, for one component or for all that a module registers."""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import SkipTest

from zoo.composition import compose, prepare
from zoo.errors import RunFailed, ZooError, unknown
from zoo.plugins import modules_of
from zoo.registry import KINDS, entries, entry
from zoo.schema import OUTSIDE

if TYPE_CHECKING:
    from zoo.testing.common import Check

SMALL = ("steps=2", "dim=32", "layers=1", "trainer.progress=false", "trainer.accelerator=cpu", "budget=none")
"""A run that says whether a component works where it belongs, and nothing else."""
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Sequences on which a broken law is tried again, to find the smallest that breaks it."""


@dataclass(frozen=True)
class Verdict:
    """What became of one law: it ``holds``, is ``broken``, is ``known`` to fail as the component says itself, or was
    ``skipped``, for this machine or this call cannot tell. ``says`` is why, or what else was seen."""

    kind: str
    name: str
    law: str
    outcome: str
    says: str = ""


def check(words: Sequence[str]) -> int:
    """Check what the first word names, print what was found, and return 1 if a law is broken.

    Args:
        words: ``kind=name``, or a module or a file that registers components; and overrides of the runs in which they
            are built, such as ``mixer.heads=4`` or ``task=digits``.

    Raises:
        ZooError: nothing is named, or what is named does not exist.
    """
    if not words:
        raise ZooError("name what to check: zoo check mixer=NAME, or a module or file: zoo check ./my_mixer.py")
    first, *overrides = words
    for word in overrides:
        if "=" not in word:
            raise ZooError(f"'{word}' is not an override; expected key=value, or a zoo check of its own")
    if "=" not in first:
        os.environ["ZOO_PLUGINS"] = ",".join(filter(None, [os.environ.get("ZOO_PLUGINS"), first]))
    prepare()
    found: Counter[str] = Counter()
    for kind, name in [_component(first)] if "=" in first else _of_module(first):
        for verdict in verdicts(kind, name, overrides):
            print(_line(verdict), flush=True)
            found[verdict.outcome] += 1
    broken, skipped = found["broken"], found["skipped"]
    if skipped:
        print(f"{skipped} could not be asked here")
    holds = "every law holds" + (" but those that are known not to" if found["known"] else "")
    print(holds if not broken else f"{broken} laws are broken" if broken > 1 else "1 law is broken")
    return int(bool(broken))


def verdicts(kind: str, name: str, overrides: Sequence[str] = ()) -> Iterator[Verdict]:
    """Each law of the kind in turn, and last whether a run of two steps with the component ends well."""
    from zoo.testing.checks import known_failures, laws_of
    from zoo.testing.parts import with_overrides

    known = known_failures(kind, name)
    with with_overrides(overrides):
        _builds(kind, name)
    for law in laws_of(kind, name):
        says = note = ""
        with with_overrides(overrides), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                note = law(name) or ""
            except ZooError:
                raise
            except SkipTest as error:
                yield Verdict(kind, name, law.__name__, "skipped", str(error))
                continue
            except Exception as error:
                says = _reason(*_smallest(law, name, error), inspect.getdoc(law) or "")
        outcome, says = _outcome(says, known.get(law.__name__))
        yield Verdict(kind, name, law.__name__, outcome, says or note)
    if kind not in OUTSIDE:
        yield _run(kind, name, overrides)


def _builds(kind: str, name: str) -> None:
    """Build it once.

    Raises:
        ZooError: its constructor refuses the settings, which is no law's affair.
    """
    from zoo.assembly import user_error
    from zoo.testing import parts

    if kind in parts.FACTS:
        user_error(parts.part, kind, name)


def _smallest(law: Check, name: str, error: Exception) -> tuple[Exception, str]:
    """The failure on the smallest input that breaks the law, and which that is; none where the law has one size."""
    from zoo.testing.parts import at_most

    if not getattr(law, "sized", False):
        return error, ""
    sizes = [(rows, length) for length in LENGTHS for rows in (1, 2, 3)]
    for rows, length in sorted(sizes, key=lambda size: size[0] * size[1]):
        try:
            with at_most(rows, length):
                law(name)
        except Exception as smaller:
            return smaller, f"B={rows}, L={length}"
    return error, ""


def _outcome(says: str, reason: str | None) -> tuple[str, str]:
    if reason is None:
        return ("broken", says) if says else ("holds", "")
    return ("known", reason) if says else ("broken", f"it holds now; take it out of known_failures ({reason})")


def _reason(error: Exception, smallest: str, law: str) -> str:
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    said = "\n".join(line for line in str(error).splitlines() if line.strip())
    where = f"\nthe smallest input that breaks it: {smallest}" if smallest else ""
    return f"{kind}{said or 'no message'}{where}\nthe law: {law.splitlines()[0]}"


def _run(kind: str, name: str, overrides: Sequence[str]) -> Verdict:
    """Two steps and the tests of a run with this component."""
    from zoo.run import train

    task = [] if kind in ("task", "objective", "stem") else ["task=parity", "task.test_size=8", "task.batch_size=4"]
    says = ""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            train(compose(*task, f"{kind}={name}", *SMALL, *overrides, f"runs={Path(folder, 'runs')}"))
        except (ZooError, RunFailed) as error:
            says = str(error).split(" (the traceback")[0]
    return Verdict(kind, name, "trains_in_a_run", *_outcome(says, None))


def _component(word: str) -> tuple[str, str]:
    kind, _, name = word.partition("=")
    if kind not in KINDS:
        raise ZooError(f"{word}: " + unknown("kind", kind, KINDS))
    return kind, entry(kind, name).name


def _of_module(word: str) -> list[tuple[str, str]]:
    """What this module or file, or a module within this package, registers."""
    modules = modules_of(word)
    found = [
        (each.kind, each.name)
        for each in entries()
        if any(each.module == module or each.module.startswith(module + ".") for module in modules)
    ]
    if not found:
        raise ZooError(f"{word} registers nothing; expected a module or a file with @zoo.register(kind, name)")
    return found


def _line(verdict: Verdict) -> str:
    law = verdict.law.removeprefix(f"{verdict.kind}_").replace("_", " ")
    text = f"{verdict.outcome:7} {verdict.kind}={verdict.name}: {law}"
    if verdict.outcome in ("holds", "skipped"):
        return text + (f" ({verdict.says})" if verdict.says else "")
    return text + "".join(f"\n        {line}" for line in verdict.says.splitlines())
