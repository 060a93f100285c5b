"""Start a fine-tuning run: read the table, split it, choose the settings, and write the run's folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.data.dataset import TRAIN
from crystalpredict.data.frames import NAME, table_in_memory
from crystalpredict.data.labelled import read_crystals, split_crystals, use_fraction
from crystalpredict.data.labels import read_labelled
from crystalpredict.data.summary import describe_data, describe_split
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Entry
from crystalpredict.io.worker_pool import Limits
from crystalpredict.nn import ModelConfig
from crystalpredict.properties import TRAINED
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.finetune import (
    MIN_CRYSTALS_FULL_RATE,
    check_labels,
    describe_start,
    learnt_targets,
    prepare_run,
    settings_for,
    with_directions,
)
from crystalpredict.training.kernel import MOST_POINTS
from crystalpredict.training.options import FinetuneOptions
from crystalpredict.training.plan import Plan, origin_of
from crystalpredict.training.run_folder import refuse_folder

LOG = logging.getLogger(__name__)


def start_run(
    data: Any, folder: Path, options: FinetuneOptions, model: str | PathLike[str] | None = None,
    command: Sequence[str] = (), jobs: int = 1, limits: Limits | None = None,
    watch: Callable[[Iterable[Entry], int], Iterable[Entry]] = lambda entries, total: entries,
) -> None:  # fmt: skip
    """Read a table, log what is in it, and write what the run needs into its folder.

    Args:
        data: path of the table, or of a folder with `id_prop.csv`, or a table as `table_in_memory` takes it.
        folder: of the run, not there or empty.
        options: of the run.
        model: name or folder of the model to start from; None: the default.
        command: line that `provenance.json` quotes.
        jobs: reader processes.
        limits: of reading one row.
        watch: wraps the iterator over the structures, given their number, for example in a progress bar.

    Raises:
        UsageError: the options contradict each other or the table.
        DataError: the table cannot be trained on.
    """
    if options.scratch and model:
        raise UsageError("--scratch starts from random weights: leave out --model and --freeze")
    start_folder = None if options.scratch else find_model(model)
    refuse_folder(folder)
    raw = table_in_memory(data)
    path = NAME if raw else Path(data)
    base = _load_base(start_folder) if start_folder else None
    network = base.model.config if base else ModelConfig()
    added = options.directions and network.attention != "framed"
    if added:
        network = with_directions(network, base.name if base else "")
    known = [replace(prop, on_request=False) for prop in (*(base.properties if base else ()), *TRAINED)]
    labelled = read_labelled(
        path, options.targets, new=options.new, structure_column=options.structure_column, known=known, raw=raw
    )
    if options.validation is not None and options.split_by == "column" and "val" in labelled.splits:
        raise UsageError("--split-by column takes the validation part from the column: leave out --validation")
    total = len(labelled.sources)
    crystals = read_crystals(labelled, network.radius, jobs, lambda entries: watch(entries, total), limits)
    validation, test = options.shares
    splits = split_crystals(crystals, options.split_by, validation, test, options.kfold, options.seed)
    used: list[str] = []
    if options.train_fraction < 1:
        total = int((splits[0] == TRAIN).sum())
        crystals, parts = use_fraction(crystals, splits[0], options.train_fraction, options.seed)
        splits = [parts]
        used = [f"{(parts == TRAIN).sum():,} of {total:,} training crystals are used (--train-fraction)"]
    check_labels(crystals.table, splits)
    trained = splits[0] == TRAIN
    if options.kernel and trained.sum() > MOST_POINTS:
        raise UsageError(
            f"--kernel compares with {MOST_POINTS:,} training crystals at most, not {trained.sum():,}: leave it out, "
            "or use some of them (--train-fraction)"
        )
    atoms = float(crystals.table.sizes[trained].mean())
    config = settings_for(int(trained.sum()), atoms, scratch=base is None, directions=added)
    config = replace(config, **options.settings)
    notes = [
        f"{path}: {', '.join(labelled.notes)}", *describe_data(crystals),
        *(describe_start(crystals, base) if base else []),
        *used, *describe_split(crystals, splits, options.split_by),
    ]  # fmt: skip
    start = (start_folder, base, learnt_targets(crystals.table.properties, base)) if start_folder and base else None
    plan = Plan.new(command, origin_of(path, raw), start, network, config, options.kfold, notes, options.members)
    prepare_run(folder, crystals, splits, plan, base.domain if base else None)
    origin = f"from {base.name}" + " with directions added" * added if base else "from random weights"
    _log_start(notes, origin, config)
    if base and not config.kernel and trained.sum() < MIN_CRYSTALS_FULL_RATE:
        LOG.info("for so few crystals --kernel needs seconds, and may be more accurate: try both")


def _load_base(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder; UsageError if fine-tuning cannot start from it."""
    base = load_checkpoint(folder)
    if base.model.config.members > 1:
        raise UsageError(f"{base.name} is an ensemble: start from a model of one network")
    if base.model.config.kernel_points:
        raise UsageError(f"{base.name} is a kernel regression, which is not trained: start from another model")
    if base.unrelaxed:
        raise UsageError(
            f"{base.name} is for unrelaxed structures, which it relaxes before it predicts: start from another"
        )
    return base


def _log_start(notes: Sequence[str], origin: str, config: TrainingConfig) -> None:
    """Log what there is to say of the data, what a run starts from, and how it trains."""
    for note in notes:
        LOG.info("%s", note)
    if config.kernel:
        LOG.info("%s: a kernel regression compares with the training crystals", origin)
        return
    rate = "none" if config.freeze_encoder else f"{config.learning_rate * config.encoder_rate:g}"
    LOG.info(
        "%s: at most %d epochs, %s atoms a step, learning rate %g (%s for the encoder), patience %d", origin,
        config.epochs, f"{config.batch_atoms:,}", config.learning_rate, rate, config.patience,
    )  # fmt: skip
