"""Kinds of files by their names, before they are opened."""

from __future__ import annotations

import re
from enum import StrEnum

_PACKED = r"(\.(gz|bz2|xz|zst))?"
_XYZ = re.compile(rf".*\.(ext)?xyz{_PACKED}", re.IGNORECASE | re.DOTALL)
_STRUCTURES = re.compile(
    rf"(.*\.(cif|mcif|vasp|poscar|contcar|json|xyz|extxyz)|(POSCAR|CONTCAR)([._-].*)?){_PACKED}",
    re.IGNORECASE | re.DOTALL,
)
_GRID = re.compile(rf"(CHGCAR|CHG|AECCAR[012]|LOCPOT|ELFCAR|PARCHG)([._-].*)?{_PACKED}", re.IGNORECASE | re.DOTALL)
_ID = re.compile(r"(mp|mvc)-[a-z0-9]{1,12}")  # of the Materials Project
_JSON = re.compile(rf".*\.json{_PACKED}", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(rf".*\.(csv|tsv|jsonl|ndjson|parquet){_PACKED}", re.IGNORECASE | re.DOTALL)
_JSON_LINES = re.compile(rf".*\.(jsonl|ndjson){_PACKED}", re.IGNORECASE | re.DOTALL)
_ARCHIVE = re.compile(r".*\.(zip|tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))", re.IGNORECASE | re.DOTALL)


class Frames(StrEnum):
    """Which structures of a trajectory, or of the steps of a calculation, are read."""

    last = "last"
    all = "all"


def is_archive(name: str) -> bool:
    """Whether a file is a zip or tar archive."""
    return _ARCHIVE.fullmatch(name) is not None


def is_table(name: str) -> bool:
    """Whether a file is a table with a structure in each row; JSON tables are recognised by their content instead."""
    return _TABLE.fullmatch(name) is not None


def is_json_lines(name: str) -> bool:
    """Whether a file is JSON lines, which may be empty: a table without rows."""
    return _JSON_LINES.fullmatch(name) is not None


def is_database(name: str) -> bool:
    """Whether a file is an ASE database."""
    return name.lower().endswith(".db")


def is_xyz(name: str) -> bool:
    """Whether a file is XYZ."""
    return _XYZ.fullmatch(name) is not None


def is_grid(name: str) -> bool:
    """Whether a file is a density or a potential of VASP, of which only the POSCAR at its beginning is read."""
    return _GRID.fullmatch(name.replace("\\", "/").rpartition("/")[2]) is not None


def is_id(name: str) -> bool:
    """Whether a name is the id of a crystal in the Materials Project rather than that of a file."""
    return _ID.fullmatch(name) is not None


def is_query(name: str) -> bool:
    """Whether an input is a query to an OPTIMADE server."""
    return name.startswith("optimade:")


def is_json(name: str) -> bool:
    """Whether a file is JSON, which may be a list of structures."""
    return _JSON.fullmatch(name) is not None


def is_found(name: str) -> bool:
    """Whether a file of a directory or an archive is read as structures; tables are not, they may be results."""
    base = name.replace("\\", "/").rpartition("/")[2]
    if base.startswith("._") or name.startswith("__MACOSX/"):  # metadata of macOS
        return False
    return bool(_STRUCTURES.fullmatch(base)) or is_archive(base)
