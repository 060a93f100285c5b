"""What a file is by its name, where that has to be known before it is opened."""

from __future__ import annotations

import re

_PACKED = r"(\.(gz|bz2|xz|zst))?"
_XYZ = re.compile(rf".*\.(ext)?xyz{_PACKED}", re.IGNORECASE | re.DOTALL)
_STRUCTURES = re.compile(
    rf"(.*\.(cif|mcif|vasp|poscar|contcar|json|xyz|extxyz)|(POSCAR|CONTCAR)([._-].*)?){_PACKED}",
    re.IGNORECASE | re.DOTALL,
)
_JSON = re.compile(rf".*\.json{_PACKED}", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(rf".*\.(csv|tsv|jsonl|ndjson|parquet){_PACKED}", re.IGNORECASE | re.DOTALL)
_ARCHIVE = re.compile(r".*\.(zip|tar|tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst))", re.IGNORECASE | re.DOTALL)


def is_archive(name: str) -> bool:
    """A zip or tar archive."""
    return _ARCHIVE.fullmatch(name) is not None


def is_table(name: str) -> bool:
    """A table with a structure in each row; JSON may be that too, and is told from its content."""
    return _TABLE.fullmatch(name) is not None


def is_database(name: str) -> bool:
    """A database of ASE."""
    return name.lower().endswith(".db")


def is_xyz(name: str) -> bool:
    """A file of XYZ frames."""
    return _XYZ.fullmatch(name) is not None


def is_json(name: str) -> bool:
    """A file of JSON, which may be a list of structures."""
    return _JSON.fullmatch(name) is not None


def is_found(name: str) -> bool:
    """Whether a file in a directory or an archive is taken for structures: tables are not, they may be results."""
    base = name.replace("\\", "/").rpartition("/")[2]
    if base.startswith("._") or name.startswith("__MACOSX/"):  # what macOS leaves beside a file
        return False
    return bool(_STRUCTURES.fullmatch(base)) or is_archive(base)
