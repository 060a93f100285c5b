"""Results of an evaluation: scores of models for each property, dropped rows, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.evaluation.metrics import Confusion, Metrics, confusion_of
from crystalpredict.properties import Property
from crystalpredict.stability.hull import ON_HULL

if TYPE_CHECKING:
    from pandas import DataFrame

SCORE_COLUMNS = (  # of `evaluate --format csv`
    "model", "property", "unit", "crystals", "mae", "mae_low95", "mae_high95", "median_error", "rmse", "r2",
    "max_error", "mad_of_labels", "mae_over_mad", "mae_difference", "mae_difference_low95", "mae_difference_high95",
    "coverage90", "mean_width90", "decision", "at_most", "accuracy", "precision", "recall",
)  # fmt: skip
PRINTED_COLUMNS = ("model", "property", "unit", "crystals", "mae", "mae_low95", "mae_high95", "rmse", "r2")
STABILITY_THRESHOLDS = (0.0, 0.025, 0.05, 0.1)  # eV/atom: a crystal counts as stable up to this energy above the hull
MIN_CRYSTALS_PER_ELEMENT = 10  # with fewer, the mean error of an element is too uncertain


@dataclass(frozen=True)
class Decision:
    """A classification by a property: a crystal is `name` if its value is at most `limit`, in the property's unit."""

    name: str
    limit: float


DECISIONS = {
    # labels just above 0 count as metals, because they are smaller than the error of any model
    "bandgap": Decision("metal", 0.1),
    # most compounds that have been synthesised are this close to the hull
    "e_above_hull": Decision("stable", 0.05),
}


@dataclass(frozen=True)
class Group:
    """A group of crystals, such as those with an element, and their mean absolute error."""

    name: str
    count: int
    mae: float


@dataclass(frozen=True)
class Outlier:
    """A crystal with one of the largest errors of a model."""

    id: str
    row: int
    formula: str
    label: float
    prediction: float


@dataclass(frozen=True)
class Coverage:
    """Coverage of the prediction intervals.

    Attributes:
        shares: Fraction of the labels inside the intervals, by level in percent.
        widths: Mean width of the intervals, by level in percent.
        by_third: For each third of the crystals by number of atoms: its name, the number of crystals, and the fraction
            of labels inside the intervals of the level `shown`.
        shown: Level in tables, percent.
    """

    shares: dict[int, float]
    widths: dict[int, float]
    by_third: tuple[tuple[str, int, float], ...]
    shown: int

    def to_dict(self) -> dict[str, Any]:
        """Return the coverage for JSON."""
        return {
            "coverage": {str(level): _brief(share) for level, share in self.shares.items()},
            "mean_width": {str(level): _brief(width) for level, width in self.widths.items()},
            f"coverage{self.shown}_by_atoms": {
                name: {"crystals": count, "coverage": _brief(share)} for name, count, share in self.by_third
            },
        }


@dataclass(frozen=True)
class StabilityScore:
    """Score of the classification of crystals as stable, at most `limit` above the hull.

    Attributes:
        way: How the energy above hull is predicted: `formation energy less hull` or `network output`.
        limit: Largest energy above hull of a stable crystal, eV/atom.
        confusion: Numbers of crystals by label and prediction.
    """

    way: str
    limit: float
    confusion: Confusion

    def to_dict(self) -> dict[str, Any]:
        """Return the score for JSON."""
        counts = self.confusion
        return {
            "way": self.way,
            "at_most": self.limit,
            "precision": _brief(counts.precision),
            "recall": _brief(counts.recall),
            "f1": _brief(counts.f1),
            "discovery_acceleration_factor": _brief(counts.acceleration),
            **asdict(counts),
        }


def stability_scores(labels: FloatArray, ways: Mapping[str, FloatArray]) -> tuple[StabilityScore, ...]:
    """Return the scores at each of STABILITY_THRESHOLDS.

    Args:
        labels: Energies above hull, eV/atom, (n,).
        ways: Predictions, eV/atom, (n,), by how they are made.
    """
    return tuple(
        StabilityScore(way, limit, confusion_of(labels <= limit + ON_HULL, values <= limit + ON_HULL))
        for way, values in ways.items()
        for limit in STABILITY_THRESHOLDS
    )


