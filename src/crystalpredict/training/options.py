"""FinetuneOptions: the options of a fine-tuning, with the names and defaults of the command's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from crystalpredict.data.labels import NewTargets
from crystalpredict.errors import UsageError
from crystalpredict.training.config import Loss

SplitBy = Literal["formula", "random", "column"]
Part = Literal["encoder"]
SHARE = 0.1  # of the crystals, in the validation set and in the test set, where nothing else is said
LARGEST = 10**12
OF_TRAINING = (
    "scratch", "directions", "freeze", "members", "epochs", "learning_rate", "patience", "batch_atoms", "loss",
)  # fmt: skip
RANGES: dict[str, tuple[float, float]] = {
    "validation": (0.001, 0.9), "test": (0, 0.9), "train_fraction": (0.001, 1), "members": (1, 100),
    "kfold": (0, 10_000), "epochs": (0, LARGEST), "learning_rate": (0, LARGEST), "patience": (-1, LARGEST),
    "batch_atoms": (0, LARGEST), "seed": (0, 2**32 - 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneOptions:
    """Options of a fine-tuning; their names and defaults are those of `crystalpredict finetune`.

    Options that contradict each other, or are out of range, raise a UsageError.

    Attributes:
        target: Column to learn, or several of them; none: every column that is a known property.
        unit: Unit of a new property: one for all, or one for each target.
        log: Learn log10 of new properties; labels must be positive.
        structure_column: Column that holds the structures; None: the usual names.
        scratch: Start from random weights.
        directions: Add directions to the network: more accurate, six times the time.
        freeze: `encoder` trains the last layers alone.
        kernel: Train nothing, but compare crystals with those of the training set: for some hundred labels.
        split_by: `formula` keeps polymorphs together; `random`; `column`: the column `split`, with train, val and test.
        validation: Fraction of the crystals in the validation set, which chooses the epoch and calibrates
            intervals; None: 0.1.
        test: Fraction held out for the final test; None: 0.1.
        train_fraction: Fraction of the training crystals that is used; validation and test set stay as they are.
        members: Networks to train, with different seeds; the model is their mean.
        kfold: Number of models of a cross-validation, each tested on another part of the crystals; 0: none.
        epochs: At most so many; 0: chosen from the size of the data.
        learning_rate: Of the last layers; 0: chosen.
        patience: Epochs without a smaller validation error after which the training ends; -1: chosen.
        batch_atoms: Atoms of an optimiser step; 0: chosen.
        loss: Of standardised labels: `l1`, `mse`, `huber` or `log`.
        seed: Of the split, of the order of the crystals and of new weights.
    """

    target: str | Sequence[str] = ()
    unit: str | Sequence[str] = ()
    log: bool = False
    structure_column: str | None = None
    scratch: bool = False
    directions: bool = False
    freeze: Part | None = None
    kernel: bool = False
    split_by: SplitBy = "formula"
    validation: float | None = None
    test: float | None = None
    train_fraction: float = 1.0
    members: int = 1
    kfold: int = 0
    epochs: int = 0
    learning_rate: float = 0.0
    patience: int = -1
    batch_atoms: int = 0
    loss: Loss = "l1"
    seed: int = 123

    def __post_init__(self) -> None:
        """Raise a UsageError for values that are unknown, out of range, or contradict each other."""
        for name, known in (("freeze", Part), ("split_by", SplitBy), ("loss", Loss)):
            value = getattr(self, name)
            if value is not None and value not in get_args(known):
                raise UsageError(f"unknown {_option(name)} {value!r}: choose from {', '.join(get_args(known))}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{_option(name)} {value}: give a number from {low:g} to {high:g}")
        if self.scratch and self.freeze:
            raise UsageError("--scratch starts from random weights: leave out --model and --freeze")
        if self.test is not None and self.kfold:
            raise UsageError("--kfold tests each part in turn: leave out --test")
        if self.test is not None and self.split_by == "column":
            raise UsageError("--split-by column takes the test part from the column: leave out --test")
        if self.train_fraction < 1 and self.kfold:
            raise UsageError("--train-fraction leaves crystals out, but --kfold tests each: leave out one of the two")
        if self.directions and self.freeze:
            raise UsageError("--directions are learnt by the encoder: leave out --freeze")
        trained = [name for name in OF_TRAINING if name in self._given]
        if self.kernel and trained:
            raise UsageError(f"--kernel trains nothing: leave out {_option(trained[0])}")

    def __repr__(self) -> str:
        """Return a call that makes these options, without those that are the default."""
        return f"FinetuneOptions({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"

    @property
    def _given(self) -> dict[str, Any]:
        """Options that differ from their defaults."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    @property
    def targets(self) -> tuple[str, ...]:
        """Columns to learn."""
        return _several(self.target)

    @property
    def new(self) -> NewTargets:
        """Unit and transform of columns that are no known property."""
        return NewTargets(_several(self.unit), self.log)

    @property
    def shares(self) -> tuple[float, float]:
        """Fractions of the validation and the test set."""
        validation, test = (SHARE if share is None else share for share in (self.validation, self.test))
        return validation, test

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of `TrainingConfig` that are given; the others follow from the data."""
        chosen = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_atoms")}
        given = {name: value for name, value in chosen.items() if value}
        given |= {"patience": self.patience} if self.patience >= 0 else {}
        given |= {"kernel": True, "epochs": 0, "patience": 0} if self.kernel else {}
        return given | {"loss": self.loss, "seed": self.seed, "freeze_encoder": self.freeze is not None}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
