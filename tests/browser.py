"""Pages opened in a real browser, if this machine has one."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome on this machine (Debian: apt-get install chromium)"
)
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.documentElement, opened = document.querySelectorAll("body > details[open]").length;
  for (const each of document.querySelectorAll("details")) each.open = !each.closest(".vega-embed");
  const scrolls = each => each && each !== document.body &&
    (/auto|scroll|hidden/.test(getComputedStyle(each).overflowX) || scrolls(each.parentElement));
  const beyond = each => {
    const box = each.getBoundingClientRect();
    return box.width && (box.right > page.clientWidth + 1 || box.left < -1);
  };
  const all = [...document.body.querySelectorAll("*:not(script, style, svg *)")];
  const wide = all.filter(each => beyond(each) && !scrolls(each.parentElement));
  parent.postMessage(JSON.stringify({
    width: page.clientWidth, whole: page.scrollWidth, opened,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, back: getComputedStyle(document.body).backgroundColor,
    charts: document.querySelectorAll(".charts canvas, .charts svg").length,
    beyond: wide.map(each => `${each.tagName} ${each.textContent.slice(0, 50)}`),
  }), "*");
}, 3000));
</script></body>"""
"""In a page: what of it stands beyond its edges and cannot be scrolled to, once everything that folds is open."""
FRAME = """<iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe><script>
addEventListener("message", event => {{
  const said = document.createElement("pre");
  said.textContent = event.data;
  document.body.append(said);
}});
</script>"""


def appearance_of(text, width, dark, folder):
    """What the probe says of a page of this text, in a frame of this many pixels; folder is an empty one."""
    before, _, after = text.rpartition("</body>")  # the library has one in a text
    (folder / "page.html").write_text(before + PROBE + after)
    (folder / "frame.html").write_text(FRAME.format(width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={folder}/profile", "--virtual-time-budget=9000", "--window-size=1500,1000",
             *(["--blink-settings=preferredColorScheme=0"] if dark else [])]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", f"file://{folder}/frame.html"], capture_output=True, text=True, timeout=120
    )
    said = re.search(r"<pre>(.*?)</pre>", done.stdout, re.S)
    assert said, done.stderr
    return json.loads(html.unescape(said[1]))


def assert_fits(layout, width):
    """Nothing of the page stands where nobody can scroll to."""
    assert width - 20 <= layout["width"] <= width
    assert layout["beyond"] == []
    assert layout["whole"] <= layout["width"] + 1, "the page itself scrolls sideways"
