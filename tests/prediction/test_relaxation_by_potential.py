"""Structures that a potential relaxes before they are predicted; EMT, of ASE, is one for metals without weights."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, Relaxation, load_model, predict
from crystalpredict.checkpoints.registry import default_model, find_model
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.errors import StructureError, UsageError
from crystalpredict.io.to_ase import atoms_of_crystal
from crystalpredict.nn.config import ModelConfig
from crystalpredict.prediction.potentials import calculator_of, identity_of_potential
from crystalpredict.prediction.relaxation_by_potential import Relaxer
from crystalpredict.prediction.relaxed_cells import FILE, RelaxedCells

bulk = pytest.importorskip("ase.build").bulk

EMT = "ase.calculators.emt:EMT"
FORMATION, CHANGE = "formation_energy_eV_per_atom", "volume_change_percent"
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
MODULE = """
from ase.calculators.emt import EMT

class Broken(EMT):
    def calculate(self, *arguments, **names):
        super().calculate(*arguments, **names)
        self.results["forces"] = self.results["forces"] + float("nan")

class Ends(EMT):
    def calculate(self, *arguments, **names):
        raise SystemExit("ended by the potential")

class Noisy(EMT):
    def __init__(self):
        print("noise of loading")
        super().__init__()

    def calculate(self, *arguments, **names):
        print("noise of computing")
        super().calculate(*arguments, **names)

class Second(EMT):
    made = 0

    def __init__(self):
        Second.made += 1
        self.broken = False
        super().__init__()

    def calculate(self, atoms, *arguments, **names):
        if self.broken or len(atoms) == 8:
            self.broken = True
            raise RuntimeError("broken for good\\nsecond line")
        super().calculate(atoms, *arguments, **names)

def no_calculator():
    return "EMT"

def of_class():
    return EMT

def needs(argument):
    return EMT()

def fails():
    raise ValueError("no weights")

class Molecular(EMT):
    implemented_properties = ["energy", "forces"]

