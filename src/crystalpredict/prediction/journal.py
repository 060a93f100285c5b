"""Lines of JSON in the journal of a run and the record of a shard: facts, positions and checksums."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta
from msgspec.json import decode

SWITCHES = {"cells": "--write-relaxed", "copies": "--copy-to", "structures": "--write-structures"}  # by name of a fact
CHOICES = {  # facts whose values mean nothing to a user
    "elements": "the elements of --elements, --exclude-elements or --chemsys differ",
    "known phases": "the known phases of --entries or --no-reference differ",
    "model": "the models of --model or --unrelaxed differ",
    "settings of the model": "the models of --model or --unrelaxed differ",
    "calibration": "the models of --model or --unrelaxed, or their calibrations, differ",
}
MAX_COLUMNS_NAMED = 5
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Line = TypeVar("Line")


@dataclass(frozen=True)
class Position:
    """Progress of a run.

    Attributes:
        rows: Rows written.
        failed: Rows with an error among them.
        size: Bytes written.
        sources: Sources begun.
        into: Rows written of the last source.
        seen: Digest of the names of the sources begun.
        skipped: Rows of structures that were not computed, among those written.
        places: Number of the source of each row written since the last position, in a shard.
    """

    rows: Count = 0
    failed: Count = 0
    size: Count = 0
    sources: Count = 0
    into: Count = 0
    seen: str = ""
    places: list[Count] = field(default_factory=list)
    skipped: Count = 0


@dataclass(frozen=True)
class Sums:
    """The last line of a shard's record.

    Attributes:
        inputs: Number of inputs of all shards.
        names: Digest of their names.
        size: Bytes of the shard.
        digest: Of the earlier lines of the record, the other fields and the rows.
    """

    inputs: Count
    names: str
    size: Count
    digest: str


@dataclass(frozen=True)
class Run:
    """The facts of a shard's run that `merge` needs; `extra`: what further columns hold, by their names."""

    shard: str
    format: Literal["csv", "jsonl"]
    columns: list[str]
    extra: dict[str, str] = field(default_factory=dict)


def line_as(kind: type[Line], line: bytes | str) -> Line:
    """Return a line of JSON as an object of type `kind`.

    Raises:
        ValueError: The line is not such an object.
    """
    try:
        return decode(line, type=kind)
    except RecursionError:
        raise ValueError("nested too deep") from None


def facts_of(line: bytes) -> dict[str, Any]:
    """Return the facts of a run.

    Raises:
        ValueError: The line is not a JSON object.
    """
    try:
        facts = json.loads(line)  # unlike msgspec, accepts file names that are not UTF-8
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(facts, dict):
        raise ValueError("no object")
    return facts


def run_of(facts: dict[str, Any]) -> Run:
    """Return the facts that `merge` needs.

    Raises:
        ValueError: One is missing or of another type.
    """
    return line_as(
        Run, json.dumps({name: facts[name] for name in ("shard", "format", "columns", "extra") if name in facts})
    )


def without_slash(name: str) -> str:
    """Return an input without the slash at the end of a folder, with which it gives the same rows."""
    return name.rstrip("/") or name


def differ(name: str) -> str:
    """Return "differ" for the name of several things, such as columns, else "differs"."""
    return "differ" if name.endswith("s") else "differs"


def difference(name: str, one: Any, two: Any, places: tuple[str, str]) -> str:
    """Return what two runs differ in, in words of the options; "" for a fact whose values say it.

    Args:
        name: Of the fact.
        one: Its value in the first run, any JSON.
        two: Its value in the second run.
        places: What the runs are called.
    """
    if name in SWITCHES:
        return f"only {places[not one]} has {SWITCHES[name]}"
    return _difference_of_columns(one, two, places) if name == "extra" else CHOICES.get(name, "")


def _difference_of_columns(one: Any, two: Any, places: tuple[str, str]) -> str:
    """Return how the further columns of two runs differ, given what each holds, by its name."""
    first, second = (each if isinstance(each, dict) else {} for each in (one, two))
    said = []
    for place, own, other in zip(places, (first, second), (second, first), strict=True):
        if more := [name for name in own if name not in other]:
            listed = ", ".join(more[:MAX_COLUMNS_NAMED]) + ", ..." * (len(more) > MAX_COLUMNS_NAMED)
            said.append(f"only {place} has {listed}")
    if not said:
        changed = next((name for name in first if first[name] != second[name]), "")
        said = [
            f"{changed} has the kind {first[changed]} or {second[changed]}" if changed else "they are in another order"
        ]
    return f"columns that --keep takes from tables differ: {'; '.join(said)}"
