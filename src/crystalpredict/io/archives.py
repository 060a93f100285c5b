"""Members of zip and tar archives, one after the other, in memory: nothing is written to disk.

Nothing in an archive says how much memory or time it takes: each limit is on what is read or comes out.
"""

from __future__ import annotations

import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import SEEK_END
from typing import IO

from crystalpredict.errors import StructureError
from crystalpredict.io.text import (
    BOMB,
    CANNOT_UNPACK,
    LARGEST,
    bounded,
    budget_of,
    refuse_pipe,
    unreadable,
)

BLOCK = 4096  # bytes of a member that are asked for at a time: of bzip2 they may become 80 MB
LONGEST_HEADER = 2**20  # bytes of a member's name and attributes
LONGEST_NAME = 4096  # characters, more than any system has
CUT_OFF = "an archive without its end: a file cut off, there may have been more in it"
DAMAGED = "a damaged archive: what follows in it is not read; download it again"
LINK = "a link or a device in an archive: put the file itself there"
SPARSE = "a sparse file in an archive, which has holes: no structure has, pack it without --sparse"
CANNOT_OPEN = (
    *CANNOT_UNPACK, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError, struct.error, IndexError,
)  # fmt: skip
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
HEADERS = (*PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)  # not members, but about one
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=\n]{1,200})=")


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
        refuse_pipe(path)
        with open(path, "rb") as file:
            size = file.seek(0, SEEK_END)
            file.seek(0)
            magic = file.read(6)
            file.seek(0)
            if magic.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
                yield from _members_of_zip(file, wanted, budget_of(size))
            else:
                yield from _members_of_tar(bounded(file), wanted)
    except FileNotFoundError:
        yield Member("", error="no such file: check the path")
    except StructureError as error:
        yield Member("", error=str(error))
    except CANNOT_OPEN as error:
        yield Member("", error=DAMAGED if isinstance(error, zipfile.BadZipFile) else str(unreadable(error)))


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
            yield _named(info.filename, lambda info=info: _content_in_zip(archive, info))  # type: ignore[misc]


def _content_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Content of a member; StructureError for one that is encrypted, damaged, too large or a link."""
    if info.file_size > LARGEST:
        raise StructureError(_too_large())
    if info.flag_bits & 1:
        raise StructureError("an encrypted member: unpack the archive with its password")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise StructureError(LINK)
    try:
        with archive.open(info) as member:
            return b"".join(iter(lambda: member.read(BLOCK), b""))  # no more than the size that it states
    except NotImplementedError:
        raise StructureError("a member packed by an unknown method: pack it again") from None
    except zipfile.BadZipFile as error:
        reason = "it fails its CRC check" if "CRC" in str(error) else "its header"
        raise StructureError(f"a damaged member of an archive ({reason}): download it again") from None
    except CANNOT_OPEN as error:
        raise unreadable(error) from None


def _named(name: str, content: Callable[[], bytes]) -> Member:
    """A member with its content, or why there is none."""
    if len(name) > LONGEST_NAME:
        return Member(name[:100], error=f"a name of {len(name)} characters: rename it")
    try:
        return Member(name, content())
    except StructureError as error:
        return Member(name, error=str(error))


def _too_large() -> str:
    return f"more than {LARGEST >> 20} MiB, unpacked: too large for a structure; split it"


@dataclass
class _Attributes:
    """What headers of their own say of the member that follows."""

    name: str = ""
    size: int | None = None
    sparse: bool = False

    def add(self, kind: bytes, content: bytes) -> None:
        """Read a header of GNU's or of pax."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(content)
        elif kind in PAX:
            records = _records(content)
            self.sparse |= any(key.startswith(b"GNU.sparse.") for key in records)
            self.name = _text(records.get(b"GNU.sparse.name", records.get(b"path", b""))) or self.name
            if size := records.get(b"size"):
                if not size.isdigit() or len(size) > 18:
                    raise StructureError(DAMAGED)
                self.size = int(size)


def _members_of_tar(file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Members of a tar archive. tarfile's own loop trusts sizes: sparse maps, headers and gaps have no bounds there."""
    said = _Attributes()
    while (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            whole = len(block) == tarfile.BLOCKSIZE
            raise StructureError(DAMAGED if whole else CUT_OFF) from None
        if info.size < 0:
            raise StructureError(DAMAGED)
        if info.type in HEADERS:
            if info.size > LONGEST_HEADER:
                raise StructureError(
                    f"a member's name and attributes of {info.size} bytes: a damaged archive, not read further"
                )
            said.add(info.type, _read(file, info.size))
            continue
        name, size = said.name or info.name, info.size if said.size is None else said.size
        sparse = said.sparse or info.type == tarfile.GNUTYPE_SPARSE
        more = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:  # of the map of its holes
            more = _read(file, tarfile.BLOCKSIZE)[504]
        said = _Attributes()
        has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if not info.isdir() and wanted(name):
            yield _member_of_tar(file, name, info, size, sparse=sparse)
        elif has_content:
            _skip(file, size)


def _member_of_tar(file: IO[bytes], name: str, info: tarfile.TarInfo, size: int, *, sparse: bool) -> Member:
    """The member at which a tar archive stands; behind it, the archive stands at the next one."""
    error = SPARSE if sparse else "" if info.isreg() else LINK
    if not error and size <= LARGEST:
        return _named(name, lambda: _read(file, size))
    if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
        _skip(file, size)
    return Member(name, error=error or _too_large())


def _read(file: IO[bytes], size: int) -> bytes:
    """So many bytes of a tar archive, and what fills the last block."""
    whole = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    content = file.read(whole)
    if len(content) < size:
        raise StructureError(CUT_OFF)
    return content[:size] if len(content) > size else content


def _skip(file: IO[bytes], size: int) -> None:
    while size > 0:
        _read(file, min(size, 2**20))
        size -= 2**20


def _records(content: bytes) -> dict[bytes, bytes]:
    """Records of a pax header: `length key=value` and a line end each."""
    records, place = {}, 0
    while found := _RECORD.match(content, place):
        end = place + int(found[1])
        if end <= found.end():
            raise StructureError(DAMAGED)
        records[found[2]] = content[found.end() : end - 1]
        place = end
    return records


def _text(content: bytes) -> str:
    return content.split(b"\0")[0].decode("utf-8", "surrogateescape")
