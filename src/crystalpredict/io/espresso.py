"""Read inputs and outputs of Quantum ESPRESSO's pw.x by ASE's parsers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from math import sqrt
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.castep import BOHR
from crystalpredict.io.frames import frame_text
from crystalpredict.io.text import number_of

# lines of an output on which ASE would parse energies, bands and moments, of which a structure must not depend
_RESULTS = re.compile(
    "Magnetic moment per site|Forces acting on atoms|total   stress|the Fermi energy is|highest occupied|"
    "number of k points=|End of band structure|End of self-consistent|Computed dipole along edir|Debye"
)
_LINES_OF_CELL = 5  # of CELL_PARAMETERS: title, three vectors, an empty line; ASE finds it nowhere else
MASS_TOLERANCE = 0.15  # of an isotope, as lithium-6, or of a rounded mass, relative
_UNITS = ("alat", "bohr", "angstrom", "crystal")


def frames_of_output(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structures of an output of pw.x that have a total energy, or only the last, as JSON of plain arrays.

    Raises:
        StructureError: There is none, or one is broken.
    """
    from ase.io.espresso import read_espresso_out

    from crystalpredict.io.from_ase import text_of_atoms

    found = False
    kept = "".join(line for line in StringIO(text) if not _RESULTS.search(line))
    _check_cells(kept.split("\n"))
    try:
        for atoms in read_espresso_out(StringIO(kept), index=slice(-1, None) if last else slice(None)):
            found = True
            yield text_of_atoms(atoms)
    except StructureError:
        raise
    except Exception:  # ASE raises errors of many kinds
        raise StructureError("broken output of pw.x: a cell or the positions of a step cannot be read") from None
    if not found:
        raise StructureError("an output of pw.x without a total energy: it ended early; give the input")


def _check_cells(lines: Sequence[str]) -> None:
    """Refuse an output in which a cell stands where ASE misses it, and would take the first cell instead.

    Raises:
        StructureError: There is such a cell.
    """
    cell: int | None = None
    for number, line in enumerate(lines):
        if "Program PWSCF" in line:
            cell = None
        elif line.lstrip().startswith("CELL_PARAMETERS"):
            cell = number
        elif "ATOMIC_POSITIONS" in line:
            if cell is not None and number - cell != _LINES_OF_CELL:
                raise StructureError(
                    f"broken output of pw.x: CELL_PARAMETERS on line {cell + 1} is not whole, or not directly above "
                    "its ATOMIC_POSITIONS: copy it again"
                )
            cell = None


