"""The energy of a crystal as it stands rises away from the volume that it relaxes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model
from crystalpredict.crystals.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.io.entries import entries_of_structures
from crystalpredict.io.reader import found_in
from crystalpredict.prediction.strain_energy import (
    BULK_MODULUS,
    LARGE_CHANGE,
    LIMIT,
    LIMIT_PER_CHANGE,
    MAX_RELAXED_CHANGE,
    MIN_CHANGED,
    add_strain_energies,
    strain_energies,
)
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE

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
    "CeO2": cubic("Fm-3m", 5.46, ["Ce", "O"], BLENDE),
    "SrTiO3": cubic("Pm-3m", 3.945, ["Sr", "Ti", "O"], (*SALT, [0.5, 0.5, 0])),
}

SILICON = cubic("Fd-3m", 5.47, ["Si"], BLENDE[:1])


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
    """By 6 % in length: 0.25 eV/atom by its bulk modulus of 98 GPa and the equation of state; by more it is larger."""
    rows = predictor.predict([scaled(SILICON, length) for length in (0.94, 0.93, 0.92, 0.91)])
    energies = [row[ENERGY] for row in rows]
    assert 0.05 < energies[0] < 0.5
    assert energies == sorted(energies)


def test_potassium_chloride_in_the_cell_of_sodium_chloride_is_not_on_the_hull(predictor: Predictor) -> None:
    (row,) = predictor.predict(cubic("Fm-3m", 5.69, ["K", "Cl"], SALT))
    assert row["e_above_hull_eV_per_atom"] > 0.05


def strained(
    predictor: Predictor,
    structures: Sequence[Structure],
    change: float,
    again: FloatArray,
    too_large: frozenset[int] = frozenset(),
) -> tuple[FloatArray, list[Crystal]]:
    """What is added, eV/atom, where a network predicts the change everywhere and `again` when it is asked again.

    And the crystals that it is asked about.
    """
    checkpoint, asked = predictor.checkpoint, []
    entries = list(entries_of_structures(structures, checkpoint.config.radius))
    crystals, neighbors = found_in(entries)
    columns = [prop.name for prop in checkpoint.properties]
    values = np.zeros((len(crystals), len(columns)))
    values[:, columns.index(VOLUME_CHANGE.name)] = change
    outputs = (values - checkpoint.mean) / checkpoint.deviation

    def outputs_of(some: list[Crystal], lists: list[Neighbors]) -> tuple[FloatArray, set[int]]:
        assert len(some) == len(lists)
        asked.extend(some)
        return (np.tile(again, (len(some), 1)) - checkpoint.mean) / checkpoint.deviation, set(too_large)

    before = outputs.copy()
    lost = add_strain_energies(checkpoint, crystals, neighbors, outputs, outputs_of)
    assert lost == too_large
    added = (outputs - before) * checkpoint.deviation
    energy = columns.index(FORMATION_ENERGY)
    np.testing.assert_array_equal(np.delete(added, energy, axis=1), 0)
    return added[:, energy], asked


@pytest.fixture(scope="module")
def again(predictor: Predictor) -> FloatArray:
    """-0.05 eV/atom, 100 GPa."""
    names = [prop.name for prop in predictor.checkpoint.properties]
    return np.array([{FORMATION_ENERGY: -0.05, BULK_MODULUS: 2.0}.get(name, 0.0) for name in names])


@pytest.mark.parametrize("sign", [-1, 1])
def test_energies_change_where_the_volume_would(predictor: Predictor, again: FloatArray, sign: int) -> None:
    salt = [RELAXED["MgO"]]
    added, asked = strained(predictor, salt, sign * MAX_RELAXED_CHANGE, again)
    assert added.tolist() == [0]
    assert not asked
    for change, share in (((MAX_RELAXED_CHANGE + MIN_CHANGED) / 2, 0.5), (MIN_CHANGED, 1), (0.1, 1)):
        added, (relaxed,) = strained(predictor, salt, sign * change, again)
        volume = RELAXED["MgO"].volume * np.exp(sign * change)
        assert relaxed.volume / relaxed.n_atoms * len(RELAXED["MgO"]) == pytest.approx(volume)
        volumes = np.array([volume / len(RELAXED["MgO"])])
        (size,) = strain_energies(np.array([-sign * change]), volumes, np.array([100.0]))
        limit = LIMIT + LIMIT_PER_CHANGE * change
        whole = (size - 0.05) / (1 + ((size - 0.05) / limit) ** 2)
        assert added[0] == pytest.approx(share * whole)


def test_a_network_that_is_not_sure_of_the_volume_is_not_trusted(predictor: Predictor, again: FloatArray) -> None:
    names = [prop.name for prop in predictor.checkpoint.properties]
    whole, half, none = (
        strained(predictor, [SILICON], 0.1, np.where(np.array(names) == VOLUME_CHANGE.name, change, again))[0][0]
        for change in (MAX_RELAXED_CHANGE, -(MAX_RELAXED_CHANGE + MIN_CHANGED) / 2, -MIN_CHANGED)
    )
    assert whole == pytest.approx(2 * half)
    assert none == pytest.approx(0)


def test_after_a_large_change_more_may_be_left(predictor: Predictor, again: FloatArray) -> None:
    names = np.array([prop.name for prop in predictor.checkpoint.properties])
    left = np.where(names == VOLUME_CHANGE.name, 1.9 * MAX_RELAXED_CHANGE, again)
    small, large = (strained(predictor, [SILICON], size * LARGE_CHANGE, left)[0][0] for size in (1, 2))
    assert small == pytest.approx(0)
    assert large > 0.1


def test_far_cells_and_failures_keep_what_the_network_says(predictor: Predictor, again: FloatArray) -> None:
    """In one cell atoms would be too near; for the other the network has no number."""
    two = [Structure(Lattice.cubic(6), ["H", "H"], [[0, 0, 0], [0.55 / 6, 0, 0]]), SILICON]
    added, asked = strained(predictor, two, -0.4, np.where(again == -0.05, np.nan, again))
    assert added.tolist() == [0, 0]
    assert len(asked) == 1


def test_a_crystal_without_room_at_its_relaxed_volume_has_no_energy(predictor: Predictor, again: FloatArray) -> None:
    added, _ = strained(predictor, [RELAXED["MgO"], SILICON], 0.1, again, frozenset({1}))
    assert np.isfinite(added).tolist() == [True, False]


def test_the_curvature_of_the_strain_energy_is_the_bulk_modulus() -> None:
    logs = np.log([0.99, 1.0, 1.01, 0.7, 1.3])
    energies = strain_energies(logs, np.full(5, 12.0), np.full(5, 80.0))
    assert energies[1] == 0
    for row in (0, 2):
        assert energies[row] == pytest.approx(40 / 160.21766 * 12 * np.expm1(logs[row]) ** 2, rel=0.05)
    assert energies[3] > energies[4] > 0.1  # to press costs more than to stretch


@pytest.mark.parametrize("missing", [FORMATION_ENERGY, VOLUME_CHANGE.name, BULK_MODULUS])
def test_a_model_without_one_of_the_outputs_does_without(predictor: Predictor, missing: str) -> None:
    checkpoint = predictor.checkpoint
    kept = [prop.name != missing for prop in checkpoint.properties]
    other = replace(
        checkpoint,
        properties=tuple(prop for prop, yes in zip(checkpoint.properties, kept, strict=True) if yes),
        mean=checkpoint.mean[kept], deviation=checkpoint.deviation[kept],
    )  # fmt: skip
    crystals, neighbors = found_in(list(entries_of_structures([SILICON], checkpoint.config.radius)))
    outputs = np.full((1, sum(kept)), 9.0)

    def never(*_: object) -> tuple[FloatArray, set[int]]:
        raise AssertionError

    assert not add_strain_energies(other, crystals, neighbors, outputs, never)
    assert (outputs == 9).all()
