"""Losses of standardised labels, one value for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

BEND = 0.5  # deviations, beyond which the logarithmic loss flattens


def log_loss(output: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    """Each c log(1 + |output - target| / c), c = BEND: L1 for small errors, lenient with labels that are far off."""
    assert reduction == "none"
    return BEND * torch.log1p((output - target).abs() / BEND)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": functional.l1_loss,
    "mse": functional.mse_loss,
    "huber": functional.huber_loss,
    "log": log_loss,
}
