"""Learning curve of a fine-tuning: the errors of models that were trained on more and more of the crystals."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from crystalpredict._files import write_atomically, write_json
from crystalpredict._schema import read_json_file
from crystalpredict.errors import UsageError
from crystalpredict.training import distributed
from crystalpredict.training.finetune import figures_of
from crystalpredict.training.options import FinetuneOptions
from crystalpredict.training.plan import origin_of
from crystalpredict.training.result import FinetuneResult

FRACTIONS = (0.125, 0.25, 0.5, 1.0)  # of the training crystals
CURVE = "learning-curve.csv"
OPTIONS = "learning-curve.json"  # the options of all its runs
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """Errors of one model: a row of `learning-curve.csv`.

    Attributes:
        fraction: of the training crystals that it was trained on.
        training_crystals: their number.
        part: of the split on which the errors were measured, test or val; it is the same for all points.
        property: that is predicted.
        unit: of the errors.
        crystals: number of crystals with a label in the part.
        mae: mean absolute error, with the ends of its 95 % interval by bootstrap.
        mae_low95: lower end.
        mae_high95: upper end.
        rmse: root mean square error.
    """

    fraction: float
    training_crystals: int
    part: str
    property: str
    unit: str
    crystals: int
    mae: float
    mae_low95: float
    mae_high95: float
    rmse: float

    def __str__(self) -> str:
        """Return a line about the point."""
        interval = f" [{self.mae_low95:.4g}, {self.mae_high95:.4g}]" if isfinite(self.mae_low95) else ""
        error = f"{self.mae:.4g} {self.unit}".rstrip()
        return f"{self.training_crystals:,} training crystals: {self.property} {error}{interval} on {self.part}"


def run_folder(folder: Path, fraction: float) -> Path:
    """Return the folder of the model that is trained on a fraction of the training crystals."""
    return folder / f"train-{100 * fraction:g}-percent"


def train_learning_curve(
    data: Path, folder: Path, options: FinetuneOptions, start: Callable[[Path, FinetuneOptions], None],
    train: Callable[[Path], FinetuneResult], fractions: Sequence[float] = FRACTIONS, base: str | None = None,
) -> list[FinetuneResult]:  # fmt: skip
    """Train a model on each fraction of the training crystals, and write their errors as `learning-curve.csv`.

    All models have the same validation and test set, and the crystals of a smaller fraction are among those of a larger
    one. Models of an earlier call that ended early are kept or continued.

    Args:
        data: path of the table, or of a folder with `id_prop.csv`.
        folder: of the curve; each model gets a folder in it.
        options: of the runs.
        start: starts a run in a folder with its options, as `start_run` does.
        train: trains or continues the run in a folder, as `train_run` does.
        fractions: of the training crystals.
        base: model that the runs start from, by name; None: the default.

    Returns:
        The models, in the order of the fractions.

    Raises:
        UsageError: the folder holds something else, or the options make no sense.
    """
    if options.kfold or options.train_fraction < 1:
        raise UsageError("--learning-curve makes its own parts: leave out --kfold and --train-fraction")
    facts = facts_of(data, options, base)
    refuse_other_content(folder, facts, fractions)
    if not distributed.rank():
        folder.mkdir(exist_ok=True)
        write_json(folder / OPTIONS, facts)
    results, points = [], list[Point]()
    for fraction in fractions:
        own = run_folder(folder, fraction)
        if not distributed.rank() and not (own / "provenance.json").is_file():
            start(own, replace(options, train_fraction=fraction))
        distributed.wait_for_all()
        results.append(train(own))
        points += points_of(results[-1], fraction)
        if not distributed.rank():
            write_curve(folder / CURVE, points)
    for point in points:
        LOG.info("%s", point)
    return results


def facts_of(data: Path, options: FinetuneOptions, base: str | None) -> dict[str, str]:
    """Return what the runs of a curve share, by name, as texts: sha256 of the table, base model, and all options."""
    shared = {field.name: repr(getattr(options, field.name)) for field in fields(options)}
    del shared["train_fraction"]
    return {"table": str(origin_of(data, None)["sha256"]), "model": base or "", **shared}


def refuse_other_content(folder: Path, facts: dict[str, str], fractions: Sequence[float]) -> None:
    """Raise UsageError if a folder holds anything but runs of the curve with these facts."""
    if not folder.exists():
        return
    names = {CURVE, OPTIONS, *(run_folder(folder, fraction).name for fraction in fractions)}
    if not folder.is_dir() or any(path.name not in names for path in folder.iterdir()):
        raise UsageError(f"{folder}: holds something else than a learning curve; name another folder with -o")
    if not any(folder.iterdir()):
        return
    has = read_json_file(folder / OPTIONS)
    if differing := [name.replace("_", " ") for name in facts if facts[name] != has.get(name)]:
        raise UsageError(f"{folder}: a learning curve with another {', '.join(differing)}; name another folder with -o")


def points_of(result: FinetuneResult, fraction: float) -> Iterator[Point]:
    """Yield the errors of a model on the test set, or without one on the validation set."""
    facts: Any = read_json_file(result.folder / "config.json")
    wanted = "test" if "test" in result.metrics else "val"
    for part, name, unit, found in figures_of(result.metrics):
        if part == wanted:
            low, high = found["interval"]
            yield Point(
                fraction, facts["training"]["crystals"]["train"], part, name, unit, found["count"], found["mae"], low,
                high, found["rmse"],
            )  # fmt: skip


def write_curve(path: Path, points: Sequence[Point]) -> None:
    """Write the points as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Point)], lineterminator="\n")
    writer.writeheader()
    for point in points:
        values = asdict(point)
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()})
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
