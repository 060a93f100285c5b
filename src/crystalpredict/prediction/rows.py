"""What is said of a structure: rows of predictions and of features. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.errors import UsageError
from crystalpredict.uncertainty.intervals import LEVELS, SHOWN


@dataclass(frozen=True)
class Prediction:
    """One row: a structure asked for, its predicted values by column name, or the reason why there are none.

    bounds: by column, lower and upper ends (levels, 2) of the intervals of LEVELS; none if the model is not calibrated.
    """

    path: str
    index: int
    formula: str
    n_atoms: int | None
    values: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    bounds: dict[str, FloatArray] = field(default_factory=dict, compare=False)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """By column, the interval that holds the true value in 90 % of cases."""
        return {column: self.interval(column) for column in self.bounds}

    def interval(self, column: str, level: int = SHOWN) -> tuple[float, float]:
        """Lower and upper end of the interval of a column; percent, one of LEVELS; UsageError without one."""
        if column not in self.bounds:
            raise UsageError(f"no interval of {column!r}: there are those of {', '.join(self.bounds) or 'nothing'}")
        if level not in LEVELS:
            raise UsageError(f"no interval of {level!r} %: choose from {', '.join(map(str, LEVELS))}")
        low, high = self.bounds[column][LEVELS.index(level)].tolist()
        return low, high

    def __getitem__(self, column: str) -> float:
        return self.values[column]


@dataclass(frozen=True)
class Embedding:
    """One row: a structure asked for and the network's features of it, or the reason why there are none.

    features (D,), the mean over the atoms; or (n, D), of each atom in the order of the cell, with `numbers` (n,), the
    atomic number of each, or of the site's main occupant.
    """

    path: str
    index: int
    formula: str
    n_atoms: int | None
    features: FloatArray | None = None
    numbers: IntArray | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""
