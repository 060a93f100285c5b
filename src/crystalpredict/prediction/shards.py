"""Shards of a run, each with a share of the inputs, and merging of their rows in the order of all inputs."""

from __future__ import annotations

import csv
import hashlib
import heapq
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from crystalpredict._files import resolve_link
from crystalpredict.errors import DataError, UsageError
from crystalpredict.io.cell_values import value_of
from crystalpredict.prediction.journal import Position, Run, Sums, differ, difference, facts_of, line_as, run_of

RECORD = ".shard"  # FILE.shard: a line of facts, one line of positions for each window, a line of sums
PART = ".part"
JOURNAL = ".part-journal"
BLOCK = (
    2**16
)  # bytes read at a time; files are closed in between, because there may be more shards than allowed open files
MAX_LINE_BYTES = 2**24  # far more than a run writes
MAX_SHARDS_NAMED = 5  # in an error
START: dict[str, type] = {"path": str, "index": int, "formula": str, "n_atoms": int}  # first columns of a row


class Shard:
    """Every n-th input from the i-th; counts all inputs and computes a digest of their names."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self.inputs = 0
        self.digest = hashlib.blake2b(digest_size=16)

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard `i/n`.

        Raises:
            UsageError: The text is not a shard.
        """
        found = re.fullmatch(r"0*([0-9]{1,12})/0*([0-9]{1,12})", text)
        if not found:
            raise UsageError(f"--shard {text[:60]}: give the number of the shard and the number of shards, as in 3/100")
        number, count = map(int, found.groups())
        if not count:
            raise UsageError(f"--shard {text[:60]}: there is at least one shard: give 1/1 or, of more, such as 3/100")
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text[:60]}: give a shard from 1/{count} to {count}/{count}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def takes(self, name: str) -> bool:
        """Whether the next input, named `name`, belongs to this shard; call it once for each input, in order."""
        self.digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        self.inputs += 1
        return (self.inputs - self.number) % self.count == 0

    def sums(self) -> dict[str, Any]:
        """Return the number of all inputs and the digest of their names, the same for all shards of a run."""
        return {"inputs": self.inputs, "names": self.digest.hexdigest()}


def last_line(lines: bytes, sums: dict[str, Any], rows: Path) -> bytes:
    """Return the last line of a shard's record: its sums with a digest of the earlier lines, the sums and the rows."""
    return json.dumps({**sums, "digest": _digest([lines, _sums_text(sums)], rows)}).encode() + b"\n"


def _sums_text(sums: dict[str, Any]) -> bytes:
    return json.dumps(sums, sort_keys=True).encode()


