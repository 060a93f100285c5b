"""One training over several processes, started by torchrun; a process that was not is a group of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from crystalpredict.nn.devices import choose_device


def join_group(device: str) -> torch.device:
    """The device of this process: `device`, or under torchrun the GPU of its local rank; joins the others there."""
    on_cuda = device.startswith("cuda")
    if on_cuda:
        # products in TF32 change an output by 2e-4 of a deviation on average (docs/log.md), far less than its error
        torch.set_float32_matmul_precision("high")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return choose_device(device)
    own = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if on_cuda else "cpu")
    if on_cuda:
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_cuda else "gloo")
    return own


def leave_group() -> None:
    """Say goodbye to the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 writes files and speaks. Known before the group is joined."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Processes that share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every process is here."""
    if dist.is_initialized():
        dist.barrier()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag of some process is set: the same answer in all of them."""
    if size() == 1:
        return flag
    (flags,) = summed_together([torch.tensor(float(flag), device=device)])
    return bool(flags)


def summed_together(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Sums of the tensors over the processes: in one exchange, for each has to wait for all."""
    if size() == 1:
        return tensors
    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(together)
    sums = torch.split(together, [tensor.numel() for tensor in tensors])
    return [total.view_as(tensor) for total, tensor in zip(sums, tensors, strict=True)]
