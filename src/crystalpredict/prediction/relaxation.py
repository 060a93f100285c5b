"""Unrelaxed crystals are scaled to the volume that a network predicts they relax to, and predicted there.

The network learnt from perturbed cells, labelled with the properties of the relaxed crystals. It errs least where the
volume is nearly right, so the volume is corrected first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.properties import VOLUME_CHANGE

MIN_LOG_CHANGE, MAX_LOG_CHANGE = -0.5, 1.0  # of a volume
ATOMS_AT_ONCE = 4096  # whose neighbours are found together: it bounds the memory
NetworkOutputs = Callable[[list[Crystal], list[Neighbors]], FloatArray]


def with_relaxed_volumes(
    checkpoint: Checkpoint, crystals: list[Crystal], neighbors: list[Neighbors], outputs_of: NetworkOutputs
) -> tuple[list[Crystal], list[Neighbors], FloatArray]:
    """Return crystals with the volumes that they relax to, according to a model for unrelaxed structures.

    Args:
        checkpoint: of the model; with any other the crystals stay as they are.
        crystals: B crystals.
        neighbors: their neighbour lists.
        outputs_of: returns the standardised outputs (B, outputs) of the network for crystals and neighbour lists.

    Returns:
        Crystals, neighbour lists, and the logarithm of each new volume over the old one, (B,).
    """
    changes: FloatArray = np.zeros(len(crystals))
    if not checkpoint.unrelaxed or not crystals:
        return crystals, neighbors, changes
    changes = log_changes(checkpoint, outputs_of(crystals, neighbors))
    new = [scaled(crystal, change) for crystal, change in zip(crystals, changes.tolist(), strict=True)]
    lists: list[Neighbors] = []
    for some in _slices(crystals):
        lists += _neighbors_of(new[some], neighbors[some], checkpoint.config.radius)
    for row, (edges, old) in enumerate(zip(lists, neighbors, strict=True)):
        if edges is old:  # its neighbours at the new volume are too many
            new[row], changes[row] = crystals[row], 0.0
    return new, lists, changes


def scaled(crystal: Crystal, log_change: float) -> Crystal:
    """Return a crystal with all lengths scaled so that the logarithm of its volume changes by `log_change`."""
    factor = np.exp(log_change / 3)
    return replace(crystal, lattice=crystal.lattice * factor, positions=crystal.positions * factor)


def log_changes(checkpoint: Checkpoint, outputs: FloatArray) -> FloatArray:
    """Return the changes of the logarithm of the volume on relaxation (B,), from standardised outputs (B, outputs)."""
    column = _column(checkpoint)
    changes = outputs[:, column] * checkpoint.deviation[column] + checkpoint.mean[column]
    return np.asarray(np.clip(np.nan_to_num(changes), MIN_LOG_CHANGE, MAX_LOG_CHANGE))


def add_log_changes(checkpoint: Checkpoint, outputs: FloatArray, changes: FloatArray) -> None:
    """Add what `with_relaxed_volumes` changed (B,) to the volume change in standardised outputs (B, outputs)."""
    if checkpoint.unrelaxed:
        outputs[:, _column(checkpoint)] += changes / checkpoint.deviation[_column(checkpoint)]


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
    try:
        lists = find_neighbors_of_many([(each.lattice, each.positions) for each in crystals], radius)
    except ValueError:
        if len(crystals) == 1:
            return before
        return [_neighbors_of([one], [old], radius)[0] for one, old in zip(crystals, before, strict=True)]
    rows = [row for row, old in enumerate(before) if old.size < crystals[row].n_atoms]
    merged = merge_equivalent([crystals[row] for row in rows], [lists[row] for row in rows], radius)
    for row, edges in zip(rows, merged, strict=True):
        lists[row] = edges
    return lists
