"""Files read by worker processes come in order, whatever happens to the workers."""

from __future__ import annotations

import gc
import gzip
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

import crystalpredict.io.structure_text  # noqa: F401  so that no file pays for it
from crystalpredict.io import reader as reading
from crystalpredict.io.entries import Entry, Inline, Parsed, Source, start_of
from crystalpredict.io.reader import (
    CHUNK_BYTES,
    CHUNK_FILES,
    MIN_SOURCES_FOR_WORKERS,
    Reader,
    begin_source,
    chunks_of,
    entries_of_source,
    merge_entries,
    plain_source,
    read_chunk,
    stages_of,
    windows_of,
)
from crystalpredict.io.worker_pool import Limits, Stage, Workers

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RADIUS = 6.0
ODD = ("7", "8", "11", "73", "77")  # names of files that misbehave, in two chunks


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
    assert len(paths) > MIN_SOURCES_FOR_WORKERS
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
    with Reader(paths[: MIN_SOURCES_FOR_WORKERS - 1], RADIUS, jobs=4) as reader:
        assert reader.pool is None


def test_killed_workers_are_replaced_and_nothing_is_lost(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_CHUNKS_AHEAD", 4)
    paths = paths * 5  # more chunks than are handed out at first
    with Reader(paths, RADIUS, jobs=2) as reader:
        assert reader.pool is not None
        entries = reader.entries()
        found = [next(entries)]
        for worker in reader.pool.workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        found += entries
    with Reader(paths, RADIUS, jobs=1) as alone:
        assert told(found) == told(list(alone.entries()))


@pytest.mark.parametrize("vectors", [False, True])
def test_entries_come_out_of_a_worker_as_they_went_in(paths: list[str], tmp_path: Path, vectors: bool) -> None:
    shared = tmp_path / "shared.cif"
    alloy = Structure([[4, 0, 0], [0, 4, 0], [0, 0, 4]], [{"Cu": 0.5, "Au": 0.5}, "Zn"], [[0, 0, 0], [0.5] * 3])
    alloy.to(str(shared))
    chunks = (paths[:6], [*paths[:6], str(shared)], paths[3:4], [])
    workers = Workers(1, "spawn", stages_of(RADIUS, vectors=vectors), merge_nothing, Limits())
    try:
        backs = [workers.submit(some).result() for some in chunks]
    finally:
        workers.close()
    for some, back in zip(chunks, backs, strict=True):
        entries = read_chunk(some, RADIUS, merge=False, vectors=vectors)
        assert len(back) == len(entries)
        for one, two in zip(entries, back, strict=True):
            assert replace(one, crystal=None, neighbors=None) == replace(two, crystal=None, neighbors=None)
            for own, other in ((one.crystal, two.crystal), (one.neighbors, two.neighbors)):
                assert (own is None) == (other is None)
                for field in fields(own) if own else ():
                    np.testing.assert_array_equal(getattr(own, field.name), getattr(other, field.name), strict=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_is_not_for_workers_not_even_while_they_begin(paths: list[str], capfd) -> None:
    workers = Workers(1, "spawn", stages_of(RADIUS), merge_nothing, Limits())
    process = workers.workers[0].process
    try:
        answer = workers.submit(paths[:2])
        while not answer.done():
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.02)
        assert [entry.path for entry in answer.result()] == paths[:2]
        assert workers.workers[0].process is process
    finally:
        workers.close()
    assert capfd.readouterr().err == ""
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def misbehave(source: Source) -> Parsed | list[Entry]:
    """Parses, but for what the names of files ask for."""
    name = Path(start_of(source)[0]).stem
    if name == "7":
        os._exit(1)  # as the kernel does when memory runs out
    while name == "11":  # a parser that hangs
        pass
    if name == "77":
        with pytest.raises(MemoryError):
            bytearray(2**34)
        return [Entry(start_of(source)[0], 0, error="no memory")]
    return plain_source(begin_source(source))


def misbehave_later(parsed: Parsed | list[Entry]) -> list[Entry]:
    """Ends what was begun, but for what the names of files ask for."""
    name = Path(parsed.path).stem if isinstance(parsed, Parsed) else ""
    if name == "8":
        os._exit(1)
    if name == "73":
        time.sleep(1000)
    return entries_of_source(parsed, RADIUS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_what_hangs_dies_or_eats_memory_is_named_and_the_others_are_read(paths: list[str]) -> None:
    limits = Limits(8.0, memory=2**31)  # seconds, without those of importing this module and with it the parser
    workers = Workers(
        2, "spawn", [Stage(misbehave), Stage(misbehave_later)], partial(merge_entries, radius=RADIUS), limits
    )
    try:
        futures = [workers.submit(chunk) for chunk, _ in chunks_of(paths)]
        found = [entry for future in futures for entry in future.result()]
    finally:
        workers.close()
    expected = told(read_chunk(paths, RADIUS, merge=True))
    failed = {Path(entry.path).stem: entry.error for entry in found if Path(entry.path).stem in ODD}
    assert "ended the reader process" in failed["7"]
    assert "ended the reader process" in failed["8"]
    assert failed["11"] == failed["73"] == limits.exceeded
    assert failed["77"] == "no memory"
    assert [row for row in told(found) if Path(row[0]).stem not in failed] == [
        row for row in expected if Path(row[0]).stem not in failed
    ]


def is_garbage_collected(source: Source) -> list[Entry]:
    return [Entry(start_of(source)[0], 0, formula=str(gc.isenabled()))]


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")
def test_workers_forked_while_garbage_is_left_alone_look_for_it(paths: list[str]) -> None:
    gc.disable()
    try:
        workers = Workers(1, "fork", [Stage(is_garbage_collected)], merge_nothing, Limits())
    finally:
        gc.enable()
    try:
        (found,) = workers.submit(paths[:1]).result()
    finally:
        workers.close()
    assert found.formula == "True"


def merge_nothing(entries: list[Entry]) -> list[Entry]:
    return entries


def die_together(entries: list[Entry]) -> list[Entry]:
    if len(entries) > 1 or "3.cif" in entries[0].path:
        os._exit(1)
    return entries


def test_what_dies_after_the_reading_is_tried_alone(paths: list[str]) -> None:
    workers = Workers(1, "spawn", stages_of(RADIUS), die_together, Limits())
    try:
        found = workers.submit(paths[:4]).result()
    finally:
        workers.close()
    assert [bool(entry.error) for entry in found] == [False, False, False, True]
    assert "ended the reader process" in found[3].error


def test_a_file_that_takes_too_long_is_stopped_in_this_process_too(paths: list[str], tmp_path: Path) -> None:
    places = [(i / 70, j / 70, k / 70) for i, j, k in product(range(70), repeat=3)]  # 5 Å apart: seconds of neighbours
    plain = {"lattice": [350] * 3 + [90] * 3, "species": ["Cs"] * len(places), "frac_coords": places}
    large = tmp_path / "large.json"
    large.write_text(json.dumps(plain))
    paths = [paths[0], str(large), paths[1]]
    one, slow, two = read_chunk(paths, RADIUS, merge=True, limits=Limits(1.0))
    assert [one.error, slow.error, two.error] == ["", Limits(1.0).exceeded, ""]
    time.sleep(1.1)  # no alarm is left to ring


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_a_file_that_needs_too_much_memory_is_named_in_this_process_too(paths: list[str], tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    large = tmp_path / "large.cif.gz"
    large.write_bytes(gzip.compress(b"data_x\n" + b"# nothing\n" * 20_000_000, 1))
    with Reader([paths[0], str(large), paths[1]], RADIUS, limits=Limits(memory=2**28)) as reader:
        one, big, two = reader.entries()
    assert [one.error, big.error, two.error] == ["", reading.NO_MEMORY, ""]
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_nobody_foresaw_costs_one_file(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(parsed: Parsed, radius: float, *, vectors: bool = False) -> list[Entry]:
        if parsed.path == paths[1]:
            raise ZeroDivisionError("twice\nand more")
        if parsed.path == paths[2]:
            raise MemoryError
        return [Entry(parsed.path, 0)]

    def together(several: Sequence[Parsed], radius: float, *, vectors: bool = False) -> list[list[Entry]]:
        return [broken(parsed, radius) for parsed in several]

    monkeypatch.setattr(reading, "entries_of", broken)
    monkeypatch.setattr(reading, "entries_of_plain", together)
    errors = [entry.error for entry in read_chunk(paths[:4], RADIUS, merge=False)]
    assert [bool(error) for error in errors] == [False, True, True, False]
    assert "ZeroDivisionError: twice)" in errors[1]
    assert "memory" in errors[2]


def test_few_sources_in_large_texts_are_handed_out_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, large = 0, 10_000  # bytes, of a few that are read ahead
    monkeypatch.setattr(reading, "CHUNK_BYTES", large)

    def texts() -> Iterator[Source]:
        nonlocal asked
        for number in range(200):
            asked = number
            yield Inline(str(number), " " * large)

    monkeypatch.setattr(reading, "MAX_BYTES_AHEAD", 10 * large)
    with Reader(texts(), RADIUS, jobs=2) as reader:
        assert asked < MIN_SOURCES_FOR_WORKERS + 3  # those that were looked at to count them
        entries = reader.entries()
        next(entries)
        assert asked < MIN_SOURCES_FOR_WORKERS + 4
        assert len(list(entries)) == 199


def test_a_chunk_is_limited_in_files_and_bytes(tmp_path: Path) -> None:
    for number, size in enumerate([CHUNK_BYTES + 1, 10, CHUNK_BYTES - 5, 10]):
        (tmp_path / str(number)).write_bytes(b" " * size)
    large = [str(tmp_path / str(number)) for number in range(4)]
    assert [len(chunk) for chunk, _ in chunks_of(large)] == [1, 1, 1, 1]
    absent = ["nowhere", "a\0b"] * CHUNK_FILES
    assert [len(chunk) for chunk, _ in chunks_of(absent)] == [CHUNK_FILES, CHUNK_FILES]
    assert list(chunks_of([])) == []


def test_windows_grow_so_that_a_run_killed_early_keeps_rows() -> None:
    sizes = [len(window) for window in windows_of(Entry(str(n), 0, error="x") for n in range(3000))]
    assert sizes == [125, 250, 500, 1000, 1000, 125]
