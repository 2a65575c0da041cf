"""The rules of a comparison as the user wrote them: a file of one's own, and what cannot be meant."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.base.files import read_yaml
from zoo.base.terminal import visible
from zoo.config.hydra import forget, hydra_ready
from zoo.config.limits import check_folder
from zoo.config.schema import CompareConfig
from zoo.config.tree import override
from zoo.registry.foreign import check_comparison

LONGEST_NAME = 100
"""Letters of a contestant's name."""
EQUAL = ("none", "parameters", "active_parameters")
"""What contestants may be made to have as many of as the baseline has."""


def stored(file: Path) -> str:
    """Make a file of one's own an option of the group ``compare``; its name there.

    Raises:
        ZooError: it cannot be read, is no mapping, or has the name of a comparison that exists.
    """
    from hydra.core.config_store import ConfigStore

    rules = read_yaml(file)
    if not isinstance(rules, dict):
        raise ZooError(f"{file}: there is no such file" if not file.exists() else f"{file} is not a comparison in YAML")
    known = [field.name for field in fields(CompareConfig)]
    wrong = [str(key) for key in rules if key not in known]
    if wrong:
        raise ZooError(f"{file}: " + unknown("key", wrong[0], known))
    rules = {"name": re.sub(r"(\\*)\$\{", r"\1\1\\${", file.stem), **rules}
    check_comparison(rules, str(file))
    option = _option(file.stem)
    with hydra_ready() as loader:
        store = ConfigStore.instance()
        if option in loader.get_group_options("compare") and f"{option}.yaml" not in store.repo.get("compare", {}):
            raise ZooError(f"{file}: a comparison called {file.stem} exists already; rename the file")
        store.store(group="compare", name=option, node=rules, provider=str(file))
    forget()  # what was composed of a file of this name before
    return option


def _option(stem: str) -> str:
    """A file's name as a word that Hydra takes for an option: the same, if it is one, else a hash besides."""
    word = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    plain = word == stem and override("compare", stem) == f"compare={stem}"
    return stem if plain else f"file_{word}_{sha256(os.fsencode(stem)).hexdigest()[:12]}"


def check_rules(rules: Mapping[str, Any]) -> None:
    """Refuse a comparison that cannot be made, or whose report could mislead.

    Raises:
        ZooError: by the name of the key, with what is expected.
    """
    check_folder("compare.name", rules["name"])
    for contestant in [*rules["archs"], *rules["also"], *(each for some in rules["further"].values() for each in some)]:
        if not isinstance(contestant, str) or not contestant.strip():
            raise ZooError(f"compare.archs has {contestant!r}; expected presets, or overrides as one text")
    for name, words in rules["names"].items():
        if not name.strip() or "=" in name or not name.isprintable() or len(name) > LONGEST_NAME or not words.strip():
            raise ZooError(
                f"compare.names has {visible(name[:LONGEST_NAME])}: {visible(words)}; expected a name of at most "
                f"{LONGEST_NAME} letters in one line, without =, and what it stands for"
            )
        if words.split()[0] in rules["names"]:
            raise ZooError(f"compare.names.{name}={words}: a name stands for a preset or for overrides, not for a name")
    if rules["workers"] is not None and rules["workers"] < 1:
        raise ZooError(f"compare.workers={rules['workers']}: expected at least 1")
    if rules["only"] is not None and not rules["only"]:
        raise ZooError("compare.only is empty; name at least one of its tasks, or leave it out")
    for key, values in rules["tune"].items():
        if not isinstance(values, list) or not all(isinstance(v, str | int | float | None) for v in values):
            raise ZooError(f"compare.tune.{key}={values}: expected a list of plain values")
        numbers = [isinstance(v, int | float) for v in values]
        if any(numbers) and (not all(numbers) or not all(math.isfinite(v) for v in values)):
            raise ZooError(f"compare.tune.{key}={values}: expected numbers, or no number at all")
    for key in ("tasks", "seeds", "tune_seeds"):
        if not rules[key]:
            raise ZooError(f"compare.{key} is empty; a comparison needs at least one")
    for task in rules["only"] or ():
        if task not in rules["tasks"]:
            raise ZooError(unknown("task in this comparison", task, rules["tasks"]))
    if not [*rules["archs"], *rules["also"]]:
        raise ZooError("compare.archs is empty; name at least one contestant, such as compare.archs=[transformer,lstm]")
    for key in ("seeds", "tune_seeds", "more_seeds"):
        if len(set(rules[key])) < len(rules[key]):
            raise ZooError(f"compare.{key}={rules[key]}: expected each seed once")
    if set(rules["seeds"]) & set(rules["more_seeds"]):
        raise ZooError(f"compare.more_seeds={rules['more_seeds']}: expected seeds that are not in compare.seeds")
    shared = {*rules["seeds"], *rules["more_seeds"]} & set(rules["tune_seeds"])
    if shared and any(len(values) > 1 for values in rules["tune"].values()):
        raise ZooError(
            f"compare.tune_seeds and compare.seeds share {sorted(shared)}; "
            f"a run that chose the setting must not be reported"
        )
    if rules["equal"] not in EQUAL:
        raise ZooError("compare.equal: " + unknown("quantity", str(rules["equal"]), EQUAL))
    if rules["extend"] < 0:
        raise ZooError(f"compare.extend={rules['extend']}: expected at least 0")
    if rules["margin"] is not None and not 0 <= rules["margin"] < math.inf:
        raise ZooError(f"compare.margin={rules['margin']}: expected a difference of the metric, at least 0")
    if rules["ladder"]["minutes"] is not None or rules["ladder"]["sizes"]:
        _check_ladder(rules["tune"])
    for key, values in rules["tune"].items():
        if len(set(values)) != len(values):
            raise ZooError(f"compare.tune.{key}={values}: expected each value once")


def _check_ladder(tune: Mapping[str, Any]) -> None:
    rates = tune.get("optimizer.lr", [])
    if tune and (list(tune) != ["optimizer.lr"] or len(rates) < 3 or not all(rate > 0 for rate in rates)):
        raise ZooError(
            f"compare.tune={dict(tune)}: a ladder predicts the learning rate of its larger rungs, and no "
            f"other number; expected three rates or more, such as compare.tune={{optimizer.lr:[0.001,0.003,0.01]}}"
        )
