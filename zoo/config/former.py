"""Words about Hydra's launchers and sweepers, which made runs elsewhere once, and what to type in their place."""

from __future__ import annotations

from zoo.base.errors import to_type
from zoo.config.tree import key_of

CHOICES = {
    "hydra/launcher": {
        "joblib": "on=local",
        "submitit_local": "on=local",
        "submitit_slurm": "on=slurm",
        "ray": "on=ray",
    },
    "hydra/sweeper": {"optuna": "search=optuna"},
    "hydra/sweeper/sampler": {name: f"search.sampler={name}" for name in ("tpe", "random", "grid")},
}
"""Options of Hydra's groups, and the words that do the same now."""
KEYS = {
    "hydra.launcher.n_jobs": "on.workers",
    "hydra.launcher.partition": "on.partition",
    "hydra.launcher.timeout_min": "on.minutes",
    "hydra.launcher.cpus_per_task": "on.cpus",
    "hydra.launcher.mem_gb": "on.memory_gb",
    "hydra.launcher.gres": "on.gres",
    "hydra.launcher.array_parallelism": "on.at_once",
    "hydra.launcher.additional_parameters": "on.options",
    "hydra.launcher.ray.init.address": "on.address",
    "hydra.launcher.ray.init": "on.options",
    "hydra.launcher.ray.remote": "on.cpus",
    "hydra.sweeper.n_trials": "search.trials",
    "hydra.sweeper.n_jobs": "search.at_once",
    "hydra.sweeper.storage": "search.storage",
    "hydra.sweeper.study_name": "search.study",
    "hydra.sweeper.direction": "search.direction",
    "hydra.sweeper.sampler.seed": "search.seed",
}
"""Keys of Hydra's, and the keys that say the same now."""


def about_hydra(word: str) -> str | None:
    """What to type in place of a word about Hydra's own settings; nothing where it is about none.

    Hydra composes configs here and makes no runs, so its own settings would do nothing.
    """
    key = key_of(word).lstrip("~")
    if key.split(".")[0].split("/")[0] != "hydra":
        return None
    option = word.partition("=")[2]
    if key in CHOICES:
        choices = CHOICES[key]
        now = choices.get(option, " or ".join(dict.fromkeys(choices.values())))
        return f"{word}: Hydra's launchers and sweepers are not used any more; type {now} in its place"
    if key in KEYS:
        return f"{word}: the key is called {KEYS[key]} now; type {to_type(f'{KEYS[key]}={option}')}"
    return f"{word}: Hydra makes no runs here, so its own settings would do nothing; leave the word out"
