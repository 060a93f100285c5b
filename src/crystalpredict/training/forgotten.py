"""What a fine-tuned model forgot of the model that it started from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint, golden_crystal, network_outputs
from crystalpredict.checkpoints.files import read_golden
from crystalpredict.properties import Property


def describe_lost_properties(base: Checkpoint, properties: Sequence[Property]) -> list[str]:
    """Return a message about the properties that only the base model predicts; none if there are none."""
    kept = {prop.identity for prop in properties}
    lost = [prop.name for prop in base.properties if prop.identity not in kept]
    if not lost:
        return []
    return [f"{base.name} also predicts {', '.join(lost)}: the fine-tuned model does not, use {base.name} for them"]


def describe_changes(base: Checkpoint, folder: Path, tuned: Checkpoint) -> list[str]:
    """Return a message about how far the predictions of properties that both models have moved; none without any.

    They are compared on the reference crystals that come with the base model. These have no labels: a change is no
    error, but where a fine-tuning taught nothing about such crystals, it is what was forgotten.

    Args:
        base: model that the fine-tuning started from.
        folder: of the base model.
        tuned: fine-tuned model.
    """
    numbers = {prop.identity: column for column, prop in enumerate(base.properties)}
    shared = [(column, prop) for column, prop in enumerate(tuned.properties) if prop.identity in numbers]
    examples = read_golden(folder).crystals
    if not shared or not examples:
        return []
    crystals = [golden_crystal(number, example) for number, example in enumerate(examples)]
    before = base.values(np.array([example.outputs for example in examples]))
    after = tuned.values(network_outputs(tuned.model, crystals))
    changes = []
    for column, prop in shared:
        moved = np.abs(after[:, column] - before[:, numbers[prop.identity]]).mean()
        changes.append(f"{prop.name} {moved:.2g} {prop.trained_unit}".rstrip())
    where = f"the {len(crystals)} reference crystals of {base.name}"
    return [f"mean change of the predictions on {where}, which have no labels: {', '.join(changes)}"]
