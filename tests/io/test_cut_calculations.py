"""Files of calculations that were cut off, damaged or joined: the last whole structure or an error, never a mix."""

from __future__ import annotations

import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from crystalpredict.io.entries import Inline, read_entries
from tests.io.test_calculations import ATOMS, EARLIER, castep, outcar, pwo, vasprun


def only(text: str) -> tuple[str, float, int]:
    """Return the error, the volume and the number of atoms of the only structure of a text."""
    (entry,) = read_entries(Inline("x", text), 5.0)
    if entry.crystal is None:
        return entry.error, 0.0, 0
    return "", float(abs(np.linalg.det(entry.crystal.lattice))), entry.crystal.n_atoms


def assert_is_earlier_or_last(text: str, *, last: bool) -> None:
    error, volume, n_atoms = only(text)
    assert (error, n_atoms) == ("", 4)
    assert volume == pytest.approx((ATOMS if last else EARLIER).get_volume(), rel=1e-3)


# CASTEP


def test_a_castep_file_that_is_cut_anywhere_gives_a_whole_step() -> None:
    whole = castep()
    closed = whole.rindex("x \n") + len("x \n") + 12 + len("xxx")  # 12 spaces before the line of x
    for end in range(whole.index("Final energy") + 20, len(whole), 3):
        assert_is_earlier_or_last(whole[:end], last=end >= closed)
    assert "ended before" in only(whole[: whole.index("Na") + 60])[0]


def test_a_castep_file_that_is_damaged_in_the_middle_is_refused() -> None:
    lines = castep().split("\n")
    row = max(n for n, line in enumerate(lines) if " O " in line)
    assert "is no atom of its table" in only("\n".join([*lines[:row], lines[row][:40], *lines[row + 1 :]]))[0]
    cell = max(n for n, line in enumerate(lines) if "Real Lattice" in line) + 2
    assert "is not whole" in only("\n".join([*lines[:cell], lines[cell][:30], *lines[cell + 1 :]]))[0]


def test_absolute_positions_in_a_lattice_of_angles_are_refused() -> None:
    text = "%block lattice_abc\n4 5 6\n90 90 {}\n%endblock lattice_abc\n%block positions_abs\nSi 0 2 0\n%endblock p\n"
    assert only(text.format(90))[0] == ""
    assert "give LATTICE_CART" in only(text.format(100))[0]
    assert "without %ENDBLOCK" in only(text.format(90).replace("%endblock p\n", ""))[0]


def test_many_blocks_and_tables_without_an_end_take_no_time() -> None:
    start = time.monotonic()
    only("%block lattice_abc\n4 5 6\n90 90 90\n%endblock\n%block positions_abs\n%endblock\n" + 200_000 * "%block a\n")
    only(castep() + 200_000 * "x Fractional coordinates of atoms x\n")
    assert time.monotonic() - start < 5


# VASP


def xdatcar(folder: Path, *steps: Atoms) -> str:
    ase.io.write(folder / "XDATCAR", list(steps), format="vasp-xdatcar")
    return (folder / "XDATCAR").read_text()


def test_a_header_after_a_frame_that_was_cut_counts(tmp_path: Path) -> None:
    gold = ATOMS.copy()
    gold.set_chemical_symbols(["Au"] * 4)
    first, second = xdatcar(tmp_path, EARLIER, EARLIER), xdatcar(tmp_path, gold)
    for cut in (1, 30, 60, 100):
        (entry,) = read_entries(Inline("x", first[:-cut] + "\n" + second), 5.0)
        assert entry.formula == "Au"
        assert_is_earlier_or_last(first[:-cut] + "\n" + second, last=True)


def test_an_xdatcar_that_is_cut_or_damaged(tmp_path: Path) -> None:
    both = xdatcar(tmp_path, EARLIER, ATOMS)
    for end in range(len(both) - 150, len(both) + 1):
        assert_is_earlier_or_last(both[:end], last=end == len(both))
    head, first = both.split("Direct", 2)[:2]
    first = "\n".join(first.split("\n")[:5]) + "\n"
    title = "Direct" + first
    assert only(head + title + title)[0] == ""
    assert "other than 4 atoms" in only(head + title[: title.rindex("\n", 0, -1)] + "\n" + title)[0]
    assert "other than 4 atoms" in only(head + title + "0 0 0\n" + title)[0]


def test_an_outcar_of_two_runs_or_with_other_lists_of_potcars_is_refused() -> None:
    assert "several runs" in only(outcar() + outcar())[0]
    assert "several runs" in only(outcar() + "   ions per type =               1   1   2\n")[0]
    oxygen = " POTCAR:    PAW_PBE O 08Apr2002                  \n"
    for other in (oxygen.replace(" O ", " S "), ""):
        assert "broken OUTCAR" in only(outcar().replace(oxygen, other, 1))[0]


def test_a_vasprun_that_is_damaged_after_a_step_is_refused() -> None:
    text = vasprun()
    place = text.rindex("<calculation>")
    assert_is_earlier_or_last(text[:place], last=False)
    assert "copy it again" in only(text[:place] + "<<<" + text[place:])[0]
    assert "copy it again" in only(text + "<more/>")[0]


# Quantum ESPRESSO and FHI-aims


def test_a_cell_that_stands_elsewhere_in_an_output_of_pw_is_refused() -> None:
    assert_is_earlier_or_last(pwo(), last=True)
    assert "not directly above" in only(pwo().replace("\nATOMIC_POSITIONS", "\n\nATOMIC_POSITIONS"))[0]
    assert "not directly above" in only(pwo().replace("\n\nATOMIC_POSITIONS", "\nATOMIC_POSITIONS"))[0]


@pytest.mark.parametrize(
    ("species", "told"),
    [
        ("Cup 12.011", "of mass 12.011 is read as Cu"), ("Cup 63.546", ""), ("Cup 1.0", ""), ("C_up 12.011", ""),
        ("H_d 2.014", ""), ("He 1.008", "is read as He"), ("Li6 6.015", ""), ("Fe1 55.8d0", ""),
    ],
)  # fmt: skip
def test_a_species_whose_mass_is_that_of_another_element_is_refused(species: str, told: str) -> None:
    label = species.split()[0]
    text = (
        f"&system\n ibrav=1, nat=1, celldm(1)=9\n/\nATOMIC_SPECIES\n{species} a.UPF\n"
        f"ATOMIC_POSITIONS alat\n{label} 0 0 0\nK_POINTS automatic\n4 4 4 0 0 0\n"
    )
    error = only(text)[0]
    assert told in error if told else error == ""


@pytest.mark.parametrize("line", ["Atom 1 1 1 O", "atoms 1 1 1 O", "pseudocore 1 1 1 O", "ATOM_FRAC 0 0 0 O", "0 0 0"])
def test_a_line_of_an_unknown_kind_in_a_geometry_is_refused(line: str) -> None:
    text = (
        "lattice_vector 4 0 0\nlattice_vector 0 4 0\nlattice_vector 0 0 4\n# a comment\natom 0 0 0 Ti\n"
        "  initial_moment 1.0\n  constrain_relaxation .true.\nempty 1 1 1 O\nsymmetry_n_params 1 1 0\n"
    )
    assert only(text)[0] == ""
    assert "on line 10 is not read" in only(text + line + "\n")[0]
