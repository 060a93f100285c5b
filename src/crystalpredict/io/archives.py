"""Members of zip and tar archives, one after the other, in memory: nothing is written to disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from crystalpredict.errors import StructureError
from crystalpredict.io.text import CANNOT_UNPACK, LARGEST, uncompressed, unreadable

BOMB_RATIO = 500  # how many times its own size an archive may hold: CIFs that are alike reach 50
BOMB_BYTES = 2**30  # less than this is no bomb, whatever the ratio
BOMB = f"holds more than {BOMB_RATIO} times its own size: a zip bomb, not read further"
CANNOT_OPEN = (*CANNOT_UNPACK, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its content, or why there is none; the name is empty for an error of the whole archive."""

    name: str
    content: bytes = b""
    error: str = ""


def members_of(path: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Members whose names are `wanted`, in the archive's order; the last one tells what stopped the reading, if so.

    What is passed over counts for the limits too, so that they do not depend on what is wanted; and every member that
    is wanted is given, if only as an error.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            magic = file.read(6)
            file.seek(0)
            budget = max(BOMB_BYTES, BOMB_RATIO * size)
            if magic.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
                yield from _members_of_zip(file, wanted, budget)
            else:
                yield from _members_of_tar(uncompressed(file, magic), wanted, budget)
    except FileNotFoundError:
        yield Member("", error="no such file: check the path")
    except StructureError as error:
        yield Member("", error=str(error))
    except CANNOT_OPEN as error:
        yield Member("", error=str(unreadable(error)))


def _members_of_zip(file: IO[bytes], wanted: Callable[[str], bool], budget: int) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            budget -= info.file_size if info.file_size <= LARGEST else 0
            if budget < 0:
                raise StructureError(BOMB)
            if not wanted(info.filename):
                continue
            if info.file_size > LARGEST:
                yield _too_large(info.filename)
                continue
            try:
                with archive.open(info) as member:
                    content = member.read(LARGEST + 1)
            except CANNOT_OPEN as error:  # an encrypted or damaged member; the others may be well
                yield Member(info.filename, error=str(unreadable(error)))
                continue
            yield Member(info.filename, content)


def _members_of_tar(file: IO[bytes], wanted: Callable[[str], bool], budget: int) -> Iterator[Member]:
    # a stream is read once and never sought in
    stream = _Bounded(file, budget)
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        while (info := archive.next()) is not None:
            archive.members.clear()  # or the names of a million members stay in memory
            if info.isdir() or not wanted(info.name):
                continue
            if info.size > LARGEST:
                yield _too_large(info.name)
            elif not info.isfile():
                yield Member(info.name, error="a link or a device in an archive: put the file itself there")
            else:
                try:
                    content = archive.extractfile(info)
                    member = Member(info.name, content.read() if content else b"")
                except (*CANNOT_OPEN, StructureError) as error:  # cut off: to go on will fail too
                    member = Member(info.name, error=str(error if str(error) == BOMB else unreadable(error)))
                yield member
    if any(stream.tail):  # tarfile takes the end of the file for the end of the archive
        raise StructureError("an archive without its end: a file cut off, there may have been more in it")


def _too_large(name: str) -> Member:
    return Member(name, error=f"more than {LARGEST >> 20} MiB, unpacked: too large for a structure; split it")


class _Bounded:
    """A stream of bytes that refuses to give more than its budget."""

    def __init__(self, file: IO[bytes], budget: int) -> None:
        self.file, self.budget = file, budget
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.budget -= len(content)
        if self.budget < 0:
            raise StructureError(BOMB)
        self.tail = content[-tarfile.BLOCKSIZE :] or self.tail
        return content
