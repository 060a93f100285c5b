"""POSCAR files: what they may have that pymatgen takes for something else."""

from __future__ import annotations

import re

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import volume_of_cell
from crystalpredict.errors import StructureError


def is_poscar(text: str) -> bool:
    """Whether the second line begins with a number, but no frame of XYZ, and the three after it with three each."""
    lines = text.split("\n", 5)[1:5]
    try:
        numbers = [[float(word) for word in line.split()[:3]] for line in lines[1:]]
        float(lines[0].split()[0])
    except (ValueError, IndexError):
        return False
    return [len(row) for row in numbers] == [3, 3, 3] and "lattice=" not in lines[0].lower()


def structure_of_poscar(text: str) -> Structure:
    """Structure of a POSCAR that names its elements; else StructureError, or whatever pymatgen raises."""
    from pymatgen.io.vasp.inputs import Poscar  # takes two seconds, for the spectra that pymatgen reads

    lines = text.split("\n")
    scales = _leading_numbers(lines[1])
    if len(scales) > 1:
        if len(scales) != 3 or min(scales) <= 0:
            raise StructureError(f"broken POSCAR: scale {lines[1].strip()!r} must be one number or three above 0")
        lines[1] = "1.0"  # pymatgen would take the first for all three
    elif scales[0] < 0:  # the volume, as which pymatgen takes it for the cell, but not for Cartesian coordinates
        volume = volume_of_cell(np.array([_leading_numbers(line)[:3] for line in lines[2:5]]))
        if not volume:
            raise StructureError("broken POSCAR: the three vectors of the cell lie in a plane")
        lines[1] = repr((-scales[0] / volume) ** (1 / 3))
    else:
        lines[1] = repr(scales[0])  # without a comment
    lines[2:5] = [" ".join(line.split()[:3]) for line in lines[2:5]]
    lines[5:7] = [re.split("[!#]", line)[0] for line in lines[5:7]]  # of comments pymatgen takes words for counts
    named = len(lines) > 5 and any(word[:1].isalpha() for word in lines[5].split())
    if named and len(lines) > 6 and len(lines[5].split()) != len(lines[6].split()):
        raise StructureError("broken POSCAR: the two lines below the cell need as many counts as element symbols")
    counts = [float(word) for line in lines[5:7] for word in line.split() if word.isdecimal()]
    if sum(counts) > len(lines):  # pymatgen would make so many symbols first, in whatever memory it takes
        raise StructureError(f"broken POSCAR: counts of {sum(counts):.3g} atoms in {len(lines)} lines: a file cut off")
    start = 7 if named else 6
    start += 2 if len(lines) > start and lines[start].strip()[:1] in ("s", "S") else 1
    beyond = lines[start + int(sum(counts)) :]
    if (beyond and len(_leading_numbers(beyond[0])) >= 3) or any("configuration=" in line for line in beyond):
        raise StructureError("more coordinates than atoms: check the counts; of an XDATCAR, give a POSCAR each")
    poscar = Poscar.from_str("\n".join(lines), read_velocities=False)
    if not named and not poscar.true_names:
        raise StructureError("the POSCAR does not name its elements: add a line of symbols above the line of counts")
    structure = poscar.structure
    if len(scales) == 3:  # of x, y and z, of cell and atoms alike: fractional coordinates stay what they are
        lattice = Lattice(structure.lattice.matrix * scales)
        structure = Structure(lattice, structure.species_and_occu, structure.frac_coords)
    return structure


def _leading_numbers(line: str) -> list[float]:
    numbers = []
    for word in line.split():
        try:
            numbers.append(float(word))
        except ValueError:
            break
    return numbers
