"""Read the text of a structure file of any supported compression and encoding."""

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
from crystalpredict.io.file_types import is_grid, is_id
from crystalpredict.io.other_formats import describe_binary

try:
    from backports import zstd
except ImportError:
    zstd = None  # type: ignore[assignment]

STATED_FORMULA = "crystalpredict_stated_formula"  # key of a pymatgen Structure's properties
CIF_WARNINGS = "crystalpredict_warnings"  # the same: warnings of its CIF
CIF_SITE = "crystalpredict_site"  # key of a site's properties: its label in messages
MAX_FILE_BYTES = 2**28  # unpacked: a CIF of a million atoms has a third of it
READ_BYTES = 2**16  # read from a file at a time
TRAJECTORY_MAGIC = b"- of Ulm"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BOMB_RATIO = 500  # unpacked over packed size: very similar CIFs reach 50
BOMB_BYTES = 2**30  # the ratio is not checked below
BOMB = f"unpacks to more than {BOMB_RATIO} times its size: a decompression bomb, not read further"
NEEDS_NETWORK = (
    "an id of the Materials Project, not a file: its structure needs the network; download it as CIF from "
    "https://materialsproject.org/materials/{}"
)
GRID_POINTS = re.compile(rb"\s*\d+\s+\d+\s+\d+\s*")
MAX_BLANK_LINES = 10**6  # in a row, in a table or a list
PIPE = "a pipe or a device, which cannot be read twice: save its content as a file"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eEdD][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
CANNOT_UNPACK = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, *((zstd.ZstdError,) if zstd else ()))


def read_text(path: str) -> str:
    """Return the unpacked text of a file.

    Raises:
        StructureError: It cannot be read as text.
    """
    return text_of(read_content(path))


def read_content(path: str) -> bytes:
    """Return the content of a file, of a larger one somewhat more than its first MAX_FILE_BYTES.

    Raises:
        StructureError: It cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # of no use to a file that is read at once
            if is_grid(path):
                with io.BufferedReader(bounded(file)) as whole:  # type: ignore[type-var]
                    return _head_of_grid(whole)
            size = os.fstat(file.fileno()).st_size  # 0 for a pipe
            return file.read() if 0 < size <= MAX_FILE_BYTES else _read_bounded(file)
    except FileNotFoundError:
        raise StructureError(NEEDS_NETWORK.format(path) if is_id(path) else "no such file: check the path") from None
    except IsADirectoryError:
        raise StructureError("a directory, not a structure file: check the path") from None
    except CANNOT_UNPACK as error:  # ValueError: null byte in the path
        raise unreadable(error) from None


def _head_of_grid(file: IO[bytes]) -> bytes:
    """Return the POSCAR at the beginning of a density or potential, up to the line of its numbers of grid points."""
    lines: list[bytes] = []
    size = 0
    while size <= MAX_FILE_BYTES and (line := file.readline(READ_BYTES)):
        if lines and not lines[-1].strip() and GRID_POINTS.fullmatch(line):
            break
        lines.append(line)
        size += len(line)
    return b"".join(lines)


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text with these first bytes."""
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def text_of(content: bytes) -> str:
    """Return the unpacked text of the content of a file.

    Raises:
        StructureError: It is not text, empty, damaged or too large.
    """
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", ZSTD_MAGIC)):
        try:
            content = _read_bounded(uncompressed(io.BytesIO(content), content[:6]))
        except CANNOT_UNPACK as error:
            raise unreadable(error) from None
    if len(content) > MAX_FILE_BYTES:
        hint = "split it, or give the CONTCAR of a calculation"
        raise StructureError(f"more than {MAX_FILE_BYTES >> 20} MiB unpacked: too large for a structure; {hint}")
    if content.startswith(b"PK\x03\x04"):
        raise StructureError("a zip archive or an office document: unpack it, or rename it to *.zip")
    encoding = encoding_of(content)
    if content.startswith(TRAJECTORY_MAGIC):  # binary: a letter for each byte, for its reader
        return content.decode("latin-1")
    if encoding == "utf-8-sig" and b"\0" in content:
        raise StructureError(describe_binary(content))
    try:
        if encoding == "utf-8-sig" and not content.startswith(BOM_UTF8):
            encoding = "utf-8"  # the other one is decoded by Python
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # authors' names in old CIFs
    if not text or text.isspace():
        raise StructureError("empty file: write or download it again")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def uncompressed(file: IO[bytes], magic: bytes) -> IO[bytes]:
    """Return a file that unpacks a gzip, bzip2, xz or zstd file; any other file itself. `magic`: its first bytes."""
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    if magic.startswith(ZSTD_MAGIC):
        if not zstd:
            raise OSError("zstd: pip install 'crystalpredict[zstd]'")
        return zstd.ZstdFile(file)  # type: ignore[return-value]
    return file


class _Bounded(io.RawIOBase):
    """An unpacked file; StructureError after `budget` bytes."""

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
    """Return the number of bytes that a file of `size` bytes may unpack to."""
    return max(BOMB_BYTES, BOMB_RATIO * size)


def bounded(file: IO[bytes]) -> IO[bytes]:
    """Return a file unpacked; reading it raises StructureError after `budget_of` its size."""
    magic, size = file.read(6), file.seek(0, io.SEEK_END)
    file.seek(0)
    if (unpacked := uncompressed(file, magic)) is file:
        return file
    return io.BufferedReader(_Bounded(unpacked, budget_of(size)), 2 * READ_BYTES)


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked."""
    with path.open("rb") as raw:
        head = raw.read(4096)
        raw.seek(0)
        unpacked = uncompressed(raw, head)
        return head if unpacked is raw else unpacked.read(4096)


@contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Open the unpacked text of a file; bytes that are not text in the encoding are replaced."""
    with path.open("rb") as raw, io.TextIOWrapper(bounded(raw), encoding, errors="replace", newline="") as file:
        yield file


def refuse_pipe(path: str | os.PathLike[str]) -> None:
    """Raise StructureError for a pipe or a device, on which reading could block forever."""
    mode = os.stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise StructureError(PIPE)


def number_of(word: str) -> float:
    """Return a number in the format of C or Fortran, 1.5e+00 or 1.5D+00.

    Raises:
        ValueError: The word is not a number.
    """
    try:
        if word.isascii() and "_" not in word:  # float() takes other digits and underscores
            return float(word)
    except ValueError:
        pass
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{word[:40]!r} is not a number")
    return float(re.sub("[dD]", "e", word))


def _read_bounded(file: IO[bytes]) -> bytes:
    """Return a stream's content, at most somewhat more than MAX_FILE_BYTES; one large read would allocate all of it."""
    blocks, size = [], 0
    while size <= MAX_FILE_BYTES and (block := file.read(READ_BYTES)):
        blocks.append(block)
        size += len(block)
    return b"".join(blocks)


def unreadable(error: BaseException) -> StructureError:
    """Return the error of a file that cannot be opened or unpacked."""
    return StructureError(f"cannot be read ({reason_of_failure(error)}): check the file and its permissions")


def reason_of_failure(error: BaseException) -> str:
    """Return why a file cannot be opened or unpacked."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError):
        return "the compressed file is cut off"
    if "null byte" in str(error):
        return "a null byte in its name"
    return str(error) if "pip install" in str(error) else "the compressed data is damaged"
