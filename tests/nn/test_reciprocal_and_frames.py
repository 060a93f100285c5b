"""Symmetries of the networks that use vectors, in float64, on random and on symmetric crystals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.equivalence import merge_equivalent, merge_rotated
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn import Crystalformer, frames, reciprocal
from crystalpredict.nn.batch import CrystalBatch, collate
from crystalpredict.nn.factory import geometry_of_family
from tests.reference import reference_model
from tests.sample_crystals import FCC, batch_of, random_crystal, rock_salt, supercell

RADIUS = 6.0
# of dual space with the waves of every cell alike; the longer the waves, the closer to rounding
MODELS = {
    "dual": reference_model(RADIUS, attention="dual", reciprocal_cutoff=6.0),
    "alternating": reference_model(RADIUS, attention="alternating", reciprocal_cutoff=6.0),
    "framed": reference_model(RADIUS, attention="framed", direction_basis=16),
}
SEEDS = range(3)
MIRROR = np.diag([1.0, 1.0, -1.0])


def output(model: Crystalformer, *crystals: Crystal) -> list[float]:
    with torch.no_grad():
        return model(batch_of(*crystals, radius=RADIUS, vectors=True))[:, 0].tolist()


def turned(crystal: Crystal, seed: int) -> Crystal:
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    return replace(crystal, lattice=crystal.lattice @ rotation, positions=crystal.positions @ rotation)


def mirrored(crystal: Crystal) -> Crystal:
    return replace(crystal, lattice=crystal.lattice @ MIRROR, positions=crystal.positions @ MIRROR)


def shuffled(crystal: Crystal, seed: int) -> Crystal:
    order = np.random.default_rng(seed).permutation(crystal.n_atoms)
    parts = (crystal.positions, crystal.numbers, crystal.occupancies)
    return Crystal(crystal.lattice, *(part[order] for part in parts))


def moved(crystal: Crystal) -> Crystal:
    positions = crystal.positions + np.array([1.7, -23.1, 5.5])
    positions[0] += crystal.lattice[0] - 2 * crystal.lattice[2]
    return replace(crystal, positions=positions)


def of_sites(lattice: np.ndarray, sites: list[list[float]], numbers: list[int]) -> Crystal:
    return Crystal.ordered(lattice, np.array(sites) @ lattice, np.array(numbers))


def hexagonal(a: float, c: float) -> np.ndarray:
    return np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]])


def zinc_blende() -> Crystal:
    return of_sites(5.65 * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], [31, 33])


def tellurium() -> Crystal:
    """Space group P3121: every atom on a twofold axis, chains that wind one way."""
    x = 0.2633
    return of_sites(hexagonal(4.458, 5.927), [[x, 0, 1 / 3], [0, x, 2 / 3], [-x, -x, 0]], [52, 52, 52])


def quartz() -> Crystal:
    """Space group P3221: silicon on twofold axes, oxygen anywhere."""
    x, y, z, u = 0.4135, 0.2669, 0.1191, 0.4697
    silicon = [[u, 0, 2 / 3], [0, u, 1 / 3], [-u, -u, 0]]
    oxygen = [
        [x, y, z + 2 / 3], [-y, x - y, z + 1 / 3], [y - x, -x, z], [y, x, -z + 1 / 3], [-x, y - x, -z],
        [x - y, -y, -z + 2 / 3],
    ]  # fmt: skip
    return of_sites(hexagonal(4.913, 5.405), silicon + oxygen, [14] * 3 + [8] * 6)


def boat() -> Crystal:
    """Space group Pm, atoms on and off the mirror plane: pairs of neighbours tie, and only a mirror relates them."""
    lattice = np.array([[4.2, 0, 0.9], [0, 6.1, 0], [0, 0, 5.0]])
    sites = [[0, 0, 0], [0.31, 0.27, 0.22], [0.31, -0.27, 0.22], [0.62, 0.5, 0.41], [0.5, 0, 0.77]]
    return of_sites(lattice, sites, [38, 8, 8, 22, 16])


def rutile() -> Crystal:
    u = 0.305
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    return of_sites(np.diag([4.594, 4.594, 2.959]), sites, [22, 22, 8, 8, 8, 8])


SYMMETRIC = [rock_salt(), zinc_blende(), tellurium(), quartz(), boat(), rutile()]
CRYSTALS = [random_crystal(seed, n_atoms=3) for seed in SEEDS] + SYMMETRIC
NAMES = ["random 0", "random 1", "random 2", "rock salt", "zinc blende", "tellurium", "quartz", "boat", "rutile"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("crystal", CRYSTALS, ids=NAMES)
def test_rotation_translation_and_order_of_atoms(name: str, crystal: Crystal) -> None:
    expected = output(MODELS[name], crystal)
    for other in (turned(crystal, 1), moved(crystal), shuffled(crystal, 2), shuffled(turned(moved(crystal), 3), 4)):
        assert output(MODELS[name], other) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("crystal", CRYSTALS, ids=NAMES)
@pytest.mark.parametrize(
    "matrix",
    [
        [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
        [[1, 3, 0], [0, 1, -2], [0, 0, 1]],
    ],
    ids=str,
)
def test_supercell_and_any_other_cell(name: str, crystal: Crystal, matrix: list[list[int]]) -> None:
    other = supercell(crystal, np.array(matrix))
    assert output(MODELS[name], other) == pytest.approx(output(MODELS[name], crystal), abs=1e-9)


def test_a_box_of_waves_depends_on_the_cell_and_the_default_does_not() -> None:
    """Why networks trained here have a cutoff: the box is upstream's, right for the cell that it was trained on."""
    crystal = random_crystal(1, n_atoms=3)
    other = supercell(crystal, np.diag([3, 1, 1]))
    box = reference_model(RADIUS, attention="dual", reciprocal_reach=2)
    default = reference_model(RADIUS, attention="dual")
    assert abs(output(box, crystal)[0] - output(box, other)[0]) > 1e-4
    assert output(default, crystal) == pytest.approx(output(default, other), abs=1e-6)


