"""TrainingConfig: everything that decides the weights of a run, beside the network and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from msgspec import Meta

from crystalpredict._schema import Count, NotNegative, Text
from crystalpredict.errors import UsageError

Schedule = Literal["inverse_sqrt", "one_cycle"]
Loss = Literal["l1", "mse", "huber", "log"]
AtLeastOne = Annotated[int, Meta(ge=1, le=10**12)]
Share = Annotated[float, Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the weights, beside the network and the data; optimiser settings are the paper's."""

    properties: Annotated[tuple[Text, ...], Meta(max_length=4096)] = ()
    """Names of those properties of the table that are trained on; none: all."""
    epochs: Count = 20
    patience: Count = 0
    """Epochs without a better validation error after which the run ends; 0: never, and the last weights are kept."""
    batch_atoms: AtLeastOne = 1800
    """Atoms of an optimiser step: 64 crystals of the Materials Project."""
    split_atoms: AtLeastOne = 640
    """Atoms that go through the network at once; changes speed, not the result."""
    repeat_rare: Annotated[int, Meta(ge=0, le=10_000)] = 1
    """How often an epoch shows a crystal that carries a rare label."""
    loss: Loss = "l1"
    """Of standardised labels; huber turns from square to linear at one deviation, log flattens beyond a half."""
    weights: dict[Text, NotNegative] = field(default_factory=dict)
    """Of the loss of a property, by its name; 1 for one that is not named."""
    freeze_encoder: bool = False
    """Train the readout alone."""
    learning_rate: NotNegative = 5e-4
    encoder_rate: NotNegative = 1.0
    """Learning rate of all but the readout over that of the readout."""
    muon_rate: NotNegative = 0.0
    """Learning rate of the blocks' matrices, by Muon, over the others'; 0: AdamW trains them too, as in the paper."""
    schedule: Schedule = "inverse_sqrt"
    warmup: Share = 0.05
    """Share of the one cycle in which the learning rate rises."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    weight_decay: NotNegative = 1e-5
    """Of all but biases."""
    clip: NotNegative = 1.0
    ema: Annotated[float, Meta(ge=0, le=1)] = 0.998
    """Decay per step of the running mean of the weights, which is what is kept."""
    seed: Annotated[int, Meta(ge=0, lt=2**33)] = 123
    device: Text = "cpu"

    def __post_init__(self) -> None:
        for name, known in (("schedule", get_args(Schedule)), ("loss", get_args(Loss))):
            if getattr(self, name) not in known:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}")


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
