"""Expand the inputs of the command line to paths of files."""

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
from crystalpredict.io.file_types import is_found, is_query

READ_BYTES = 2**16  # read from a list of paths at a time
MAX_PATH_BYTES = 2**16  # more than any operating system allows
# the beginning of JSON that predict or evaluate wrote
RESULTS_JSON = re.compile(r'\[\s*(\]\s*$|\{"(path|id)": "([^"\\]|\\.)*", "(index|row)": \d)')
NO_INPUTS = "no structures to predict: name CIF or POSCAR files, directories, @list.txt or -"


def expand(inputs: Iterable[str], *, null: bool = False, calculations: bool = False) -> Iterator[str]:
    """Yield the paths of the files that the inputs name, in order.

    A directory gives the structure files and archives in and below it, in the order of their paths, except JSON that
    `predict` wrote. A pattern gives its matches, sorted. `@list` gives the paths in a file, `-` those on stdin; they
    are not expanded. A path that does not exist, and an `optimade:` query, is kept. Directories and lists are read
    lazily.

    Args:
        inputs: Paths, directories, patterns, `@list` or `-`.
        null: Paths in lists end with a null byte instead of a line end.
        calculations: Directories give the outputs of calculations too, one file for each calculation.

    Raises:
        UsageError: An input names no file; raised before the first path, for lists and directories too.
    """
    paths = chain.from_iterable([_expand_one(item, null, calculations) for item in inputs])
    return _checked_first(paths, NO_INPUTS)


def _expand_one(item: str, null: bool, calculations: bool) -> Iterator[str]:
    if item == "-":
        return _names(sys.stdin.buffer, null)
    if is_query(item):
        return iter([item])
    if item.startswith("@") and not os.path.lexists(item):
        return _checked_first(_names_in_file(item[1:], null))
    if os.path.isdir(item):  # False for a name that is too long, which becomes a row with an error
        hint = "" if calculations else "; --calculations finds the outputs of calculations"
        return _checked_first(
            _walk(item, calculations),
            f"{item}: no CIF, POSCAR, *.vasp, XYZ or JSON file and no archive in this directory{hint}",
        )
    if has_magic(item) and not os.path.exists(item):
        files = sorted(file for file in glob(item, recursive=True) if not os.path.isdir(file))
        return _checked_first(iter(files), f"{item}: the pattern matches no file")
    return iter([item])


def _checked_first(paths: Iterator[str], message: str = "") -> Iterator[str]:
    """Return the paths; the first is read now.

    Raises:
        UsageError: There are none, and there is a message for that.
    """
    first = next(paths, None)
    if first is None and message:
        raise UsageError(message)
    return iter(()) if first is None else chain([first], paths)


def _walk(folder: str, calculations: bool = False) -> Iterator[str]:
    """Yield the structure files in and below a directory in the order of their paths.

    Links to directories are not followed. A directory that cannot be listed is yielded itself, so that it becomes a row
    with an error.
    """
    try:
        with os.scandir(folder) as entries:
            # "a.cif" sorts before "a/b.cif", as whole paths do
            found = sorted(
                entry.name + os.sep if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) or ((calculations or is_found(entry.name)) and _is_file(entry))
            )
    except OSError:
        yield folder
        return
    base = Path(folder)
    for name in _of_calculations(base, found) if calculations else found:
        path = str(base / name)
        if name.endswith(os.sep):
            yield from _walk(path, calculations)
        elif not _is_result(path):
            yield path


def _of_calculations(folder: Path, names: list[str]) -> list[str]:
    """Return the folders among the names, and the files that are read, each calculation once."""
    from crystalpredict.io.calculation_folders import chosen_files

    folders = [name for name in names if name.endswith(os.sep)]
    files = [name for name in names if not name.endswith(os.sep)]
    chosen = chosen_files(files, lambda name: _is_empty(folder / name), lambda name: _is_espresso(folder / name))
    return sorted(folders + chosen)


def _is_empty(path: Path) -> bool:
    try:
        return not path.stat().st_size
    except OSError:  # reading it gives the error
        return False


def _is_espresso(path: Path) -> bool:
    """Whether a file begins like an input or an output of Quantum ESPRESSO; False if it cannot be read."""
    from crystalpredict.io.calculations import SEARCHED_CHARACTERS, is_espresso
    from crystalpredict.io.text import CANNOT_UNPACK, opened_text

    try:
        with opened_text(path, "utf-8") as file:
            return is_espresso(file.read(SEARCHED_CHARACTERS))
    except CANNOT_UNPACK:
        return False


def _is_result(path: str) -> bool:
    """Whether a file begins like JSON that `predict` wrote; False if it cannot be read."""
    if ".json" not in path[-9:].lower():
        return False
    from crystalpredict.io.text import CANNOT_UNPACK, opened_text

    try:
        with opened_text(Path(path), "utf-8") as file:
            return RESULTS_JSON.match(file.read(READ_BYTES)) is not None
    except CANNOT_UNPACK:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file, a link to one, or a broken link, which becomes a row with an error.

    Only links need a system call.
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
    """Yield the paths in a list, decoded as file names."""
    from crystalpredict.io.text import MAX_BLANK_LINES

    empty = 0
    for number, name in enumerate(_ended_by_null(file) if null else _lines(file)):
        empty = 0 if name else empty + 1
        if empty > MAX_BLANK_LINES:
            raise UsageError(f"a list of paths with more than {MAX_BLANK_LINES:,} empty lines in a row: check the file")
        if text := name if number else name.removeprefix(b"\xef\xbb\xbf"):
            yield os.fsdecode(text)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(MAX_PATH_BYTES + 1):
        _refuse_long(line)
        yield line.strip()


def _refuse_long(name: bytes) -> None:
    if len(name) > MAX_PATH_BYTES:
        raise UsageError(f"a list of paths with a line of more than {MAX_PATH_BYTES >> 10} KiB: check the file")


def _ended_by_null(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := file.read(READ_BYTES):
        *names, rest = (rest + block).split(b"\0")
        yield from names
        _refuse_long(rest)
    yield rest
