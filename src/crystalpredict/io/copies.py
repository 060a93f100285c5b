"""Copy what structures were read from: files, members of archives, and the texts of rows, items and frames."""

from __future__ import annotations

import filecmp
import io
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import IO

from crystalpredict._files import write_atomically
from crystalpredict.errors import StructureError, UsageError
from crystalpredict.io.cell_writers import refuse_outside, safe_path
from crystalpredict.io.entries import Inline, Source, start_of
from crystalpredict.io.text import refuse_pipe
from crystalpredict.io.xyz import is_xyz

PACKED = (".gz", ".bz2", ".xz", ".zst")
COPY_BYTES = 2**20
OWN = "it would replace itself: name another folder for copies"


def refuse_copies(target: Path, *, replace: bool) -> None:
    """Raise UsageError if files cannot be copied into a folder, or if earlier ones might be replaced.

    Args:
        target: the folder.
        replace: whether the folder may have files.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: no folder: name one for the copies")
    if not replace and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target}: not empty: name another folder, or replace its files by --force")


def copier(target: Path, *, replace: bool) -> Callable[[Source], None]:
    """Return a function that copies sources into a folder; it raises StructureError for one that cannot be copied.

    The copies have the names of their sources as paths within the folder. If two sources have one name, the second
    copy gets a number. A source of several structures is copied once.

    Args:
        target: the folder, which is created.
        replace: whether files from before may be replaced; otherwise a copy gets a number beside them.
    """
    done: set[tuple[str, int]] = set()
    written: set[PurePath] = set()
    target.mkdir(parents=True, exist_ok=True)

    def copy(source: Source) -> None:
        if isinstance(source, str):
            if start_of(source) in done:
                return
            done.add(start_of(source))
        name, number = copy_name(source), 1
        first = name
        with _opened(source) as file:
            while name in written or not (replace or _is_free(target / name, file)):
                number += 1
                ending = _ending(first.name)
                name = first.with_name(f"{first.name.removesuffix(ending)}-{number}{ending}")
            place = target / name
            if isinstance(source, str) and place.exists() and place.samefile(source):
                raise StructureError(OWN)
            refuse_outside(target, place)
            written.add(name)
            file.seek(0)
            try:
                with write_atomically(place, follow=False) as copied:
                    shutil.copyfileobj(file, copied, COPY_BYTES)
            except OSError as error:
                raise StructureError(f"{place} cannot be written: {error.strerror or 'unknown reason'}") from None

    return copy


def copy_name(source: Source) -> PurePath:
    """Return the path of the copy of a source in a folder."""
    path, index = start_of(source)
    if isinstance(source, str) or isinstance(source.text, bytes):
        return safe_path(path, _ending(path))
    ending = ending_of_text(source.text)
    whole = safe_path(path, ending)
    number = "" if "#" in path else f"#{index}"  # of a frame, or of an item of a list
    return whole.with_name(f"{whole.name.removesuffix(ending)}{number}{ending}")


def ending_of_text(text: str) -> str:
    """Return the ending of the name of a file with the text of a structure."""
    if text.lstrip()[:1] in ("{", "["):
        return ".json"
    if is_xyz(text):
        return ".xyz"
    return ".cif" if re.search(r"^\s*(data_|_cell|_atom)", text, re.MULTILINE | re.IGNORECASE) else ".vasp"


def _ending(name: str) -> str:
    """Return the ending of the name of a file, with that of its compression."""
    *_, last = PurePath(name).suffixes or [""]
    return "".join(PurePath(name).suffixes[-2:]) if last.lower() in PACKED else last


def _opened(source: Source) -> IO[bytes]:
    """Open the content of a source.

    Raises:
        StructureError: It cannot be read.
    """
    if isinstance(source, Inline):
        content = source.text
        return io.BytesIO(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
    try:
        refuse_pipe(source)
        return open(source, "rb")
    except OSError as error:
        raise StructureError(f"cannot be read again ({error.strerror})") from None


def _is_free(place: Path, file: IO[bytes]) -> bool:
    """Whether no file has a name, or one with the same content, as a run that is continued finds it."""
    if not place.exists():
        return True
    with suppress(OSError):
        if hasattr(file, "name"):
            return filecmp.cmp(place, file.name, shallow=False)
        file.seek(0)
        return place.stat().st_size < 2**30 and place.read_bytes() == file.read()
    return False
