"""Options of `predict` on a screen: columns that are kept, elements, duplicates, and files of the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.checkpoints.registry import config_of_model
from crystalpredict.cli.output import path_of_result
from crystalpredict.cli.relaxed_cells import in_one_file
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.prediction.composition import Elements
    from crystalpredict.prediction.extra_columns import ExtraColumns
    from crystalpredict.prediction.hits import Hits
    from crystalpredict.prediction.pipeline import Pipeline


@dataclass(frozen=True)
class Screen:
    """Values of these options.

    Attributes:
        keep: of `--keep`.
        elements: which elements crystals may have.
        duplicates: whether rows name earlier ones with the same crystal.
        known: inputs with known crystals.
        jobs: reader processes for these.
        structures: folder or file of the structures of the rows.
        copies: folder of copies of their files.
        force: whether files of earlier runs may be replaced.
    """

    keep: str | None
    elements: Elements
    duplicates: bool
    known: list[str]
    jobs: int
    structures: Path | None
    copies: Path | None
    force: bool

    @classmethod
    def of(cls, ctx: typer.Context, *, needs_part: bool) -> Screen:
        """Return the values of the options of a command line; `needs_part`: the run is a shard, or may be resumed.

        Raises:
            UsageError: One is wrong, or does not go with another.
        """
        from crystalpredict.prediction.composition import Elements

        params = ctx.params
        elements = Elements.of(params["elements"], params["exclude_elements"], params["chemsys"])
        screen = cls(
            params["keep"], elements, params["duplicates"] or bool(params["known"]), params["known"] or [],
            params["jobs"], params["write_structures"], params["copy_to"], params["force"],
        )  # fmt: skip
        targets: dict[Path, str] = {}
        for name in ("write_structures", "copy_to", "write_relaxed"):
            option, target = f"--{name.replace('_', '-')}", params[name]
            if target and target.absolute() in targets:
                raise UsageError(f"{target}: for {targets[target.absolute()]}, too: give another name for {option}")
            if target:
                targets[target.absolute()] = option
        screen._refuse(params["inputs"] or (), replaced=screen.force or needs_part)
        return screen

    def _refuse(self, inputs: Sequence[str], *, replaced: bool) -> None:
        """Raise UsageError if the files of the hits cannot be written, or would replace others."""
        if self.structures:
            from crystalpredict.io.cell_writers import refuse_cells

            if in_one_file(self.structures):
                refuse_unwritable(self.structures, inputs)
            refuse_cells(self.structures, replace=replaced)
        if self.copies:
            from crystalpredict.io.copies import refuse_copies

            refuse_copies(self.copies, replace=replaced)

    def refuse_cached(self, folder: Path, *, cached: bool, relax: bool) -> None:
        """Raise UsageError if relaxed cells are needed, which rows from the cache do not have.

        Args:
            folder: of the model.
            cached: whether rows may come from the cache.
            relax: whether a potential relaxes the structures.
        """
        config = config_of_model(folder)
        if cached and not relax and config and config.unrelaxed and (self.duplicates or self.structures):
            option = "--write-structures" if self.structures else "--duplicates"
            raise UsageError(f"{option} does not go with --unrelaxed and --cache: rows from the cache have no cells")

    @property
    def facts(self) -> dict[str, Any]:
        """What rows depend on, as JSON values."""
        chosen = [
            sorted(self.elements.all_of),
            sorted(self.elements.none_of),
            sorted(map(sorted, self.elements.systems)),
        ]
        return {"elements": chosen, "structures": bool(self.structures), "copies": bool(self.copies)}

    def extra_columns(
        self, inputs: Sequence[str], columns: Sequence[str], structure_column: str | None, *, null: bool
    ) -> ExtraColumns:
        """Return the further columns of the rows, given those of values."""
        from crystalpredict.prediction.extra_columns import ExtraColumns
        from crystalpredict.prediction.kept import kept_columns
        from crystalpredict.prediction.selection import DUPLICATE_OF
        from crystalpredict.properties import OUTPUT_COLUMNS

        taken = (*OUTPUT_COLUMNS, *columns, *([DUPLICATE_OF] if self.duplicates else []))
        kept = kept_columns(self.keep, inputs, taken, structure_column, null=null)
        duplicates = None
        if self.duplicates:
            from crystalpredict.io.worker_pool import available_cores
            from crystalpredict.prediction.duplicates import Duplicates

            duplicates = Duplicates()
            if self.known:
                duplicates.add_known(self.known, self.jobs or available_cores(), structure_column)
        return ExtraColumns(kept, duplicates, keep_sources=bool(self.duplicates or self.structures or self.copies))

    def hits(
        self, pipeline: Pipeline, extra: ExtraColumns, interrupted: Callable[[], bool]
    ) -> AbstractContextManager[Hits] | None:
        """Return what writes the files of the hits; an `interrupted` run does not replace an earlier file."""
        if not (self.structures or self.copies):
            return None
        from crystalpredict.prediction.hits import hits_written

        structures = self.structures
        return hits_written(
            structures, self.copies, pipeline.properties, pipeline.intervals, tuple(extra.kinds), replace=self.force,
            final_path=(lambda: path_of_result(structures, interrupted=interrupted())) if structures else None,
        )  # fmt: skip
