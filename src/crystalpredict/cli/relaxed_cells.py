"""`--relax` and `--write-relaxed` of `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.checkpoints.registry import cache_folder, config_of_model
from crystalpredict.cli.options import given
from crystalpredict.cli.output import path_of_result
from crystalpredict.cli.terminal import say
from crystalpredict.errors import StructureError, UsageError

if TYPE_CHECKING:
    from crystalpredict.io.cell_writers import CellWriter
    from crystalpredict.prediction.relaxation_by_potential import Relaxation
    from crystalpredict.prediction.rows import Prediction


def in_one_file(target: Path) -> bool:
    """Whether a target of cells is a file for all of them rather than a folder."""
    from crystalpredict.io import cell_writers

    return cell_writers.in_one_file(target)


def relaxation_of(
    ctx: typer.Context, folder: Path, force: float, steps: int, seconds: float, cache: str | None
) -> Relaxation | None:
    """Return how --relax and --unrelaxed relax the structures for the model in a folder; None without --relax."""
    potential, given_names = ctx.params["relax"], given(ctx)
    if potential is None:
        if without := {"relax_force", "relax_steps", "relax_seconds"} & given_names:
            raise UsageError(f"--{min(without).replace('_', '-')} needs --relax")
        return None
    config = config_of_model(folder)
    if config and config.unrelaxed:
        raise UsageError(f"model {folder.name} is for structures that are not relaxed: leave out --model, or --relax")
    from crystalpredict.prediction.relaxation_by_potential import Relaxation

    kept = cache_folder(cache) if cache else None
    return Relaxation(potential, force, steps, seconds, ctx.params["unrelaxed"], kept)


def refuse_to_write_relaxed(
    target: Path, folder: Path, inputs: Sequence[str], *, relax: bool, cached: bool, replaced: bool
) -> None:
    """Raise UsageError if there are no relaxed cells, or if they cannot be written to a target."""
    from crystalpredict.io.cell_writers import refuse_cells

    config = config_of_model(folder)
    if not relax and config and not config.unrelaxed:
        raise UsageError("--write-relaxed needs --unrelaxed or --relax")
    if cached and not relax:
        raise UsageError("--write-relaxed does not go with --cache: rows from the cache have no cells")
    if in_one_file(target):
        refuse_unwritable(target, inputs)
    refuse_cells(target, replace=replaced)


def cells_of(target: Path, interrupted: Callable[[], bool]) -> AbstractContextManager[CellWriter]:
    """Return the writer of relaxed cells; an `interrupted` run does not replace an earlier file."""
    from crystalpredict.io.cell_writers import cell_writer

    return cell_writer(target, lambda: path_of_result(target, interrupted=interrupted()))


def is_cell_written(write: CellWriter, row: Prediction) -> bool:
    """Write the relaxed cell of a row, if it has one; print why it cannot be written, and return False then."""
    try:
        if row.relaxed:
            write(row.path, row.index, row.relaxed)
    except StructureError as error:
        say(f"{row.path}: no relaxed cell: {error}")
        return False
    return True
