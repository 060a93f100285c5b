"""Calibrate a trained network: error model from the validation set, applicability domain from the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.crystals.primitive import primitive_sizes
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, NeighborTable, encoded_labels
from crystalpredict.errors import DataError
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.bins import PART_ATOMS, split_by_crystal
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.nn.ensemble import Ensemble
from crystalpredict.nn.inference import run_in_batches
from crystalpredict.nn.threads import BatchThreads
from crystalpredict.prediction.relaxation import relax
from crystalpredict.prediction.stability import Hull, HullComparison, needs_hull, physical_centres
from crystalpredict.prediction.strain_energy import add_strain_energies
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE
from crystalpredict.uncertainty.applicability import Domain, fit_domain
from crystalpredict.uncertainty.calibration import Calibration
from crystalpredict.uncertainty.intervals import MIN_CALIBRATION_LABELS, ErrorModel, Grouping, fit_errors

if TYPE_CHECKING:
    from torch import Tensor

BATCH_ATOMS = 2000  # listed atoms of a batch
MIN_CRYSTALS_DOMAIN = 1000  # limits of bonds and volumes leave out one in a thousand
LARGE = 1e9  # a limit that nothing exceeds


def calibrate(
    checkpoint: Checkpoint, table: CrystalTable, neighbors: NeighborTable, *, domain: bool, hull: Hull | None = None
) -> Calibration | None:
    """Return the calibration of a network, or None if the validation set has too few labels of a property.

    Args:
        checkpoint: with the network.
        table: crystals, labels and splits that the network was trained with.
        neighbors: neighbour lists of the crystals of the table.
        domain: whether to include the statistics of the training set; this computes the features of all of it.
        hull: known phases, best without those of the validation set; None: those that come with the package.
    """
    validation, train = (np.flatnonzero(table.splits == part).tolist() for part in (VALIDATION, TRAIN))
    labels = encoded_labels(table, checkpoint.properties)[validation]
    if (np.isfinite(labels).sum(axis=0) < MIN_CALIBRATION_LABELS).any():
        return None
    found = outputs_and_features(checkpoint, table, neighbors, validation)
    errors = errors_of_crystals(checkpoint, [table.crystal(row) for row in validation], labels, *found, hull)
    if not domain:
        return Calibration(errors)
    _, features = outputs_and_features(checkpoint, table, neighbors, train, strained=False)
    crystals, edges = [table.crystal(row) for row in train], [neighbors.neighbors(row) for row in train]
    return Calibration(errors, fit_domain(crystals, edges, features))


def errors_of_crystals(
    checkpoint: Checkpoint, crystals: Sequence[Crystal], labels: FloatArray, outputs: FloatArray, features: FloatArray,
    hull: Hull | None = None,
) -> ErrorModel:  # fmt: skip
    """Return the error model of a network by V crystals that it did not learn from.

    Args:
        checkpoint: of the network.
        crystals: V of them.
        labels: on the trained scale, not a number where missing, (V, outputs).
        outputs: standardised, (V, outputs).
        features: of the network, (V, D).
        hull: known phases; None: those that come with the package.

    Raises:
        ValueError: a property has fewer than MIN_CALIBRATION_LABELS labels.
    """
    compares = needs_hull(checkpoint.properties, checkpoint.properties)
    comparison = HullComparison(hull or Hull(), crystals) if compares else None
    centres = physical_centres(checkpoint, checkpoint.interval_centres(outputs), crystals, comparison)
    return fit_errors(
        (centres - checkpoint.mean) / checkpoint.deviation,
        (labels - checkpoint.mean) / checkpoint.deviation,
        primitive_sizes(crystals),
        features,
        checkpoint.minima,
        grouping_of(checkpoint, outputs, crystals),
    )


def grouping_of(checkpoint: Checkpoint, outputs: FloatArray, crystals: Sequence[Crystal]) -> Grouping:
    """Return what the intervals of the properties of a checkpoint depend on.

    Those of volume changes not on the prediction: how many cells change by how much is a choice of those who perturb
    them. Those of formation energies on stability too: the less stable a crystal, the rarer its kind.

    Args:
        checkpoint: of P properties.
        outputs: standardised, of V crystals, (V, outputs).
        crystals: the V crystals.
    """
    return Grouping(
        binned=[prop.identity != VOLUME_CHANGE.identity for prop in checkpoint.properties],
        graded=[prop.name == FORMATION_ENERGY for prop in checkpoint.properties],
        stability=checkpoint.stability(outputs),
        systems=chemical_systems(crystals),
    )


def chemical_systems(crystals: Sequence[Crystal]) -> IntArray:
    """Return a number for the set of elements of each of B crystals, (B,)."""
    found: dict[frozenset[int], int] = {}
    elements = (frozenset(each.numbers[each.occupancies > 0].tolist()) for each in crystals)
    return np.array([found.setdefault(system, len(found)) for system in elements])


def domain_of_training(
    table: CrystalTable, neighbors: NeighborTable, base: Domain | None, features: FloatArray | None = None
) -> Domain:
    """Return statistics of the crystals that a network was trained on.

    Below MIN_CRYSTALS_DOMAIN crystals in all, too few for limits of bonds and volumes, only their elements count.

    Args:
        table: crystals and splits.
        neighbors: neighbour lists of the crystals of the table.
        base: statistics of the crystals that the base model was trained on; None for a network from random weights.
        features: of the network, of the training crystals, (R, D); None: they are not compared.
    """
    rows = np.flatnonzero(table.splits == TRAIN).tolist()
    crystals, edges = [table.crystal(row) for row in rows], [neighbors.neighbors(row) for row in rows]
    domain = fit_domain(crystals, edges, features, base)
    if base or len(rows) >= MIN_CRYSTALS_DOMAIN:
        return domain
    bonds = np.zeros_like(domain.bonds)
    bonds[..., 1] = np.inf
    return replace(
        domain, pairs=np.full_like(domain.pairs, 255), bonds=bonds, packing=np.array([0, LARGE, LARGE]),
        vacuum=np.array([LARGE]),
    )  # fmt: skip


def outputs_and_features(
    checkpoint: Checkpoint,
    table: CrystalTable,
    neighbors: NeighborTable,
    rows: Sequence[int],
    *,
    all_blocks: bool = False,
    strained: bool = True,
) -> tuple[FloatArray, FloatArray]:
    """Return standardised outputs (R, outputs) and network features (R, D) of some crystals.

    A network for unrelaxed crystals brings them to their relaxed cells first, as in predictions.

    Args:
        checkpoint: its network computes them.
        table: of crystals.
        neighbors: neighbour lists of the crystals of the table.
        rows: of the table, R of them.
        all_blocks: whether the features are the mean states before the first and after each block, (R, states), which
            a single network has.
        strained: whether formation energies are those of crystals as they stand, as in predictions.

    Raises:
        DataError: a crystal does not fit into memory.
    """
    model = checkpoint.model
    weight = next(model.parameters())

    def run(crystals: list[Crystal], lists: list[Neighbors], compute: Callable[[IntArray, CrystalBatch], None]) -> None:
        too_large, _ = run_in_batches(
            crystals, lists, lambda some, batch: compute(some, batch.to(weight.device, weight.dtype)),
            BatchThreads(weight.device), batch_atoms=BATCH_ATOMS, part_atoms=2 * PART_ATOMS,
        )  # fmt: skip
        if too_large:
            raise DataError(f"not enough memory for {len(too_large)} crystals")

    def of(crystals: list[Crystal], lists: list[Neighbors]) -> tuple[FloatArray, FloatArray]:
        outputs = np.empty((len(crystals), model.config.outputs), dtype=np.float32)
        width = model.config.states if all_blocks else model.config.features
        features = np.empty((len(crystals), width), dtype=np.float32)

        def answer(batch: CrystalBatch) -> tuple[Tensor, Tensor]:
            if not all_blocks:
                return model.answer(batch)
            assert isinstance(model, Crystalformer)
            means = model.means(batch)
            return means, model.outputs(means, batch)

        def compute(some: IntArray, batch: CrystalBatch) -> None:
            features[some], outputs[some] = (found.cpu().numpy() for found in answer(batch))

        run(crystals, lists, compute)
        return outputs, features

    def states_of(crystals: list[Crystal], lists: list[Neighbors]) -> tuple[FloatArray, list[FloatArray]]:
        outputs = np.empty((len(crystals), model.config.outputs), dtype=np.float32)
        states: dict[int, FloatArray] = {}

        def compute(some: IntArray, batch: CrystalBatch) -> None:
            assert not isinstance(model, Ensemble)  # has no head
            found, every = model.first.all_states(batch)
            outputs[some] = found.cpu().numpy()
            sizes = [lists[row].size for row in some]
            own = split_by_crystal(every.cpu().numpy(), batch.crystals, sizes)
            states.update(zip(some.tolist(), own, strict=True))

        run(crystals, lists, compute)
        return outputs, [states[row] for row in range(len(crystals))]

    given = [table.crystal(row) for row in rows], [neighbors.neighbors(row) for row in rows]
    found = relax(checkpoint, *given, lambda *some: of(*some)[0], states_of)
    outputs, features = of(found.crystals, found.neighbors)
    if strained:
        add_strain_energies(checkpoint, *given, outputs, lambda *some: (of(*some)[0], set()))
    found.combine(checkpoint, outputs)
    return outputs, features
