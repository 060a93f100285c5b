"""Features are what the first readout sees, and they do not depend on the cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model
from crystalpredict.checkpoints.checkpoint import Checkpoint
from tests.nn.test_factory import FAMILY, checkpoint_of

SRTIO3 = Structure(
    Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"],
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)  # fmt: skip
BENT = Structure(
    Lattice.from_parameters(3.9, 4.2, 5.3, 80, 95, 105), ["Sr", "Ti", "O", "O"],
    [[0, 0, 0], [0.5, 0.4, 0.5], [0.1, 0.5, 0.8], [0.6, 0, 0.4]],
)  # fmt: skip


@pytest.fixture(scope="module", params=["bundled", "dual", "framed"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    if request.param == "bundled":
        return load_model(device="cpu")
    checkpoint: Checkpoint = checkpoint_of(FAMILY[request.param])
    return Predictor(checkpoint, device="cpu")


def test_properties_follow_from_features(predictor: Predictor) -> None:
    if predictor.config.readout_of_states:  # its outputs are added
        predictor = load_model("crystalframer-mp", "cpu")
    rows = predictor.embed([SRTIO3, BENT])
    features = torch.from_numpy(np.stack([row.features for row in rows]))
    with torch.no_grad():
        values = predictor.checkpoint.decode(predictor.model.readout(features).numpy())
    for number, row in enumerate(predictor.predict([SRTIO3, BENT])):
        for prop in predictor.properties:
            if prop.name == "e_above_hull":  # which follows from the formation energy and the hull of known phases
                continue
            assert row[prop.column] == pytest.approx(values[prop.name][number], rel=1e-5, abs=1e-6)


def test_features_of_a_crystal_are_the_mean_of_those_of_its_atoms(predictor: Predictor) -> None:
    structures = [BENT, SRTIO3, BENT * (2, 1, 1)]
    pooled, atoms = predictor.embed(structures), predictor.embed(structures, per_atom=True)
    for one, all_of_it, structure in zip(pooled, atoms, structures, strict=True):
        assert all_of_it.features.shape == (len(structure), predictor.model.config.width)
        assert all_of_it.numbers.tolist() == [site.specie.Z for site in structure]
        assert np.abs(all_of_it.features.mean(axis=0) - one.features).max() < 1e-4
    oxygen = atoms[1].features[2:]
    assert np.abs(oxygen - oxygen[0]).max() < 1e-4
    assert np.abs(atoms[0].features[2] - atoms[0].features[3]).max() > 1e-3


def test_features_do_not_depend_on_the_cell_or_the_company(predictor: Predictor) -> None:
    one, two, alone = (
        predictor.embed(structures)[0].features for structures in ([BENT, SRTIO3], [BENT * (1, 2, 1), SRTIO3], BENT)
    )
    assert np.abs(one - two).max() < 1e-4
    assert np.abs(one - alone).max() < 1e-4


def test_atoms_keep_their_order_whatever_the_batches(predictor: Predictor) -> None:
    order = [2, 0, 3, 1]
    shuffled = Structure.from_sites([BENT[number] for number in order])
    small = Predictor(predictor.checkpoint, device="cpu", batch_atoms=5)
    one = predictor.embed([BENT, SRTIO3], per_atom=True)[0]
    two = small.embed([SRTIO3, shuffled, SRTIO3], per_atom=True)[1]
    assert np.abs(one.features[order] - two.features).max() < 1e-4


def test_a_failure_is_a_row_and_a_shared_site_has_its_main_occupant(predictor: Predictor) -> None:
    mixed = Structure(Lattice.cubic(4.0), [{"Cu": 0.3, "Au": 0.7}], [[0, 0, 0]])
    missing, found = predictor.embed(["nowhere.cif", mixed], per_atom=True)
    assert missing.features is None
    assert "no such file" in missing.error
    assert found.numbers.tolist() == [79]
    assert "partly occupied" in " ".join(found.warnings)


def test_too_little_memory_is_an_error_of_its_row(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predictor.model.encode

    def full(batch: object) -> torch.Tensor:
        if int(batch.n_atoms.max()) > 5:
            raise MemoryError
        return whole(batch)

    monkeypatch.setattr(predictor.model, "encode", full)
    monkeypatch.setattr(predictor, "batch_atoms", 1000)
    rows = predictor.embed([SRTIO3, BENT * (2, 1, 1), BENT], per_atom=True)
    assert [row.features is None for row in rows] == [False, True, False]
    assert "not enough memory" in rows[1].error
