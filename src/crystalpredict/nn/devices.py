"""Devices to compute on, and their memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.errors import UsageError

BYTES_PER_ATOM = 100_000  # GPU memory of a prediction, at 6 Å and the paper's widths, with a margin
CPU_BATCH_ATOMS = 1000  # fit into the caches of a CPU
MAX_GPU_BATCH_ATOMS = 16_384  # larger batches are not faster
DEVICE_FILES = Path("/dev")
# of NVIDIA's driver, also on Jetson and in WSL; of AMD's, whose GPUs torch calls cuda too
GPU_FILES = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "dxg", "kfd")

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name: `cpu`, `cuda`, `cuda:1`, or `auto`, which is CUDA if available and else the CPU.

    Raises:
        UsageError: the name is unknown, or there is no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no CUDA device; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA device(s), numbered from 0")
    return torch.device(name)


def runs_on_cpu(name: str) -> bool:
    """Return whether the device of a name is certainly the CPU; torch, which knows in every case, is not imported.

    `auto` is the CPU where the system has no device of a GPU that torch could use; where it has one, torch decides.
    """
    return name == "cpu" or (name == "auto" and not _may_have_gpu())


def _may_have_gpu() -> bool:
    """Return False where there is certainly no CUDA or ROCm device: the drivers make one of these files for each."""
    if sys.platform == "darwin":
        return False
    if sys.platform != "linux":
        return True
    return any(any(DEVICE_FILES.glob(name)) for name in GPU_FILES)


def max_batch_atoms(device: torch.device) -> int:
    """Return the listed atoms of a batch for prediction: they fit the caches of a CPU, or half the free GPU memory."""
    import torch

    if device.type != "cuda":
        return CPU_BATCH_ATOMS
    free, _ = torch.cuda.mem_get_info(device)
    return max(CPU_BATCH_ATOMS, min(MAX_GPU_BATCH_ATOMS, free // 2 // BYTES_PER_ATOM))


def no_busy_cores() -> int:
    """Return 0: by default, no other process uses cores."""
    return 0


def free_memory() -> float:
    """Return the memory that this process may still allocate, bytes; infinite if the system does not report it."""
    free = float("inf")
    with suppress(OSError, ValueError, KeyError):
        known = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(known["MemAvailable:"]) * 1024
    with suppress(OSError, ValueError):  # of the container
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text("ascii")) for name in ("memory.max", "memory.current")
        )
        free = min(free, limit - used)
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
            free = min(free, limit - pages * resource.getpagesize())
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU or a CPU has not enough memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))  # of torch on a CPU
