import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from pymatgen.core import Lattice, Structure

import crystalpredict
from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from crystalpredict.checkpoints.registry import bundled_models, default_model
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table
from crystalpredict.errors import CheckpointError, UsageError
from crystalpredict.io.structure_text import parse_text
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.properties import find_property
from crystalpredict.training.calibrate import calibrate
from crystalpredict.uncertainty.calibration import CALIBRATION_FILE, Calibration
from crystalpredict.uncertainty.intervals import fit_errors
from tests.sample_crystals import random_crystal, rock_salt, table_of

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").iterdir())


def set_checksum(folder: Path) -> None:
    """Name the calibration file as it is now in config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["calibration_sha256"] = hashlib.sha256((folder / CALIBRATION_FILE).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return crystalpredict.load_model(device="cpu")


# The file


def test_a_calibration_is_read_as_it_was_written() -> None:
    folder = default_model().folder
    found = load_checkpoint(folder).calibration
    assert found is not None
    assert found.to_bytes() == (folder / CALIBRATION_FILE).read_bytes()
    alone = Calibration(found.errors)
    assert Calibration.from_bytes(alone.to_bytes(), len(alone.errors.weights), 128).domain is None


@pytest.mark.parametrize("minimum", np.linspace(-1, -0.5, 7))
def test_predictions_at_the_minimum_have_the_same_intervals_from_a_file(minimum) -> None:
    """Half of the predictions are exactly at the minimum, nearly without error, and none is near it."""
    rng = np.random.default_rng(0)
    outputs = minimum + np.where(rng.random((2000, 1)) < 0.5, 0.0, 1 + rng.exponential(1, (2000, 1)))
    labels = outputs + rng.normal(size=(2000, 1)) * np.where(outputs > minimum, 0.3, 0.001)
    sizes, features = rng.integers(1, 60, 2000), rng.normal(size=(2000, 4)).astype(np.float32)
    fitted = fit_errors(outputs, np.maximum(labels, minimum), sizes, features, np.array([minimum]))
    read = Calibration.from_bytes(Calibration(fitted).to_bytes(), 1, 4).errors
    halves = [errors.halfwidths(outputs, sizes, features)[outputs[:, 0] == minimum] for errors in (fitted, read)]
    assert halves[1] == pytest.approx(halves[0], rel=1e-4)


def test_calibrations_without_bins_of_predictions_or_thirds_by_stability_are_read() -> None:
    found = load_checkpoint(default_model().folder).calibration
    assert found is not None
    count, own = len(found.errors.weights), found.errors.quantiles
    tensors = safetensors.numpy.load(Calibration(found.errors).to_bytes())
    outputs = np.linspace(-3, 3, 50)[:, None] + np.zeros(count)
    crystals = np.full(50, 4), np.zeros((50, 128)), np.linspace(-3, 3, 50)

    def check(quantiles: np.ndarray) -> None:
        older = Calibration.from_bytes(safetensors.numpy.save(tensors), count, 128).errors
        same = replace(found.errors, quantiles=quantiles)
        assert older.halfwidths(outputs, *crystals) == pytest.approx(same.halfwidths(outputs, *crystals))

    del tensors["errors.stability"]
    tensors["errors.quantiles"] = np.ascontiguousarray(own[..., 1, :])
    check(np.repeat(own[..., 1:2, :], 3, axis=3))
    del tensors["errors.bins"]
    tensors["errors.quantiles"] = np.ascontiguousarray(own[:, 2, :, 1])
    check(np.repeat(np.repeat(own[:, 2:3, :, 1:2], 3, axis=3), 8, axis=1))
    tensors["errors.quantiles"] = tensors["errors.quantiles"][0]
    with pytest.raises(ValueError, match="quantiles"):
        Calibration.from_bytes(safetensors.numpy.save(tensors), count, 128)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"x" * 5000])
def test_an_invalid_file_with_the_right_checksum_is_refused(folder, content) -> None:
    (folder / CALIBRATION_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or altered"):
        load_checkpoint(folder)
    set_checksum(folder)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(folder)


def test_tensors_that_are_missing_or_of_another_model_are_refused(folder) -> None:
    content = (folder / CALIBRATION_FILE).read_bytes()
    with pytest.raises(ValueError, match="another model"):
        Calibration.from_bytes(content, 4, 128)
    with pytest.raises(ValueError, match="another model"):
        Calibration.from_bytes(content, 5, 64)
    (folder / CALIBRATION_FILE).write_bytes(content.replace(b"errors.knots", b"errors.knits"))
    set_checksum(folder)
    with pytest.raises(CheckpointError, match="missing or unknown"):
        load_checkpoint(folder)


def test_a_file_that_config_names_must_be_there_and_one_that_it_does_not_must_not(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["calibration_sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not name it"):
        load_checkpoint(folder)
    (folder / CALIBRATION_FILE).unlink()
    assert load_checkpoint(folder).calibration is None
    config["calibration_sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"calibration\.safetensors: missing"):
        load_checkpoint(folder)


def test_saving_keeps_a_calibration_and_new_weights_drop_the_old_one(folder) -> None:
    checkpoint = load_checkpoint(folder)
    save_checkpoint(checkpoint, folder, [rock_salt()], "card")
    again = load_checkpoint(folder).calibration
    assert again is not None
    assert checkpoint.calibration is not None
    assert again.to_bytes() == checkpoint.calibration.to_bytes()
    save_checkpoint(replace(checkpoint, calibration=None), folder, [rock_salt()], "card")
    assert load_checkpoint(folder).calibration is None


# Intervals of predictions


def test_every_prediction_lies_in_its_intervals_and_these_in_one_another(predictor) -> None:
    for row in predictor.predict(EXAMPLES):
        assert list(row.intervals) == predictor.columns
        for column, value in row.values.items():
            levels = row.bounds[column]
            assert (np.diff(levels[:, 0]) <= 0).all()
            assert (np.diff(levels[:, 1]) >= 0).all()
            assert levels[0, 0] <= value <= levels[0, 1]
            assert row.intervals[column] == tuple(levels[3])
            with pytest.raises(UsageError, match=r"no interval of 0.9 %: choose from 50, 68, 80, 90, 95"):
                row.interval(column, 0.9)
            assert levels.min() >= 0 or column.startswith("formation")


def test_a_supercell_has_the_interval_of_its_primitive_cell(predictor) -> None:
    primitive = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5] * 3])
    primitive = primitive.get_primitive_structure()
    large = primitive.copy() * [[2, 1, 0], [0, 2, 0], [0, -1, 3]]
    for reduce in (True, False):
        one, two = predictor.predict([primitive, large], reduce=reduce)
        assert (one.n_atoms, two.n_atoms) == (2, 24)
        for column in predictor.columns:
            assert one.intervals[column] == pytest.approx(two.intervals[column], rel=1e-3, abs=1e-4)


def test_without_calibration_or_on_request_there_are_only_values(folder) -> None:
    checkpoint = load_checkpoint(folder)
    for other in (
        Predictor(replace(checkpoint, calibration=None), "cpu"),
        Predictor(checkpoint, "cpu", uncertainty=False),
    ):
        (row,) = other.predict(EXAMPLES[0])
        assert row.values
        assert row.intervals == {}
        with pytest.raises(UsageError, match="no interval of 'bandgap_eV': choose from none"):
            row.interval("bandgap_eV")


# Warnings, on the crystals of examples/ and what becomes of them

STRUCTURES = {path.name: parse_text(path.read_text())[0] for path in EXAMPLES}


def warned(predictor: Predictor, structures: list[Structure]) -> list[bool]:
    rows = predictor.predict(structures)
    return [any(note.startswith("unlike the training data: ") for note in row.warnings) for row in rows]


def test_well_known_crystals_have_no_warning(predictor) -> None:
    assert not any(warned(predictor, list(STRUCTURES.values())))


METALS = {"Li": (3.51, 2), "Na": (4.29, 2), "K": (5.33, 2), "Ca": (5.58, 4), "Sr": (6.08, 4), "Ba": (5.02, 2)}  # Å


@pytest.mark.parametrize("symbol", METALS)
def test_metals_of_large_atoms_at_their_measured_cells_have_no_warning(predictor, symbol) -> None:
    length, atoms = METALS[symbol]
    centred = [[0, 0, 0], [0.5, 0.5, 0.5]] if atoms == 2 else [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    (row,) = predictor.predict([Structure(Lattice.cubic(length), [symbol] * atoms, centred)])
    assert row.warnings == ()


@pytest.mark.parametrize("stretch", [0.75, 1.3])
def test_every_stretched_or_compressed_crystal_has_a_warning(predictor, stretch) -> None:
    structures = [structure.copy() for structure in STRUCTURES.values()]
    for structure in structures:
        structure.scale_lattice(structure.volume * stretch**3)
    assert all(warned(predictor, structures))


def test_a_slab_with_vacuum_has_a_warning(predictor) -> None:
    names = ("NaCl.cif", "GaAs.cif", "NiAl.vasp", "MgO.cif", "CaF2.cif", "Si.vasp")
    assert all(warned(predictor, [slab(STRUCTURES[name]) for name in names]))


def slab(structure: Structure) -> Structure:
    """Two cells on top of each other and 12 Å of nothing."""
    thick = structure.copy() * [1, 1, 2]
    a, b, c = thick.lattice.matrix
    return Structure(
        [a, b, c * (1 + 12 / np.linalg.norm(c))], thick.species, thick.cart_coords, coords_are_cartesian=True
    )


def test_a_molecule_in_a_box_has_a_warning(predictor) -> None:
    water = [[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]]
    boxes = [Structure(Lattice.cubic(a), "OHH", water, coords_are_cartesian=True) for a in (8, 12, 20)]
    boxes += [Structure(Lattice.cubic(10), "COO", [[5, 5, 5], [6.16, 5, 5], [3.84, 5, 5]], coords_are_cartesian=True)]
    assert all(warned(predictor, boxes))


def test_most_lattices_of_random_elements_have_a_warning(predictor) -> None:
    rng = np.random.default_rng(0)
    structures = []
    for name in ("CaF2.cif", "SrTiO3.cif", "Al2O3.cif", "ZnO.cif"):
        for _ in range(10):
            structure = STRUCTURES[name].copy()
            for site in range(len(structure)):
                structure.replace(site, int(rng.integers(1, 95)))
            structures.append(structure)
    assert np.mean(warned(predictor, structures)) > 0.9


# Calibrating


def labelled_table(count: int) -> CrystalTable:
    """Crystals of two atoms, half of them for validation, with band gaps at random."""
    crystals = [random_crystal(seed, 2) for seed in range(count)]
    table = table_of(crystals, np.random.default_rng(0).uniform(0, 3, (count, 1)), find_property("bandgap"))
    return replace(table, splits=np.arange(count) % 2 * (VALIDATION - TRAIN) + TRAIN)


@pytest.mark.parametrize(("count", "calibrated"), [(98, False), (120, True)])
def test_a_new_network_is_calibrated_if_the_validation_set_has_enough_labels(count, calibrated) -> None:
    table = labelled_table(count)
    neighbors = neighbor_table(table, 6.0)
    network = Crystalformer(ModelConfig(blocks=1, width=16, heads=2, feedforward=16, readout=16, outputs=1)).eval()
    network.fit_width_norm(one_batch(table, neighbors))
    checkpoint = Checkpoint("new", network, table.properties, np.array([1.5]), np.array([0.9]), {})
    found = calibrate(checkpoint, table, neighbors, domain=calibrated)
    if not calibrated:
        assert found is None
        return
    assert found is not None
    assert found.domain is not None
    assert found.domain.elements.sum() <= 2 * (count // 2)  # of the training part alone
    predictor = Predictor(replace(checkpoint, calibration=found), "cpu")
    rows = np.flatnonzero(table.splits == VALIDATION)
    crystals = [table.crystal(row) for row in rows]
    structures = [
        Structure(c.lattice, c.numbers[:, 0].tolist(), c.positions, coords_are_cartesian=True) for c in crystals
    ]
    found_rows = predictor.predict(structures)
    known = [number for number, row in enumerate(found_rows) if row.values]  # in some, atoms are too close
    assert len(known) > 40
    ends = np.array([found_rows[number].intervals["bandgap_eV"] for number in known])
    labels = table.labels[rows[known], 0]
    assert np.mean((ends[:, 0] <= labels) & (labels <= ends[:, 1])) >= 0.85


def one_batch(table: CrystalTable, neighbors):
    from crystalpredict.nn.batch import collate

    rows = range(20)
    return collate([table.crystal(row) for row in rows], [neighbors.neighbors(row) for row in rows])


@pytest.mark.parametrize("name", list(bundled_models()))
def test_no_interval_of_a_bundled_model_is_absurdly_wide(name: str) -> None:
    """Factors of bins and groups, fitted in turn, once ran away to 1e12 and 1e-12."""
    errors = load_checkpoint(bundled_models()[name].folder).calibration.errors
    assert errors.quantiles.max() < 20  # of the scale of an error
