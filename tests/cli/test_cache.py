"""What was predicted before is neither read nor computed again, and has the same bytes."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import sqlite3
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from crystalpredict.io import reader as reading
from crystalpredict.io.entries import Inline, Parsed
from crystalpredict.io.time_limit import TimeLimitExceeded
from crystalpredict.prediction import predictor as predict
from crystalpredict.prediction.cache import FILE
from crystalpredict.prediction.predictor import Predictor
from tests.same import alike

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAME = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
PLAIN = "x\n4.1\n1 0 0\n0 1 0\n0 0 1\nCs Br\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.fixture
def inputs(tmp_path: Path) -> list[str | Path]:
    """Files, one of several structures with errors among them, frames, a table; no missing file."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("NaCl.cif", "Si.vasp"):
        shutil.copy(EXAMPLES / name, folder)
    (folder / "a.cif.gz").write_bytes(gzip.compress((EXAMPLES / "NaCl.cif").read_bytes(), mtime=0))
    (folder / "odd.cif").write_text((EXAMPLES / "NaCl.cif").read_text().replace("Cl", "Xq"))
    (folder / "several.vasp").write_text(PLAIN + PLAIN.replace("Cs", "Xx") + PLAIN)
    (folder / "frames.xyz").write_text(FRAME * 3)
    (folder / "t.csv").write_text('id,poscar\n1,\n2,"x\n1\n3 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\n0 0 0\n"\n')
    return [folder, folder / "t.csv"]


@pytest.fixture
def nothing_to_do(monkeypatch: pytest.MonkeyPatch):
    """Makes reading and computing impossible."""

    def forbid() -> None:
        real = reading.begin

        def fail(source: object, *_: object, **__: object) -> Parsed:
            if isinstance(source, Inline) and source.error:
                return real(source)
            raise AssertionError("it is in the cache")

        monkeypatch.setattr(reading, "begin", fail)
        monkeypatch.setattr(predict, "load_model", fail)

    return forbid


@pytest.mark.parametrize(
    "options", [["-t", "gap,pugh_ratio"], ["-f", "jsonl"], ["--where", "gap > 0"], ["-f", "table"]]
)
def test_a_second_run_reads_and_computes_nothing_and_says_the_same(
    program, inputs, tmp_path, nothing_to_do, options
) -> None:
    plain = program("predict", *inputs, *options)
    first = program("predict", *inputs, "--cache", tmp_path / "kept")
    assert "0 from the cache" in first.stderr
    nothing_to_do()
    second = program("predict", *inputs, *options, "--cache", tmp_path / "kept")
    assert (second.code, second.stdout) == (plain.code, plain.stdout)
    assert f"{len(first.rows) - 1} from the cache {tmp_path}/kept" in second.stderr  # a cell without text is not kept
    assert "model" not in second.stderr


def test_workers_read_from_the_cache_too(program, inputs, tmp_path) -> None:
    command = ["predict", "-q", "--jobs", "2", *inputs * 15]
    plain = program(*command)
    assert program("predict", *inputs, "--cache", tmp_path / "kept").code == 3
    cached = program(*command, "--cache", tmp_path / "kept")
    assert (cached.code, cached.stdout, cached.stderr) == (3, plain.stdout, "")


def from_cache(outcome) -> int:
    (line,) = [line for line in outcome.stderr.splitlines() if "from the cache" in line]
    return int(line.split()[1])


def test_what_an_answer_depends_on_is_in_the_key(program, inputs, tmp_path, folder, monkeypatch) -> None:
    shutil.copytree(inputs[0], tmp_path / "in2")
    kept = ["--cache", tmp_path / "kept", "-m", folder]
    assert from_cache(program("predict", inputs[0], *kept)) == 0
    renamed = program("predict", tmp_path / "in2", *kept)
    assert from_cache(renamed) == len(renamed.rows) == 10
    for option in ("--no-reduce", "--no-uncertainty", "--device=cpu"):
        assert from_cache(program("predict", inputs[0], *kept, option)) == 0
        assert from_cache(program("predict", inputs[0], *kept, option)) == 10
    file = tmp_path / "in2" / "NaCl.cif"
    file.write_text(file.read_text().replace("5.6", "5.7"))
    changed = program("predict", tmp_path / "in2", *kept)
    assert from_cache(changed) == 9
    assert alike(changed.stdout, program("predict", tmp_path / "in2", "-m", folder).stdout)
    assert not alike(changed.stdout, renamed.stdout)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert from_cache(program("predict", inputs[0], *kept)) == 0
    monkeypatch.setattr("crystalpredict._version.__version__", "9")
    assert from_cache(program("predict", inputs[0], *kept)) == 0


def test_what_may_go_well_another_time_is_not_kept(program, inputs, tmp_path, monkeypatch) -> None:
    kept = ["--cache", tmp_path / "kept"]
    plain = program("predict", inputs[0])

    def fails(error: BaseException):
        def read(*_: object, **__: object) -> None:
            raise error

        return read

    for error, stage in product((MemoryError(), ZeroDivisionError("x"), TimeLimitExceeded()), ("begin", "entries_of")):
        with monkeypatch.context() as patch:
            patch.setattr(reading, "entries_of_plain", fails(ZeroDivisionError("y")))
            patch.setattr(reading, stage, fails(error))
            assert program("predict", inputs[0], *kept).code == 4
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "_in_batches", lambda self, crystals, *_: set(range(len(crystals))))
        outcome = program("predict", inputs[0], *kept)
        assert "not enough memory" in outcome.stdout
    outcome = program("predict", inputs[0], *kept)
    assert alike(outcome.stdout, plain.stdout)
    assert from_cache(outcome) == 1  # odd.cif, which was read by then
    assert from_cache(program("predict", tmp_path / "nowhere.cif", *kept)) == 0


