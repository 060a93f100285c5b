"""Ctrl-C, SIGTERM and the end of the terminal while there is something to be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# the second is what schedulers send, the third what a terminal sends that is closed
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


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


class Interrupts:
    """The first of the SIGNALS raises KeyboardInterrupt: at once, or, while `held`, at the next `release`."""

    def __init__(self) -> None:
        self.held = self.pending = False

    def hold(self) -> None:
        """Let what follows end, whatever signal comes."""
        self.held = True

    def release(self) -> None:
        """Raise KeyboardInterrupt if a signal came meanwhile, and at once if one comes from now on."""
        self.held = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def signalled(self, *_: object) -> None:
        """The handler; after the first signal none disturbs the saving or the end."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if not self.held:
            raise KeyboardInterrupt
        self.pending = True


@contextmanager
def one_interrupt() -> Iterator[Interrupts]:
    """The first of the SIGNALS in the block is a KeyboardInterrupt; none after it disturbs the saving or the end."""
    interrupts = Interrupts()
    handler = interrupts.signalled  # one object: a method is a new one each time that it is named
    with handled(handler):
        yield interrupts
