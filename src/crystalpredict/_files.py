"""Checks whether files can be written, atomic writing, JSON with nulls, and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import IO, Any

from crystalpredict.errors import UsageError

COPY_BYTES = 2**20  # at a time
LONGEST_ENDING = ".part-journal.new"  # of the names of files beside an output
TEMPORARY_PREFIX_LENGTH = 40  # characters of a file's name in that of its temporary file; file systems limit the length


def resolve_link(path: Path) -> Path:
    """Return the target of a symbolic link, which need not exist; any other path is returned unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def permissions_of(path: Path) -> int:
    """Return the permissions of a file, or those of a new file if it does not exist."""
    mask = os.umask(0)
    os.umask(mask)
    return path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask


def write_all(handle: int, content: bytes) -> None:
    """Write all content to a file descriptor; one system call may write only a part, as when a disk fills."""
    while content:
        content = content[os.write(handle, content) :]


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, if the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_file_at(handle: int, path: Path) -> bool:
    """Return whether a path is that of an open file, given its descriptor."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def restore(handle: int, path: Path) -> None:
    """Write a copy of an open file to an absolute path, if the file is no longer there."""
    if is_file_at(handle, path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.lseek(handle, 0, os.SEEK_SET)
    with path.open("xb") as copy:
        while block := os.read(handle, COPY_BYTES):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())


@contextmanager
def write_atomically(
    path: Path, final_path: Callable[[], Path] | None = None, *, follow: bool = True
) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces a path if the block succeeds, and is deleted if it fails.

    The permissions of an old file are kept.

    Args:
        path: of the file. Its folder is created.
        final_path: called when the block succeeds; returns another path in the same folder, to be written instead.
        follow: whether the target of a symbolic link is replaced, rather than the link.
    """
    path = (resolve_link(path) if follow else path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # named before it exists, unlike by tempfile.mkstemp, so that an interrupt in between leaves no file
    temporary = path.with_name(f".{path.name[:TEMPORARY_PREFIX_LENGTH]}.{os.urandom(8).hex()}")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            restore(handle, temporary)
        temporary.chmod(permissions_of(path))  # until now the owner's only
        temporary.replace(resolve_link(final_path()).absolute() if final_path else path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, with null for numbers that are not finite, which JSON does not have."""
    with write_atomically(path) as file:
        file.write((json.dumps(_with_nulls(content), indent=2, allow_nan=False) + "\n").encode())


def _with_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _with_nulls(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def refuse_unwritable(output: Path, inputs: Sequence[str | Path] = (), *, force: bool = True) -> None:
    """Raise UsageError if a result cannot be written, or would replace an input.

    Without `force`, also if it would replace an earlier result; an empty file is none.
    """
    refuse_long(output)
    if output.is_dir():
        raise UsageError(f"{output}: a directory; name a file")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: no regular file; write to it with > instead")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: there is no directory {output.parent}; create it first")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UsageError(f"{output}: no permission to write here")
    for name in inputs:
        path = Path(str(name).removeprefix("@"))
        if output.exists() and path.exists() and path.samefile(output):
            raise UsageError(f"{output}: it is read, too; name another file to write")
    if not force:
        refuse_existing(output)


def refuse_existing(output: Path) -> None:
    """Raise UsageError if there is a result already."""
    if output.exists() and output.stat().st_size:
        raise UsageError(f"{output}: exists already; name another file, or say --force to replace it")


def refuse_long(output: Path) -> None:
    """Raise UsageError if the name of a file, or of the files that a run writes beside it, is too long."""
    try:
        os.lstat(output.with_name(output.name + LONGEST_ENDING) if output.name else output)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{str(output)[:60]}...: the name is too long; name another file") from None
