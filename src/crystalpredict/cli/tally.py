"""Counts of the rows of a run and of the reasons of failures."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.errors import DataError, reason_of

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Embedding, Prediction

EXIT_SOME_FAILED, EXIT_ALL_FAILED, EXIT_INTERRUPTED = 3, 4, 130
MAX_REASONS_SHOWN = 5
MAX_DISTINCT_REASONS = 1000  # counted apart: reasons that quote the file differ for each file
OTHER_REASONS = "other reasons"


@dataclass
class Tally:
    """Counts of rows, including those of the run that is resumed; `skipped`: those of structures not computed."""

    rows: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.before, self.started = self.rows, time.monotonic()

    @classmethod
    def of_file(cls, path: Path) -> Tally:
        """Return the counts of the rows in a file of CSV or JSON lines; no failures for any other file."""
        from crystalpredict.io.table_formats import rows_of

        tally = cls()
        with suppress(DataError):  # also for an empty file
            for row in rows_of(path):
                tally.rows += 1
                tally.failed += isinstance(row, dict) and bool(row.get("error"))
        return tally

    def add(self, row: Prediction | Embedding) -> None:
        """Count a row."""
        self.rows += 1
        if row.error:
            self.failed += 1
            reason = reason_of(row.error)
            full = len(self.reasons) >= MAX_DISTINCT_REASONS and reason not in self.reasons
            self.reasons[OTHER_REASONS if full else reason] += 1

    def summary(self, done: str = "predicted") -> str:
        """Return a line with the rows that were `done` and failed, the most frequent reasons, time and rate."""
        seconds = time.monotonic() - self.started
        rate = (self.rows - self.before) / max(seconds, 1e-3)
        shown = [f"{count} {reason}" for reason, count in self.reasons.most_common(MAX_REASONS_SHOWN)]
        if rest := len(self.reasons) - len(shown):
            shown.append(f"{rest} more reasons")
        why = f" ({'; '.join(shown)})" if shown else ""
        skipped = f", {self.skipped} not computed (no match)" if self.skipped else ""
        count = self.rows - self.failed - self.skipped
        return f"{count} {done}, {self.failed} failed{why}{skipped} in {seconds:.1f} s, {rate:.0f}/s"

    @property
    def exit_code(self) -> int:
        """0, or the code of some or all rows failed."""
        return 0 if not self.failed else EXIT_ALL_FAILED if self.failed == self.rows else EXIT_SOME_FAILED
