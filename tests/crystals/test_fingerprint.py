"""Fingerprints: equal for one crystal in any cell and at any volume, and different for others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.fingerprint import fingerprint_distances, scaled_fingerprints

CUBE = np.eye(3) * 5.64
FACES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def salt(shift: float) -> Crystal:
    """NaCl: rock salt for a shift of 1/2 of an edge, zincblende for 1/4."""
    places = np.concatenate([FACES, FACES + [shift] * 3])
    return Crystal.ordered(CUBE, places @ CUBE, np.array([11] * 4 + [17] * 4))


def test_a_crystal_has_one_fingerprint_in_any_cell_and_at_any_volume() -> None:
    rock = salt(0.5)
    double = Crystal.ordered(
        CUBE * [[2], [1], [1]], np.concatenate([rock.positions, rock.positions + CUBE[0]]), [*rock.numbers[:, 0]] * 2
    )
    large = replace(rock, lattice=rock.lattice * 1.2, positions=rock.positions * 1.2)
    zinc = salt(0.25)
    prints = scaled_fingerprints([rock, double, large, zinc])
    assert prints.shape == (4, 4)
    distances = fingerprint_distances(prints[:, 1:], prints[0, 1:])
    assert distances[:3] == pytest.approx(0, abs=1e-6)
    assert distances[3] > 0.03


def test_a_shared_site_has_the_mean_of_its_atomic_numbers() -> None:
    rock = salt(0.5)
    numbers = np.column_stack([rock.numbers, np.where(rock.numbers == 11, 19, 1)])  # Na and K, Cl alone
    occupancies = np.where(rock.numbers == 11, 0.5, [[1.0, 0.0]])
    shared = replace(rock, numbers=numbers, occupancies=np.broadcast_to(occupancies, numbers.shape))
    mean = Crystal.ordered(rock.lattice, rock.positions, np.where(rock.numbers[:, 0] == 11, 15, 17))
    assert scaled_fingerprints([shared]) == pytest.approx(scaled_fingerprints([mean]))


def test_a_cell_without_a_neighbour_list_spoils_no_other() -> None:
    flat = Crystal.ordered(np.diag([1e6, 1e6, 1e-6]), np.zeros((1, 3)), [14])
    prints = scaled_fingerprints([salt(0.5), flat])
    assert np.isfinite(prints[0]).all()
    assert np.isnan(prints[1]).all()
    assert scaled_fingerprints([]).shape == (0, 4)
