"""The optimiser of a training: AdamW, and Muon for the matrices of the blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crystalpredict.nn import Crystalformer
from crystalpredict.training_config import TrainingConfig

READOUT = "readout."


def learns_by_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix between states of atoms: tables (embedding, widths) and the readout are not."""
    return parameter.ndim == 2 and name.endswith("weight") and name.startswith("blocks.")


def move_towards(tensors: list[Tensor], targets: list[Tensor], share: float | Tensor) -> None:
    """Move each tensor towards its target by a share of the way."""
    with torch.no_grad():
        if not isinstance(share, Tensor):
            torch._foreach_lerp_(tensors, targets, share)
            return
        apart = torch._foreach_sub(targets, tensors)
        torch._foreach_mul_(apart, share)
        torch._foreach_add_(tensors, apart)


class Optimiser:
    """AdamW, and with `muon_rate` Muon, each on its parameters that are to be trained.

    Muon steps along the nearest orthogonal matrix to the averaged gradient (Jordan et al.,
    https://kellerjordan.github.io/posts/muon), scaled to the size of a step of AdamW (Liu et al., arXiv:2502.16982).
    """

    def __init__(self, model: Crystalformer, config: TrainingConfig) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        matrices: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if config.muon_rate and learns_by_muon(name, parameter):
                matrices.append(parameter)
            else:
                groups.setdefault((name.startswith(READOUT), name.endswith("bias")), []).append(parameter)
        self.named = dict(model.named_parameters())
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "weight_decay": 0.0 if is_bias else config.weight_decay,
                        "share": 1.0 if in_readout else config.encoder_rate,
                    }
                    for (in_readout, is_bias), parameters in groups.items()
                ],
                lr=config.learning_rate, betas=config.betas, fused=True, capturable=next(model.parameters()).is_cuda,
            )
        ]  # fmt: skip
        if matrices:
            group = {"params": matrices, "share": config.encoder_rate * config.muon_rate}
            self.parts.append(
                torch.optim.Muon([group], weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, rate: float | Tensor) -> None:
        """Change the parameters along their gradients, each group at its share of the rate; biases do not decay.

        A rate on the device, as a CUDA graph needs it, is a share of a step at the rate 1.
        """
        changed: list[Tensor] = []
        if isinstance(rate, Tensor):
            changed = [
                parameter.detach()
                for part in self.parts
                for group in part.param_groups
                for parameter in group["params"]
            ]
        before = [parameter.clone() for parameter in changed]
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = (1.0 if isinstance(rate, Tensor) else rate) * group["share"]
            part.step()
        if changed:
            move_towards(before, changed, rate)
            torch._foreach_copy_(changed, before)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """What it remembers of each parameter, by kind and by the parameter's name."""
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.named.items():
            for part in self.parts:
                for kind, value in part.state.get(parameter, {}).items():
                    kinds.setdefault(kind, {})[name] = value
        return kinds

    def load(self, kinds: dict[str, dict[str, Tensor]]) -> None:
        """Go on with the `moments` of another."""
        for part in self.parts:
            own = {parameter for group in part.param_groups for parameter in group["params"]}
            for name, parameter in self.named.items():
                values: dict[str, Any] = {
                    kind: moments[name].to(parameter.device) for kind, moments in kinds.items() if name in moments
                }
                if parameter in own and values:
                    part.state[parameter] = values
