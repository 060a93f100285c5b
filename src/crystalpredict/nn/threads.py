"""Compute several batches at the same time, each in a thread that uses one core.

Multi-threaded operations are slower: a batch runs hundreds of short operations, and after each one the threads have to
synchronise (docs/log.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from crystalpredict.crystals.crystal import IntArray

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ATOMS_MULTITHREADED = 1500  # of a single batch: from here on, multi-threaded operations are faster


class BatchThreads:
    """A pool of torch's threads on a CPU; on other devices only the caller's thread.

    Attributes:
        threads: batches to compute at the same time; lower it to save memory.
        max_threads: threads of the pool.
    """

    def __init__(self, device: torch.device) -> None:
        self.threads = self.max_threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        self.process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pool": None}  # a copy, or another process, creates its own pool

    def map(self, compute: Callable[[Item], Result], items: Sequence[Item], atoms: int = 0) -> list[Result]:
        """Return the results in the order of the items.

        Args:
            compute: called in a thread. It must itself enter contexts such as `no_grad`, which torch keeps per thread.
            items: arguments of the calls.
            atoms: of all items. A single large item is computed with multi-threaded operations.
        """
        if self.max_threads == 1 or (len(items) == 1 and atoms > MIN_ATOMS_MULTITHREADED):
            return [compute(item) for item in items]
        if self.pool is None or self.process != os.getpid():  # a forked process has a pool without threads
            self.pool = ThreadPoolExecutor(self.max_threads, initializer=partial(torch.set_num_threads, 1))
            self.process = os.getpid()
        return list(self.pool.map(compute, items))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations in the block with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def balanced_split(weights: IntArray, groups: int) -> list[IntArray]:
    """Return the indices of each of some groups with nearly equal sums of weights.

    Items in order of decreasing weight go to the groups 1, 2, ..., n, n, ..., 2, 1, 1, 2, ...

    Args:
        weights: (items,).
        groups: number of groups.
    """
    heaviest_first = np.argsort(-weights, kind="stable")
    turn = np.arange(len(weights)) % (2 * groups)
    return [np.sort(heaviest_first[(turn == group) | (turn == 2 * groups - 1 - group)]) for group in range(groups)]
