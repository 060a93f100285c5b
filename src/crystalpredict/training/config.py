"""TrainingConfig: everything that decides the weights of a run, beside the network and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from crystalpredict.errors import DataError, UsageError

Schedule = Literal["inverse_sqrt", "one_cycle"]
Loss = Literal["l1", "mse", "huber", "log"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the weights, beside the network and the data; optimiser settings are the paper's."""

    properties: tuple[str, ...] = ()
    """Names of those properties of the table that are trained on; none: all."""
    epochs: int = 20
    patience: int = 0
    """Epochs without a better validation error after which the run ends; 0: never, and the last weights are kept."""
    batch_atoms: int = 1800
    """Atoms of an optimiser step: 64 crystals of the Materials Project."""
    split_atoms: int = 640
    """Atoms that go through the network at once; changes speed, not the result."""
    repeat_rare: int = 1
    """How often an epoch shows a crystal that carries a rare label."""
    loss: Loss = "l1"
    """Of standardised labels; huber turns from square to linear at one deviation, log flattens beyond a half."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the loss of a property, by its name; 1 for one that is not named."""
    freeze_encoder: bool = False
    """Train the readout alone."""
    learning_rate: float = 5e-4
    encoder_rate: float = 1.0
    """Learning rate of all but the readout over that of the readout."""
    muon_rate: float = 0.0
    """Learning rate of the blocks' matrices, by Muon, over the others'; 0: AdamW trains them too, as in the paper."""
    schedule: Schedule = "inverse_sqrt"
    warmup: float = 0.05
    """Share of the one cycle in which the learning rate rises."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-5
    """Of all but biases."""
    clip: float = 1.0
    ema: float = 0.998
    """Decay per step of the running mean of the weights, which is what is kept."""
    seed: int = 123
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in (("schedule", get_args(Schedule)), ("loss", get_args(Loss))):
            if getattr(self, name) not in known:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The config of a JSON object; an unknown key is an error."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise DataError(f"training config has unknown keys: {', '.join(sorted(unknown))}")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for key, value in lists.items():
            kind = type(getattr(cls(), key))
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise DataError(f"training config: {key} is {value!r}, which is no {kind.__name__}")
        return cls(**lists)


def learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    """Learning rate of a step; `done` is the share of the training behind it.

    inverse_sqrt: rate sqrt(4000 / (4000 + step)), the paper's. one_cycle: linear rise to the rate, cosine fall to 0.
    """
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(4000 / (4000 + step))
    if done < config.warmup:
        return config.learning_rate * max(done / config.warmup, 0.01)
    fall = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fall))
