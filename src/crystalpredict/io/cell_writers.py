"""Write crystals: a CIF for each into a folder, or all of them into one extended XYZ file or ASE database."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from crystalpredict._files import refuse_existing, write_atomically
from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.errors import StructureError, UsageError, suppress_warnings

XYZ_SUFFIXES = (".extxyz", ".xyz")
DATABASE_SUFFIX = ".db"
FILE_ENDINGS = ".extxyz, .xyz or .db"  # for messages
FILE_SUFFIXES = (".cif", ".vasp", ".poscar", ".json", ".gz", ".zip", ".csv")  # no folder is called so
MAX_NAME_BYTES = 200  # of a folder or file, before an ending
MAX_INFO_CHARACTERS = 1000  # of a text beside a crystal
NO_INFO: Mapping[str, Any] = {}
# keys that formats and programs use for themselves
RESERVED_KEYS = frozenset(
    """
    age born_effective_charges calculator calculator_parameters cell charge charges constraints ctime data
    dielectric_tensor dipole energies energy fmax force forces formula free_energy id index initial_charges
    initial_magmoms key_value_pairs lattice magmom magmoms mass momenta mtime natoms numbers occupancy path pbc
    polarization pos positions properties smax source species stress stresses tags unique_id user velocities virial
    volume
    """.split()  # noqa: SIM905  as a table it can be read
)


class CellWriter(Protocol):
    """Writes a crystal, given the name of its source, its index in it, and values beside it by their names."""

    def __call__(self, path: str, index: int, crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> None:
        """Write a crystal."""


def in_one_file(target: Path) -> bool:
    """Return whether a target is a file for all crystals rather than a folder."""
    return target.suffix.lower() in (*XYZ_SUFFIXES, DATABASE_SUFFIX)


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
        raise UsageError(f"{target}: name a folder, or a file that ends in {FILE_ENDINGS}")
    elif not replace and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: not empty: name another folder, or replace its files by --force")


@contextmanager
def cell_writer(target: Path, final_path: Callable[[], Path] | None = None) -> Iterator[CellWriter]:
    """Yield a function that writes crystals; it raises StructureError for one that cannot be written.

    Args:
        target: a folder, which is created, for CIFs with the names of their sources; or a file that ends in .extxyz,
            .xyz or .db, which appears when all are written.
        final_path: called when all are written; returns the path of the file, if it is to be another one.
    """
    if target.suffix.lower() == DATABASE_SUFFIX:
        with _database_writer(target, final_path) as insert:
            yield insert
        return
    if in_one_file(target):
        with write_atomically(target, final_path) as file:

            def append(path: str, index: int, crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> None:
                file.write(extended_xyz(path, index, crystal, info).encode())

            yield append
        return
    target.mkdir(parents=True, exist_ok=True)
    written: set[PurePath] = set()

    def write(path: str, index: int, crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> None:
        name, number = cif_name(path, index), 1
        while name in written:  # the id of a row may be that of another; a.vasp may stand beside a.vasp.cif
            number += 1
            name = name.with_name(f"{cif_name(path, index).stem}-{number}.cif")
        written.add(name)
        place = target / name
        if place.exists() and Path(path).exists() and place.samefile(path):
            raise StructureError("its own CIF would be replaced: name another folder for cells")
        refuse_outside(target, place)
        with write_atomically(place, follow=False) as file:
            file.write(cif(crystal, info).encode())

    yield write


def refuse_outside(target: Path, place: Path) -> None:
    """Raise StructureError if a file of a folder cannot be written, or would lie elsewhere because of a link."""
    folder = place.parent
    if not folder.resolve().is_relative_to(target.resolve()):
        raise StructureError(f"{folder} is a link to a place outside of {target}: remove it, or name another folder")
    if place.is_dir() and not place.is_symlink():
        raise StructureError(f"{place} is a folder: remove it, or name another one for the files")
    if between := next((each for each in (folder, *folder.parents) if each.exists() and not each.is_dir()), None):
        raise StructureError(f"{between} is a file where a folder is needed: remove it, or name another folder")


@contextmanager
def _database_writer(target: Path, final_path: Callable[[], Path] | None) -> Iterator[CellWriter]:
    """Yield a function that adds crystals to a new ASE database, which then takes the place of the target."""
    from ase.db import connect

    from crystalpredict.io.to_ase import atoms_of_crystal

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "rows.db")
        database = connect(place, type="db", append=False, use_lock_file=False)
        with database:  # one transaction
            database.count()  # makes the tables

            def insert(path: str, index: int, crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> None:
                atoms = atoms_of_crystal(crystal)
                pairs = {"source": _as_number(one_line(path)), "source_index": index}
                pairs |= {name: _as_number(value) for name, value in with_keys(info).items()}
                with suppress_warnings():  # of keys that are formulas
                    database.write(atoms, key_value_pairs=pairs, data={"crystalpredict": dict(info), "source": path})

            yield insert
        with write_atomically(target, final_path) as file, place.open("rb") as written:
            shutil.copyfileobj(written, file)


def _as_number(value: Any) -> Any:
    """Return a text that ASE would refuse, because it may be read as a number or a truth value, as that."""
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def with_keys(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return values beside a crystal by keys that are identifiers of ASCII and mean nothing else; texts in one line."""
    found: dict[str, Any] = {}
    taken: set[str] = set()  # in lower case: tags of a CIF that differ in case only are one
    for name, value in info.items():
        key = re.sub(r"\W", "_", name, flags=re.ASCII)
        while not key[:1].isalpha() or key.lower() in RESERVED_KEYS or key in ELEMENTS or key.lower() in taken:
            key = f"input_{key}"
        taken.add(key.lower())
        found[key] = one_line(value) if isinstance(value, str) else value
    return found


