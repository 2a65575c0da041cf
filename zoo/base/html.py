"""Pages that need no network: what every one of them is written with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.base.files import atomic


def write_html(
    path: Path, package: str, template: str, data: Mapping[str, Any], filters: Mapping[str, Any] | None = None
) -> Path:
    """Fill a template of this package, into a folder that is made if need be, and return the path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= dict(filters or {})
    html = environment.get_template(template).render(**data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(html.encode(errors="backslashreplace"))  # half a character, as JSON can hold, is shown as it is
    return path


def script_data(data: Any) -> str:
    """Plain data as JSON that may stand within a script.

    No ``<`` is left: behind ``<!--<script>`` a browser reads over the script's end.
    """
    return json.dumps(data).replace("<", "\\u003c")


def drawings(charts: Callable[[], Iterable[tuple[str, dict[str, Any]]]], again: str) -> dict[str, Any]:
    """What a page with charts needs: their names, themselves, the library that draws them, and what is missing.

    Without the packages that make and draw them there are none: the page says so, and how to get them.
    """
    try:
        found, library, missing = dict(charts()), plotting_library(), None
    except ImportError as error:
        found, library = {}, ""
        missing = (
            f"no charts: they need the packages altair and vl-convert-python ({error}); "
            f"type: pip install altair vl-convert-python, then {again}"
        )
        warnings.warn(missing, stacklevel=2)
    return {"charts": list(found), "specs": script_data(found), "library": library, "missing": missing}


def plotting_library() -> str:
    """Vega, as a script to stand in the page: vl-convert's, which offline bundles carry as a file without the rest."""
    kept = Path(__file__).with_name("vega.js")
    if kept.exists():
        bundle = kept.read_text()
    else:
        import vl_convert

        bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")


def plain_chart(chart: Any) -> dict[str, Any]:
    """An Altair chart as plain data, in the pages' style."""
    styled = chart.configure_view(stroke=None).configure_axis(grid=True, gridColor="#eee")
    result: dict[str, Any] = styled.to_dict(validate=False)
    return result
