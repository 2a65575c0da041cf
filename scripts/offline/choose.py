"""Which wheels an offline bundle holds: what the zoo needs, less what comes with PyTorch and Lightning. Downloads them.

Names come from the metadata of the zoo's wheel and of what is installed here; versions are those installed here, or
the newest that fits where those have no wheel for the Python asked for. Called by ``scripts/offline_bundle.sh``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOTS = ("torch", "lightning")
"""What is there; with all that these need."""


class Refused(Exception):
    """What cannot be bundled, and what to do."""


def environment(python: str, machine: str) -> dict[str, str]:
    """What markers are judged by there."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
    }


def read_wheel(path: Path) -> list[str]:
    """The requirements that a wheel states."""
    with ZipFile(path) as file:
        name = next(name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return Parser().parsestr(file.read(name).decode()).get_all("Requires-Dist") or []


def installed(name: str) -> list[str]:
    """The requirements of an installed package.

    Raises:
        Refused: it is not installed.
    """
    try:
        return distribution(name).requires or []
    except PackageNotFoundError as error:
        raise Refused(
            f"{name} is not installed in {sys.prefix}; the bundle takes names and versions from there. "
            f'Type: pip install -e . (with the extras that are asked for, as in pip install -e ".[gpu-tests]")'
        ) from error


def applies(texts: Iterable[str], extras: Iterable[str], where: dict[str, str]) -> Iterator[Requirement]:
    """Those of the requirements that hold there, with these extras."""
    for text in texts:
        each = Requirement(text)
        if each.marker is None or any(each.marker.evaluate({**where, "extra": extra}) for extra in ("", *extras)):
            yield each


def closure(
    roots: Iterable[Requirement], where: dict[str, str], stop: Iterable[str], needs: Callable[[str], list[str]]
) -> dict[str, dict[str, str]]:
    """Every package reached from the roots, and who asks for which versions of it. Nothing beyond ``stop``."""
    found: dict[str, dict[str, str]] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    queue = [(each, "") for each in roots]
    while queue:
        each, user = queue.pop()
        name, extras = canonicalize_name(each.name), frozenset(each.extras)
        users = found.setdefault(name, {})
        if user:
            users[user] = ",".join(sorted(filter(None, {users.get(user, ""), str(each.specifier)})))
        if name not in stop and (name, extras) not in done:
            done.add((name, extras))
            queue += [(more, name) for more in applies(needs(name), extras, where)]
    return found


def platforms(tag: str) -> list[str]:
    """The tag and those of older systems, whose wheels run there too.

    Raises:
        Refused: it is not of that form.
    """
    match = re.fullmatch(r"manylinux_2_(\d+)_(x86_64|aarch64)", tag)
    if match is None:
        raise Refused(f"--platform {tag}: expected such as manylinux_2_28_x86_64 or manylinux_2_28_aarch64")
    minor, machine = int(match[1]), match[2]
    found = [f"manylinux_2_{each}_{machine}" for each in range(minor, 4, -1)]
    for name, least in (("2014", 17), ("2010", 12), ("1", 5)):
        if minor >= least and (name == "2014" or machine == "x86_64"):
            found.append(f"manylinux{name}_{machine}")
    return found


def pip(*words: str) -> tuple[bool, str]:
    """Whether pip went well, and what it said."""
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


class Shelf:
    """Wheels for one Python, downloaded into a folder of their own."""

    def __init__(self, folder: Path, python: str, tags: list[str]) -> None:
        self.folder = folder
        self.words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python]
        self.words += ["--implementation", "cp", "--dest", str(folder), *(f"--platform={tag}" for tag in tags)]

    def fill(self, chosen: dict[str, dict[str, str]]) -> None:
        """All of them in one go; then one by one those that have no wheel of the version that is installed here.

        Raises:
            Refused: one is not to be had.
        """
        pins = {name: f"{name}=={distribution(name).version}" for name in chosen}
        while pins:
            well, said = pip(*self.words, *pins.values())
            if well:
                return
            match = re.search(r"No matching distribution found for ([\w.-]+)==", said)
            name = canonicalize_name(match[1]) if match else None
            if name not in pins:
                raise Refused(f"pip could not download wheels:\n{said.strip()}")
            self._otherwise(name, pins.pop(name), ",".join(filter(None, chosen[name].values())))

    def _otherwise(self, name: str, pin: str, wanted: str) -> None:
        """Another version, or else a pure wheel from sources."""
        if pip(*self.words, f"{name}{wanted}")[0]:
            print(f"  {pin} has no wheel for this Python and platform: another version was taken")
            return
        with tempfile.TemporaryDirectory() as folder:
            well, said = pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, pin)
            if not well:
                raise Refused(f"{pin}: there is neither a wheel nor sources that can be built:\n{said.strip()}")
            built = next(Path(folder).glob("*.whl"))
            if not built.name.endswith("-none-any.whl"):
                raise Refused(f"{pin}: only sources are published, and what they build is not pure: {built.name}")
            shutil.move(built, self.folder / built.name)
            print(f"  {pin} is published as sources only: built {built.name}")

    def needs(self, name: str) -> list[str]:
        """The requirements that its wheel here states.

        Raises:
            Refused: there is none.
        """
        if name not in self.wheels():
            raise Refused(
                f"{name} is needed by a wheel of another version than is installed here, and not by that one; make the "
                f"bundle in an environment of the Python that it is for"
            )
        return read_wheel(self.wheels()[name])

    def wheels(self) -> dict[str, Path]:
        """Where the wheel of each package is."""
        return {parse_wheel_filename(path.name)[0]: path for path in self.folder.glob("*.whl")}

    def verify(self, found: dict[str, dict[str, str]], python: str) -> None:
        """What a wheel asks for, another one here must be.

        Raises:
            Refused: it is not.
        """
        for name, users in found.items():
            version = parse_wheel_filename(self.wheels()[name].name)[1]
            for user, wanted in users.items():
                if not SpecifierSet(wanted).contains(version, prereleases=True):
                    raise Refused(
                        f"{user} needs {name}{wanted}, and {version} was found for Python {python}. Bring this "
                        f"environment up to date (pip install -e .), or make the bundle in one of Python {python}"
                    )


