"""The examples of the documentation print what their pages show."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize("name", ["screen", "own_features", "finetune"])
@pytest.mark.filterwarnings("ignore")  # of pymatgen, as in the scripts themselves
def test_examples_print_what_the_page_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ROOT / "docs" / "examples"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(folder)
    runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    printed, shown = capsys.readouterr().out, (folder / f"{name}.txt").read_text(encoding="utf-8")
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    # the last digit is rounding; a training differs from machine to machine
    tolerance = 0.2 if name == "finetune" else 0.021
    assert [float(x) for x in NUMBER.findall(printed)] == pytest.approx(
        [float(x) for x in NUMBER.findall(shown)], abs=tolerance
    )
