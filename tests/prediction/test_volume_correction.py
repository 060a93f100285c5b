"""The energy of a crystal as it stands rises away from the volume that it relaxes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model
from crystalpredict.checkpoints.checkpoint import MAX_CORRECTION, MAX_RELAXED_CHANGE, MIN_CHANGED, Checkpoint
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE, VOLUME_CORRECTION

ENERGY = "formation_energy_eV_per_atom"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_model(device="cpu", targets=["formation_energy", "e_above_hull"])


def cubic(group: str, length: float, elements: Sequence[str], sites: Sequence[Sequence[float]]) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(length), elements, sites)


SALT = ([0, 0, 0], [0.5, 0.5, 0.5])
BLENDE = ([0, 0, 0], [0.25, 0.25, 0.25])
# at lattice constants of PBE, Å
RELAXED = {
    "MgO": cubic("Fm-3m", 4.25, ["Mg", "O"], SALT),
    "CaF2": cubic("Fm-3m", 5.50, ["Ca", "F"], BLENDE),
    "GaAs": cubic("F-43m", 5.75, ["Ga", "As"], BLENDE),
    "Si": cubic("Fd-3m", 5.47, ["Si"], BLENDE[:1]),
}


def scaled(structure: Structure, length: float) -> Structure:
    return Structure(Lattice(structure.lattice.matrix * length), structure.species, structure.frac_coords)


@pytest.mark.parametrize("name", RELAXED)
def test_energies_rise_away_from_the_relaxed_volume(predictor: Predictor, name: str) -> None:
    changes = np.array([-0.1, -0.08, 0, 0.08, 0.1])
    rows = predictor.predict([scaled(RELAXED[name], (1 + change) ** (1 / 3)) for change in changes])
    energies = np.array([row[ENERGY] for row in rows])
    assert energies.argmin() == 2, energies
    assert energies[0] > energies[1], energies
    assert energies[4] > energies[3], energies


def test_pressed_silicon_has_a_positive_formation_energy(predictor: Predictor) -> None:
    """By 6 % in length: 0.25 eV/atom by its bulk modulus of 98 GPa and the equation of state."""
    (row,) = predictor.predict(scaled(RELAXED["Si"], 0.94))
    assert 0.05 < row[ENERGY] < 0.5


def test_potassium_chloride_in_the_cell_of_sodium_chloride_is_not_on_the_hull(predictor: Predictor) -> None:
    (row,) = predictor.predict(cubic("Fm-3m", 5.69, ["K", "Cl"], SALT))
    assert row["e_above_hull_eV_per_atom"] > 0.05


def values_with(checkpoint: Checkpoint, change: float, correction: float) -> float:
    """The formation energy of an output of 0 eV/atom, with these of the others."""
    columns = {prop.name: column for column, prop in enumerate(checkpoint.properties)}
    wanted = np.zeros((1, len(columns)))
    wanted[0, columns[VOLUME_CHANGE.name]], wanted[0, columns[VOLUME_CORRECTION.name]] = change, correction
    outputs = (wanted - checkpoint.mean) / checkpoint.deviation
    return float(checkpoint.values(outputs)[0, columns[FORMATION_ENERGY]])


def test_the_correction_counts_where_the_volume_would_change(predictor: Predictor) -> None:
    checkpoint = predictor.checkpoint
    middle = (MAX_RELAXED_CHANGE + MIN_CHANGED) / 2
    for sign in (-1, 1):
        assert values_with(checkpoint, sign * MAX_RELAXED_CHANGE, 0.02) == pytest.approx(0, abs=1e-9)
        assert values_with(checkpoint, sign * middle, 0.02) == pytest.approx(0.01)
        assert values_with(checkpoint, sign * MIN_CHANGED, 0.02) == pytest.approx(0.02)
        assert values_with(checkpoint, sign * 0.1, -3.0) == pytest.approx(-0.1 * MAX_CORRECTION)


def test_a_model_without_the_correction_does_without(predictor: Predictor) -> None:
    checkpoint = predictor.checkpoint
    outputs = np.random.default_rng(0).normal(size=(5, len(checkpoint.properties)))
    kept = [prop.name != VOLUME_CORRECTION.name for prop in checkpoint.properties]
    other = replace(
        checkpoint,
        properties=tuple(prop for prop, yes in zip(checkpoint.properties, kept, strict=True) if yes),
        mean=checkpoint.mean[kept], deviation=checkpoint.deviation[kept],
    )  # fmt: skip
    np.testing.assert_allclose(
        other.values(outputs[:, kept]), (outputs * checkpoint.deviation + checkpoint.mean)[:, kept]
    )
