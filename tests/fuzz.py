"""Damaged files by the hundred thousand, read as in production: `python -m tests.fuzz`, or `make fuzz`.

Each must give crystals, which are predicted, or one line of error that somebody foresaw: no traceback, no hang, no
memory without bounds, nothing on stderr. Prints how many ended for which reason; writes those that broke the rule to a
folder, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pymatgen.io.vasp.inputs  # noqa: F401  before the workers start: a file is not to be blamed for the time of it

from crystalpredict.cli.tally import reason_of
from crystalpredict.errors import MAX_MESSAGE_LENGTH
from crystalpredict.io.entries import Entry, Inline, Source
from crystalpredict.io.inputs import expand
from crystalpredict.io.reader import CHUNK_FILES, NO_MEMORY, merge_entries, read_source
from crystalpredict.io.sources import sources_of
from crystalpredict.io.worker_pool import DIED, Limits, Stage, Workers
from tests.mutants import mutant, originals

RADIUS = 6.0
LIMITS = Limits(60.0, 2**30)  # of wall-clock time, on a machine that may be busy
MOST_ORIGINALS = 2000  # of each path given


def complaint(entry: Entry) -> str:
    """What is wrong with an entry, if it is neither a crystal to predict nor a foreseen error of one line."""
    if entry.error:
        if "please report it" in entry.error or entry.error in (DIED, NO_MEMORY, LIMITS.exceeded):
            return entry.error
        if entry.crystal is not None or entry.neighbors is not None:
            return "an error and a crystal"
        printed = "".join(letter for letter in entry.error if letter.isprintable())
        return (
            "" if printed == entry.error and len(printed) <= MAX_MESSAGE_LENGTH else f"no line of text: {entry.error!r}"
        )
    crystal, edges = entry.crystal, entry.neighbors
    if crystal is None or edges is None:
        return "neither an error nor a crystal"
    finite = all(np.isfinite(part).all() for part in (crystal.lattice, crystal.positions, edges.distances))
    whole = 0 < crystal.occupancies.sum(axis=1).max() <= 1 + 1e-9 and crystal.numbers.min() >= 1
    return "" if finite and whole and entry.formula and entry.n_atoms else "a crystal that cannot be predicted"


class Watched:
    """`read_source`, and an error for a source that writes to stderr while it is read, in a worker of its own."""

    def __init__(self) -> None:
        self.said: IO[bytes] | None = None

    def __call__(self, source: Source) -> list[Entry]:
        if self.said is None:
            self.said = os.fdopen(os.memfd_create("stderr"), "r+b")
            os.dup2(self.said.fileno(), 2)
            for kind in (UserWarning, RuntimeWarning):
                warnings.simplefilter("always", kind)  # each time, not once for each place
        entries = read_source(source, RADIUS)
        sys.stderr.flush()
        if self.said.seek(0, os.SEEK_END):
            self.said.seek(0)
            entries = [Entry(entries[0].path, 0, error=f"please report it: stderr {self.said.read(300)!r}")]
            self.said.seek(0)
            self.said.truncate()
        return entries


def start(jobs: int) -> Workers:
    """Workers such as production has."""
    return Workers(jobs, "fork", [Stage(Watched())], partial(merge_entries, radius=RADIUS), LIMITS)


def read_all(workers: Workers, sources: Iterator[Source]) -> Iterator[Entry]:
    """Entries of all sources, in order, some chunks ahead."""
    waiting: deque[Future[list[Entry]]] = deque()
    while chunk := tuple(islice(sources, CHUNK_FILES)):
        waiting.append(workers.submit(chunk))
        if len(waiting) > 4 * len(workers.workers):
            yield from waiting.popleft().result()
    for future in waiting:
        yield from future.result()


def contents_of(paths: Sequence[str]) -> list[bytes]:
    """What the files, members of archives and cells of tables in these paths hold."""
    contents = []
    for path in paths:
        for source in islice(sources_of(expand([path])), MOST_ORIGINALS):
            text = Path(source).read_bytes() if isinstance(source, str) else source.text
            contents.append(text.encode() if isinstance(text, str) else text)
    return contents


def main() -> int:
    """Read mutants and say what became of them; 1 if any broke the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files, directories, tables to damage besides the examples")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--offenders", type=Path, default=Path("fuzz-offenders"), help="folder for those that fail")
    options = parser.parse_args()
    contents = [group for group in (originals(), contents_of(options.paths)) if group]
    sources = (Inline(str(number), mutant(contents, options.seed, number)) for number in range(options.count))
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    offenders: dict[int, str] = {}

    def judge(path: str, wrong: str) -> None:
        if wrong:
            offenders[int(path)] = wrong
            options.offenders.mkdir(exist_ok=True)
            (options.offenders / path).write_bytes(mutant(contents, options.seed, int(path)))
            print(f"{options.offenders / path}: {wrong}", flush=True)

    def judged(entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            judge(entry.path, wrong := complaint(entry))
            outcomes["OFFENDER" if wrong else reason_of(entry.error) if entry.error else "a crystal"] += 1
            if not wrong:
                yield entry

    workers = start(options.jobs)
    try:
        from crystalpredict.prediction.predictor import load_model  # torch, which the workers do without

        warnings.simplefilter("error")
        for row in load_model(device="cpu").stream(judged(read_all(workers, sources))):
            judge(row.path, "" if row.error or all(map(np.isfinite, row.values.values())) else "not predicted")
    finally:
        workers.close()
    seconds = time.monotonic() - started
    for reason, count in outcomes.most_common():
        print(f"{count:8,}  {reason}")
    made = f"{options.count:,} mutants of {sum(map(len, contents)):,} files, seed {options.seed}"
    print(f"{made}: {outcomes.total():,} structures, {len(offenders):,} offenders, {seconds:.0f} s")
    return bool(offenders)


if __name__ == "__main__":
    sys.exit(main())
