"""A cell of a hundred thousand atoms is predicted, in the memory of a laptop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MAX_GIB = 6


def glass(path: Path, cells: int) -> int:
    """Write quartz, `cells` cells along each axis, with every atom moved, as a POSCAR; return its number of atoms."""
    x, y, z, u = 0.4135, 0.2669, 0.1191, 0.4697
    silicon = [(u, 0, 0), (0, u, 2 / 3), (1 - u, 1 - u, 1 / 3)]
    oxygen = [(x, y, z), (-y, x - y, z + 2 / 3), (y - x, -x, z + 1 / 3)]
    oxygen += [(y, x, -z), (x - y, -y, 1 / 3 - z), (-x, y - x, 2 / 3 - z)]
    lattice = cells * np.array([[4.913, 0, 0], [-4.913 / 2, 4.913 * 0.75**0.5, 0], [0, 0, 5.405]])
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    sites = np.concatenate([((grid + np.array(own)) / cells).reshape(-1, 3) for own in (silicon, oxygen)])
    moves = np.random.default_rng(0).normal(scale=0.05, size=sites.shape) @ np.linalg.inv(lattice)
    counts = f"{3 * cells**3} {6 * cells**3}"
    with path.open("w") as file:
        file.write("glass\n1.0\n")
        np.savetxt(file, lattice, fmt="%.8f")
        file.write(f"Si O\n{counts}\nDirect\n")
        np.savetxt(file, (sites + moves) % 1, fmt="%.8f")
    return len(sites)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the memory of a child is known on POSIX systems alone")
def test_a_hundred_thousand_atoms_fit_into_six_gibibytes(tmp_path: Path) -> None:
    atoms = glass(tmp_path / "glass.vasp", 23)
    assert atoms > 100_000
    command = [sys.executable, "-m", "crystalpredict", "predict", str(tmp_path / "glass.vasp"), "-f", "csv"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    rows = program.stdout.read().splitlines()
    _, status, usage = os.wait4(program.pid, 0)
    program.stdout.close()
    program.returncode = os.waitstatus_to_exitcode(status)
    assert program.returncode == 0
    assert f",SiO2,{atoms}," in rows[1]
    in_bytes = 1 if sys.platform == "darwin" else 1024
    assert usage.ru_maxrss * in_bytes < MAX_GIB * 2**30
