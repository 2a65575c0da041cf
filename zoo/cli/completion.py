"""Completion of commands, groups, options and keys, by Hydra's own completer, without torch."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.base.errors import ZooError, unknown

SCRIPTS = {
    "bash": """\
_zoo() {
  COMPREPLY=($(zoo _complete "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
  [[ $COMPREPLY == *[=./] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -F _zoo zoo""",
    "zsh": """\
_zoo() {
  local candidates
  candidates=("${(@f)$(zoo _complete "${LBUFFER}" 2>/dev/null)}")
  compadd -S '' -- $candidates
}
compdef _zoo zoo""",
    "fish": """complete -c zoo -f -a '(zoo _complete (commandline -cp) 2>/dev/null)'""",
}


def script(shell: str) -> str:
    """The script that turns completion on in a shell.

    Raises:
        ZooError: there is none for this shell.
    """
    if shell not in SCRIPTS:
        raise ZooError(unknown("shell to complete in", shell, SCRIPTS, prefix="zoo completion "))
    return SCRIPTS[shell]


def candidates(line: str, commands: Iterable[str]) -> list[str]:
    """What may follow, for the last word of a command line that starts with ``zoo`` and one of these commands."""
    words = line.split(" ")
    if len(words) <= 2:
        return [name for name in commands if not name.startswith("_") and name.startswith(words[-1])]
    command = words[1]
    if command == "list":
        from zoo.cli.list import PRESETS
        from zoo.registry.kinds import KINDS

        return [kind for kind in (*PRESETS, *KINDS) if kind.startswith(words[-1])]
    if command not in ("train", "show", "compare"):
        return []
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.object_type import ObjectType

    from zoo.config.hydra import hydra_ready

    with hydra_ready() as loader:
        name = "comparison" if command == "compare" else "config"
        options: list[str] = BashCompletion(loader)._query(config_name=name, line=" ".join(words[2:]))
        suggestions = [option for option in options if "_component_" not in option]
        if command == "compare" and "=" not in words[-1]:
            suggestions += [
                n for n in loader.get_group_options("compare", ObjectType.CONFIG) if n.startswith(words[-1])
            ]
    return suggestions
