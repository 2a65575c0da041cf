"""``zoo check``: every law of its kind, for one component or for all that a module registers."""

from __future__ import annotations

import inspect
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import SkipTest

from zoo.base.errors import RunFailed, ZooError, many, to_type, unknown
from zoo.base.terminal import say
from zoo.config.compose import compose
from zoo.config.hydra import prepare
from zoo.config.schema import OUTSIDE
from zoo.config.tree import override
from zoo.registry.discovery import locate, modules_of
from zoo.registry.kinds import KINDS
from zoo.registry.registry import entries, entry
from zoo.testing.fitting import SMALL, words_of_a_run

if TYPE_CHECKING:
    from zoo.testing.common import Check

PRESET = "arch"
UNCLAIMED = "no claim"
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Sequences on which a broken law is tried again, to find the smallest that breaks it."""


@dataclass(frozen=True)
class Verdict:
    """What became of one law: it ``holds``, is ``broken``, is ``known`` to fail as the component says itself, was
    ``skipped``, for this machine or this call cannot tell, was ``not run``, for it follows from one that is broken, or
    has ``no claim``: the component does not say that it keeps it. ``says`` is why, or what else was seen."""

    kind: str
    name: str
    law: str
    outcome: str
    says: str = ""
    laws: int = 1
    """How many laws it speaks of."""


def check(words: Sequence[str]) -> int:
    """Check what the first word names, print what was found, and return 1 if a law is broken.

    Args:
        words: ``kind=name``, ``arch=name`` for a preset, ``name`` for all components that are called so, or a module or
            a file that registers components; and overrides of the runs in which they are built, such as
            ``mixer.heads=4`` or ``task=digits``.

    Raises:
        ZooError: nothing is named, or what is named does not exist.
    """
    if not words:
        raise ZooError("name what to check: zoo check mixer=NAME, or a module or file: zoo check ./my_mixer.py")
    first, *overrides = words
    if named := re.fullmatch(rf"({'|'.join(KINDS)})@([\w.]+)(?:=(.*))?", first):
        kind, path, name = named.groups()
        again = to_type("zoo", "check", f"{kind}={name or 'NAME'}", f"{kind}.KEY=VALUE")
        raise ZooError(
            f"{first}: laws hold for a component wherever it stands; check what {path} is, with its values as the "
            f"run's {kind}: {again}"
        )
    for word in overrides:
        if "=" not in word:
            raise ZooError(f"'{word}' is not an override; expected key=value, or a zoo check of its own")
    a_module = os.path.exists(first) if "=" in first else _is_module(first)
    if a_module:
        os.environ["ZOO_PLUGINS"] = ",".join(filter(None, [os.environ.get("ZOO_PLUGINS"), first]))
    prepare()
    if first.startswith(f"{PRESET}=") and not a_module:
        return _say_all(preset_verdicts(first.partition("=")[2], overrides))
    if "=" in first and not a_module:
        asked = [_component(first)]
    else:
        asked = (_of_module(first) if a_module else []) or _named(first, a_module)
    return _say_all(verdict for kind, name in asked for verdict in verdicts(kind, name, overrides))


def _say_all(law_verdicts: Iterable[Verdict]) -> int:
    """Print each verdict as it comes, and last what became of all; returns the exit status."""
    counts: Counter[str] = Counter()
    for verdict in law_verdicts:
        say(_line(verdict))
        counts[verdict.outcome] += verdict.laws
    broken, skipped, unasked = counts["broken"], counts["skipped"], counts["not run"]
    if skipped:
        say(f"{many(skipped, 'law')} could not be checked here")
    if unasked:
        say(f"{many(unasked, 'law')} not run: mend what is broken, and check again")
    holds = "every law holds" + (" but those that are known not to" if counts["known"] else "")
    say(holds if not broken else f"{broken} laws are broken" if broken > 1 else "1 law is broken")
    return int(bool(broken))


def preset_verdicts(name: str, overrides: Sequence[str] = ()) -> Iterator[Verdict]:
    """Whether a run of two steps with a preset ends well, and whether what can be claimed of a preset is so.

    A claim holds under the words that the preset gives with it. What it does not claim is measured under ``overrides``
    alone, and said.
    """
    from zoo.testing.presets import CLAIMS, claims_of

    claimed = claims_of(name)
    yield _run(PRESET, name, overrides)
    for claim, law in CLAIMS.items():
        words = [*claimed.get(claim, ()), *overrides]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                says, outcome = law(name, words), "holds"
                if claim not in claimed:
                    says, outcome = f"{says}; so the preset could claim it", UNCLAIMED
            except (AssertionError, ZooError) as error:
                says = str(error) if isinstance(error, AssertionError) else f"it cannot be measured: {error}"
                outcome = "broken"
                if claim not in claimed:
                    says, outcome = f"{says}; the preset does not claim it", UNCLAIMED
        yield Verdict(PRESET, name, law.__name__, outcome, says)


def verdicts(kind: str, name: str, overrides: Sequence[str] = ()) -> Iterator[Verdict]:
    """Each law of the kind in turn, and last whether a run of two steps with the component ends well."""
    from zoo.testing.checks import known_failures, laws_of
    from zoo.testing.common import BrokenShape, Unclaimed
    from zoo.testing.parts import with_overrides

    known = known_failures(kind, name)
    with with_overrides(overrides):
        says = _builds(kind, name, overrides)
    if says:
        yield Verdict(kind, name, "builds", "broken", says)
        return
    laws, raised_by, broken = laws_of(kind, name), dict[str, str](), set[str]()
    for number, law in enumerate(laws, 1):
        says, note, ends = "", "", False
        if (other := getattr(law, "follows", None)) in broken:
            yield Verdict(kind, name, law.__name__, "not run", f"not asked, since {_words(kind, other)} is broken")
            continue
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
                error, smallest = _smallest(law, name, error)
                # the same accident in another law, such as a method that is missing, is the same mistake
                if not isinstance(error, AssertionError) and law.__name__ not in known:
                    first = raised_by.setdefault(_accident(error), law.__name__)
                    if first != law.__name__:
                        says = f"the same {type(error).__name__} as in: {_words(kind, first)}"
                        yield Verdict(kind, name, law.__name__, "not run", says)
                        continue
                says = _reason(error, smallest, inspect.getdoc(law) or "")
                ends = isinstance(error, BrokenShape)
        outcome, says = _outcome(says, known.get(law.__name__))
        outcome = UNCLAIMED if outcome == "holds" and isinstance(note, Unclaimed) else outcome
        yield Verdict(kind, name, law.__name__, outcome, says or note)
        if outcome == "broken":
            broken.add(law.__name__)
        if ends and outcome == "broken":  # the others would say the same in other words
            left, why = len(laws) - number, f"not asked, since {_words(kind, law.__name__)} is broken"
            yield Verdict(kind, name, many(left, "more law"), "not run", why, left)
            return
    if f"{kind}_does_not_see_the_future" in known:
        says = "it declares that it sees the future, so a run of a model that only looks back gives it no score"
        yield Verdict(kind, name, "trains_in_a_run", "skipped", says)
    elif kind not in OUTSIDE:
        yield _run(kind, name, overrides)


def _builds(kind: str, name: str, overrides: Sequence[str]) -> str:
    """Build it once; what its constructor raised, if that is a mistake in it.

    Raises:
        ZooError: the settings do not exist or its constructor refuses them, which is no law's affair.
    """
    from zoo.testing import parts
    from zoo.training.build import user_error

    if kind not in OUTSIDE:
        compose(f"{kind}={name}", *overrides)
    try:
        if kind in parts.FACTS:
            user_error(parts.part, kind, name)
    except ZooError:
        raise
    except Exception as error:
        return _where(error)
    return ""


def _accident(error: Exception) -> str:
    """What was raised, and where, unless that is in a law, which asks the same of a component as others do."""
    import zoo.testing

    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return repr(error) if last.is_relative_to(Path(zoo.testing.__file__).parent) else _where(error)


def _where(error: Exception) -> str:
    """What was raised, and the line that raised it, which is most often the author's own."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error or 'no message'}\n{last.filename}, line {last.lineno}: {last.line}"


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
    to_do = [line.removeprefix("Mend: ") for line in _lines(law) if line.startswith("Mend: ")]
    mend = "".join(f"\nto mend it: {line}" for line in to_do if not kind)  # an accident is mended where it happened
    return f"{kind}{said or 'no message'}{where}\nthe law: {_lines(law)[0]}{mend}"


