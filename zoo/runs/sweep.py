"""``zoo train``: one run, or with ``-m`` a sweep or a search, here or wherever ``on=`` says."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.base.errors import RunFailed, ZooError, first_of, many, to_type
from zoo.base.terminal import say
from zoo.config.compose import composed_of, how
from zoo.config.explain import Checked, check, check_sweep
from zoo.config.flags import ONLY_SHOW, check_package, given
from zoo.config.hydra import groups, with_values
from zoo.config.messages import explained
from zoo.config.sweep_values import how_many, values_of_sweep
from zoo.config.tree import Config, refuse_repeated
from zoo.registry.discovery import of_state, repeatable
from zoo.runs.maker import Maker, one_run
from zoo.training.processes import count


def sweep(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Make the run or the runs that these words ask for, or show what Hydra's own options ask to see.

    Raises:
        ZooError: a word cannot be meant, or several values are given without ``-m``.
        RunFailed: a run failed, or the worker of one was lost; all others were made.
    """
    refuse_repeated(overrides)
    if not flags and (config := _plain_run(overrides)) is not None:
        one_run(config, multirun=False)
        return
    options = given(flags)
    shows = bool(ONLY_SHOW & set(options))
    looked_up = check(overrides)
    counts = {str(each.input_line): how_many(each, groups().get(each.key_or_group)) for each in looked_up.sweeps}
    multirun = "--multirun" in options
    if counts and not multirun:
        add = f"add -m to sweep them: {to_type('zoo', 'train', '-m', *overrides)}"
        raise ZooError(f"{next(iter(counts))} is for a sweep; {'one config has one value' if shows else add}")
    with explained(looked_up.lines):
        check_sweep(looked_up)
        cfg = with_values(looked_up.base, looked_up.values)
        experiment_folder = Path(str(cfg.runs), str(cfg.experiment))
    if shows:
        _show(options, flags, looked_up)
        return
    on, searched = how(looked_up.base, cfg, "on"), how(looked_up.base, cfg, "search")
    draws = [word for word, number in counts.items() if not number]
    if draws and searched["name"] == "none":
        raise ZooError(f"{draws[0]} is for a search; add search=optuna, or list its values, such as 1e-3,1e-2")
    if count() > 1:
        raise ZooError(
            "torchrun starts processes for one run alone, and this is a sweep; leave torchrun out, and add "
            "trainer.devices=2, which starts processes for each run"
        )
    if searched["name"] != "none":
        from zoo.runs.search import search

        search(looked_up, searched, on, experiment_folder)
        return
    _say(_made(looked_up, on, experiment_folder), math.prod(counts.values()))


def _plain_run(overrides: Sequence[str]) -> Config | None:
    """The config of one run that is made here and now; nothing where the words ask for something else."""

    def find() -> Config | None:
        looked_up = check(overrides)
        plain = not looked_up.sweeps and all(
            looked_up.base.choices[group] == name for group, name in (("on", "here"), ("search", "none"))
        )
        return composed_of(looked_up) if plain else None

    config: Config | None = of_state("run", list(overrides), find) if repeatable(overrides) else find()
    return config


def _show(options: dict[str, str | None], flags: Sequence[str], looked_up: Checked) -> None:
    """Have Hydra's application show a config, or what it is made of; it runs nothing."""
    import hydra

    if options.get("--package"):
        check_package(str(options["--package"]), str(options["--cfg"]), looked_up.lines)
    sys.argv = ["zoo train", *flags, *looked_up.lines]
    with explained(looked_up.lines):
        hydra.main(version_base="1.3", config_path="pkg://zoo_conf", config_name="job")(lambda cfg: None)()


def combinations(looked_up: Checked) -> Iterator[list[str]]:
    """The words of each run of a sweep, in the order in which they were typed; the last key varies fastest."""
    values = {
        str(each.input_line): values_of_sweep(each, groups().get(each.key_or_group)) or [] for each in looked_up.sweeps
    }
    words = []
    for line in looked_up.lines:
        key, alternatives = line.partition("=")[0], values.get(line, values.get(line.lstrip("+")))
        words.append([line] if alternatives is None else [f"{key}={value}" for value in alternatives])
    return map(list, itertools.product(*words))


def _made(looked_up: Checked, on: dict[str, Any], experiment_folder: Path) -> list[dict[str, Any]]:
    """Make every run of a sweep, and return what became of each, with the ``experiment`` that it is of."""
    outcomes: list[dict[str, Any]] = []
    with Maker(on, experiment_folder) as maker:
        waiting, more = combinations(looked_up), True
        while more or maker.busy():
            while more and maker.free():
                words = next(waiting, None)
                if words is None:
                    more = False
                    break
                try:
                    maker.add(len(outcomes), composed_of(check(words)))
                    outcomes.append({})
                except ZooError as error:
                    say(f"failed: {error}", error=True)
                    outcomes.append({"status": "failed", "error": str(error), "refused": True})
            for key, outcome in maker.landed():
                outcomes[key] = outcome
    return outcomes


def _say(outcomes: list[dict[str, Any]], expected: int) -> None:
    """Sum a sweep up, and fail if a run of it did.

    Raises:
        RunFailed: one did.
        ZooError: none of them can work.
    """
    failed = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    experiments = sorted({outcome["experiment"] for outcome in outcomes if "experiment" in outcome})
    reports = " ".join(to_type("zoo", "report", folder) for folder in experiments)
    say(f"{len(outcomes) - len(failed)} of {many(expected, 'run')} finished; {reports}".rstrip("; "))
    if failed:
        mistake = len(failed) == expected and all(outcome.get("refused") for outcome in failed)  # none of them began
        raise (ZooError if mistake else RunFailed)(
            f"{len(failed)} of {many(expected, 'run')}: {first_of([outcome['error'] for outcome in failed])}"
        )
