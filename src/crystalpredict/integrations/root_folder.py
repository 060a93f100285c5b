"""Read files below one folder only, whatever a caller names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from stat import S_ISREG

from crystalpredict.errors import UsageError, printable
from crystalpredict.io.entries import Inline, Source, start_of
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import sources_of

MAX_STRUCTURE_BYTES = 2**22  # of a file with one structure
MAX_TABLE_BYTES = 2**26  # of an archive, a table or a file of several structures
MAX_NAME = 200  # characters of a path in a message


class RootFolder:
    """A folder; every file that is read lies in it or below it, links followed.

    Attributes:
        path: Absolute path without links.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Resolve the folder.

        Raises:
            UsageError: It is not a folder.
        """
        self.path = Path(os.path.realpath(folder))
        if not self.path.is_dir():
            raise UsageError(f"{folder}: not a folder: name the one that holds the structures")

    def resolved(self, name: str) -> Path:
        """Return the absolute path, without links, of a file or folder that exists.

        Args:
            name: Path, relative to the folder or absolute.

        Raises:
            UsageError: It is outside the folder, or does not exist.
        """
        shown = printable(name[:MAX_NAME])
        try:
            path = Path(os.path.realpath(self.path / name, strict=True))
        except (OSError, ValueError) as error:  # ValueError: a null byte
            # whether a file outside exists is not said
            if not self._holds(Path(os.path.realpath(self.path / name.replace("\0", "")))):
                raise UsageError(self._outside(shown)) from None
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
            raise UsageError(f"{shown}: {reason}: check the path") from None
        if not self._holds(path):
            raise UsageError(self._outside(shown))
        return path

    def _holds(self, path: Path) -> bool:
        return path == self.path or self.path in path.parents

    def _outside(self, shown: str) -> str:
        return f"{shown}: outside the folder of this server: name a file below it, or give the text of the structure"

    def file(self, name: str, max_bytes: int = MAX_TABLE_BYTES) -> Path:
        """Return the absolute path of a regular file of limited size; raise UsageError as `resolved`."""
        path = self.resolved(name)
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise UsageError(f"{printable(name[:MAX_NAME])}: not a regular file: check the path")
        if found.st_size > max_bytes:
            limit = f"{max_bytes >> 20} MiB"
            raise UsageError(f"{printable(name[:MAX_NAME])}: more than {limit}: use the command line for large inputs")
        return path

    def shown(self, path: str | os.PathLike[str]) -> str:
        """Return a path relative to the folder."""
        return os.path.relpath(path, self.path)

    def sources(self, names: list[str], most: int) -> list[Source]:
        """Return the structures in files and folders, read into memory, in order.

        A path that does not exist, or lies outside the folder, gives a source with an error.

        Args:
            names: Paths of files, tables, archives and folders.
            most: Largest number of structures.

        Raises:
            UsageError: There are more structures.
        """
        found = list(islice(self._each(names), most + 1))
        if len(found) > most:
            raise UsageError(f"more than {most:,} structures: name fewer files, or use the command line")
        return found

    def _each(self, names: list[str]) -> Iterator[Source]:
        for name in names:
            shown = printable(name[:MAX_NAME])
            try:
                path = self.resolved(name)
                inside = expand([str(path)]) if path.is_dir() else iter([str(path)])
            except UsageError as error:
                message = str(error).replace(str(self.path / name), shown)
                yield Inline(shown, error=message.removeprefix(f"{shown}: "))
                continue
            for file in inside:
                try:
                    self.file(file)
                except UsageError as error:
                    yield Inline(self.shown(file), error=str(error).removeprefix(f"{file}: "))
                    continue
                for source in sources_of([file]):
                    yield self.read(source)

    def read(self, source: Source) -> Source:
        """Return a source whose content is in memory; one that cannot be read, or lies outside, has an error."""
        name, index = start_of(source)
        shown = self.shown(name)
        if not isinstance(source, str):
            return Inline(shown, source.text, source.error, index)
        try:
            path = self.file(source, MAX_STRUCTURE_BYTES)
            # links are resolved: one that appears in between is refused, and a pipe does not block
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with open(handle, "rb") as file:
                return Inline(shown, file.read(MAX_STRUCTURE_BYTES + 1))
        except UsageError as error:
            return Inline(shown, error=str(error))
        except OSError as error:
            return Inline(shown, error=f"cannot be read ({error.strerror})")
