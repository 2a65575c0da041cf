"""``search=optuna``: what is tried next follows from what was tried, by Optuna's ask and tell.

The study is kept in a file, so the same command after a kill goes on with it, and several commands may work on one
study. A trial is a run like any other: it has its folder, and a failed one is counted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.base.errors import RunFailed, ZooError, first_of, many, to_type, unknown
from zoo.base.files import refuse_link
from zoo.base.seeds import derive
from zoo.base.terminal import say
from zoo.config.compose import composed_of, without_how
from zoo.config.explain import Checked, check
from zoo.config.hydra import groups
from zoo.config.sweep_values import ends, values_of_sweep
from zoo.config.tree import key_of
from zoo.runs.maker import Maker
from zoo.runs.run import settled
from zoo.runs.search_page import SearchSummary, importance, write_page

SAMPLERS = ("tpe", "random", "gp", "grid")
PRUNERS = ("none", "median", "halving", "hyperband")
DIRECTIONS = ("auto", "maximize", "minimize")
AT_ONCE = 4
"""Trials at a time on a cluster, unless it is said."""
RUN, OWNER, ERROR, METRIC = "run", "owner", "error", "metric"
"""What a trial keeps beside its values: the folder of its run, the command that makes it, why it failed."""
HOW = "how"
"""What a study keeps: the sampler, the pruner and the seed that it was begun with."""
NOT_THE_STUDY = ("runs", "experiment", "logger", "trainer")
"""Words that make no other study."""


def search(looked_up: Checked, rules: dict[str, Any], on: dict[str, Any], experiment_folder: Path) -> None:
    """Make the trials of a study, and say which was the best, how to train it, and which hyperparameters mattered.

    Args:
        looked_up: the words; those that sweep are what is searched.
        rules: of the search (:class:`zoo.config.schema.OptunaConfig`).
        on: the engine and its settings.
        experiment_folder: the folder of the experiment, in which the study is kept.

    Raises:
        ZooError: a rule or the space cannot be meant, or no trial could begin.
        RunFailed: a trial failed; all others were made.
    """
    _check(looked_up, rules)
    study = _Search(looked_up, rules, on, experiment_folder)
    study.run()
    study.report()


def _check(looked_up: Checked, rules: dict[str, Any]) -> None:
    if find_spec("optuna") is None:
        raise ZooError('search=optuna: optuna is not installed; type: pip install -e ".[optuna]"')
    for key, options in (("sampler", SAMPLERS), ("pruner", PRUNERS), ("direction", DIRECTIONS)):
        if rules[key] not in options:
            raise ZooError(f"search.{key}: " + unknown(key, rules[key], options, prefix=f"search.{key}="))
    for key in ("trials", "at_once"):
        if rules[key] is not None and rules[key] < 1:
            raise ZooError(f"search.{key}={rules[key]}: expected at least 1")
    if not looked_up.sweeps:
        raise ZooError(
            "search=optuna needs something to search, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))' or "
            "arch=transformer,lstm"
        )
    for item in looked_up.sweeps:
        if item.key_or_group in ("task", "runs", "experiment"):
            raise ZooError(f"{item.input_line}: scores are compared within one {item.key_or_group}; give one")
    evaluates = any(item.key_or_group == "evaluate_every" for item in looked_up.values)
    if rules["pruner"] != "none" and not evaluates and looked_up.base.tree.get("evaluate_every") is None:
        raise ZooError(f"search.pruner={rules['pruner']} stops a run by its validation scores; add evaluate_every=100")


def distribution(item: Any, tree: Any) -> Any:
    """Optuna's distribution of a parsed override that sweeps.

    ``interval(a,b)`` draws between both ends, whole numbers where the key is one; ``range(a,b,step)`` draws among its
    values, which end before ``b``; all else is a choice. ``tag(log, ...)`` draws evenly in the logarithm.

    Raises:
        ZooError: it has no value, or its logarithm does not exist.
    """
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value, word = item.value(), str(item.input_line)
    log = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            low, high = ends(item, tree.get(item.key_or_group))
            if not (isfinite(low) and isfinite(high)):
                raise ValueError("expected two finite ends")
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            return FloatDistribution(low, high, log=log)
        values = values_of_sweep(item, groups().get(item.key_or_group)) or []
        if isinstance(value, RangeSweep) and value.step > 0 and not value.shuffle:
            whole = isinstance(value.start, int) and isinstance(value.step, int)
            if whole and not (log and value.step != 1):
                return IntDistribution(int(values[0]), int(values[-1]), log=log, step=int(value.step))
            if not whole and not log:
                return FloatDistribution(float(values[0]), float(values[-1]), step=float(value.step))
        if log:
            raise ValueError("a list of values has no logarithm; leave tag(log, ...) out")
        return CategoricalDistribution(values)
    except ValueError as error:
        raise ZooError(f"{word}: {str(error).splitlines()[0]}") from error


class _Search:
    def __init__(self, looked_up: Checked, rules: dict[str, Any], on: dict[str, Any], experiment_folder: Path) -> None:
        self.looked_up, self.rules, self.on, self.experiment_folder = looked_up, rules, on, experiment_folder
        self.space = {_word_key(item): distribution(item, looked_up.base.tree) for item in looked_up.sweeps}
        self.fixed = [line for line in looked_up.lines if _line_key(line) not in self.space]
        self.name = rules["study"] or f"search-{self._digest()}"
        self.limit, self.at_once = self._limit(), rules["at_once"] or self._usual()
        self.study: Any = None
        self.trials: dict[int, Any] = {}
        self.curves: dict[int, Path] = {}
        """Where the validation scores of each trial under way are written, if some may be given up early."""
        self.seen: dict[int, int] = {}
        """The last step of each of which the study knows the score."""
        self.adopted: list[Any] = []
        self.errors: list[str] = []
        self.refused = 0

    def _digest(self) -> str:
        """A name of the study by what is asked of it, so that the same command finds it again."""
        words = [w for w in without_how(self.looked_up.lines) if key_of(w).split(".")[0] not in NOT_THE_STUDY]
        return sha256("\n".join([*sorted(words), self.rules["direction"]]).encode()).hexdigest()[:8]

    def _limit(self) -> int:
        """How many trials the study is to have; of a grid no more than it has points."""
        trials: int = self.rules["trials"]
        if self.rules["sampler"] != "grid":
            return trials
        return min(trials, prod(len(values) for values in self._points().values()))

    def _points(self) -> dict[str, list[Any]]:
        """The values of each key of a grid.

        Raises:
            ZooError: an interval has none.
        """
        values_by_key: dict[str, list[Any]] = {}
        for item in self.looked_up.sweeps:
            values = values_of_sweep(item, groups().get(item.key_or_group))
            if values is None:
                raise ZooError(
                    f"{item.input_line}: a grid has no intervals; list the values, or choose search.sampler=tpe"
                )
            kept = self.space[_word_key(item)]
            numeric = {"IntDistribution": int, "FloatDistribution": float}.get(type(kept).__name__, str)
            values_by_key[_word_key(item)] = [numeric(value) for value in values]
        return values_by_key

    def _usual(self) -> int:
        """Trials at a time where nobody says how many."""
        if self.on["name"] == "here":
            return 1
        if self.on["name"] == "local":
            from zoo.training.hardware import usual_workers

            return int(self.on["workers"] or usual_workers())
        return AT_ONCE

    def run(self) -> None:
        """Make trials until the study has all that it is to have."""
        self.experiment_folder.mkdir(parents=True, exist_ok=True)
        self.owner = self._alive(uuid.uuid4().hex)
        with FileLock(self._file("lock")):  # commands on one study begin, and ask, one after another
            self.study = self._opened()
            self._adopt()
        self.owner.acquire()
        try:
            with Maker(self.on, self.experiment_folder) as maker:
                while self._fill(maker) or maker.busy():
                    for number, outcome in maker.landed():
                        self._tell(number, outcome)
                    for number in list(self.trials) if self.on["name"] != "here" else ():
                        if self._to_be_pruned(number):
                            maker.halt(number)
        finally:
            self.owner.release()
            Path(self.owner.lock_file).unlink(missing_ok=True)

    def _file(self, ending: str) -> Path:
        return self.experiment_folder / f"{self.name}.{ending}"

    def _alive(self, owner: str) -> FileLock:
        """The lock that a command holds as long as it lives."""
        return FileLock(self._file(f"{owner}.alive"))

    def _opened(self) -> Any:
        """The study, as it was left or new.

        Raises:
            ZooError: it cannot be opened, or it is of another direction.
        """
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        from zoo.training.build import make_task

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = self.rules["storage"]
        if not storage:  # its lock is a link that Optuna makes, so that alone is let be
            storage = JournalStorage(JournalFileBackend(str(refuse_link(self._file("journal")))))
        first = [f"{key}={_first(kept)}" for key, kept in self.space.items()]
        config = composed_of(check([*without_how(self.fixed), *first]))
        self.task, self.steps = make_task(config), int(config["steps"] or 0)
        direction = self.rules["direction"]
        if direction == "auto":
            direction = "maximize" if self.task.higher_is_better else "minimize"
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.name,
                direction=direction,
                pruner=self._pruner(),
                load_if_exists=True,
            )
        except Exception as error:  # of whichever database it is
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ZooError(f"search.storage={self.rules['storage']}: the study cannot be opened: {said[0]}") from error
        if study.direction.name.lower() != direction:
            raise ZooError(
                f"search.study={self.name}: this study was begun to {study.direction.name.lower()}, and now it is to "
                f"{direction}; give the new study another name"
            )
        how = {key: self.rules[key] for key in ("sampler", "pruner", "seed")}
        begun = study.user_attrs.get(HOW)
        if begun is None:
            study.set_user_attr(HOW, how)
        elif begun != how:
            words = " ".join(f"search.{key}={value}" for key, value in begun.items())
            say(
                f"this study was begun with {words}, and its {many(len(study.trials), 'trial')} "
                f"stand{'s' if len(study.trials) == 1 else ''}; for another study add search.study=NAME",
                error=True,
            )
        if self.rules["sampler"] == "grid" and not study.trials:
            points = self._points()
            for values in product(*points.values()):
                study.enqueue_trial(dict(zip(points, values, strict=True)))
        return study

    def _sampler(self, number: int) -> Any:
        """What draws the trial of this number: its own seed, so that no two commands draw the same one."""
        from optuna import samplers

        seed = derive("search", self.rules["seed"], number) % 2**32  # which NumPy takes
        if self.rules["sampler"] == "gp":
            return samplers.GPSampler(seed=seed)
        if self.rules["sampler"] == "tpe":
            return samplers.TPESampler(seed=seed)  # it counts on those under way what they may bring
        return samplers.RandomSampler(seed=seed)

    def _pruner(self) -> Any:
        from optuna import pruners

        made: dict[str, Callable[[], Any]] = {
            "none": pruners.NopPruner,
            "median": pruners.MedianPruner,
            # by itself it would judge by the very first score
            "halving": partial(pruners.SuccessiveHalvingPruner, min_resource=max(1, self.steps // 4)),
            "hyperband": pruners.HyperbandPruner,
        }
        return made[self.rules["pruner"]]()

    def _adopt(self) -> None:
        """Take over the trials of commands that were killed; their runs go on from their checkpoints."""
        from optuna.trial import Trial, TrialState

        for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            lock = self._alive(frozen.user_attrs.get(OWNER, "nobody"))
            with suppress(Timeout):
                lock.acquire(timeout=0)
                trial = Trial(self.study, frozen._trial_id)
                trial.set_user_attr(OWNER, self._own())
                self.adopted.append(trial)
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)

    def _own(self) -> str:
        """The name of this command in the study."""
        return Path(self.owner.lock_file).name.removeprefix(f"{self.name}.").removesuffix(".alive")

    def _fill(self, maker: Maker) -> bool:
        """Begin trials as long as some are to come and there is room, and return whether any is under way."""
        while len(self.trials) < self.at_once and maker.free():
            trial = self._next()
            if trial is None:
                break
            self._begin(maker, trial)
        return bool(self.trials)

    def _next(self) -> Any:
        """The next trial; none where the study has all that it is to have."""
        from optuna.trial import TrialState

        if self.adopted:
            return self.adopted.pop()
        with FileLock(self._file("lock")):
            begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
            if len(begun) >= self.limit:
                return None
            self.study.sampler = self._sampler(len(begun))
            trial = self.study.ask(self.space)
            trial.set_user_attr(OWNER, self._own())
            return trial

    def _words(self, params: dict[str, Any]) -> list[str]:
        """The words of a run with these values, in the order in which they were typed."""
        lines = []
        for line in self.looked_up.lines:
            key = _line_key(line)
            lines.append(f"{line.partition('=')[0]}={params[key]}" if key in self.space else line)
        return without_how(lines)

    def _begin(self, maker: Maker, trial: Any) -> None:
        say(f"trial {trial.number + 1} of {self.limit}: {_values(trial.params)}")
        self.trials[trial.number] = trial
        self.seen[trial.number] = -1
        try:
            config = composed_of(check(self._words(trial.params)))
        except ZooError as error:
            say(f"failed: {error}", error=True)
            self._tell(trial.number, {"status": "failed", "error": str(error), "refused": True})
            return
        if self.rules["pruner"] != "none":
            self.curves[trial.number] = settled(config).folder / "metrics.csv"
        maker.add(trial.number, config, lambda step: self._to_be_pruned(trial.number))

    def _to_be_pruned(self, number: int) -> bool:
        """Tell the study what a trial's validation scores are so far, and ask whether it is to be given up."""
        if number not in self.curves:
            return False
        from zoo.training.loggers import read_points

        trial = self.trials[number]
        with suppress(OSError):  # it may not be read just now
            for step, _, value in read_points(self.curves[number], self._ranks):
                if step > self.seen[number] and isfinite(value):
                    trial.report(value, step)
                    self.seen[number] = step
        return bool(trial.should_prune())

    def _ranks(self, name: str) -> bool:
        """Whether a curve of this name is of the metric that ranks; an objective puts its own question before it."""
        split, _, what = name.partition("/")
        return split == "validation" and (what == self.task.metric or what.endswith(f"_{self.task.metric}"))

    def _tell(self, number: int, outcome: dict[str, Any]) -> None:
        """Tell the study what became of a trial."""
        from optuna.trial import TrialState

        trial = self.trials.pop(number)
        self.curves.pop(number, None)
        if outcome["status"] == "finished":
            row = outcome["row"]
            trial.set_user_attr(RUN, outcome["folder"])
            trial.set_user_attr(METRIC, row["metric"])
            self.study.tell(trial, row["validation"][row["metric"]])
        elif outcome["status"] == "interrupted":
            say(f"trial {number + 1} is given up early by search.pruner={self.rules['pruner']}")
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr(ERROR, outcome["error"])
            self.errors.append(outcome["error"])
            self.refused += bool(outcome.get("refused"))
            self.study.tell(trial, state=TrialState.FAIL)

    def report(self) -> None:
        """Say what the study found, and write its page.

        Raises:
            ZooError: none of its trials can work.
            RunFailed: one failed.
        """
        from optuna.trial import TrialState

        trials = [each for each in self.study.get_trials(deepcopy=False) if each.state.is_finished()]
        complete = [each for each in trials if each.state == TrialState.COMPLETE]
        failed = [each for each in trials if each.state == TrialState.FAIL]
        pruned = len(trials) - len(complete) - len(failed)
        counts = f"{len(complete)} of {many(len(trials), 'run')} finished" + (
            f", {pruned} given up early" * bool(pruned)
        )
        say(f"{counts}, {len(failed)} failed" if failed else counts)
        if complete:
            self._say_best(trials)
        if failed:
            reasons = [str(each.user_attrs.get(ERROR)) for each in failed]
            mistake = len(failed) == len(trials) == self.refused
            raise (ZooError if mistake else RunFailed)(
                f"{len(failed)} of {many(len(trials), 'run')}: {first_of(reasons)}"
            )

    def _say_best(self, trials: Sequence[Any]) -> None:
        """The best trial, the command that trains it, which hyperparameters mattered, and the page with the history."""
        best = self.study.best_trial
        command = to_type("zoo", "train", *self._words(best.params))
        mattered = importance(self.study)
        score = f"validation {best.user_attrs[METRIC]} {best.value:.4f}"
        say(f"best: trial {best.number + 1}, {score}: {_values(best.params)}\n{best.user_attrs[RUN]}\n{command}")
        if mattered:
            shares = ", ".join(f"{key} {share:.2f}" for key, share in mattered.items())
            say(f"importance (share of the scores' variance that each explains, by fANOVA): {shares}")
        summary = SearchSummary(
            self.name, self.study.direction.name.lower(), best.user_attrs[METRIC], best.number, command
        )
        say(write_page(self._file("html"), summary, trials, mattered))


def _line_key(line: str) -> str:
    """What a word is about, with the place of a choice: ``mixer@local``."""
    return line.partition("=")[0].lstrip("+")


def _word_key(item: Any) -> str:
    return str(item.get_key_element()).lstrip("+")


def _first(kept: Any) -> Any:
    """A value of a distribution."""
    return kept.choices[0] if hasattr(kept, "choices") else kept.low


def _values(params: dict[str, Any]) -> str:
    """The values of a trial, numbers with four digits."""
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )
