"""What the user names on the command line, expanded to paths of files, one after the other."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import IO

from crystalpredict.errors import UsageError
from crystalpredict.io.file_types import is_found

BLOCK = 2**16  # bytes of a list that are read at a time
LONGEST_NAME = 2**16  # bytes of a path, more than any system has
RESULTS = re.compile(r'\[\s*(\]\s*$|\{"(path|id)": "([^"\\]|\\.)*", "(index|row)": \d)')  # of `predict`, `evaluate`
NOTHING = "no structures to predict: name CIF or POSCAR files, directories, @list.txt or -"


def expand(inputs: Iterable[str], *, null: bool = False) -> Iterator[str]:
    """Paths of the files that `inputs` stand for, in order; UsageError at once where one stands for nothing.

    A directory stands for the structure files and archives in and below it, in the order of their paths, without JSON
    that `predict` wrote; a pattern for what it matches, sorted; `@list` for the paths in a file, one a line or each
    ended by a null byte, taken as they are; `-` for those on stdin. A path that does not exist is kept: it becomes a
    row with an error. Directories and lists are read as the paths are asked for.
    """
    paths = chain.from_iterable([_expand_one(item, null) for item in inputs])
    return _begun(paths, NOTHING)


def _expand_one(item: str, null: bool) -> Iterator[str]:
    if item == "-":
        return _names(sys.stdin.buffer, null)
    if item.startswith("@") and not os.path.lexists(item):
        return _begun(_names_in_file(item[1:], null))
    if os.path.isdir(item):  # and no error for a name that is too long, which becomes a row
        return _begun(_walk(item), f"{item}: no CIF, POSCAR, *.vasp, XYZ or JSON file and no archive in this directory")
    if has_magic(item) and not os.path.exists(item):
        files = sorted(file for file in glob(item, recursive=True) if not os.path.isdir(file))
        return _begun(iter(files), f"{item}: the pattern matches no file")
    return iter([item])


def _begun(paths: Iterator[str], complaint: str = "") -> Iterator[str]:
    """The paths, the first of them looked up now; UsageError with the complaint if there are none."""
    first = next(paths, None)
    if first is None and complaint:
        raise UsageError(complaint)
    return iter(()) if first is None else chain([first], paths)


def _walk(folder: str) -> Iterator[str]:
    """Structure files in and below a directory in the order of their paths; of one directory the names are in memory.

    Links to directories are not followed. A directory that cannot be listed is given as if it were a file, so that it
    becomes a row with an error.
    """
    try:
        with os.scandir(folder) as entries:
            # "a.cif" sorts before "a/b.cif", as whole paths do
            found = sorted(
                entry.name + os.sep if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) or (is_found(entry.name) and _is_file(entry))
            )
    except OSError:
        yield folder
        return
    base = Path(folder)
    for name in found:
        path = str(base / name)
        if name.endswith(os.sep):
            yield from _walk(path)
        elif not _is_result(path):
            yield path


def _is_result(path: str) -> bool:
    """Whether a file is JSON that `predict` wrote, told from its beginning; one that cannot be read is not."""
    if ".json" not in path[-9:].lower():
        return False
    from crystalpredict.io.text import CANNOT_UNPACK, opened_text

    try:
        with opened_text(Path(path), "utf-8") as file:
            return RESULTS.match(file.read(BLOCK)) is not None
    except CANNOT_UNPACK:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file, a link to one or to nothing; only of a link more is asked than the directory says.

    What a link to nothing stands for was not fetched, or is lost: that is an error, and no reason to be silent.
    """
    if entry.is_file(follow_symlinks=False) or not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    try:
        return S_ISREG(os.stat(entry.path).st_mode)
    except FileNotFoundError:
        return True
    except OSError:  # a link to itself
        return False


def _names_in_file(name: str, null: bool) -> Iterator[str]:
    from crystalpredict.io.text import encoding_of

    try:
        with Path(name).open("rb") as file:
            if encoding_of(file.peek(2)) == "utf-16":
                raise UsageError(f"@{name}: the list of paths cannot be read (UTF-16): save it as UTF-8")
            yield from _names(file, null)
    except OSError as error:
        raise UsageError(f"@{name}: the list of paths cannot be read ({error.strerror})") from None


def _names(file: IO[bytes], null: bool) -> Iterator[str]:
    """The paths in a list, as the system has them, whatever their encoding."""
    from crystalpredict.io.text import MOST_BLANK_LINES

    empty = 0
    for number, name in enumerate(_ended_by_null(file) if null else _lines(file)):
        empty = 0 if name else empty + 1
        if empty > MOST_BLANK_LINES:
            raise UsageError(f"a list of paths with more than {MOST_BLANK_LINES:,} empty lines on end: is it one?")
        if text := name if number else name.removeprefix(b"\xef\xbb\xbf"):
            yield os.fsdecode(text)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(LONGEST_NAME + 1):
        _refuse_long(line)
        yield line.strip()


def _refuse_long(name: bytes) -> None:
    if len(name) > LONGEST_NAME:
        raise UsageError(f"a list of paths with a line of more than {LONGEST_NAME >> 10} KiB: is it one?")


def _ended_by_null(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := file.read(BLOCK):
        *names, rest = (rest + block).split(b"\0")
        yield from names
        _refuse_long(rest)
    yield rest