@pytest.mark.parametrize("name", ["dual", "alternating"])
@pytest.mark.parametrize("reach", [0, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_left_handed_lattice_in_dual_space(name: str, reach: int, seed: int) -> None:
    crystal = random_crystal(seed)
    model = reference_model(RADIUS, attention=name, reciprocal_reach=reach)
    assert np.linalg.det(mirrored(crystal).lattice) < 0
    swapped = replace(crystal, lattice=crystal.lattice[[1, 0, 2]])
    for other in (mirrored(crystal), swapped):
        assert output(model, other) == pytest.approx(output(model, crystal), abs=1e-11)


@pytest.mark.parametrize("crystal", [*(random_crystal(seed) for seed in SEEDS), quartz()])
def test_frames_distinguish_a_chiral_crystal_from_its_mirror_image(crystal: Crystal) -> None:
    framed = MODELS["framed"]
    assert abs(output(framed, crystal)[0] - output(framed, mirrored(crystal))[0]) > 1e-3


@pytest.mark.parametrize("crystal", [rock_salt(), zinc_blende(), boat(), rutile(), tellurium()])
def test_crystals_that_have_the_same_value_as_their_mirror_images(crystal: Crystal) -> None:
    """Those that are their own mirror images, and tellurium, where what is on both sides of each frame is the same."""
    assert output(MODELS["framed"], mirrored(crystal)) == pytest.approx(output(MODELS["framed"], crystal), abs=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_single_crystals_and_repeats_bit_for_bit(name: str) -> None:
    crystals = [random_crystal(seed, n_atoms=1 + 9 * seed) for seed in range(6)] + SYMMETRIC
    alone = [output(MODELS[name], crystal)[0] for crystal in crystals]
    together = output(MODELS[name], *crystals)
    assert together == pytest.approx(alone, abs=1e-10)
    assert output(MODELS[name], *crystals) == together


@pytest.mark.parametrize("name", MODELS)
def test_a_small_move_of_an_atom_makes_a_small_difference(name: str) -> None:
    """Frames may jump where two edges are equally good; between such points they are smooth."""
    crystal = random_crystal(0)
    before = output(MODELS[name], crystal)[0]
    changes = []
    for step in (1e-3, 1e-4, 1e-5):
        positions = crystal.positions.copy()
        positions[1, 0] += step
        changes.append(output(MODELS[name], replace(crystal, positions=positions))[0] - before)
    assert abs(changes[0]) > 1e-6
    assert changes[1] == pytest.approx(changes[0] / 10, rel=0.05)
    assert changes[2] == pytest.approx(changes[1] / 10, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_lone_atoms_and_chains_have_a_value(name: str) -> None:
    """An atom without neighbours has no frame, one in a straight chain has one axis; neither gives a nan."""
    lone = Crystal.ordered(30 * np.eye(3), np.zeros((1, 3)), np.array([18]))
    chain = Crystal.ordered(np.diag([30.0, 30.0, 3.0]), np.zeros((1, 3)), np.array([18]))
    for crystal in (lone, chain):
        (value,) = output(MODELS[name], crystal)
        assert np.isfinite(value)
        assert output(MODELS[name], turned(crystal, 5)) == pytest.approx([value], abs=1e-10)


def test_neighbour_lists_without_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors"):
        MODELS["dual"](batch_of(rock_salt(), radius=RADIUS))
    with pytest.raises(ValueError, match="vectors"):
        MODELS["framed"](batch_of(rock_salt(), radius=RADIUS))


def test_atoms_that_distances_call_equivalent_are_not_merged() -> None:
    crystal = supercell(rutile(), np.diag([2, 1, 1]))
    edges = find_neighbors(crystal.lattice, crystal.positions, RADIUS, vectors=True)
    assert merge_equivalent([crystal], [edges], RADIUS)[0] is edges
    distances = replace(edges, vectors=None)
    assert merge_equivalent([crystal], [distances], RADIUS)[0].size == 2


def with_symmetry(group: int, seed: int) -> Crystal:
    """A crystal of a space group, an atom in a general position and one at the origin, in a lattice that suits it."""
    random = np.random.default_rng(seed)
    symmetry = SpaceGroup.from_int_number(group)
    cells = {
        "triclinic": (5.2, 6.1, 7.3, 81, 94, 107),
        "monoclinic": (5.2, 6.1, 7.3, 90, 101, 90),
        "orthorhombic": (5.2, 6.1, 7.3, 90, 90, 90),
        "trigonal": (6.2, 6.2, 7.3, 90, 90, 120),
        "cubic": (7.7, 7.7, 7.7, 90, 90, 90),
    }
    sites = [random.uniform(0.05, 0.45, 3), [0, 0, 0]]
    lattice = Lattice.from_parameters(*cells[symmetry.crystal_system])
    structure = Structure.from_spacegroup(symmetry.symbol, lattice, ["O", "Si"], sites)
    return Crystal.ordered(structure.lattice.matrix, structure.cart_coords, np.array(structure.atomic_numbers))


@pytest.mark.parametrize(
    ("group", "share"),
    [(1, 1), (2, 1), (4, 1 / 2), (14, 1 / 2), (62, 1 / 4), (152, 1 / 6), (198, 1 / 12), (225, 1 / 96)],
)
def test_atoms_that_rotations_map_onto_each_other_are_computed_once(group: int, share: float) -> None:
    crystal = turned(shuffled(with_symmetry(group, 3), 4), 5)
    edges = find_neighbors(crystal.lattice, crystal.positions, RADIUS, vectors=True)
    (merged,) = merge_rotated([crystal], [edges])
    oxygen = (crystal.numbers[merged.atoms, 0] == 8).sum() / (crystal.numbers[:, 0] == 8).sum()
    assert oxygen == pytest.approx(share)
    assert merged.counts.sum() == crystal.n_atoms
    with torch.no_grad():
        whole, part = (MODELS["framed"](collate([crystal], [lists], torch.float64)).item() for lists in (edges, merged))
    assert part == pytest.approx(whole, abs=1e-7)
    if merged.size < crystal.n_atoms:
        with pytest.raises(ValueError, match="all atoms"):
            MODELS["dual"](collate([crystal], [merged], torch.float64))


def test_mirror_images_are_no_rotations() -> None:
    crystal = with_symmetry(2, 3)
    edges = find_neighbors(crystal.lattice, crystal.positions, RADIUS, vectors=True)
    (by_distances,) = merge_equivalent([crystal], [replace(edges, vectors=None)], RADIUS)
    assert by_distances.size == 2 < edges.size
    batch = collate([crystal], [edges], torch.float64)
    with torch.no_grad():
        states = MODELS["framed"].encode(batch)[batch.crystals.argsort(stable=True)]
    one, two = np.flatnonzero(crystal.numbers[:, 0] == 8)
    assert (states[one] - states[two]).abs().max() > 1e-4


@pytest.fixture
def batch() -> CrystalBatch:
    return batch_of(*(random_crystal(seed, n_atoms=3 + 9 * seed) for seed in range(4)), radius=5.0, vectors=True)


@pytest.mark.parametrize("name", MODELS)
def test_sums_in_chunks_are_equal(name: str, batch: CrystalBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name].requires_grad_()
    results = []
    for at_once in (2**30, 1):
        monkeypatch.setattr(reciprocal, "WAVE_VALUES_PER_CHUNK", at_once)
        monkeypatch.setattr(frames, "COSINES_PER_CHUNK", at_once)
        model.zero_grad()
        value = model(batch)
        value.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((value.detach(), gradient))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-11)
    assert results[0][1].abs().max() > 0


def test_tied_frames_do_not_depend_on_the_number_of_threads() -> None:
    crystal = supercell(rock_salt(9.0), np.diag([4, 4, 4]))  # few edges an atom: many atoms are dealt with at once
    batch, model = batch_of(crystal, radius=RADIUS, vectors=True).to("cpu", torch.float32), MODELS["framed"].float()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(model(batch))
    finally:
        torch.set_num_threads(threads)
        MODELS["framed"].double()
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_the_waves_of_200_atoms_fit_a_few_megabytes() -> None:
    crystal = random_crystal(0, n_atoms=200)
    model = reference_model(RADIUS, attention="dual")
    (part,) = geometry_of_family(batch_of(crystal, radius=RADIUS, vectors=True), model.config)
    assert part.waves is not None
    assert part.waves.squares.shape[2] < 1600  # one of each pair of opposite waves shorter than 3.4 Å^-1
    assert sum(table.numel() for table in part.waves[:2]) < 1e6
