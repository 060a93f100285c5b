"""Relax structures by an interatomic potential before they are predicted."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalpredict.checkpoints.registry import find_model, weights_sha256
from crystalpredict.crystals.cell import cell_error
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.errors import StructureError, UsageError, suppress_warnings
from crystalpredict.prediction.potentials import (
    calculator_of,
    identity_of_potential,
    reason_of,
    refuse_missing,
)
from crystalpredict.prediction.relaxed_cells import RelaxedCells, RelaxedCrystal

if TYPE_CHECKING:
    from crystalpredict.io.entries import Entry
    from crystalpredict.nn.config import ModelConfig
    from crystalpredict.prediction.predictor import Predictor

DEFAULT_FORCE, DEFAULT_STEPS = 0.05, 500


@dataclass(frozen=True)
class Relaxation:
    """How structures are relaxed before they are predicted: by FIRE, cell and atoms together.

    Attributes:
        potential: `chgnet` or `sevenn`, the extras with these names, or `module:function`, a function without arguments
            of an installed module that returns an ASE calculator.
        force: A structure is relaxed if no force on an atom or on the cell exceeds this, eV/Å.
        steps: Steps for a structure, at most.
        seconds: Time for a structure, at most; it is checked after each step. 0: no limit.
        predicted_start: Whether to start from the crystal that the model for unrelaxed structures predicts.
        cache: Folder where relaxed structures are kept and looked up; None: they are not kept.
    """

    potential: str
    force: float = DEFAULT_FORCE
    steps: int = DEFAULT_STEPS
    seconds: float = 0.0
    predicted_start: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a number out of bounds, or for a potential that is not installed."""
        if not (isfinite(self.force) and self.force > 0 and self.steps >= 1 and self.seconds >= 0):
            raise UsageError("a relaxation needs a force above 0, at least one step, and a time of 0 or more seconds")
        refuse_missing(self.potential)

    @cached_property
    def settings(self) -> str:
        """What a relaxed structure depends on, except the structure and the time limit."""
        start = f", from the crystal of {weights_sha256(find_model(unrelaxed=True))}" if self.predicted_start else ""
        return f"{identity_of_potential(self.potential)}, {self.force!r} eV/Å, {self.steps} steps{start}"

    @property
    def facts(self) -> str:
        """What rows depend on: `settings` and the time limit."""
        return f"{self.settings}, {self.seconds!r} s"


