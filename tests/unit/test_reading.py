"""Files read by worker processes come in order, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from crystalpredict import reading
from crystalpredict.reading import CHUNK_BYTES, CHUNK_FILES, FEW, Reader, chunks_of, read_chunk
from crystalpredict.structures import Entry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RADIUS = 6.0


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three chunks of good and bad files, one of them with two structures."""
    texts = [(EXAMPLES / name).read_text() for name in ("NaCl.cif", "SrTiO3.cif", "GaAs.cif")]
    texts += ["nonsense", texts[0] + texts[2], ""]
    files = []
    for number in range(2 * CHUNK_FILES + 7):
        path = tmp_path / f"{number}.cif"
        path.write_text(texts[number % len(texts)])
        files.append(str(path))
    return [*files, str(tmp_path / "nowhere.cif")]


def told(entries: Sequence[Entry]) -> list[tuple[str, int, str, str, int]]:
    return [(e.path, e.index, e.formula, e.error, e.neighbors.size if e.neighbors else 0) for e in entries]


def test_workers_give_what_one_process_gives_in_order(paths: list[str]) -> None:
    assert len(paths) > FEW
    with Reader(paths, RADIUS, jobs=1) as alone, Reader(paths, RADIUS, jobs=2) as several:
        assert alone.pool is None
        assert several.pool is not None
        expected = told(list(alone.entries()))
        assert told(list(several.entries())) == expected
    assert [row[0] for row in expected if row[1] == 0] == paths
    assert sum(row[1] == 1 for row in expected) > 10


def test_equivalent_atoms_are_merged_unless_told_not_to(paths: list[str]) -> None:
    for merge, sites in ((True, 2), (False, 8)):
        with Reader(paths[:1], RADIUS, merge=merge) as reader:
            (entry,) = reader.entries()
            assert entry.neighbors is not None
            assert entry.neighbors.size == sites
            assert entry.n_atoms == 8


def test_few_files_start_no_workers(paths: list[str]) -> None:
    with Reader(paths[: FEW - 1], RADIUS, jobs=4) as reader:
        assert reader.pool is None


def test_killed_workers_are_replaced_and_nothing_is_lost(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AHEAD", 4)
    paths = paths * 5  # more chunks than are handed out at first
    with Reader(paths, RADIUS, jobs=2) as reader:
        assert reader.pool is not None
        entries = reader.entries()
        found = [next(entries)]
        for process in list(reader.pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        found += entries
    with Reader(paths, RADIUS, jobs=1) as alone:
        assert told(found) == told(list(alone.entries()))


def end_at_seven(paths: Sequence[str]) -> list[Entry]:
    if any(path.endswith("/7.cif") for path in paths):
        os._exit(1)  # as the kernel does when memory runs out
    return read_chunk(paths, RADIUS, merge=True)


def test_a_file_that_ends_its_worker_is_named_and_the_others_are_read(paths: list[str]) -> None:
    with Reader(paths, RADIUS, jobs=2) as reader, Reader(paths, RADIUS, jobs=1) as alone:
        reader.read = end_at_seven
        reader.waiting.clear()
        reader.chunks = chunks_of(paths)
        reader._submit()
        found, expected = told(list(reader.entries())), told(list(alone.entries()))
    assert [row[0] for row in found] == [row[0] for row in expected if not (row[0].endswith("/7.cif") and row[1])]
    (lost,) = (row for row in found if row[0].endswith("/7.cif"))
    assert "ended the process" in lost[3]
    assert [row for row in found if row != lost] == [row for row in expected if not row[0].endswith("/7.cif")]


def test_a_chunk_is_limited_in_files_and_bytes(tmp_path: Path) -> None:
    for number, size in enumerate([CHUNK_BYTES + 1, 10, CHUNK_BYTES - 5, 10]):
        (tmp_path / str(number)).write_bytes(b" " * size)
    large = [str(tmp_path / str(number)) for number in range(4)]
    assert [len(chunk) for chunk in chunks_of(large)] == [1, 1, 1, 1]
    absent = ["nowhere", "a\0b"] * CHUNK_FILES
    assert [len(chunk) for chunk in chunks_of(absent)] == [CHUNK_FILES, CHUNK_FILES]
    assert list(chunks_of([])) == []
