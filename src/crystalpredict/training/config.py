"""TrainingConfig: the parameters of a training run besides the network and the data."""

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
    """Parameters of a training run besides the network and the data; the optimiser's defaults are the paper's."""

    properties: Annotated[tuple[Text, ...], Meta(max_length=4096)] = ()
    """Names of the trained properties of the table; empty: all."""
    epochs: Count = 20
    patience: Count = 0
    """Early stopping: epochs without a better validation error; 0: none, and the last weights are kept."""
    batch_atoms: AtLeastOne = 1800
    """Atoms of an optimiser step; the default is about 64 crystals of the Materials Project."""
    split_atoms: AtLeastOne = 640
    """Atoms computed at once; affects the speed, not the result."""
    repeat_rare: Annotated[int, Meta(ge=0, le=10_000)] = 1
    """Number of times that a crystal with a rare label is in an epoch."""
    loss: Loss = "l1"
    """Loss of standardised labels; huber is linear beyond one standard deviation, log flattens beyond a half."""
    losses: dict[Text, Loss] = field(default_factory=dict)
    """Loss of a property, by its name, where it is another."""
    weights: dict[Text, NotNegative] = field(default_factory=dict)
    """Weight of the loss of a property, by its name; default 1."""
    freeze_encoder: bool = False
    """Train only the readout."""
    kernel: bool = False
    """Train nothing: compare crystals with the training set (`crystalpredict.training.kernel`)."""
    learning_rate: NotNegative = 5e-4
    encoder_rate: NotNegative = 1.0
    """Ratio of the learning rate of all other weights to that of the readout."""
    muon_rate: NotNegative = 0.0
    """Ratio of Muon's learning rate, for the matrices of the blocks, to AdamW's; 0: only AdamW, as in the paper."""
    schedule: Schedule = "inverse_sqrt"
    warmup: Share = 0.05
    """Fraction of the one-cycle schedule in which the learning rate rises."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    weight_decay: NotNegative = 1e-5
    """Of all weights except biases."""
    clip: NotNegative = 1.0
    ema: Annotated[float, Meta(ge=0, le=1)] = 0.998
    """Decay per step of the exponential moving average of the weights, which is saved."""
    seed: Annotated[int, Meta(ge=0, lt=2**33)] = 123
    device: Text = "cpu"

    def __post_init__(self) -> None:
        for name, known in (("schedule", get_args(Schedule)), ("loss", get_args(Loss))):
            if getattr(self, name) not in known:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}")


def learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    """Return the learning rate of a step.

    inverse_sqrt: rate sqrt(4000 / (4000 + step)), as in the paper. one_cycle: linear rise to the rate, then cosine
    fall to 0.

    Args:
        config: The training parameters.
        step: Number of the step, from 0.
        done: Fraction of the training that is complete.
    """
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(4000 / (4000 + step))
    if done < config.warmup:
        return config.learning_rate * max(done / config.warmup, 0.01)
    fall = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fall))
