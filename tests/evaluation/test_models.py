"""crystalpredict.evaluate: the report of the command, from Python."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import crystalpredict
from crystalpredict.errors import DataError, UsageError
from tests.cli.conftest import Program
from tests.cli.conftest import program as program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    rows = [("NaCl.cif", 5.0, "a"), ("MgO.cif", 4.5, "a"), ("Si.vasp", 0.6, "b"), ("nowhere.cif", 1.0, "b")]
    lines = [f"{EXAMPLES / name},{gap},{split}" for name, gap, split in rows]
    path.write_text("\n".join(["path,bandgap,split", *lines]) + "\n")
    return path


def test_the_report_is_that_of_the_command(program: Program, table: Path) -> None:
    report = crystalpredict.evaluate(table, compare=["crystalframer-mp"])
    printed = json.loads(program("evaluate", table, "--compare", "crystalframer-mp", "-f", "json").stdout)
    assert [score.model for score in report.scores] == ["crystalformer-mp", "crystalframer-mp"]
    assert report.predicted == 3
    assert report.lost[0].reason.startswith("no such file")
    for score, shown in zip(report.scores, printed["scores"], strict=True):
        assert score.metrics.mae == pytest.approx(shown["mae"], abs=2e-3)  # of other batches
    assert crystalpredict.evaluate(table, split="b").rows == 2
    frame = report.to_frame()
    assert list(frame["model"]) == ["crystalformer-mp", "crystalframer-mp"]
    assert list(frame["mae"]) == pytest.approx([score.metrics.mae for score in report.scores], rel=1e-5)
    assert list(frame["decision"]) == ["metal", "metal"]
    assert math.isnan(frame["mae_difference"][0])
    assert math.isfinite(frame["mae_difference"][1])
    lines = repr(report).splitlines()
    assert lines[0].endswith("3 of 4 rows predicted")
    assert [line.split()[0] for line in lines[1:]] == ["model", "crystalformer-mp", "crystalframer-mp"]
    assert "<td>crystalframer-mp</td>" in report._repr_html_()


def test_wrong_arguments_are_refused_in_one_line(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no row of split 'c'"):
        crystalpredict.evaluate(table, split="c")
    with pytest.raises(DataError, match="no such file"):
        crystalpredict.evaluate(tmp_path / "nowhere.csv")
