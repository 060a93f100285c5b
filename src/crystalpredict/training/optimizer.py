"""The optimiser of a training: AdamW, and Muon for the matrices of the blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crystalpredict.nn import Crystalformer
from crystalpredict.training.config import TrainingConfig

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


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest orthogonal matrices to some of one shape (B, m, n): singular values between 0.6 and 1.2.

    Five steps of the Newton-Schulz iteration of Jordan et al., in the precision of the matrices.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return nearest_orthogonal(matrices.mT).mT
    found: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), found, beta=3.4445)
    return found


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon, with momentum 0.95 and steps as large as AdamW's, in single precision.

    torch's has products in half precision, which take ten times as long on a processor without instructions for them.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the parameters along their gradients; those of one shape together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, own in shapes.items():
                gradients = [tensor.grad for tensor in own if tensor.grad is not None]  # which all have
                means = [self._mean(tensor) for tensor in own]
                torch._foreach_lerp_(means, gradients, 0.05)
                directions = nearest_orthogonal(torch.stack(torch._foreach_lerp(gradients, means, 0.95)))
                torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(own, list(directions), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _mean(self, parameter: Tensor) -> Tensor:
        if not self.state[parameter]:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        mean: Tensor = self.state[parameter]["momentum_buffer"]
        return mean


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
                if matrices[0].is_cuda
                else Muon([group], config.weight_decay)
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
