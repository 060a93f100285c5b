"""The model card of a fine-tuned checkpoint, made from its run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from math import isfinite
from typing import Any

from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.plan import Plan
from crystalpredict.uncertainty.intervals import LEAST

CARD = """\
# {name}

A Crystalformer for {targets}, trained with `crystalpredict finetune` on {origin}.

## Errors

On crystals of the run's own split, which the run did not train on.{chosen} In brackets: 95 % interval by
bootstrap.

| property | part | crystals | mean absolute error | root mean square error | R² |
|---|---|---|---|---|---|
{errors}

## Data

`{data}`, sha256 `{sha256}`.

{notes}

## Training

    {command}

{training}

Versions: {versions}. Started {started} (UTC).

## Before you trust it

It knows crystals like those of its data, relaxed as they were, and gives no warning for others. {uncertainty}
Check it with `crystalpredict evaluate` on labelled crystals that it has not seen.
"""

CHOSEN = " Those of `val` chose the epoch, which flatters them"
CALIBRATED = """\
Its intervals are calibrated by the `val` part: they may be somewhat too narrow if that chose the epoch, most of all
where it is small, and they hold for crystals like those in it."""
UNCALIBRATED = f"""\
It gives no intervals: `val` has fewer than {LEAST} labels of a property, too few to calibrate them."""

LEARNT = """\
It gives no intervals: {name} had learnt {names} itself, and may know crystals of `val` by heart, so that errors there
say too little to calibrate them."""

BEGINNING = "those it started from, as no epoch had a smaller validation error"


def card_of(name: str, plan: Plan, report: dict[str, Any], epochs: Sequence[int], *, calibrated: bool) -> str:
    """Markdown of the card: errors of `report`, by part, property and scale, of the weights after `epochs`, by member.

    `calibrated`: with intervals.
    """
    config = TrainingConfig.from_dict(plan.training)
    without = LEARNT.format(names=", ".join(plan.learnt), **plan.base) if plan.base and plan.learnt else UNCALIBRATED
    chosen = CHOSEN + (": `test` is the fairer figure." if "test" in report else ".") if config.patience else ""
    rows = [
        f"| {name}, {scale or 'no unit'} | {part} | {figures['count']:,} | {figures['mae']:.4g}"
        + (f" [{low:.4g}, {high:.4g}]" if isfinite(low) else "")  # of one crystal there is none
        + f" | {figures['rmse']:.4g} | {figures['r2']:.3f} |".replace("nan", "-")
        for part, properties in report.items()
        for name, scales in properties.items()
        for scale, figures in scales.items()
        for low, high in [figures["interval"]]
    ]
    names = list(dict.fromkeys(name for properties in report.values() for name in properties))
    origin = f"top of `{plan.base['name']}` (weights sha256 `{plan.base['sha256'][:16]}`)" if plan.base else "its own"
    optimiser = "Muon and AdamW" if config.muon_rate and not config.freeze_encoder else "AdamW"
    schedule = f"{config.schedule} with peak {config.learning_rate:g}"
    return CARD.format(
        name=name,
        targets=", ".join(names),
        origin=origin,
        chosen=chosen,
        errors="\n".join(rows),
        data=plan.data["path"],
        sha256=plan.data["sha256"],
        notes="\n".join(f"* {note}" for note in plan.notes),
        command=shlex.join(plan.command),
        training=f"At most {config.epochs} epochs of some {config.batch_atoms} atoms a step, {config.loss} loss of "
        f"standardised labels, {optimiser}, {schedule}, patience {config.patience}, seed {config.seed}; all settings "
        f"are in `config.json`. {kept_weights(epochs)}",
        versions=", ".join(f"{name} {number}" for name, number in plan.versions.items()),
        started=plan.started,
        uncertainty=CALIBRATED if calibrated else without,
    )


def kept_weights(epochs: Sequence[int]) -> str:
    """Which weights a network, or each of several, keeps."""
    whens = [f"those after epoch {epoch}" if epoch else BEGINNING for epoch in epochs]
    if len(whens) == 1:
        return f"The weights kept are {whens[0]}."
    return (
        f"Its predictions are the mean of {len(whens)} networks, with seeds that follow one another; the weights kept "
        f"of them are {'; '.join(whens)}."
    )
