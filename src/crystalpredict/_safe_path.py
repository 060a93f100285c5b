"""Prevent imports from the working directory, which may contain files of other people.

`python -m` puts the working directory first in `sys.path`, and so does every interpreter that multiprocessing starts:
a `random.py` beside the structure files would be executed. This module imports only what Python has already loaded.
"""

import os
import sys
from _thread import RLock, allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH = "PYTHONSAFEPATH"  # if set, a new interpreter does not put the working directory into its sys.path
_LOCK = allocate_lock()
_PATH_LOCK = RLock()


def started_as_module(name: str) -> bool:
    """Return whether Python is about to run a package as `python -m name`."""
    if sys.argv[:1] != ["-m"]:  # only until the package is imported
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").split(".")[0] == name


def leave_working_directory() -> None:
    """Remove the working directory and relative folders from the `sys.path` of this process."""
    sys.path[:] = [entry for entry in sys.path if not _is_here(entry)]


def safe_environment() -> None:
    """Make interpreters that this process starts ignore modules in the working directory."""
    os.environ[SAFE_PATH] = "1"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(map(_is_here, paths)):  # an empty entry, as in PYTHONPATH=$PYTHONPATH:/x, is the working directory
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if not _is_here(path))


@contextmanager
def without_working_directory() -> Iterator[None]:
    """Import nothing from the working directory and relative folders in the block."""
    with _PATH_LOCK:
        before = sys.path[:]
        leave_working_directory()
        try:
            yield
        finally:
            sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before)]


@contextmanager
def safe_children() -> Iterator[None]:
    """Make interpreters started in the block ignore modules in the working directory; then restore the environment."""
    with _LOCK:
        before = os.environ.get(SAFE_PATH)
        os.environ[SAFE_PATH] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[SAFE_PATH]
            else:
                os.environ[SAFE_PATH] = before


def _is_here(entry: str) -> bool:
    """Return whether an entry of `sys.path` is or depends on the working directory, and is not a folder of Python."""
    if not os.path.isabs(entry):
        return True
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted
        return False
    return os.path.realpath(entry) == here and here not in _own_folders()


def _own_folders() -> set[str]:
    """Return the folders of this package and of Python's libraries, which may be the working directory too."""
    folders = [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__)]
    if "site" in sys.modules:
        folders += sys.modules["site"].getsitepackages()
    return {os.path.realpath(folder) for folder in folders}
