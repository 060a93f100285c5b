"""One of n parts of a screen, each with a share of the inputs; and their rows put together again in the first order."""

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
from crystalpredict.prediction.journal import Position, Run, Sums, facts_of, line_as, run_of
from crystalpredict.properties import TEXT_COLUMNS

RECORD = ".shard"  # FILE.shard: a line of facts, a line for each window with the places of its rows, a line of sums
PART = ".part"
JOURNAL = ".part-journal"
BLOCK = 2**16  # bytes read at a time: no file stays open, for there may be more shards than files that may be open
LONGEST_LINE = 2**24  # bytes, far more than any of a run
SHOWN = 5  # shards named in an error
START: dict[str, type] = {"path": str, "index": int, "formula": str, "n_atoms": int}  # of a row, before its values


class Shard:
    """Every n-th input, beginning with the i-th; and, as the inputs pass, how many they are and a digest of them."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self.inputs = 0
        self.digest = hashlib.blake2b(digest_size=16)

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `i/n` says; UsageError if it says none."""
        found = re.fullmatch(r"0*([0-9]{1,12})/0*([0-9]{1,12})", text)
        if not found:
            raise UsageError(f"--shard {text[:60]}: give the number of the shard and how many there are, 3/100")
        number, count = map(int, found.groups())
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text[:60]}: shards are counted from 1/{count} to {count}/{count}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def takes(self, name: str) -> bool:
        """Whether the next input, in the order of all, belongs to this shard."""
        self.digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        self.inputs += 1
        return (self.inputs - self.number) % self.count == 0

    def sums(self) -> dict[str, Any]:
        """What all shards of a run must agree on when all inputs have passed, in JSON's types."""
        return {"inputs": self.inputs, "names": self.digest.hexdigest()}


def last_line(lines: bytes, sums: dict[str, Any], rows: Path) -> bytes:
    """The line that ends the record of a shard: its sums, and a digest of the lines before, of them and of the rows."""
    return json.dumps({**sums, "digest": _digest([lines, _text_of(sums)], rows)}).encode() + b"\n"


def _text_of(sums: dict[str, Any]) -> bytes:
    return json.dumps(sums, sort_keys=True).encode()