def _lines(docstring: str) -> list[str]:
    """The paragraphs of a docstring, each as one line."""
    return [" ".join(paragraph.split()) for paragraph in re.sub(r"``", "", docstring).split("\n\n")]


def _words(kind: str, law: str) -> str:
    return law.removeprefix(f"{kind}_").replace("_", " ")


def _run(kind: str, name: str, overrides: Sequence[str]) -> Verdict:
    """Two steps and the tests of a run that has this component in its place."""
    from zoo.runs.train import train

    says, law = "", "trains_in_a_run"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            words = words_of_a_run(kind, name, overrides)
            small = ["task.test_size=8", "task.batch_size=4"] if words[0] == "task=parity" else []
            train(compose(*words, *small, *SMALL, *overrides, override("runs", f"{folder}/runs")))
        except SkipTest as error:
            return Verdict(kind, name, law, "skipped", str(error))
        except (ZooError, RunFailed) as error:
            says = str(error).split(" (the traceback")[0]
        except Exception as error:
            says = _where(error)
    return Verdict(kind, name, law, *_outcome(says, None))


def _component(word: str) -> tuple[str, str]:
    kind, _, name = word.partition("=")
    if kind not in KINDS:
        raise ZooError(f"{word}: " + unknown("kind", kind, KINDS))
    return kind, entry(kind, name).name


