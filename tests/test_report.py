"""The page: self-contained, small, and without an error in a real browser."""

import re
import shutil
import subprocess

import pytest
from test_compare import smoke  # noqa: F401  (a fixture)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def page(folder):
    return folder / "runs/smoke/report.html"


def test_the_page_is_one_small_file_that_needs_no_network(smoke):  # noqa: F811
    text = page(smoke).read_text()
    assert len(text) < 2_000_000
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"<script|<img|<iframe|<link[^>]+href=\"http|@import|url\(", own)
    for word in (
        "95 % interval",
        "transformer",
        "lstm",
        "optimizer.lr=",
        "zoo train",
        "torch 2.",
        "zoo compare smoke",
        "Failed runs",
    ):
        assert word in text, word


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine (Debian: apt-get install chromium)")
def test_the_page_renders_in_a_browser_without_errors(smoke, tmp_path):  # noqa: F811
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=8000", "--enable-logging=stderr", "--v=0"]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", f"file://{page(smoke)}"], capture_output=True, text=True, timeout=120
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    charts = re.findall(r'<div id="([\w-]+)"[^>]*class="[^"]*vega-embed', done.stdout)
    assert len(charts) == len(re.findall(r'<div id="[\w-]+-(?:quality|curves|harder)"', done.stdout)) == 6
    assert done.stdout.count("<canvas") + done.stdout.count("<svg") >= 6
