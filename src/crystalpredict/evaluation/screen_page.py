"""One HTML page about a screen: charts, unit cells, and a table that sorts and filters, without external resources."""

from __future__ import annotations

import gzip
import os
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from math import isfinite, sqrt
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from crystalpredict._files import write_atomically
from crystalpredict._version import __version__
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS, FloatArray, IntArray
from crystalpredict.crystals.periodic_table import place_in_periodic_table
from crystalpredict.errors import printable, reason_of
from crystalpredict.evaluation.html import environment, number
from crystalpredict.evaluation.screen import (
    MAX_TEXT,
    RANKED_BY,
    Kind,
    NumberColumn,
    Screen,
    kind_of_warning,
    read_screen,
    screen_of,
)
from crystalpredict.evaluation.screen_hits import Hit, draw_hits

if TYPE_CHECKING:
    from crystalpredict.prediction.predictions import Predictions

MAX_ROWS = 100_000  # that a browser gets; the counts are of all rows
DEFAULT_CELLS = 12  # unit cells drawn
MAX_CELLS = 200
MAX_KINDS = 30  # of failures or warnings listed
MAX_HIT_VALUES = 6  # properties of a best row
NEAR_HULL = 0.05  # eV/atom: most compounds that have been synthesised are this close to the hull
LEVELS = 7  # shades of the periodic table, besides that of no structure
SCRIPTS = ("screen_data.js", "screen_charts.js", "screen_table.js")
STYLES = ("page.css", "screen.css")
MADE_BY = ("made by", f"crystalpredict {__version__}")
COMPRESSION = 5  # level of gzip: 6 takes nearly twice as long, and saves a fortieth
MAX_LINKED = 50  # rows looked at to find out what their paths are relative to


def screen_report(
    results: str | PathLike[str] | Predictions, output: str | PathLike[str], *, sort: str | None = None,
    cells: int = DEFAULT_CELLS, title: str | None = None,
) -> None:  # fmt: skip
    """Write one HTML page about the predictions of many structures.

    Args:
        results: File that `crystalpredict predict` wrote, or the rows of `crystalpredict.predict`.
        output: The page to write.
        sort: Column, or name of a property, that ranks the rows, smallest value first; with a minus sign, largest
            first. "": the order of the rows. None: the distance to the hull or the energy above it, if there is one.
        cells: Number of best rows that are shown with drawings of their unit cells, at most 200.
        title: Of the page; None: the name of the file.

    Raises:
        DataError: The file cannot be read, or is no result of `predict`.
        UsageError: There is no such column.
    """
    from crystalpredict.prediction.predictions import Predictions

    screen = screen_of(results) if isinstance(results, Predictions) else read_screen(Path(results))
    page = render_screen(screen, Path(output).absolute().parent, sort=sort, cells=cells, title=title)
    with write_atomically(Path(output)) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def render_screen(
    screen: Screen, folder: Path | None = None, *, sort: str | None = None, cells: int = DEFAULT_CELLS,
    title: str | None = None,
) -> str:  # fmt: skip
    """Return the page of a screen.

    Args:
        screen: The screen.
        folder: Where the page will be, for links to files of structures; None: it has none.
        sort: As of `screen_report`.
        cells: As of `screen_report`.
        title: As of `screen_report`.
    """
    from markupsafe import Markup

    order, ranking = screen.ranked(sort)
    shown = _shown_rows(screen, order)
    hits = draw_hits(screen, order[: min(cells, MAX_CELLS)].tolist())
    pages = environment()
    style, script = (_joined(pages.loader, names) for names in (STYLES, SCRIPTS))
    base = _base(screen, folder) if folder else None
    return pages.get_template("screen.html.j2").render(
        title=printable(title or f"Screen: {screen.name}"),
        style=Markup(style), script=Markup(script), policy=_policy(style, script),
        data=_payload(screen, shown, hits, base), shown=len(shown), screen=screen, tiles=_tiles(screen),
        ranking=ranking, hits=[_hit(screen, hit, ranking) for hit in hits],
        missing=_missing(hits), elements=_elements(screen), found_elements=bool(screen.elements()),
        failures=_kinds(screen.failures_by_reason()), warnings=_kinds(screen.warnings_by_kind()),
        sources=[(name, printable(text)) for name, text in (*screen.sources, MADE_BY)],
        left_out=[printable(name) for name in screen.left_out], max_rows=MAX_ROWS,
    )  # fmt: skip


