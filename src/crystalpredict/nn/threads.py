"""Batches computed side by side, each by a thread with one core to itself.

The same cores inside every operation are slower: a batch takes hundreds of short ones, and at the end of each its
threads wait for one another. Asleep, they wake late; awake, they keep a core from whoever needs it (docs/log.md).
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

LARGE = 1500  # atoms of one batch, above which several threads in each operation are quicker than one


class BatchThreads:
    """The threads of this process for torch, on a CPU; elsewhere only the caller's own."""

    def __init__(self, device: torch.device) -> None:
        self.threads = self.most = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        self.process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pool": None}  # another process, or a copy, has threads of its own

    def map(self, compute: Callable[[Item], Result], items: Sequence[Item], atoms: int = 0) -> list[Result]:
        """Results in the order of the items; one alone of very many `atoms` has all threads in each operation.

        What holds for one thread, such as no_grad, `compute` must set itself.
        """
        if self.most == 1 or (len(items) == 1 and atoms > LARGE):
            return [compute(item) for item in items]
        if self.pool is None or self.process != os.getpid():  # a fork has the pool, but not its threads
            self.pool = ThreadPoolExecutor(self.most, initializer=partial(torch.set_num_threads, 1))
            self.process = os.getpid()
        return list(self.pool.map(compute, items))


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block, torch has one thread in each operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def balanced_split(weights: IntArray, hands: int) -> list[IntArray]:
    """Positions of the crystals for each hand, with about the same sum of `weights` (crystals,): dealt to and fro."""
    heaviest_first = np.argsort(-weights, kind="stable")
    turn = np.arange(len(weights)) % (2 * hands)
    return [np.sort(heaviest_first[(turn == hand) | (turn == 2 * hands - 1 - hand)]) for hand in range(hands)]