def one_line(text: str) -> str:
    """Return a text as valid Unicode in one line, without quotes and backslashes, which readers of XYZ treat apart."""
    plain = re.sub(r'[\s"\\\x00-\x1f]+', lambda found: {'"': "'", "\\": "/"}.get(found[0], " "), text)
    plain = plain.encode("utf-8", "backslashreplace").decode().replace("\\", "/")
    return plain if len(plain) <= MAX_INFO_CHARACTERS else f"{plain[:MAX_INFO_CHARACTERS]}..."


def cif_name(path: str, index: int) -> PurePath:
    """Return the path of the CIF of a structure in a folder: that of its source, with an ending.

    Args:
        path: of the source, as its row has it.
        index: of the structure in the source.
    """
    *folders, last = safe_path(path).parts
    name = last.removesuffix(".cif") if index else last
    name = f"{name}#{index}" if index else name
    return PurePath(*folders, name if name.endswith(".cif") else f"{name}.cif")


def safe_path(path: str, ending: str = ".cif") -> PurePath:
    """Return the path of a source as one within a folder, which every file system allows.

    It depends on the source alone, so that a run that is continued, or shared out, gives the same names. A name that
    had to be changed ends with a digest of the path.

    Args:
        path: of the source, as its row has it.
        ending: of its name, which stays behind the digest.
    """
    parts = PurePath(path).parts
    plain = [re.sub(r'[\x00-\x1f<>:"/\\|?*\ud800-\udfff]', "_", part)[:MAX_NAME_BYTES] for part in parts]
    plain = [part for part in plain if part not in ("_", ".", "..", "")] or ["structure"]
    if PurePath(*plain) != PurePath(path.lstrip("/")) or any(len(part.encode()) > MAX_NAME_BYTES for part in plain):
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        plain = [part.encode()[:MAX_NAME_BYTES].decode(errors="ignore") for part in plain]
        last = plain[-1].removesuffix(ending)
        plain[-1] = f"{last}-{digest}" + ending * (last != plain[-1])
    return PurePath(*plain)


def cif(crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> str:
    """Return a crystal as a CIF without symmetry; values beside it are items `_crystalpredict_NAME`."""
    from gemmi.cif import quote
    from pymatgen.io.cif import CifWriter

    from crystalpredict.io.to_pymatgen import structure_of_crystal

    with suppress_warnings():
        text = str(CifWriter(structure_of_crystal(crystal)))
    items = (
        f"_crystalpredict_{name} {quote(value) if isinstance(value, str) else value}\n"
        for name, value in with_keys(info).items()
    )
    return re.sub(r"^data_.*\n", lambda found: found[0] + "".join(items), text, count=1, flags=re.MULTILINE)


def extended_xyz(path: str, index: int, crystal: Crystal, info: Mapping[str, Any] = NO_INFO) -> str:
    """Return a crystal as a frame of an extended XYZ file, with the name of its source and the values beside it.

    Raises:
        StructureError: a site is shared by elements or partly occupied.
    """
    if not np.allclose(crystal.occupancies.max(axis=1), 1, atol=1e-6):
        raise StructureError(
            "sites that are shared or partly occupied cannot be written into one file: name a folder for CIFs"
        )
    numbers = crystal.main_numbers
    cell = " ".join(f"{value:.8f}" for value in crystal.lattice.ravel())
    source = re.sub(r'[\s"\\]', "_", path.encode("utf-8", "backslashreplace").decode())
    head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T" source="{source}" index={index}'
    head += "".join(f" {name}={_as_word(value)}" for name, value in with_keys(info).items())
    atoms = (
        f"{ELEMENTS[number - 1]} {x:.8f} {y:.8f} {z:.8f}"
        for number, (x, y, z) in zip(numbers.tolist(), crystal.positions.tolist(), strict=True)
    )
    return "\n".join([str(crystal.n_atoms), head, *atoms]) + "\n"


def _as_word(value: Any) -> str:
    """Return a value in the second line of a frame of extended XYZ."""
    if isinstance(value, bool):
        return "T" if value else "F"
    return f'"{value}"' if isinstance(value, str) else str(value)
