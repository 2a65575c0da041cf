"""Pages that need no network: what every one of them is written with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.base.files import atomic
from zoo.base.kept import installed, remembered


def write_html(
    path: Path,
    package: str,
    template: str,
    data: Mapping[str, Any],
    filters: Mapping[str, Any] | None = None,
    made_of: str | None = None,
) -> Path:
    """Fill a template of this package, into a folder that is made if need be, and return the path.

    Args:
        path: of the page.
        package: which has the template.
        template: its name.
        data: what it is filled with.
        filters: functions that it calls.
        made_of: a hash of what the page is made of, which its last line holds with a hash of the page itself.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= dict(filters or {})
    page = environment.get_template(template).render(**data).encode(errors="backslashreplace")
    if made_of is not None:
        page += f"<!-- {made_of} {sha256(page).hexdigest()} -->\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(page)  # in which half a character, as JSON can hold, is shown as it is
    return path


def script_data(data: Any) -> str:
    """Plain data as JSON that may stand within a script.

    No ``<`` is left: behind ``<!--<script>`` a browser reads over the script's end.
    """
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def drawings(charts: Callable[[], Iterable[tuple[str, dict[str, Any]]]], again: str) -> dict[str, Any]:
    """What a page with charts needs: their names, themselves, the library that draws them, and what is missing.

    Without the packages that make them there are none, and without the library that draws them there is only their
    data: the page says so, and how to get them.
    """
    charts_by_name: dict[str, dict[str, Any]] = {}
    library, missing = "", None
    with ThreadPoolExecutor(1) as beside:  # the library comes from another process, so both take as long as one
        asked = beside.submit(plotting_library)
        try:
            with _unchecked():
                charts_by_name = dict(charts())
            library = asked.result()
        except ImportError as error:
            missing = (
                f"no charts: they need the packages altair and vl-convert-python ({error}); "
                f"type: pip install altair vl-convert-python, then {again}"
            )
        except (MemoryError, NoLibrary) as error:
            missing = (
                f"no charts, but their data is in the page: {str(error) or 'there is not enough memory'}; then {again}"
            )
    if missing is not None:
        warnings.warn(missing, stacklevel=2)
    return {
        "charts": list(charts_by_name),
        "specs": script_data(charts_by_name),
        "library": library,
        "missing": missing,
    }


def _unchecked() -> AbstractContextManager[None]:
    """Meanwhile, Altair does not hold each part of a chart against the schema of all charts, most of a page's time.

    Tests do that with whole charts.
    """
    from altair.utils.schemapi import debug_mode

    context: AbstractContextManager[None] = debug_mode(False)
    return context


class NoLibrary(Exception):
    """The process that was asked for the plotting library ended without it; the message says how, and what to do."""


IN_ITS_PROCESS = """
import resource, sys
import vl_convert
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.stdout.buffer.write({expression}.encode())
"""
LONGEST_SECONDS = 120.0
"""For which the library is waited; it takes one to three."""


def plotting_library() -> str:
    """Vega, as a script to stand in the page: vl-convert's, which offline bundles carry as a file without the rest.

    vl-convert starts V8, which reserves more address space than clusters grant by ``ulimit -v`` and aborts its process
    then. So it has a process of its own, and what that gave is kept until another version is installed.

    Raises:
        ImportError: the package is not installed.
        NoLibrary: the process died, or took too long.
    """
    bundled = Path(__file__).with_name("vega.js")
    if bundled.exists():
        return _within_script(bundled.read_text())
    text: str = remembered("vega", installed("vl_convert"), lambda: _by_vl_convert("vl_convert.javascript_bundle()"))
    return _within_script(text)


def as_svg(chart: Mapping[str, Any]) -> bytes:
    """A chart as a picture.

    Args:
        chart: a Vega-Lite specification.

    Raises:
        ImportError: vl-convert is not installed.
        NoLibrary: its process died, or took too long.
    """
    return _by_vl_convert("vl_convert.vegalite_to_svg(sys.stdin.read())", json.dumps(chart)).encode()


