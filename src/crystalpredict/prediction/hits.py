"""Write the structures of selected rows with their predictions, and copy their files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crystalpredict.errors import StructureError
from crystalpredict.io.cell_writers import CellWriter, cell_writer
from crystalpredict.io.copies import copier
from crystalpredict.io.entries import Source
from crystalpredict.prediction.extra_columns import crystal_of
from crystalpredict.prediction.rows import Prediction, record
from crystalpredict.properties import Property

LOG = logging.getLogger(__name__)
BESIDE = ("path", "index", "n_atoms", "error")  # fields that a file with a structure has in its own way, or not


@dataclass(frozen=True)
class Hits:
    """Writes structures and copies files of rows with values; what cannot be written costs a line of the log.

    Attributes:
        properties: Of the rows.
        intervals: Whether rows have intervals.
        extra: Further columns.
        write: Writes a structure with its predictions; None: they are not written.
        copy: Copies what a structure was read from; None: nothing is copied.
        failed: Paths of the rows of which a structure was not written, or a file not copied.
    """

    properties: Sequence[Property]
    intervals: bool
    extra: Sequence[str] = field(default_factory=tuple)
    write: CellWriter | None = None
    copy: Callable[[Source], None] | None = None
    failed: list[str] = field(default_factory=list)

    def add(self, row: Prediction) -> None:
        """Write a row, unless it has no values."""
        if not row.is_predicted:
            return
        try:
            if self.write:
                self.write(row.path, row.index, crystal_of(row), self.info_of(row))
        except StructureError as error:
            self.failed.append(row.path)
            LOG.warning("%s: structure not written: %s", row.path, error)
        try:
            if self.copy and row.source is not None:
                self.copy(row.source)
        except (StructureError, OSError) as error:
            self.failed.append(row.path)
            why = f"cannot be read or written ({error.strerror})" if isinstance(error, OSError) else error
            LOG.warning("%s: not copied: %s", row.path, why)

    def info_of(self, row: Prediction) -> dict[str, Any]:
        """Return the fields of a row that have a value, warnings joined by `; `."""
        fields = record(row, self.properties, self.intervals, self.extra)
        fields["warnings"] = "; ".join(row.warnings)
        fields = {"reduced_formula": fields.pop("formula"), **fields}  # `formula` is ASE's, of the cell
        named = {name: value for name, value in fields.items() if name not in BESIDE}
        return {name: _plain(value) for name, value in named.items() if value not in (None, "")}


@contextmanager
def hits_written(
    structures: Path | None,
    copies: Path | None,
    properties: Sequence[Property],
    intervals: bool,
    extra: Sequence[str] = (),
    *,
    replace: bool = False,
    final_path: Callable[[], Path] | None = None,
) -> Iterator[Hits]:
    """Yield what writes the structures of rows, and copies their files.

    Args:
        structures: Folder, .extxyz or .db of the structures; None: they are not written.
        copies: Folder of the copies; None: nothing is copied.
        properties: Of the rows.
        intervals: Whether rows have intervals.
        extra: Further columns of the rows.
        replace: Whether copies from before may be replaced.
        final_path: Called at the end; returns the path of the file of structures, if it is to be another one.
    """
    with ExitStack() as stack:
        write = stack.enter_context(cell_writer(structures, final_path)) if structures else None
        yield Hits(properties, intervals, extra, write, copier(copies, replace=replace) if copies else None)


def _plain(value: Any) -> Any:
    """Return a list or an object as text, and any other value unchanged."""
    from crystalpredict.io.cell_values import text_of

    return text_of(value) if isinstance(value, list | dict) else value
