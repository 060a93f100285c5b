"""Evaluate models on a labelled table: find the models, read the table, and predict its rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import tee
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.checkpoints.registry import find_model
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.data.labels import LabelledTable
    from crystalpredict.evaluation.evaluate import ModelPredictions
    from crystalpredict.evaluation.scores import Report
    from crystalpredict.io.worker_pool import Limits
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A requested checkpoint.

    Attributes:
        name: in the report.
        folder: of the checkpoint.
        properties: that it predicts.
        radius: of its neighbour lists, Å.
        vectors: whether its neighbour lists have the vectors of their edges.
    """

    name: str
    folder: Path
    properties: tuple[Property, ...]
    radius: float
    vectors: bool

    @property
    def lists(self) -> tuple[float, bool]:
        """Kind of its neighbour lists: radius, Å, and whether they have vectors."""
        return self.radius, self.vectors


def find_models(first: str | None, others: Sequence[str], *, unrelaxed: bool = False) -> list[Model]:
    """Return the models by unique names: that of the folder, or the requested one if two folders share theirs.

    Args:
        first: name or folder of the model; None: the default.
        others: names or folders of the models that it is compared with.
        unrelaxed: whether the first must be, and the default is, a model for unrelaxed structures.

    Raises:
        UsageError: there is no such model, or two are the same.
    """
    from crystalpredict.checkpoints.files import read_config

    folders = [find_model(first, unrelaxed=unrelaxed), *map(find_model, others)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("--compare names a model twice, or the one that it is compared with")
    names = [folder.resolve().name for folder in folders]
    models = []
    for name, asked, folder in zip(names, (first, *others), folders, strict=True):
        config = read_config(folder)
        properties = tuple(under_all_names(prop.plain) for prop in config.properties)
        unique = name if names.count(name) == 1 else asked or name
        models.append(Model(unique, folder, properties, config.model.radius, config.model.vectors))
    return models


def under_all_names(prop: Property) -> Property:
    """Return a model's property with the aliases that it had in training and those that it has now."""
    from crystalpredict.properties import PROPERTIES

    now = next((known.aliases for known in PROPERTIES if known.identity == prop.identity), ())
    return replace(prop, aliases=tuple(dict.fromkeys((*prop.aliases, *now))))


def read_table(
    data: Path, models: Sequence[Model], target: Sequence[str] | None, structure_column: str | None, split: str | None
) -> LabelledTable:
    """Return the labelled rows to predict.

    Args:
        data: path of the table.
        models: the models, of which the first decides what is compared.
        target: values of `--target`, each `name` or `name=column`, or several with commas.
        structure_column: column of the structures; None: the usual names.
        split: only rows with this in the column `split`, or of this part of the run that made the first model; None:
            all.

    Raises:
        UsageError: the table or an argument is invalid.
    """
    first, *others = models
    parts = [part.partition("=") for option in target or [] for part in option.split(",") if part.strip()]
    if target and not parts:
        raise UsageError("--target names no property")
    from crystalpredict.data.labels import check_column_unit, logarithm_of, read_labelled
    from crystalpredict.evaluation.evaluate import rows_of_split
    from crystalpredict.evaluation.run_splits import with_split_of_run
    from crystalpredict.prediction.derived import derivable, find_target
    from crystalpredict.properties import DEFORMATION, STABILITY, match_property

    asked: set[str] = set()
    columns: list[str] = []
    known = list(first.properties)
    renamed: dict[str, Property] = {}
    for name, _, column in parts:
        if found := match_property(name, derivable(first.properties)):
            origin = "bulk and shear modulus: evaluate these"
            if found in STABILITY:
                origin = "the formation energy: evaluate that, or e_above_hull"
            if found in DEFORMATION:
                origin = "the way to the relaxed crystal, of which no labels are read: evaluate volume_change"
            raise UsageError(f"--target {name}: derived from {origin}")
        prop = find_target(name, first.properties)
        check_column_unit(column, prop)
        if prop.name in asked:
            raise UsageError(f"--target names {prop.name} twice: give it one column")
        asked.add(prop.name)
        columns.append(column.strip() or prop.name)
        if column.strip():  # the property goes by the column's name alone while the table is read
            alias = replace(prop, name=logarithm_of(column, [prop]) or column.strip(), unit_in_name="", aliases=())
            known[known.index(prop)], renamed[alias.name] = alias, prop
    for column in columns:
        if columns.count(column) > 1:
            raise UsageError(f"--target takes the labels of two properties from {column}: give each its own column")
    table = read_labelled(data, columns, structure_column=structure_column, known=known)
    known_as = ((prop.name, renamed[prop.name]) for prop in table.properties if prop.name in renamed)
    notes = [f"{column} is {prop.name}" + f" in {prop.unit}" * bool(prop.unit) for column, prop in known_as]
    properties = tuple(renamed.get(prop.name, prop) for prop in table.properties)
    table = replace(table, properties=properties, notes=(*table.notes, *notes))
    for other in others:
        if not shared(table, other):
            labels = ", ".join(prop.column for prop in table.properties)
            raise UsageError(f"--compare {other.name}: it predicts nothing of what is compared ({labels})")
    table = with_split_of_run(table, first.folder, split)
    return table if split is None else rows_of_split(table, split)


def shared(table: LabelledTable, model: Model) -> list[str]:
    """Return the names of the table's properties that the model predicts in the same unit."""
    columns = {prop.column for prop in model.properties}
    return [prop.name for prop in table.properties if prop.column in columns]


def _targets(table: LabelledTable, model: Model) -> list[str]:
    """Return the names of the properties to predict: for energies above hull, also that by the network alone."""
    from crystalpredict.prediction.derived import derivable
    from crystalpredict.properties import E_ABOVE_HULL, HULL_BY_NETWORK

    names = shared(table, model)
    alone = [prop.name for prop in derivable(model.properties) if prop.column == HULL_BY_NETWORK]
    return [*names, *(alone if E_ABOVE_HULL in names else [])]


def predict_rows(
    table: LabelledTable, models: Sequence[Model], device: str = "auto", jobs: int = 1, limits: Limits | None = None,
    watch: Callable[[Iterable[tuple[Prediction, ...]]], Iterable[tuple[Prediction, ...]]] = iter,
) -> list[ModelPredictions]:  # fmt: skip
    """Return the predictions of each model for the rows of a table.

    Structures are read once for all models with the same neighbour lists.

    Args:
        table: labelled rows.
        models: the models, of which the first decides what is compared.
        device: name of the device.
        jobs: reader processes.
        limits: of reading one row.
        watch: wraps the iterator of predictions, a tuple of one for each model.
    """
    from crystalpredict.evaluation.evaluate import collect_predictions
    from crystalpredict.io.reader import Reader

    kinds = [model.lists for model in models]
    with ExitStack() as stack:
        # workers start before torch is imported: they are small then, and read meanwhile
        readers = {
            (radius, vectors): stack.enter_context(Reader(table.sources, radius, jobs, vectors=vectors, limits=limits))
            for radius, vectors in sorted(set(kinds))
        }
        from crystalpredict.checkpoints.registry import weights_sha256
        from crystalpredict.prediction.predictor import load_model

        copies = {kind: list(tee(reader.entries(), kinds.count(kind))) for kind, reader in readers.items()}
        predictors = [load_model(model.folder, device, _targets(table, model)) for model in models]
        names = ", ".join(model.name for model in models)
        LOG.info("model %s, device %s, %s rows", names, predictors[0].device, f"{len(table.sources):,}")
        # models take turns, a window of crystals each, so that few are in memory
        entries = [copies[kind].pop() for kind in kinds]
        if len(models) == 1:
            streams = [predictors[0].stream(entries[0], lambda: readers[kinds[0]].busy)]
        else:  # several would take one another's threads
            streams = [predictor.stream(some) for predictor, some in zip(predictors, entries, strict=True)]
        answers = list(watch(zip(*streams, strict=True)))
    columns = [prop.column for prop in table.properties]
    return [
        collect_predictions(model.name, weights_sha256(model.folder), columns, [row[number] for row in answers])
        for number, model in enumerate(models)
    ]


def evaluate(
    data: str | PathLike[str], model: str | None = None, targets: Sequence[str] = (), *, compare: Sequence[str] = (),
    structure_column: str | None = None, split: str | None = None, device: str = "auto", jobs: int = 1,
) -> Report:  # fmt: skip
    """Measure the errors of models on labelled crystals.

    Args:
        data: Table of structures and labels (CSV, Parquet, JSON lines, JSON), or a folder with `id_prop.csv`.
        model: Name of a model or a checkpoint folder; None: the default.
        targets: Properties to compare, as `--target` has them (`bandgap`, `bandgap=my_column`); none: all that the
            table has labels of.
        compare: Other models, compared with the first on the rows that all of them predict.
        structure_column: Column that holds the structures; None: the usual names.
        split: Only rows with this in the column `split`; without that column, for a fine-tuned model and the table
            it was trained on, rows of this part of its run.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        jobs: Processes that read structures; 0: one for each core.

    Returns:
        The scores, and which rows were not predicted and why.

    Raises:
        UsageError: An argument makes no sense.
        DataError: The table has no row that can be used.
        CheckpointError: A model is damaged.
    """
    from crystalpredict.evaluation.evaluate import evaluate as scored
    from crystalpredict.io.worker_pool import processes_of

    models = find_models(model, compare)
    table = read_table(Path(data), models, targets, structure_column, split)
    return scored(table, predict_rows(table, models, device, processes_of(jobs)))
