"""Predictions of ordered supercells beside those of the average site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

import crystalpredict
from crystalpredict.errors import StructureError, UsageError, suppress_warnings
from crystalpredict.io.structure_text import parse_text
from tests import disordered

(GAINAS,) = parse_text(disordered.GAINAS)
MEAN, LOW, HIGH = (f"formation_energy_orderings_{end}_eV_per_atom" for end in ("mean", "lo", "hi"))
ENERGY = "formation_energy_eV_per_atom"


def written(structure: Structure, path: Path) -> Path:
    with suppress_warnings():
        CifWriter(structure).write_file(str(path))
    return path


def test_the_columns_are_those_of_the_supercells_predicted_one_by_one(tmp_path: Path) -> None:
    path = written(GAINAS, tmp_path / "a.cif")
    rows = crystalpredict.predict(
        [str(path), "examples/NaCl.cif", "nowhere.cif"], targets=["formation_energy", "decomposes_to"], orderings=4
    )
    supercells = crystalpredict.orderings(path, 4)
    model = crystalpredict.load_model(targets=["formation_energy"])
    alone = np.array([row[ENERGY] for row in model.predict(supercells)])
    shares = np.array([each.properties["share"] for each in supercells])
    found = rows[0]
    assert (found[MEAN], found[LOW], found[HIGH]) == pytest.approx((shares @ alone, alone.min(), alone.max()), abs=1e-5)
    assert found[LOW] < found[MEAN] < found[HIGH]
    assert found["orderings"] == 4
    assert found[ENERGY] == pytest.approx(model.predict([path])[0][ENERGY], abs=1e-6)
    ordered = rows[1]
    assert (np.isnan(ordered[MEAN]), ordered["orderings"], ordered.warnings) == (True, 0, ())
    assert rows[2].error
    frame = rows.to_frame()
    assert frame[MEAN].isna().tolist() == [False, True, True]
    (plain,) = crystalpredict.load_model(targets=["formation_energy"], orderings=4).predict(GAINAS)
    assert plain[MEAN] == pytest.approx(found[MEAN], abs=1e-5)


def test_unrelaxed_structures_have_orderings_too(tmp_path: Path) -> None:
    (row,) = crystalpredict.predict(GAINAS, targets=["volume_change"], unrelaxed=True, orderings=3)
    low, mean, high = (row[f"volume_change_orderings_{end}_percent"] for end in ("lo", "mean", "hi"))
    assert -10 < low < mean < high < 10


def test_what_no_supercell_can_express_is_a_warning() -> None:
    odd = GAINAS.copy()
    odd.replace_species({"Ga": {"Ga": 0.877}, "In": {"In": 1.123}})  # 0.4385 and 0.5615
    (row,) = crystalpredict.predict(odd, targets=["formation_energy"], orderings=3)
    assert (row.error, row["orderings"], np.isnan(row[MEAN])) == ("", 0, True)
    (said,) = (text for text in row.warnings if "ordered supercells" in text)
    assert "the occupancy 0.4385 of Ga" in said
    assert np.isfinite(row[ENERGY])


def test_sites_too_close_for_a_network_have_orderings(tmp_path: Path) -> None:
    split = Structure(
        Lattice.cubic(4.0), [{"O": 0.5}, {"O": 0.5}, "Ba"], [[0.5, 0.5, 0.48], [0.5, 0.5, 0.52], [0, 0, 0]]
    )
    path = written(split, tmp_path / "split.cif")
    assert "give an ordered model" in crystalpredict.predict(path)[0].error
    rows = crystalpredict.predict(crystalpredict.orderings(path, 3))
    assert [row.error for row in rows] == [""] * 3


def test_wrong_arguments(tmp_path: Path) -> None:
    two = tmp_path / "two.cif"
    two.write_text(written(GAINAS, tmp_path / "a.cif").read_text() + Path("examples/NaCl.cif").read_text())
    with pytest.raises(StructureError, match=r"two\.cif: 2 structures"):
        crystalpredict.orderings(two)
    with pytest.raises(StructureError, match=r"nowhere\.cif: no such file"):
        crystalpredict.orderings("nowhere.cif")
    for wrong in ({"n": 0}, {"n": 101}, {"max_sites": 10**9}, {"seed": -1}):
        with pytest.raises(UsageError, match="give n of 1 to 100"):
            crystalpredict.orderings(GAINAS, **wrong)
    with pytest.raises(UsageError, match="object of type int"):
        crystalpredict.orderings(7)
    with pytest.raises(UsageError, match="does not go with --cache"):
        crystalpredict.predict(GAINAS, orderings=3, cache="auto")
    with pytest.raises(UsageError, match="101 orderings"):
        crystalpredict.load_model(orderings=101)
