"""Start a fine-tuning run: read the table, split it, choose the settings, and write the run's folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crystalpredict.checkpoints.checkpoint import load_checkpoint
from crystalpredict.data.dataset import TRAIN
from crystalpredict.data.labelled import read_crystals, split_crystals
from crystalpredict.data.labels import NewTargets, read_labelled
from crystalpredict.data.summary import describe_data, describe_split
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Entry
from crystalpredict.io.worker_pool import Limits
from crystalpredict.nn import ModelConfig
from crystalpredict.properties import PROPERTIES
from crystalpredict.training.finetune import (
    check_labels,
    describe_start,
    learnt_targets,
    prepare_run,
    settings_for,
    with_directions,
)
from crystalpredict.training.plan import Plan

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneOptions:
    """What a new run is asked to do.

    Attributes:
        targets: columns to learn; none: every column that is a known property.
        new: units and transforms of columns that are no known property.
        structure_column: column that holds the structures; None: the usual names.
        base: folder of the checkpoint to start from; None: random weights.
        directions: whether directions are added to the network.
        settings: fields of `TrainingConfig` that are given; the others follow from the data.
        split_by: `formula`, `random` or `column`.
        shares: fractions of the validation and the test set.
        share_given: whether the first of these is given, not the default.
        folds: of a cross-validation; 0: none.
        members: networks of the ensemble.
    """

    targets: tuple[str, ...]
    new: NewTargets
    structure_column: str | None
    base: Path | None
    directions: bool
    settings: dict[str, Any]
    split_by: str
    shares: tuple[float, float]
    share_given: bool
    folds: int
    members: int


def start_run(
    data: Path, folder: Path, options: FinetuneOptions, command: Sequence[str] = (), jobs: int = 1,
    limits: Limits | None = None,
    watch: Callable[[Iterable[Entry], int], Iterable[Entry]] = lambda entries, total: entries,
) -> None:  # fmt: skip
    """Read a table, log what is in it, and write what the run needs into its folder.

    Args:
        data: the table, or a folder with `id_prop.csv`.
        folder: of the run.
        options: what the run is asked to do.
        command: line that `provenance.json` quotes.
        jobs: reader processes.
        limits: of reading one row.
        watch: sees the structures pass, and is given their number.

    Raises:
        UsageError: the options contradict each other or the table.
        DataError: the table cannot be trained on.
    """
    base = load_checkpoint(options.base) if options.base else None
    if base and base.model.config.members > 1:
        raise UsageError(f"{base.name} is an ensemble, which is not trained: start from a model of one network")
    network = base.model.config if base else ModelConfig()
    added = options.directions and network.attention != "framed"
    if added:
        network = with_directions(network, base.name if base else "")
    labelled = read_labelled(
        data, options.targets, new=options.new, structure_column=options.structure_column,
        known=(*(base.properties if base else ()), *PROPERTIES),
    )  # fmt: skip
    if options.share_given and options.split_by == "column" and "val" in labelled.splits:
        raise UsageError("--split-by column takes the validation part from the column: leave out --validation")
    total = len(labelled.sources)
    crystals = read_crystals(labelled, network.radius, jobs, lambda entries: watch(entries, total), limits)
    validation, test = options.shares
    splits = split_crystals(crystals, options.split_by, validation, test, options.folds, options.settings["seed"])
    check_labels(crystals.table, splits)
    trained = splits[0] == TRAIN
    atoms = float(crystals.table.sizes[trained].mean())
    config = settings_for(int(trained.sum()), atoms, scratch=base is None, directions=added)
    config = replace(config, **options.settings)
    notes = [
        f"{data}: {', '.join(labelled.notes)}", *describe_data(crystals),
        *(describe_start(crystals, base) if base else []),
        *describe_split(crystals, splits, options.split_by),
    ]  # fmt: skip
    start = (options.base, base, learnt_targets(crystals.table.properties, base)) if options.base and base else None
    plan = Plan.new(command, data, start, network, config, options.folds, notes, options.members)
    prepare_run(folder, crystals, splits, plan)
    for note in notes:
        LOG.info("%s", note)
    rate = "none" if config.freeze_encoder else f"{config.learning_rate * config.encoder_rate:g}"
    origin = f"from {base.name}" + " with directions added" * added if base else "from random weights"
    LOG.info(
        "%s: at most %d epochs, %s atoms a step, learning rate %g (%s for the encoder), patience %d", origin,
        config.epochs, f"{config.batch_atoms:,}", config.learning_rate, rate, config.patience,
    )  # fmt: skip