def _digest(texts: Iterable[bytes], rows: Path) -> str:
    """Return a digest of some texts and the content of a file."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text)
    with rows.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def refuse_other(output: Path, shard: Shard | None) -> None:
    """Raise UsageError if an existing output has the rows of another shard."""
    if shard is None or not output.exists():
        return
    try:
        held = str(_Part.of(output).shard)
    except DataError:
        held = ""
    if held != str(shard):
        what = f"shard {held}" if held else f"rows without a record of shard {shard}"
        raise UsageError(f"{output}: holds {what}: give each shard its own file, or delete this one")


@dataclass(frozen=True)
class _Part:
    """A shard's file with the facts and sums of its record."""

    path: Path
    facts: dict[str, Any]
    run: Run
    shard: Shard
    sums: Sums

    @classmethod
    def of(cls, path: Path) -> _Part:
        """Return the shard in a file.

        Raises:
            DataError: The file or its record is missing, damaged or altered.
        """
        record = _record_of(path)
        for file in (path, record):
            if not os.path.isfile(file):
                what = "has no record of its run" if os.path.isfile(path) else "cannot be read"
                raise DataError(f"{path}: {what} ({file}: no such file): write it with predict --shard")
        try:
            facts = facts_of(next(lines_of(record), b""))
            run = run_of(facts)
            shard = Shard.parse(run.shard)
            (last,) = deque(lines_of(record), maxlen=1)
            sums = line_as(Sums, last)
            own_sums = {name: value for name, value in asdict(sums).items() if name != "digest"}
            before = (line for line, _ in pairwise(lines_of(record)))
            altered = (
                path.stat().st_size != sums.size or _digest(chain(before, [_sums_text(own_sums)]), path) != sums.digest
            )
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}): run this shard again") from None
        except (ValueError, IndexError, UsageError):
            raise DataError(f"{record}: damaged: run this shard again") from None
        if altered:
            raise DataError(f"{path}: it or {record.name} changed since its run: run this shard again")
        return cls(path, facts, run, shard, sums)

    def records(self) -> Iterator[str]:
        """Yield the records of the file, a header of a CSV first; a CSV record may have several lines."""
        lines = (self._text(line) for line in lines_of(self.path))
        return _records_of_csv(lines) if self.run.format == "csv" else lines

    def _text(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: not UTF-8: run this shard again") from None

    def rows(self) -> Iterator[tuple[int, str]]:
        """Yield the rows as text, each with the number of its input among all."""
        texts = self.records()
        if self.run.format == "csv":
            next(texts, None)
        for place in self._places():
            if (text := next(texts, None)) is None:
                raise DataError(f"{self.path}: fewer rows than its run wrote: run it again")
            yield place, text
        if next(texts, None) is not None:
            raise DataError(f"{self.path}: more rows than its run wrote: run it again")

    def _places(self) -> Iterator[int]:
        """Yield the number of each row's input among all; DataError unless they increase up to the number of inputs."""
        record, before = _record_of(self.path), 0
        for line, _ in pairwise(islice(lines_of(record), 1, None)):
            try:
                places = line_as(Position, line).places
            except ValueError:
                raise DataError(f"{record}: damaged: run this shard again") from None
            for number in places:
                place = number * self.shard.count + self.shard.number - 1
                if not before <= place < self.sums.inputs:
                    raise DataError(f"{record}: damaged: run this shard again")
                before = place
                yield place


class Shards:
    """All shards of one run, ready to be merged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the shards.

        Raises:
            UsageError: A shard is missing, repeated, incomplete or of another run.
            DataError: A shard is damaged or altered.
        """
        paths = [resolve_link(path) for path in paths]
        for path in paths:
            if path.suffix == PART or os.path.exists(f"{path}{PART}"):
                raise UsageError(f"{path}: not complete: run this shard again with --resume")
        first, *others = self.parts = [_Part.of(path) for path in paths]
        by_number: dict[int, Path] = {}
        for part in self.parts:
            _refuse_other_run(first, part)
            number, count = part.shard.number, part.shard.count
            if number in by_number:
                raise UsageError(
                    f"{part.path}: shard {number}/{count} is also in {by_number[number]}: name each shard once"
                )
            by_number[number] = part.path
        if missing := first.shard.count - len(by_number):
            lacking = (number for number in range(1, first.shard.count + 1) if number not in by_number)
            named = ", ".join(map(str, islice(lacking, MAX_SHARDS_NAMED))) + (
                ", ..." if missing > MAX_SHARDS_NAMED else ""
            )
            raise UsageError(f"{missing} of {first.shard.count} shards missing: {named}")
        self.format: str = first.run.format
        self.columns, self.extra = first.run.columns, first.run.extra
        from crystalpredict.properties import TEXT_COLUMNS  # here: it imports NumPy

        values: dict[str, type] = {name: str if name in TEXT_COLUMNS else float for name in self.columns}
        warnings = {"warnings": str if self.format == "csv" else list}
        self.kinds: dict[str, type] = {**START, **values, **warnings, "error": str, **dict.fromkeys(self.extra, object)}
        self.header = next(first.records(), "") if self.format == "csv" else ""
        for part in others if self.header else ():
            if next(part.records(), "") != self.header:
                raise DataError(f"{part.path}: its columns differ from those of {first.path}: run this shard again")
        if self.header and next(csv.reader([self.header]), []) != list(self.kinds):
            raise DataError(f"{first.path}: its columns differ from its record: run this shard again")

    def rows(self) -> Iterator[str]:
        """Yield the rows as text with their line ends, in the order of the inputs, a few of each shard in memory."""
        return map(itemgetter(1), heapq.merge(*(part.rows() for part in self.parts), key=itemgetter(0)))

    def fields(self, row: str) -> dict[str, Any]:
        """Return the fields of a row as `record` gives them.

        Raises:
            DataError: The text is not a row of `predict`.
        """
        try:
            return self._fields(row)
        except (ValueError, RecursionError, csv.Error):
            raise DataError(f"not a row of predict in the shards ({row[:60]!r}): run them again") from None

    def _fields(self, row: str) -> dict[str, Any]:
        if self.format == "csv":
            texts = zip(self.kinds.items(), next(csv.reader([row], strict=True)), strict=True)
            fields = {name: self._cell(name, kind, text) for (name, kind), text in texts}
        else:
            fields = json.loads(row)
        if not isinstance(fields, dict) or list(fields) != list(self.kinds):
            raise ValueError("other columns")
        for (name, kind), value in zip(self.kinds.items(), fields.values(), strict=True):
            if name not in self.extra and not (_is_of(kind, value) or (value is None and name != "path")):
                raise ValueError(name)
        return fields

    def _cell(self, name: str, kind: type, text: str) -> Any:
        """Return the value of a cell of a CSV; None for an empty one."""
        if name in self.extra:
            return value_of(text, self.extra[name])
        return kind(text) if text or name == "path" else None


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value has the type of a field."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if type(value) is int:
        return kind in (int, float) and abs(value) < 2**63
    return type(value) is kind


def _record_of(path: Path) -> Path:
    return path.parent / f"{path.name}{RECORD}"  # with_name() fails for a path without a name


def _refuse_other_run(first: _Part, part: _Part) -> None:
    """Raise UsageError with what two shards differ in."""
    for name in first.facts.keys() | part.facts.keys():
        one, two = first.facts.get(name), part.facts.get(name)
        if name == "shard":
            one, two = first.shard.count, part.shard.count
        if json.dumps(one) != json.dumps(two):  # 1 is not true
            what = "number of shards" if name == "shard" else name
            other = difference(name, one, two, (first.path.name, part.path.name))
            what = other or f"{what} {differ(name)} ({str(one)[:60]} and {str(two)[:60]})"
            raise UsageError(f"{first.path} and {part.path}: not of the same run: {what}")
    if (first.sums.inputs, first.sums.names) != (part.sums.inputs, part.sums.names):
        counts = f"{first.sums.inputs} and {part.sums.inputs}"
        raise UsageError(
            f"{first.path} and {part.path}: the inputs changed between the shards ({counts}): "
            "some would be lost or repeated; run the shards again with a fixed list of files"
        )


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; the file is open only while a block is read."""
    offset, rest = 0, b""
    while True:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read(BLOCK)
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if not block:
            break
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(f"{path}: a line of more than {MAX_LINE_BYTES:,} bytes: run this shard again")
    if rest:
        yield rest


def _records_of_csv(lines: Iterable[str]) -> Iterator[str]:
    """Yield the records of a CSV as text: lines, joined if they end within quotes."""
    begun: list[str] = []
    quotes = length = 0
    for line in lines:
        begun.append(line)
        quotes, length = quotes + line.count('"'), length + len(line)
        if quotes % 2 == 0:
            yield "".join(begun)
            begun, quotes, length = [], 0, 0
        elif length > MAX_LINE_BYTES:
            raise DataError("a row of the shards has no end: run them again")
    if begun:
        yield "".join(begun)
