"""Read known phases from a file: entries of pymatgen, or a table of formulas and energies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from crystalpredict.errors import DataError, printable
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.io.mp2020 import anions_of_entry
from crystalpredict.io.table_formats import rows_of
from crystalpredict.prediction.conventions import bundled_elements, shift_to
from crystalpredict.prediction.stability import Hull, bundled_reference
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.reference import Composition, Phase, ReferenceEnergies

FORMULA_COLUMNS = ("formula", "composition", "formula_pretty", "pretty_formula", "reduced_formula")
IDENTIFIER_COLUMNS = ("id", "entry_id", "material_id", "name", "path")
FORMATION_COLUMNS = (
    "formation_energy", "formation_energy_eV_per_atom", "formation_energy_per_atom", "formation_energy_peratom",
)  # fmt: skip
TOTAL_COLUMNS = ("total_energy", "total_energy_eV_per_atom", "energy_per_atom")
COLUMNS_OF_A_ROW = "needs a formula, and formation_energy or total_energy in eV/atom"
PBE_RUNS = ("GGA", "GGA+U", "GGA_U", "PBE", "PBE+U")


def hull_of(
    entries: Path | None = None, *, reference: bool = True, convention: Convention | str = Convention.mp2018
) -> Hull:
    """Return the hull of the reference that comes with the package, of the phases in a file, or of both.

    Args:
        entries: file of phases; None: no others.
        reference: whether the reference is used, too.
        convention: of formation energies: `mp2018`, `mp2020` or `uncorrected`.

    Raises:
        DataError: A row of the file is no phase.
        UsageError: There is no such convention.
    """
    convention = Convention.of(convention)
    if entries is None and reference:
        return Hull(convention=convention)
    own = list(read_phases(entries, convention)) if entries else []
    return Hull(join_phases(own, reference=reference, convention=convention), convention)


def join_phases(own: Sequence[Phase], *, reference: bool, convention: Convention) -> ReferenceEnergies:
    """Return phases of one's own, joined to the reference that comes with the package if it is used.

    Args:
        own: phases with formation energies in the convention.
        reference: whether the reference is used, too.
        convention: of formation energies.
    """
    if not reference:
        return ReferenceEnergies.of_phases(own)
    return bundled_reference(convention).with_phases(own) if own else bundled_reference(convention)


def read_phases(path: Path, convention: Convention = Convention.mp2018) -> Iterator[Phase]:
    """Yield the phases in a file.

    Args:
        path: JSON with pymatgen's ComputedEntry objects (a list, or one on each line), whose energies are those of PBE
            or PBE+U calculations with the settings of the Materials Project; or a table with the columns formula, and
            formation_energy or total_energy in eV/atom, and perhaps id.
        convention: to which total energies are converted, and in which formation energies are.

    Raises:
        DataError: The file cannot be read, or a row is no phase.
    """
    found = False
    for number, row in enumerate(rows_of(path)):
        found = True
        name = f"{path}: row {number}"
        if isinstance(row, str):
            raise DataError(f"{name}: {row}")
        try:
            yield _phase_of(row, f"{path.name}#{number}", convention)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from None
    if not found:
        raise DataError(f"{path}: no phases: each row {COLUMNS_OF_A_ROW}")


def _phase_of(row: dict[str, Any], default_name: str, convention: Convention) -> Phase:
    """Return the phase in a row of a table or in an entry; ValueError if it is not a phase."""
    name = next((str(row[key]) for key in IDENTIFIER_COLUMNS if row.get(key)), default_name)
    composition = _composition_of(row)
    atoms = sum(composition.values())
    formation, total = _number(row, FORMATION_COLUMNS), _number(row, TOTAL_COLUMNS)
    if formation is None and total is None and isinstance(row.get("composition"), dict):
        _refuse_other_functional(row)
        energy = _number(row, ("energy",))  # of the cell, without corrections, as ComputedEntry writes it
        total = None if energy is None else energy / atoms
    if formation is None:
        if total is None:
            raise ValueError(f"no energy: it {COLUMNS_OF_A_ROW}")
        oxide_type, sulfate = anions_of_entry(row, composition)
        formation = total - bundled_elements().energy(composition, oxide_type)
        formation += shift_to(convention, composition, oxide_type, sulfate=sulfate)
        if not isfinite(formation):
            raise ValueError("an element without a reference energy: give formation_energy instead")
    return Phase(composition, formation, printable(name))


def _composition_of(row: dict[str, Any]) -> Composition:
    cell = next((row[key] for key in FORMULA_COLUMNS if row.get(key)), None)
    if cell is None:
        raise ValueError(f"no formula: it {COLUMNS_OF_A_ROW}")
    if isinstance(cell, dict):
        cell = "".join(f"{symbol}{amount}" for symbol, amount in cell.items())
    return composition_of_formula(str(cell))


def _number(row: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    """Return the first value of some keys, None if there is none; ValueError if it is not a number."""
    for key in keys:
        if (value := row.get(key)) not in (None, ""):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                number = float("nan")
            if not isfinite(number):
                raise ValueError(f"{key} is {str(value)[:40]!r}, no number")
            return number
    return None


def _refuse_other_functional(row: dict[str, Any]) -> None:
    """Raise ValueError for an entry of another functional than PBE, whose energies are not comparable."""
    parameters = row.get("parameters")
    run_type = str(parameters.get("run_type") or "GGA") if isinstance(parameters, dict) else "GGA"
    if run_type.strip() not in PBE_RUNS:
        raise ValueError(f"an entry of {run_type[:20]}, but the reference is of PBE: give formation_energy instead")
