"""Unrelaxed structures: what they relax to, by the model that learnt it, and the warning of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model, predict
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.cell import MIN_DISTANCE
from crystalpredict.errors import UsageError, suppress_warnings
from crystalpredict.prediction.decoder import volume_warning

FORMATION, CHANGE = "formation_energy_eV_per_atom", "volume_change_percent"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = [EXAMPLES / name for name in ("MgO.cif", "NaCl.cif", "CaF2.cif", "NiAl.vasp", "SrTiO3.cif", "Al2O3.cif")]
STRETCHES = (-0.15, -0.08, 0.0, 0.08, 0.15, 0.3)  # of the volume


@pytest.fixture(scope="module")
def relaxing() -> Predictor:
    return load_model(find_model(unrelaxed=True), "cpu")


@pytest.fixture(scope="module")
def default() -> Predictor:
    return load_model(device="cpu", targets=["formation_energy"])


def read(path: Path) -> Structure:
    with suppress_warnings():
        return Structure.from_file(str(path))


def stretched(structure: Structure, change: float) -> Structure:
    new = structure.copy()
    new.scale_lattice(structure.volume * (1 + change))
    return new


def test_moved_atoms_and_strained_cells_come_back(relaxing: Predictor) -> None:
    random = np.random.default_rng(0)
    before, after, strains, given = [], [], [], []
    structures = [read(path) for path in FILES for _ in range(3)]
    for structure in structures:
        strain = random.normal(size=(3, 3)) * 0.02
        lattice = structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
        moves = random.normal(size=(len(structure), 3)) * 0.07
        given.append(Structure(lattice, structure.species, structure.frac_coords + moves @ np.linalg.inv(lattice)))
    rows = relaxing.predict(given, reduce=False)
    for structure, moved, row in zip(structures, given, rows, strict=True):
        assert row.relaxed is not None
        found = Structure(row.relaxed.lattice, moved.species, row.relaxed.positions, coords_are_cartesian=True)
        before.append(away(structure, moved))
        after.append(away(structure, found))
        strains.append(row["strain_percent"])
        assert 0 < row["displacement_A"] < 0.5
    assert np.mean(after, axis=0)[0] < 0.6 * np.mean(before, axis=0)[0]  # distances between atoms
    assert np.mean(after, axis=0)[1] < 0.6 * np.mean(before, axis=0)[1]  # shape of the cell
    assert 1 < np.mean(strains) < 5


def test_cells_that_are_far_too_large_are_what_they_relax_to(relaxing: Predictor) -> None:
    structures = [read(path) for path in FILES]
    rows = relaxing.predict([stretched(each, change) for each in structures for change in (0.0, 0.7, 1.0)])
    energies = np.array([row[FORMATION] for row in rows]).reshape(len(FILES), -1)
    assert np.abs(energies[:, 1:] - energies[:, :1]).mean(axis=0).max() < 0.05


def test_cells_further_off_than_those_in_training_have_a_warning(relaxing: Predictor) -> None:
    changes = (-0.6, -0.3, 0.0, 0.3, 1.0)
    for path in FILES:
        rows = relaxing.predict([stretched(read(path), change) for change in changes])
        said = ["further than this model learnt: relax it by other means" in "".join(row.warnings) for row in rows]
        assert said == [True, False, False, False, True], path
        assert rows[-1]["strain_percent"] == rows[-1]["displacement_A"] == 0  # only the volume is corrected


def test_columns_are_those_of_the_relaxed_cell(relaxing: Predictor) -> None:
    structures = [stretched(read(path), change) for path in FILES for change in (-0.3, 0.4, 2.0)]
    for structure, row in zip(structures, relaxing.predict(structures), strict=True):
        assert row.relaxed is not None
        assert row.relaxed.volume / structure.volume == pytest.approx(1 + row[CHANGE] / 100, rel=1e-4)
        low, high = row.interval(CHANGE)
        assert low <= row[CHANGE] <= high


def test_atoms_do_not_get_too_near(relaxing: Predictor) -> None:
    for bond in (0.51, 0.56, 0.6):
        hydrogen = Structure(Lattice.cubic(4.0), ["H", "H"], [[0, 0, 0], [bond / 4.0, 0, 0]])
        (row,) = relaxing.predict([hydrogen])
        assert row.relaxed is not None
        assert np.linalg.norm(row.relaxed.positions[1] - row.relaxed.positions[0]) >= MIN_DISTANCE


def away(one: Structure, two: Structure) -> tuple[float, float]:
    """How far two structures of the same atoms are apart: mean difference of short distances, Å, and of the cells."""
    lengths = [each.copy().scale_lattice(len(each) * 12.0).distance_matrix for each in (one, two)]
    near = (lengths[0] > 0) & (lengths[0] < 4)
    apart = float(np.abs(lengths[0] - lengths[1])[near].mean()) if near.any() else 0.0
    tensors = [each.lattice.matrix / each.volume ** (1 / 3) for each in (one, two)]
    return apart, float(np.abs(tensors[0] @ tensors[0].T - tensors[1] @ tensors[1].T).mean())


def test_a_relaxed_crystal_keeps_its_symmetry(relaxing: Predictor) -> None:
    rows = relaxing.predict([read(path) for path in FILES])
    for path, row in zip(FILES, rows, strict=True):
        if path.stem != "Al2O3":  # all others are cubic, without free coordinates
            assert row["strain_percent"] == pytest.approx(0, abs=1e-3), path
            assert row["displacement_A"] == pytest.approx(0, abs=1e-3), path
    assert rows[-1]["displacement_A"] > 1e-3


def test_a_stretched_cell_is_what_it_relaxes_to(relaxing: Predictor) -> None:
    structures = [read(path) for path in FILES]
    rows = relaxing.predict([stretched(each, change) for each in structures for change in STRETCHES])
    energies = np.array([row[FORMATION] for row in rows]).reshape(len(FILES), -1)
    assert np.abs(energies - energies[:, 2:3]).mean() < 0.02
    relaxed = np.array([1 + row[CHANGE] / 100 for row in rows]).reshape(len(FILES), -1) * (1 + np.array(STRETCHES))
    assert np.abs(relaxed - 1).mean() < 0.025  # these files hold relaxed cells
    assert np.abs(relaxed - 1).max() < 0.1
    for row, structure, change in zip(
        rows, np.repeat(np.array(structures, dtype=object), 6), STRETCHES * 6, strict=True
    ):
        assert row.relaxed is not None
        expected = structure.volume * (1 + change) * (1 + row[CHANGE] / 100)
        assert row.relaxed.volume == pytest.approx(expected, rel=1e-4)
        low, high = row.interval(CHANGE)
        assert low < row[CHANGE] < high


def test_the_answer_is_that_of_the_crystal_not_of_its_cell(relaxing: Predictor) -> None:
    primitive = stretched(read(EXAMPLES / "SrTiO3.cif"), 0.1)
    twice = primitive.copy()
    twice.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    turned = Structure(
        Lattice(primitive.lattice.matrix @ np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])),
        primitive.species, primitive.frac_coords,
    )  # fmt: skip
    one, two, three = relaxing.predict([primitive, twice, turned])
    for other in (two, three):
        assert other.values == pytest.approx(one.values, rel=1e-3, abs=2e-4)


def test_a_relaxed_model_warns_of_a_cell_that_is_not_relaxed(default: Predictor) -> None:
    structures = [read(path) for path in FILES]
    for change, word in ((0.12, "larger"), (-0.12, "smaller")):
        rows = default.predict([stretched(each, change) for each in structures])
        told = [row for row in rows if any(f"{word} than it would relax to" in text for text in row.warnings)]
        assert len(told) >= len(rows) - 1
    quiet = [row for row in default.predict(structures) if not any("would relax" in text for text in row.warnings)]
    assert len(quiet) >= len(structures) - 1


@pytest.mark.parametrize("change", [-0.5, 0.6, 1.0])
def test_cells_that_are_far_off_have_the_warning_however_wide_the_interval(default: Predictor, change: float) -> None:
    rows = default.predict([stretched(read(path), change) for path in FILES])
    assert all(any("than it would relax to" in text for text in row.warnings) for row in rows)


def test_what_the_warning_says() -> None:
    assert volume_warning(np.log(1.09), np.log(1.07), np.log(1.11)) == (
        "cell is 9 % (7 to 11) larger than it would relax to: see --unrelaxed"
    )
    assert volume_warning(np.log(0.91), np.log(0.89), np.log(0.93)) == (
        "cell is 9 % (7 to 11) smaller than it would relax to: see --unrelaxed"
    )
    assert volume_warning(np.log(1.06), np.log(0.99), np.log(1.11)).startswith("cell is 6 % (0 to 11) larger")
    assert volume_warning(0.1, 0.1, 0.1).startswith("cell is 11 % larger")


def test_from_python(tmp_path: Path) -> None:
    structure = stretched(read(EXAMPLES / "MgO.cif"), 0.1)
    frame = predict([structure], unrelaxed=True).to_frame()
    assert frame.loc[0, CHANGE] == pytest.approx(-9, abs=5)
    assert f"{CHANGE}_lo90" in frame
    assert CHANGE not in predict([structure]).to_frame()
    assert CHANGE in predict([structure], targets=["volume_change"]).to_frame()  # on request
    with pytest.raises(UsageError, match="learnt from relaxed structures only"):
        predict([structure], "crystalformer-mp-ensemble", unrelaxed=True)
