"""Reference energies on disk, and what is no file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from crystalpredict.errors import DataError
from crystalpredict.prediction.stability import formula_of
from crystalpredict.stability.hull import hull_points
from crystalpredict.stability.known_crystals import CRYSTAL_ARRAYS, PRINTS
from crystalpredict.stability.reference import Phase, ReferenceEnergies

PHASES = [
    Phase({11: 1, 17: 1}, -2.1, "mp-22862"), Phase({11: 2, 17: 2}, -2.0, "mp-1"), Phase({11: 1}, 0.0, "mp-127"),
    Phase({22: 1, 8: 2}, -3.3, "mp-2657"), Phase({38: 1, 22: 1, 8: 3}, -3.5, "mvc-5"),
]  # fmt: skip


def test_the_lowest_of_each_composition_is_kept_and_comes_back_from_a_file(tmp_path: Path) -> None:
    reference = ReferenceEnergies.of_phases(PHASES)
    assert len(reference) == 4
    reference.save(tmp_path / "energies.safetensors")
    loaded = ReferenceEnergies.load(tmp_path / "energies.safetensors")
    phases = [loaded.phase(number) for number in range(4)]
    assert {phase.identifier: formula_of(phase.composition) for phase in phases} == {
        "mp-22862": "NaCl", "mp-127": "Na", "mp-2657": "TiO2", "mvc-5": "SrTiO3",
    }  # fmt: skip
    wanted = [{11: 1, 17: 1}, {8: 2, 22: 1}, {8: 3, 22: 1, 38: 1}, {8: 1, 38: 1}]
    energies = [point.energy for point in hull_points(loaded, wanted)]
    assert energies == pytest.approx([-2.1, -3.3, -3.5, 0.0], abs=1e-6)  # of single precision


def test_what_is_no_file_of_energies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "energies.safetensors"
    with pytest.raises(DataError, match="no file of reference energies"):
        ReferenceEnergies.load(path)
    ReferenceEnergies.of_phases(PHASES).save(path)
    whole = path.read_bytes()
    for broken in (whole[:40], whole[:-8], b"{}", b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="reference energies"):
            ReferenceEnergies.load(path)
    with pytest.raises(DataError, match="no identifier of the Materials Project"):
        ReferenceEnergies.of_phases([Phase({1: 1}, 0.0, "mine")]).save(path)
    with pytest.raises(DataError, match="numbers"):
        ReferenceEnergies.of_phases([Phase({1: 1}, float("nan"), "mp-1")])


def fingerprints() -> np.ndarray:
    """A fingerprint for each of PHASES; those of heavy crystals exceed half precision."""
    return np.column_stack([np.full(5, 14.0), *(np.arange(1, 6) * scale for scale in (100.0, 1000.0, 20_000.0))])


def test_fingerprints_of_all_crystals_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "energies.safetensors"
    ReferenceEnergies.of_phases(PHASES).save(path)
    plain = load(path.read_bytes())
    ReferenceEnergies.of_phases(PHASES, fingerprints()).save(path)
    arrays = load(path.read_bytes())
    assert {name: arrays[name].tobytes() for name in plain} == {name: each.tobytes() for name, each in plain.items()}
    crystals = ReferenceEnergies.load(path).crystals
    assert crystals is not None
    salt = ReferenceEnergies.load(path).find({11: 1, 17: 1})
    assert salt is not None
    assert sorted(crystals.of_phase(salt)) == ["mp-1", "mp-22862"]
    for phase, wanted in zip(PHASES[:2], fingerprints(), strict=False):
        name, distance = crystals.nearest(salt, wanted * 1.01)
        assert name == phase.identifier
        assert distance == pytest.approx(0.0099, abs=6e-4)  # half precision
    for broken in ({PRINTS: arrays[PRINTS][:2]}, {name: arrays[name][:0] for name in CRYSTAL_ARRAYS[1:3]}):
        path.write_bytes(save({**arrays, **broken}))
        with pytest.raises(DataError, match="fingerprints do not fit"):
            ReferenceEnergies.load(path)


def test_crystals_stay_with_their_compositions_among_other_phases() -> None:
    reference = ReferenceEnergies.of_phases(PHASES, fingerprints())
    own = [Phase({11: 3, 17: 3}, -9.0, "mine"), Phase({1: 1}, 0.0, "hydrogen"), Phase({38: 1, 8: 1}, -3.0, "oxide")]
    joined = reference.with_phases(own)
    assert joined.crystals is not None
    found = {joined.identifiers[number]: joined.crystals.of_phase(number) for number in range(len(joined))}
    assert {name: sorted(known) for name, known in found.items()} == {
        "mine": ["mp-1", "mp-22862"], "mp-127": ["mp-127"], "mp-2657": ["mp-2657"], "mvc-5": ["mvc-5"],
        "hydrogen": [], "oxide": [],
    }  # fmt: skip
    assert ReferenceEnergies.of_phases(PHASES).with_phases(own).crystals is None
