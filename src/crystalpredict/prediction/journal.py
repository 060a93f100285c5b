"""What the journal of a run and the record of a shard hold: lines of JSON, of facts, of positions and of sums."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta
from msgspec.json import decode

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Line = TypeVar("Line")


@dataclass(frozen=True)
class Position:
    """How far a run has come: rows written, those of them that failed, and bytes.

    `sources` were begun, whose names have the digest `seen`; `into` rows are of the last of them. `places`: for each
    row written since the last position, the number of its source, if the run is one of several shards.
    """

    rows: Count = 0
    failed: Count = 0
    size: Count = 0
    sources: Count = 0
    into: Count = 0
    seen: str = ""
    places: list[Count] = field(default_factory=list)


@dataclass(frozen=True)
class Sums:
    """The last line of a shard's record: the number of all inputs, a digest of their names, and the shard's bytes.

    `digest`: of the lines before this one, of the other sums, and of the rows.
    """

    inputs: Count
    names: str
    size: Count
    digest: str


@dataclass(frozen=True)
class Run:
    """What `merge` needs of the facts of a shard's run."""

    shard: str
    format: Literal["csv", "jsonl"]
    columns: list[str]


def line_as(kind: type[Line], line: bytes | str) -> Line:
    """What a line of JSON says; ValueError if that is not of this kind."""
    try:
        return decode(line, type=kind)
    except RecursionError:
        raise ValueError("nested too deep") from None


def facts_of(line: bytes) -> dict[str, Any]:
    """The facts of a run; ValueError if the line has none."""
    try:
        facts = json.loads(line)  # which, unlike msgspec, takes names of files that are no UTF-8
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(facts, dict):
        raise ValueError("no object")
    return facts


def run_of(facts: dict[str, Any]) -> Run:
    """The facts that `merge` needs; ValueError if one is missing or of another type."""
    return line_as(Run, json.dumps({name: facts.get(name) for name in ("shard", "format", "columns")}))
