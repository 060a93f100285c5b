import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import load_model
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, table_from_rows


def rock_salt(name: str, length: float, cation: str, **labels: float) -> dict[str, object]:
    return {
        "id": name, "lattice": [length, length, length, 60, 60, 60], "species": [cation, "O"],
        "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]], **labels,
    }  # fmt: skip


def test_a_teacher_labels_training_crystals_but_no_test_crystals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import distil

    rows = [
        (rock_salt("magnesia", 2.98, "Mg", formation_energy=-3.0), TRAIN),
        (rock_salt("measured", 3.40, "Ca", bulk_modulus=111.0), TRAIN),
        (rock_salt("measured", 3.41, "Ca", formation_energy=-3.3), TRAIN),
        (rock_salt("validation", 3.66, "Sr", bulk_modulus=90.0), VALIDATION),
        (rock_salt("its polymorph", 3.50, "Sr", formation_energy=-3.0), TRAIN),
        (rock_salt("of a test", 3.95, "Ba", formation_energy=-2.8), TRAIN),
        ({**rock_salt("large", 2.98, "Mg"), "species": ["Mg"] * 3, "frac_coords": np.eye(3).tolist()}, TRAIN),
    ]
    table_from_rows(rows).save(tmp_path / "crystals.npz")
    (tmp_path / "test.jsonl").write_text(json.dumps(rock_salt("test", 4.0, "Ba", bulk_modulus=70.0)) + "\n")
    arguments = [tmp_path / "crystals.npz", "crystalframer-elastic", "-o", tmp_path / "distilled.npz"]
    wanted = ["--atoms", "2", "--without", tmp_path / "test.jsonl"]
    monkeypatch.setattr(sys, "argv", ["distil.py", *map(str, [*arguments, *wanted])])
    with pytest.raises(SystemExit):
        distil.main()
    assert "no column for shear_modulus" in capsys.readouterr().err

    rows[1][0]["shear_modulus"] = 82.0
    table_from_rows(rows).save(tmp_path / "crystals.npz")
    distil.main()
    filled = CrystalTable.load(tmp_path / "distilled.npz")
    assert filled.ids.tolist() == [row["id"] for row, _ in rows]
    names = [prop.name for prop in filled.properties]
    bulk = filled.labels[:, names.index("bulk_modulus")]
    magnesia = Structure(Lattice.from_parameters(2.98, 2.98, 2.98, 60, 60, 60), ["Mg", "O"], rows[0][0]["frac_coords"])
    (said,) = load_model("crystalframer-elastic", "cpu").predict([magnesia])
    assert bulk[0] == pytest.approx(said.values["bulk_modulus_GPa"], rel=1e-4)
    assert filled.labels[0, names.index("shear_modulus")] == pytest.approx(said.values["shear_modulus_GPa"], rel=1e-4)
    assert bulk[0] == pytest.approx(160, rel=0.15)  # as handbooks have it
    assert bulk[1:4].tolist() == [111, 111, 90]
    assert np.isnan(bulk[4:]).all()
    assert filled.labels[:, names.index("formation_energy")][[0, 2]] == pytest.approx([-3.0, -3.3])
