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


def test_a_contestant_keeps_its_colour_whoever_stands_beside_it():
    from zoo.base.html import PALETTE, colours

    names = [
        "transformer",
        "lstm",
        "mamba2",
        "gru",
        "xlstm",
        "deltanet",
        "hybrid",
        "gla",
        "rwkv7",
        "retnet",
        "kda",
        "bert",
    ]
    for many in range(1, 13):
        page_colours = colours(names[:many])
        assert max(page_colours.count(colour) for colour in page_colours) == (1 if many <= len(PALETTE) else 2)
        assert page_colours == colours(reversed(names[:many]))
    alone = {name: colours([name])[0] for name in names}
    kept = changed = 0
    for one in range(len(names) - 4):
        page = sorted(names[one : one + 5])
        for name, colour in zip(page, colours(page), strict=True):
            wants = [other for other in page if alone[other] == alone[name]]
            kept += colour == alone[name]
            changed += colour != alone[name]
            if len(wants) == 1 and colour != alone[name]:  # whoever gave way elsewhere took it
                assert colours(page).count(alone[name]) == 1
    assert kept > 2 * changed, (kept, changed)
