"""Rows that were computed survive whatever system call fails, and whenever the program is killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from crystalpredict.errors import CrystalPredictError, UsageError
from crystalpredict.prediction.journal import Position
from crystalpredict.prediction.resume import PartialFile
from crystalpredict.prediction.shards import Shards

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
WINDOWS = [f"Cs{number}Cl,{number}\n" for number in range(4)]
FACTS = {"shard": "1/1", "format": "jsonl", "columns": ["gap"]}
SUMS = {"inputs": len(WINDOWS), "names": "0f"}
CALLS = ["open", "write", "fsync", "ftruncate", "lseek", "replace", "chmod", "unlink", "close", "flock"]


def run(path: Path, windows: int = len(WINDOWS)) -> None:
    """A run that goes on where the one before stopped, to the end or so many windows."""
    with PartialFile(path, FACTS, resume=True) as part:
        for number in range(part.position.rows, windows):
            part.stream.write(WINDOWS[number])
            part.places.append(number)
            part.commit(Position(rows=number + 1))
        if windows == len(WINDOWS):
            part.finish(SUMS)


def begun(path: Path) -> None:
    """A run that was killed in the middle of its third window."""
    path.parent.mkdir()
    run(path, 2)
    with path.with_name("a.part").open("ab") as part, path.with_name("a.part-journal").open("ab") as journal:
        part.write(b"Cs2C")
        journal.write(b'{"rows": 3, "si')


def failing(real: Callable[..., Any], number: int, fail: Callable[[], None], failed: list[int]) -> Callable[..., Any]:
    """A system call that fails at one of its calls, when a part of what it was to write is written."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            failed.append(number)
            if real is os.write:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            fail()
        return real(*arguments, **options)

    return call


def ended_by(name: str, number: int, fail: Callable[[], None], path: Path) -> bool:
    """Whether a run, in a process of its own, has so many calls, of which the last fails."""
    import fcntl

    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 3, 9)
        return code != 0
    code, failed = 1, list[int]()
    try:
        module = fcntl if name == "flock" else os
        setattr(module, name, failing(getattr(module, name), number, fail, failed))
        run(path)
        code = 3 if failed else 0  # what tidies up may fail, too
    except (CrystalPredictError, KeyboardInterrupt):
        code = 3
    finally:
        os._exit(code)


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


FAILURES = {
    "no room": raising(OSError(errno.ENOSPC, "No space left on device")),
    "interrupt": raising(KeyboardInterrupt()),
    "kill": lambda: os._exit(9),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", CALLS)
def test_a_run_that_goes_on_after_any_failure_has_the_rows_of_a_whole_one(tmp_path, name, failure) -> None:
    whole = tmp_path / "whole" / "a"
    whole.parent.mkdir()
    run(whole)
    expected = {path.name: path.read_bytes() for path in whole.parent.iterdir()}
    assert sorted(expected) == ["a", "a.shard"]
    for start in (lambda path: path.parent.mkdir(), begun):
        for number in count(1):
            path = tmp_path / "try" / "a"
            start(path)
            failed = ended_by(name, number, FAILURES[failure], path)
            if not path.exists():
                run(path)
            path.with_name("a.part-journal").unlink(missing_ok=True)  # of a run that was killed as it ended
            assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == expected, number
            assert list(Shards([path]).rows()) == WINDOWS
            shutil.rmtree(path.parent)
            if not failed:
                break


def test_rows_survive_the_removal_of_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a"
    begun(path)
    with PartialFile(path, FACTS, resume=True) as part:
        shutil.rmtree(path.parent)
        part.stream.write(WINDOWS[2])
        part.places.append(2)
        part.commit(Position(rows=3))
    with PartialFile(path, FACTS, resume=True) as part:
        assert part.position.rows == 3
        path.parent.rename(tmp_path / "elsewhere")
    run(path)
    assert path.read_text() == "".join(WINDOWS)
    assert sorted(os.listdir(path.parent)) == ["a", "a.shard"]
    assert list(Shards([path]).rows()) == WINDOWS


def test_a_journal_that_counts_more_sources_than_there_are_is_refused() -> None:
    from crystalpredict.errors import UsageError
    from crystalpredict.prediction.resume import Cursor

    with pytest.raises(UsageError, match="inputs differ from those"):
        Cursor(["a"]).skip(Position(sources=2**62))


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"extra": {"id": "text"}}, "--keep takes from tables differ: only this command has id:"),
        ({"elements": [["Na"], [], []]}, "--elements"),
        ({"known phases": "0f"}, "--entries or --no-reference"),
        ({"copies": True}, "only this command has --copy-to"),
        ({"columns": ["energy"]}, "its columns differ (it was ['gap'], now ['energy'])"),
    ],
)
def test_what_differs_is_told_by_its_option(tmp_path: Path, fact: dict[str, Any], words: str) -> None:
    begun(tmp_path / "x" / "a")
    with pytest.raises(UsageError, match="cannot resume") as refused:
        PartialFile(tmp_path / "x" / "a", {**FACTS, **fact}, resume=True)
    assert words in str(refused.value)
    assert next(iter(fact)) == "columns" or "it was" not in str(refused.value)