@dataclass(frozen=True)
class Score:
    """Score of a model for a property on one scale.

    Attributes:
        model: Name of the model.
        prop: The property.
        unit: Unit of the scale.
        metrics: Errors over all n crystals.
        by_size: Errors by number of atoms.
        by_element: Errors by element.
        confusion: Numbers of crystals by label and prediction, if the property has a `decision`.
        difference: Mean absolute error minus that of the first model, with its paired 95 % interval; None for the first
            model, and if the first model has no such score.
        worst: Crystals with the largest errors, largest first.
        labels: In the unit of the scale, (n,).
        predictions: In the unit of the scale, (n,).
        coverage: Of the prediction intervals, if the model has them.
        stability: Scores of the classification as stable, for energies above hull.
    """

    model: str
    prop: Property
    unit: str
    metrics: Metrics
    by_size: tuple[Group, ...]
    by_element: tuple[Group, ...]
    confusion: Confusion | None
    difference: tuple[float, float, float] | None
    worst: tuple[Outlier, ...]
    labels: FloatArray = field(repr=False, compare=False)
    predictions: FloatArray = field(repr=False, compare=False)
    coverage: Coverage | None = None
    stability: tuple[StabilityScore, ...] = ()

    @property
    def decision(self) -> Decision | None:
        """The classification that `confusion` counts; None if the property has none."""
        return DECISIONS.get(self.prop.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the score for JSON, without the values of the crystals; None where undefined."""
        found = self.metrics
        entry: dict[str, Any] = {
            "model": self.model,
            "property": self.prop.name,
            "unit": self.unit,
            "crystals": found.count,
            "mae": _brief(found.mae),
            "mae_interval95": [_brief(bound) for bound in found.interval],
            "median_error": _brief(found.median),
            "rmse": _brief(found.rmse),
            "r2": _brief(found.r2),
            "max_error": _brief(found.largest),
            "mad_of_labels": _brief(found.deviation),
            "mae_over_mad": _brief(found.relative),
        }
        if self.difference:
            entry["mae_difference"], *entry["mae_difference_interval95"] = map(_brief, self.difference)
        if self.decision and (counts := self.confusion):
            entry[self.decision.name] = {
                "at_most": self.decision.limit,
                "accuracy": _brief(counts.accuracy),
                "precision": _brief(counts.precision),
                "recall": _brief(counts.recall),
                **asdict(counts),
            }
        if self.stability:
            entry["stability"] = [score.to_dict() for score in self.stability]
        if self.coverage:
            entry["intervals"] = self.coverage.to_dict()
        entry["worst"] = [
            asdict(crystal) | {"label": _brief(crystal.label), "prediction": _brief(crystal.prediction)}
            for crystal in self.worst
        ]
        for key, groups in (("by_atoms", self.by_size), ("by_element", self.by_element)):
            entry[key] = {group.name: {"crystals": group.count, "mae": _brief(group.mae)} for group in groups}
        return entry

    def to_row(self) -> dict[str, Any]:
        """Return the score as a row of a table, with the keys SCORE_COLUMNS; None where undefined."""
        fields = self.to_dict()
        fields["mae_low95"], fields["mae_high95"] = fields["mae_interval95"]
        low, high = fields.get("mae_difference_interval95", (None, None))
        fields["mae_difference_low95"], fields["mae_difference_high95"] = low, high
        if self.coverage:
            shares, widths = fields["intervals"]["coverage"], fields["intervals"]["mean_width"]
            fields["coverage90"], fields["mean_width90"] = shares["90"], widths["90"]
        if self.decision:
            fields |= fields.get(self.decision.name, {}) | {"decision": self.decision.name}
        return {name: fields.get(name) for name in SCORE_COLUMNS}


@dataclass(frozen=True)
class Loss:
    """Rows that could not be used for the same reason: their number, and the number of the first."""

    reason: str
    count: int
    row: int


@dataclass(frozen=True, repr=False)
class Report:
    """Errors of models on a table of labelled crystals.

    Attributes:
        path: Path of the table.
        sha256: Digest of the table.
        rows: Number of rows of the table.
        lost: Rows that were dropped or could not be predicted, by reason.
        notes: Messages about how the table was read.
        models: sha256 of the weights, by name of the model.
        scores: Errors by property, scale and model, in this order.
    """

    path: str
    sha256: str
    rows: int
    lost: tuple[Loss, ...]
    notes: tuple[str, ...]
    models: dict[str, str]
    scores: tuple[Score, ...]

    @property
    def predicted(self) -> int:
        """Number of rows that were predicted."""
        return self.rows - sum(loss.count for loss in self.lost)

    @property
    def leading(self) -> tuple[Score, ...]:
        """Scores of the first model for each property, on the scale used in the literature."""
        found: dict[str, Score] = {}
        for score in self.scores:
            found.setdefault(score.prop.name, score)
        return tuple(found.values())

    def to_frame(self) -> DataFrame:
        """Return the scores as a pandas DataFrame with the columns of `evaluate --format csv`; NaN where undefined."""
        import pandas

        frame = pandas.DataFrame.from_records([score.to_row() for score in self.scores], columns=SCORE_COLUMNS)
        words = ("model", "property", "unit", "decision")
        return frame.astype({name: float for name in SCORE_COLUMNS if name not in (*words, "crystals")})

    def __repr__(self) -> str:
        """Return the number of rows, and the scores as a table."""
        table = self.to_frame()[list(PRINTED_COLUMNS)].to_string(index=False) if self.scores else ""
        return f"{self.path}: {self.predicted} of {self.rows} rows predicted\n{table}".rstrip()

    def _repr_html_(self) -> str:
        return str(self.to_frame()[list(PRINTED_COLUMNS)].to_html(index=False))

    def beside(self, score: Score) -> tuple[Score, ...]:
        """Return the scores of all models for the property and on the scale of a score."""
        return tuple(other for other in self.scores if (other.prop, other.unit) == (score.prop, score.unit))

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "data": {"path": self.path, "sha256": self.sha256, "rows": self.rows, "predicted": self.predicted},
            "notes": list(self.notes),
            "lost": [{"reason": loss.reason, "rows": loss.count, "first_row": loss.row} for loss in self.lost],
            "models": [{"name": name, "sha256": sha256} for name, sha256 in self.models.items()],
            "scores": [score.to_dict() for score in self.scores],
        }


def _brief(value: float) -> float | None:
    """Return a value rounded to six digits; None where undefined."""
    return float(f"{value:.6g}") if isfinite(value) else None
