"""`crystalpredict finetune`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalpredict.cli.completion import model_names
from crystalpredict.cli.interrupts import handled
from crystalpredict.cli.options import (
    DATA,
    INPUT,
    MODEL,
    RESUMING,
    SPLIT,
    TRAINING,
    Device,
    Jobs,
    MemoryPerProcess,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
    between,
    given,
    output_option,
)
from crystalpredict.cli.progress import with_progress
from crystalpredict.cli.startup import limits_of
from crystalpredict.cli.tally import EXIT_INTERRUPTED
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.io.entries import Entry
    from crystalpredict.training.result import FinetuneResult
    from crystalpredict.training.run_folder import Progress
    from crystalpredict.training.trainer import Trainer

# they do not change the weights
RESUME_OPTIONS = {"resume", "device", "jobs", "timeout_per_file", "memory_per_process", "quiet"}


class SplitBy(StrEnum):
    """Ways to split rows into training, validation and test set."""

    formula = "formula"
    random = "random"
    column = "column"


class LossName(StrEnum):
    """Losses of standardised labels."""

    l1 = "l1"
    mse = "mse"
    huber = "huber"
    log = "log"


class Part(StrEnum):
    """Parts of the network."""

    encoder = "encoder"


def finetune(
    ctx: typer.Context,
    data: Annotated[Path | None, DATA] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="COLUMN",
            show_default=False,
            rich_help_panel=INPUT,
            help="Column to learn; repeat it for several. Default: every column that is a known property.",
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Default: finetuned-DATA.", "DIR")] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT",
            show_default=False,
            rich_help_panel=INPUT,
            help="Of a new property: one for all, or one for each target.",
        ),
    ] = None,
    log: Annotated[
        bool,
        typer.Option("--log", rich_help_panel=INPUT, help="Learn log10 of new properties; labels must be positive."),
    ] = False,
    structure_column: StructureColumn = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|PATH",
            show_default=False,
            autocompletion=model_names,
            rich_help_panel=MODEL,
            help="The model to start from.",
        ),
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", rich_help_panel=MODEL, help="Start from random weights instead.")
    ] = False,
    directions: Annotated[
        bool,
        typer.Option(
            "--directions",
            rich_help_panel=MODEL,
            help="Add directions to the network (CrystalFramer): more accurate, six times the time.",
        ),
    ] = False,
    freeze: Annotated[
        Part | None,
        typer.Option(
            show_default=False, rich_help_panel=MODEL, help="Part of the network whose weights stay as they are."
        ),
    ] = None,
    kernel: Annotated[
        bool,
        typer.Option(
            "--kernel",
            rich_help_panel=MODEL,
            help="Train nothing, but compare crystals with the training set by features of the model: in seconds, and "
            "more accurate with some hundred labels.",
        ),
    ] = False,
    split_by: Annotated[
        SplitBy,
        typer.Option(
            metavar="HOW",
            rich_help_panel=SPLIT,
            help="formula: polymorphs stay together; random; column: as the column split has it, with train, val and "
            "test.",
        ),
    ] = SplitBy.formula,
    validation: Annotated[
        float,
        typer.Option(
            callback=between(0.001, 0.9),
            metavar="X",
            rich_help_panel=SPLIT,
            help="Fraction in the validation set, which chooses the epoch and calibrates intervals.",
        ),
    ] = 0.1,
    test: Annotated[
        float,
        typer.Option(
            callback=between(0, 0.9), metavar="X", rich_help_panel=SPLIT, help="Fraction held out for the final test."
        ),
    ] = 0.1,
    members: Annotated[
        int,
        typer.Option(
            callback=between(1, 100),
            metavar="N",
            rich_help_panel=MODEL,
            help="Train N networks with different seeds; the model is their mean, which is more accurate.",
        ),
    ] = 1,
    kfold: Annotated[
        int,
        typer.Option(
            callback=between(0, 1e12),
            metavar="K",
            rich_help_panel=SPLIT,
            help="Train K models, each tested on another K-th of the rows.",
        ),
    ] = 0,
    train_fraction: Annotated[
        float,
        typer.Option(
            callback=between(0.001, 1),
            metavar="X",
            rich_help_panel=SPLIT,
            help="Use this fraction of the training set only.",
        ),
    ] = 1.0,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve",
            rich_help_panel=SPLIT,
            help="Train on an eighth, a quarter, a half and all of the training set; errors go to learning-curve.csv.",
        ),
    ] = False,
    epochs: Annotated[
        int,
        typer.Option(
            callback=between(0, 1e12),
            metavar="N",
            rich_help_panel=TRAINING,
            help="0: chosen from the size of the data.",
        ),
    ] = 0,
    learning_rate: Annotated[
        float, typer.Option(callback=between(0, 1e12), metavar="X", rich_help_panel=TRAINING, help="0: chosen.")
    ] = 0.0,
    patience: Annotated[
        int,
        typer.Option(
            callback=between(-1, 1e12),
            metavar="N",
            rich_help_panel=TRAINING,
            help="Epochs without a better validation error before it ends; -1: chosen.",
        ),
    ] = -1,
    batch_atoms: Annotated[
        int,
        typer.Option(
            callback=between(0, 1e12),
            metavar="N",
            rich_help_panel=TRAINING,
            help="Atoms of an optimiser step; 0: chosen by the size of the data.",
        ),
    ] = 0,
    loss: Annotated[
        LossName,
        typer.Option(
            metavar="NAME", rich_help_panel=TRAINING, help="Loss of the standardised labels: l1, mse, huber or log."
        ),
    ] = LossName.l1,
    seed: Annotated[
        int,
        typer.Option(
            callback=between(0, 2**32 - 1),
            metavar="N",
            rich_help_panel=TRAINING,
            help="Seed of the split, of the order of the crystals and of new weights.",
        ),
    ] = 123,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            rich_help_panel=RESUMING,
            help="Continue a run that was interrupted or killed.",
        ),
    ] = None,
    device: Device = "auto",
    jobs: Jobs = 0,
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on your own labelled crystals, from a bundled one or from scratch.

    Example: crystalpredict finetune mine.csv --target my_property --unit eV

    DIR becomes a checkpoint folder for `predict --model DIR`.

    Several GPUs: torchrun --nproc-per-node N -m crystalpredict finetune ...

    Exit code 0: done; 1: damaged model, no room; 2: wrong usage or table; 130: interrupted.
    """  # fmt: skip
    if (data is None) == (resume is None):
        raise UsageError("name either a table of labelled crystals or a run to continue (--resume DIR)")
    if resume and (others := sorted(given(ctx) - RESUME_OPTIONS)):
        raise UsageError(f"--resume keeps the options of the run: leave out --{others[0].replace('_', '-')}")
    from crystalpredict.io.worker_pool import available_cores
    from crystalpredict.training import distributed
    from crystalpredict.training.learning_curve import train_learning_curve
    from crystalpredict.training.options import FinetuneOptions
    from crystalpredict.training.run import default_folder, train_run
    from crystalpredict.training.start import start_run
    from crystalpredict.training.trainer import Interrupted

    quiet = quiet or distributed.rank() > 0
    readers = jobs or available_cores()
    folder = resume or output or default_folder(data)
    command = ["crystalpredict", *sys.argv[1:]]
    limits = limits_of(timeout_per_file, memory_per_process)

    def reading(entries: Iterable[Entry], total: int) -> Iterable[Entry]:
        return with_progress(entries, total, lambda entry: entry.index == 0, quiet=quiet)

    def start(own: Path, options: FinetuneOptions) -> None:
        start_run(data, own, options, model, command, readers, limits, reading)

    with messages(quiet=quiet), distributed.group(device) as where:

        def train(own: Path) -> FinetuneResult:
            return train_run(own, where, readers, lambda training: watched(training, quiet=quiet))

        try:
            if data is None:
                result = train(folder)
            else:
                options = FinetuneOptions(
                    target=target or (), unit=unit or (), log=log, structure_column=structure_column, scratch=scratch,
                    directions=directions, freeze=freeze.value if freeze else None, kernel=kernel,
                    split_by=split_by.value,
                    validation=validation if "validation" in given(ctx) else None,
                    test=test if "test" in given(ctx) else None, train_fraction=train_fraction, members=members,
                    kfold=kfold, epochs=epochs, learning_rate=learning_rate, patience=patience,
                    batch_atoms=batch_atoms, loss=loss.value, seed=seed,
                )  # fmt: skip
                if learning_curve:
                    *_, result = train_learning_curve(data, folder, options, start, train, base=model)
                else:
                    if not distributed.rank():
                        start(folder, options)
                    distributed.wait_for_all()
                    result = train(folder)
        except Interrupted:
            again = "the same command" if learning_curve else f"crystalpredict finetune --resume {folder}"
            if not quiet:
                say(f"interrupted, nothing lost: continue with {again}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if not distributed.rank():
            typer.echo(str(result.folder))


@contextmanager
def watched(training: Trainer, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Report the progress of the training; Ctrl-C or SIGTERM make it save its state and stop."""

    def stop(*_: object) -> None:
        training.interrupted = True

    with (
        handled(stop),
        progress_reporter({prop.name: prop.unit for prop in training.properties}, quiet=quiet) as report,
    ):
        yield report


@contextmanager
def progress_reporter(units: dict[str, str], *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that reports progress: a live bar on a terminal, and a line for each best epoch so far."""
    if quiet:
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    begun, measured = list[float](), ""
    columns = (TextColumn("training"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("training", total=1.0, text="")

        def report(progress: Progress) -> None:
            nonlocal measured
            begun.append(progress.done)
            share = progress.done - begun[0]
            left = progress.seconds * (1 - progress.done) / share if share > 0 else 0.0
            text = f"loss {progress.loss:.4f}, at most {time.strftime('%H:%M:%S', time.gmtime(left))} left"
            if progress.errors_in_unit:
                errors = (f"{name} {error:.4g} {units[name]}" for name, error in progress.errors_in_unit.items())
                measured = ", ".join(error.strip() for error in errors)
            if progress.step:
                bar.update(task, completed=progress.done, text=f"{text}\nvalidation error {measured}")
            if progress.best:
                when, rest = (f"epoch {progress.epoch}", f"; {text}") if progress.epoch else ("before training", "")
                say(f"{when}: validation error {measured}{rest}")

        yield report
