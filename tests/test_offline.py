"""The bundle for machines without a network: made of what is installed here, put where there are PyTorch and Lightning alone.

Nothing is downloaded: wheels are made anew from the files of installed packages. ``tests/engines/test_bundles.py`` makes
bundles of published wheels.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bundles are for Linux"),
]
LEFT_OUT = {"wandb", "vl-convert-python"}
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "ZOO_"))}
CLOSED = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
"""Whoever asks for the network is refused at once."""
ALONE = PLAIN | CLOSED | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_COMPILE": "1"}


def reached(*names, stop=()):
    """The installed packages that these need, themselves among them."""
    packages, queue = set(), list(names)
    while queue:
        name = canonicalize_name(queue.pop())
        if name in packages or name in stop:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        packages.add(name)
        queue += [r.name for r in map(Requirement, needs) if r.marker is None or r.marker.evaluate({"extra": ""})]
    return packages


THERE = reached("torch", "lightning")
"""What a cluster has."""


def wheel_of(name, folder):
    """Make anew the wheel from which this package was installed, the newest if it was more than once."""
    package = max(distributions(name=name), key=lambda each: Version(each.version))
    files = [file for file in package.files if file.parts[0] != ".." and file.suffix != ".pyc"]
    tags = [line[5:].split("-") for line in package.read_text("WHEEL").splitlines() if line.startswith("Tag: ")]
    ours = next(file.parts[0] for file in files if file.name == "METADATA")
    stem = f"{name.replace('-', '_')}-{package.version}"
    tag = f"{tags[0][0]}-{tags[0][1]}-{'.'.join(sorted({each[2] for each in tags}))}"
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w", zipfile.ZIP_DEFLATED) as file:
        for each in files:
            if each.parts[0] != ours:
                file.write(package.locate_file(each), str(each))
            elif each.name in ("METADATA", "WHEEL", "entry_points.txt"):
                file.write(package.locate_file(each), f"{stem}.dist-info/{each.name}")
        file.writestr(f"{stem}.dist-info/RECORD", "")


def within(python, *words, cwd, env=ALONE):
    """What a command says, on both streams, and its exit status."""
    done = subprocess.run([str(word) for word in (python, *words)], cwd=cwd, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    index = folder / "index"
    index.mkdir()
    for name in reached("seqzoo", "submitit", stop=THERE | LEFT_OUT) - {"seqzoo"} | {"setuptools"}:
        wheel_of(name, index)
    env = ALONE | {"PIP_FIND_LINKS": str(index), "PYTHON": sys.executable}
    status, said = within(ROOT / "scripts/offline_bundle.sh", "--to", folder / "zoo.tar.gz", cwd=folder, env=env)
    assert status == 0, said
    return folder / "zoo.tar.gz"


@pytest.fixture(scope="module")
def bundle(archive):
    """The bundle, unpacked."""
    with tarfile.open(archive) as file:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later have it
        file.extractall(archive.parent, **safely)
    return archive.parent / "zoo-offline"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the packages of a cluster alone, and an environment that does not see it yet."""
    folder = tmp_path_factory.mktemp("cluster")
    there = folder / "there"
    there.mkdir()
    for name in THERE:
        package = distribution(name)
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (there / top).exists():
                (there / top).symlink_to(package.locate_file(top))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], env=ALONE, check=True)
    # Python 3.11 puts a setuptools into it that is older than what torch needs, and where torch is that is not so
    gone = [folder / "venv/bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"]
    subprocess.run(gone, env=ALONE, check=True)
    return there, folder / "venv"


@pytest.mark.thorough
def test_a_bundle_has_what_the_zoo_needs_and_a_cluster_lacks(archive, bundle):
    assert archive.stat().st_size < 60e6
    names = {parse_wheel_filename(path.name)[0] for path in (bundle / "wheels").glob("*.whl")}
    assert not names & (THERE | LEFT_OUT)
    assert {"seqzoo", "hydra-core", "antlr4-python3-runtime", "scipy", "submitit", "attrs"} <= names
    assert next((bundle / "wheels").glob("antlr4*")).name.endswith("-py3-none-any.whl")
    facts = json.loads((bundle / "bundle.json").read_text())
    for each in facts["assumed"]:
        assert Requirement(each).name in THERE
    assert not list(bundle.rglob("tests"))


@pytest.mark.thorough
def test_one_command_installs_it_with_no_index(bundle, bare, tmp_path):
    there, venv = bare
    python = venv / "bin/python"
    status, said = within(bundle / "install.sh", "--python", python, cwd=tmp_path)
    assert status == 1
    assert "torch is not installed; expected torch" in said
    assert "Nothing was installed." in said

    (venv / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix) / "there.pth").write_text(f"{there}\n")
    assert within(python, "-c", "import hydra", cwd=tmp_path)[0] == 1
    status, said = within(bundle / "install.sh", "--python", python, cwd=tmp_path)
    assert status == 0, said
    for line in ("zoo list: well", "zoo compare smoke: well", "not here: vl-convert-python, wandb; what needs them"):
        assert line in said
    status, said = within(python, "-c", "from zoo.base import html; print(html.plotting_library())", cwd=tmp_path)
    assert status == 0, said
    assert "vegaEmbed" in said, "charts need no vl-convert there"


