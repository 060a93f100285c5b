"""The optimiser: AdamW, and Muon for the matrices of the blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crystalpredict.nn import Crystalformer
from crystalpredict.training.config import TrainingConfig

READOUTS = ("readout.", "readout_of_states.")  # prefixes of the parameters of the readouts


def uses_muon(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon trains a parameter: the matrices of the blocks, but no tables (embedding, widths)."""
    return parameter.ndim == 2 and name.endswith("weight") and name.startswith("blocks.")


def move_towards(tensors: list[Tensor], targets: list[Tensor], fraction: float | Tensor) -> None:
    """Replace each tensor t in place by t + fraction (target - t); a fraction on the GPU suits a CUDA graph."""
    with torch.no_grad():
        if not isinstance(fraction, Tensor):
            torch._foreach_lerp_(tensors, targets, fraction)
            return
        differences = torch._foreach_sub(targets, tensors)
        torch._foreach_mul_(differences, fraction)
        torch._foreach_add_(tensors, differences)


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """Return approximations of the nearest orthogonal matrices, with singular values between 0.6 and 1.2.

    Five steps of the Newton-Schulz iteration of Muon (K. Jordan et al., 2024), in the precision of the matrices.

    Args:
        matrices: (B, m, n).
    """
    if matrices.shape[1] > matrices.shape[2]:
        return nearest_orthogonal(matrices.mT).mT
    found: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), found, beta=3.4445)
    return found


class Muon(torch.optim.Optimizer):
    """Muon in single precision for CPUs: torch.optim.Muon with momentum 0.95 and steps as large as AdamW's.

    torch.optim.Muon multiplies matrices in bfloat16, which takes ten times as long on a CPU without such instructions.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters, those of one shape in one batch."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, own in shapes.items():
                gradients = [tensor.grad for tensor in own if tensor.grad is not None]  # all of them have one
                means = [self._mean(tensor) for tensor in own]
                torch._foreach_lerp_(means, gradients, 0.05)
                directions = nearest_orthogonal(torch.stack(torch._foreach_lerp(gradients, means, 0.95)))
                torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(own, list(directions), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _mean(self, parameter: Tensor) -> Tensor:
        """Return the running mean of a parameter's gradient."""
        if not self.state[parameter]:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        mean: Tensor = self.state[parameter]["momentum_buffer"]
        return mean


class Optimiser:
    """AdamW, and Muon for the matrices of the blocks if `muon_rate` is not 0; frozen parameters are left out.

    Muon steps along the nearest orthogonal matrix to the averaged gradient (K. Jordan et al.,
    https://kellerjordan.github.io/posts/muon), scaled to the size of a step of AdamW (Liu et al., arXiv:2502.16982).
    """

    def __init__(self, model: Crystalformer, config: TrainingConfig) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        matrices: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if config.muon_rate and uses_muon(name, parameter):
                matrices.append(parameter)
            else:
                groups.setdefault((name.startswith(READOUTS), name.endswith("bias")), []).append(parameter)
        self.named = dict(model.named_parameters())
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "weight_decay": 0.0 if is_bias else config.weight_decay,
                        "rate_factor": 1.0 if in_readout else config.encoder_rate,
                    }
                    for (in_readout, is_bias), parameters in groups.items()
                ],
                lr=config.learning_rate, betas=config.betas, fused=True, capturable=next(model.parameters()).is_cuda,
            )
        ]  # fmt: skip
        if matrices:
            group = {"params": matrices, "rate_factor": config.encoder_rate * config.muon_rate}
            self.optimisers.append(
                torch.optim.Muon([group], weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
                if matrices[0].is_cuda
                else Muon([group], config.weight_decay)
            )

    def step(self, rate: float | Tensor) -> None:
        """Update all parameters; biases have no weight decay.

        Args:
            rate: learning rate, which each group multiplies by its own factor. As a tensor on the GPU, which a CUDA
                graph needs, it scales a step of the rate 1.
        """
        changed: list[Tensor] = []
        if isinstance(rate, Tensor):
            changed = [
                parameter.detach()
                for optimiser in self.optimisers
                for group in optimiser.param_groups
                for parameter in group["params"]
            ]
        before = [parameter.clone() for parameter in changed]
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = (1.0 if isinstance(rate, Tensor) else rate) * group["rate_factor"]
            optimiser.step()
        if changed:
            move_towards(before, changed, rate)
            torch._foreach_copy_(changed, before)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of the optimisers: tensors by kind, by name of the parameter."""
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.named.items():
            for optimiser in self.optimisers:
                for kind, value in optimiser.state.get(parameter, {}).items():
                    kinds.setdefault(kind, {})[name] = value
        return kinds

    def load(self, kinds: dict[str, dict[str, Tensor]]) -> None:
        """Restore the state that `moments` returned."""
        for optimiser in self.optimisers:
            own = {parameter for group in optimiser.param_groups for parameter in group["params"]}
            for name, parameter in self.named.items():
                values: dict[str, Any] = {
                    kind: moments[name].to(parameter.device) for kind, moments in kinds.items() if name in moments
                }
                if parameter in own and values:
                    optimiser.state[parameter] = values
