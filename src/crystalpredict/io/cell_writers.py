"""Write crystals: a CIF for each into a folder, or all of them into one extended XYZ file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np

from crystalpredict._files import refuse_existing, write_atomically
from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.errors import StructureError, UsageError, suppress_warnings

XYZ_SUFFIXES = (".extxyz", ".xyz")
FILE_SUFFIXES = (".cif", ".vasp", ".poscar", ".json", ".gz", ".zip", ".csv")  # no folder is called so
MAX_NAME_BYTES = 200  # of a folder or file, before an ending
CellWriter = Callable[[str, int, Crystal], None]  # name of the source, index in it, crystal


def in_one_file(target: Path) -> bool:
    """Return whether a target is a file for all crystals rather than a folder."""
    return target.suffix.lower() in XYZ_SUFFIXES


def refuse_cells(target: Path, *, replace: bool) -> None:
    """Raise UsageError if crystals cannot be written to a target, or if earlier ones would be replaced.

    Args:
        target: as of `cell_writer`.
        replace: whether earlier files may be replaced.
    """
    if in_one_file(target):
        if not replace:
            refuse_existing(target)
    elif target.suffix.lower() in FILE_SUFFIXES or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target}: name a folder, or a file that ends in {' or '.join(XYZ_SUFFIXES)}")
    elif not replace and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: not empty: name another folder, or replace its files by --force")


@contextmanager
def cell_writer(target: Path, final_path: Callable[[], Path] | None = None) -> Iterator[CellWriter]:
    """Yield a function that writes crystals; it raises StructureError for one that cannot be written.

    Args:
        target: a folder, which is created, for CIFs with the names of their sources; or a file that ends in .extxyz or
            .xyz, which appears when all are written.
        final_path: called when all are written; returns the path of the file, if it is to be another one.
    """
    if in_one_file(target):
        with write_atomically(target, final_path) as file:

            def append(path: str, index: int, crystal: Crystal) -> None:
                file.write(extended_xyz(path, index, crystal).encode())

            yield append
        return
    target.mkdir(parents=True, exist_ok=True)
    written: set[PurePath] = set()

    def write(path: str, index: int, crystal: Crystal) -> None:
        name, number = cif_name(path, index), 1
        while name in written:  # the id of a row may be that of another; a.vasp may stand beside a.vasp.cif
            number += 1
            name = name.with_name(f"{cif_name(path, index).stem}-{number}.cif")
        written.add(name)
        place = target / name
        if place.exists() and Path(path).exists() and place.samefile(path):
            raise StructureError("its own CIF would be replaced: name another folder for cells")
        with write_atomically(place) as file:
            file.write(cif(crystal).encode())

    yield write


def cif_name(path: str, index: int) -> PurePath:
    """Return the path of the CIF of a structure in a folder: that of its source, with an ending.

    It depends on the source alone, so that a run that is continued, or shared out, gives the same names.

    Args:
        path: of the source, as its row has it.
        index: of the structure in the source.
    """
    parts = PurePath(path).parts
    plain = [re.sub(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]', "_", part)[:MAX_NAME_BYTES] for part in parts]
    plain = [part for part in plain if part not in ("_", ".", "..", "")] or ["structure"]
    if PurePath(*plain) != PurePath(path.lstrip("/")) or any(len(part.encode()) > MAX_NAME_BYTES for part in plain):
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        plain = [part.encode()[:MAX_NAME_BYTES].decode(errors="ignore") for part in plain]
        plain[-1] = f"{plain[-1].removesuffix('.cif')}-{digest}"
    name = plain[-1].removesuffix(".cif") if index else plain[-1]
    name = f"{name}#{index}" if index else name
    return PurePath(*plain[:-1], name if name.endswith(".cif") else f"{name}.cif")


def cif(crystal: Crystal) -> str:
    """Return a crystal as a CIF without symmetry."""
    from pymatgen.io.cif import CifWriter

    from crystalpredict.io.to_pymatgen import structure_of_crystal

    with suppress_warnings():
        return str(CifWriter(structure_of_crystal(crystal)))


def extended_xyz(path: str, index: int, crystal: Crystal) -> str:
    """Return a crystal as a frame of an extended XYZ file, with the name of its source.

    Raises:
        StructureError: a site is shared by elements or partly occupied.
    """
    if not np.allclose(crystal.occupancies.max(axis=1), 1, atol=1e-6):
        raise StructureError(
            "sites that are shared or partly occupied cannot be written as .extxyz: name a folder for CIFs"
        )
    numbers = crystal.numbers[np.arange(crystal.n_atoms), crystal.occupancies.argmax(axis=1)]
    cell = " ".join(f"{value:.8f}" for value in crystal.lattice.ravel())
    source = re.sub(r'[\s"\\]', "_", path.encode("utf-8", "backslashreplace").decode())
    head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T" source="{source}" index={index}'
    atoms = (
        f"{ELEMENTS[number - 1]} {x:.8f} {y:.8f} {z:.8f}"
        for number, (x, y, z) in zip(numbers.tolist(), crystal.positions.tolist(), strict=True)
    )
    return "\n".join([str(crystal.n_atoms), head, *atoms]) + "\n"
