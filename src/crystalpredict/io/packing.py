"""Pack entries into a few large arrays: pickling nine small arrays for each takes twice as long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.io.entries import Entry

PLAIN_FIELDS = tuple(field.name for field in fields(Entry) if field.name not in ("crystal", "neighbors"))
N_FIELDS_BEFORE_ARRAYS = [field.name for field in fields(Entry)].index("crystal")
ARRAY_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Crystal, Neighbors)}


plain_fields: Callable[[Entry], tuple[Any, ...]] = attrgetter(*PLAIN_FIELDS)


@dataclass(frozen=True)
class Column:
    """One field of all crystals or neighbour lists: flattened arrays in one, and their shapes."""

    values: FloatArray | IntArray
    shapes: list[tuple[int, ...]]

    def parts(self) -> Iterator[FloatArray | IntArray]:
        """Yield the arrays, as views of the large one."""
        start = 0
        for shape in self.shapes:
            end = start + prod(shape)
            part = self.values[start:end]
            yield part if len(shape) == 1 else part.reshape(shape)
            start = end


@dataclass(frozen=True)
class Packed:
    """Packed entries: plain fields, whether each has a crystal, and arrays by field; None for a field that is unset."""

    plain: list[tuple[Any, ...]]
    whole: list[bool]
    crystals: list[Column | None]
    neighbors: list[Column | None]


def pack(entries: Sequence[Entry]) -> Packed:
    """Return the entries in a form that is quick to pickle."""
    whole = [entry.crystal is not None for entry in entries]
    return Packed(
        [plain_fields(entry) for entry in entries],
        whole,
        _columns([entry.crystal for entry in entries if entry.crystal], ARRAY_FIELDS[Crystal]),
        _columns([entry.neighbors for entry in entries if entry.crystal], ARRAY_FIELDS[Neighbors]),
    )


def unpack(packed: Packed) -> list[Entry]:
    """Return the entries of a packed form."""
    crystals = map(Crystal, *_parts(packed.crystals))
    neighbors = map(Neighbors, *_parts(packed.neighbors))
    entries = []
    for plain, whole in zip(packed.plain, packed.whole, strict=True):
        arrays = (next(crystals), next(neighbors)) if whole else (None, None)
        entries.append(Entry(*(*plain[:N_FIELDS_BEFORE_ARRAYS], *arrays, *plain[N_FIELDS_BEFORE_ARRAYS:])))
    return entries


def _columns(records: Sequence[Any], names: Sequence[str]) -> list[Column | None]:
    columns = []
    for name in names:
        parts = [getattr(record, name) for record in records]
        there = bool(parts) and parts[0] is not None
        columns.append(Column(np.concatenate([p.ravel() for p in parts]), [p.shape for p in parts]) if there else None)
    return columns


def _parts(columns: Sequence[Column | None]) -> list[Iterator[FloatArray | IntArray | None]]:
    return [column.parts() if column else repeat(None) for column in columns]
