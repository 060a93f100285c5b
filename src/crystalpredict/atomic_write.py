"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

INTERRUPTED = ".interrupted"  # what a run that was ended computed, whole: it takes no result's place


@contextmanager
def write_atomically(path: Path, interrupted: Callable[[], bool] = lambda: False) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    If at the end it was `interrupted`, it appears beside `path`, under its name and INTERRUPTED.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp is for its owner alone
        Path(name).replace(path.with_name(path.name + INTERRUPTED) if interrupted() else path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
