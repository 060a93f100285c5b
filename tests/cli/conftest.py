"""The program as the user meets it: what it prints, where, and its exit code."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crystalpredict.cli import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a run printed and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of CSV on stdout."""
        return list(csv.DictReader(io.StringIO(self.stdout)))


Program = Callable[..., Outcome]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs `crystalpredict` with arguments; an exception that it lets out fails the test."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["crystalpredict", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = {None: 0}.get(end.code, end.code)  # type: ignore[assignment]
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the example files, as they are named from the root of the checkout, where the test then runs.

    But for corundum: its gap is 5.66245 eV within 1e-6, so that its last digit depends on what it is computed with.
    """
    monkeypatch.chdir(ROOT)
    return sorted(str(path) for path in Path("examples").iterdir() if path.name != "Al2O3.cif")
