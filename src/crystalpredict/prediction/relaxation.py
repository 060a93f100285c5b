"""Unrelaxed crystals are brought to the cells that a network predicts they relax to, and predicted there.

The network learnt from perturbed cells, labelled with the properties of the relaxed crystals. It errs least where the
cell is nearly right, so volume, shape and positions are corrected first: the volume by an output of the network, the
others by its head of relaxation, if it has one. With a head, properties are a mean of those predicted for the cell as
given and for the corrected one, whose errors differ, unless the given one is much too large. A model may have a second
network, for corrected cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.cell import MIN_DISTANCE
from crystalpredict.crystals.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent, merge_with_members
from crystalpredict.crystals.neighbors import find_neighbors_of_many, shortest_edge
from crystalpredict.nn.relaxation_head import Deformation, RelaxationHead
from crystalpredict.properties import VOLUME_CHANGE

MIN_LOG_CHANGE, MAX_LOG_CHANGE = -0.5, 1.0  # of a volume
LONG = 100.0  # Å, for a crystal without edges
ROUNDING = 1e-6  # of a logarithm: a written cell is read again
MAX_STRAIN = 0.5  # along an axis
MAX_DISPLACEMENT = 0.5  # Å; heads learnt from smaller ones, and where they say more, only the volume is corrected
ATOMS_AT_ONCE = 4096  # whose neighbours are found together: it bounds the memory
# logarithms of the volume change below which the head is not used, and the given cell has no weight: few training cells
# were so much too large
MIN_LOG_CHANGE_HEAD, MIN_LOG_CHANGE_GIVEN = -0.3, -0.5
GIVEN_SHARE = 0.4  # weight of what is predicted for the cell as given, if it is not much too large
NetworkOutputs = Callable[[list[Crystal], list[Neighbors]], FloatArray]
NetworkStates = Callable[[list[Crystal], list[Neighbors]], tuple[FloatArray, list[FloatArray]]]


@dataclass(frozen=True)
class Relaxed:
    """B crystals in the cells that a model for unrelaxed structures predicts that they relax to.

    Attributes:
        crystals: the crystals; with any other model they are as given.
        neighbors: their neighbour lists.
        log_changes: logarithm of each volume over the given one, (B,).
        deformations: predicted largest strain, in percent, and largest displacement of an atom, Å, 0 without a head of
            relaxation, (B, 2).
        outputs: standardised, of the crystals as given, (B, outputs); None without a head of relaxation.
    """

    crystals: list[Crystal]
    neighbors: list[Neighbors]
    log_changes: FloatArray
    deformations: FloatArray
    outputs: FloatArray | None = None

    def combine(self, checkpoint: Checkpoint, outputs: FloatArray) -> FloatArray:
        """Make standardised outputs (B, outputs) at the relaxed cells those of the given crystals.

        Returns:
            Logarithms of the changes of the volumes that are left, after which no atoms are too near, (B,).
        """
        if not checkpoint.unrelaxed:
            return self.log_changes
        nearest = np.array([min(shortest_edge(edges)[1], LONG) for edges in self.neighbors])
        left = np.maximum(
            log_changes(checkpoint, outputs), np.minimum(3 * np.log(MIN_DISTANCE / nearest) + ROUNDING, 0)
        )
        if self.outputs is not None:
            span = MIN_LOG_CHANGE_HEAD - MIN_LOG_CHANGE_GIVEN
            weights = GIVEN_SHARE * np.clip((self.log_changes - MIN_LOG_CHANGE_GIVEN) / span, 0, 1)[:, None]
            outputs += weights * (self.outputs - outputs)
        column = _column(checkpoint)
        outputs[:, column] = (self.log_changes + left - checkpoint.mean[column]) / checkpoint.deviation[column]
        return left


def relax(
    checkpoint: Checkpoint,
    crystals: list[Crystal],
    neighbors: list[Neighbors],
    outputs_of: NetworkOutputs,
    states_of: NetworkStates,
) -> Relaxed:
    """Return crystals as they relax, according to a model for unrelaxed structures.

    Args:
        checkpoint: of the model; with any other the crystals stay as they are.
        crystals: B crystals.
        neighbors: their neighbour lists.
        outputs_of: returns the standardised outputs (B, outputs) of the network for crystals and neighbour lists.
        states_of: returns these, and the states of the listed atoms of each crystal before the first and after each
            block, each (m, (blocks + 1) D).
    """
    if not checkpoint.unrelaxed or not crystals:
        return Relaxed(crystals, neighbors, np.zeros(len(crystals)), np.zeros((len(crystals), 2)))
    head = checkpoint.relaxation
    if head is None:
        changes = log_changes(checkpoint, outputs_of(crystals, neighbors))
        wanted = [scaled(crystal, change) for crystal, change in zip(crystals, changes.tolist(), strict=True)]
        new, lists, changed = brought_to(crystals, neighbors, wanted, checkpoint.config.radius)
        return Relaxed(new, lists, np.where(changed, changes, 0.0), np.zeros((len(crystals), 2)))
    parts = [_deformed(checkpoint, head, crystals[some], neighbors[some], states_of) for some in _slices(crystals)]
    outputs = np.concatenate([part.outputs for part in parts if part.outputs is not None])
    return Relaxed(
        [crystal for part in parts for crystal in part.crystals],
        [edges for part in parts for edges in part.neighbors],
        np.concatenate([part.log_changes for part in parts]),
        np.concatenate([part.deformations for part in parts]),
        outputs,
    )


def _deformed(
    checkpoint: Checkpoint,
    head: RelaxationHead,
    crystals: list[Crystal],
    neighbors: list[Neighbors],
    states_of: NetworkStates,
) -> Relaxed:
    """Return what `relax` does with a head, for crystals whose neighbours fit into memory together."""
    radius = checkpoint.config.radius
    edges = find_neighbors_of_many([(each.lattice, each.positions) for each in crystals], radius, vectors=True)
    merged, members = merge_with_members(crystals, edges, radius)
    outputs, states = states_of(crystals, merged)
    changes = log_changes(checkpoint, outputs)
    with np.errstate(all="ignore"):  # of a cell that is too unlike crystals; what is not finite is not used
        found = head([each[own] for each, own in zip(states, members, strict=True)], edges)
    sizes = np.array([_sizes(each) for each in found])
    sizes[changes <= MIN_LOG_CHANGE_HEAD] = 0
    trusted = ((sizes[:, 1] <= MAX_DISPLACEMENT) & (changes > MIN_LOG_CHANGE_HEAD)).tolist()
    wanted = [
        deformed(crystal, change, how) if yes else scaled(crystal, change)
        for crystal, change, how, yes in zip(crystals, changes.tolist(), found, trusted, strict=True)
    ]
    new, lists, changed = brought_to(crystals, neighbors, wanted, radius)
    if not changed.all():
        rows = np.flatnonzero(~changed).tolist()
        wanted = [scaled(crystals[row], float(changes[row])) for row in rows]
        again = brought_to([crystals[row] for row in rows], [neighbors[row] for row in rows], wanted, radius)
        sizes[rows] = 0.0
        for row, crystal, own, moved in zip(rows, *again, strict=True):
            new[row], lists[row] = crystal, own
            changes[row] *= moved
    return Relaxed(new, lists, changes, np.nan_to_num(sizes), outputs)


def brought_to(
    crystals: list[Crystal], neighbors: list[Neighbors], wanted: list[Crystal], radius: float
) -> tuple[list[Crystal], list[Neighbors], NDArray[np.bool_]]:
    """Return crystals and neighbour lists where crystals are wanted, and which could be brought there, (B,).

    A crystal stays as it is if atoms would have too many neighbours there, or be too near to each other.
    """
    new, lists = list(wanted), list(neighbors)
    for some in _slices(crystals):
        lists[some] = _neighbors_of(wanted[some], neighbors[some], radius)
    changed = np.ones(len(crystals), dtype=bool)
    for row, (edges, old) in enumerate(zip(lists, neighbors, strict=True)):
        if edges is old or shortest_edge(edges)[1] < MIN_DISTANCE <= shortest_edge(old)[1]:
            new[row], lists[row], changed[row] = crystals[row], old, False
    return new, lists, changed


def deformed(crystal: Crystal, log_change: float, how: Deformation) -> Crystal:
    """Return a crystal whose atoms are displaced, whose cell is strained, and whose volume changes, in this order.

    Args:
        crystal: n atoms.
        log_change: of the volume.
        how: displacements (n, 3), Å, and strain (3, 3).
    """
    values, axes = np.linalg.eigh(how.strain)
    stretch = (axes * np.exp(np.clip(values, -MAX_STRAIN, MAX_STRAIN))) @ axes.T
    stretch *= np.exp(log_change / 3) / np.linalg.det(stretch) ** (1 / 3)
    return replace(
        crystal, lattice=crystal.lattice @ stretch, positions=(crystal.positions + how.displacements) @ stretch
    )


def _sizes(how: Deformation) -> tuple[float, float]:
    """Return the largest strain, in percent, and the largest displacement, Å; not a number if one is not finite."""
    if not (np.isfinite(how.strain).all() and np.isfinite(how.displacements).all()):
        return np.nan, np.nan
    largest = float(np.abs(np.linalg.eigvalsh(how.strain)).max())
    return 100 * min(largest, MAX_STRAIN), float(np.linalg.norm(how.displacements, axis=1).max())


def scaled(crystal: Crystal, log_change: float) -> Crystal:
    """Return a crystal with all lengths scaled so that the logarithm of its volume changes by `log_change`."""
    factor = np.exp(log_change / 3)
    return replace(crystal, lattice=crystal.lattice * factor, positions=crystal.positions * factor)


def log_changes(checkpoint: Checkpoint, outputs: FloatArray) -> FloatArray:
    """Return the changes of the logarithm of the volume on relaxation (B,), from standardised outputs (B, outputs)."""
    column = _column(checkpoint)
    changes = outputs[:, column] * checkpoint.deviation[column] + checkpoint.mean[column]
    return np.asarray(np.clip(np.nan_to_num(changes), MIN_LOG_CHANGE, MAX_LOG_CHANGE))


def put_volume_change(
    given: Crystal, relaxed: Crystal, values: dict[str, float], bounds: dict[str, FloatArray]
) -> None:
    """Replace a predicted change of the volume by that of a relaxation, with an interval of width 0."""
    column = VOLUME_CHANGE.column
    if column in values:
        values[column] = 100 * (relaxed.volume / given.volume - 1)
    if column in bounds:
        bounds[column] = np.full_like(bounds[column], values[column])


def _column(checkpoint: Checkpoint) -> int:
    return [prop.identity for prop in checkpoint.properties].index(VOLUME_CHANGE.identity)


def _slices(crystals: Sequence[Crystal]) -> Iterator[slice]:
    """Yield slices of about ATOMS_AT_ONCE atoms."""
    start, atoms = 0, 0
    for stop, crystal in enumerate(crystals, start=1):
        atoms += crystal.n_atoms
        if atoms >= ATOMS_AT_ONCE or stop == len(crystals):
            yield slice(start, stop)
            start, atoms = stop, 0


def _neighbors_of(crystals: list[Crystal], before: list[Neighbors], radius: float) -> list[Neighbors]:
    """Return the neighbour lists of scaled crystals, merged as before; the old list of one that has too many."""
    vectors = any(edges.vectors is not None for edges in before)
    try:
        lists = find_neighbors_of_many([(each.lattice, each.positions) for each in crystals], radius, vectors=vectors)
    except ValueError:
        if len(crystals) == 1:
            return before
        return [_neighbors_of([one], [old], radius)[0] for one, old in zip(crystals, before, strict=True)]
    rows = [row for row, old in enumerate(before) if old.size < crystals[row].n_atoms]
    merged = merge_equivalent([crystals[row] for row in rows], [lists[row] for row in rows], radius)
    for row, edges in zip(rows, merged, strict=True):
        lists[row] = edges
    return lists
