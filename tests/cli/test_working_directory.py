"""No command executes a module of the folder in which it is started, which may be somebody else's data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.labelled import rows, write

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "numpy",
    "torch",
    "gemmi",
    "pymatgen",
    "spglib",
    "scipy",
    "vesin",
    "safetensors",
    "rich",
    "typer",
    "resource",
)
# `python -m` itself imports these, with the working directory first, before any of our code runs
RUNPY = {
    "importlib", "warnings", "contextlib", "collections", "functools", "types", "keyword", "operator", "reprlib",
    "heapq", "enum",
}  # fmt: skip
HOSTILE = {*sys.stdlib_module_names, *LIBRARIES, "sitecustomize", "usercustomize", "crystalpredict"}
TRACE = "open(__file__ + '.executed', 'w').close()\nraise SystemExit('code of the data folder')\n"
PROGRAM = """
import os, signal
from crystalpredict.cli import program
from crystalpredict.io.worker_pool import Workers

def submit(workers, sources, first=Workers.submit):
    Workers.submit = first
    os.kill(workers.workers[0].process.pid, signal.SIGKILL)  # so that it is replaced
    return first(workers, sources)

if __name__ == "__main__":
    Workers.submit = submit
    program()
"""
SCRIPT = """
import os, signal, sys
import numpy as np
from crystalpredict import load_model
from crystalpredict.data import dataset
from crystalpredict.io.reader import Reader
from tests.sample_crystals import random_table

if __name__ == "__main__":
    with Reader(sys.argv[1:] * 70, 6.0, jobs=2) as reader:
        os.kill(reader.pool.workers[0].process.pid, signal.SIGKILL)
        assert not any(entry.error for entry in reader.entries())
    dataset.MIN_CRYSTALS_PARALLEL = 1
    assert len(dataset.neighbor_table(random_table(5), 4.0, jobs=2).first) > 5
    assert not load_model(device="cpu").predict(sys.argv[1:])[0].error
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Structures, a table of them, and code under the names of what is imported."""
    folder = tmp_path / "data"
    folder.mkdir()
    table = rows(70)
    write(folder / "table.csv", table)
    for row in table:
        (folder / f"{row['id']}.cif").write_text(row["cif"])
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(TRACE)
    return folder


def start(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment | variables, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def executed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.executed"))


COMMANDS = {
    "predict": ("predict", ".", "--jobs", "2", "-f", "csv"),
    "evaluate": ("evaluate", "table.csv", "--jobs", "2"),
    "embed": ("embed", ".", "--jobs", "2", "-o", "features.csv"),
    "finetune": ("finetune", "table.csv", "--epochs", "1", "--jobs", "2", "-t", "bandgap", "-o", "run"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_executes_code_of_the_working_directory(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = start(folder, tmp_path / "program.py", *COMMANDS[name])
    assert executed(folder) == []
    assert done.returncode == 0, done.stderr


def test_python_m_leaves_the_working_directory_before_it_imports_anything(folder: Path) -> None:
    for name in RUNPY | {"crystalpredict"}:
        (folder / f"{name}.py").unlink()
    done = start(folder, "-m", "crystalpredict", *COMMANDS["finetune"])
    assert executed(folder) == []
    assert done.returncode == 0, done.stderr


def test_an_empty_entry_of_pythonpath_is_not_passed_on(folder: Path) -> None:
    for path in folder.glob("*.py"):
        if path.stem != "vesin":  # imported late, here and in processes that read
            path.unlink()
    done = start(folder, "-m", "crystalpredict", *COMMANDS["finetune"], PYTHONPATH=os.pathsep)
    assert executed(folder) == []
    assert done.returncode == 0, done.stderr


def test_processes_that_a_script_elsewhere_starts_do_not_execute_it_either(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scripts"
    elsewhere.mkdir()
    (elsewhere / "script.py").write_text(SCRIPT)
    done = start(folder, elsewhere / "script.py", "x1.cif", PYTHONPATH=str(ROOT))
    assert executed(folder) == []
    assert done.returncode == 0, done.stderr
