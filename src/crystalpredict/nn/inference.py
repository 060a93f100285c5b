"""Run many crystals through a network in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from crystalpredict.crystals.crystal import Crystal, IntArray, Neighbors
from crystalpredict.nn.batch import CrystalBatch, collate
from crystalpredict.nn.bins import PART_ATOMS, split_by_atoms
from crystalpredict.nn.devices import is_out_of_memory, no_busy_cores
from crystalpredict.nn.threads import BatchThreads


def always_room(edges: int, batches: int) -> bool:
    """Return True: by default, memory is not checked before a batch is computed."""
    return True


def run_in_batches(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], compute: Callable[[IntArray, CrystalBatch], None],
    threads: BatchThreads, *, batch_atoms: int, part_atoms: int = PART_ATOMS,
    busy_cores: Callable[[], int] = no_busy_cores, has_room: Callable[[int, int], bool] = always_room,
) -> tuple[set[int], int]:  # fmt: skip
    """Run all crystals through `compute` in batches, and return which do not fit into memory.

    A batch that does not fit is first tried again alone, and then halved.

    Args:
        crystals: B crystals.
        neighbors: their neighbour lists, (B,).
        compute: called without gradients with the indices of some crystals and their batch, which is on the CPU.
        threads: compute batches at the same time; reduced to one thread when a batch does not fit.
        batch_atoms: listed atoms of a batch.
        part_atoms: listed atoms that are padded together.
        busy_cores: returns the number of cores that other processes use at the moment.
        has_room: called with the padded edges of a batch and the number of batches that are computed at the same time;
            returns whether they fit into memory. It is called before a batch is made.

    Returns:
        Indices of the crystals that do not fit even alone; and `batch_atoms`, reduced if a batch did not fit.
    """
    sizes = np.array([edges.size for edges in neighbors])
    widths = np.array([edges.max_edge_count for edges in neighbors])
    batches = split_by_atoms(sizes, widths, batch_atoms)
    too_large: set[int] = set()

    def fits(rows: IntArray) -> bool:
        """Compute a batch; return whether it fits into memory."""
        if not has_room(int(sizes[rows].sum() * widths[rows].max()), len(now)):
            return False
        try:
            batch = collate([crystals[row] for row in rows], [neighbors[row] for row in rows], part_atoms=part_atoms)
            with torch.inference_mode():
                compute(rows, batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    while batches:
        parallel = max(1, threads.threads - busy_cores())
        now, batches = batches[-parallel:], batches[:-parallel]
        atoms = sum(int(sizes[rows].sum()) for rows in now)
        for rows, done in zip(now, threads.map(fits, now, atoms), strict=True):
            if done:
                continue
            if len(now) > 1:  # it may fit alone
                threads.threads = 1
                batches.append(rows)
            elif len(rows) == 1:
                too_large.add(int(rows[0]))
            else:
                batch_atoms = max(1, int(sizes[rows].sum()) // 2)
                batches += np.array_split(rows, 2)
    return too_large, batch_atoms