def edited(kept: Path, *statements: str) -> None:
    with sqlite3.connect(kept / FILE) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount
    connection.close()


def test_answers_that_are_damaged_or_not_all_there_are_computed_again(program, inputs, tmp_path) -> None:
    kept = tmp_path / "kept"
    plain = program("predict", *inputs, "--cache", kept)
    edited(
        kept,
        "DELETE FROM predictions WHERE count = 3 AND number = 1",
        "UPDATE predictions SET numbers = zeroblob(length(numbers)) WHERE texts LIKE '[\"Si%'",
        "UPDATE predictions SET texts = '[]' WHERE texts LIKE '%NaCl%'",
    )
    again = program("predict", *inputs, "--cache", kept)
    assert alike(again.stdout, plain.stdout)
    assert from_cache(again) == len(plain.rows) - 1 - 3 - 1 - 2
    assert from_cache(program("predict", *inputs, "--cache", kept)) == len(plain.rows) - 1


# What may be wrong with the cache itself


def one_line(outcome, plain, *words: str) -> None:
    assert outcome.code == plain.code
    assert alike(outcome.stdout, plain.stdout)
    (line,) = [line for line in outcome.stderr.splitlines() if "the run continues" in line]
    assert all(word in line for word in words), line


def test_a_cache_that_cannot_be_used_costs_one_line(program, inputs, tmp_path) -> None:
    plain = program("predict", *inputs)
    (tmp_path / "file").write_text("")
    one_line(program("predict", *inputs, "--cache", tmp_path / "file"), plain, "not used")
    kept = tmp_path / "kept"
    program("predict", *inputs, "--cache", kept)
    whole = (kept / FILE).read_bytes()
    for content in (b"nonsense" * 1000, whole[:50] + b"\xff" * 50 + whole[100:]):
        (kept / FILE).write_bytes(content)
        one_line(program("predict", *inputs, "--cache", kept), plain, str(kept))
    for path in kept.iterdir():
        path.unlink()
    edited(
        kept, "CREATE VIEW predictions AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n"
    )
    one_line(program("predict", *inputs, "--cache", kept), plain, "not a cache of this program")
    for content in (whole[:5000], whole[:4096] + b"\xff" * (len(whole) - 4096)):  # may be written over without a word
        (kept / FILE).write_bytes(content)
        assert alike(program("predict", *inputs, "--cache", kept).stdout, plain.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size is set as on Linux")
def test_a_full_disk_costs_one_line(program, tmp_path) -> None:
    frames = tmp_path / "a.xyz"
    frames.write_text("".join(FRAME.replace("4.1", f"4.{number}") for number in range(1000, 1300)))
    plain = program("predict", frames, "--jobs", "1")
    code = "import resource, sys; from crystalpredict.cli import main\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000,) * 2); main()"
    command = ["predict", frames, "--jobs", "1", "--cache", tmp_path / "kept"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == plain.code
    assert alike(done.stdout, plain.stdout)  # by NumPy and by torch
    (line,) = [line for line in done.stderr.splitlines() if "the run continues" in line]
    assert "no further rows" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read_is_read(program, inputs, tmp_path) -> None:
    kept = tmp_path / "kept"
    plain = program("predict", inputs[0], "--cache", kept)
    (kept / FILE).chmod(0o444)
    kept.chmod(0o555)
    outcome = program("predict", *inputs, "--cache", kept)
    assert "read-only" in outcome.stderr
    assert from_cache(outcome) == len(plain.rows)
    kept.chmod(0o755)


def test_two_runs_fill_one_cache(inputs, tmp_path, program) -> None:
    plain = program("predict", *inputs)
    command = [sys.executable, "-m", "crystalpredict", "predict", "-q", *inputs, "--cache", tmp_path / "kept"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for printed, said in [run.communicate() for run in runs]:
        assert said == b""
        rows = list(csv.DictReader(printed.decode().splitlines()))
        assert len(rows) == len(plain.rows)
        for row, expected in zip(rows, plain.rows, strict=True):
            for column, text in expected.items():
                if "." in text and column not in ("path", "formula", "warnings", "error"):
                    # what one run found of the other's changed its batches, and so the last digits
                    last_digit = 10.0 ** -len(text.partition(".")[2])
                    assert float(row[column]) == pytest.approx(float(text), rel=0, abs=1.01 * last_digit)
                else:
                    assert row[column] == text
    assert from_cache(program("predict", *inputs, "--cache", tmp_path / "kept")) == len(plain.rows) - 1


def test_auto_is_the_folder_of_the_environment(program, inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_CACHE", str(tmp_path / "kept"))
    program("predict", *inputs, "--cache", "auto")
    assert (tmp_path / "kept" / FILE).is_file()