constant = 3
"""


def copper(length: float = 3.6) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), ["Cu"], [[0, 0, 0]])


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A module in a folder where Python finds it, and which is not the working directory."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "some_potentials.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "some_potentials"


@pytest.fixture(scope="module")
def default() -> Predictor:
    return load_model(device="cpu", targets=["formation_energy", "volume_change"])


@pytest.fixture(scope="module")
def relaxing() -> Predictor:
    return load_model(device="cpu", targets=["formation_energy", "volume_change"], relax=Relaxation(EMT, force=0.002))


def lowest_length() -> float:
    """The lattice constant of copper by EMT, found by its energies alone, Å."""
    from ase.calculators.emt import EMT as Calculator

    lengths = np.linspace(3.55, 3.65, 201)
    energies = []
    for length in lengths:
        atoms = bulk("Cu", a=length)
        atoms.calc = Calculator()
        energies.append(atoms.get_potential_energy())
    return float(lengths[np.argmin(energies)])


@pytest.mark.slow
def test_every_start_relaxes_to_the_lowest_energy_and_is_predicted_there(
    relaxing: Predictor, default: Predictor
) -> None:
    stretched = [copper(length) for length in (3.4, 3.59, 3.85)]
    sheared = Structure(Lattice(copper().lattice.matrix @ [[1.03, 0.02, 0], [0, 0.98, 0.01], [0, 0, 1]]), ["Cu"] * 4,
                        copper().frac_coords)  # fmt: skip
    moved = copper()
    moved.perturb(0.1)
    starts = [*stretched, sheared, moved]
    rows = relaxing.predict(starts)
    expected = lowest_length() ** 3
    for start, row in zip(starts, rows, strict=True):
        assert row.relaxed is not None
        assert row.relaxed.volume == pytest.approx(expected, rel=2e-3)
        assert row[CHANGE] == pytest.approx(100 * (row.relaxed.volume / start.volume - 1))
        assert row.interval(CHANGE) == (row[CHANGE], row[CHANGE])
        assert (row.formula, row.n_atoms) == ("Cu", 4)
        assert not any("not relaxed" in text for text in row.warnings)
        (plain,) = default.predict([Structure(row.relaxed.lattice, ["Cu"] * 4, row.relaxed.positions,
                                              coords_are_cartesian=True)])  # fmt: skip
        assert row[FORMATION] == pytest.approx(plain[FORMATION], abs=1e-4)
    assert max(row[FORMATION] for row in rows) - min(row[FORMATION] for row in rows) < 2e-3
    assert default.predict([stretched[2]])[0][FORMATION] - rows[2][FORMATION] > 0.05
    assert default.predict([copper()])[0].relaxed is None


def test_limits_of_steps_and_time_are_said_in_the_row() -> None:
    (few,) = predict([copper(3.9)], targets=["formation_energy"], relax=Relaxation(EMT, steps=3))
    assert few.relaxed is not None
    assert lowest_length() ** 3 < few.relaxed.volume < 3.9**3
    assert any(text.startswith("not relaxed: forces of up to") and "after 3 steps" in text for text in few.warnings)
    assert any("larger than it would relax to" in text and "--unrelaxed" not in text for text in few.warnings)
    (slow,) = predict([copper(3.9)], targets=["formation_energy"], relax=Relaxation(EMT, seconds=1e-6))
    assert any("after 0 steps in 1e-06 s" in text for text in slow.warnings)
    assert not slow.error


def test_what_cannot_be_relaxed_costs_its_row_only(module: str) -> None:
    alloy = copper()
    alloy.replace_species({"Cu": {"Cu": 0.5, "Au": 0.5}})
    rows = predict([SALT, copper(3.7), alloy, copper(3.5)], targets=["formation_energy"], relax=EMT)
    assert [bool(row.error) for row in rows] == [True, False, True, False]
    assert f"the potential {EMT} failed (NotImplementedError: No EMT-potential for" in rows[0].error
    assert rows[0].formula == "NaCl"
    assert "shared by elements or partly occupied: give an ordered model" in rows[2].error
    for name, reason in (("Broken", "diverges in step 0: a force is not a number"), ("Ends", "SystemExit: ended by")):
        (row,) = predict([copper()], relax=f"{module}:{name}")
        assert reason in row.error


def test_after_a_failure_the_next_structure_gets_a_new_calculator(module: str) -> None:
    large = copper() * (2, 1, 1)
    rows = predict([copper(), large, copper(), copper()], targets=["formation_energy"], relax=f"{module}:Second")
    assert [row.error.partition(": ")[0] for row in rows] == ["", "cannot be relaxed", "", ""]
    assert rows[1].error.endswith("(RuntimeError: broken for good)")
    assert __import__(module).Second.made == 2


def steps_and_energy(start: Crystal, *, predicted: bool) -> tuple[int, float]:
    """Steps of a relaxation by EMT, and the energy at its end, eV/atom."""
    found = Relaxer(Relaxation(EMT, predicted_start=predicted), default_config(), "cpu").relaxed(start)
    atoms = atoms_of_crystal(found.crystal)
    atoms.calc = calculator_of(EMT, "cpu")
    return found.steps, float(atoms.get_potential_energy()) / len(atoms)


def default_config() -> ModelConfig:
    return load_model(device="cpu").config


def gold_copper() -> Crystal:
    """Cu3Au, whose atoms are sorted neither by element nor by position."""
    atoms = bulk("Cu", cubic=True, a=3.75)[[2, 0, 3, 1]]
    atoms.numbers = np.where(np.linalg.norm(atoms.positions, axis=1) < 0.1, 79, 29)
    return Crystal.ordered(atoms.cell.array, atoms.positions, atoms.numbers)


def deformed(crystal: Crystal, stretch: Any, displacement: float) -> Crystal:
    """A crystal whose atoms are moved, and whose cell is then deformed by a matrix (3, 3)."""
    shifts = np.random.default_rng(2).normal(size=crystal.positions.shape)
    moved = crystal.positions + displacement * shifts / np.linalg.norm(shifts, axis=1, keepdims=True)
    return replace(crystal, lattice=crystal.lattice @ stretch, positions=moved @ stretch)


@pytest.mark.parametrize(
    ("stretch", "displacement"),
    [
        (1.25 ** (1 / 3) * np.eye(3), 0.0),
        (np.array([[1.05, 0.04, 0.0], [0.04, 0.97, 0.02], [0.0, 0.02, 0.98]]), 0.0),
        (np.eye(3), 0.25),
    ],
    ids=["volume", "strain", "moved atoms"],
)
def test_a_crystal_that_is_predicted_is_a_better_start(stretch: Any, displacement: float) -> None:
    start = deformed(gold_copper(), stretch, displacement)
    steps, energy = steps_and_energy(start, predicted=False)
    fewer, same = steps_and_energy(start, predicted=True)
    assert fewer < steps
    assert same == pytest.approx(energy, abs=2e-3)


def test_relaxations_start_from_the_predicted_crystal_with_the_atoms_as_given() -> None:
    cubic = deformed(gold_copper(), np.diag([1.04, 0.98, 1.0]), 0.1)
    twice = np.diag([2.0, 1.0, 1.0]) @ cubic.lattice
    supercell = Crystal.ordered(
        twice, np.concatenate([cubic.positions, cubic.positions + cubic.lattice[0]]), np.tile(cubic.main_numbers, 2)
    )
    outside = replace(cubic, positions=cubic.positions + [[3], [-2], [0], [5]] @ cubic.lattice[None, 1])
    left_handed = replace(cubic, lattice=cubic.lattice[[1, 0, 2]])
    relaxer = Relaxer(Relaxation(EMT, predicted_start=True), default_config(), "cpu")
    quick = load_model(find_model(unrelaxed=True), "cpu", uncertainty=False)
    for given in (cubic, supercell, outside, left_handed, *crystals()):
        start = relaxer._start(given)
        (row,) = quick.predict([atoms_of_crystal(given)])
        assert row.relaxed is not None
        np.testing.assert_array_equal(start.numbers, given.numbers)
        np.testing.assert_array_equal(start.occupancies, given.occupancies)
        np.testing.assert_allclose(start.lattice, row.relaxed.lattice, atol=1e-4)
        apart = (start.positions - row.relaxed.positions) @ np.linalg.inv(start.lattice)
        np.testing.assert_allclose(apart, np.rint(apart), atol=1e-4)
        moved = start.positions @ np.linalg.inv(start.lattice) - given.positions @ np.linalg.inv(given.lattice)
        assert np.linalg.norm(moved @ given.lattice, axis=1).max() == pytest.approx(row["displacement_A"], abs=0.01)
    disordered = replace(cubic, occupancies=np.full((4, 1), 0.5))
    with pytest.raises(StructureError, match="shared by elements or partly occupied"):
        relaxer.relaxed(disordered)


def test_without_a_predicted_crystal_the_given_one_is_the_start() -> None:
    given, relaxer = gold_copper(), Relaxer(Relaxation(EMT, predicted_start=True), default_config(), "cpu")
    assert relaxer._start(given) is not given
    for weights in relaxer._predictor.model.parameters():
        weights.data.fill_(np.nan)
    relaxer._predictor.first_answers.weights = relaxer._predictor.first_answers.network = None
    assert relaxer._start(given) is given


def test_unrelaxed_in_python_starts_from_the_predicted_crystal() -> None:
    start = copper(3.6 * 1.25 ** (1 / 3))
    (row,) = predict([start], targets=["formation_energy"], unrelaxed=True, relax=EMT)
    (plain,) = predict([start], targets=["formation_energy"], relax=EMT)
    assert row[FORMATION] == pytest.approx(plain[FORMATION], abs=2e-3)
    assert row != plain  # it ends elsewhere within the tolerance


def test_relaxations_from_predicted_volumes_are_not_taken_from_the_cache(tmp_path: Path, computed: list[Any]) -> None:
    given, now = gold_copper(), Relaxation(EMT, predicted_start=True, cache=tmp_path)
    before = now.settings.replace("from the crystal of", "from the volume of")
    assert before not in (now.settings, Relaxation(EMT).settings)
    plain = Relaxer(Relaxation(EMT), default_config(), "cpu").relaxed(given)
    RelaxedCells(tmp_path, before).add(given, replace(plain, steps=499))
    computed.clear()
    relaxer = Relaxer(now, default_config(), "cpu")
    assert relaxer.relaxed(given).steps < 499
    assert len(computed) == 1
    assert relaxer.relaxed(given).steps < 499
    assert len(computed) == 1


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The crystals that are relaxed rather than taken from the cache."""
    real, found = Relaxer._relax, []

    def relax(self: Relaxer, start: Any) -> Any:
        found.append(start)
        return real(self, start)

    monkeypatch.setattr(Relaxer, "_relax", relax)
    return found


