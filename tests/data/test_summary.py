"""Messages about data before a training: suspicious units, new elements, crystals in two parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.checkpoints.checkpoint import load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.data.dataset import TEST, TRAIN
from crystalpredict.data.labelled import LabelledCrystals, read_crystals
from crystalpredict.data.labels import read_labelled
from crystalpredict.data.summary import describe_data, describe_split, warnings_of_labels
from crystalpredict.properties import find_property
from crystalpredict.training.finetune import describe_start, learnt_targets
from tests.labelled import cif, rows, write

RANDOM = np.random.default_rng(0)
SIZES = RANDOM.integers(1, 40, 200)
ENERGIES = RANDOM.uniform(-4, 0, 200)
MODULI = 10 ** RANDOM.uniform(0.5, 2.5, 200)


@pytest.mark.parametrize(
    ("name", "labels", "complaint"),
    [
        ("bulk_modulus", MODULI, ""),
        ("bulk_modulus", np.log10(MODULI), "log10(GPa)?"),
        ("shear_modulus", MODULI * 1000, "MPa?"),
        ("bandgap", -ENERGIES, ""),
        ("bandgap", -1000 * ENERGIES, "meV?"),
        ("bandgap", ENERGIES, "200 labels are below 0 eV"),
        ("formation_energy", ENERGIES, ""),
        ("formation_energy", ENERGIES * SIZES, "per cell?"),
        ("formation_energy", ENERGIES * 96.5, "kJ/mol?"),
        ("e_above_hull", -100 * ENERGIES, "meV"),
    ],
)
def test_labels_that_look_like_another_unit_are_reported(name: str, labels: np.ndarray, complaint: str) -> None:
    said = warnings_of_labels(labels[:, None], [find_property(name)], SIZES)
    if not complaint:
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"{name}: ")
        assert complaint in line


def crystals_of(tmp_path: Path, lines: list[dict[str, str]]) -> LabelledCrystals:
    return read_crystals(read_labelled(write(tmp_path / "t.csv", lines)), 6.0)


def test_a_crystal_in_two_parts_is_named_also_under_another_name_of_its_atoms(tmp_path: Path) -> None:
    lines = rows(10)
    lines[7]["cif"] = lines[2]["cif"].replace("0.5 0.5 0.5", "-0.5 0.5 1.5")
    lines[8]["cif"] = cif("Na", "F", 5.9)  # not that of row 1: another lattice constant
    crystals = crystals_of(tmp_path, lines)
    parts = np.full(10, TRAIN)
    parts[7] = parts[8] = TEST
    assert describe_split(crystals, [parts], "random")[1:] == [
        "1 crystals are in two parts, which makes the errors too small: x2 and x7"
    ]
    folds = [np.full(10, TRAIN), parts]
    folds[0][:2] = TEST
    assert describe_split(crystals, folds[::-1], "random") == describe_split(crystals, folds, "random")
    assert describe_split(crystals, folds, "random") == [
        "split by random, 2 folds: 8 train, 0 val, 2 test",
        "1 crystals are in two parts, which makes the errors too small: x2 and x7",
    ]
    parts[:] = TRAIN
    assert describe_split(crystals, [parts], "formula")[1:] == [
        "1 crystals occur more than once, each in one part only"
    ]


def test_copies_of_one_crystal_are_one_crystal(tmp_path: Path) -> None:
    lines = [row | {"id": f"{name}{row['id']}"} for name in "abc" for row in rows(4)]
    crystals = crystals_of(tmp_path, lines)
    parts = np.full(12, TRAIN)
    assert describe_split(crystals, [parts], "random")[1] == "4 crystals occur more than once, each in one part only"
    parts[[4, 8, 9]] = TEST
    assert describe_split(crystals, [parts], "random")[1].startswith("2 crystals are in two parts")


def test_an_unused_split_column_is_reported(tmp_path: Path) -> None:
    parts = np.array([TRAIN, TRAIN, TEST])
    crystals = crystals_of(tmp_path, [row | {"split": "train"} for row in rows(3)])
    (line,) = describe_split(crystals, [parts], "formula")
    assert (
        line == "split by formula: 2 train, 0 val, 1 test; the column split is not used (use it with --split-by column)"
    )
    (line,) = describe_split(crystals, [parts], "column")
    assert line == "split by column: 2 train, 0 val, 1 test"


def test_elements_that_the_model_has_not_seen_are_named(tmp_path: Path) -> None:
    lines = rows(4)
    lines[1]["cif"] = cif("Po", "Ra", 7)
    said = describe_start(crystals_of(tmp_path, lines), load_checkpoint(find_model()))
    assert said[0] == "elements new to crystalformer-mp: Po, Ra"
    assert "itself trained on bandgap, bulk_modulus" in said[1]


def test_a_learnt_property_is_recognised_in_any_unit() -> None:
    gap = replace(find_property("bandgap"), unit="meV", transform="log10")
    assert learnt_targets([gap, replace(gap, name="mine")], load_checkpoint(find_model())) == ["bandgap"]


def test_reasons_for_rows_left_out_are_counted_with_the_first(tmp_path: Path) -> None:
    lines = rows(12)
    for number in (3, 5):
        lines[number]["cif"] = ""
    lines[6]["cif"] = "<html>"
    said = describe_data(crystals_of(tmp_path, lines))
    assert said[0] == "9 crystals of 2 to 2 atoms"
    assert said[1] == "dropped 2: no structure in the column cif (first: row 4, x3)"
    assert said[2].startswith("dropped 1: a web page")
