"""Warnings of libraries are not shown, and those of the user's program are, threads or not."""

from __future__ import annotations

import threading
import time
import warnings

import pytest

from crystalpredict.errors import suppress_warnings


def test_filters_are_what_they_were_after_threads_that_overlap() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)

        def quiet(start: float, end: float) -> None:
            time.sleep(start)
            with suppress_warnings():
                warnings.warn("of a library", stacklevel=1)
                time.sleep(end)

        threads = [threading.Thread(target=quiet, args=times) for times in ((0, 0.2), (0.1, 0.3), (0.15, 0.1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
        with pytest.raises(UserWarning, match="of the user"):
            warnings.warn("of the user", stacklevel=1)
