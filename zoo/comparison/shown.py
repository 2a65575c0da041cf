"""What ``zoo.compare`` returns: a ledger that shows the answer and a table in a notebook."""

from __future__ import annotations

from html import escape

from zoo.comparison.answer import answer
from zoo.comparison.ledger import Ledger
from zoo.comparison.matrix import legend, matrix


class Comparison(Ledger):
    """A :class:`~zoo.comparison.ledger.Ledger` with rich display."""

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in answer(self))
        head = "".join(f"<th>{escape(task)}</th>" for task in self.tasks)
        cells_of = matrix(self)
        rows = "".join(
            f"<tr><td>{escape(contestant)}</td>"
            + "".join(f"<td>{escape(str(cells.get(task, 'not asked')))}</td>" for task in self.tasks)
            + "</tr>"
            for contestant, cells in cells_of.items()
        )
        table = f"<table><tr><th>contestant</th>{head}</tr>{rows}</table>"
        failed = f"<p>{len(self.failures)} of {len(self.rows)} runs failed</p>" if self.failures else ""
        page = f"<p>the whole report: {escape(str(self.folder / 'report.html'))}</p>"
        return f"<b>{escape(self.name)}</b><ul>{said}</ul>{table}<p>{escape(legend(cells_of))}</p>{failed}{page}"
