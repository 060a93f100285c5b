"""Structures in, rows out: the Predictor, the same for the command line and for Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from crystalpredict.batching import batches_of
from crystalpredict.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.crystal import Crystal, FloatArray
from crystalpredict.devices import choose_device
from crystalpredict.neighbors import find_neighbors
from crystalpredict.properties import Property, find_property
from crystalpredict.registry import find_model
from crystalpredict.structures import Entry, entry_of_structure, read_entries

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

WINDOW_ATOMS = 8000  # atoms read before they are sorted into batches
WINDOW_ENTRIES = 1000
BATCH_ATOMS = 1000  # atoms that go through the network at once


@dataclass(frozen=True)
class Prediction:
    """One row: a structure asked for, its predicted values by column name, or the reason why there are none."""

    path: str
    index: int
    formula: str
    n_atoms: int | None
    values: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""

    def __getitem__(self, column: str) -> float:
        return self.values[column]


class Predictor:
    """A checkpoint on a device, ready to predict."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", targets: Sequence[str] = ()) -> None:
        """`targets`, names or aliases of properties, give the columns and their order; none: all of the model."""
        self.checkpoint = checkpoint
        self.device = choose_device(device)
        self.model = checkpoint.model.to(self.device).eval()
        wanted = [find_property(name, checkpoint.properties) for name in targets] or checkpoint.properties
        self.properties: tuple[Property, ...] = tuple(dict.fromkeys(wanted))

    @property
    def columns(self) -> list[str]:
        """Columns of the predicted values, each with its unit in its name."""
        return [prop.column for prop in self.properties]

    def predict(
        self, structures: Iterable[str | PathLike[str] | Structure], *, reduce: bool = True
    ) -> list[Prediction]:
        """Predictions for files and pymatgen structures, in their order; failures are rows with an `error`.

        A file of several structures gives several rows. `reduce`: compute in the primitive cell.
        """
        return list(self.stream(_entries(structures, reduce)))

    def stream(self, entries: Iterable[Entry]) -> Iterator[Prediction]:
        """Predictions in the order of the entries, a window of them in memory at a time."""
        window: list[Entry] = []
        atoms = 0
        for entry in entries:
            window.append(entry)
            atoms += entry.crystal.n_atoms if entry.crystal else 0
            if atoms >= WINDOW_ATOMS or len(window) >= WINDOW_ENTRIES:
                yield from self._window(window)
                window, atoms = [], 0
        yield from self._window(window)

    def _window(self, entries: list[Entry]) -> Iterator[Prediction]:
        outputs, isolated = self._outputs([entry.crystal for entry in entries if entry.crystal])
        decoded = self.checkpoint.decode(outputs)
        rows = iter(range(len(outputs)))
        for entry in entries:
            values: dict[str, float] = {}
            error, notes = entry.error, entry.warnings
            if entry.crystal:
                row = next(rows)
                values = {prop.column: float(decoded[prop.name][row]) for prop in self.properties}
                if not all(np.isfinite(value) for value in values.values()):
                    values, error = {}, "the prediction is not a number: the cell is far from anything known"
                if isolated[row]:
                    notes += (f"{isolated[row]} atoms have no neighbour within {self.model.config.radius:g} Å",)
            yield Prediction(entry.path, entry.index, entry.formula, entry.n_atoms, values, notes, error)

    def _outputs(self, crystals: list[Crystal]) -> tuple[FloatArray, list[int]]:
        """Standardised outputs (crystals, outputs), and how many atoms of each crystal have no neighbour."""
        radius = self.model.config.radius
        edges = [find_neighbors(crystal.lattice, crystal.positions, radius) for crystal in crystals]
        outputs = np.full((len(crystals), self.model.config.outputs), np.nan)
        with torch.inference_mode():
            for rows, batch in batches_of(crystals, edges, BATCH_ATOMS):
                outputs[rows] = self.model(batch.to(self.device)).cpu().numpy()
        return outputs, [int((np.diff(part.first) == 1).sum()) for part in edges]


def load_model(name: str | PathLike[str] | None = None, device: str = "auto", targets: Sequence[str] = ()) -> Predictor:
    """A Predictor of a bundled model or of a checkpoint folder; None is the default model."""
    return Predictor(load_checkpoint(find_model(None if name is None else fspath(name))), device, targets)


def _entries(structures: Iterable[str | PathLike[str] | Structure], reduce: bool) -> Iterator[Entry]:
    if isinstance(structures, str | Path) or hasattr(structures, "lattice"):
        structures = [structures]  # type: ignore[list-item]
    for number, item in enumerate(structures):
        if isinstance(item, str | PathLike):
            yield from read_entries(fspath(item), reduce=reduce)
        else:
            yield entry_of_structure(item, index=number, reduce=reduce)
