"""Find plugins: installed ones by the entry point group ``zoo.registry.discovery``, loose ones by ``ZOO_PLUGINS``.

A plugin is a module or a package; of a package, every public submodule counts. Sources are read, not imported:
a plugin costs nothing until a run names one of its components.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.base.errors import NameTaken, ZooError
from zoo.base.kept import installed, keep, known, remembered, stamp
from zoo.registry.foreign import check_conf
from zoo.registry.plain import from_plain, to_plain
from zoo.registry.registry import add, entries, generation
from zoo.registry.signature import NotStatic
from zoo.registry.source import scan

GROUP = "zoo.plugins"
PRIVATE = ("conf", "tests", "test")
CORE = ("builtin", "tasks")
"""The entry points of the zoo itself, read before all others."""


@dataclass(frozen=True)
class Plugin:
    """One plugin as found: its name, its module, who provides it, what went wrong, where its ``conf/`` lies."""

    name: str
    module: str
    provider: str
    error: str | None = None
    conf: Path | None = None


@cache
def load_plugins() -> tuple[Plugin, ...]:
    """Read every plugin once; one that cannot be read is a warning that names its distribution, and not fatal.

    Raises:
        NameTaken: two plugins claim one component or one file under ``conf/``.
        ZooError: the zoo itself is not installed.
    """
    global _loaded
    if find_spec("zoo_conf") is None:
        raise ZooError("the zoo is not installed, so its configs cannot be found; run: pip install -e .")
    plugins: list[Plugin] = []

    def read() -> Any:
        plugins.extend(_load(*each) for each in _wanted())
        _check_conf(plugins)
        plain = [None if each.provider.startswith("module ") else to_plain(each) for each in entries()]
        if any(plugin.error for plugin in plugins) or not all(plain):
            return None  # a warning is said each time, and what only running a module tells is found each time
        return {"entries": plain, "plugins": [[p.name, p.module, p.provider, str(p.conf or "")] for p in plugins]}

    plain = of_state("sources", [], read)
    if not plugins:
        for each in plain["entries"]:
            add(from_plain(each), known=True)
        for name, module, provider, conf in plain["plugins"]:
            plugins.append(Plugin(name, module, provider, conf=Path(conf) if conf else None))
    _loaded = generation()
    return tuple(plugins)


_loaded = -1
"""The registry's generation when all plugins were read."""


def of_state(kind: str, key: Any, find: Callable[[], Any]) -> Any:
    """What an earlier command found of the same sources, or what ``find`` returns now, which is kept unless it is None.

    Args:
        kind: what sort of answer it is.
        key: plain data, all that the answer depends on besides :func:`state`.
        find: returns plain data.
    """
    answer = known(kind, [state(), key]) if state() else None
    if answer is None:
        answer = find()
        if answer is not None and state() and state.__wrapped__() == state():  # no source was edited meanwhile
            keep(kind, [state(), key], answer)
    return answer


def repeatable(words: Iterable[str]) -> bool:
    """Whether what is composed of these words is the same whenever the sources are what they are by :func:`state`.

    It is not where a word may name a file or asks for the environment, nor where this process registered components.
    """
    load_plugins()
    named = (word.partition("=")[2] or word for word in words)
    plain = not any("$" in word or os.sep in word or os.path.exists(word) for word in named)
    return plain and bool(state()) and generation() == _loaded


@cache
def state() -> str:
    """A hash of all that plugins, presets and the code of runs are read from; empty where that is too much to read.

    These are the files of the zoo and of each plugin's top package, what provides them, and the versions of the
    packages that compose. So what was worked out of the same state can be used again.
    """
    digest = sha256(repr([sys.version, *installed("hydra", "omegaconf", "yaml")]).encode())
    roots: dict[Path, None] = {Path(__file__).parents[1]: None}
    for name, module, provider in (("", "zoo_conf", ""), *_wanted()):
        digest.update(f"{name} {module} {provider}\n".encode())
        for top in (_top(module.split(".")[0]), locate(module)):
            folders = [Path(folder) for folder in top.submodule_search_locations or ()] if top else []
            roots |= dict.fromkeys(folders or ([Path(top.origin)] if top and top.origin else []))
    files = [each for root in roots for each in _files(root)]
    if len(files) > MOST_FILES:
        return ""
    try:
        for each in files:
            digest.update(f"{each}\n".encode() + sha256(Path(each).read_bytes()).digest())
    except OSError:
        return ""
    return digest.hexdigest()


