"""The model card of a fine-tuned checkpoint: Markdown with the YAML head that model hubs read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.training.plan import Plan
from crystalpredict.uncertainty.intervals import MIN_CALIBRATION_LABELS


def model_card(
    plan: Plan, errors: dict[str, Any], epochs: Sequence[int], checkpoint: Checkpoint, changes: Sequence[str] = ()
) -> str:
    """Return the model card of a run.

    Args:
        plan: of the run.
        errors: metrics by part of the split, property and unit, as `metrics.json` has them.
        epochs: after which the weights were saved, for each member of the ensemble.
        checkpoint: that the run made.
        changes: messages about what it forgot of the base model.
    """
    from jinja2 import Environment, PackageLoader  # here: a run needs it at its end only

    environment = Environment(
        loader=PackageLoader("crystalpredict.training", "."), trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["digits"] = lambda value: f"{value:.4g}".replace("nan", "-")
    environment.filters["decimals"] = lambda value: f"{value:.3f}".replace("nan", "-")
    config = plan.training
    rows = [
        {"property": f"{prop}, {unit or 'no unit'}", "part": part, **metrics}
        | dict(zip(("low", "high"), metrics["interval"], strict=True))
        for part, properties in errors.items()
        for prop, units in properties.items()
        for unit, metrics in units.items()
    ]
    return environment.get_template("card.md.j2").render(
        name=checkpoint.name,
        plan=plan,
        base=plan.base,
        config=config,
        dataset=plan.data["path"].replace("\\", "/").rstrip("/").rpartition("/")[2],
        targets=list(dict.fromkeys(prop for properties in errors.values() for prop in properties)),
        errors=rows,
        reported=[row for row in rows if row["part"] == ("test" if "test" in errors else "val")],
        changes=changes,
        has_test="test" in errors,
        command=shlex.join(plan.command) if len(plan.command) > 1 else "".join(plan.command),  # or a call in Python
        optimizer="Muon and AdamW" if config.muon_rate and not config.freeze_encoder else "AdamW",
        saved_weights=describe_saved_weights(epochs),
        calibrated=checkpoint.calibration is not None,
        warns=checkpoint.domain is not None,
        min_labels=MIN_CALIBRATION_LABELS,
    )


def describe_saved_weights(epochs: Sequence[int]) -> str:
    """Return a sentence about the epochs after which the weights of each ensemble member were saved."""
    whens = [f"after epoch {epoch}" if epoch else "before the first epoch, as none improved them" for epoch in epochs]
    if len(whens) == 1:
        return f"The weights are those {whens[0]}."
    return (
        f"Predictions are the mean of {len(whens)} ensemble members, trained with consecutive seeds. Their weights are "
        f"those {'; '.join(whens)}."
    )
