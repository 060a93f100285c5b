"""What the program says of an error, in one line, and the exit code."""

from __future__ import annotations

import errno
import os
import traceback

from crystalpredict.cli.output import NO_ROOM
from crystalpredict.errors import CrystalPredictError, DataError, UsageError

EXIT_FAILURE, EXIT_USAGE = 1, 2
DEBUG_VARIABLE = "CRYSTALPREDICT_DEBUG"  # of the environment: 1 for tracebacks of errors that were not foreseen
NO_PROCESS = "the system starts no further process or thread: raise its limit (ulimit -u), or end other programs"
NAME_SHOWN = 60  # characters of a name that is too long


def line_of(error: Exception) -> tuple[str, int]:
    """The line that says what is wrong and what to do, and the exit code."""
    if isinstance(error, CrystalPredictError):
        return str(error), EXIT_USAGE if isinstance(error, UsageError | DataError) else EXIT_FAILURE
    if isinstance(error, OSError) and (found := _of_system(error)):
        return found
    if isinstance(error, MemoryError):
        return "not enough memory: end other programs, or use fewer --jobs or a smaller --batch-atoms", EXIT_FAILURE
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return NO_PROCESS, EXIT_FAILURE
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    kind = type(error).__name__
    return f"unforeseen {kind}: run it again with {DEBUG_VARIABLE}=1 and report what it prints", EXIT_FAILURE


def _of_system(error: OSError) -> tuple[str, int] | None:
    """That of an error of the operating system; None for one that says nothing to a user."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENAMETOOLONG:
        return f"{named[:NAME_SHOWN]}...: the name is too long: name another file", EXIT_USAGE
    if error.errno in (errno.EAGAIN, errno.ENOMEM) and not named:
        return NO_PROCESS, EXIT_FAILURE
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return "no folder for temporary files can be written: name one in TMPDIR", EXIT_FAILURE
    if error.errno in NO_ROOM and not named:
        return f"the output cannot be written ({error.strerror})", EXIT_FAILURE
    return (f"{named}: {error.strerror}", EXIT_FAILURE) if named and error.strerror else None
