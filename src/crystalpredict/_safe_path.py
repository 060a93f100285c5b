"""No code from the working directory, which may be a folder of somebody else's files.

`python -m` puts the working directory first in `sys.path`, and so does every interpreter that multiprocessing starts:
a `random.py` beside the structure files would be executed. This module imports only what Python has loaded before it.
"""

import os
import sys
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager

SAFE_PATH = "PYTHONSAFEPATH"  # tells a new interpreter not to put the working directory into its sys.path
_LOCK = allocate_lock()


def started_as_module(name: str) -> bool:
    """Whether Python is about to run a package of this name: `python -m name`."""
    if sys.argv[:1] != ["-m"]:  # which stands there only until the package is imported
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").split(".")[0] == name


def leave_working_directory() -> None:
    """Take the working directory out of this process's `sys.path`, and relative folders, which depend on it."""
    sys.path[:] = [entry for entry in sys.path if not _is_here(entry)]


def safe_environment() -> None:
    """Let no interpreter that this process starts look for modules in the working directory."""
    os.environ[SAFE_PATH] = "1"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(map(_is_here, paths)):  # an empty entry, as PYTHONPATH=$PYTHONPATH:/x makes it, is the working directory
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if not _is_here(path))


@contextmanager
def safe_children() -> Iterator[None]:
    """Interpreters started in the block do not look for modules in the working directory; the environment is kept."""
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
    """Whether an entry of a search path is the working directory or depends on it, and is none of Python's own."""
    if not os.path.isabs(entry):
        return True
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted
        return False
    return os.path.realpath(entry) == here and here not in _own_folders()


def _own_folders() -> set[str]:
    """Folders of this package and of Python's libraries, in one of which the program may well be started."""
    folders = [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__)]
    if "site" in sys.modules:
        folders += sys.modules["site"].getsitepackages()
    return {os.path.realpath(folder) for folder in folders}
