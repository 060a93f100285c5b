"""Structures in, rows out: the Predictor, the same for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from math import isfinite
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from crystalpredict.batching import collate, split_by_atoms
from crystalpredict.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.devices import atoms_at_once, choose_device, is_out_of_memory
from crystalpredict.properties import Property, find_property
from crystalpredict.reading import CHUNK_FILES, merge_entries
from crystalpredict.registry import find_model
from crystalpredict.structures import Entry, entry_of_structure, read_entries

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

WINDOW_ATOMS = 8000  # atoms listed before they are sorted into batches
WINDOW_ENTRIES = 1000
PART_ATOMS = 384  # padded together: more than in training, for there are more alike to choose from


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

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", targets: Sequence[str] = (), batch_atoms: int | None = None
    ) -> None:
        """`targets`, names or aliases of properties, give the columns and their order; none: all of the model.

        `batch_atoms` go through the network at once, None: as many as suit the device. Where memory runs out, half.
        """
        self.checkpoint = checkpoint
        self.device = choose_device(device)
        self.batch_atoms = batch_atoms or atoms_at_once(self.device)
        self.model = checkpoint.model.to(self.device).eval()
        wanted = [find_property(name, checkpoint.properties) for name in targets] or checkpoint.properties
        self.properties: tuple[Property, ...] = tuple(dict.fromkeys(wanted))
        self.columns = [prop.column for prop in self.properties]
        """Columns of the predicted values, each with its unit in its name."""

    def predict(
        self, structures: Iterable[str | PathLike[str] | Structure], *, reduce: bool = True
    ) -> list[Prediction]:
        """Predictions for files and pymatgen structures, in their order; failures are rows with an `error`.

        A file of several structures gives several rows. `reduce`: compute one of each kind of equivalent atoms only.
        """
        return list(self.stream(self._entries(structures, reduce)))

    def stream(self, entries: Iterable[Entry], busy: Callable[[], int] = lambda: 0) -> Iterator[Prediction]:
        """Predictions in the order of the entries, a window of them in memory at a time; `busy` as for `windows`."""
        return chain.from_iterable(self.windows(entries, busy))

    def windows(self, entries: Iterable[Entry], busy: Callable[[], int] = lambda: 0) -> Iterator[Iterator[Prediction]]:
        """The predictions of `stream` by windows: what is computed together depends on nothing before it.

        `busy` says how many cores others use at present; the rest is used here.
        """
        threads = torch.get_num_threads()
        window: list[Entry] = []
        atoms = 0
        try:
            for entry in entries:
                window.append(entry)
                atoms += entry.neighbors.size if entry.neighbors else 0
                if atoms >= WINDOW_ATOMS or len(window) >= WINDOW_ENTRIES:
                    torch.set_num_threads(max(1, threads - busy()))
                    yield self._window(window)
                    window, atoms = [], 0
            torch.set_num_threads(threads)
            yield self._window(window)
        finally:
            torch.set_num_threads(threads)

    def _window(self, entries: list[Entry]) -> Iterator[Prediction]:
        found = [(entry.crystal, entry.neighbors) for entry in entries if entry.crystal and entry.neighbors]
        outputs, too_large = self._outputs([crystal for crystal, _ in found], [edges for _, edges in found])
        decoded = self.checkpoint.decode(outputs)
        table = np.stack([decoded[prop.name] for prop in self.properties], axis=1)  # (crystals, properties)
        rows = enumerate(table.tolist())
        for entry in entries:
            values: dict[str, float] = {}
            error, notes = entry.error, entry.warnings
            if edges := entry.neighbors:
                row, numbers = next(rows)
                if all(map(isfinite, numbers)):
                    values = dict(zip(self.columns, numbers, strict=True))
                elif row in too_large:
                    error = f"not enough memory on the {self.device.type} device for {edges.size} atoms: try another"
                else:
                    error = "the prediction is not a number: the cell is far from anything known"
                if edges.widths.min() == 1:
                    isolated = int(edges.counts[edges.widths == 1].sum())
                    notes += (f"{isolated} atoms have no neighbour within {self.model.config.radius:g} Å",)
            yield Prediction(entry.path, entry.index, entry.formula, entry.n_atoms, values, notes, error)

    def _outputs(self, crystals: list[Crystal], neighbors: list[Neighbors]) -> tuple[FloatArray, set[int]]:
        """Standardised outputs (crystals, outputs), and the rows of crystals that do not fit into memory."""
        outputs = np.full((len(crystals), self.model.config.outputs), np.nan)
        part_atoms = PART_ATOMS if self.device.type == "cpu" else self.batch_atoms
        sizes, widths = (np.array([getattr(edges, name) for edges in neighbors]) for name in ("size", "widest"))
        batches = split_by_atoms(sizes, widths, self.batch_atoms)
        too_large: set[int] = set()
        while batches:
            rows = batches.pop()
            try:
                batch = collate(
                    [crystals[row] for row in rows], [neighbors[row] for row in rows], part_atoms=part_atoms
                )
                with torch.inference_mode():
                    outputs[rows] = self.model(batch.to(self.device)).cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    too_large.add(int(rows[0]))
                    continue
                self.batch_atoms = max(1, int(sizes[rows].sum()) // 2)
                batches += np.array_split(rows, 2)
        return outputs, too_large

    def _entries(self, structures: Iterable[str | PathLike[str] | Structure], reduce: bool) -> Iterator[Entry]:
        if isinstance(structures, str | Path) or hasattr(structures, "lattice"):
            structures = [structures]  # type: ignore[list-item]
        radius = self.model.config.radius
        numbered = enumerate(structures)
        while some := list(islice(numbered, CHUNK_FILES)):
            entries: list[Entry] = []
            for number, item in some:
                if isinstance(item, str | PathLike):
                    entries += read_entries(fspath(item), radius)
                else:
                    entries.append(entry_of_structure(item, radius, index=number))
            yield from merge_entries(entries, radius) if reduce else entries


def load_model(
    name: str | PathLike[str] | None = None,
    device: str = "auto",
    targets: Sequence[str] = (),
    batch_atoms: int | None = None,
) -> Predictor:
    """A Predictor of a bundled model or of a checkpoint folder; None is the default model."""
    checkpoint = load_checkpoint(find_model(None if name is None else fspath(name)))
    return Predictor(checkpoint, device, targets, batch_atoms)
