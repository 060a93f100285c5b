"""Further columns of rows: those kept from a table, and `duplicate_of`; and crystals that are read again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crystalpredict.errors import StructureError
from crystalpredict.io.entries import Entry
from crystalpredict.io.reader import read_source
from crystalpredict.io.text import refuse_pipe
from crystalpredict.prediction.kept import KeptColumns
from crystalpredict.prediction.resume import HandedOut
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.selection import DUPLICATE_OF, Selection

if TYPE_CHECKING:
    from crystalpredict.crystals.crystal import Crystal
    from crystalpredict.prediction.duplicates import Duplicates

LOG = logging.getLogger(__name__)
RADIUS = 3.0  # Å, of the neighbours of a crystal that is read again, which are not used
FILES_AT_HAND = 4  # of several structures, of which some are read again


@dataclass
class ExtraColumns:
    """Adds further columns to rows.

    Attributes:
        kept: Columns kept from tables.
        duplicates: Finds crystals that are the same as an earlier one; None: there is no such column.
        keep_sources: Whether rows have their sources, to be read again.
    """

    kept: KeptColumns = field(default_factory=KeptColumns)
    duplicates: Duplicates | None = None
    keep_sources: bool = False

    def __bool__(self) -> bool:
        return self.keep_sources or bool(self.kinds)

    @property
    def kinds(self) -> dict[str, str]:
        """What the columns hold, by their names."""
        return {**({DUPLICATE_OF: "text"} if self.duplicates else {}), **self.kept.kinds}

    def added(self, row: Prediction, given: HandedOut) -> Prediction:
        """Return a row with the further columns.

        Args:
            row: The row.
            given: Its source, from the cursor.
        """
        values, texts = self.kept.values(given.cells)
        row = replace(row, extra=values, extra_texts=texts, source=given.source)
        if self.duplicates and row.is_predicted:
            try:
                first = self.duplicates.first_like(row.path, row.index, row.formula, crystal_of(row))
            except StructureError as error:
                LOG.warning("%s: not compared with the others: %s", row.path, error)
            else:
                row.extra[DUPLICATE_OF] = first or None
        return row

    def skips(self, selection: Selection, entry: Entry, cells: Mapping[str, Any]) -> bool:
        """Whether a structure need not be computed, because its row cannot be selected.

        Args:
            selection: Of the rows.
            entry: The structure.
            cells: The other cells of its row in a table.
        """
        fields = {"path": entry.path, "index": entry.index, "formula": entry.formula, "n_atoms": entry.n_atoms}
        return selection.fails({**fields, **self.kept.values(cells)[0]})


def crystal_of(row: Prediction) -> Crystal:
    """Return the crystal that the values of a row are of: relaxed, or read again from its source.

    Raises:
        StructureError: It cannot be read again, such as one from a pipe.
    """
    if row.relaxed:
        return row.relaxed
    if row.source is None:
        raise StructureError("its source is not at hand")
    if isinstance(row.source, str):
        try:
            refuse_pipe(row.source)
        except OSError as error:
            raise StructureError(f"cannot be read again ({error.strerror})") from None
        entries = _entries_of_file(row.source)
    else:
        entries = tuple(read_source(row.source, RADIUS))
    found = next((entry for entry in entries if entry.index == row.index), None)
    if found is None or found.crystal is None:
        raise StructureError(found.error if found and found.error else "it changed since it was predicted")
    if found.formula != row.formula or found.n_atoms != row.n_atoms:
        raise StructureError("it changed since it was predicted")
    return found.crystal


@lru_cache(maxsize=FILES_AT_HAND)
def _entries_of_file(path: str) -> tuple[Entry, ...]:
    return tuple(read_source(path, RADIUS))
