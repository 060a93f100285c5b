"""Fixtures of all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystalpredict.checkpoints.registry import default_model
from crystalpredict.nn import threads


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
