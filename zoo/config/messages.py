"""Hydra's and OmegaConf's exceptions in one line that says what to type."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from zoo.base.errors import ZooError, unknown
from zoo.config.schema import CompareConfig, RunConfig


@contextmanager
def explained(overrides: Sequence[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions into one line that says what to type."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ZooError(_reason(error)) from error
    except YAMLError as error:
        raise ZooError("a config is not YAML: " + " ".join(str(error).split())) from error
    except Exception as error:
        if isinstance(error, ZooError) or not _is_hydras(error):
            raise
        raise ZooError(f"{' '.join(overrides)}: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def _is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it, of what it was given."""
    last = list(traceback.walk_tb(error.__traceback__))[-1:]
    return any(frame.f_globals.get("__name__", "").split(".")[0] in ("hydra", "omegaconf") for frame, _ in last)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    below = error.__cause__
    if lines[0].startswith("Error merging override ") and below is not None:
        override = lines[0].removeprefix("Error merging override ")
        return f"{override}: {cause(below)}"
    if "raised while composing" in lines[0]:
        where = lines[0].split(":")[0].removeprefix("In ").strip("'")
        return f"{where}: {_in_file(lines[1:])}" if below is None else f"{where}: {cause(below)}"
    several = re.match(r"Sweep parameters '(.*)' requires|Ambiguous value for argument '(.*)'$", lines[0])
    if several:
        return f"{several[1] or several[2]} has several values, and one is expected; zoo train -m sweeps over several"
    return lines[0]


def _in_file(lines: Sequence[str]) -> str:
    """What is wrong with a key of a config file, with what was meant."""
    key = next((line.split("full_key:")[1].strip() for line in lines if "full_key:" in line), "")
    if lines and lines[0].startswith("Key '"):
        group, _, name = key.rpartition(".")
        known = {"compare": CompareConfig, "": RunConfig}.get(group)
        return unknown("key", name, [field.name for field in fields(known)]) if known else lines[0]
    if "is not a ListConfig" in "".join(lines[:1]):
        return f"{key}: expected a list, such as [a, b]"
    return f"{key}: {lines[0] if lines else 'it cannot be read'}"


EXAMPLES = {
    "compare.tasks": """a table of each task's overrides, 'compare.tasks={parity:["task=parity"]}'; """
    "compare.only=[parity] picks some of the tasks that there are",
    "compare.tune": "a table of the values of each key, compare.tune={optimizer.lr:[1e-3,1e-2]}",
    "compare.names": """a table of names and what they stand for, 'compare.names={wide:"lstm dim=256"}'""",
    "compare.further": "a table of lists of contestants, compare.further={small:[lstm,gru]}; see compare.also=[small]",
    "compare.published": "a list of tables, compare.published=[{contestant:...,task:...,value:...,source:...}]",
    "compare.claims": "a list of tables, compare.claims=[{says:...,better:...,than:...}]",
}
"""What to type for keys that hold more than one value, where the key alone does not say it."""


def cause(error: BaseException, key: str = "", value: str = "") -> str:
    """The first line of OmegaConf's complaint about a value, and what was expected instead.

    Args:
        error: what OmegaConf raised.
        key: that the value was given for, where it is known.
        value: as it was typed.
    """
    shape = re.search(
        r"is not a (ListConfig|DictConfig)|Cannot merge (DictConfig|ListConfig) with|Cannot assign", str(error)
    )
    example = next((text for name, text in EXAMPLES.items() if key == name or key.startswith(f"{name}.")), "")
    if shape and example:
        return f"expected {example}"
    if shape and key and "ListConfig" in shape[0]:
        return f"expected a list, such as {key}=[{value}]"
    text = str(error).strip().split("\n")[0].rstrip(".")
    kinds = {
        "Integer": "a whole number, such as 1000",
        "Float": "a number",
        "Boolean": "true or false",
        "String": "a text",
    }
    wanted = re.search(r"(could not be converted|Cannot convert '\w+') to (Integer|Float|Boolean|String|string)", text)
    return f"expected {kinds[wanted[2].capitalize()]}" if wanted else text
