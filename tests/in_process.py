"""Programs run in this process, for what needs no other: a new one takes seconds to import torch."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from crystalpredict.cli import main

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@contextmanager
def _called(*arguments: str | Path) -> Iterator[io.StringIO]:
    """In the block, the arguments are those of the program; yields what it prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [str(argument) for argument in arguments])
        yield printed


def exit_code_of(*arguments: str | Path) -> object:
    """Exit code of `crystalpredict` with arguments; for fixtures of a module, which have no `program`."""
    with _called("crystalpredict", *arguments), redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            return end.code or 0
    return 0


def run_script(name: str, *arguments: str | Path) -> str:
    """What a script of `scripts/` prints; an exception that it lets out fails the test."""
    with _called(name, *arguments) as printed:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return printed.getvalue()