MOST_FILES = 3000
"""Of more source files nothing is kept: reading them would take longer than what is kept."""
SOURCES = (".py", ".cpp", ".cu", ".yaml", ".j2")
"""How names of files end that components, presets, native code and pages are made from."""


def _files(root: Path) -> list[str]:
    """The sources at or below a path, sorted; of a module in a file of its own, its native code as well."""
    if not root.is_dir():
        return [str(each) for each in map(root.with_suffix, SOURCES) if each.is_file()]
    paths: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        paths += [os.path.join(folder, name) for name in names if name.endswith(SOURCES)]
        if len(paths) > MOST_FILES:
            break
    return sorted(paths)


@cache
def _points() -> tuple[tuple[str, str, str], ...]:
    """Name, module and distribution of each installed plugin; kept while nothing is installed or removed."""
    return tuple(tuple(each) for each in remembered("plugins", _distributions(), _find_points))


def _find_points() -> list[list[str]]:
    from importlib.metadata import entry_points  # takes a sixth of what `zoo list` takes

    points = {(ep.name, ep.value): ep for ep in entry_points(group=GROUP)}  # an editable install may list twice
    return [
        [ep.name, ep.value, f"{ep.dist.name} {ep.dist.version}" if ep.dist else "an unknown distribution"]
        for ep in sorted(points.values(), key=lambda ep: (ep.name not in CORE, ep.name))
    ]


def _distributions() -> list[Any]:
    """What changes when a distribution is installed, removed or replaced: the folders that say what there is."""
    inventory: list[Any] = [GROUP, [type(finder).__qualname__ for finder in sys.meta_path]]
    for path in sys.path:
        try:
            inventory.append(stamp(Path(path or ".").resolve()))
            with os.scandir(path or ".") as entries_there:
                told = [each for each in entries_there if each.name.endswith((".dist-info", ".egg-info"))]
        except OSError:  # an archive, or nothing
            continue
        for each in sorted(told, key=lambda each: each.name):
            inventory.append(each.name)
            with suppress(OSError):  # most distributions have no entry points
                inventory.append(stamp(Path(each.path, "entry_points.txt")))
    return inventory


def _wanted() -> Iterator[tuple[str, str, str]]:
    yield from _points()
    for word in filter(None, os.environ.get("ZOO_PLUGINS", "").split(",")):
        for name in modules_of(word):
            yield name, name, "ZOO_PLUGINS"


