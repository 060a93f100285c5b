"""What became of the rows of a run: how many, how fast, and why some failed."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.errors import DataError

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Embedding, Prediction

EXIT_SOME_FAILED, EXIT_ALL_FAILED, EXIT_INTERRUPTED = 3, 4, 130
REASONS_SAID = 5
MOST_REASONS = 1000  # kept apart: a reason that holds what is in the file is new for each file
OTHER = "other reasons"


@dataclass
class Tally:
    """Rows counted, after those of the run that is resumed."""

    rows: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.before, self.started = self.rows, time.monotonic()

    @classmethod
    def of_file(cls, path: Path) -> Tally:
        """That of the rows in a file of CSV or JSON lines; nothing has failed in a file that holds something else."""
        from crystalpredict.io.table_formats import rows_of

        tally = cls()
        with suppress(DataError):  # an empty one, too
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
            full = len(self.reasons) >= MOST_REASONS and reason not in self.reasons
            self.reasons[OTHER if full else reason] += 1

    def summary(self, done: str = "predicted") -> str:
        """Rows that were `done` and those that failed, the most frequent reasons, time and rate."""
        seconds = time.monotonic() - self.started
        rate = (self.rows - self.before) / max(seconds, 1e-3)
        said = [f"{count} {reason}" for reason, count in self.reasons.most_common(REASONS_SAID)]
        if rest := len(self.reasons) - len(said):
            said.append(f"{rest} more reasons")
        why = f" ({'; '.join(said)})" if said else ""
        return f"{self.rows - self.failed} {done}, {self.failed} failed{why} in {seconds:.1f} s, {rate:.0f}/s"

    @property
    def exit_code(self) -> int:
        """0, or that of some or all failed."""
        return 0 if not self.failed else EXIT_ALL_FAILED if self.failed == self.rows else EXIT_SOME_FAILED


def reason_of(error: str) -> str:
    """An error without what is peculiar to the file: its advice, what stands in brackets, names in quotes, numbers."""
    if "Å apart" in error:
        return "atoms too close"
    reason = re.sub(r"\s*\(.*\)|\s*\[.*\]|\s*'[^']*'|\s*\"[^\"]*\"", "", error).split(": ")[0]
    return re.sub(r"-?[0-9][0-9.e+-]*", "…", reason)[:80]
