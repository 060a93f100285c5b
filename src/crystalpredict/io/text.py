"""Text of a structure file, whatever its compression and encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any

from crystalpredict.errors import StructureError
from crystalpredict.io.other_formats import what_is_binary

try:
    from backports import zstd
except ImportError:
    zstd = None  # type: ignore[assignment]

STATED_FORMULA = "crystalpredict_stated_formula"  # under which a pymatgen Structure keeps what its CIF states
CIF_WARNINGS = "crystalpredict_warnings"  # what it keeps of a CIF that contradicts itself
CIF_SITE = "crystalpredict_site"  # the number and the label that a site has in the CIF
LARGEST = 2**28  # bytes of one file, unpacked: a CIF of a million atoms has a third of it
BLOCK = 2**16  # bytes
ZSTD = b"\x28\xb5\x2f\xfd"
BOMB_RATIO = 500  # how many times its own size a file may hold: CIFs that are alike reach 50
BOMB_BYTES = 2**30  # less than this is no bomb, whatever the ratio
BOMB = f"holds more than {BOMB_RATIO} times its own size: a decompression bomb, not read further"
MOST_BLANK_LINES = 10**6  # one after the other, in a table or a list
PIPE = "a pipe or a device, which cannot be read twice: save what comes from it as a file"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eEdD][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
CANNOT_UNPACK = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, *((zstd.ZstdError,) if zstd else ()))


def read_text(path: str) -> str:
    """Text of a file, unpacked if it is compressed; StructureError if it cannot be read as text."""
    return text_of(read_content(path))


def read_content(path: str) -> bytes:
    """Content of a file, as it is, or somewhat more than LARGEST of it; StructureError if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # which a file read at once has no use for
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
        raise StructureError(what_is_binary(content))
    try:
        if encoding == "utf-8-sig" and not content.startswith(BOM_UTF8):
            encoding = "utf-8"  # the other one is decoded by Python
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


class _Bounded(io.RawIOBase):
    """What a compressed file holds; StructureError ends it where it goes on beyond all measure."""

    def __init__(self, file: IO[bytes], budget: int) -> None:
        self.file, self.budget = file, budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.file.read(len(buffer))
        self.budget -= len(content)
        if self.budget < 0:
            raise StructureError(BOMB)
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def budget_of(size: int) -> int:
    """Bytes that a file of a size may unpack to."""
    return max(BOMB_BYTES, BOMB_RATIO * size)


def bounded(file: IO[bytes]) -> IO[bytes]:
    """What a file holds, unpacked; StructureError where it unpacks to more than `budget_of` its size."""
    magic, size = file.read(6), file.seek(0, io.SEEK_END)
    file.seek(0)
    if (unpacked := uncompressed(file, magic)) is file:
        return file
    return io.BufferedReader(_Bounded(unpacked, budget_of(size)), 2 * BLOCK)


def head_of(path: Path) -> bytes:
    """How a file begins, unpacked."""
    with path.open("rb") as raw:
        head = raw.read(4096)
        raw.seek(0)
        unpacked = uncompressed(raw, head)
        return head if unpacked is raw else unpacked.read(4096)


@contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Text of a file, compressed or not; what is no text in the encoding becomes a mark."""
    with path.open("rb") as raw, io.TextIOWrapper(bounded(raw), encoding, errors="replace", newline="") as file:
        yield file


def refuse_pipe(path: str | os.PathLike[str]) -> None:
    """StructureError for what is there and is no file, such as a pipe: nothing waits for one that is never written."""
    mode = os.stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise StructureError(PIPE)


def number_of(word: str) -> float:
    """A number as programs in C and Fortran write it, 1.5e+00 or 1.5D+00; ValueError for anything else."""
    try:
        if word.isascii() and "_" not in word:  # which Python takes for digits and between digits
            return float(word)
    except ValueError:
        pass
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{word[:40]!r} is not a number")
    return float(re.sub("[dD]", "e", word))


def _read_bounded(file: IO[bytes]) -> bytes:
    """What a stream has, or somewhat more than LARGEST; to ask for so much at once would take the memory of it."""
    blocks, size = [], 0
    while size <= LARGEST and (block := file.read(BLOCK)):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)


def unreadable(error: BaseException) -> StructureError:
    """The error of a file that cannot be opened or unpacked."""
    return StructureError(f"cannot be read ({reason_of_failure(error)}): check the file and its permissions")


def reason_of_failure(error: BaseException) -> str:
    """Why a file cannot be opened or unpacked, in the words of the system or ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError):
        return "Compressed file ended early: it is cut off"
    if "null byte" in str(error):
        return "a null byte in its name"
    return str(error) if "pip install" in str(error) else "what is compressed in it is damaged"