def _joined(loader: Any, names: Sequence[str]) -> str:
    """Return the text of some files of the page, as it stands between its tags."""
    return "\n".join(loader.get_source(None, name)[0].strip() for name in names)


def _policy(style: str, script: str) -> str:
    """Return the content security policy: this script and this style, and nothing from elsewhere."""
    one, two = (b64encode(sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{one}'; script-src 'sha256-{two}'; base-uri 'none'; form-action 'none'"
    )


def _shown_rows(screen: Screen, order: IntArray) -> IntArray:
    """Return the rows that the browser gets, in their order: all of them, or the best, then those with errors."""
    if screen.rows <= MAX_ROWS:
        return np.arange(screen.rows)
    others = np.setdiff1d(np.arange(screen.rows), order)
    return np.sort(np.concatenate([order, others])[:MAX_ROWS])


def _base(screen: Screen, folder: Path) -> str | None:
    """Return what leads from the folder of the page to the paths of the rows; None if no file is found."""
    for base in (Path(), *([screen.folder] if screen.folder else [])):
        if any(path and _exists(base, path) for path in screen.paths[:MAX_LINKED]):
            try:
                return os.path.relpath(base.absolute(), folder).replace(os.sep, "/")
            except ValueError:  # another drive of Windows
                return None
    return None


def _exists(base: Path, path: str) -> bool:
    try:
        return (base / path).is_file()
    except (OSError, ValueError):
        return False


def _payload(screen: Screen, rows: IntArray, hits: Sequence[Hit], base: str | None) -> str:
    """Return the rows for the script, as JSON, gzipped, in base64: no text in it can end the element that holds it."""
    chosen = rows.tolist()
    place = {row: number for number, row in enumerate(chosen)}
    warnings = _Coded(kind_of_warning)
    errors = _Coded(reason_of)
    content = {
        "total": screen.rows,
        "row": [row + 1 for row in chosen],
        "path": [printable(screen.paths[row]) for row in chosen],
        "formula": [printable(screen.formulas[row])[:MAX_TEXT] for row in chosen],
        "index": [screen.index[row] for row in chosen],
        "atoms": screen.atoms[rows].tolist(),
        "numbers": [_numbers(column, rows) for column in screen.numbers],
        "texts": [
            {"name": one.name, "label": printable(one.label), "values": [printable(one.values[row]) for row in chosen]}
            for one in screen.texts
        ],
        "warning": [[warnings.code(text) for text in screen.warnings[row]] for row in chosen],
        "error": [errors.code(screen.errors[row]) if screen.errors[row] else -1 for row in chosen],
        "warnings": warnings.as_json(),
        "errors": errors.as_json(),
        "hits": [place[hit.row] for hit in hits],
        "axes": _axes(screen.numbers),
        "elements": list(ELEMENTS),
        "base": base,
        "name": printable(screen.name),
    }  # fmt: skip
    return b64encode(gzip.compress(msgspec.json.encode(content), COMPRESSION, mtime=0)).decode()


class _Coded:
    """Messages by number, with their kinds: most rows have the same few."""

    def __init__(self, kind_of: Callable[[str], str]) -> None:
        self.kind_of = kind_of
        self.numbers: dict[str, int] = {}
        self.kinds: dict[str, int] = {}
        self.of: list[int] = []

    def code(self, text: str) -> int:
        """Return the number of a message."""
        text = printable(text)
        if text not in self.numbers:
            self.numbers[text] = len(self.numbers)
            self.of.append(self.kinds.setdefault(self.kind_of(text), len(self.kinds)))
        return self.numbers[text]

    def as_json(self) -> dict[str, list[Any]]:
        """Return the messages, the kinds, and the kind of each message."""
        return {"texts": list(self.numbers), "kinds": list(self.kinds), "kindOf": self.of}


def _numbers(column: NumberColumn, rows: IntArray) -> dict[str, Any]:
    return {
        "name": column.name, "label": printable(column.label), "unit": column.unit, "decimals": column.decimals,
        "log": column.logarithmic, "values": column.values[rows].tolist(),
        "low": column.low[rows].tolist() if column.low is not None else None,
        "high": column.high[rows].tolist() if column.high is not None else None,
    }  # fmt: skip


def _axes(columns: Sequence[NumberColumn]) -> list[int]:
    """Return the numbers of the columns of the map: distance to the hull and band gap, if there are these."""
    names = [column.name for column in columns]
    x = next((names.index(name) for name in RANKED_BY if name in names), 0)
    gaps = [number for number, name in enumerate(names) if name.startswith("bandgap") and number != x]
    others = [number for number in range(len(names)) if number != x]
    return [x, (gaps or others or [x])[0]] if columns else []


def _tiles(screen: Screen) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page, and what they are."""
    failed = screen.failed
    tiles = [
        (f"{screen.rows:,}", "structures"),
        (f"{screen.rows - failed:,}", "predicted"),
        (f"{failed:,}", "failed"),
        (f"{screen.warned:,}", "with warnings"),
        (f"{len(set(filter(None, screen.formulas))):,}", "formulas"),
    ]
    hull = next((column for name in RANKED_BY for column in screen.numbers if column.name == name), None)
    if hull is not None:
        near = int((hull.values <= NEAR_HULL).sum())
        tiles.append((f"{near:,}", f"at most {NEAR_HULL:g} eV/atom above the hull"))
    return tiles


def _hit(screen: Screen, hit: Hit, ranking: str) -> dict[str, Any]:
    """Return what the template needs about one of the best rows; what they are ranked by comes first."""
    from markupsafe import Markup

    row = hit.row
    columns = [column for column in screen.numbers if isfinite(column.values[row])]
    columns.sort(key=lambda column: ranking.rpartition(", ")[0] != column.label)
    return {
        "number": row + 1,
        "formula": formula_parts(printable(screen.formulas[row])),
        "path": printable(screen.paths[row]),
        "atoms": "" if np.isnan(screen.atoms[row]) else f"{screen.atoms[row]:,.0f}",
        "svg": Markup(hit.svg),
        "reason": printable(hit.reason),
        "values": [(column.label, *_value(column, row), column.unit) for column in columns[:MAX_HIT_VALUES]],
        "texts": [
            (column.label, printable(column.values[row])) for column in screen.texts if column.values[row]
        ][:2],
        "warnings": [printable(text) for text in screen.warnings[row]],
    }  # fmt: skip


def _value(column: NumberColumn, row: int) -> tuple[str, str]:
    """Return a value and its interval as text, with as many digits as the table of a terminal has."""
    value = float(column.values[row])
    if column.decimals is None:
        return number(value), ""
    ends: list[FloatArray] = [end for end in (column.low, column.high) if end is not None]
    text = [f"{end[row]:.{max(column.decimals - 2, 0)}f}" for end in ends if isfinite(end[row])]
    return f"{value:.{max(column.decimals - 1, 0)}f}", " to ".join(text) if len(text) == 2 else ""


def formula_parts(formula: str) -> list[tuple[str, bool]]:
    """Return the parts of a formula, and whether each is a subscript."""
    parts = re.split(r"((?<=[A-Za-z)])[0-9.]+)", formula)
    return [(part, place % 2 == 1) for place, part in enumerate(parts) if part]


def _missing(hits: Sequence[Hit]) -> str:
    """Return a sentence about the unit cells that could not be drawn."""
    missing = [hit for hit in hits if not hit.svg]
    if not missing:
        return ""
    if len(missing) < len(hits):
        return f"{len(missing)} of {len(hits)} unit cells are not drawn; their rows say why."
    return "No unit cell is drawn: the structures of these rows could not be read again where the page was made."


def _elements(screen: Screen) -> list[dict[str, Any]]:
    """Return the cells of the periodic table, with their shades."""
    counts = screen.elements()
    most = max(counts.values(), default=1)
    cells = []
    for symbol in ELEMENTS:
        count = counts.get(symbol, 0)
        level = min(1 + int(LEVELS * sqrt(count / most)), LEVELS) if count else 0
        row, column = place_in_periodic_table(ATOMIC_NUMBERS[symbol])
        cells.append(
            {
                "symbol": symbol,
                "count": f"{count:,}",
                "short": _short(count),
                "level": level,
                "row": row,
                "column": column,
            }
        )
    return cells


def _short(count: int) -> str:
    """Return a count in at most four characters."""
    if count < 10_000:
        return str(count) if count else ""
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.0f}M"


def _kinds(kinds: Sequence[Kind]) -> dict[str, Any]:
    """Return the most frequent kinds of failures or warnings, and how many others there are."""
    most = max((kind.count for kind in kinds), default=1)
    listed = [
        {"name": printable(kind.name), "count": f"{kind.count:,}", "share": max(1, round(100 * kind.count / most)),
         "row": kind.row + 1, "example": printable(kind.example)}
        for kind in kinds[:MAX_KINDS]
    ]  # fmt: skip
    others = kinds[MAX_KINDS:]
    return {"listed": listed, "others": len(others), "rows": sum(kind.count for kind in others)}
