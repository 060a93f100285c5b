"""`crystalpredict.predict`: predict the structures in files or Python objects in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalpredict.checkpoints.registry import cache_folder, find_model
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Inline
from crystalpredict.io.file_types import Frames
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import TableRow, sources_and_rows
from crystalpredict.io.table_structures import find_structure_column, other_cells, source_of_cell, text_of_structure
from crystalpredict.prediction.extra_columns import ExtraColumns
from crystalpredict.prediction.kept import NONE, kept_columns
from crystalpredict.prediction.orderings import refuse_orderings
from crystalpredict.prediction.pipeline import Pipeline
from crystalpredict.prediction.resume import Cursor, HandedOut
from crystalpredict.prediction.rows import Prediction, record
from crystalpredict.properties import OUTPUT_COLUMNS, TEXT_COLUMNS
from crystalpredict.stability.conventions import Convention

if TYPE_CHECKING:
    from pandas import DataFrame

    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.relaxation_by_potential import Relaxation
    from crystalpredict.properties import Property

ROWS_SHOWN = 10  # of a printed result


@dataclass(frozen=True)
class Finding:
    """How structures are found in the inputs: the arguments of `predict` with these names."""

    structure_column: str | None
    frames: Frames
    calculations: bool


class Predictions(list[Prediction]):
    """Rows of predictions, one for each structure, in the order of the inputs.

    Attributes:
        properties: The predicted properties, one or more columns each.
        intervals: Whether the rows have intervals.
        kept: Names of the columns of tables that the rows keep, whose values are in `row.extra`.
    """

    def __init__(
        self, rows: Iterable[Prediction], properties: Sequence[Property], *, intervals: bool, kept: Iterable[str] = ()
    ) -> None:
        super().__init__(rows)
        self.properties, self.intervals, self.kept = tuple(properties), intervals, tuple(kept)

    @property
    def failed(self) -> list[Prediction]:
        """The rows that have an error instead of values."""
        return [row for row in self if row.error]

    def to_frame(self) -> DataFrame:
        """Return the rows as a pandas DataFrame with the columns of `predict -o FILE.csv`.

        Rows with an error have NaN as values. Warnings are joined by `; `. A missing formula or error is an empty text.
        """
        import pandas

        records = [record(row, self.properties, self.intervals, self.kept) for row in self]
        for fields in records:
            fields["warnings"] = "; ".join(fields["warnings"])  # type: ignore[arg-type]
            fields["formula"], fields["error"] = fields["formula"] or "", fields["error"] or ""
        names = list(record(Prediction("", 0, "", None), self.properties, self.intervals, self.kept))
        frame = pandas.DataFrame.from_records(records, columns=names)
        texts = {"path", "formula", "warnings", "error", *TEXT_COLUMNS, *self.kept}
        numbers = [name for name in names if name not in texts]
        return frame.astype(dict.fromkeys(numbers, float) | {"n_atoms": "Int64", "index": int})

    def __repr__(self) -> str:
        """Return the numbers of rows and failures, and the first rows as a table."""
        count = f"{len(self)} predictions, {len(self.failed)} failed"
        return f"{count}\n{self.to_frame().head(ROWS_SHOWN).to_string()}" if self else count

    def _repr_html_(self) -> str:
        from crystalpredict.prediction.notebook import html_of_rows

        return html_of_rows(self, self.properties, intervals=self.intervals, shown=ROWS_SHOWN)


def predict(  # noqa: PLR0913 - a keyword for each option of the command
    inputs: Any, model: str | PathLike[str] | None = None, targets: Sequence[str] = (), *, unrelaxed: bool = False,
    relax: str | Relaxation | None = None, device: str = "auto", jobs: int = 1, cache: str | None = None,
    structure_column: str | None = None, convention: str = "mp2018", frames: str = "last",
    calculations: bool = False, orderings: int = 0, keep: str | Sequence[str] = NONE,
) -> Predictions:  # fmt: skip
    """Predict properties of crystals.

    Args:
        inputs: What `crystalpredict predict` takes (names of files, patterns, directories, archives, tables, `@lists`),
            or pymatgen structures and ASE atoms, or a pandas Series or DataFrame of any of these, of texts of CIFs or
            POSCARs, or of pymatgen's dictionaries; one of these, or a mixture.
        model: Name of a bundled or installed model, or a checkpoint folder; None: the default.
        targets: Names of properties; none: all of the model.
        unrelaxed: Whether the structures are not relaxed: the crystals that they relax to are predicted.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        jobs: Reader processes; 0: one for each core. Each starts a new interpreter, which is worthwhile for hundreds
            of files.
        cache: Folder where predictions are kept and looked up, or `auto` for the user's cache folder.
        structure_column: Column of a table or a DataFrame that holds the structures; None: the usual names.
        convention: Of formation energies and hulls: that of the Materials Project of 2018 or 2020, `mp2018` or
            `mp2020`, or `uncorrected`.
        relax: Potential, or Relaxation, by which structures are relaxed before they are predicted; with `unrelaxed`
            from the crystals that it predicts. `cache` then keeps the relaxed structures, not the rows.
        frames: Whether a trajectory, or the steps of a calculation, gives its `last` structure or `all`.
        calculations: Whether directories give the outputs of calculations too, one file for each calculation.
        orderings: Number of ordered supercells of each disordered crystal that are predicted beside the average site, 1
            to 100, in columns such as `bandgap_orderings_mean_eV`; 0: none.
        keep: Columns to keep in the rows, of DataFrames and of tables that are named as files: a list of names or
            names with commas between them, `all` or `none`.

    Returns:
        One row for each structure; one that cannot be predicted has an `error`.

    Raises:
        UsageError: An input names no structures, or an argument is invalid.
        CheckpointError: The model is damaged.
    """
    refuse_orderings(orderings, cache=cache, relax=relax)
    relaxation = _relaxation(relax, cache, unrelaxed=unrelaxed)
    folder = find_model(model, unrelaxed=unrelaxed and not relaxation)
    names = [targets] if isinstance(targets, str) else targets
    pipeline = Pipeline(
        folder,
        tuple(names),
        device,
        jobs=jobs,
        convention=Convention.of(convention),
        relaxation=relaxation,
        orderings=orderings,
    )
    if frames not in {*Frames}:
        raise UsageError(f"frames={frames!r}: give 'last' or 'all'")
    find = Finding(structure_column, Frames(frames), calculations)
    extra = ExtraColumns()
    if keep != NONE:
        inputs = list(_leaves(inputs))
        files = [fspath(each) for each in inputs if isinstance(each, str | PathLike)]
        tables = [_other_cells(each, _column_of(each, find)) for each in inputs if _is_frame(each)]
        taken = (*OUTPUT_COLUMNS, *pipeline.columns)
        extra = ExtraColumns(kept_columns(keep, files, taken, structure_column, others=tables))
    rows = _rows(_items(inputs, find), pipeline, None if relaxation else cache, extra)
    return Predictions(rows, pipeline.properties, intervals=pipeline.intervals, kept=extra.kinds)


def _relaxation(relax: str | Relaxation | None, cache: str | None, *, unrelaxed: bool) -> Relaxation | None:
    """Return the relaxation of the arguments of `predict`."""
    if relax is None:
        return None
    from crystalpredict.prediction.relaxation_by_potential import Relaxation

    own = Relaxation(relax) if isinstance(relax, str) else relax
    folder = cache_folder(cache) if cache else own.cache
    return replace(own, predicted_start=own.predicted_start or unrelaxed, cache=folder)


class _FrameRow(NamedTuple):
    """A structure in a row of a DataFrame, with the row's other cells."""

    structure: Any
    cells: Mapping[str, Any]


