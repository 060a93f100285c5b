"""Rows that go to a file survive whatever becomes of stderr, of the terminal and of the folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals and no /dev/full")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif"
PROGRAM = [sys.executable, "-m", "crystalpredict"]


@pytest.fixture
def listed(tmp_path) -> str:
    (tmp_path / "list").write_text(f"{EXAMPLE}\nnowhere.cif\n" * 20)
    return f"@{tmp_path}/list"


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet"])
@pytest.mark.parametrize("stderr", ["full", "pipe without reader", "closed"])
def test_rows_do_not_depend_on_a_reader_of_stderr(tmp_path, listed, name, stderr) -> None:
    (tmp_path / "out").mkdir()
    command = ["predict", "-j1", listed, "-o", tmp_path / "out" / name]
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") as full:
        shell = [] if stderr != "closed" else ["sh", "-c", 'exec "$0" "$@" 2>&- >&-']
        stream = full if stderr == "full" else writing
        ended = subprocess.run([*shell, *PROGRAM, *command], stdout=stream, stderr=stream, check=False)
    os.close(writing)
    assert ended.returncode == 3
    assert os.listdir(tmp_path / "out") == [name]
    if name == "a.csv":
        assert (tmp_path / "out" / name).read_text().count("\n") == 41


def endless(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A run that has computed its first rows, and goes on until its stdin ends."""
    command = [*PROGRAM, "predict", "-j1", "-", "-o", str(folder / name)]
    default = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # whatever the shell of the tests ignores
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=default)
    program.stdin.write(f"nowhere.cif\n{EXAMPLE}\n".encode() * 1000)
    program.stdin.flush()
    while b"nowhere.cif" not in program.stderr.readline():
        pass
    return program


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_the_end_of_the_terminal_keeps_the_rows(tmp_path, name) -> None:
    program = endless(tmp_path, name)
    time.sleep(0.2)
    program.stderr.close()
    program.send_signal(signal.SIGHUP)
    program.stdin.close()
    assert program.wait(300) == 130
    kept = {"a.csv": ["a.csv.part", "a.csv.part-journal"], "a.json": ["a.json.interrupted"]}[name]
    assert sorted(os.listdir(tmp_path)) in (kept, [] if name == "a.csv" else kept)


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_a_folder_that_is_removed_is_made_again(tmp_path, name) -> None:
    (tmp_path / "out").mkdir()
    program = endless(tmp_path / "out", name)
    shutil.rmtree(tmp_path / "out")
    _, said = program.communicate(timeout=300)
    assert (program.returncode, b"Traceback" in said) == (3, False)
    assert os.listdir(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_text().count("nowhere.cif") == 1000


COMMANDS = {
    "a.csv": ["predict", EXAMPLE, "-o"],
    "a.json": ["predict", EXAMPLE, "-o"],
    "a.npz": ["embed", EXAMPLE, "-o"],
    "b.csv": ["merge", "nowhere.csv", "-o"],
    "c.csv": ["evaluate", "table.csv", "--predictions"],
    "a.html": ["evaluate", "table.csv", "--report"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_earlier_result_is_replaced_only_if_that_is_said(program, tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(f"path,bandgap_eV\n{EXAMPLE},5\n")
    (tmp_path / name).write_text("precious")
    outcome = program(*COMMANDS[name], name)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == (
        f"crystalpredict: error: {name}: exists already; name another file, or say --force to replace it\n"
    )
    assert (tmp_path / name).read_text() == "precious"
    if "merge" not in COMMANDS[name]:
        assert program(*COMMANDS[name], name, "--force").code == 0
        assert (tmp_path / name).read_bytes() != b"precious"
    (tmp_path / name).write_text("")  # as mktemp makes it
    assert "exists" not in program(*COMMANDS[name], name).stderr


def test_rows_of_one_interrupted_run_do_not_replace_those_of_another(program, tmp_path, monkeypatch) -> None:
    from crystalpredict.cli.output import path_of_result

    (tmp_path / "a.json.interrupted").write_text("precious")
    assert path_of_result(tmp_path / "a.json", interrupted=True) == tmp_path / "a.json.interrupted-2"


def test_to_resume_and_to_replace_exclude_each_other(program, tmp_path) -> None:
    outcome = program("predict", EXAMPLE, "-o", tmp_path / "a.csv", "--resume", "--force")
    assert outcome.code == 2
    assert "--force replaces" in outcome.stderr


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_what_was_not_foreseen_is_one_line_and_keeps_the_rows(program, tmp_path, monkeypatch, name) -> None:
    from crystalpredict.io import reader as reading
    from crystalpredict.prediction.predictor import Predictor

    monkeypatch.setattr(reading, "WINDOW_ENTRIES", 10)
    (tmp_path / "list").write_text(f"{EXAMPLE}\n" * 15)
    real = Predictor._in_batches

    def once(self, crystals, neighbors, compute):
        if len(crystals) < 10:
            raise ZeroDivisionError("of a library")
        return real(self, crystals, neighbors, compute)

    monkeypatch.setattr(Predictor, "_in_batches", once)
    command = ("predict", f"@{tmp_path}/list", "-q", "-j1", "-o", tmp_path / name)
    outcome = program(*command)
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert "ZeroDivisionError" in line
    assert "report" in line
    kept = tmp_path / {"a.csv": "a.csv.part", "a.json": "a.json.interrupted"}[name]
    assert kept.read_text().count(str(EXAMPLE)) == 10


PATCHED = """
import errno, os, sys, tempfile, threading
from crystalpredict.cli import main
def refused(*_, **__): raise {error}
{name} = refused
sys.argv = ["crystalpredict", "predict", "-q", "-j2", *[{example!r}] * 100]
main()
"""


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("os.fork", "BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')", "ulimit -u"),
        ("threading.Thread.start", 'RuntimeError("can\'t start new thread")', "ulimit -u"),
        ("os.fork", "FileNotFoundError(errno.ENOENT, 'No usable temporary directory found in []')", "TMPDIR"),
        ("os.fork", "MemoryError()", "not enough memory"),
    ],
)
def test_a_machine_without_room_for_a_run_is_one_true_line(tmp_path, name, error, said) -> None:
    script = PATCHED.format(name=name, error=error, example=str(EXAMPLE))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert said in line


@pytest.mark.parametrize("condition", ["+".join(["index"] * 160) + "<1", "-" * 900 + "index<1", "(" * 400 + "1"])
def test_conditions_of_too_many_terms_are_one_line(program, condition) -> None:
    outcome = program("predict", "-q", EXAMPLE, "--where", condition)
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert "--where" in line
