"""The prose of the documentation is wrapped: no line of a page is longer than a reader's editor shows."""

import re

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WIDEST = 100


def prose(text):
    """Yield the number and the text of each line that is neither in a code block nor of a table."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        opened = re.match(r"\s*(```+|~~~+)", line)
        if fence is None and opened:
            fence = opened[1]
        elif fence is not None and line.strip() == fence:
            fence = None
        elif fence is None and not line.lstrip().startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_longer_than_100_characters(page):
    long = [f"{page.name}:{number}: {len(line)}" for number, line in prose(page.read_text()) if len(line) > WIDEST]
    assert not long, long


def test_tables_and_code_blocks_may_be_longer():
    wide = "x" * 101
    text = f"{wide}\n| {wide} |\n```text\n{wide}\n```\n{wide}\n"
    assert [number for number, line in prose(text) if len(line) > WIDEST] == [1, 6]
