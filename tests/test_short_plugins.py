"""The short plugins of docs/plugins.md keep the laws of their kinds, each in under forty lines."""

import re

import pytest
from conftest import ROOT, first

BLOCKS = re.findall(r"```python\n(\"\"\".*?)```", (ROOT / "docs/plugins.md").read_text(), re.DOTALL)
NAMES = [re.search(r'@register\("(\w+)", "(\w+)"\)', block).groups() for block in BLOCKS]


def test_they_are_short_and_of_three_kinds():
    assert [kind for kind, _ in NAMES] == ["mixer", "residual", "optimizer"]
    assert all(block.count("\n") < 40 for block in BLOCKS)


@pytest.mark.parametrize("index", first(range(len(NAMES))), ids=[kind for kind, _ in NAMES])
def test_it_keeps_its_laws_and_trains(index, tmp_path, zoo_command):
    name = NAMES[index][1]
    path = tmp_path / f"{name}_file.py"
    path.write_text(BLOCKS[index])
    done = zoo_command("check", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every law holds" in done.stdout
