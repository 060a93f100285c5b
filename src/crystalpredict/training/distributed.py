"""Training in several processes started by torchrun. Without torchrun, the group is this process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from crystalpredict.nn.devices import choose_device


def join_group(device: str) -> torch.device:
    """Join the processes of torchrun; return the device of this one.

    Args:
        device: name of a device. Under torchrun, a CUDA device means the GPU of the local rank.
    """
    on_cuda = device.startswith("cuda")
    if on_cuda:
        # TF32 changes an output by 2e-4 standard deviations on average (docs/log.md), far less than its error
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
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def group(device: str) -> Iterator[str]:
    """Join the processes of torchrun in the block, and yield the name of the chosen device.

    Raises:
        UsageError: there is no such device.
    """
    where = str(choose_device(device))
    join_group(where)
    try:
        yield where
    finally:
        leave_group()


def rank() -> int:
    """Return the number of this process. Process 0 writes files and messages."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Return the number of processes in the group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Block until every process has called this."""
    if dist.is_initialized():
        dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag of any process is set; the result is the same in all processes."""
    if size() == 1:
        return flag
    (flags,) = sum_over_processes([torch.tensor(float(flag), device=device)])
    return bool(flags)


def sum_over_processes(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the sums of the tensors over the processes. One exchange for all tensors is faster than one for each."""
    if size() == 1:
        return tensors
    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(together)
    sums = torch.split(together, [tensor.numel() for tensor in tensors])
    return [total.view_as(tensor) for total, tensor in zip(sums, tensors, strict=True)]
