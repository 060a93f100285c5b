"""docs/cli.md is what the commands say, on any terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.packaging.test_constraints import pinned

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(typer.__version__ != pinned()["typer"], reason="another typer has another page")
def test_the_page_of_commands_is_up_to_date(tmp_path: Path) -> None:
    odd = {"COLUMNS": "40", "TERM": "dumb", "FORCE_COLOR": "1", "CRYSTALPREDICT_JOBS": "7", "HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "scripts" / "cli_docs.py"), "--check"]
    done = subprocess.run(command, env=os.environ | odd, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
