"""What the user names on the command line, expanded to paths of files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path

from crystalpredict.errors import UsageError

_STRUCTURE_FILE = re.compile(
    r"(.*\.(cif|mcif|vasp|poscar|contcar|json)|(POSCAR|CONTCAR)([._-].*)?)(\.gz)?", re.IGNORECASE
)


def expand(inputs: Iterable[str]) -> list[str]:
    """Paths of the files that `inputs` stand for, in order.

    A directory stands for the structure files in and below it, sorted; a pattern for what it matches, sorted; `@list`
    for the paths in a file, one a line, taken as they are; `-` for those on stdin. A path that does not exist is kept:
    it becomes a row with an error.
    """
    paths: list[str] = []
    for item in inputs:
        if item == "-":
            paths.extend(_lines(sys.stdin))
        elif item.startswith("@"):
            paths.extend(_lines_of_file(item[1:]))
        else:
            paths.extend(_expand_one(item))
    if not paths:
        raise UsageError("no structures to predict: name CIF or POSCAR files, directories, @list.txt or -")
    return paths


def _expand_one(item: str) -> list[str]:
    path = Path(item)
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*") if _STRUCTURE_FILE.fullmatch(file.name) and file.is_file())
        if not files:
            raise UsageError(f"{item}: no CIF, POSCAR, *.vasp or JSON file in this directory")
        return files
    if has_magic(item) and not path.exists():
        files = sorted(file for file in glob(item, recursive=True) if not Path(file).is_dir())
        if not files:
            raise UsageError(f"{item}: the pattern matches no file")
        return files
    return [item]


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())


def _lines_of_file(name: str) -> list[str]:
    try:
        return list(_lines(Path(name).read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"@{name}: the list of paths cannot be read ({error})") from None
