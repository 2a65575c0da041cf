"""Whether an environment has what a bundle takes for granted, and, when all is installed, whether it fits together.

python check.py before|after
"""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent


def problems(requirements):
    """A sentence for each of these requirements that is not met."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    for text, users in requirements.items():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed; expected {text}, for {users}"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} {found} is installed; expected {text}, for {users}"


def importable(name):
    """Nothing, or why it cannot be imported."""
    try:
        __import__(name)
    except Exception as error:
        return f"{name} is installed but cannot be imported: {type(error).__name__}: {error}"
    return None


AGAIN = """Nothing was installed. Load the module, or activate the environment, that has PyTorch and Lightning, and type
./install.sh again; or name its interpreter: ./install.sh --python /path/to/python"""
HIDDEN = """A folder on PYTHONPATH may hide what was installed: take it off, and type ./install.sh again."""


def main(when):
    """Say what is missing; 1 if that is anything."""
    bundle = json.loads((HERE / "bundle.json").read_text())
    python, machine = f"{sys.version_info[0]}.{sys.version_info[1]}", platform.machine()
    if python not in bundle["pythons"] or machine != bundle["machine"]:
        print(f"error: {sys.executable} is Python {python} on {machine}; this bundle is for Python "
              f"{', '.join(bundle['pythons'])} on {bundle['machine']}. Name another interpreter "
              f"(./install.sh --python /path/to/python), or make a bundle for this one "
              f"(scripts/offline_bundle.sh --python {python} --platform manylinux_2_28_{machine})",
              file=sys.stderr)  # fmt: skip
        return 1
    found = list(problems(bundle["assumed"] if when == "before" else {**bundle["assumed"], **bundle["brought"]}))
    if when == "before" and not found:
        found = [reason for name in ("torch", "lightning") if (reason := importable(name))]
    if found:
        print(f"error: {sys.executable} lacks what this bundle takes for granted:", *found, sep="\n  ", file=sys.stderr)
        print(AGAIN if when == "before" else HIDDEN, file=sys.stderr)
        return 1
    missing = [name for name in bundle["left_out"] if any(problems({name: ""}))]
    if when == "after" and missing:
        print(f"not in this bundle and not here: {', '.join(missing)}; what needs them says so (docs/offline.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
