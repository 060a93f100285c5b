"""Loss functions of standardised labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

LOG_LOSS_SCALE = 0.5  # standard deviations of the labels, above which the logarithmic loss flattens


def log_loss(output: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    """Return c log(1 + |output - target| / c) with c = LOG_LOSS_SCALE, for each element.

    It equals the L1 loss for small errors and limits the effect of outliers.

    Args:
        output: standardised predictions, any shape.
        target: standardised labels, the same shape.
        reduction: "none", the only value; the losses of torch have the same argument.
    """
    assert reduction == "none"
    return LOG_LOSS_SCALE * torch.log1p((output - target).abs() / LOG_LOSS_SCALE)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": functional.l1_loss,
    "mse": functional.mse_loss,
    "huber": functional.huber_loss,
    "log": log_loss,
}


def summed_loss(weights: Mapping[str, Tensor], output: Tensor, target: Tensor) -> Tensor:
    """Return the weighted sum of the losses of the labels that exist.

    Args:
        weights: of the properties, (P,), for each key of LOSSES that is used; 0 for a property with another loss.
        output: standardised predictions, (B, P).
        target: standardised labels, not a number where missing, (B, P).
    """
    known = torch.isfinite(target)
    target = torch.where(known, target, 0.0)
    losses = sum(LOSSES[name](output, target, reduction="none") * weight for name, weight in weights.items())
    return torch.where(known, losses, 0.0).sum()