def words_of(text: str) -> list[str]:
    """Names in a list with commas; none of them for ``none``."""
    return [canonicalize_name(word.strip()) for word in text.split(",") if word.strip() not in ("", "none")]


def choose(
    wheel: Path, target: Path, pythons: list[str], tag: str, have: list[str], without: list[str], extras: list[str]
) -> None:
    """Fill the folder.

    Raises:
        Refused: something cannot be had, or the wish makes no sense.
    """
    tags = platforms(tag)
    machine = tag.split("_", 3)[3]
    needs = read_wheel(wheel)
    known = {canonicalize_name(match[1]) for text in needs if (match := re.search(r"extra == [\"']([^\"']+)", text))}
    for extra in extras:
        if extra not in known:
            raise Refused(f"--extras {extra}: there is no such extra; there are: {', '.join(sorted(known))}")
    asked: dict[str, dict[str, dict[str, set[str]]]] = {"assumed": {}, "brought": {}}
    for python in pythons:
        if not re.fullmatch(r"3\.\d+", python):
            raise Refused(f"--python {python}: expected such as 3.12")
        where = environment(python, machine)
        roots = [Requirement(f"seqzoo[{','.join(extras)}]")]
        assumed = set(closure([Requirement(name) for name in (*ROOTS, *have)], where, (), _if_installed))
        absent = assumed | set(without)
        wished = closure(roots, where, absent, lambda name: needs if name == "seqzoo" else installed(name))
        for option, names in (("--have", have), ("--without", without)):
            for name in names:
                if name not in wished:
                    raise Refused(f"{option} {name}: the zoo does not need it; it needs {', '.join(sorted(wished))}")
        for name in without:
            if name in assumed:
                raise Refused(f"--without {name}: it comes with {', '.join((*ROOTS, *have))}, so no bundle has it")
        shelf = Shelf(target / "shelf" / python, python, tags)
        print(f"Python {python}: {len(set(wished) - absent)} packages")
        shelf.folder.mkdir(parents=True)
        shutil.copy(wheel, shelf.folder)
        shelf.fill({name: users for name, users in wished.items() if name not in absent and name != "seqzoo"})
        found = closure(roots, where, absent, shelf.needs)  # as the wheels themselves state it
        shelf.verify({name: users for name, users in found.items() if name not in absent}, python)
        for name in set(found) - absent:
            shutil.copy(shelf.wheels()[name], target / "wheels")
        for name, users in found.items():
            if name not in set(without) | {"seqzoo"}:
                for user, wanted in users.items():
                    of = asked["assumed" if name in assumed else "brought"].setdefault(f"{name}{wanted}", {})
                    of.setdefault(python, set()).add(user)
    shutil.rmtree(target / "shelf")
    tables = {kind: _stated(table, pythons) for kind, table in asked.items()}
    direct = [text for text, users in tables["brought"].items() if "seqzoo" in users.split(", ")]
    (target / "requirements.txt").write_text("".join(f"{text}\n" for text in direct))
    facts = {"pythons": pythons, "machine": machine, "platform": tag, "left_out": sorted(without), "extras": extras}
    (target / "bundle.json").write_text(json.dumps({**facts, **tables}, indent=1) + "\n")


def _stated(table: dict[str, dict[str, set[str]]], pythons: list[str]) -> dict[str, str]:
    """Requirements, with a marker where they hold for some Pythons only, and who has them."""
    found = {}
    for text, users in sorted(table.items()):
        some = " or ".join(f'python_version == "{python}"' for python in users)
        marker = "" if len(users) == len(pythons) else f"; {some}"
        found[text + marker] = ", ".join(sorted(set().union(*users.values())))
    return found


def _if_installed(name: str) -> list[str]:
    """What comes along there. Of what is not installed here no more is known than its name.

    Extras do not count (``fsspec[http]`` brings a dozen): other builds of Lightning come without.
    """
    try:
        found = installed(name)
    except Refused:
        if name in ROOTS:
            raise
        return []
    return [re.sub(r"^([\w.-]+)\s*\[[^\]]*\]", r"\1", text) for text in found]


def main() -> int:
    """2 where it cannot be done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    for name in ("platform", "have", "without", "extras"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--python", action="append", required=True)
    wish = parser.parse_args()
    pythons = sorted(set(wish.python), key=lambda text: [int(part) for part in re.findall(r"\d+", text)])
    lists = [words_of(text) for text in (wish.have, wish.without, wish.extras)]
    try:
        choose(wish.wheel, wish.to, pythons, wish.platform, *lists)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
