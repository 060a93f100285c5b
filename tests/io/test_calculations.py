"""Files that calculations leave: the same crystal as in a CIF, the last frame or all, and nothing else of the file."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io.jsonio import encode
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.optimade import OptimadeStructureAdapter
from pymatgen.io.vasp import Chgcar, Poscar

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.io.castep import BOHR
from crystalpredict.io.entries import Entry, Inline, entries_of_structures, read_entries
from crystalpredict.io.espresso import bravais_cell
from crystalpredict.io.file_types import Frames
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import sources_of

# no symmetry, four sites in the order of their elements' numbers but for the last, so that no mistake cancels
CRYSTAL = Structure(
    Lattice.from_parameters(4.1, 5.3, 6.2, 83, 97, 104),
    ["Ti", "O", "O", "Na"],
    [[0.01, 0.02, 0.03], [0.31, 0.4, 0.55], [0.7, 0.1, 0.25], [0.5, 0.62, 0.9]],
)
ATOMS: Atoms = AseAtomsAdaptor.get_atoms(CRYSTAL)
EARLIER = ATOMS.copy()
EARLIER.set_cell(ATOMS.cell * 1.05, scale_atoms=True)
CONTENTS = {"Ti": 1, "O": 2, "Na": 1}
STEPS = (EARLIER, ATOMS)


def rows(*inputs: Path | str, frames: Frames = Frames.last, calculations: bool = False) -> list[Entry]:
    names = expand([str(each) for each in inputs], calculations=calculations)
    sources = sources_of(names, frames=frames, calculations=calculations)
    return [entry for source in sources for entry in read_entries(source, 5.0)]


def crystal_of(entry: Entry) -> Crystal:
    assert entry.error == ""
    assert entry.crystal is not None
    return entry.crystal


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Crystal:
    """The crystal as pymatgen writes it to a CIF, and as the program reads that."""
    path = tmp_path_factory.mktemp("cif") / "a.cif"
    CRYSTAL.to(filename=str(path))
    return crystal_of(rows(path)[0])


def assert_same(found: Crystal, wanted: Crystal, tolerance: float = 1e-4, scale: float = 1.0) -> None:
    """Compare the metric of the cells, Å², and the fractional coordinates of each element; not the order of sites."""
    metrics = [crystal.lattice @ crystal.lattice.T for crystal in (found, wanted)]
    np.testing.assert_allclose(metrics[0], metrics[1] * scale**2, atol=10 * tolerance)
    sites = [
        sorted((number, *np.round(place % 1 % 0.99999, 3)) for number, place in zip(each.numbers[:, 0], each.positions
        @ np.linalg.inv(each.lattice), strict=True))
        for each in (found, wanted)
    ]  # fmt: skip
    np.testing.assert_allclose(sites[0], sites[1], atol=max(2 * tolerance, 1.1e-3))


def vector(numbers: Any, form: str = "%16.8f") -> str:
    return "".join(form % number for number in numbers)


def vasprun(steps: tuple[Atoms, ...] = STEPS) -> str:
    """A vasprun.xml as VASP 6 writes it; of energies, bands and densities, what stands around the structures."""

    def structure(atoms: Atoms, name: str = "") -> str:
        basis = "".join(f"    <v>{vector(row)} </v>\n" for row in atoms.cell)
        places = "".join(f"   <v>{vector(row)} </v>\n" for row in atoms.get_scaled_positions())
        return (
            f' <structure{name}>\n  <crystal>\n   <varray name="basis" >\n{basis}   </varray>\n'
            f'   <i name="volume">{atoms.get_volume():16.8f} </i>\n   <varray name="rec_basis" >\n{basis}   </varray>\n'
            f'  </crystal>\n  <varray name="positions" >\n{places}  </varray>\n </structure>\n'
        )

    rc = "".join(f"    <rc><c>{each.symbol:2}</c><c>   1</c></rc>\n" for each in steps[0])
    types = "".join(f"    <rc><c>   {n}</c><c>{s:2}</c><c>  22.0</c></rc>\n" for s, n in CONTENTS.items())
    energy = ' <energy>\n  <i name="e_fr_energy">    -10.84 </i>\n </energy>\n'
    bands = '<eigenvalues><array><set><set comment="spin 1"><r>  -5.1  1.0 </r></set></set></array></eigenvalues>\n'
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
        '  <i name="program" type="string">vasp </i>\n </generator>\n <atominfo>\n  <atoms>       4 </atoms>\n'
        '  <types>       3 </types>\n  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n'
        '   <field type="string">element</field>\n   <field type="int">atomtype</field>\n   <set>\n'
        f'{rc}   </set>\n  </array>\n  <array name="atomtypes" >\n   <set>\n{types}   </set>\n  </array>\n'
        " </atominfo>\n"
        + structure(EARLIER, ' name="initialpos" ')
        + "".join(
            f' <calculation>\n  <scstep>\n{energy}  </scstep>\n{structure(each)} <varray name="forces" >\n'
            f"  <v>  0.0 0.0 0.0 </v>\n </varray>\n{energy}{bands} </calculation>\n"
            for each in steps
        )
        + structure(steps[-1], ' name="finalpos" ')
        + "</modeling>\n"
    )


def outcar(steps: tuple[Atoms, ...] = STEPS) -> str:
    """An OUTCAR as VASP 5.4 writes it, without what stands between the lines that matter."""
    potcars = "".join(f" POTCAR:    PAW_PBE {symbol} 08Apr2002                  \n" for symbol in ("Ti_pv", "O", "Na"))
    line = " " + 83 * "-" + "\n"
    text = (
        " vasp.5.4.4.18Apr17-6-g9f103f2a35 (build Feb 12 2018 00:57:43) complex          \n  \n"
        " executed on             LinuxIFC date 2019.05.15  18:05:34\n running on   64 total cores\n\n"
        f" INCAR:\n{potcars}{potcars}"
        "   ions per type =               1   2   1\n\n"
    )
    for number, atoms in enumerate(steps, start=1):
        cell = "".join(
            f"  {vector(row, '%13.9f')}  {vector(other, '%13.9f')}\n"
            for row, other in zip(atoms.cell, atoms.cell.reciprocal(), strict=True)
        )
        places = "".join(f"{vector(row, '%13.5f')}    {vector((0, 0, 0), '%14.6f')}\n" for row in atoms.positions)
        text += (
            f"--------------------------------------- Iteration {number:6}(   1)  ------------------------------------"
            "\n VOLUME and BASIS-vectors are now :\n" + line
            + f"  volume of cell :      {atoms.get_volume():.2f}\n"
            "      direct lattice vectors                 reciprocal lattice vectors\n"
            f"{cell}\n POSITION                                       TOTAL-FORCE (eV/Angst)\n{line}{places}{line}"
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n"
            "  free  energy   TOTEN  =       -10.84402490 eV\n\n"
            "  energy  without entropy=      -10.84402490  energy(sigma->0) =      -10.84402490\n \n"
        )  # fmt: skip
    return text


def pwo(steps: tuple[Atoms, ...] = STEPS, *, ended: bool = True) -> str:
    """An output of a vc-relax of pw.x 7.3."""
    first, a = steps[0], float(np.linalg.norm(steps[0].cell[0]))
    axes = "".join(
        f"               a({n}) = ({vector(row, '%11.6f')} )  \n" for n, row in enumerate(first.cell / a, start=1)
    )
    sites = "".join(
        f"     {n:5}        {atom.symbol:>4}  tau({n:4}) = ({vector(atom.position / a, '%12.7f')}  )\n"
        for n, atom in enumerate(first, start=1)
    )
    text = (
        "\n     Program PWSCF v.7.3.1 starts on 12Aug2024 at 13:58:39 \n\n"
        f"     bravais-lattice index     =            0\n     lattice parameter (alat)  = {a / BOHR:13.4f}  a.u.\n"
        "     number of atoms/cell      =            4\n     number of atomic types    =            3\n\n"
        f"     celldm(1)={a / BOHR:12.6f}  celldm(2)=    0.000000  celldm(3)=    0.000000\n\n"
        f"     crystal axes: (cart. coord. in units of alat)\n{axes}\n   Cartesian axes\n\n"
        f"     site n.     atom                  positions (alat units)\n{sites}\n     number of k points=     4\n"
        "                       cart. coord. in units 2pi/alat\n     End of self-consistent calculation\n\n"
        "     the Fermi energy is     5.1 ev\n\n!    total energy              =     -22.8384885351 Ry\n\n"
    )
    for atoms in steps[1:]:
        cell = "".join(f"{vector(row / a, '%14.9f')}\n" for row in atoms.cell)
        places = "".join(
            f"{symbol:4}{vector(row, '%20.10f')}\n"
            for symbol, row in zip(atoms.get_chemical_symbols(), atoms.get_scaled_positions(), strict=True)
        )
        card = f"CELL_PARAMETERS (alat={a / BOHR:13.8f})\n{cell}\nATOMIC_POSITIONS (crystal)\n{places}"
        text += f"\n     new unit-cell volume =    276.21722 a.u.^3 (    40.93117 Ang^3 )\n\n{card}\n\n"
        text += "!    total energy              =     -22.9384885351 Ry\n\n" * ended
    return text


def castep(steps: tuple[Atoms, ...] = STEPS, *, last_without_atoms: bool = False) -> str:
    """A .castep file of a geometry optimisation by CASTEP 19."""
    text = (
        " +-------------------------------------------------+\n | Welcome to Academic Release CASTEP version 19.11|\n\n"
    )
    for number, atoms in enumerate(steps):
        rows = "".join(
            f"  {vector(row, '%12.7f')}     {vector(other, '%12.7f')}\n"
            for row, other in zip(atoms.cell, atoms.cell.reciprocal() * 2 * np.pi, strict=True)
        )
        order = np.argsort(atoms.numbers)
        sites = "".join(
            f"            x {atoms[i].symbol:>3}     {1:8}   {vector(atoms.get_scaled_positions()[i], '%11.6f')}   x \n"
            for i in order
        )
        rule = "            " + 60 * "x" + "\n"
        text += (
            "\n                           -------------------------------\n"
            "                                      Unit Cell\n"
            "                           -------------------------------\n"
            f"        Real Lattice(A)              Reciprocal Lattice(1/A)\n{rows}\n"
            "                         Total number of ions in cell =    4\n"
        )
        if not (last_without_atoms and number):
            text += (
                f"\n{rule}            x  Element    Atom        Fractional coordinates of atoms   x \n"
                "            x            Number           u          v          w       x \n"
                f"            x{58 * '-'}x \n{sites}{rule}\n"
            )
        text += " Final energy, E             =  -2000.1 eV\n BFGS: starting iteration         1 ...\n"
    return text


def written(folder: Path) -> dict[str, Path]:
    """One file of each kind with the crystal, by the writers of ASE and pymatgen where they have one."""
    ase.io.write(folder / "relax.traj", STEPS)
    ase.io.write(folder / "XDATCAR", STEPS, format="vasp-xdatcar")
    pseudo = {"Ti": "Ti.UPF", "O": "O.UPF", "Na": "Na.UPF"}
    ase.io.write(folder / "pw.in", ATOMS, format="espresso-in", pseudopotentials=pseudo)
    for name, scaled in (("geometry.in", False), ("scaled.in", True)):
        with pytest.warns(FutureWarning, match="FHI-aims"):
            ase.io.write(folder / name, ATOMS, format="aims", scaled=scaled)
    ase.io.write(folder / "database.json", ATOMS)
    poscar = Poscar(CRYSTAL)
    poscar.write_file(folder / "CONTCAR")
    Chgcar(poscar, {"total": np.arange(60.0).reshape(3, 4, 5)}).write_file(folder / "CHGCAR")
    shutil.copyfile(folder / "CHGCAR", folder / "LOCPOT")
    entry = ComputedStructureEntry(CRYSTAL, -20.0, entry_id="e-1")
    optimade = OptimadeStructureAdapter.get_optimade_structure(CRYSTAL)
    texts = {
        "vasprun.xml": vasprun(), "OUTCAR": outcar(), "pw.out": pwo(), "a.castep": castep(), "a.cell": CELL,
        "atoms.json": encode(ATOMS), "entry.json": json.dumps(entry.as_dict()),
        "entries.json": json.dumps([entry.as_dict()]), "optimade.json": json.dumps({"data": optimade}, default=str),
        "mp.json": json.dumps({"data": [{"material_id": "mp-1", "structure": CRYSTAL.as_dict()}], "meta": {}}),
        "python.json": repr(CRYSTAL.as_dict()),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "vasprun.xml.gz").write_bytes(gzip.compress(vasprun().encode()))
    (folder / "relax.traj.bz2").write_bytes(bz2.compress((folder / "relax.traj").read_bytes()))
    (folder / "CHGCAR.gz").write_bytes(gzip.compress((folder / "CHGCAR").read_bytes()))
    return {path.name: path for path in folder.iterdir()}


CELL = "\n".join(
    ["! a comment", "%BLOCK lattice_abc", "bohr", vector([4.1 / BOHR, 5.3 / BOHR, 6.2 / BOHR]), "83 97 104",
     "%ENDBLOCK lattice_abc", "", "%block Positions_Frac"]
    + [f"{site.specie.symbol}:x{vector(site.frac_coords)} SPIN=1 # label" for site in CRYSTAL]
    + ["%endblock positions_frac", "kpoint_mp_grid : 2 2 2", ""]
)  # fmt: skip
KINDS = (
    "relax.traj", "relax.traj.bz2", "XDATCAR", "pw.in", "geometry.in", "scaled.in", "database.json", "CONTCAR",
    "CHGCAR", "CHGCAR.gz", "LOCPOT", "vasprun.xml", "vasprun.xml.gz", "OUTCAR", "pw.out", "a.castep", "a.cell",
    "atoms.json", "entry.json", "entries.json", "optimade.json", "mp.json", "python.json",
)  # fmt: skip
MANY = ("relax.traj", "XDATCAR", "vasprun.xml", "vasprun.xml.gz", "OUTCAR", "pw.out", "a.castep", "relax.traj.bz2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory.mktemp("calculations"))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_gives_the_crystal_of_the_cif(files: dict[str, Path], reference: Crystal, name: str) -> None:
    (entry,) = rows(files[name])
    assert (entry.formula, entry.n_atoms, entry.index, entry.warnings) == ("NaTiO2", 4, 0, ())
    assert_same(crystal_of(entry), reference)


@pytest.mark.parametrize("name", MANY)
def test_all_frames_are_rows_on_demand(files: dict[str, Path], reference: Crystal, name: str) -> None:
    first, last = rows(files[name], frames=Frames.all)
    assert [(entry.path, entry.index) for entry in (first, last)] == [(str(files[name]), 0), (str(files[name]), 1)]
    assert_same(crystal_of(first), reference, scale=1.05)
    assert_same(crystal_of(last), reference)


def test_files_of_one_structure_stay_one_row_with_all_frames(files: dict[str, Path], tmp_path: Path) -> None:
    xyz = tmp_path / "a.extxyz"
    ase.io.write(xyz, STEPS)
    alone = set(KINDS) - set(MANY)
    assert [len(rows(files[name], frames=Frames.all)) for name in sorted(alone)] == [1] * len(alone)
    assert len(rows(xyz)) == len(rows(xyz, frames=Frames.all)) == 2


def test_ids_of_documents_are_names(files: dict[str, Path]) -> None:
    names = [rows(files[name])[0].path.rpartition("#")[2] for name in ("mp.json", "entries.json", "database.json")]
    assert names == ["mp-1", "e-1", "1"]


# Runs that were cut off, and files that are not whole


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        (vasprun()[: vasprun().rindex("<calculation>") + 300], 1.05),
        (vasprun()[: vasprun().index("</modeling>")], 1.0),
        (outcar()[: outcar().rindex("TOTAL-FORCE") + 150], 1.05),
        (pwo(ended=False), 1.05),
        (castep()[: castep().rindex("Unit Cell")], 1.05),
        (castep(last_without_atoms=True), 1.0),
    ],
)
def test_the_last_whole_step_of_a_run_that_was_cut_off_counts(text: str, scale: float, reference: Crystal) -> None:
    (entry,) = read_entries(Inline("x", text), 5.0)
    assert_same(crystal_of(entry), reference, scale=scale)


def test_the_last_whole_frame_of_an_xdatcar_that_was_cut_off_counts(
    files: dict[str, Path], tmp_path: Path, reference: Crystal
) -> None:
    text = files["XDATCAR"].read_text()
    (entry,) = read_entries(Inline("x", text[: text.rindex("0.")]), 5.0)
    assert_same(crystal_of(entry), reference, scale=1.05)
    ase.io.write(tmp_path / "fixed", [ATOMS, ATOMS], format="vasp-xdatcar")
    lines = (tmp_path / "fixed").read_text().splitlines()
    once = "\n".join([*lines[:12], *lines[19:], ""])  # a cell that does not change is written once
    first, second = rows_of_text(once)
    assert_same(first, reference)
    assert_same(second, reference)


def rows_of_text(text: str) -> list[Crystal]:
    from crystalpredict.io.calculations import calculation_frames

    frames = list(calculation_frames(text, last=False) or ())
    return [crystal_of(read_entries(Inline("x", frame), 5.0)[0]) for frame in frames]


def atoms(**changes: Any) -> str:
    """Atoms as ASE's `todict` has them, but for what is changed."""
    cell = [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    return json.dumps({"numbers": [29], "positions": [[0, 0, 0]], "cell": cell, "pbc": [True] * 3, **changes})


TRAJECTORY_TAG = b"- of UlmASE-Trajectory  "
REFUSED = {
    "a vasprun.xml without a step": (vasprun()[: vasprun().index("<calculation>")], "give its POSCAR"),
    "a vasprun.xml with entities": (
        vasprun().replace("<modeling>", '<!DOCTYPE m [<!ENTITY a "b">]>\n<modeling>', 1), "defines entities",
    ),
    "a vasprun.xml of stars": (vasprun().replace("<v>      0.", "<v>  *****."), "not a number"),
    "an OUTCAR without a step": (outcar()[: outcar().index("Iteration")], "give its POSCAR"),
    "an OUTCAR of stars": (outcar().replace(f"{ATOMS.positions[0][1]:13.5f}", " *************"), "broken OUTCAR"),
    "an output without an energy": (pwo((ATOMS,)).replace("!    total", "total"), "without a total energy"),
    "an input of another lattice": ("&system\n ibrav=-13, nat=1\n/\nATOMIC_POSITIONS\nSi 0 0 0\n", "celldm(1) or A"),
    "an input without axes": (
        "&system\n ibrav=-13, nat=1, celldm(1)=9\n/\nATOMIC_POSITIONS alat\nSi 0 0 0\n", "ibrav=-13 is not read",
    ),
    "an input with a space group": (
        "&system\n ibrav=1, nat=1, celldm(1)=9\n/\nATOMIC_POSITIONS crystal_sg\nSi 1a\n", "crystal_sg",
    ),
    "an input without celldm(3)": (
        "&system\n ibrav=4, nat=1, celldm(1)=9\n/\nATOMIC_POSITIONS alat\nSi 0 0 0\n", "missing or impossible",
    ),
    "an input without ibrav": ("&system\n nat=1\n/\nATOMIC_POSITIONS alat\nSi 0 0 0\n", "without ibrav and nat"),
    "an input of two lists of atoms": (
        "&system\n ibrav=1, nat=1, celldm(1)=9\n/\n" + 2 * "ATOMIC_POSITIONS alat\nSi 0 0 0\n", "with 2 cards",
    ),
    "an input in parsec": (
        "&system\n ibrav=1, nat=1, celldm(1)=9\n/\nATOMIC_POSITIONS parsec\nSi 0 0 0\n", "in 'parsec': give them in",
    ),
    "an input of two vectors": (
        "&system\n ibrav=0, nat=1\n/\nATOMIC_POSITIONS bohr\nSi 0 0 0\nCELL_PARAMETERS bohr\n1 0 0\n0 1 0\n",
        "broken input",
    ),
    "a geometry.in of a slab": ("lattice_vector 3 0 0\nlattice_vector 0 3 0\natom 0 0 0 Si\n", "with 2 lines"),
    "a geometry.in without elements": (3 * "lattice_vector 3 0 0\n" + "atom 0 0 0\n", "line 4 needs"),
    "a geometry.in with another word": (3 * "lattice_vector 3 0 0\n" + "atoms 0 0 0 Si\n", "'atoms' on line 4 is"),
    "a geometry.in of letters": ("lattice_vector 3 0 x\n", "broken geometry.in"),
    "a .cell without a lattice": (CELL.replace("lattice_abc", "other"), "0 blocks LATTICE_CART or LATTICE_ABC"),
    "a .cell of two lists of atoms": (
        f"{CELL}%block positions_abs\n%endblock positions_abs\n", "2 blocks POSITIONS_FRAC or POSITIONS_ABS",
    ),
    "a .cell twice": (2 * CELL, "LATTICE_ABC comes twice"),
    "a .cell without an end of a block": (CELL.replace("%ENDBLOCK lattice_abc", ""), "without %ENDBLOCK"),
    "a .cell cut off": (CELL[: CELL.index("%endblock")], "%BLOCK POSITIONS_FRAC without %ENDBLOCK"),
    "a .cell with a vector too many": (CELL.replace("83 97 104", "83 97 104\n1 2 3"), "3 lines instead of 2"),
    "a .cell with two angles": (CELL.replace("83 97 104", "83 97"), "fewer than 3 numbers"),
    "a .cell of letters": (CELL.replace("83 97 104", "a b c"), "in LATTICE_ABC"),
    "a .cell of impossible angles": (CELL.replace("83 97 104", "10 97 170"), "broken .cell"),
    "a .cell of mixed atoms": (CELL.replace("SPIN=1", "MIXTURE:( 1 0.5)"), "MIXTURE"),
    "a .cell in parsec": (CELL.replace("bohr", "parsec"), "no unit of length"),
    "a .cell of ONETEP": (CELL + "%block species\nTi Ti 22 1 8\n%endblock species\n", "ONETEP"),
    "a .castep in other lengths": (castep().replace("Lattice(A)", "Lattice(Parsec)"), "LENGTH_UNIT"),
    "a .castep without atoms": (castep()[: castep().index("Fractional")], "ended before"),
    "a GPAW file": ("- of Ulmgpaw            " + 24 * "\0", "ase convert -i gpw"),
    "a trajectory cut off": (TRAJECTORY_TAG.decode() + 20 * "\0", "cut off"),
    "a trajectory without frames": (TRAJECTORY_TAG.decode() + 24 * "\0", "without frames"),
    "a ComputedEntry": (json.dumps(ComputedEntry("NaCl", -3.0).as_dict()), "ComputedStructureEntry"),
    "a Python dictionary of arrays": (repr(ATOMS.todict()), "write it as JSON"),
    "a call in a Python dictionary": ("{'lattice': __import__('os').getcwd()}", "broken Python dictionary"),
    "a molecule of ASE": (encode(Atoms("OH", [[0, 0, 0], [0, 0, 1]])), "periodic in all three"),
    "Atoms in two dimensions": (atoms(cell=[[3, 0, 0], [0, 3, 0]]), "three vectors of three numbers"),
    "Atoms in a flat cell": (atoms(cell=[[3, 0, 0], [3, 0, 0], [0, 0, 3]]), "lie in a plane"),
    "Atoms with a place too many": (atoms(positions=[[0, 0, 0], [1, 1, 1]]), "1 elements for coordinates of 2 atoms"),
    "Atoms at no place": (atoms(positions=[[0, 0, float("nan")]]), "not a number"),
    "Atoms of an element to come": (atoms(numbers=[200]), "atomic number 200"),
    "Atoms of half an element": (atoms(numbers=[1.5]), "not whole numbers"),
    "a slab of ASE": (
        encode(Atoms("Cu", [[0, 0, 0]], cell=[3, 3, 9], pbc=(True, True, False))), "periodic in all three",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_an_error_of_one_line(case: str) -> None:
    text, told = REFUSED[case]
    for entry in read_entries(Inline("x", text.encode("latin-1")), 5.0):
        assert told in entry.error
        assert entry.crystal is None
        assert "\n" not in entry.error


# Safety


def test_a_trajectory_builds_nothing_that_it_names(tmp_path: Path, reference: Crystal) -> None:
    """ASE itself builds the constraint that a file names with the arguments that it has."""
    from ase.constraints import FixAtoms

    held = ATOMS.copy()
    held.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "good.traj", held)
    content = (tmp_path / "good.traj").read_bytes()
    assert b"FixAtoms" in content
    (tmp_path / "bad.traj").write_bytes(content.replace(b"FixAtoms", b"NoSuchXX"))
    with pytest.raises((KeyError, ValueError)):
        ase.io.read(tmp_path / "bad.traj")
    assert_same(crystal_of(rows(tmp_path / "bad.traj")[0]), reference)
    for old, new in ((b'"int64"', b'"O    "'), (b'"float64"', b'"U9999999"'), (b"[4, 3]", b"[-4,3]"), (b"[4]", b'"4"')):
        (tmp_path / "bad.traj").write_bytes(content.replace(old, new))
        (entry,) = rows(tmp_path / "bad.traj")
        assert "broken ASE trajectory" in entry.error, (old, entry.error)


def test_reading_a_cell_runs_no_program_and_writes_no_file(files: dict[str, Path], tmp_path: Path) -> None:
    """ASE itself runs `castep` to learn its keywords, and writes them to the working directory."""
    (tmp_path / "castep").write_text("#!/bin/sh\ntouch $0.ran\n")
    (tmp_path / "castep").chmod(0o755)
    shutil.copyfile(files["a.cell"], tmp_path / "a.cell")
    code = (
        "import sys; from crystalpredict.io.entries import read_entries; "
        "print([entry.formula for entry in read_entries('a.cell', 5.0)], 'ase' in sys.modules)"
    )
    made = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert made.stdout == "['NaTiO2'] False\n", made.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"castep", "a.cell"}


def test_an_outcar_reads_no_file_beside_it(tmp_path: Path, reference: Crystal) -> None:
    """ASE itself reads constraints from the CONTCAR beside an OUTCAR, and fails on a broken one."""
    (tmp_path / "OUTCAR").write_text(outcar())
    (tmp_path / "CONTCAR").write_text("broken")
    assert_same(crystal_of(rows(tmp_path / "OUTCAR")[0]), reference)


def test_the_grid_of_a_density_is_not_read(tmp_path: Path, files: dict[str, Path], reference: Crystal) -> None:
    head = files["CHGCAR"].read_text()
    large = tmp_path / "CHGCAR"
    with large.open("w") as file:
        file.write(head)
        file.truncate(2**30)  # a sparse file, above the limit of other files
    assert_same(crystal_of(rows(large)[0]), reference)


def test_flat_cells_and_coincident_atoms_are_refused_in_each_format() -> None:
    flat = ATOMS.copy()
    flat.set_cell([[4, 0, 0], [0, 4, 0], [0, 0, 0.1]])
    near = ATOMS.copy()
    near.positions[1] = near.positions[0] + 0.01
    for make in (vasprun, outcar, pwo, castep):
        for atoms, told in ((flat, "cell"), (near, "apart")):
            (entry,) = read_entries(Inline("x", make((atoms,))), 5.0)
            assert told in entry.error, (make, entry.error)


# POSCARs of VASP 4


def poscar4(title: str, counts: str = "1 2 1") -> str:
    lines = Poscar(CRYSTAL).get_str().splitlines()
    rest = "\n".join(lines[7:])
    return "\n".join([title, *lines[1:5], counts, re.sub(" (Ti|O|Na)$", "", rest, flags=re.MULTILINE), ""])


@pytest.mark.parametrize("title", ["Ti O Na", "  Ti_pv  O Na", "Ti O2 Na", "TiO2Na", "Ti1, O2, Na1", "Ti2O4Na2"])
def test_the_title_of_a_poscar_of_vasp_4_names_its_elements(title: str, reference: Crystal) -> None:
    (entry,) = read_entries(Inline("x", poscar4(title)), 5.0)
    assert_same(crystal_of(entry), reference)


@pytest.mark.parametrize(
    "title",
    ["", "Ti O", "Ti O Na relaxed", "TiONa", "NaTiO2", "Ti O O Na", "unknown", "Xx O Na", "Ti O2 Na2", "TiO2 Na"],
)
def test_a_title_that_does_not_fit_the_counts_is_refused(title: str) -> None:
    (entry,) = read_entries(Inline("x", poscar4(title)), 5.0)
    assert "does not name its elements" in entry.error or title == "TiO2 Na", entry.error


# The Bravais lattices of pw.x


@pytest.mark.parametrize(
    ("kind", "celldm", "lengths", "angles", "share"),
    [
        (1, {}, (1, 1, 1), (90, 90, 90), 1), (2, {}, (1, 1, 1), (90, 90, 90), 4), (3, {}, (1, 1, 1), (90, 90, 90), 2),
        (-3, {}, (1, 1, 1), (90, 90, 90), 2), (4, {3: 1.6}, (1, 1, 1.6), (90, 90, 120), 1),
        (6, {3: 1.6}, (1, 1, 1.6), (90, 90, 90), 1), (7, {3: 1.6}, (1, 1, 1.6), (90, 90, 90), 2),
        (8, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 1), (9, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 2),
        (-9, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 2), (91, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 2),
        (10, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 4), (11, {2: 1.2, 3: 1.6}, (1, 1.2, 1.6), (90, 90, 90), 2),
        (12, {2: 1.2, 3: 1.6, 4: 0.2}, (1, 1.2, 1.6), (90, 90, 78.463), 1),
        (-12, {2: 1.2, 3: 1.6, 5: 0.2}, (1, 1.2, 1.6), (90, 78.463, 90), 1),
        (13, {2: 1.2, 3: 1.6, 4: 0.2}, (1, 1.2, 1.6), (90, 90, 78.463), 2),
        (14, {2: 1.2, 3: 1.6, 4: 0.1, 5: 0.2, 6: 0.3}, (1, 1.2, 1.6), (84.261, 78.463, 72.542), 1),
    ],
)  # fmt: skip
def test_a_bravais_lattice_has_the_conventional_cell_and_its_share(
    kind: int, celldm: dict[int, float], lengths: tuple[float, ...], angles: tuple[float, ...], share: int
) -> None:
    """The primitive vectors span 1/share of the conventional cell, of which each vector is a sum of theirs."""
    found = bravais_cell(kind, {1: 5.0, **celldm})
    whole = Lattice.from_parameters(*(5 * length for length in lengths), *angles, vesta=True)
    assert abs(np.linalg.det(found)) == pytest.approx(whole.volume / share, rel=1e-4)
    reduced = Lattice(found).get_niggli_reduced_lattice()
    centred = {1: [], 4: [[0, 0.5, 0.5], [0.5, 0, 0.5]], 2: CENTRES.get(kind, [[0.5] * 3])}[share]
    sites = [[0, 0, 0], *centred, *([[0.5, 0.5, 0]] if share == 4 else [])]
    primitive = Structure(whole, ["Po"] * len(sites), sites).get_primitive_structure()
    np.testing.assert_allclose(
        sorted(reduced.parameters), sorted(primitive.lattice.get_niggli_reduced_lattice().parameters), rtol=1e-3
    )


CENTRES = {9: [[0.5, 0.5, 0]], -9: [[0.5, 0.5, 0]], 91: [[0, 0.5, 0.5]], 13: [[0.5, 0, 0.5]]}


def test_a_rhombohedral_lattice_has_one_length_and_angle() -> None:
    for kind in (5, -5):
        cell = bravais_cell(kind, {1: 5.0, 4: 0.3})
        metric = cell @ cell.T / 25
        np.testing.assert_allclose(metric, np.full((3, 3), 0.3) + 0.7 * np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    "size", ["celldm(1)=10.26", f"A={10.26 * BOHR}", "celldm(1) = 10.26d0"]
)  # silicon, from which pw.x's own first example begins
def test_an_input_with_a_bravais_lattice(size: str) -> None:
    text = (
        f" &control\n    calculation='scf', prefix='silicon',\n /\n &system\n    ibrav = 2, {size}, nat= 2, ntyp= 1,\n"
        "    ecutwfc = 18.0 ! Ry\n /\n &electrons\n /\nATOMIC_SPECIES\n Si  28.086  Si.pz-vbc.UPF\n"
        "ATOMIC_POSITIONS {alat}\n Si 0.00 0.00 0.00\n Si 1/4 0.25 0.25 ! the other\nK_POINTS gamma\n"
    )
    (entry,) = read_entries(Inline("x", text), 5.0)
    crystal = crystal_of(entry)
    a = 10.26 * BOHR
    assert (entry.formula, crystal.n_atoms) == ("Si", 2)
    assert abs(np.linalg.det(crystal.lattice)) == pytest.approx(a**3 / 4)
    steps = (crystal.positions[1] - crystal.positions[0] - a / 4) @ np.linalg.inv(crystal.lattice)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)


