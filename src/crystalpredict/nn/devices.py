"""Where to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalpredict.errors import UsageError

BYTES_PER_ATOM = 100_000  # of a prediction, at 6 Å and the paper's widths, with room to spare
MOST_ATOMS = 16_384  # that a GPU is given at once: more are no faster

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name: `cpu`, `cuda`, `cuda:1`, or `auto`, which is CUDA if there is any."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"no CUDA device for --device {name}: torch sees none; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise UsageError(f"no device {name}: torch sees {torch.cuda.device_count()} CUDA device(s), numbered from 0")
    return torch.device(name)


def atoms_at_once(device: torch.device) -> int:
    """Listed atoms of a batch for prediction: what fits the caches of a CPU, or half the free memory of a GPU."""
    import torch

    if device.type != "cuda":
        return 1000
    free, _ = torch.cuda.mem_get_info(device)
    return max(1000, min(MOST_ATOMS, free // 2 // BYTES_PER_ATOM))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed for want of memory, on a GPU or a CPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))  # of torch's CPU side
