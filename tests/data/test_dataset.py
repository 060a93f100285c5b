import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import (
    TRAIN,
    VALIDATION,
    CrystalTable,
    lattice_from_parameters,
    neighbor_table,
    read_jsonl,
    table_from_rows,
)
from crystalpredict.errors import DataError
from crystalpredict.properties import find_property
from tests.sample_crystals import random_crystal, random_table

ROCK_SALT = {
    "id": "a", "lattice": [3.99, 3.99, 3.99, 60, 60, 60], "species": ["Na", "Cl"],
    "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]], "formation_energy": -2.1, "bandgap": None,
}  # fmt: skip
IRON = {
    "id": "b",
    "lattice": [2.87, 2.87, 2.87, 90, 90, 90],
    "species": ["Fe"],
    "frac_coords": [[0, 0, 0]],
    "bulk_modulus": 170,
}


def test_lattice_has_the_lengths_and_angles_it_was_made_of() -> None:
    lattice = lattice_from_parameters([3.0, 4.0, 5.0, 80.0, 95.0, 110.0])
    lengths = np.linalg.norm(lattice, axis=1)
    assert lengths == pytest.approx([3, 4, 5])
    cosines = [lattice[i] @ lattice[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    assert np.degrees(np.arccos(cosines)) == pytest.approx([80, 95, 110])
    assert np.linalg.det(lattice) > 0


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = table_from_rows([(ROCK_SALT, TRAIN), (IRON, VALIDATION)])
    table.save(tmp_path / "crystals.npz")
    loaded = CrystalTable.load(tmp_path / "crystals.npz")
    assert loaded.ids.tolist() == ["a", "b"]
    assert loaded.splits.tolist() == [TRAIN, VALIDATION]
    assert loaded.sizes.tolist() == [2, 1]
    assert loaded.crystal(0).numbers[:, 0].tolist() == [11, 17]
    assert np.linalg.norm(loaded.crystal(0).positions[1]) == pytest.approx(3.99 * 1.5**0.5, abs=1e-5)
    energy = [prop.name for prop in loaded.properties].index("formation_energy")
    assert loaded.labels[0, energy] == -2.1
    assert np.isnan(loaded.labels[1, energy])
    assert loaded.properties == (find_property("formation_energy"), find_property("bulk_modulus"))


def test_atoms_far_from_their_cell_are_where_they_were(tmp_path: Path) -> None:
    far = {**ROCK_SALT, "frac_coords": [[0, 0, -1e6], [1e6 + 0.5, 0.5, 0.5]]}
    table_from_rows([(far, TRAIN)]).save(tmp_path / "crystals.npz")
    found = CrystalTable.load(tmp_path / "crystals.npz").fractional
    assert found.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


def test_of_a_file_only_the_small_crystals_are_taken_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import prepare

    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROCK_SALT) + "\n" + json.dumps(IRON) + "\n")
    table = tmp_path / "crystals.npz"
    names = ["--train", f"{rows}:1", f"{rows}:2", "--validation", str(rows), "-o", str(table)]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *names])
    prepare.main()
    assert CrystalTable.load(table).ids.tolist() == ["b", "a", "b", "a", "b"]


def test_neighbour_lists_are_cached_and_the_cache_knows_its_crystals(tmp_path: Path) -> None:
    table = table_from_rows([(ROCK_SALT, TRAIN), (IRON, TRAIN)])
    first = neighbor_table(table, 5.0, tmp_path)
    again = neighbor_table(table, 5.0, tmp_path)
    assert np.array_equal(first.distances, again.distances)
    crystal = table.crystal(1)
    direct = find_neighbors(crystal.lattice, crystal.positions, 5.0)
    iron = again.neighbors(1)
    assert iron.first.tolist() == direct.first.tolist()
    assert sorted(iron.distances) == pytest.approx(sorted(direct.distances), abs=1e-6)
    wider = {**ROCK_SALT, "lattice": [4.2, 4.2, 4.2, 60, 60, 60]}
    other = neighbor_table(table_from_rows([(wider, TRAIN), (IRON, TRAIN)]), 5.0, tmp_path)
    assert len(other.distances) != len(first.distances)
    assert len(list(tmp_path.iterdir())) == 2


def test_jsonl_gzipped_or_not(tmp_path: Path) -> None:
    text = json.dumps(ROCK_SALT) + "\n\n" + json.dumps(IRON) + "\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_jsonl(tmp_path / "a.jsonl")) == list(read_jsonl(tmp_path / "a.jsonl.gz")) == [ROCK_SALT, IRON]


def test_bad_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\nnonsense\n')
    with pytest.raises(DataError, match="line 2: not JSON"):
        list(read_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="Xx"):
        table_from_rows([({**IRON, "species": ["Xx"]}, TRAIN)])
    with pytest.raises(DataError, match="no cell has"):
        table_from_rows([({**IRON, "lattice": [3, 3, 3, 60, 60, 120]}, TRAIN)])
    with pytest.raises(DataError, match=r"the cell has 0.027 Å\^3 for 1 atoms"):
        table_from_rows([({**IRON, "lattice": [0.3, 0.3, 0.3, 90, 90, 90]}, TRAIN)])
    with pytest.raises(DataError, match="no crystals"):
        table_from_rows([])
    table_from_rows([(IRON, TRAIN)]).save(tmp_path / "b.npz")
    whole = (tmp_path / "b.npz").read_bytes()
    for content in (b"not a zip", whole[: len(whole) // 2]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(DataError, match="not a prepared table"):
            CrystalTable.load(tmp_path / "b.npz")


def test_numbers_of_a_cell_of_very_many_atoms_are_kept() -> None:
    """68,921 atoms, more than two bytes count."""
    edge = 41
    places = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3) / edge
    rows = [
        {"id": "large", "lattice": [3.35 * edge] * 3 + [90] * 3, "species": ["Po"] * edge**3, "frac_coords": places},
        {"id": "small", "lattice": [3.35] * 3 + [90] * 3, "species": ["Po"], "frac_coords": [[0, 0, 0]]},
    ]
    found = neighbor_table(table_from_rows([({**row, "bandgap": 0.0}, TRAIN) for row in rows]), 3.5)
    assert found.counts.tolist() == [edge**3, 1]


def test_crystals_of_a_table_are_moved_into_other_cells() -> None:
    table, wide = random_table(3), random_crystal(11, n_atoms=2)
    moved = table.moved({1: wide})
    shifts = (moved.crystal(1).positions - wide.positions) @ np.linalg.inv(wide.lattice)
    assert np.abs(shifts - np.round(shifts)).max() < 1e-6  # whole cells
    assert np.allclose(moved.crystal(1).lattice, wide.lattice)
    for row in (0, 2):
        assert np.array_equal(moved.crystal(row).positions, table.crystal(row).positions)
    assert not np.allclose(table.crystal(1).lattice, wide.lattice)  # the old table stays as it is