def crystals() -> list[Crystal]:
    """Two primitive cells of copper, and rock salt."""
    cells = [bulk("Cu", a=3.7), bulk("Cu", a=3.5), bulk("NaCl", "rocksalt", a=5.64)]
    return [Crystal.ordered(atoms.cell.array, atoms.positions, atoms.numbers) for atoms in cells]


@pytest.mark.slow
def test_relaxed_structures_are_kept(tmp_path: Path, computed: list[Any], default: Predictor) -> None:
    def relaxed(relaxation: Relaxation, *, cache: Path | None = tmp_path / "kept") -> list[Any]:
        computed.clear()
        relaxer = Relaxer(replace(relaxation, cache=cache), default.model.config, "cpu")
        found = []
        for crystal in crystals():
            with suppress(StructureError):
                found.append(relaxer.relaxed(crystal))
        return [(each.steps, each.force, each.crystal.lattice.tolist(), each.converged) for each in found]

    plain = Relaxation(EMT)
    first = relaxed(plain, cache=None)
    assert len(first) == 2
    assert (relaxed(plain), len(computed)) == (first, 3)
    assert (relaxed(plain), len(computed)) == (first, 1)  # a failure is not kept
    assert (relaxed(Relaxation(EMT, seconds=100)), len(computed)) == (first, 1)
    for other in (Relaxation(EMT, force=0.1), Relaxation(EMT, steps=4), Relaxation("ase.calculators.lj:LennardJones")):
        assert relaxed(other) != first
        assert len(computed) == 3
    assert not any(converged for *_, converged in relaxed(Relaxation(EMT, steps=4)))
    assert len(computed) == 1
    assert relaxed(Relaxation(EMT, predicted_start=True)) != first
    late = Relaxation(EMT, force=0.01, seconds=1e-6)
    assert [len(relaxed(late)), len(computed), len(relaxed(late)), len(computed)] == [2, 3, 2, 3]  # a later run may end


