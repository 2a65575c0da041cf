"""Hydra's options that only show something (``--cfg``, ``--info``): asked for what is there, or refused in our words.

Hydra's own answers to a wrong one end the interpreter, or are silence.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo.base.errors import ZooError, close, unknown

ONLY_SHOW = {"--cfg", "-c", "--info", "-i", "--hydra-help"}
"""Options with which nothing is run."""
LONG = {"-c": "--cfg", "-i": "--info", "-p": "--package", "-m": "--multirun"}
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
TAKE_VALUES = ("--cfg", "--package")
NEED_CFG = ("--package", "--resolve")


def given(flags: Sequence[str]) -> dict[str, str | None]:
    """Options by their long names, with the value of each that has one.

    Raises:
        ZooError: a value is missing or unknown, or two options cannot be meant together.
    """
    options: dict[str, str | None] = {}
    rest = iter(flags)
    for word in rest:
        name, sign, value = word.partition("=")
        name = LONG.get(name, name)
        options[name] = value if sign else next(rest, "") if name in TAKE_VALUES else None
        if sign and name not in (*TAKE_VALUES, "--info"):
            raise ZooError(f"{word}: {name} takes no value; expected {name} alone")
    for name, choices in CHOICES.items():
        chosen = options.get(name)
        if chosen is not None and chosen not in choices:
            raise ZooError(f"{name}={chosen}: expected one of {', '.join(choices)}, such as {name}={choices[0]}")
    if (options.get("--package") or "").startswith("-") or options.get("--package") == "":
        raise ZooError("--package needs a part of the config, such as: zoo train --cfg job --package optimizer")
    for name in NEED_CFG:
        if name in options and "--cfg" not in options:
            raise ZooError(f"{name} says how a config is shown; add --cfg job, which shows it")
    looks = [name for name in options if name in ONLY_SHOW]
    if looks and "--multirun" in options:
        raise ZooError(f"--multirun makes runs, and {looks[0]} only shows what one would be; leave one of them out")
    if len(looks) > 1:
        raise ZooError(f"{' and '.join(looks)} show different things; leave one of them out")
    return options


def check_package(package: str, shown: str, overrides: Sequence[str]) -> None:
    """A part of the config that is asked for is there, and holds something; the words were looked up before.

    Raises:
        ZooError: it is not, or not in what ``--cfg`` shows: the ``job``, ``hydra`` or ``all``.
    """
    from hydra import compose
    from omegaconf import OmegaConf, open_dict

    from zoo.config.hydra import hydra_ready
    from zoo.config.messages import explained

    if package == "_global_":
        return
    with explained([f"--package {package}"]), hydra_ready():
        cfg = compose("config", list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            for key in list(cfg) if shown != "all" else ():
                if (key == "hydra") != (shown == "hydra"):
                    cfg.pop(key)
        if OmegaConf.select(cfg, package) is not None:
            return
    exists = [str(key) for key in cfg]
    parent, _, name = package.rpartition(".")
    inside = OmegaConf.select(cfg, parent) if parent else cfg
    if OmegaConf.is_dict(inside) and name in inside:
        raise ZooError(f"--package {package}: it is null, so there is nothing to show")
    if OmegaConf.is_dict(inside) and parent:
        near = [f"{parent}.{key}" for key in close(name, [str(key) for key in inside])]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ZooError(
            f"--package {package}: {parent} has no {name}.{hint} It has: {', '.join(sorted(map(str, inside)))}."
        )
    raise ZooError("--package: " + unknown("part of the config", package, exists))
