"""`crystalpredict suggest`: which crystals of a pool to measure next."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from crystalpredict import FinetuneOptions, finetune, load_model
from crystalpredict.training.suggest import farthest
from tests.cli.conftest import Program
from tests.cli.conftest import program as program
from tests.labelled import cif, rows, write

ROOT = Path(__file__).resolve().parents[2]


def test_each_is_the_farthest_from_those_before() -> None:
    random = np.random.default_rng(1)
    candidates, measured = random.normal(size=(60, 3)), random.normal(size=(900, 3))
    chosen = farthest(candidates, measured, 8)
    before = list(measured)
    for number, distance, nearest in chosen:
        each = [np.linalg.norm(np.array(before) - point, axis=1) for point in candidates]
        assert number == int(np.argmax([own.min() for own in each]))
        assert distance == pytest.approx(each[number].min())
        assert nearest == int(each[number].argmin())
        before.append(candidates[number])
    first, *_ = farthest(candidates, measured[:0], 2)
    assert first == (0, np.inf, -1)
    assert len(farthest(np.ones((5, 3)), measured[:0], 3)) == 1  # the others are the same


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_bundled_model_suggests_what_is_uncertain_or_promising(program: Program, tmp_path: Path) -> None:
    pool = ROOT / "examples"
    predicted = {row.path: row for row in load_model(targets=["bandgap"]).predict(sorted(map(str, pool.iterdir())))}
    output = tmp_path / "next.csv"
    outcome = program("suggest", pool, "-t", "bandgap", "-n", "1", "-o", output)
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "14 structures, 0 measured, 1 suggestions" in outcome.stderr
    (row,) = lines_of(output)
    widths = {path: np.ptp(each.intervals["bandgap_eV"]) for path, each in predicted.items()}
    assert widths[row["path"]] == max(widths.values())
    assert float(row["score"]) == pytest.approx(max(widths.values()) / 2, rel=1e-3)
    assert "wider than that of 93 % of the pool" in row["reason"]
    assert {"bandgap_eV", "bandgap_eV_lo90", "bandgap_eV_hi90"} <= row.keys()
    for by, end, choose in (("high", 1, max), ("low", 0, min)):
        (row,) = program("suggest", pool, "-t", "bandgap", "-n", "1", "--by", by, "-q").rows
        ends = {path: each.intervals["bandgap_eV"][end] for path, each in predicted.items()}
        assert ends[row["path"]] == pytest.approx(choose(ends.values()), abs=1e-6)
        assert f"may be as {by} as {ends[row['path']]:.3g} eV, " in row["reason"]
    some = program("suggest", pool, pool / "NaCl.cif", "-t", "gap", "-n", "15", "--by", "distance")
    assert len({row["path"] for row in some.rows}) == 14
    assert "14 of 15 suggestions" in some.stderr
    distances = [float(row["distance"]) for row in some.rows[1:]]
    assert distances == sorted(distances, reverse=True)
    refused = program("suggest", pool, "-t", "bandgap", "-o", output)
    assert (refused.code, "--force" in refused.stderr) == (2, True)


def test_a_fine_tuned_model_suggests_what_is_unlike_its_crystals(program: Program, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(20))
    run = finetune(table, FinetuneOptions(target="bandgap", scratch=True, epochs=1), output=tmp_path / "model")
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "measured.cif").write_text(rows(1)[0]["cif"])
    (pool / "new.cif").write_text(cif("Li", "N", 4.4))
    (pool / "broken.cif").write_text("data_x\n")
    outcome = program("suggest", pool, "-t", "bandgap", "--by", "distance", "-m", run.folder)
    assert outcome.code == 0, outcome.stderr
    (row,) = outcome.rows
    assert row["path"].endswith("new.cif")
    assert row["nearest"] in {line["id"] for line in rows(20)}
    assert "1 structures could not be predicted" in outcome.stderr
    refused = program("suggest", pool, "-t", "bandgap", "-m", run.folder)
    assert (refused.code, "has no intervals of bandgap: use another --target or --by" in refused.stderr) == (2, True)
    (pool / "new.cif").unlink()
    (pool / "measured.cif").unlink()
    refused = program("suggest", pool, "-t", "bandgap", "--by", "high", "-m", run.folder)
    assert (refused.code, "no structure of the pool could be predicted" in refused.stderr) == (2, True)


@pytest.mark.parametrize("target", ["decomposes_to", "bandgap,bulk_modulus", "nothing"])
def test_a_target_by_which_nothing_can_be_chosen_is_refused(program: Program, target: str) -> None:
    outcome = program("suggest", ROOT / "examples" / "NaCl.cif", "-t", target)
    assert outcome.code == 2
    assert "target" in outcome.stderr.splitlines()[-1] or "nothing" in outcome.stderr.splitlines()[-1]