@pytest.mark.thorough
def test_a_bundle_that_was_altered_is_refused(bundle, tmp_path):
    (bundle / "requirements.txt").open("a").write("\n")
    try:
        status, said = within(bundle / "install.sh", "--python", sys.executable, cwd=tmp_path)
    finally:
        text = (bundle / "requirements.txt").read_text()
        (bundle / "requirements.txt").write_text(text[:-1])
    assert status == 2
    assert "unpack the archive again" in said


def module(name):
    """A script that lies in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/offline/{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


choose, check = module("choose"), module("check")


@pytest.fixture
def wheel(tmp_path):
    """As much of the zoo's wheel as is read to choose others."""
    path = tmp_path / "seqzoo-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        lines = [f"Requires-Dist: {line}\n" for line in distribution("seqzoo").requires]
        file.writestr("seqzoo-0.dist-info/METADATA", "Name: seqzoo\n" + "".join(lines))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tag": "win_amd64"}, "--platform win_amd64: expected such as manylinux_2_28_x86_64"),
        ({"pythons": ["3"]}, "--python 3: expected such as 3.12"),
        ({"extras": ["gpus"]}, "--extras gpus: there is no such extra; there are: benchmarks, cuda, "),
        ({"have": ["tensorflow"]}, "--have tensorflow: the zoo does not need it; it needs altair, "),
        ({"without": ["pytest"]}, "--without pytest: the zoo does not need it; it needs altair, "),
        ({"without": ["numpy"]}, "--without numpy: it comes with torch, lightning, so no bundle has it"),
        ({"extras": ["ray"]}, "ray is not installed in "),
    ],
    ids=str,
)
def test_a_wish_that_makes_no_sense_is_refused(changes, message, wheel, tmp_path):
    if "ray" in changes.get("extras", ()) and importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    wish = {"pythons": ["3.12"], "tag": "manylinux_2_28_x86_64", "have": [], "without": [], "extras": []} | changes
    with pytest.raises(choose.Refused) as caught:
        choose.choose(wheel, tmp_path, **wish)
    assert message in str(caught.value)


def test_wheels_of_older_systems_run_on_newer_ones():
    tags = choose.platforms("manylinux_2_17_x86_64")
    assert tags[0] == "manylinux_2_17_x86_64"
    assert {"manylinux_2_5_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)
    assert "manylinux_2_28_x86_64" not in tags
    assert "manylinux1_aarch64" not in choose.platforms("manylinux_2_28_aarch64")


def test_markers_are_judged_by_the_python_that_is_asked_for():
    texts = ["a; python_version < '3.13'", "b; platform_machine == 'aarch64'", "c; extra == 'slurm'", "d[e]>=1"]
    for python, machine, extras, expected in [
        ("3.12", "x86_64", (), ["a", "d"]),
        ("3.13", "aarch64", ("slurm",), ["b", "c", "d"]),
    ]:
        requirements = choose.applies(texts, extras, choose.environment(python, machine))
        assert [each.name for each in requirements] == expected


def test_what_holds_for_some_pythons_says_so():
    table = {"a>=1": {"3.11": {"seqzoo"}, "3.12": {"seqzoo", "b"}}, "c>=2": {"3.12": {"a"}}}
    assert choose._stated(table, ["3.11", "3.12"]) == {"a>=1": "b, seqzoo", 'c>=2; python_version == "3.12"': "a"}


def test_what_is_missing_is_said_with_who_needs_it():
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = {
        "numpy>=1": "seqzoo",
        "numpy>=99": "scipy, seqzoo",
        "no-such-package>=1": "seqzoo",
        f'no-such-package; python_version != "{here}"': "seqzoo",
    }
    old, absent = check.problems(wanted)
    assert old == f"numpy {distribution('numpy').version} is installed; expected numpy>=99, for scipy, seqzoo"
    assert absent == "no-such-package is not installed; expected no-such-package>=1, for seqzoo"


def test_options_of_the_script():
    script = ROOT / "scripts/offline_bundle.sh"
    status, said = within(script, "--pyton", "3.12", cwd=ROOT, env=dict(os.environ))
    assert (status, said) == (2, "error: there is no option --pyton; type: scripts/offline_bundle.sh --help\n")
    status, said = within(script, "--limit", cwd=ROOT, env=dict(os.environ))
    assert (status, said) == (2, "error: --limit needs a value; type: scripts/offline_bundle.sh --help\n")
    status, said = within(script, "--help", cwd=ROOT, env=dict(os.environ))
    assert status == 0
    assert "--with-tests" in said
