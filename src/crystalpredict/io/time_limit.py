"""Limits on the time that reading a file takes in this process."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

DEFAULT_TIMEOUT_SECONDS = 300.0
Item = TypeVar("Item")


class TimeLimitExceeded(BaseException):
    """A file took too long to read. It is not an Exception, because parsers catch these."""


def too_slow(seconds: float | None) -> str:
    """Return the error of a file that is not read within a time."""
    return f"not read within {seconds:g} s: raise --timeout-per-file, or check the file"


@contextmanager
def time_limits(seconds: float | None) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield what limits a block: TimeLimitExceeded is raised if that takes longer.

    It needs Unix and the main thread, else there is no limit. Preparing this once for many blocks takes a third of the
    time of preparing it for each.
    """
    if not seconds or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield nullcontext
        return

    def stop(*_: Any) -> None:
        raise TimeLimitExceeded

    # if the alarm interrupts a callback, Python prints the error and continues: hide it, the next alarm stops the block
    def print_others(unraisable: Any) -> None:
        if unraisable.exc_type is not TimeLimitExceeded:
            hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, print_others
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, stop)
    try:
        yield partial(_timer, seconds)
    finally:
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, in case a parser catches even this
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def items_in_time(items: Iterator[Item], seconds: float | None) -> Iterator[Item]:
    """Yield items, the time to make all of them limited; what the caller does with each does not count.

    Args:
        items: The items.
        seconds: Limit; None or 0: none.

    Raises:
        TimeLimitExceeded: They took longer.
    """
    left, end = seconds, object()
    while True:
        began = time.monotonic()
        with time_limits(left) as limit, limit():
            item: Any = next(items, end)
        if item is end:
            return
        if left:
            left -= time.monotonic() - began
            if left <= 0:
                raise TimeLimitExceeded
        yield item
