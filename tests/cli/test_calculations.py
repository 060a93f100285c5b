"""Outputs of calculations as inputs of the commands: frames, folders, resuming, and what is said offline."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

import crystalpredict
from crystalpredict.errors import UsageError
from tests.io.test_calculations import CRYSTAL, outcar, pwo, vasprun
from tests.same import alike

LARGE = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4.3] * 3, pbc=True)
SMALL = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4.1] * 3, pbc=True)


def test_the_outputs_of_one_calculation_have_one_prediction(program, tmp_path) -> None:
    for name, text in {"vasprun.xml": vasprun(), "OUTCAR": outcar(), "pw.out": pwo()}.items():
        (tmp_path / name).write_text(text)
    CRYSTAL.to(filename=str(tmp_path / "a.cif"))
    names = ("a.cif", "vasprun.xml", "OUTCAR", "pw.out")
    outcome = program("predict", *(tmp_path / name for name in names))
    assert outcome.code == 0
    assert [row["path"] for row in outcome.rows] == [str(tmp_path / name) for name in names]
    values = [float(row["formation_energy_eV_per_atom"]) for row in outcome.rows]
    np.testing.assert_allclose(values, values[0], atol=2e-3)  # an OUTCAR has five digits


def test_frames_and_calculations_from_the_command_line_and_python(program, tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    ase.io.write(run / "XDATCAR", [LARGE, SMALL], format="vasp-xdatcar")
    ase.io.write(run / "POSCAR", LARGE, format="vasp")
    (run / "CONTCAR").write_text("")
    alone = program("predict", run / "POSCAR").rows[0]
    (last,) = program("predict", tmp_path, "--calculations").rows
    assert last["path"] == str(run / "XDATCAR")
    first, second = program("predict", run / "XDATCAR", "--frames", "all").rows
    assert [row["index"] for row in (first, second)] == ["0", "1"]
    column = "formation_energy_eV_per_atom"
    assert alike(first[column], alone[column])
    assert alike(second[column], last[column])
    assert not alike(first[column], second[column])
    frames = crystalpredict.predict(tmp_path, frames="all", calculations=True)
    assert [(row.path, row.index) for row in frames] == [(str(run / "XDATCAR"), 0), (str(run / "XDATCAR"), 1)]
    with pytest.raises(UsageError, match="'last' or 'all'"):
        crystalpredict.predict(tmp_path, frames="first")
    assert program("predict", run / "XDATCAR", "--frames", "first").code == 2
    features = tmp_path / "f.npz"
    assert program("embed", tmp_path, "--calculations", "--frames", "all", "-o", features).code == 0
    with np.load(features) as stored:
        assert len(stored["features"]) == 2


def test_all_frames_go_to_a_file_that_could_be_resumed(program, tmp_path) -> None:
    ase.io.write(tmp_path / "a.traj", [LARGE, SMALL] * 3)
    command = ("predict", tmp_path / "a.traj", "-o", tmp_path / "r.csv", "--frames", "all")
    assert program(*command).code == 0
    whole = (tmp_path / "r.csv").read_text()
    assert len(whole.splitlines()) == 7
    (tmp_path / "r.csv").unlink()
    assert program(*command, "--resume").code == 0
    assert (tmp_path / "r.csv").read_text() == whole


def test_a_trajectory_of_many_frames_is_read_by_workers(program, tmp_path) -> None:
    ase.io.write(tmp_path / "a.traj", [LARGE] * 100)
    outcome = program("predict", tmp_path / "a.traj", "--frames", "all", "-j", "2", "-t", "bandgap")
    assert outcome.code == 0
    assert [row["index"] for row in outcome.rows] == [str(number) for number in range(100)]


def test_the_frames_of_a_file_have_its_time_limit(program, tmp_path) -> None:
    steps = "".join(f"Direct configuration= {step}\n0 0 0\n.5 .5 .5\n" for step in range(1, 100_001))
    (tmp_path / "XDATCAR").write_text(f"CsCl\n1.0\n4.1 0 0\n0 4.1 0\n0 0 4.1\nCs Cl\n1 1\n{steps}")
    limited = (tmp_path / "XDATCAR", "--frames", "all", "--timeout-per-file", "0.001")
    outcome = program("predict", *limited)
    assert outcome.code == 4
    (row,) = outcome.rows
    assert row["error"] == "not read within 0.001 s: raise --timeout-per-file, or check the file"
    assert program("embed", *limited, "-o", tmp_path / "f.npz").code == 4


def test_dictionaries_of_atoms_in_python(tmp_path) -> None:
    import pandas

    frame = pandas.DataFrame(
        {"structure": [SMALL.todict(), json.dumps(CRYSTAL.as_dict()), CRYSTAL.as_dict(), {1: {2}}]}
    )
    rows = crystalpredict.predict(frame, targets=["bandgap"])
    assert [row.formula for row in rows] == ["CsCl", "NaTiO2", "NaTiO2", None] or rows[3].error
    assert [bool(row.error) for row in rows] == [False, False, False, True]
    (row,) = crystalpredict.predict(SMALL.todict(), targets=["bandgap"])
    assert row.formula == "CsCl"


def test_without_a_network_ids_and_queries_say_so(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    outcome = program("predict", "mp-149", f"optimade:{address}?nelements=1", "--frames", "all")
    assert outcome.code == 4
    assert len(outcome.stderr.splitlines()) == 4  # the model, a line each, and the count
    assert "mp-149: an id of the Materials Project" in outcome.stderr
    assert f"optimade:{address}: cannot reach" in outcome.stderr


def test_a_folder_of_calculations_says_how_to_find_them(program, tmp_path) -> None:
    (tmp_path / "OUTCAR").write_text(outcar())
    outcome = program("predict", tmp_path)
    assert outcome.code == 2
    assert "--calculations" in outcome.stderr
    assert [Path(row["path"]).name for row in program("predict", tmp_path, "--calculations").rows] == ["OUTCAR"]