def frames_of_input(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structure of an input of pw.x as JSON of plain arrays; `last` changes nothing, there is one.

    Raises:
        StructureError: It is broken, or its Bravais lattice or its coordinates are of a kind that is not read.
    """
    from ase.io import espresso

    try:
        groups, cards = espresso.read_fortran_namelist(StringIO(text))
        system = {name.lower(): value for name, value in groups["system"].items()}
        kind, count = int(system["ibrav"]), int(system["nat"])
    except Exception:
        raise StructureError("an input of pw.x without ibrav and nat in &SYSTEM: complete it") from None
    titles = [line for line in cards if line.upper().startswith("ATOMIC_POSITIONS")]
    if len(titles) != 1:
        raise StructureError(f"an input of pw.x with {len(titles)} cards ATOMIC_POSITIONS: one is needed")
    if "crystal_sg" in titles[0].lower():
        raise StructureError("ATOMIC_POSITIONS crystal_sg: give the output of pw.x, which has all the atoms")
    try:
        scale = _lattice_parameter(system)
        cards = [_clean(line) for line in cards]
        lattice = bravais_cell(kind, parameters(system)) if kind else espresso.get_cell_parameters(cards, scale)[0]
        atoms = espresso.get_atomic_positions(cards, count, lattice, scale or float(np.linalg.norm(lattice[0])))
        symbols = [espresso.label_to_symbol(label) for label, *_ in atoms]
        _check_masses(cards, {label: symbol for (label, *_), symbol in zip(atoms, symbols, strict=True)})
        positions = np.array([place for _, place, *_ in atoms])
    except StructureError:
        raise
    except Exception:  # ASE raises errors of many kinds
        raise StructureError("broken input of pw.x: the cell or the atomic positions cannot be read") from None
    yield frame_text(lattice, symbols, positions)


def _check_masses(cards: Sequence[str], symbols: Mapping[str, str]) -> None:
    """Refuse an input in which the mass of a species is not that of the element which its label is taken for.

    Args:
        cards: Lines of the input below its namelists, without comments.
        symbols: Element of each label.

    Raises:
        StructureError: A mass differs, as that of carbon with the label `Cup`.
    """
    from ase.data import atomic_masses, atomic_numbers

    start = next((n for n, line in enumerate(cards) if line.upper().startswith("ATOMIC_SPECIES")), len(cards))
    for line in cards[start + 1 :]:
        words = line.split()
        if len(words) < 3:  # label, mass, pseudopotential
            break
        symbol = symbols.get(words[0])
        mass = number_of(words[1])
        if symbol is None or mass in (0, 1) or (symbol == "H" and 1 < mass < 3.1):  # none, any, or that of deuterium
            continue
        expected = float(atomic_masses[atomic_numbers[symbol]])
        if abs(mass - expected) > MASS_TOLERANCE * expected:
            raise StructureError(
                f"species {words[0][:40]!r} of mass {mass:g} is read as {symbol}: name it by its element, as {symbol}1"
            )


def _clean(line: str) -> str:
    """Return a line of a card without its comment; the title of a card in capitals, as ASE expects it."""
    words = re.split("[!#]", line)[0].split(maxsplit=1)
    title = words[0].upper().split("{")[0].split("(")[0] if words else ""
    if title in ("ATOMIC_POSITIONS", "CELL_PARAMETERS"):
        rest = words[0][len(title) :] + (words[1] if len(words) > 1 else "")
        unit = rest.strip(" {}()\t").lower()
        if unit and unit not in _UNITS:
            raise StructureError(f"{title} in {unit[:40]!r}: give them in {', '.join(_UNITS)}")
        return f"{title} {unit}"
    return " ".join(words)


def _lattice_parameter(system: Mapping[str, Any]) -> float | None:
    """Return the unit `alat` in Å; None if it is not given."""
    if "celldm(1)" in system:
        return float(system["celldm(1)"]) * BOHR
    return float(system["a"]) if "a" in system else None


def parameters(system: Mapping[str, Any]) -> dict[int, float]:
    """Return celldm(1) to celldm(6) of the namelist &SYSTEM, the first in Å; or what A, B, C and cosines give for them.

    Raises:
        StructureError: Neither celldm(1) nor A is given.
    """
    if "celldm(1)" in system:
        given = {n: float(system[f"celldm({n})"]) for n in range(1, 7) if f"celldm({n})" in system}
        return given | {1: given[1] * BOHR}
    if "a" not in system:
        raise StructureError("an input of pw.x without celldm(1) or A: the size of the cell is unknown")
    a = float(system["a"])
    found = {1: a} | {n: float(system[name]) / a for n, name in ((2, "b"), (3, "c")) if name in system}
    kind = int(system["ibrav"])
    cosines = {14: {4: "cosbc", 5: "cosac", 6: "cosab"}, -12: {5: "cosac"}}.get(kind, {4: "cosab"})
    return found | {n: float(system[name]) for n, name in cosines.items() if name in system}


def bravais_cell(kind: int, celldm: Mapping[int, float]) -> FloatArray:
    """Return the cell vectors (3, 3), Å, of a Bravais lattice, as the manual of pw.x defines them under `ibrav`.

    Args:
        kind: The value of `ibrav`, not 0.
        celldm: Its parameters celldm(1) to celldm(6) by number; the first in Å.

    Raises:
        StructureError: The kind is not one of the manual, or its axes depend on the version (-13); a parameter is
            missing or impossible.
    """
    try:
        a = celldm[1]
        b, c = a * celldm.get(2, np.nan), a * celldm.get(3, np.nan)
        rows = _cubic_and_hexagonal(kind, a, c, celldm.get(4, np.nan)) or _others(kind, a, b, c, celldm)
    except ValueError:
        rows = [[np.nan] * 3] * 3
    if rows is None:
        raise StructureError(f"ibrav={kind} is not read: write ibrav=0 and CELL_PARAMETERS, or give the output of pw.x")
    if not np.isfinite(rows).all():
        raise StructureError(f"ibrav={kind} with missing or impossible celldm or A, B, C and cosines: complete them")
    return np.array(rows, dtype=float)


def _cubic_and_hexagonal(kind: int, a: float, c: float, cosine: float) -> list[list[float]] | None:
    """Return the vectors of a lattice with one or two lengths; None for the other kinds."""
    h = a / 2
    if kind in (5, -5):
        x, y, z = sqrt((1 - cosine) / 2), sqrt((1 - cosine) / 6), sqrt((1 + 2 * cosine) / 3)
        if kind == 5:
            return [[a * x, -a * y, a * z], [0, 2 * a * y, a * z], [-a * x, -a * y, a * z]]
        u, v = (z - 2 * sqrt(2) * y) * a / sqrt(3), (z + sqrt(2) * y) * a / sqrt(3)
        return [[u, v, v], [v, u, v], [v, v, u]]
    return {
        1: [[a, 0, 0], [0, a, 0], [0, 0, a]],
        2: [[-h, 0, h], [0, h, h], [-h, h, 0]],
        3: [[h, h, h], [-h, h, h], [-h, -h, h]],
        -3: [[-h, h, h], [h, -h, h], [h, h, -h]],
        4: [[a, 0, 0], [-h, h * sqrt(3), 0], [0, 0, c]],
        6: [[a, 0, 0], [0, a, 0], [0, 0, c]],
        7: [[h, -h, c / 2], [h, h, c / 2], [-h, -h, c / 2]],
    }.get(kind)


def _others(kind: int, a: float, b: float, c: float, celldm: Mapping[int, float]) -> list[list[float]] | None:
    """Return the vectors of an orthorhombic, monoclinic or triclinic lattice; None for any other number."""
    fourth, fifth, sixth = (celldm.get(n, np.nan) for n in (4, 5, 6))
    h, k, m = a / 2, b / 2, c / 2
    if kind in (12, 13):  # the angle between a and b
        second = [b * fourth, b * sqrt(1 - fourth**2), 0]
        return [[a, 0, 0], second, [0, 0, c]] if kind == 12 else [[h, 0, -m], second, [h, 0, m]]
    if kind == -12:  # the angle between a and c
        return [[a, 0, 0], [0, b, 0], [c * fifth, 0, c * sqrt(1 - fifth**2)]]
    if kind == 14:
        sine = sqrt(1 - sixth**2)
        squared = 1 + 2 * fourth * fifth * sixth - fourth**2 - fifth**2 - sixth**2
        third = [c * fifth, c * (fourth - fifth * sixth) / sine, c * sqrt(squared) / sine]
        return [[a, 0, 0], [b * sixth, b * sine, 0], third]
    return {
        8: [[a, 0, 0], [0, b, 0], [0, 0, c]],
        9: [[h, k, 0], [-h, k, 0], [0, 0, c]],
        -9: [[h, -k, 0], [h, k, 0], [0, 0, c]],
        91: [[a, 0, 0], [0, k, -m], [0, k, m]],
        10: [[h, 0, m], [h, k, 0], [0, k, m]],
        11: [[h, k, m], [-h, k, m], [-h, -k, m]],
    }.get(kind)