def modules_of(word: str) -> list[str]:
    """The modules that a word of ``ZOO_PLUGINS`` means, made importable.

    It is a module or package by name, a file, the folder of a package, or that of a project, whose ``pyproject.toml``
    says its entry points.

    Raises:
        ZooError: there is no such file or folder, it is none of these, or another module has its name.
    """
    path = Path(word)
    if not word.endswith(".py") and os.sep not in word and not path.is_dir():
        return [_importable(word, Path.cwd(), None)]
    if path.is_file():
        return [_importable(path.stem, path.parent, path)]
    if (path / "pyproject.toml").is_file():
        import tomllib

        project = path / "pyproject.toml"
        try:
            points = tomllib.loads(project.read_text())["project"]["entry-points"][GROUP]
            modules = [module.strip() for module in points.values()]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ZooError(f"{project} cannot be read: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ZooError(f'{project} has no [project.entry-points."{GROUP}"]') from error
        source = path / "src" if (path / "src").is_dir() else path
        return [_importable(module, source, None) for module in modules]
    if (path / "__init__.py").is_file():
        return [_importable(path.resolve().name, path.resolve().parent, path / "__init__.py")]
    if path.is_dir():
        raise ZooError(f"{word} is a folder with neither __init__.py nor pyproject.toml; expected a plugin")
    raise ZooError(f"there is no plugin {word} (looked in {Path.cwd()}); expected a module, a file or a folder")


def _importable(module: str, folder: Path, file: Path | None) -> str:
    known = _top(module) if file is not None else None
    if file is not None and known is not None and known.origin and Path(known.origin).resolve() != file.resolve():
        raise ZooError(
            f"{file}: a module called {module} exists already ({known.origin}); rename yours, or where that is an "
            f"installed copy of it, uninstall that or install yours with pip install -e"
        )
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    return module


def _load(name: str, module: str, provider: str) -> Plugin:
    spec = locate(module)
    if spec is None:
        return _report(Plugin(name, module, provider, f"there is no module {module}"))
    errors = []
    for child, path in _sources(module, spec):
        try:
            _read(child, path, provider)
        except NameTaken:
            raise
        except (Exception, SystemExit) as error:
            errors.append(f"{child}: {type(error).__name__}: {error}")
    conf = _conf(spec)
    if conf is not None:
        try:
            check_conf(conf)
        except ZooError as error:
            errors.append(str(error))
            conf = None
    return _report(Plugin(name, module, provider, "; ".join(errors) or None, conf))


def _read(module: str, path: Path, provider: str) -> None:
    try:
        for entry in scan(path, module, provider):
            add(entry)
    except NotStatic:
        importlib.import_module(module)  # its decorators register it


def _report(plugin: Plugin) -> Plugin:
    if plugin.error:
        warnings.warn(
            f"the zoo plugin {plugin.name!r} from {plugin.provider} cannot be used: {plugin.error}", stacklevel=3
        )
    return plugin


def locate(module: str) -> ModuleSpec | None:
    """Find a module without importing its parents."""
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth, _ in enumerate(parts):
        name = ".".join(parts[: depth + 1])
        if depth == 0:
            spec = _top(name)
        else:
            assert spec is not None
            if spec.submodule_search_locations is None:
                return None  # a plain module holds no others
            spec = PathFinder.find_spec(name, spec.submodule_search_locations)
        if spec is None:
            return None
    return spec


def _top(name: str) -> ModuleSpec | None:
    """A module's spec, or none; also of what runs without one, as ``__main__`` does."""
    try:
        return find_spec(name)
    except ValueError:
        return None


def _sources(module: str, spec: ModuleSpec) -> Iterator[tuple[str, Path]]:
    """The module's own file and, of a package, every public submodule's."""
    if spec.origin and spec.origin.endswith(".py"):
        yield module, Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).iterdir()):
            name = path.stem if path.suffix == ".py" else path.name
            if name.startswith(("_", ".")) or name in PRIVATE:
                continue
            if path.suffix == ".py":
                yield f"{module}.{name}", path
            elif (path / "__init__.py").is_file():
                child = locate(f"{module}.{name}")
                if child is not None:
                    yield from _sources(f"{module}.{name}", child)


def _conf(spec: ModuleSpec) -> Path | None:
    for folder in spec.submodule_search_locations or ():
        if (Path(folder) / "conf").is_dir():
            return Path(folder) / "conf"
    return None


def _check_conf(plugins: Iterable[Plugin]) -> None:
    """A plugin's ``conf/`` adds presets and comparisons; it never replaces one."""
    core = find_spec("zoo_conf")
    assert core is not None
    owners: dict[Path, tuple[str, Path]] = {}
    folders = [(Path(folder), "the zoo") for folder in core.submodule_search_locations or ()]
    folders += [(plugin.conf, plugin.provider) for plugin in plugins if plugin.conf]
    for folder, owner in folders:
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder)
            if owners.get(name, (None, None))[1] == path.resolve():
                continue  # one plugin, found in two ways
            if name in owners:
                option = f"{name.parent}={name.stem}"
                raise NameTaken(f"the config {option} is claimed twice: by {owners[name][0]} and by {owner} ({path})")
            owners[name] = (owner, path.resolve())


@cache
def register_conf() -> None:
    """Tell Hydra, once a process, where plugins have presets and comparisons."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    folders = {
        plugin.conf: plugin.module for plugin in reversed(load_plugins()) if plugin.conf
    }  # one may be found twice

    class PluginConf(SearchPathPlugin):
        """Lets a plugin package ship presets and comparisons."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder, module in folders.items():
                search_path.append(provider=f"zoo plugin {module}", path=f"file://{folder}")

    Plugins.instance().register(PluginConf)
