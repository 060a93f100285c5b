"""Fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the program has it: threads for products of 3 × 3 matrices are slow

from crystalpredict.checkpoints.registry import default_model
from crystalpredict.nn import threads


def pytest_configure() -> None:
    """Signals that the shell ignores, as of `make test &` and nohup, are not ignored by the programs that tests start.

    A handler of Python's is the system's default again after exec. SIGHUP still does nothing here.
    """
    if threading.current_thread() is threading.main_thread():
        for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", lambda *_: None)):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """The program makes its commands of their functions each time it is called, which takes longer than most runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are faster so, above all on a busy machine."""
    with threads.one_thread():
        yield


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests know nothing of the settings of whoever runs them."""
    for name in os.environ:
        if name.startswith("CRYSTALPREDICT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CRYSTALPREDICT_CONFIG", os.devnull)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint, to be damaged."""
    return Path(shutil.copytree(default_model().folder, tmp_path / "copy"))


@pytest.fixture
def picture() -> None:
    """A test that asks for it gets the picture of the losses in spite of `no_picture`."""


@pytest.fixture
def no_picture(request: pytest.FixtureRequest) -> Iterator[None]:
    """Trainings draw no losses, which is a quarter of the time of a small one."""
    with pytest.MonkeyPatch.context() as patch:
        if "picture" not in request.fixturenames:
            patch.setattr("crystalpredict.training.run.draw_losses", lambda *_: None)
        yield
