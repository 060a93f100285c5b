"""Read files below one folder only, whatever a caller names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
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
        shown = self._label(name)
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

    def _label(self, name: str) -> str:
        """Return a path as messages have it, without that of the folder."""
        return printable(self.without_root(name)[:MAX_NAME])

    def _outside(self, shown: str) -> str:
        return f"{shown}: outside the folder of this server: name a file below it, or give the text of the structure"

    def file(self, name: str, max_bytes: int = MAX_TABLE_BYTES) -> Path:
        """Return the absolute path of a regular file of limited size; raise UsageError as `resolved`."""
        path = self.resolved(name)
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise UsageError(f"{self._label(name)}: not a regular file: check the path")
        if found.st_size > max_bytes:
            limit = f"{max_bytes >> 20} MiB"
            raise UsageError(f"{self._label(name)}: more than {limit}: use the command line for large inputs")
        return path

    def shown(self, path: str | os.PathLike[str]) -> str:
        """Return a path relative to the folder."""
        return os.path.relpath(path, self.path)

    def without_root(self, text: str) -> str:
        """Return a message in which files below the folder have paths relative to it."""
        root = str(self.path)
        if root == os.sep:
            return text
        return re.sub(rf"{re.escape(root)}(?![\w.-])", ".", text.replace(root + os.sep, ""))

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
            if not name.strip():
                yield Inline(shown, error="an empty path: name a file or a folder below that of this server")
                continue
            path = None
            try:
                path = self.resolved(name)
                inside = expand([str(path)]) if path.is_dir() else iter([str(path)])
            except UsageError as error:
                message = str(error).removeprefix(f"{path}: " if path else f"{self._label(name)}: ")
                yield Inline(shown, error=self.without_root(message))
                continue
            named = partial(self._as_given, path=path, given=name)
            for file in inside:
                try:
                    self.file(file)
                except UsageError as error:
                    yield Inline(named(file), error=str(error).removeprefix(f"{self._label(file)}: "))
                    continue
                for source in sources_of([file]):
                    yield self.read(source, named)

    def _as_given(self, file: str, path: Path, given: str) -> str:
        """Return the name of a file, or of a structure in it, with the beginning that a caller gave.

        Args:
            file: Absolute path of a file at or below `path`, and what follows it, such as the member of an archive.
            path: What `given` names, links followed.
            given: Path as the caller wrote it.
        """
        if not file.startswith(str(path)):
            return self.shown(file)
        start = self.shown(path) if os.path.isabs(given) else printable(given[:MAX_NAME])
        start = start if path.is_file() else os.path.normpath(start)
        return (start + file.removeprefix(str(path))).removeprefix(f".{os.sep}" if path == self.path else "")

    def read(self, source: Source, named: Callable[[str], str] | None = None) -> Source:
        """Return a source whose content is in memory; one that cannot be read, or lies outside, has an error.

        Args:
            source: A path, or a text.
            named: Returns the name that a path is shown by; None: relative to the folder.
        """
        name, index = start_of(source)
        shown = (named or self.shown)(name)
        if not isinstance(source, str):
            return Inline(shown, source.text, self.without_root(source.error), index)
        try:
            path = self.file(source, MAX_STRUCTURE_BYTES)
            # links are resolved: one that appears in between is refused, and a pipe does not block
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with open(handle, "rb") as file:
                return Inline(shown, file.read(MAX_STRUCTURE_BYTES + 1))
        except UsageError as error:
            return Inline(shown, error=str(error).removeprefix(f"{self._label(source)}: "))
        except OSError as error:
            return Inline(shown, error=f"cannot be read ({error.strerror})")
