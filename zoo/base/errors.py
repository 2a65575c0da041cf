"""What a user is told when something they typed, or something on their machine, cannot work."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class ZooError(Exception):
    """A mistake that a user can mend: shown as one message, without a traceback, with exit status 2."""


class NameTaken(ZooError):
    """Two plugins claim one name; a comparison must never be ambiguous about what it ran."""


class RunFailed(ZooError):
    """A run started and did not finish; its folder says why. Exit status 1."""


class Diverged(RunFailed):
    """The loss of a step, a weight after the last step, or the metric that ranks is not a number, or infinite."""

    def __init__(self, step: int, loss: float, what: str = "the loss") -> None:
        super().__init__(
            f"diverged: {what} became {loss} at step {step}; a lower learning rate (optimizer.lr), a smaller "
            f"gradient_clip or a warm-up (schedule.warmup) may help"
        )
        self.step, self.loss, self.what = step, loss, what

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, float, str]]:
        """It is sent between processes as what it was made of."""
        return Diverged, (self.step, self.loss, self.what)


@contextmanager
def needed(package: str, feature: str) -> Iterator[None]:
    """For imports that only this feature needs, of a package that may have been left out of an installation.

    Raises:
        ZooError: it is not there; the message names it, the feature, and what to type.
    """
    try:
        yield
    except ImportError as error:
        raise ZooError(f"{feature} needs the package {package} ({error}); type: pip install {package}") from error


def close(word: str, options: Iterable[str], most: int = 3) -> list[str]:
    """The options that look or read like ``word``, best first."""
    pool = sorted(set(options))
    matches = get_close_matches(word, pool, n=most, cutoff=0.6)
    if not matches:
        leaf = word.rsplit(".", 1)[-1]
        matches = [option for option in pool if option.rsplit(".", 1)[-1] == leaf][:most]
    if not matches and len(word) > 2:
        matches = [option for option in pool if option.startswith(word) or word.startswith(option)][:most]
    return matches


def unknown(what: str, given: str, options: Iterable[str], prefix: str = "") -> str:
    """One message for a name that does not exist: what was given, what is close, what exists."""
    pool = sorted(set(options))
    near = close(given, pool)
    hint = f" Did you mean {' or '.join(prefix + name for name in near)}?" if near else ""
    exists = ", ".join(pool) if pool else "nothing"
    return f"There is no {what} called '{given}'.{hint} Choose from: {exists}."


def no_folder(folder: Path, instead: str) -> str:
    """What to say of a folder that is not there: those like it, beside it and where runs usually lie.

    Args:
        folder: what was typed.
        instead: what to do where there is none like it.
    """
    beside = [each for parent in dict.fromkeys([folder.parent, Path("runs")]) for each in sorted(parent.glob("*/"))]
    near = close(folder.name, (each.name for each in beside))
    if near:
        likely = [str(each) for name in near for each in beside if each.name == name]
        return f"there is no folder {folder}. Did you mean {' or '.join(likely)}?"
    return f"there is no folder {folder}; {instead}"


def to_type(*words: object) -> str:
    """What to type in a shell to give it these words; every hint with words of a user's is made here."""
    return shlex.join(map(str, words))


def many(number: int, what: str) -> str:
    """A number of things: ``1 run``, ``2 runs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_of(problems: Sequence[str]) -> str:
    """Three problems in one line, and how many more there are."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


class Interrupted(BaseException):
    """The run was asked to stop and saved itself; ``signum`` says by which signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
