import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, read_jsonl, table_from_rows
from crystalpredict.data.perturb import Perturbation, joined, perturbed

SPINEL: dict[str, Any] = {
    "id": "a", "lattice": [5.0, 5.5, 6.0, 80, 95, 110], "species": ["Na", "Cl", "Cl"],
    "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.3, 0.7]], "formation_energy": -2.1, "e_above_hull": 0.0,
    "volume_change": 0.0, "bandgap": 1.0,
}  # fmt: skip
COPIES = 400


def many(**labels: object) -> CrystalTable:
    return table_from_rows([({**SPINEL, **labels}, TRAIN)] * COPIES)


def column(table: CrystalTable, name: str) -> np.ndarray:
    return table.labels[:, [prop.name for prop in table.properties].index(name)]


def volumes(table: CrystalTable) -> np.ndarray:
    return np.linalg.det(table.lattices.astype(float))


def test_a_copy_says_how_its_volume_changes_on_relaxation() -> None:
    table = many()
    copies, _ = perturbed(table, np.arange(COPIES), Perturbation(volume=0.1, strain=0.05, strained=0.5), seed=1)
    assert volumes(copies) * (1 + column(copies, "volume_change") / 100) == pytest.approx(volumes(table))
    assert np.log(volumes(copies) / volumes(table)).std() == pytest.approx(0.1, rel=0.15)
    assert (column(copies, "formation_energy") == -2.1).all()
    assert (column(copies, "bandgap") == 1.0).all()
    off, _ = perturbed(many(volume_change=25.0), np.arange(COPIES), Perturbation(volume=0.1), seed=2)  # of a copy
    assert volumes(off) * (1 + column(off, "volume_change") / 100) == pytest.approx(1.25 * volumes(table))


def test_starting_cells_may_first_get_the_volume_that_they_relax_to() -> None:
    table = many(volume_change=-40.0)
    copies, _ = perturbed(table, np.arange(COPIES), Perturbation(volume=0.02, corrected=0.5), seed=3)
    near = np.abs(np.log(volumes(copies) / volumes(table) / 0.6)) < 0.1
    assert near.mean() == pytest.approx(0.5, abs=0.1)
    assert volumes(copies) * (1 + column(copies, "volume_change") / 100) == pytest.approx(0.6 * volumes(table))


def test_strains_keep_the_volume_and_displacements_the_cell() -> None:
    table = many()
    copies, _ = perturbed(table, np.arange(COPIES), Perturbation(strain=0.05, strained=0.5), seed=1)
    assert volumes(copies) == pytest.approx(volumes(table))
    changed = np.abs(copies.lattices - table.lattices).max(axis=(1, 2)) > 1e-9
    assert changed.mean() == pytest.approx(0.5, abs=0.1)
    moved, _ = perturbed(table, np.arange(COPIES), Perturbation(displacement=0.2, displaced=0.5), seed=1)
    assert (moved.lattices == table.lattices).all()
    away = moved.fractional - table.fractional
    shifts = np.einsum("nx,nxy->ny", away - np.rint(away), np.repeat(table.lattices, 3, axis=0))
    sizes = np.sqrt(np.square(shifts).sum(axis=1).reshape(COPIES, 3).mean(axis=1))
    assert (sizes > 1e-9).mean() == pytest.approx(0.5, abs=0.1)
    assert sizes[sizes > 0].mean() == pytest.approx(0.1, rel=0.2)


def test_copies_depend_on_the_seed_and_impossible_ones_are_left_out() -> None:
    table = many()
    how = Perturbation(volume=0.1, strain=0.05, strained=1, displacement=0.1, displaced=1)
    one, same, other = (perturbed(table, np.arange(COPIES), how, seed)[0] for seed in (1, 1, 2))
    assert one.checksum() == same.checksum() != other.checksum()
    dense = table_from_rows([({**SPINEL, "lattice": [1.2, 1.2, 1.2, 90, 90, 90]}, TRAIN)] * COPIES)
    left, places = perturbed(dense, np.arange(COPIES), Perturbation(volume=0.3), seed=1)
    assert 0 < len(left) == len(places) < COPIES
    assert (volumes(left) >= 1.5).all()


def test_tables_are_joined_in_their_order() -> None:
    one, two = many(), table_from_rows([({**SPINEL, "id": "b"}, VALIDATION)])
    both = joined([two, one])
    assert both.ids[:2].tolist() == ["b", "a"]
    assert len(both) == COPIES + 1
    assert both.take(np.array([0])).checksum() == two.checksum()
    assert both.take(np.array([5])).checksum() == one.take(np.array([0])).checksum()
    with pytest.raises(ValueError, match="different properties"):
        joined([one, table_from_rows([({**SPINEL, "bandgap": None}, TRAIN)])])


def test_prepared_rows_have_the_labels_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import json

    import perturb
    import prepare

    start = {"lattice": [4.0] * 3 + [90] * 3, "species": ["Na", "Cl"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}
    metal = {**start, "id": "m", "lattice": [5.0] * 3 + [90] * 3, "formation_energy": -1.0, "bandgap": 0.0}
    rows = [
        {**metal, "unrelaxed": start},
        {**SPINEL, "bandgap_hse": 1.7, "bandgap_expt": 0.0},
        {**metal, "id": "element", "species": ["Na", "Na"]},
    ]
    del rows[1]["volume_change"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "v.jsonl").write_text(json.dumps(SPINEL) + "\n")
    out, more = tmp_path / "out.npz", tmp_path / "more.npz"
    arguments = ["--train", f"{tmp_path}/a.jsonl:2*2", f"{tmp_path}/a.jsonl", "--unrelaxed", f"{tmp_path}/a.jsonl"]
    arguments += ["--validation", f"{tmp_path}/v.jsonl", "--elements", "3", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
    prepare.main()
    table = CrystalTable.load(out)
    assert table.ids.tolist() == ["m"] * 2 + ["element"] * 6 + ["m", "a"] + ["element"] * 3 + ["m~unrelaxed", "a"]
    assert next(iter(read_jsonl(tmp_path / "v.jsonl")))["id"] == "a"
    changes = column(table, "volume_change")
    assert changes[13] == pytest.approx(100 * (125 / 64 - 1))
    assert (np.delete(changes, 13) == 0).all()
    assert column(table, "metal_probability")[[0, 9]].tolist() == [1, 0]
    assert column(table, "bandgap_nonmetal")[9] == 1.0
    assert np.isnan(column(table, "bandgap_nonmetal")[0])
    assert column(table, "bandgap_hse")[9] == 1.7
    assert column(table, "metal_probability_experiment")[9] == 1

    monkeypatch.setattr(sys, "argv", ["perturb.py", str(out), "-o", str(more), "--copies", "1.5", "--volume", "0.1"])
    perturb.main()
    assert len(CrystalTable.load(more)) == 15 + 14 + 7
    of = ["--of", "validation", "--labels", "volume_change", "--relaxed", "0", "--volume", "0.1"]
    monkeypatch.setattr(sys, "argv", ["perturb.py", str(out), "-o", str(more), *of])
    perturb.main()
    checked = CrystalTable.load(more)
    assert checked.splits.tolist() == [TRAIN] * 14 + [VALIDATION]
    assert np.isfinite(checked.labels[-1]).sum() == 1
