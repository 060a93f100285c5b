"""The time limit of the frames of a file: of all together, without what is done with each."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from crystalpredict.io.sources import sources_of
from crystalpredict.io.time_limit import TimeLimitExceeded, items_in_time

SECONDS = 0.2


def slow(first: float, others: float) -> Iterator[int]:
    """Numbers that take some seconds each; the first ones cannot be stopped between two of them."""
    time.sleep(first)
    yield 0
    for number in range(1, 100):
        time.sleep(others)
        yield number


def test_the_first_item_is_stopped_while_it_is_made() -> None:
    handler, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        next(items_in_time(slow(30, 0), SECONDS))
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGALRM) == handler


@pytest.mark.parametrize("alone", [False, True])
def test_all_items_together_are_limited(alone: bool) -> None:
    """In a thread, too, where no signal arrives: between two items."""
    found: list[int] = []

    def read() -> None:
        with pytest.raises(TimeLimitExceeded):
            found.extend(items_in_time(slow(0, SECONDS / 4), SECONDS))
        found.append(-1)

    if alone:
        read()
    else:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert found == [*range(len(found) - 1), -1]
    assert len(found) < 8


def test_what_is_done_with_the_items_does_not_count() -> None:
    found = []
    for item in items_in_time(iter(range(3)), SECONDS):
        time.sleep(SECONDS)
        found.append(item)
    assert found == [0, 1, 2]
    assert list(items_in_time(slow(0, 0), None)) == list(items_in_time(slow(0, 0), 0)) == list(range(100))


def test_frames_so_far_are_kept_and_the_rest_is_an_error(tmp_path) -> None:
    path = tmp_path / "XDATCAR"
    steps = "".join(f"Direct configuration= {step}\n0 0 0\n.5 .5 .5\n" for step in range(1, 20_001))
    path.write_text(f"CsCl\n1.0\n4.1 0 0\n0 4.1 0\n0 0 4.1\nCs Cl\n1 1\n{steps}")
    assert len(list(sources_of([str(path)], frames="all"))) == 20_000
    *frames, last = sources_of([str(path)], frames="all", seconds=1e-3)
    assert last.error == "not read within 0.001 s: raise --timeout-per-file, or check the file"
    assert (last.name, last.index) == (str(path), len(frames))
    assert len(frames) < 20_000
