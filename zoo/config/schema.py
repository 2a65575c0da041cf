"""The types of the config's root: choices that belong to a run and to no component."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any

from zoo.registry.kinds import KINDS

SITES = {"alternate_mixer": "mixer", "precise_linear": "linear", "expert_ffn": "ffn", "dense_ffn": "ffn"}
"""Components that the root names besides one of each kind: the second mixer of a hybrid; and the linear of those
projections that a rounded weight would hurt most (stems, heads, routers, the time scales of a state space), which is
the one place that decides whether they keep full precision; the experts of a mixture, and what stands where it has
none."""


@dataclass
class TrainerConfig:
    """Where and how a run is computed; ``auto`` leaves the choice to what the machine has."""

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    batch_size: str | None = None
    precision: str = "auto"
    compile: bool | str = "auto"
    graph: bool | str = False
    accumulate: int = 1
    threads: int | None = None
    checkpoint_seconds: float = 60.0
    progress: bool = True


@dataclass
class LoggerConfig:
    """Where metrics go besides the run's own ``metrics.csv``."""

    name: str = "csv"
    project: str = "zoo"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class HereConfig:
    """``on=here``: the runs of a sweep in this process, those of a comparison in processes of this machine."""


@dataclass
class LocalConfig:
    """``on=local``: side by side, in processes of this machine; unless it is said, one a GPU, or one a core without."""

    workers: int | None = None


@dataclass
class SlurmConfig:
    """``on=slurm``: each run a job of SLURM's. ``options`` go to sbatch as they are."""

    partition: str | None = None
    minutes: int = 60
    cpus: int = 1
    memory_gb: float | None = None
    gres: str | None = None
    at_once: int = 256
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConfig:
    """``on=ray``: each run a task of Ray's. ``options`` go to ``ray.init`` as they are."""

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class NoSearchConfig:
    """``search=none``: a sweep makes each combination of its values."""


@dataclass
class OptunaConfig:
    """``search=optuna``: what to try next follows from what was tried."""

    trials: int = 20
    at_once: int | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    direction: str = "auto"
    storage: str | None = None
    study: str | None = None


HOW = {
    "on": {"here": HereConfig, "local": LocalConfig, "slurm": SlurmConfig, "ray": RayConfig},
    "search": {"none": NoSearchConfig, "optuna": OptunaConfig},
}
"""Groups that say where runs are made and which are made next. They are no part of a run, and not of its name."""


@dataclass
class LadderConfig:
    """The rungs of a comparison from small to large; without minutes and sizes it is none."""

    minutes: float | None = None
    sizes: list[int] = field(default_factory=list)
    tokens_per_parameter: float = 20.0
    factor: float = 2.0
    tuned: int = 2
    valleys: int = 1
    stability: bool = False


@dataclass
class CompareConfig:
    """A comparison: who competes, on what, tuned how, with how many seeds."""

    name: str = "comparison"
    archs: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)
    further: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, list[str]] = field(default_factory=dict)
    only: list[str] | None = None
    baseline: str | None = None
    overrides: list[str] = field(default_factory=list)
    tune: dict[str, list[Any]] = field(default_factory=dict)
    extend: int = 2
    tune_seeds: list[int] = field(default_factory=lambda: [1000, 1001, 1002])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    more_seeds: list[int] = field(default_factory=list)
    equal: str = "parameters"
    control: bool = False
    margin: float | None = None
    pairs: bool = False
    published: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    scaling: bool = False
    abilities: dict[str, list[str]] = field(default_factory=dict)
    beside: str | None = None
    ladder: LadderConfig = field(default_factory=LadderConfig)
    workers: int | None = None


@dataclass
class BudgetConfig:
    """What a run may cost: the width (or ``by`` what else) is solved for its size, the steps for its length.

    ``of`` with ``target`` is another way to say the one, so that two may be given.
    """

    of: str = "none"
    target: float | None = None
    parameters: float | None = None
    active_parameters: float | None = None
    state_bytes: float | None = None
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None
    by: str = "auto"
    tolerance: float = 0.02


@dataclass
class RoleConfig:
    """What the parameters of one role have other than the run's: each multiplies it."""

    learning_rate: float = 1.0
    weight_decay: float = 1.0
    initial_scale: float = 1.0


@dataclass
class RolesConfig:
    """The multipliers of each role of parameters."""

    embedding: RoleConfig = field(default_factory=RoleConfig)
    head: RoleConfig = field(default_factory=RoleConfig)
    hidden: RoleConfig = field(default_factory=RoleConfig)
    vector: RoleConfig = field(default_factory=RoleConfig)
    position: RoleConfig = field(default_factory=RoleConfig)
    state: RoleConfig = field(default_factory=RoleConfig)


@dataclass
class RunConfig:
    """A run's own choices; components join it as one key a kind."""

    dim: int = 64
    layers: int = 2
    steps: int = 1000
    seed: int = 0
    gradient_clip: float | None = 1.0
    start_from: str | None = None
    more_probes: list[str] = field(default_factory=list)
    log_every: int | None = None
    evaluate_every: int | None = None
    runs: str = "runs"
    experiment: str = "train"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    parametrization: str = "standard"
    base_dim: int = 64
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: dict[str, list[str] | None] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    compare: CompareConfig = field(default_factory=CompareConfig)
    on: Any = None
    search: Any = None


OUTSIDE = {"family": "zoo import hf and zoo export --hf use it"}
"""Kinds that are no part of a run, and what they are for."""

ROOT_KEYS = (*(kind for kind in KINDS if kind not in OUTSIDE), *SITES)
"""The keys of the root under which components sit."""


@cache
def store_schemas() -> None:
    """Put the root's types into Hydra's config store, so that a wrong key or type is refused."""
    from hydra.core.config_store import ConfigStore

    components = [(key, Any, field(default=None)) for key in ROOT_KEYS]
    run = make_dataclass("Run", components, bases=(RunConfig,))
    ConfigStore.instance().store(name="run_schema", node=run, provider="zoo")
    for group, options in HOW.items():
        for name, node in options.items():
            ConfigStore.instance().store(name=name, node=node, group=group, provider="zoo")