def _digest(texts: Iterable[bytes], rows: Path) -> str:
    """A digest of some texts and the content of a file."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text)
    with rows.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def refuse_other(output: Path, shard: Shard | None) -> None:
    """UsageError if a file that is there holds the rows of another shard than this one."""
    if shard is None or not output.exists():
        return
    try:
        held = str(_Part.of(output).shard)
    except DataError:
        held = ""
    if held != str(shard):
        what = f"shard {held}" if held else f"rows that are not known to be of shard {shard}"
        raise UsageError(f"{output}: holds {what}: give each shard a file of its own, or delete it")


@dataclass(frozen=True)
class _Part:
    """A shard's file, the facts of its run and its sums, as its record has them."""

    path: Path
    facts: dict[str, Any]
    run: Run
    shard: Shard
    sums: Sums

    @classmethod
    def of(cls, path: Path) -> _Part:
        """DataError if the file has no record, or either is damaged or altered."""
        record = _record_of(path)
        for file in (path, record):
            if not os.path.isfile(file):
                what = "has no record of its run" if os.path.isfile(path) else "cannot be read"
                raise DataError(f"{path}: {what} ({file}: no such file): is it made with --shard?")
        try:
            facts = facts_of(next(lines_of(record), b""))
            run = run_of(facts)
            shard = Shard.parse(run.shard)
            (last,) = deque(lines_of(record), maxlen=1)
            sums = line_as(Sums, last)
            told = {name: value for name, value in asdict(sums).items() if name != "digest"}
            before = (line for line, _ in pairwise(lines_of(record)))
            altered = path.stat().st_size != sums.size or _digest(chain(before, [_text_of(told)]), path) != sums.digest
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}): run this shard again") from None
        except (ValueError, IndexError, UsageError):
            raise DataError(f"{record}: damaged: run this shard again") from None
        if altered:
            raise DataError(f"{path}: it or {record.name} was altered since its run: run this shard again")
        return cls(path, facts, run, shard, sums)

    def records(self) -> Iterator[str]:
        """The lines of the file, with the header of a CSV, whose rows may have several lines each."""
        lines = (self._text(line) for line in lines_of(self.path))
        return _records_of_csv(lines) if self.run.format == "csv" else lines

    def _text(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: no UTF-8: run this shard again") from None

    def rows(self) -> Iterator[tuple[int, str]]:
        """The rows as they stand in the file, each with the place of its input among all."""
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
        """For each row, the place of its input among all; DataError unless they rise and there are such inputs."""
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
        """UsageError or DataError unless they are all, each once, complete, and of the same run."""
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
                raise UsageError(f"{part.path}: shard {number}/{count} again, which {by_number[number]} holds too")
            by_number[number] = part.path
        if missing := first.shard.count - len(by_number):
            lacking = (number for number in range(1, first.shard.count + 1) if number not in by_number)
            named = ", ".join(map(str, islice(lacking, SHOWN))) + (", ..." if missing > SHOWN else "")
            raise UsageError(f"{missing} of {first.shard.count} shards missing: {named}")
        self.format: str = first.run.format
        self.columns = first.run.columns
        values: dict[str, type] = {name: str if name in TEXT_COLUMNS else float for name in self.columns}
        warnings = {"warnings": str if self.format == "csv" else list}
        self.kinds: dict[str, type] = {**START, **values, **warnings, "error": str}
        self.header = next(first.records(), "") if self.format == "csv" else ""
        for part in others if self.header else ():
            if next(part.records(), "") != self.header:
                raise DataError(f"{part.path}: other columns than {first.path}")
        if self.header and next(csv.reader([self.header]), []) != list(self.kinds):
            raise DataError(f"{first.path}: its columns are not those of its record: run this shard again")

    def rows(self) -> Iterator[str]:
        """The rows as they stand in the files, with their line ends, in the order of the inputs.

        In memory are some rows of each shard.
        """
        return map(itemgetter(1), heapq.merge(*(part.rows() for part in self.parts), key=itemgetter(0)))

    def fields(self, row: str) -> dict[str, Any]:
        """The fields of a row; numbers as numbers, None where there is no value. DataError if it is no such row."""
        try:
            fields = self._fields(row)
        except (ValueError, RecursionError, csv.Error):
            raise DataError(f"no row of predict in the shards ({row[:60]!r}): run them again") from None
        return fields

    def _fields(self, row: str) -> dict[str, Any]:
        if self.format == "csv":
            texts = zip(self.kinds.items(), next(csv.reader([row], strict=True)), strict=True)
            fields = {name: kind(text) if text or name == "path" else None for (name, kind), text in texts}
        else:
            fields = json.loads(row)
        if not isinstance(fields, dict) or list(fields) != list(self.kinds):
            raise ValueError("other columns")
        for (name, kind), value in zip(self.kinds.items(), fields.values(), strict=True):
            if not (_is_of(kind, value) or (value is None and name != "path")):
                raise ValueError(name)
        return fields


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value is of one of the kinds of fields."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if type(value) is int:
        return kind in (int, float) and abs(value) < 2**63
    return type(value) is kind


def _record_of(path: Path) -> Path:
    return path.parent / f"{path.name}{RECORD}"  # also of what is no name of a file


def _refuse_other_run(first: _Part, part: _Part) -> None:
    """UsageError naming what two shards differ in."""
    for name in first.facts.keys() | part.facts.keys():
        one, two = first.facts.get(name), part.facts.get(name)
        if name == "shard":
            one, two = first.shard.count, part.shard.count
        if json.dumps(one) != json.dumps(two):  # 1 is not true
            what = "number of shards" if name == "shard" else name
            values = f"{str(one)[:60]} and {str(two)[:60]}"
            raise UsageError(f"{first.path} and {part.path}: not of the same run, {what} differs ({values})")
    if (first.sums.inputs, first.sums.names) != (part.sums.inputs, part.sums.names):
        counts = f"{first.sums.inputs} and {part.sums.inputs}"
        raise UsageError(
            f"{first.path} and {part.path}: the inputs changed between the shards ({counts}): "
            "some would be lost or come twice; run the shards again, with a list of files that stays as it is"
        )


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends; the file is open only while a block of it is read."""
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
        if len(rest) > LONGEST_LINE:
            raise DataError(f"{path}: a line of more than {LONGEST_LINE:,} bytes: run this shard again")
    if rest:
        yield rest


def _records_of_csv(lines: Iterable[str]) -> Iterator[str]:
    """The records of a CSV as they stand there: lines, but for those that end within quotes."""
    begun: list[str] = []
    quotes = length = 0
    for line in lines:
        begun.append(line)
        quotes, length = quotes + line.count('"'), length + len(line)
        if quotes % 2 == 0:
            yield "".join(begun)
            begun, quotes, length = [], 0, 0
        elif length > LONGEST_LINE:
            raise DataError("a row of the shards does not end: run them again")
    if begun:
        yield "".join(begun)
