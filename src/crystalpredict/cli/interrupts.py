"""Ctrl-C and SIGTERM while there is something to be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the second is what schedulers send


@contextmanager
def handled(handler: Callable[..., None]) -> Iterator[None]:
    """In the block, SIGNALS call the handler; but for one that is ignored, as by a program that a script put aside.

    What a handler puts in its own place stays there after the block.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread():
        heard = []
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, former)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """The first of the SIGNALS in the block is a KeyboardInterrupt; none after it disturbs the saving or the end."""

    def interrupt(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with handled(interrupt):
        yield