# Folders and archives of calculations


ORDER = ("CONTCAR", "vasprun.xml", "OUTCAR", "XDATCAR", "CHGCAR", "LOCPOT")


def test_the_folder_of_a_calculation_counts_once(files: dict[str, Path], tmp_path: Path, reference: Crystal) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (*ORDER, "entry.json"):
        shutil.copyfile(files[name], run / name)
    shutil.copyfile(files["CONTCAR"], run / "POSCAR")
    assert [Path(entry.path).name for entry in rows(tmp_path)] == ["CONTCAR", "POSCAR", "entry.json"]
    for place, name in enumerate((*ORDER, "POSCAR")):
        (entry,) = rows(tmp_path, calculations=True)
        assert entry.path == str(run / name)
        assert_same(crystal_of(entry), reference)
        if place == 0:
            (run / name).write_bytes(b"")  # as VASP leaves it when it is stopped in the first step
        elif name != "LOCPOT":
            (run / name).unlink()
        else:
            (run / name).rename(run / "INCAR")


def test_other_folders_keep_their_structures_and_calculations_count_by_name(
    files: dict[str, Path], tmp_path: Path
) -> None:
    for new, old in {
        "POSCAR": "CONTCAR", "b.json": "entry.json", "c.castep": "a.castep", "c.cell": "a.cell", "c-out.cell": "a.cell",
        "d.traj": "relax.traj", "pw.in": "pw.in", "pw.out": "pw.out", "e.pwi": "pw.in", "POSCAR_2": "CONTCAR",
    }.items():  # fmt: skip
        shutil.copyfile(files[old], tmp_path / new)
    (tmp_path / "lammps.in").write_text("units metal\n")
    (tmp_path / "f").mkdir()
    shutil.copyfile(files["geometry.in"], tmp_path / "f" / "geometry.in")
    shutil.copyfile(files["geometry.in"], tmp_path / "f" / "geometry.in.next_step")
    names = [entry.path.removeprefix(f"{tmp_path}/") for entry in rows(tmp_path, calculations=True)]
    expected = ["POSCAR", "POSCAR_2", "b.json", "c.castep", "d.traj", "e.pwi", "f/geometry.in.next_step", "pw.out"]
    assert names == expected
    assert not any(entry.error for entry in rows(tmp_path, calculations=True))


