"""`crystalpredict report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.cli.options import OUTPUT, Force, Quiet, between, output_option
from crystalpredict.cli.terminal import say
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.prediction.predictions import Predictions

SUFFIXES = (".html", ".htm")
OURS = b'<meta name="generator" content="crystalpredict report">'


def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            show_default=False,
            help="What predict wrote: .csv, .json, .jsonl or .parquet, also compressed.",
        ),
    ],
    output: Annotated[Path, output_option("The page to write.", metavar="FILE.html")],
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="[-]COLUMN",
            show_default=False,
            rich_help_panel=OUTPUT,
            help="What makes a row good: the smallest value of a column or, with a minus sign, the largest. Default: "
            "hull_distance or e_above_hull, if there is one, else the order of the rows.",
        ),
    ] = None,
    cells: Annotated[
        int,
        typer.Option(
            callback=between(0, 200),
            metavar="N",
            rich_help_panel=OUTPUT,
            help="Best rows whose unit cells are drawn, 200 at most.",
        ),
    ] = 12,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, rich_help_panel=OUTPUT, help="Title of the page.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about the rows of predict: charts, unit cells, and a table that sorts and filters.

    Example: crystalpredict report results.csv -o screen.html
    """  # fmt: skip
    refuse_page(output, [results], force=force)
    write_page(results, output, sort, cells, title, quiet=quiet)


def refuse_page(page: Path | None, others: Sequence[str | Path], *, force: bool, resume: bool = False) -> None:
    """Raise UsageError if a page cannot be written here, or would replace one of the others.

    Args:
        page: The page; None: there is none.
        others: Files that are read or written too.
        force: Whether an earlier file may be replaced.
        resume: Whether a page that this command wrote before may be replaced.
    """
    if page is None:
        return
    if page.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{page}: the page is HTML: name a file that ends in {SUFFIXES[0]}")
    refuse_unwritable(page, others, force=force or (resume and _is_page(page)))


def _is_page(path: Path) -> bool:
    """Whether a file is a page about a screen."""
    try:
        with path.open("rb") as file:
            return OURS in file.read(2000)
    except OSError:
        return False


def write_page(
    results: Path | Predictions, page: Path, sort: str | None = None, cells: int | None = None,
    title: str | None = None, *, quiet: bool = False,
) -> None:  # fmt: skip
    """Write the page of a screen, and print where it is."""
    from crystalpredict.evaluation.screen_page import DEFAULT_CELLS, screen_report

    screen_report(results, page, sort=sort, cells=DEFAULT_CELLS if cells is None else cells, title=title)
    if not quiet:
        say(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")
