"""The protocols of docs/evaluation.md on small files of the form of the downloads."""

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
STRUCTURES = [Structure.from_file(ROOT / "examples" / name) for name in ("NiAl.vasp", "Si.vasp", "POSCAR_Ni3Al")] * 4


def code_that_writes(name: str) -> str:
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f'"{name}", "w' in code)
    return block


def command_with(*parts: str) -> list[str]:
    """Arguments of the one command of the page that has all of the parts."""
    lines = (line for line in PAGE.splitlines() if line.startswith("crystalpredict "))
    (line,) = (line for line in lines if all(part in line for part in parts))
    return shlex.split(line, comments=True)[1:]


def jarvis_atoms(structure: Structure) -> dict:
    """A structure as jarvis-tools writes it."""
    return {
        "lattice_mat": structure.lattice.matrix.tolist(), "coords": structure.frac_coords.tolist(),
        "elements": [site.specie.symbol for site in structure], "cartesian": False, "props": [""] * len(structure),
    }  # fmt: skip


def test_the_megnet_split(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"mp-{number}", "atoms": jarvis_atoms(structure), "e_form": -0.1 * number, "gap pbe": "na", "desc": 1}
        for number, structure in enumerate(STRUCTURES)
    ]
    rows[11]["gap pbe"] = 0.2
    Path("megnet.json").write_text(json.dumps(rows))
    parts = {"train": range(8), "val": range(8, 9), "test": range(9, 12)}
    splits = {part: {f"mp-{number}": -0.1 * number for number in numbers} for part, numbers in parts.items()}
    Path("megnet_e_form.json").write_text(json.dumps(splits))
    everything = program(*command_with("megnet.json", "-t"))
    assert [(row["property"], row["crystals"]) for row in everything.rows] == [
        ("formation_energy", "12"), ("bandgap", "1"),
    ]  # fmt: skip
    exec(code_that_writes("megnet_split.jsonl"), {})
    outcome = program(*command_with("evaluate megnet_split.jsonl"))
    assert [(row["property"], row["crystals"]) for row in outcome.rows] == [("formation_energy", "3"), ("bandgap", "1")]


def test_jarvis_columns_of_another_name(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"jid": f"JVASP-{number}", "atoms": jarvis_atoms(structure), "formation_energy_peratom": 0.1 * number,
         "optb88vdw_bandgap": 0.0, "mbj_bandgap": "na", "ehull": 0.01}
        for number, structure in enumerate(STRUCTURES)
    ]  # fmt: skip
    Path("dft_3d.json").write_text(json.dumps(rows))
    outcome = program(*command_with("evaluate dft_3d.json"))
    assert [(row["property"], row["crystals"]) for row in outcome.rows] == [
        ("formation_energy", "12"), ("bandgap", "12"), ("e_above_hull", "12"),
    ]  # fmt: skip


def test_a_fold_of_matbench(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = [[structure.as_dict(), 1.5 + 0.05 * number] for number, structure in enumerate(STRUCTURES)]
    table = {"index": list(range(12)), "columns": ["structure", "log10(K_VRH)"], "data": data}
    with gzip.open("matbench_log_kvrh.json.gz", "wt") as file:
        json.dump(table, file)
    exec(code_that_writes("fold4.json.gz"), {})
    command = command_with("evaluate fold4.json.gz")
    outcome = program(*command, "--predictions", "rows.json")
    # 12 rows in 5 folds: 3, 3, 2, 2, 2
    assert [(row["property"], row["unit"], row["crystals"]) for row in outcome.rows] == [
        ("bulk_modulus", "log10(GPa)", "2"), ("bulk_modulus", "GPa", "2"),
    ]  # fmt: skip
    rows = json.loads(Path("rows.json").read_text())
    labels = [row["bulk_modulus_GPa_label"] for row in rows]
    assert labels == pytest.approx([10 ** (1.5 + 0.05 * (row["row"] - 1)) for row in rows], abs=0.01)
    with gzip.open("fold4.json.gz", "rt") as file:
        parts = [row[-1] for row in json.load(file)["data"]]
    # scikit-learn's KFold: the last of consecutive parts of the shuffled rows, the first ones larger by one
    shuffled = np.random.RandomState(18012019).permutation(12).tolist()
    assert [number for number, part in enumerate(parts) if part == "test"] == sorted(shuffled[10:])
