"""One of n parts of a screen, each with a share of the inputs; and their rows put together again in the first order."""

from __future__ import annotations

import csv
import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from crystalpredict._files import followed
from crystalpredict.errors import DataError, UsageError

RECORD = ".shard"  # FILE.shard: a line of facts, a line for each window with the places of its rows, a line of sums
PART = ".part"
BLOCK = 2**16  # bytes read at a time: no file stays open, for there may be more shards than files that may be open
LAST_LINE = 4096  # bytes, more than the line of sums has
SHOWN = 5  # shards named in an error


class Shard:
    """Every n-th input, beginning with the i-th; and, as the inputs pass, how many they are and a digest of them."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self.inputs = 0
        self.digest = hashlib.blake2b(digest_size=16)

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `i/n` says; UsageError if it says none."""
        number, slash, count = text.partition("/")
        if not (slash and number.isascii() and number.isdecimal() and count.isascii() and count.isdecimal()):
            raise UsageError(f"--shard {text}: give the number of the shard and how many there are, 3/100")
        if not 1 <= int(number) <= int(count):
            raise UsageError(f"--shard {text}: shards are counted from 1/{count} to {count}/{count}")
        return cls(int(number), int(count))

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


def refuse_other(output: Path, shard: Shard | None) -> None:
    """UsageError if a file that is there holds the rows of another shard than this one."""
    if shard is None or not output.exists():
        return
    try:
        held = _Part.of(output).facts["shard"]
    except DataError:
        held = None
    if held != str(shard):
        what = f"shard {held}" if held else f"rows that are not known to be of shard {shard}"
        raise UsageError(f"{output}: holds {what}: give each shard a file of its own, or delete it")


@dataclass(frozen=True)
class _Part:
    """A shard's file, the facts of its run and its sums, as its record has them."""

    path: Path
    facts: dict[str, Any]
    sums: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> _Part:
        """DataError if the file has no record, or not the size in it."""
        record = path.with_name(path.name + RECORD)
        try:
            size = path.stat().st_size
            facts = json.loads(next(lines_of(record), b""))
            with record.open("rb") as file:
                file.seek(max(0, record.stat().st_size - LAST_LINE))
                sums = json.loads(file.read().splitlines()[-1])
            known = {"shard", "format", "columns"} <= set(facts) and {"size", "inputs", "names"} <= set(sums)
        except OSError as error:
            what = "has no record of its run" if path.exists() else "cannot be read"
            raise DataError(f"{path}: {what} ({error.filename}: {error.strerror}): is it made with --shard?") from None
        except (ValueError, TypeError, IndexError):
            known = False
        if not known:
            raise DataError(f"{record}: damaged: run this shard again")
        if size != sums["size"]:
            raise DataError(f"{path}: altered since its run, {size} bytes instead of {sums['size']}: run it again")
        return cls(path, facts, sums)

    @property
    def shard(self) -> Shard:
        return Shard.parse(self.facts["shard"])

    def records(self) -> Iterator[str]:
        """The lines of the file, with the header of a CSV, whose rows may have several lines each."""
        if self.facts["format"] == "csv":
            return _records_of_csv(self.path)
        return (line.decode("utf-8") for line in lines_of(self.path))

    def rows(self) -> Iterator[tuple[int, str]]:
        """The rows as they stand in the file, each with the place of its input among all."""
        shard = self.shard
        texts = self.records()
        if self.facts["format"] == "csv":
            next(texts, None)
        for line in lines_of(self.path.with_name(self.path.name + RECORD)):
            for place in json.loads(line).get("places", ()):
                if (text := next(texts, None)) is None:
                    raise DataError(f"{self.path}: fewer rows than its run wrote: run it again")
                yield place * shard.count + shard.number - 1, text
        if next(texts, None) is not None:
            raise DataError(f"{self.path}: more rows than its run wrote: run it again")


class Shards:
    """All shards of one run, ready to be merged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """UsageError or DataError unless they are all, each once, complete, and of the same run."""
        paths = [followed(path) for path in paths]
        for path in paths:
            if path.suffix == PART or path.with_name(path.name + PART).exists():
                raise UsageError(f"{path}: not complete: run this shard again with --resume")
        first, *others = self.parts = [_Part.of(path) for path in paths]
        count = first.shard.count
        by_number: dict[int, Path] = {}
        for part in self.parts:
            _refuse_other_run(first, part)
            number = part.shard.number
            if number in by_number:
                raise UsageError(f"{part.path}: shard {number}/{count} again, which {by_number[number]} holds too")
            by_number[number] = part.path
        if missing := [number for number in range(1, count + 1) if number not in by_number]:
            named = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
            raise UsageError(f"{len(missing)} of {count} shards missing: {named}")
        self.format: str = first.facts["format"]
        self.columns: list[str] = first.facts["columns"]
        self.header = next(first.records(), "") if self.format == "csv" else ""
        for part in others if self.header else ():
            if next(part.records(), "") != self.header:
                raise DataError(f"{part.path}: other columns than {first.path}")
        self.names = next(csv.reader([self.header]), [])

    def rows(self) -> Iterator[str]:
        """The rows as they stand in the files, with their line ends, in the order of the inputs.

        In memory are some rows of each shard.
        """
        return map(itemgetter(1), heapq.merge(*(part.rows() for part in self.parts), key=itemgetter(0)))

    def fields(self, row: str) -> dict[str, Any]:
        """The fields of a row; numbers as numbers, None where there is no value."""
        if self.format != "csv":
            return dict(json.loads(row))
        kinds: dict[str, Any] = {"index": int, "n_atoms": int, **dict.fromkeys(self.columns, float)}
        cells = zip(self.names, next(csv.reader([row], strict=True)), strict=True)
        return {name: kinds.get(name, str)(cell) if cell or name == "path" else None for name, cell in cells}


def _refuse_other_run(first: _Part, part: _Part) -> None:
    """UsageError naming what two shards differ in."""
    for name in first.facts.keys() | part.facts.keys():
        one, two = first.facts.get(name), part.facts.get(name)
        if name == "shard":
            one, two = first.shard.count, part.shard.count
        if one != two:
            what = "number of shards" if name == "shard" else name
            values = f"{str(one)[:60]} and {str(two)[:60]}"
            raise UsageError(f"{first.path} and {part.path}: not of the same run, {what} differs ({values})")
    if [first.sums[key] for key in ("inputs", "names")] != [part.sums[key] for key in ("inputs", "names")]:
        counts = f"{first.sums['inputs']} and {part.sums['inputs']}"
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
    if rest:
        yield rest


def _records_of_csv(path: Path) -> Iterator[str]:
    """The records of a CSV as they stand there: lines, but for those that end within quotes."""
    record = ""
    for line in lines_of(path):
        record += line.decode("utf-8")
        if record.count('"') % 2 == 0:
            yield record
            record = ""
    if record:
        yield record