def _is_object(item: Any) -> bool:
    """Whether an item is a structure rather than a source."""
    return not isinstance(item, str | Inline | TableRow)


def _rows(items: Iterable[Any], pipeline: Pipeline, cache: str | None, extra: ExtraColumns) -> Iterator[Prediction]:
    """Yield the predictions of sources and structures, in their order."""
    predictor: Predictor | None = None
    for objects, own in groupby(items, _is_object):
        if objects:
            with pipeline.open(()) as (load, _):
                predictor = predictor or load()
                given = [each if isinstance(each, _FrameRow) else _FrameRow(each, {}) for each in own]
                for each, row in zip(given, predictor.predict([each.structure for each in given]), strict=True):
                    yield extra.added(row, HandedOut((row.path, row.index), each.cells, None)) if extra else row
            continue
        cursor = Cursor(own)
        with ExitStack() as stack:
            rows: Iterator[Prediction]
            if predictor is None:
                opened = pipeline.windows_with_cache(cursor, cache_folder(cache)) if cache else pipeline.windows(cursor)
                rows = chain.from_iterable(stack.enter_context(opened))
            else:
                _, reader = stack.enter_context(pipeline.open(cursor))
                rows = predictor.stream(reader.entries(), partial(getattr, reader, "busy"))
            for row in rows:
                cursor.passed(row.path, row.index)
                yield extra.added(row, cursor.current) if extra else row


