"""Text of a structure file, whatever its compression and encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from typing import IO

from crystalpredict.errors import StructureError

try:
    from backports import zstd
except ImportError:
    zstd = None  # type: ignore[assignment]

STATED_FORMULA = "crystalpredict_stated_formula"  # under which a pymatgen Structure keeps what its CIF states
LARGEST = 2**28  # bytes of one file, unpacked: a CIF of a million atoms has a third of it
BLOCK = 2**16  # bytes
ZSTD = b"\x28\xb5\x2f\xfd"
CANNOT_UNPACK = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, *((zstd.ZstdError,) if zstd else ()))


def read_text(path: str) -> str:
    """Text of a file, unpacked if it is compressed; StructureError if it cannot be read as text."""
    return text_of(read_content(path))


def read_content(path: str) -> bytes:
    """Content of a file, as it is, or somewhat more than LARGEST of it; StructureError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size  # 0 of a pipe, whose end nobody knows
            return file.read() if 0 < size <= LARGEST else _read_bounded(file)
    except FileNotFoundError:
        raise StructureError("no such file: check the path") from None
    except IsADirectoryError:
        raise StructureError("a directory, not a structure file") from None
    except CANNOT_UNPACK as error:  # ValueError: a null byte in the path
        raise unreadable(error) from None


def encoding_of(head: bytes) -> str:
    """The encoding of a text, from its first bytes."""
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def text_of(content: bytes) -> str:
    """Text of a file's content, unpacked if it is compressed; StructureError if it is no text."""
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", ZSTD)):
        try:
            content = _read_bounded(uncompressed(io.BytesIO(content), content[:6]))
        except CANNOT_UNPACK as error:
            raise unreadable(error) from None
    if len(content) > LARGEST:
        raise StructureError(f"more than {LARGEST >> 20} MiB, unpacked: too large for a structure; split it")
    if content.startswith(b"PK\x03\x04"):
        raise StructureError(
            "a zip archive, or a file of an office program: unpack it, or name it *.zip in the command"
        )
    encoding = encoding_of(content)
    if encoding == "utf-8-sig" and b"\0" in content:
        raise StructureError("a binary file: give a CIF, a POSCAR or pymatgen JSON")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # old CIFs name their authors in it
    if not text or text.isspace():
        raise StructureError("empty file: write or download it again")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def uncompressed(file: IO[bytes], magic: bytes) -> IO[bytes]:
    """What a gzip, bzip2, xz or zstd file holds, told by its first bytes; any other file as it is."""
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    if magic.startswith(ZSTD):
        if not zstd:
            raise OSError("zstd: pip install 'crystalpredict[zstd]'")
        return zstd.ZstdFile(file)  # type: ignore[return-value]
    return file


def _read_bounded(file: IO[bytes]) -> bytes:
    """What a stream has, or somewhat more than LARGEST; to ask for so much at once would take the memory of it."""
    blocks, size = [], 0
    while size <= LARGEST and (block := file.read(BLOCK)):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)


def unreadable(error: BaseException) -> StructureError:
    """The error of a file that cannot be opened or unpacked."""
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return StructureError(f"cannot be read ({reason}): check the file and its permissions")
