"""`crystalpredict.finetune`: a table of labelled crystals to a model, in one call, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict._files import write_json
from crystalpredict.io.worker_pool import processes_of
from crystalpredict.training import distributed
from crystalpredict.training.finetune import draw_losses, figures_of, finish, mean_of_folds, open_trainings, run_folders
from crystalpredict.training.model_card import describe_saved_weights
from crystalpredict.training.options import FinetuneOptions
from crystalpredict.training.plan import Plan
from crystalpredict.training.result import FinetuneResult
from crystalpredict.training.run_folder import Progress
from crystalpredict.training.start import start_run
from crystalpredict.training.trainer import Trainer

if TYPE_CHECKING:
    from pandas import DataFrame

LOG = logging.getLogger(__name__)
SAVE_EVERY = 30.0  # seconds between two states of a training

Report = Callable[[Progress], None]
Watch = Callable[[Trainer], AbstractContextManager[Report]]


def finetune(
    data: str | PathLike[str] | DataFrame | dict[str, Sequence[Any]] | Sequence[dict[str, Any]],
    options: FinetuneOptions | None = None, *, model: str | PathLike[str] | None = None,
    output: str | PathLike[str] | None = None, device: str = "auto", jobs: int = 1, progress: Report | None = None,
) -> FinetuneResult:  # fmt: skip
    """Train a model on labelled crystals, from a bundled one or from random weights.

    What happens is logged under `crystalpredict`. A run that ends early, as by Ctrl-C, goes on with
    `resume_finetuning(output)`.

    Args:
        data: Table of structures and labels (CSV, Parquet, JSON lines, JSON), a folder with `id_prop.csv`, or a
            DataFrame: a column of structures (texts, names of files, pymatgen structures, ASE atoms) and columns of
            labels. A dictionary of columns, or a list of dictionaries, is taken as a DataFrame.
        options: What to learn and how; None: the defaults, which learn every column that is a known property.
        model: Name of a model or a checkpoint folder to start from; None: the default.
        output: Folder for the model, which must not be there or be empty; None: `finetuned-DATA`.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        jobs: Processes that read structures and compute neighbour lists; 0: one for each core.
        progress: Called every 20 steps and after each epoch.

    Returns:
        The folder of the model, the model, and its errors on the validation and the test set.

    Raises:
        UsageError: The options contradict each other or the table, or the folder is taken.
        DataError: The table cannot be trained on.
        CheckpointError: The model to start from is damaged.
    """
    chosen = options or FinetuneOptions()
    folder = default_folder(data) if output is None else Path(output)
    cores = processes_of(jobs)
    with distributed.group(device) as where:
        if not distributed.rank():
            named = repr(str(data)) if isinstance(data, str | PathLike) else type(data).__name__
            start_run(data, folder, chosen, model, [f"crystalpredict.finetune({named}, {chosen})"], cores)
        distributed.wait_for_all()
        return train_run(folder, where, cores, calling(progress))


def resume_finetuning(
    folder: str | PathLike[str], *, device: str = "auto", jobs: int = 1, progress: Report | None = None
) -> FinetuneResult:
    """Continue a fine-tuning that was interrupted or killed; the model is that of an uninterrupted run.

    Args:
        folder: Folder of the run, the `output` of `finetune`.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        jobs: Processes that compute neighbour lists; 0: one for each core.
        progress: As for `finetune`.

    Returns:
        What `finetune` returns.

    Raises:
        UsageError: The folder holds no run, or the model that it started from is another one now.
    """
    with distributed.group(device) as where:
        return train_run(Path(folder), where, processes_of(jobs), calling(progress))


def default_folder(data: Any) -> Path:
    """Return the folder of a run that is given none: `finetuned-` and the name of the table without its suffix."""
    name = Path(data).name.split(".")[0] if isinstance(data, str | PathLike) else ""
    return Path(f"finetuned-{name}" if name else "finetuned")


def calling(progress: Report | None) -> Watch:
    """Return a watch over trainings that calls a function with their progress."""

    @contextmanager
    def watch(training: Trainer) -> Iterator[Report]:
        yield progress or (lambda found: None)

    return watch


def train_run(folder: Path, device: str, jobs: int, watch: Watch) -> FinetuneResult:
    """Continue the training of the folds of a run, or of its one model; write and log the results.

    Args:
        folder: of the run.
        device: name of the device to train on.
        jobs: processes that compute neighbour lists.
        watch: opens a context around each training, and returns the function that is called with its progress.

    Raises:
        Interrupted: the watch stopped a training; its state is saved.
    """
    plan = Plan.load(folder)
    results = []
    for own in run_folders(folder, plan):
        if plan.folds:
            LOG.info("%s of %d", own.name, plan.folds)
        trainings = []
        for number, training in enumerate(open_trainings(own, plan, device, jobs), start=1):
            if plan.members > 1:
                LOG.info("member %d of %d", number, plan.members)
            if not training.finished:
                with watch(training) as report:
                    training.run(report, save_every=SAVE_EVERY)
            trainings.append(training)
        results.append(FinetuneResult(own, finish(trainings, own, plan)))
        if not plan.training.kernel:
            if not distributed.rank():
                draw_losses(own, plan)
            LOG.info("%s", describe_saved_weights([training.final_epoch for training in trainings]))
        for part, name, scale, figures in figures_of(results[-1].metrics):
            low, high = figures["interval"]
            interval = f" [{low:.4g}, {high:.4g}]" if isfinite(low) else ""  # of one crystal there is none
            error = f"{figures['mae']:.4g} {scale}".rstrip()
            LOG.info("%s: %s %s%s on %s", part, name, error, interval, f"{figures['count']:,}")
    if not plan.folds:
        return results[0]
    summary = mean_of_folds([result.metrics for result in results])
    if not distributed.rank():
        write_json(folder / "metrics.json", summary)
    whole = FinetuneResult(folder, summary, tuple(results))
    for line in whole.summary:
        LOG.info("%s", line)
    return whole
