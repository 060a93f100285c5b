"""Atomic writing leaves nothing behind, whenever it is interrupted."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from crystalpredict._files import write_atomically


def test_an_interrupt_as_soon_as_the_temporary_file_exists_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(_frame: Any, event: str, function: Any) -> None:
        if event == "c_return" and function is os.open and list(tmp_path.iterdir()):
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), write_atomically(tmp_path / "output.json"):
            pass
    finally:
        sys.setprofile(None)
    assert not list(tmp_path.iterdir())
