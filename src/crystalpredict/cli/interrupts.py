"""Handling of Ctrl-C, SIGTERM and a closed terminal while results must be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGTERM comes from schedulers, SIGHUP from a closed terminal
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def handled(handler: Callable[..., None]) -> Iterator[None]:
    """Call the handler for SIGNALS in the block, except for ignored ones, as of a background process.

    A handler that was replaced in the block is not restored.
    """
    handled_signals = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread():
        handled_signals = []
    before = {number: signal.signal(number, handler) for number in handled_signals}
    try:
        yield
    finally:
        for number, former in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, former)


class Interrupts:
    """Raises KeyboardInterrupt for the first of the SIGNALS: at once or, while `held`, at the next `release`."""

    def __init__(self) -> None:
        self.held = self.pending = False

    def hold(self) -> None:
        """Delay interrupts until `release`."""
        self.held = True

    def release(self) -> None:
        """Raise KeyboardInterrupt if a signal came since `hold`; later signals raise it at once."""
        self.held = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def signalled(self, *_: object) -> None:
        """Handle a signal, and ignore all further ones, so that results can be saved."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if not self.held:
            raise KeyboardInterrupt
        self.pending = True


@contextmanager
def one_interrupt() -> Iterator[Interrupts]:
    """Raise KeyboardInterrupt for the first of the SIGNALS in the block, and ignore all further ones."""
    interrupts = Interrupts()
    handler = interrupts.signalled  # one object: each access to a method makes a new one
    with handled(handler):
        yield interrupts
