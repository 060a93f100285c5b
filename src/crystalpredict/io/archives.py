"""Iterate over the members of zip and tar archives in memory; nothing is written to disk.

Sizes stated in an archive are not trusted: each limit applies to the bytes that are read or unpacked.
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
from crystalpredict.io.text import BOMB, CANNOT_UNPACK, MAX_FILE_BYTES, bounded, budget_of, refuse_pipe, unreadable

READ_BYTES = 4096  # bytes requested from a member at a time: bzip2 may expand them to 80 MB
MAX_HEADER_BYTES = 2**20  # of a tar header with a member's name and attributes
MAX_NAME_CHARACTERS = 4096  # more than any operating system allows
CUT_OFF = "the archive is cut off, members may be missing: download it again"
DAMAGED = "a damaged archive: the members after the damage are not read; download it again"
LINK = "a link or a device in an archive: add the file itself"
SPARSE = "a sparse file in an archive: create the archive without --sparse"
CANNOT_OPEN = (
    *CANNOT_UNPACK, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError, struct.error, IndexError,
)  # fmt: skip
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
# headers that describe the next member
HEADER_TYPES = (*PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=\n]{1,200})=")


@dataclass(frozen=True)
class Member:
    """A file in an archive: its content or an error. The name is empty for an error of the whole archive."""

    name: str
    content: bytes = b""
    error: str = ""


def members_of(path: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the members whose names are `wanted`, in the archive's order; a last one has the error that ended reading.

    Skipped members count towards the limits too, so that the limits do not depend on `wanted`. A wanted member that
    cannot be read is yielded with its error.
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
            budget -= info.file_size if info.file_size <= MAX_FILE_BYTES else 0
            if budget < 0:
                raise StructureError(BOMB)
            if not wanted(info.filename):
                continue
            yield _named(info.filename, lambda info=info: _content_in_zip(archive, info))  # type: ignore[misc]


def _content_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the content of a member.

    Raises:
        StructureError: It is encrypted, damaged, too large or a link.
    """
    if info.file_size > MAX_FILE_BYTES:
        raise StructureError(_too_large())
    if info.flag_bits & 1:
        raise StructureError("an encrypted member: unpack the archive first")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise StructureError(LINK)
    try:
        with archive.open(info) as member:
            return b"".join(iter(lambda: member.read(READ_BYTES), b""))  # zipfile reads no more than the stated size
    except NotImplementedError:
        raise StructureError("unknown compression method: create the archive with deflate") from None
    except zipfile.BadZipFile as error:
        reason = "wrong CRC" if "CRC" in str(error) else "damaged header"
        raise StructureError(f"a damaged member of an archive ({reason}): download it again") from None
    except CANNOT_OPEN as error:
        raise unreadable(error) from None


def _named(name: str, content: Callable[[], bytes]) -> Member:
    """Return a member with its content or its error."""
    if len(name) > MAX_NAME_CHARACTERS:
        return Member(name[:100], error=f"a name of {len(name)} characters: rename it")
    try:
        return Member(name, content())
    except StructureError as error:
        return Member(name, error=str(error))


def _too_large() -> str:
    return f"more than {MAX_FILE_BYTES >> 20} MiB unpacked: too large for a structure; split it"


@dataclass
class _MemberHeader:
    """Name, size and kind of the next member of a tar archive, from GNU and pax headers."""

    name: str = ""
    size: int | None = None
    sparse: bool = False

    def add(self, kind: bytes, content: bytes) -> None:
        """Take over the fields of a GNU or pax header of type `kind`."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(content)
        elif kind in PAX_TYPES:
            records = _records(content)
            self.sparse |= any(key.startswith(b"GNU.sparse.") for key in records)
            self.name = _text(records.get(b"GNU.sparse.name", records.get(b"path", b""))) or self.name
            if size := records.get(b"size"):
                if not size.isdigit() or len(size) > 18:
                    raise StructureError(DAMAGED)
                self.size = int(size)


def _members_of_tar(file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the members of a tar archive; tarfile does not limit the sizes of sparse maps, headers and gaps."""
    header = _MemberHeader()
    while (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            whole = len(block) == tarfile.BLOCKSIZE
            raise StructureError(DAMAGED if whole else CUT_OFF) from None
        if info.size < 0:
            raise StructureError(DAMAGED)
        if info.type in HEADER_TYPES:
            if info.size > MAX_HEADER_BYTES:
                raise StructureError(f"a header of {info.size} bytes: a damaged archive, not read further")
            header.add(info.type, _read(file, info.size))
            continue
        name, size = header.name or info.name, info.size if header.size is None else header.size
        sparse = header.sparse or info.type == tarfile.GNUTYPE_SPARSE
        more = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:  # blocks of the sparse map
            more = _read(file, tarfile.BLOCKSIZE)[504]
        header = _MemberHeader()
        has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if not info.isdir() and wanted(name):
            yield _member_of_tar(file, name, info, size, sparse=sparse)
        elif has_content:
            _skip(file, size)


def _member_of_tar(file: IO[bytes], name: str, info: tarfile.TarInfo, size: int, *, sparse: bool) -> Member:
    """Return the member at the position of the file, and move the position to the next header."""
    error = SPARSE if sparse else "" if info.isreg() else LINK
    if not error and size <= MAX_FILE_BYTES:
        return _named(name, lambda: _read(file, size))
    if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
        _skip(file, size)
    return Member(name, error=error or _too_large())


def _read(file: IO[bytes], size: int) -> bytes:
    """Return the next `size` bytes and skip the padding of the last block."""
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
    """Return the `length key=value` records of a pax header."""
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
