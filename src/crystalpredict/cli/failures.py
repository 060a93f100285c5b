"""Turn an error into one line for stderr and an exit code."""

from __future__ import annotations

import errno
import os
import traceback

from crystalpredict.cli.output import NO_ROOM
from crystalpredict.errors import CrystalPredictError, DataError, UsageError

EXIT_FAILURE, EXIT_USAGE = 1, 2
DEBUG_VARIABLE = "CRYSTALPREDICT_DEBUG"  # environment variable; 1: print tracebacks of unexpected errors
NO_PROCESS = "the system cannot start another process or thread: raise its limit (ulimit -u), or end other programs"
MAX_NAME_CHARACTERS = 60  # shown of a name that is too long


def line_of(error: Exception) -> tuple[str, int]:
    """Return the line with the error and what to do, and the exit code."""
    if isinstance(error, CrystalPredictError):
        return str(error), EXIT_USAGE if isinstance(error, UsageError | DataError) else EXIT_FAILURE
    if isinstance(error, OSError) and (found := _system_error_line(error)):
        return found
    if isinstance(error, MemoryError):
        return "not enough memory: end other programs, or use fewer --jobs or a smaller --batch-atoms", EXIT_FAILURE
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return NO_PROCESS, EXIT_FAILURE
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    kind = type(error).__name__
    return f"unforeseen {kind}: run it again with {DEBUG_VARIABLE}=1 and report what it prints", EXIT_FAILURE


def _system_error_line(error: OSError) -> tuple[str, int] | None:
    """Return the line and exit code of an error of the operating system; None if it has no useful message."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENAMETOOLONG:
        return f"{named[:MAX_NAME_CHARACTERS]}...: the name is too long: choose a shorter one", EXIT_USAGE
    if error.errno in (errno.EAGAIN, errno.ENOMEM) and not named:
        return NO_PROCESS, EXIT_FAILURE
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return "no temporary folder is writable: set TMPDIR", EXIT_FAILURE
    if error.errno in NO_ROOM and not named:
        return f"the output cannot be written ({error.strerror})", EXIT_FAILURE
    return (f"{named}: {error.strerror}", EXIT_FAILURE) if named and error.strerror else None
