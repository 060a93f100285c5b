"""Files: written whole or not at all, JSON with nulls, checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import IO, Any


def followed(path: Path) -> Path:
    """The file that a symbolic link leads to, which is there or is not; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def permissions_of(path: Path) -> int:
    """The permissions of a file, or those that it would get as a new one."""
    mask = os.umask(0)
    os.umask(mask)
    return path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask


@contextmanager
def write_atomically(path: Path, place: Callable[[], Path] | None = None) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    `place` is asked at that end for another path in the same folder. A symbolic link stays one: the file that it leads
    to is replaced, and keeps its permissions.
    """
    import tempfile  # takes longer than all else here, and most programs that import this write nothing

    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(permissions_of(path))  # mkstemp is for its owner alone
        Path(name).replace(followed(place()) if place else path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all; what is no number is null, for JSON has no word for it."""
    with write_atomically(path) as file:
        file.write((json.dumps(_with_nulls(content), indent=2, allow_nan=False) + "\n").encode())


def _with_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _with_nulls(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
