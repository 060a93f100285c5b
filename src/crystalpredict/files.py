"""Text of a structure file, whatever its compression and encoding."""

from __future__ import annotations

import gzip
import zlib

from crystalpredict.errors import StructureError

STATED_FORMULA = "crystalpredict_stated_formula"  # under which a pymatgen Structure keeps what its CIF states


def read_text(path: str) -> str:
    """Text of a file, unpacked if it is gzipped; StructureError if it cannot be read as text."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise StructureError("no such file: check the path") from None
    except IsADirectoryError:
        raise StructureError("a directory, not a structure file") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise StructureError(f"cannot be read ({reason}): check the file and its permissions") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\0" in content:
        raise StructureError("a binary file: give a CIF, a POSCAR or pymatgen JSON")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # old CIFs name their authors in it
    if not text or text.isspace():
        raise StructureError("empty file: write or download it again")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
