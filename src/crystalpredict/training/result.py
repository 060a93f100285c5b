"""What a fine-tuning returns: the folder of the model, the model, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.errors import UsageError
from crystalpredict.training.finetune import figures_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from crystalpredict.prediction.predictor import Predictor


@dataclass(frozen=True, repr=False)
class FinetuneResult:
    """A fine-tuned model and its errors.

    Attributes:
        folder: The checkpoint, which `predict(..., model=folder)` takes; after a cross-validation, that of the folds.
        metrics: Errors by part of the split (`val`, `test`), property and unit, as `metrics.json` has them; after a
            cross-validation, mean and deviation of the test errors by property and unit.
        folds: Results of a cross-validation, one for each model; empty without one.
    """

    folder: Path
    metrics: dict[str, Any]
    folds: tuple[FinetuneResult, ...] = ()

    @cached_property
    def model(self) -> Predictor:
        """The model, ready to predict; it is loaded when it is first used.

        Raises:
            UsageError: Each fold of a cross-validation has a model of its own.
        """
        if self.folds:
            raise UsageError(f"{self.folder}: {len(self.folds)} folds have a model each: take that of one of them")
        from crystalpredict.prediction.predictor import load_model

        return load_model(self.folder)

    @property
    def summary(self) -> list[str]:
        """Lines about the mean test errors of a cross-validation; none without one."""
        lines = []
        for name, scales in self.metrics.items() if self.folds else ():
            for scale, figures in scales.items():
                count = len(self.folds) - figures["folds"].count(None)
                mean = f"{figures['mae']:.4g} ± {figures['deviation']:.2g} {scale}".rstrip()
                lines.append(f"{count} folds: {name} {mean}")
        return lines

    def to_frame(self) -> DataFrame:
        """Return the errors as a pandas DataFrame.

        A row for each part of the split, property and unit, and for each fold of a cross-validation. Columns: `part`,
        `property`, `unit`, `crystals`, `mae` with the ends of its 95 % interval, `median_error`, `rmse`, `r2`,
        `max_error`, and `mad_of_labels`, the error of always predicting their mean; NaN where undefined.
        """
        import pandas

        if self.folds:
            frames = {fold.folder.name: fold.to_frame() for fold in self.folds}
            return pandas.concat(frames, names=["fold", None]).reset_index("fold").reset_index(drop=True)
        rows = [
            {
                "part": part,
                "property": name,
                "unit": unit,
                "crystals": found["count"],
                "mae": found["mae"],
                "mae_low95": found["interval"][0],
                "mae_high95": found["interval"][1],
                "median_error": found["median"],
                "rmse": found["rmse"],
                "r2": found["r2"],
                "max_error": found["largest"],
                "mad_of_labels": found["deviation"],
            }
            for part, name, unit, found in figures_of(self.metrics)
        ]
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        """Return the folder and the errors."""
        frame = self.to_frame().drop(columns=["median_error", "r2", "max_error"])
        lines = [f"fine-tuned model in {self.folder}", *self.summary, frame.to_string(index=False, float_format=_brief)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        heading = "<br>".join(map(escape, [f"fine-tuned model in {self.folder}", *self.summary]))
        return f"<p>{heading}</p>{self.to_frame().to_html(index=False, float_format=_brief)}"


def _brief(value: float) -> str:
    return f"{value:.4g}"