def _leaves(inputs: Any) -> Iterator[Any]:
    """Yield what is in an input that may be a list of inputs, and lists of these."""
    nested = isinstance(inputs, Iterable) and not isinstance(inputs, str | bytes | dict | PathLike)
    if not nested or hasattr(inputs, "iloc") or _is_structure(inputs):
        yield inputs
        return
    for each in inputs:
        yield from _leaves(each)


def _items(inputs: Any, find: Finding) -> Iterator[Any]:
    """Yield a source or a structure for each thing that may be predicted, in order."""
    for item in _leaves(inputs):
        if _is_frame(item):
            column = _column_of(item, find)
            for each, cells in zip(_cells(item[column], column), _other_cells(item, column), strict=True):
                yield _FrameRow(each, cells) if _is_object(each) else TableRow(each, cells)
        elif hasattr(item, "iloc"):  # a Series
            yield from _cells(item, str(item.name or "the Series"))
        elif isinstance(item, str | PathLike):
            names = expand([fspath(item)], calculations=find.calculations)
            yield from sources_and_rows(
                names, find.structure_column, frames=find.frames, calculations=find.calculations
            )
        elif isinstance(item, dict):
            yield Inline("dictionary", text_of_structure(item))
        elif _is_structure(item):
            yield item
        else:
            raise UsageError(f"an input of type {type(item).__name__}: give names of files, structures or a DataFrame")


def _is_frame(item: Any) -> bool:
    """Whether an item is a DataFrame, without importing pandas."""
    return hasattr(item, "columns") and hasattr(item, "iloc")


def _column_of(frame: Any, find: Finding) -> str:
    """Return the column of a DataFrame with the structures."""
    return find_structure_column("the DataFrame", list(map(str, frame.columns)), find.structure_column)


def _other_cells(frame: Any, column: str) -> list[dict[str, Any]]:
    """Return the cells of a DataFrame besides its structures, those of a row each, as types of Python."""
    cells = frame.drop(columns=column).astype(object)
    if not len(cells.columns):  # of which pandas gives no rows
        return [{}] * len(frame)
    cells.columns = list(map(str, cells.columns))
    return [other_cells(row, column) for row in cells.where(cells.notna(), None).to_dict("records")]


def _is_structure(item: Any) -> bool:
    """Whether an item is a pymatgen structure or ASE Atoms, which are iterable too."""
    return isinstance(item, bytes) or any(hasattr(item, name) for name in ("sites", "get_cell"))


def _cells(column: Any, name: str) -> Iterator[Any]:
    """Yield a source or a structure for each cell of a Series, named by its index."""
    for label, cell in column.items():
        if _is_structure(cell):
            yield cell
        else:
            where = f"{name}#{label}"
            source = source_of_cell(cell, name, Path(), where)
            yield source or Inline(where, error=f"no structure in {name}")