def _by_vl_convert(expression: str, given: str = "") -> str:
    """The text that an expression of vl-convert's gives in a process of its own, with some text to read."""
    if find_spec("vl_convert") is None:
        raise ImportError("No module named 'vl_convert'")
    command = [sys.executable, "-P", "-c", IN_ITS_PROCESS.format(expression=expression)]
    try:
        made = subprocess.run(command, input=given.encode(), capture_output=True, timeout=LONGEST_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibrary(f"the plotting library could not be started ({error}); try again") from error
    if made.returncode < 0:
        name = signal.Signals(-made.returncode).name
        raise NoLibrary(
            f"the plotting library's process died by {name}, as it does where address space is limited (ulimit -v); "
            f"lift the limit"
        )
    if made.returncode:
        said = (made.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise NoLibrary(f"the plotting library's process failed ({said}); mend that")
    return made.stdout.decode()


def _within_script(text: str) -> str:
    return text.replace("</script", "<\\/script")


_inlined: dict[str, list[dict[str, Any]]] = {}
"""The values of charts that are being made, by the name under which Altair knows them."""


def inline(values: list[dict[str, Any]]) -> Any:
    """Values for an Altair chart, which :func:`plain_chart` writes into it; Altair itself copies them many times."""
    import altair as alt

    name = f"values {len(_inlined)}"
    _inlined[name] = values
    return alt.NamedData(name)


def shaded(chosen: Any, shade: float, others: float) -> Any:
    """How much is seen of what a reader chose in a legend, and of the others, both from 0 to 1.

    ``alt.condition`` says the same as plain data, of which Altair looks for the type among all types that it has.
    """
    import altair as alt

    return alt.OpacityValue(others, condition={"param": chosen.name, "value": shade})


def tips(fields: list[str]) -> list[Any]:
    """What Altair shows of a point beneath the cursor; of a plain text it takes ten times as long to make the same."""
    import altair as alt

    return [alt.Tooltip(field) for field in fields]


def plain_chart(chart: Any) -> dict[str, Any]:
    """An Altair chart as plain data, in the pages' style, with numbers as exact as can be seen."""
    result: dict[str, Any] = _filled(chart.to_dict(validate=False))
    _inlined.clear()
    # by chart.configure_view and configure_axis Altair would copy the whole chart twice
    config = result.setdefault("config", {})
    axis = {"grid": True, "gridColor": "#8883", "labelSeparation": 6}  # labels that would touch are thinned
    for part, style in (("view", {"stroke": None}), ("axis", axis)):
        config[part] = config.get(part, {}) | style
    return result


def _filled(node: Any) -> Any:
    if isinstance(node, list):
        return [_filled(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("name") in _inlined and len(node) == 1:
        return {"values": [{key: _seen(value) for key, value in point.items()} for point in _inlined[node["name"]]]}
    return {key: _filled(value) for key, value in node.items()}


def _seen(value: Any) -> Any:
    """A number with six digits, of which a chart shows fewer."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


PALETTE = (
    "#4c78a8", "#f58518", "#e45756", "#72b7b2", "#54a24b", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac",
)  # fmt: skip
"""Tableau's ten colours, as Vega has them."""


def colours(names: Iterable[str]) -> list[str]:
    """A colour for each of these names, sorted: its own on every page, unless another name there wants the same one.

    Each name has an order of colours that it would like, by a hash of itself. Of two that want one colour the same one
    gives way on every page. Colours repeat when there are more than ten names.
    """

    def by_hash(of: str) -> bytes:
        return sha256(of.encode(errors="surrogatepass")).digest()

    taken: dict[str, str] = {}
    for count, name in enumerate(sorted(set(names), key=by_hash)):
        used = list(taken.values())
        liked = sorted((by_hash(f"{name} {colour}"), colour) for colour in PALETTE)
        taken[name] = next(colour for _, colour in liked if used.count(colour) <= count // len(PALETTE))
    return [taken[name] for name in sorted(taken)]