def _of_module(word: str) -> list[tuple[str, str]]:
    """What this module or file, or a module within this package, registers."""
    modules = modules_of(word)
    return [
        (each.kind, each.name)
        for each in entries()
        if any(each.module == module or each.module.startswith(module + ".") for module in modules)
    ]


def _is_module(word: str) -> bool:
    """Whether it is a path, or the name of a module that may be a plugin: Python's own are none (``code``)."""
    if word.endswith(".py") or os.sep in word or Path(word).is_dir():
        return True
    if word.split(".")[0] in sys.stdlib_module_names:
        return False
    return any(locate(module) is not None for module in modules_of(word))


def _named(word: str, a_module: bool) -> list[tuple[str, str]]:
    """Every component of this name, of whatever kind; where there are several that is said.

    Raises:
        ZooError: there is none, nor did a module of this name register any.
    """
    components = [(each.kind, each.name) for each in entries() if each.name == word]
    if not components and a_module:
        raise ZooError(f"{word} registers nothing; expected a module or a file with @zoo.register(kind, name)")
    if not components:
        raise ZooError(
            unknown("module, file or component", word, [each.name for each in entries()], prefix="zoo check ")
        )
    if len(components) > 1:
        choices = ", ".join(f"{kind}={name}" for kind, name in components)
        say(f"{choices} are all called {word} and checked; zoo check KIND={word} checks one")
    return components


def _line(verdict: Verdict) -> str:
    text = f"{verdict.outcome:7} {verdict.kind}={verdict.name}: {_words(verdict.kind, verdict.law)}"
    if verdict.outcome in ("holds", "skipped", "not run", UNCLAIMED):
        return text + (f" ({verdict.says})" if verdict.says else "")
    return text + "".join(f"\n        {line}" for line in verdict.says.splitlines())