@pytest.mark.slow
def test_damaged_cells_are_relaxed_again(
    tmp_path: Path, computed: list[Any], default: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    def lattices(folder: Path) -> list[Any]:
        relaxer = Relaxer(Relaxation(EMT, cache=folder), default.model.config, "cpu")
        return [relaxer.relaxed(crystal).crystal.lattice.tolist() for crystal in crystals()[:2]]

    first = lattices(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        (good,) = connection.execute("SELECT cell FROM relaxed LIMIT 1").fetchone()
        for damage in (good[:-8], good[:-1] + b"\x41", "text", None, b""):
            connection.execute("UPDATE relaxed SET cell = ?", (damage,))
            connection.commit()
            computed.clear()
            assert lattices(tmp_path) == first
            assert len(computed) == 2
    (tmp_path / "file").write_text("")
    assert lattices(tmp_path / "file") == first
    assert "not used" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "give chgnet, sevenn or module:function"),
        ("ase.calculators.emt:", "give chgnet, sevenn or module:function"),
        ("a b:c", "give chgnet, sevenn or module:function"),
        ("/tmp/x.py:c\x1b", "give chgnet, sevenn or module:function"),
        ("no_such_module:f", "no module no_such_module is installed"),
        ("ase.no_such:f", "no module ase.no_such is installed"),
        ("json.decoder.deeper:f", "no module json.decoder.deeper is installed"),
        ("MODULE:nothing", "has no function nothing"),
        ("MODULE:constant", "has no function constant"),
        ("MODULE:no_calculator", "returns an object of type str, which is no ASE calculator"),
        ("MODULE:of_class", "returns the class EMT, which is no ASE calculator"),
        ("MODULE:needs", "cannot be loaded (TypeError: needs() missing 1 required positional argument"),
        ("MODULE:fails", "cannot be loaded (ValueError: no weights)"),
        ("MODULE:Molecular", "does not compute energy, forces and stress"),
        ("broken_module:f", "broken_module cannot be imported (ZeroDivisionError: division by zero)"),
        ("broken_package.inner:f", "broken_package.inner cannot be imported (SystemExit: 3)"),
    ],
)
def test_potentials_that_cannot_be_used_are_errors_of_one_line(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as found:
        load_model(relax=name.replace("MODULE", module))
    assert reason in str(found.value)
    assert str(found.value).isprintable()


@pytest.mark.parametrize("name", ["chgnet", "sevenn"])
def test_a_package_that_is_missing_is_named_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalpredict.prediction import potentials

    monkeypatch.setattr(potentials, "find_spec", lambda module: None if module == name else "found")
    with pytest.raises(
        UsageError, match=rf"the potential {name} is not installed: pip install .crystalpredict\[{name}\]"
    ):
        Relaxation(name)


@pytest.mark.parametrize("entry", ["", ".", "HERE"])
def test_nothing_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    import sys

    (tmp_path / "my_potential.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w').close()\nfrom {EMT[:19]} import EMT"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(entry.replace("HERE", str(tmp_path)))
    before = sys.path[:]
    with pytest.raises(UsageError, match="nothing is imported from the working directory"):
        predict([copper()], relax="my_potential:EMT")
    assert not (tmp_path / "executed").exists()
    assert sys.path == before


def test_bad_settings_and_models() -> None:
    for wrong in ({"force": 0}, {"force": float("nan")}, {"steps": 0}, {"seconds": -1}):
        with pytest.raises(UsageError, match="a relaxation needs"):
            Relaxation(EMT, **wrong)
    with pytest.raises(UsageError, match="is for structures that are not relaxed"):
        load_model(find_model(unrelaxed=True), relax=EMT)


def test_the_identity_of_a_potential_changes_with_its_module(module: str, tmp_path: Path, monkeypatch: Any) -> None:
    identity = identity_of_potential(EMT)
    assert identity.startswith(f"{EMT} 3.")
    (tmp_path / "changing.py").write_text("a = 1")
    monkeypatch.syspath_prepend(tmp_path)
    first = identity_of_potential("changing:f")
    (tmp_path / "changing.py").write_text("a = 2")
    assert identity_of_potential("changing:f") != first


def test_workers_of_a_cluster_relax_too() -> None:
    from crystalpredict.prediction.dask_cluster import Job, identity_of_run, predict_sources

    folder, relaxation = default_model().folder, Relaxation(EMT)
    cell = str(Path(__file__).resolve().parents[2] / "examples" / "NiAl.vasp")
    job = Job(str(folder), None, identity_of_run(folder, relaxation), "", relaxation=relaxation)
    assert ("potential", identity_of_potential(EMT)) in job.identity
    (row,) = predict_sources(job, [cell])
    assert row == predict([cell], relax=EMT)[0]
    assert row.relaxed is not None


def test_chgnet() -> None:
    pytest.importorskip("chgnet", reason="CHGNet is not installed: pip install 'crystalpredict[chgnet]'")
    large = SALT.copy()
    large.scale_lattice(1.15 * SALT.volume)
    (row,) = predict([large], targets=["formation_energy"], relax="chgnet")
    assert row.relaxed is not None
    assert row.relaxed.volume == pytest.approx(SALT.volume, rel=0.04)
    assert row[FORMATION] == pytest.approx(-2.0, abs=0.2)


def test_sevenn() -> None:
    pytest.importorskip("sevenn", reason="SevenNet is not installed: pip install 'crystalpredict[sevenn]'")
    large = SALT.get_primitive_structure()
    large.scale_lattice(1.05 * large.volume)
    (row,) = predict([large], targets=["formation_energy"], relax=Relaxation("sevenn", steps=40))
    assert row.relaxed is not None
    assert row.relaxed.volume == pytest.approx(SALT.volume / 4, rel=0.04)
