"""Formation energies of crystals as they stand: those at their relaxed volumes, and the strain energy [M10].

A network that learnt from relaxed crystals gives a stretched cell nearly the energy of the relaxed one, give or take a
slope that means nothing. Where the predicted change of the volume is large, the energy is that at the predicted volume,
by a second pass, and the strain energy by the equation of state. Where the change that is predicted there is large
again, the volume is not known, and the first energy stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.prediction.relaxation import brought_to, log_changes, scaled
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE

BULK_MODULUS = "bulk_modulus"
EV_PER_GPA_A3 = 1 / 160.21766
# |ln(relaxed / given volume)| as predicted, with an error of 0.013: up to the first a crystal counts as relaxed, from
# the second on not at all
MAX_RELAXED_CHANGE, MIN_CHANGED = 0.025, 0.035
LARGE_CHANGE = 0.15  # from which on what is left after it may be larger in proportion
# eV/atom, and that per unit of this logarithm: a larger change of an energy counts for less, as it comes of a volume
# that is predicted quite wrongly
LIMIT, LIMIT_PER_CHANGE = 0.02, 3.0
NetworkAnswer = Callable[[list[Crystal], list[Neighbors]], tuple[FloatArray, set[int]]]


def strain_energies(log_ratios: FloatArray, volumes: FloatArray, bulk_moduli: FloatArray) -> FloatArray:
    """Return by how much the energies of crystals off their volume exceed those of the relaxed ones, eV/atom, (B,).

    The equation of state of Birch and Murnaghan with a pressure derivative of 4, E = 9/2 K V0 f^2 with the Eulerian
    strain f = ((V0 / V)^(2/3) - 1) / 2 (F. Birch, Phys. Rev. 71 (1947) 809).

    Args:
        log_ratios: logarithms of the volumes over the relaxed ones, (B,).
        volumes: relaxed volumes of an atom, Å³, (B,).
        bulk_moduli: GPa, (B,).
    """
    strain = np.expm1(-2 / 3 * log_ratios) / 2
    return np.asarray(4.5 * bulk_moduli * EV_PER_GPA_A3 * volumes * strain**2)


def add_strain_energies(
    checkpoint: Checkpoint,
    crystals: list[Crystal],
    neighbors: list[Neighbors],
    outputs: FloatArray,
    outputs_of: NetworkAnswer,
) -> set[int]:
    """Make the formation energies among standardised outputs (B, outputs) those of the crystals as they stand.

    Those of a model for unrelaxed structures, or one without volume change or bulk modulus, stay as they are.

    Args:
        checkpoint: of the model.
        crystals: B crystals.
        neighbors: their neighbour lists.
        outputs: of the network for the crystals; the column of the formation energy is changed.
        outputs_of: returns standardised outputs of the network for other crystals and neighbour lists, and which of
            these do not fit into memory.

    Returns:
        Indices of the crystals that do not fit into memory at their predicted volumes; their energies are not a number.
    """
    columns = {prop.name: column for column, prop in enumerate(checkpoint.properties)}
    if checkpoint.unrelaxed or not {FORMATION_ENERGY, VOLUME_CHANGE.name, BULK_MODULUS} <= columns.keys():
        return set()
    changes = log_changes(checkpoint, outputs)
    rows = np.flatnonzero(np.abs(changes) > MAX_RELAXED_CHANGE)
    given, lists = [crystals[row] for row in rows], [neighbors[row] for row in rows]
    wanted = [scaled(crystal, change) for crystal, change in zip(given, changes[rows].tolist(), strict=True)]
    relaxed, edges, changed = brought_to(given, lists, wanted, checkpoint.config.radius)
    if not changed.any():
        return set()
    rows, kept = rows[changed], np.flatnonzero(changed).tolist()
    again, too_large = outputs_of([relaxed[row] for row in kept], [edges[row] for row in kept])
    values = checkpoint.values(again)
    volumes = np.array([relaxed[row].volume / relaxed[row].n_atoms for row in kept])
    column = columns[FORMATION_ENERGY]
    energies = strain_energies(-changes[rows], volumes, 10 ** values[:, columns[BULK_MODULUS]]) + values[:, column]
    differences = energies - checkpoint.values(outputs[rows])[:, column]
    sizes = np.abs(changes[rows])
    differences /= 1 + (differences / (LIMIT + LIMIT_PER_CHANGE * sizes)) ** 2
    left = values[:, columns[VOLUME_CHANGE.name]] / np.maximum(1, sizes / LARGE_CHANGE)
    shares = (1 - relaxed_shares(sizes)) * relaxed_shares(left)
    outputs[rows, column] += np.nan_to_num(shares * differences) / checkpoint.deviation[column]
    lost = {int(rows[row]) for row in too_large}
    outputs[list(lost), column] = np.nan
    return lost


def relaxed_shares(changes: FloatArray) -> FloatArray:
    """Return how far crystals count as relaxed, 0 to 1, by predicted changes of ln V, each (B,)."""
    return np.asarray(np.clip((MIN_CHANGED - np.abs(changes)) / (MIN_CHANGED - MAX_RELAXED_CHANGE), 0, 1))
