import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT

from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, table_from_rows
from crystalpredict.io.to_ase import atoms_of_crystal

REFERENCES = {"Cu": 0.3, "Ag": -0.2, "Au": 1.1, "Al": -0.7, "Ni": 0.05}  # eV, of no physical meaning


def cube(name: str, length: float, species: list[str]) -> dict[str, object]:
    places = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return {"id": name, "lattice": [length] * 3 + [90.0] * 3, "species": species, "frac_coords": places}


def label_of(row: dict[str, object]) -> float:
    crystal = table_from_rows([({**row, "formation_energy": 0.0}, TRAIN)]).crystal(0)
    species: list[str] = row["species"]
    return EMT().get_potential_energy(atoms_of_crystal(crystal)) / 4 + sum(REFERENCES[each] for each in species) / 4


def test_a_potential_labels_crystals_as_those_that_have_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import teach_energies

    metals = [*REFERENCES][:4]
    labelled = [
        cube(f"{a}{b}{n}", 3.9 + 0.05 * n, [a] * n + [b] * (4 - n)) for a in metals for b in metals for n in (1, 2, 3)
    ]
    new = [
        cube("new", 4.0, ["Cu", "Ag", "Au", "Al"]),
        cube("CuAg1", 4.4, ["Cu", "Ag", "Ag", "Ag"]),  # of an id with a label
        cube("of a test", 4.0, ["Cu", "Cu", "Au", "Al"]),
        cube("of validation", 4.1, ["Al", "Al", "Au", "Cu"]),
        cube("without a reference", 3.7, ["Ni", "Cu", "Cu", "Cu"]),
    ]
    rows = [({**row, "formation_energy": label_of(row)}, TRAIN) for row in labelled] + [(row, TRAIN) for row in new]
    rows.append(({**cube("validation", 4.0, ["Al", "Al", "Au", "Cu"]), "formation_energy": 0.0}, VALIDATION))
    table_from_rows(rows).save(tmp_path / "crystals.npz")
    (tmp_path / "test.jsonl").write_text(json.dumps(cube("test", 4.0, ["Cu", "Cu", "Au", "Al"])) + "\n")
    arguments = [tmp_path / "crystals.npz", "ase.calculators.emt:EMT", "-o", tmp_path / "taught.npz"]
    wanted = ["--without", tmp_path / "test.jsonl"]
    monkeypatch.setattr(sys, "argv", ["teach_energies.py", *map(str, [*arguments, *wanted])])
    teach_energies.main()
    assert "1 crystals labelled by the potential, 1 by id; 48 labels are 0.0000" in capsys.readouterr().out
    taught = CrystalTable.load(tmp_path / "taught.npz").labels[:, 0]
    assert taught[48] == pytest.approx(label_of(new[0]), abs=1e-3)
    assert taught[49] == next(label_of(row) for row in labelled if row["id"] == "CuAg1")
    assert np.isnan(taught[50:53]).all()

    monkeypatch.setattr(teach_energies, "calculator_of", lambda *_: pytest.fail("all energies are kept"))
    teach_energies.main()
    assert CrystalTable.load(tmp_path / "taught.npz").labels[:, 0] == pytest.approx(taught, nan_ok=True)

    table_from_rows(rows[:48]).save(tmp_path / "crystals.npz")
    with pytest.raises(SystemExit):
        teach_energies.main()
    assert "no training crystal of at most 40 atoms" in capsys.readouterr().err

    rows[48] = ({**new[0], "lattice": [4.2] * 3 + [90.0] * 3}, TRAIN)  # the same id in another cell
    table_from_rows(rows).save(tmp_path / "crystals.npz")
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["teach_energies.py", *map(str, [*arguments, *wanted])])
    teach_energies.main()
    assert CrystalTable.load(tmp_path / "taught.npz").labels[48, 0] == pytest.approx(label_of(rows[48][0]), abs=1e-3)
