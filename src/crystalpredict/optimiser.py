"""The optimiser of a training: AdamW, with a share of the rate and a decay of its own for each group of weights."""

from __future__ import annotations

import torch
from torch import nn

from crystalpredict.nn import Crystalformer
from crystalpredict.training_config import TrainingConfig

READOUT = "readout."


def optimiser_of(model: Crystalformer, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW on what is to be trained, in groups with their `share` of the learning rate; biases do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(READOUT), name.endswith("bias")), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if is_bias else config.weight_decay,
                "share": 1.0 if in_readout else config.encoder_rate,
            }
            for (in_readout, is_bias), parameters in groups.items()
        ],
        lr=config.learning_rate, betas=config.betas, fused=True,
    )  # fmt: skip