def test_an_archive_of_calculations(files: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for run in ("one", "two/relax"):
            for name in ("vasprun.xml", "OUTCAR", "XDATCAR"):
                archive.write(files[name], f"{run}/{name}")
        archive.write(files["CONTCAR"], "two/relax/CONTCAR")
    names = [entry.path.partition("a.zip/")[2] for entry in rows(tmp_path / "a.zip", calculations=True)]
    assert names == ["one/vasprun.xml", "two/relax/CONTCAR"]
    both = rows(tmp_path / "a.zip", calculations=True, frames=Frames.all)
    assert [(entry.path.partition("a.zip/")[2], entry.index) for entry in both] == [
        ("one/vasprun.xml", 0), ("one/vasprun.xml", 1), ("two/relax/CONTCAR", 0),
    ]  # fmt: skip
    (entry,) = rows(tmp_path / "a.zip")
    assert entry.path.endswith("CONTCAR")


def test_a_directory_without_structures_says_what_finds_calculations(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copyfile(files["OUTCAR"], tmp_path / "OUTCAR")
    with pytest.raises(Exception, match="--calculations"):
        rows(tmp_path)
    assert len(rows(tmp_path, calculations=True)) == 1


def test_an_id_of_the_materials_project_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (entry,) = rows("mp-149")
    assert "needs the network" in entry.error
    assert "https://materialsproject.org/materials/mp-149" in entry.error
    shutil.copyfile(Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif", "mp-149")
    assert rows("mp-149")[0].formula == "NaCl"


# Dictionaries in cells of tables


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(CRYSTAL.as_dict()), repr(CRYSTAL.as_dict()), encode(ATOMS),
        json.dumps({name: array.tolist() for name, array in ATOMS.todict().items()}),
        json.dumps(OptimadeStructureAdapter.get_optimade_structure(CRYSTAL), default=str),
        json.dumps(ComputedStructureEntry(CRYSTAL, -1.0).as_dict()),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_dictionary_in_a_cell_of_a_table(tmp_path: Path, cell: str, reference: Crystal) -> None:
    import pandas

    frame = pandas.DataFrame({"id": ["a"], "structure": [cell]})
    frame.to_csv(tmp_path / "t.csv")
    (entry,) = rows(tmp_path / "t.csv")
    assert_same(crystal_of(entry), reference)
    if cell.startswith('{"'):
        (tmp_path / "t.jsonl").write_text('{"id": "a", "structure": ' + cell + "}\n" + cell + "\n")
        both = rows(tmp_path / "t.jsonl")
        assert len(both) == 2
        for entry in both:
            assert_same(crystal_of(entry), reference)


def test_atoms_with_shared_sites_are_refused_in_each_file_of_ase(tmp_path: Path) -> None:
    shared = Atoms("NiO", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    shared.info["occupancy"] = {"0": {"Ni": 0.5, "Cu": 0.5}, "1": {"O": 1.0}}
    whole, other = shared.copy(), shared.copy()
    whole.info["occupancy"] = {"0": {"Ni": 1.0}, "1": {"O": 1}}
    other.info["occupancy"] = 0.9  # not of ASE
    for name, atoms in (("shared", shared), ("whole", whole), ("other", other)):
        for ending in ("xyz", "traj"):
            ase.io.write(tmp_path / f"{name}.{ending}", atoms)
        (tmp_path / f"{name}.json").write_text(encode(atoms))
        for ending in ("db", "json"):
            with ase.db.connect(tmp_path / f"{name}-rows.{ending}") as database:
                database.write(atoms, data=atoms.info)
        files = sorted(tmp_path.glob(f"{name}*"))
        assert len(files) == 5
        for file in files:
            (entry,) = rows(file)
            assert ("partly occupied sites" in entry.error) == (name == "shared"), file
            assert bool(entry.error) == (name == "shared"), (file, entry.error)
    (entry,) = entries_of_structures([other], 3.0)
    assert not entry.error
    flags = encode(whole).replace("[true, true, true]", '["F", "F", "F"]').replace('"bool"', '"str"')
    (entry,) = read_entries(Inline("x", flags), 3.0)
    assert "write true or false for each of the three directions" in entry.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site_coordinate_span": "asymmetric_unit"}, "sites of a whole cell are needed"),
        ({"dimension_types": None, "nperiodic_dimensions": 2}, "nperiodic_dimensions=2"),
        ({"nsites": 9}, "nsites is 9, but 4 sites have positions"),
        ({"concentration": [0.7, 0.7]}, "add up to 1.4: they must not exceed 1"),
        ({"structure_features": ["implicit_atoms"]}, "atoms without positions"),
        ({"species_at_sites": None}, "ask for them with response_fields"),
        ({"lattice_vectors": [[3, 0, 0], [3, 0, 0], [0, 0, 3]]}, "lie in a plane"),
        ({"cartesian_site_positions": [[0, 0, 0]], "nsites": None}, "4 species for coordinates of 1 sites"),
        ({"species": []}, "is not among `species`"),
        ({"dimension_types": [1, 1, 0]}, "dimension_types=[1, 1, 0]"),
        ({"concentration": [0.5, 1.5]}, "concentration 1.5 of K"),
        ({"concentration": [0.5, 0.5], "chemical_symbols": ["Na", "Qq"]}, "unknown element 'Qq'"),
        ({"concentration": [0.5, 0.5], "attached": ["H"]}, "attached atoms"),
        ({"concentration": [0.7]}, "1 concentrations for 2 chemical_symbols"),
        ({"site_coordinate_span": "unit_cell", "dimension_types": None, "nperiodic_dimensions": 3}, ""),
    ],
)
def test_an_optimade_structure_of_which_a_part_is_missing_is_refused(change: dict[str, Any], message: str) -> None:
    entry = json.loads(json.dumps(OptimadeStructureAdapter.get_optimade_structure(CRYSTAL), default=str))
    if "concentration" in change:
        entry["attributes"]["species"][0].update({"chemical_symbols": ["Na", "K"], **change})
    else:
        entry["attributes"].update(change)
    (found,) = read_entries(Inline("x", json.dumps(entry)), 3.0)
    assert message in found.error
    assert bool(message) == bool(found.error)
    assert "pymatgen" not in found.error