class Relaxer:
    """Relaxes entries for a model."""

    def __init__(self, relaxation: Relaxation, config: ModelConfig, device: str) -> None:
        """Load the potential.

        Args:
            relaxation: How to relax.
            config: Of the model that predicts the relaxed crystals, for their neighbour lists.
            device: Of the potential, and of the model that predicts where relaxations start.

        Raises:
            UsageError: The potential cannot be loaded.
        """
        self.relaxation, self.config, self.device = relaxation, config, device
        self.cells = RelaxedCells(relaxation.cache, relaxation.settings) if relaxation.cache else None
        self.calculator: Any = calculator_of(relaxation.potential, device)

    def windows(self, entries: Iterable[Entry]) -> Iterator[list[Entry]]:
        """Yield the entries, relaxed, in windows of one, so that an interrupted run loses one relaxation at most."""
        for entry in entries:
            yield [self.relaxed_entry(entry)]

    def relaxed_entry(self, entry: Entry) -> Entry:
        """Return the entry of the crystal that an entry relaxes to; one with an error if it cannot be relaxed."""
        from crystalpredict.io.entries import entries_of_structures
        from crystalpredict.io.reader import merge_entries
        from crystalpredict.io.to_ase import atoms_of_crystal

        given = entry.crystal
        if given is None or entry.neighbors is None:
            return entry
        try:
            found = self.relaxed(given)
            atoms, radius = atoms_of_crystal(found.crystal), self.config.radius
            (new,) = entries_of_structures([atoms], radius, entry.path, entry.index, vectors=self.config.vectors)
            if new.error:
                raise StructureError(f"relaxed to a cell that cannot be predicted: {new.error}")
        except StructureError as error:
            return replace(entry, crystal=None, neighbors=None, error=f"cannot be relaxed: {error}")
        if entry.neighbors.size < given.n_atoms:  # equivalent atoms are computed once
            (new,) = merge_entries([new], radius)
        notes = entry.warnings if found.converged else (*entry.warnings, self._not_converged(found))
        return replace(entry, crystal=new.crystal, neighbors=new.neighbors, warnings=notes, given=given)

    def relaxed(self, given: Crystal) -> RelaxedCrystal:
        """Return what a crystal relaxes to, from the cache if it is there.

        Raises:
            StructureError: It cannot be relaxed.
        """
        found = self.cells.find(given) if self.cells else None
        if found is None:
            found = self._relax(self._start(given))
            if self.cells:
                self.cells.add(given, found)
        return found

    @cached_property
    def _predictor(self) -> Predictor:
        """The model that predicts where relaxations start."""
        from crystalpredict.prediction.predictor import load_model

        return load_model(find_model(unrelaxed=True), self.device, uncertainty=False)

    def _start(self, given: Crystal) -> Crystal:
        """Return the crystal that a relaxation starts from, with the atoms of the given one in their order.

        Raises:
            StructureError: The crystal is disordered.
        """
        from crystalpredict.io.reader import entries_of_crystals
        from crystalpredict.io.to_ase import atoms_of_crystal

        atoms_of_crystal(given)  # raises the error before a model is loaded
        if not self.relaxation.predicted_start:
            return given
        try:
            entries = entries_of_crystals([given], self._predictor.config.radius)
        except ValueError:  # too many neighbours for the model
            return given
        (row,) = self._predictor.predictions(entries)
        return row.relaxed or given

    def _relax(self, start: Crystal) -> RelaxedCrystal:
        with suppress_warnings(), redirect_stdout(io.StringIO()):  # stdout is for rows
            try:
                if self.calculator is None:
                    self.calculator = calculator_of(self.relaxation.potential, self.device)
                return self._relax_by(self.calculator, start)
            except StructureError:
                self.calculator = None
                raise
            except (Exception, SystemExit) as error:
                self.calculator = None  # it may be left in any state: the next crystal gets a new one
                raise StructureError(f"the potential {self.relaxation.potential} failed ({reason_of(error)})") from None

    def _relax_by(self, calculator: Any, start: Crystal) -> RelaxedCrystal:
        """Return what a crystal relaxes to by FIRE in cell and positions.

        FIRE: E. Bitzek et al., Phys. Rev. Lett. 97 (2006) 170201. The cell moves by the logarithm of its deformation.
        """
        from ase.filters import FrechetCellFilter
        from ase.optimize import FIRE

        from crystalpredict.io.to_ase import atoms_of_crystal

        atoms = atoms_of_crystal(start)
        atoms.calc = calculator
        cell, begun, limits = FrechetCellFilter(atoms), time.monotonic(), self.relaxation
        optimizer = FIRE(cell, logfile=None)
        force, converged, seconds = np.inf, False, 0.0
        for converged in optimizer.irun(fmax=limits.force, steps=limits.steps):
            force = float(np.sqrt(np.square(cell.get_forces()).sum(axis=1).max()))
            error = "" if isfinite(force) else "a force is not a number"
            if error := error or cell_error(atoms.cell.array, len(atoms)):
                raise StructureError(f"the relaxation diverges in step {optimizer.nsteps}: {error}")
            if not converged and limits.seconds and time.monotonic() - begun > limits.seconds:
                seconds = limits.seconds
                break
        relaxed = replace(start, lattice=atoms.cell.array.copy(), positions=atoms.positions.copy())
        return RelaxedCrystal(relaxed, optimizer.nsteps, force, bool(converged), seconds)

    def _not_converged(self, found: RelaxedCrystal) -> str:
        """Return the warning of a crystal that is not relaxed."""
        time_limit = f" in {found.seconds:g} s" if found.seconds else ""
        steps = f"{found.steps} step{'' if found.steps == 1 else 's'}"
        return f"not relaxed: forces of up to {found.force:.2g} eV/Å are left after {steps}{time_limit}"
