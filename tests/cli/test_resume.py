"""A run that is ended by whatever goes on where it stopped: no row lost, none twice, the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crystalpredict.prediction.journal import Position
from crystalpredict.prediction.resume import Cursor, PartialFile
from tests.same import alike

CSCL = "CsCl\n{}\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
FRAME = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """Some 2,000 rows in ten windows: files, missing ones, several structures in one, frames, strange names."""
    folder = tmp_path_factory.mktemp("in")
    names = []
    for number in range(40):
        path = folder / (f"{number}.vasp" if number % 10 else f'{number}\n,"é".vasp')
        path.write_text(CSCL.format(3.9 + number / 100))
        names.append(str(path))
    plain = {"lattice": [4.1, 4.1, 4.1, 90, 90, 90], "species": ["Cs", "Br"], "frac_coords": [[0, 0, 0], [0.5] * 3]}
    (folder / "several.json").write_text(json.dumps([plain, {}] * 16))
    (folder / "frames.xyz").write_text(FRAME * 280)
    several = [str(folder / "several.json")] * 2
    listed = [*names * 4, str(folder / "nowhere.cif"), *several * 9, str(folder / "frames.xyz"), *names * 25]
    (folder / "list").write_bytes("\0".join(listed).encode())
    return ["-0", f"@{folder}/list"]


SMALL_WINDOWS = "from crystalpredict.io import reader; reader.WINDOW_ENTRIES = 200; "
SMALL_WINDOWS += "from crystalpredict.cli import program; program()"


NO_TORCH = "from crystalpredict.nn import first_answers; first_answers.MOST_EDGES = 10**9; "


def start(*arguments: str | Path, before: str = "") -> subprocess.Popen[bytes]:
    """The program with windows of 200 rows, so that little work is many of them."""
    command = [sys.executable, "-c", before + SMALL_WINDOWS, "predict", "--jobs", "2", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(program: subprocess.Popen[bytes]) -> tuple[int, str]:
    said = program.communicate(timeout=300)[1].decode()
    return program.returncode, said


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> dict[str, bytes]:
    """What uninterrupted runs write."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("a.csv", "a.jsonl"):
        assert finished(start("-q", *inputs, "-o", folder / name)) == (3, "")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(
    ("suffix", "ending", "times"),
    [(".csv", signal.SIGKILL, 4), (".jsonl", signal.SIGKILL, 2), (".csv", signal.SIGINT, 2)],
)
def test_a_run_ended_at_random_moments_ends_with_the_bytes_of_a_whole_one(
    inputs, whole, tmp_path, suffix, ending, times
) -> None:
    output, part = tmp_path / f"a{suffix}", tmp_path / f"a{suffix}.part"
    moments = random.Random(ending)
    came_far = set()
    while len(came_far) < times:
        before = part.stat().st_size if part.exists() else 0
        program = start("-q", *inputs, "-o", output, "--resume")
        while program.poll() is None and (not part.exists() or part.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        program.send_signal(ending)
        code, said = finished(program)
        assert said == ""
        if output.exists() and came_far:
            break
        if output.exists():  # before the signal came, on a busy machine
            output.unlink()
            continue
        assert code in (-ending, 130)
        came_far.add(part.stat().st_size)
        if ending == signal.SIGKILL:  # as if the row had been torn besides
            with part.open("ab") as file:
                file.write(b'torn, "in the')
    assert came_far
    if not output.exists():
        assert finished(start("-q", *inputs, "-o", output, "--resume")) == (3, "")
    assert alike(output.read_bytes(), whole[suffix])
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_whole_file_is_not_begun_again_and_a_new_run_starts_at_once(program, tmp_path) -> None:
    path, output = tmp_path / "a.vasp", tmp_path / "a.csv"
    path.write_text(CSCL.format(4))
    assert program("predict", path, "-o", output, "--resume").code == 0
    before = output.read_bytes()
    output.write_bytes(b"")
    outcome = program("predict", path, "-o", output, "--resume")
    assert (outcome.code, output.read_bytes()) == (0, b"")
    assert "complete" in outcome.stderr
    assert program("predict", path, "-o", output).code == 0
    assert output.read_bytes() == before


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """The output of a run that stopped in its second window."""
    from crystalpredict.prediction.predictor import Predictor

    (tmp_path / "a.vasp").write_text(CSCL.format(4))
    (tmp_path / "list").write_text(f"{tmp_path}/a.vasp\n" * 150)
    monkeypatch.setattr("crystalpredict.io.reader.WINDOW_ENTRIES", 100)
    real = Predictor._in_batches

    def once(self, crystals, neighbors, compute):
        if len(crystals) < 100:
            raise KeyboardInterrupt
        return real(self, crystals, neighbors, compute)

    monkeypatch.setattr(Predictor, "_in_batches", once)
    return tmp_path / "out.csv"


def refused(outcome, *words: str) -> None:
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert all(word in line for word in words)


def test_what_differs_is_named_and_nothing_is_overwritten(program, begun, monkeypatch, folder) -> None:
    listed = f"@{begun.parent}/list"
    outcome = program("predict", listed, "-o", begun)
    assert outcome.code == 130
    assert "100 rows are complete" in outcome.stderr
    assert "--resume" in outcome.stderr
    monkeypatch.undo()
    part = begun.with_name("out.csv.part")
    kept = part.read_bytes()
    assert kept.count(b"\n") == 101
    refused(program("predict", listed, "-o", begun), "out.csv.part", "--resume")
    refused(program("predict", listed, "-o", begun, "--resume", "-t", "gap"), "its columns differ (it was")
    refused(program("predict", listed, listed, "-o", begun, "--resume"), "its inputs differ (it was")
    refused(program("predict", listed, "-o", begun, "--resume", "--no-reduce"), "no-reduce differs")
    refused(program("predict", listed, "-o", begun, "--resume", "--no-uncertainty"), "uncertainty differs", "True")
    calibration = folder / "calibration.safetensors"
    calibration.write_bytes(calibration.read_bytes()[:-1] + b"\1")
    refused(program("predict", listed, "-o", begun, "--resume", "-m", folder), "calibrations, differ")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    refused(program("predict", listed, "-o", begun, "--resume", "-m", folder), "--unrelaxed differ")
    names = (begun.parent / "list").read_text()
    for other in ("b.vasp\n" + names, names.replace("a.vasp", "b.vasp", 1), names[:2000]):
        (begun.parent / "list").write_text(other)
        refused(program("predict", listed, "-o", begun, "--resume"), "inputs differ from those")
    assert part.read_bytes() == kept
    (begun.parent / "list").write_text(names)
    outcome = program("predict", listed, "-o", begun, "--resume")
    assert outcome.code == 0
    assert "after 100 rows" in outcome.stderr
    assert "150 predicted" in outcome.stderr
    assert begun.read_bytes().count(b"\n") == 151


def test_a_whole_file_of_other_columns_is_not_taken_for_complete(program, tmp_path) -> None:
    (tmp_path / "a.vasp").write_text(CSCL.format(4))
    for suffix in ("csv", "jsonl"):
        output = tmp_path / f"a.{suffix}"
        command = ("predict", tmp_path / "a.vasp", "-o", output, "--resume", "-q")
        assert program(*command, "-t", "bandgap,known_phase").code == 0
        before = output.read_bytes()
        for other in ((), ("-t", "K"), ("-t", "bandgap"), ("-t", "bandgap,known_phase", "--no-uncertainty")):
            refused(program(*command, *other), f"{output}: complete, but with other columns", "--force")
        assert program(*command, "-t", "gap,polymorph").code == 0
        assert output.read_bytes() == before


def test_a_slash_behind_a_folder_makes_no_difference(program, begun, monkeypatch) -> None:
    (begun.parent / "many").mkdir()
    for number in range(150):
        (begun.parent / "many" / f"{number}.vasp").write_text(CSCL.format(4))
    assert program("predict", f"{begun.parent}/many/", "-o", begun).code == 130
    monkeypatch.undo()
    assert "after 100 rows" in program("predict", begun.parent / "many", "-o", begun, "--resume").stderr


def test_a_run_with_a_condition_goes_on_too(program, begun, monkeypatch) -> None:
    wanted = [f"@{begun.parent}/list", "--where", "path != 'x' and gap >= 0", "-o", begun, "--resume"]
    assert program("predict", *wanted).code == 130
    monkeypatch.undo()
    refused(program("predict", wanted[0], "-o", begun, "--resume"), "where differs")
    assert "after 100 rows" in program("predict", *wanted).stderr
    assert begun.read_bytes().count(b"\n") == 151


@pytest.mark.parametrize("arguments", [[], ["-o", "a.json"], ["-o", "a.csv.gz"], ["-o", "a.csv", "--sort", "gap"]])
def test_resume_needs_a_file_that_grows(program, tmp_path, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    refused(program("predict", "a.cif", "--resume", *arguments), "--resume needs -o FILE")


# The file itself


FACTS = {"model": "x"}


def test_what_follows_the_last_commit_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with PartialFile(path, FACTS, resume=False) as part:
        for rows in (1, 2):
            part.stream.write(f"é{rows}\n")
            part.commit(Position(rows=rows))
        part.stream.write("never committed")
    (tmp_path / "a.part").write_bytes((tmp_path / "a.part").read_bytes() + b"torn\0\0\0")
    with (tmp_path / "a.part-journal").open("ab") as journal:
        journal.write(b'{"rows": 3, "size": 99}\n{"rows": 4, "si')
    with PartialFile(path, FACTS, resume=True) as part:
        assert (part.position.rows, part.position.size) == (2, 8)
        assert (tmp_path / "a.part").read_text() == "é1\né2\n"
    (tmp_path / "a.part").write_bytes("é1\né".encode())
    with PartialFile(path, FACTS, resume=True) as part:
        assert (part.position.rows, part.position.size) == (1, 4)
    (tmp_path / "a.part").write_bytes(b"")
    with PartialFile(path, FACTS, resume=True) as part:
        assert (part.position.rows, part.position.size) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    from crystalpredict.errors import UsageError

    with PartialFile(tmp_path / "a", FACTS, resume=False) as part:
        part.stream.write("1\n")
        part.commit(Position(rows=1))
        for resume, said in ((True, "another run"), (False, "continue it with --resume")):
            with pytest.raises(UsageError, match=said):
                PartialFile(tmp_path / "a", FACTS, resume=resume)
        part.stream.write("2\n")
        part.commit(Position(rows=2))
        part.finish()
    assert (tmp_path / "a").read_text() == "1\n2\n"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_run_that_waits_for_another_sees_that_it_has_ended(tmp_path: Path) -> None:
    from crystalpredict.errors import UsageError

    with PartialFile(tmp_path / "a", FACTS, resume=False) as part:
        part.stream.write("1\n")
        part.commit(Position(rows=1))

        def end() -> None:
            part.finish()
            os.close(part.rows)

        threading.Timer(0.5, end).start()
        with pytest.raises(UsageError, match="has just finished: there is nothing to resume"):
            PartialFile(tmp_path / "a", FACTS, resume=True)
    assert (tmp_path / "a").read_text() == "1\n"
    assert os.listdir(tmp_path) == ["a"]


def test_a_part_without_its_journal_is_not_touched(tmp_path: Path) -> None:
    from crystalpredict.errors import UsageError

    (tmp_path / "a.part").write_text("precious")
    for content in (None, "{nonsense\n"):
        if content:
            (tmp_path / "a.part-journal").write_text(content)
        with pytest.raises(UsageError, match=r"delete (the file|it)"):
            PartialFile(tmp_path / "a", FACTS, resume=True)
        assert (tmp_path / "a.part").read_text() == "precious"


def test_the_cursor_goes_back_to_the_source_it_was_in() -> None:
    names = ["a", "a", "b", "c"]
    cursor = Cursor(names)
    assert list(cursor) == names
    for row in [("a", 0), ("a", 1), ("a", 0), ("a", 1), ("b", 0)]:
        cursor.passed(*row)
    position = cursor.position(5, 0)
    assert (position.sources, position.into) == (3, 1)
    later = Cursor(names)
    later.skip(position)
    assert list(later) == ["b", "c"]
    for row in [("b", 1), ("b", 2), ("c", 0)]:
        later.passed(*row)
    assert (later.begun, later.into) == (4, 1)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_a_run_goes_on_when_readers_of_a_killed_one_let_go_of_its_file(program, begun, monkeypatch) -> None:
    import fcntl

    listed = f"@{begun.parent}/list"
    assert program("predict", listed, "-o", begun).code == 130
    monkeypatch.undo()
    with begun.with_name("out.csv.part").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        threading.Timer(0.6, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        assert program("predict", listed, "-o", begun, "--resume").code == 0
    assert begun.read_bytes().count(b"\n") == 151


def test_to_resume_what_is_complete_has_the_exit_code_of_its_rows(program, examples, tmp_path) -> None:
    for name in ("a.csv", "a.jsonl"):
        for inputs, code in (([examples[0]], 0), ([examples[0], "nowhere.cif"], 3), (["nowhere.cif"], 4)):
            (tmp_path / name).unlink(missing_ok=True)
            for _ in range(2):
                assert program("predict", *inputs, "-o", tmp_path / name, "--resume").code == code


@pytest.mark.parametrize("content", ["", "name,value\na,1\n", "not a table at all"])
def test_to_resume_into_what_is_no_result_leaves_it_alone(program, examples, tmp_path, content: str) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_text(content)
        assert program("predict", examples[0], "-o", tmp_path / name, "--resume").code == 0
        assert (tmp_path / name).read_text() == content


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.csv"])
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT] * 30, [signal.SIGTERM, signal.SIGINT]])
def test_whoever_asks_twice_to_stop_loses_no_rows(tmp_path, inputs, name: str, signals: list[int]) -> None:
    output = tmp_path / name
    # torch is imported meanwhile for one kind of file; it would take most of the time of the others
    program = start(*inputs * 5, "-o", output, before="" if name == "a.csv" else NO_TORCH)
    said = ""
    while "nowhere.cif" not in said:  # a failed row is said once its window is computed
        said += program.stderr.readline().decode()
    for number in signals:
        program.send_signal(number)
        time.sleep(0.02)
    code, rest = finished(program)
    said += rest
    assert code == 130
    assert "Traceback" not in said
    if name != "a.csv":
        assert "rows are complete in" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.interrupted"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_a_program_that_a_script_put_aside_does_not_hear_of_ctrl_c(tmp_path, examples) -> None:
    """A shell without job control starts what ends with & deaf to SIGINT, which is for the one in front."""
    command = [sys.executable, "-m", "crystalpredict", "predict", *examples[:2], "-o", str(tmp_path / "a.json")]
    deaf = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, deaf)
    assert program.stderr.readline().startswith("crystalpredict: model ")
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=300)
    assert program.returncode == 0
