"""Labelled crystals as people keep them: a table with a structure and numbers in each row, to structures and labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.errors import DataError, UsageError
from crystalpredict.io.entries import Source
from crystalpredict.io.table_formats import (
    ID_COLUMNS,
    MISSING,
    RawTable,
    read_id_prop,
    read_table,
)
from crystalpredict.io.table_structures import (
    PATH_COLUMNS,
    TEXT_COLUMNS,
    find_column,
    find_structure_column,
    list_names,
    source_of_cell,
    text_of_id,
)
from crystalpredict.properties import OUTPUT_COLUMNS, PROPERTIES, Property, match_property

LARGEST = 1e30  # of a label: squares of larger ones are soon infinite
UNIT = re.compile(r"[num\u00b5\u03bckMGT]?(eV|Pa|bar|J|cal|Ha|Ry)(/\w+)*")  # of energies and pressures
SPLIT_COLUMN = "split"
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SIGNS = {"/": " per ", "%": "percent", "^": "", "Å": "A", "Ω": "ohm", "\u03bc": "u", "°": "deg"}  # in names and units
SHORTEST_NAME = 3  # letters of a column that is taken for a known property without being asked for: g may be anything


@dataclass(frozen=True)
class Dropped:
    """A row, or a label of a row, that was left out, and why; row 1 is the first row of data."""

    file: str
    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class NewTargets:
    """What was said of columns that are no known property: a unit for all or one for each; learnt as log10 or not."""

    units: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class LabelledTable:
    """R rows of a table, each with a structure and at least one label.

    ids (R,); rows (R,), numbers in the file, 1 for the first row of data; sources (R,), where the structures are;
    labels (R, P), in each property's unit, not a number where missing; properties (P,); splits (R,), train, val or
    test, "" where nothing is said, other words as they stand there; dropped, rows left out; holes, labels left out of
    rows that are kept; notes, what was decided.
    """

    path: str
    ids: tuple[str, ...]
    rows: IntArray
    sources: tuple[Source, ...]
    labels: FloatArray
    properties: tuple[Property, ...]
    splits: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    holes: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A column, the property in it, and whether it holds log10 of the property."""

    column: str
    prop: Property
    logarithm: bool = False


def read_labelled(
    path: Path, targets: Sequence[str] = (), *, new: NewTargets | None = None, structure_column: str | None = None,
    known: Sequence[Property] = PROPERTIES, raw: RawTable | None = None,
) -> LabelledTable:  # fmt: skip
    """The labelled rows of a table, or of a folder with id_prop.csv; UsageError or DataError if there are none.

    `targets`: names of columns, also joined by commas; none: every column that is a `known` property. `new`: what is
    said of those that are no known property, which are an error without it. `raw`: the table, if it is not to be read
    from a file; `path` is its name then.
    """
    raw = raw or _read(path, targets, structure_column, known)
    names = [name for target in targets for name in _names(target, raw)]
    wanted = _targets(path, raw, names, new, known)
    column = find_structure_column(path, raw.names, structure_column)
    id_column = find_column(raw.names, ID_COLUMNS)
    split_column = find_column(raw.names, (SPLIT_COLUMN,))
    ids = [text_of_id(value) for value in raw.columns[id_column]] if id_column else [""] * raw.rows
    ids = [name or f"row {row}" for row, name in enumerate(ids, start=1)]
    cells = [[_number(value) for value in raw.columns[target.column]] for target in wanted]
    _refuse_text(path, raw, wanted, cells)
    base = path if path.is_dir() else path.parent
    dropped, holes, kept, sources = [], [], [], []
    seen: set[str] = set()
    labels = np.full((raw.rows, len(wanted)), np.nan)
    for number in range(raw.rows):
        row, name = number + 1, ids[number]
        where = f"{path.name}, row {row}"
        source = source_of_cell(raw.columns[column][number], column, base, where)
        complaints = []
        for place, target in enumerate(wanted):
            labels[number, place], complaint = _label(cells[place][number], target)
            complaints += [f"{target.column} {complaint}"] if complaint else []
        reason = raw.broken.get(number, "")
        if not reason and source is None:
            reason = f"no structure in the column {column}"
        if not reason and name in seen:
            reason = "the id of an earlier row again"
        if not reason and not np.isfinite(labels[number]).any():
            reason = "; ".join(complaints) or "no label"
        if reason or source is None:
            dropped.append(Dropped(str(path), row, name, reason))
            continue
        seen.add(name)
        holes += [Dropped(str(path), row, name, complaint) for complaint in complaints]
        kept.append(number)
        sources.append(source)
    if not kept:
        raise DataError(f"{path}: none of its {raw.rows} rows can be used; the first: {_first(dropped)}")
    said = raw.columns[split_column] if split_column else [""] * raw.rows
    splits = ["" if said[number] is None else str(said[number]).strip() for number in kept]
    properties = [
        target.prop if target.prop in known else target.prop.shown_as(values)
        for target, values in zip(wanted, labels[kept].T, strict=True)
    ]
    notes = [f"{raw.rows:,} rows", f"structures in {column}", *_notes_on(wanted, new)]
    return LabelledTable(
        str(path), tuple(ids[number] for number in kept), np.array(kept) + 1, tuple(sources), labels[kept],
        tuple(properties), tuple(PARTS.get(part.lower(), part) for part in splits),
        tuple(dropped), tuple(holes), tuple(notes),
    )  # fmt: skip


def _notes_on(wanted: Sequence[Target], new: NewTargets | None) -> list[str]:
    """What was decided about the columns with labels."""
    notes = [f"{target.column} is {target.prop.name}" for target in wanted if target.column != target.prop.name]
    linear = [target.prop.name for target in wanted if new and new.log and target.prop.transform == "none"]
    return notes + [f"{name} is known and learnt as it is: --log is for what is not" for name in linear]


def _names(target: str, raw: RawTable) -> list[str]:
    """A target as it was given: the name of a column, or several names separated by commas."""
    return [target] if target in raw.names else [name.strip() for name in target.split(",") if name.strip()]


def _first(dropped: Sequence[Dropped]) -> str:
    return f"row {dropped[0].row}, {dropped[0].reason}" if dropped else "there is none"


def _read(path: Path, targets: Sequence[str], structure_column: str | None, known: Sequence[Property]) -> RawTable:
    if path.is_dir():
        return read_id_prop(path, [name.strip() for target in targets for name in target.split(",")])
    names = [*TEXT_COLUMNS, *PATH_COLUMNS, *ID_COLUMNS, SPLIT_COLUMN, structure_column or "", *targets]
    names += [name.strip() for target in targets for name in target.split(",")]
    keys = {name.lower() for name in names}
    return read_table(path, lambda name: name.lower() in keys or _known(name, known) is not None)


def _known(column: str, known: Sequence[Property]) -> Target | None:
    """The known property that a column's name stands for, or log10 of it."""
    for name, logarithm in ((column, False), (logarithm_of(column, known), True)):
        if prop := match_property(name, known):
            return Target(column, prop, logarithm)
    bare, stated = _without_unit(column)
    prop = match_property(bare, known) if stated else None
    return Target(column, prop) if prop and _closed(prop.unit) == stated else None


def logarithm_of(column: str, known: Sequence[Property]) -> str:
    """What a column has log10 of, as its name says (log10(K_VRH), log_kvrh, logB, logk of a known k); or ""."""
    said = re.fullmatch(r"log(10)?([\s_]*\(?)\s*([A-Za-z][\w ]*?)\s*\)?", column.strip(), re.IGNORECASE)
    apart = said and (said[1] or said[2] or (column.strip()[1:3] == "og" and said[3][0].isupper()))  # logical is a word
    return said[3] if said and (apart or match_property(said[3], known)) else ""


def _without_unit(column: str) -> tuple[str, str]:
    """A column's name, and the unit in brackets at its end; "" if there is none."""
    parts = re.fullmatch(r"(.*\S)\s*[(\[]([^()\[\]]+)[)\]]", column.strip())
    return (parts[1], _closed(parts[2])) if parts else (column, "")


def refuse_other_unit(column: str, prop: Property) -> None:
    """UsageError if a column that is to hold a property states another unit than its: text in brackets may be none."""
    stated = _without_unit(column)[1]
    if UNIT.fullmatch(stated) and stated != _closed(prop.unit):
        raise UsageError(
            f"{column.strip()}: {prop.name} is compared in {prop.unit or 'no unit'}: convert the labels, or rename it"
        )


def _closed(unit: str) -> str:
    """A unit without its spaces, as units are compared."""
    return unit.replace(" ", "")


def _targets(
    path: Path, raw: RawTable, names: Sequence[str], new: NewTargets | None, known: Sequence[Property]
) -> list[Target]:
    if not names:
        if new and (new.units or new.log):
            raise UsageError("a unit or a logarithm of what? Name the column with --target")
        # a short name may be anything, so that it is no property unless it is the model's own or asked for
        own = {prop.name for prop in known}
        found = [_known(name, known) for name in raw.names if len(name.strip()) >= SHORTEST_NAME or name in own]
        targets = [target for target in found if target]
        if not targets:
            raise UsageError(
                f"{path}: no column is a known property, but {list_names(raw.names)}: name one with --target"
            )
    else:
        units = new.units if new else ()
        if len(units) not in (0, 1, len(names)):
            raise UsageError(f"{len(units)} units for {len(names)} targets: give one for all, or one for each")
        each = units * len(names) if len(units) == 1 else units or ("",) * len(names)
        targets = [_target(path, raw, name, unit, new, known) for name, unit in zip(names, each, strict=True)]
        old = [target for target in targets if target.prop in known]
        if len(units) == len(names) or len(old) == len(targets):  # else the one unit is that of the new ones
            for target, unit in zip(targets, each, strict=True):
                if target in old and unit and _closed(unit) != _closed(target.prop.unit):
                    about = f"{target.column} is known as {target.prop.label} in {target.prop.unit or 'no unit'}"
                    raise UsageError(f"{path}: {about}: convert the labels, or rename the column")
    columns = [target.prop.column for target in targets]
    for target in targets:
        if columns.count(target.prop.column) > 1:
            raise UsageError(f"{path}: more than one column for {target.prop.name}: name one with --target")
    return targets


def _target(
    path: Path, raw: RawTable, name: str, unit: str, new: NewTargets | None, known: Sequence[Property]
) -> Target:
    """The target of a name; `unit`, if it is new."""
    column = find_column(raw.names, (name,))
    if column is None:  # bandgap for a column band_gap
        asked = _known(name, known)
        columns = [each for each in raw.names if asked and (found := _known(each, known)) and found.prop == asked.prop]
        if len(columns) > 1:
            raise UsageError(f"{path}: more than one column for {name}: name one of {', '.join(columns)}")
        column = columns[0] if columns else None
    if column is None:
        near = get_close_matches(name.lower(), [each.lower() for each in raw.names], n=1)
        hint = f"did you mean {find_column(raw.names, near)!r}?" if near else f"it has {list_names(raw.names)}"
        raise UsageError(f"{path}: no column {name!r}: {hint}")
    target = _known(column, known)
    if target:
        return target
    if new is None:
        raise UsageError(f"{path}: the model does not know {name!r}: it predicts {', '.join(p.name for p in known)}")
    return Target(column, new_property(column, unit, log=new.log))


def new_property(column: str, unit: str, *, log: bool) -> Property:
    """The property of a user's column: named after it without its unit, in letters that fit a column's name.

    The column's own name is another name of it, by which other tables are understood.
    """
    label = column.strip()
    bare, stated = _without_unit(label)
    own = stated == _closed(unit) and not match_property(bare)
    name = _slug(bare if own else label)
    aliases = () if name == label else (label,)
    prop = Property(name, label, unit, _slug(_divided(unit)), aliases, transform="log10" if log else "none")
    if not name or prop.column in OUTPUT_COLUMNS:
        raise UsageError(f"{column!r} cannot be the name of a property: rename the column")
    return prop


def _slug(text: str) -> str:
    """A name or a unit in letters that fit a column's name: µV/K is uV_per_K, κ is kappa."""
    words = unicodedata.normalize("NFKC", text)
    for sign, word in SIGNS.items():
        words = words.replace(sign, word)
    words = re.sub("[\u0391-\u03c9]", lambda greek: unicodedata.name(greek[0]).split()[-1].lower(), words)
    return re.sub(r"[^0-9A-Za-z]+", "_", words).strip("_")


def _divided(unit: str) -> str:
    """A unit with strokes for its negative powers: W m⁻¹ K^-1 is W/m/K."""
    powers = re.compile(r"\s*[·*]?\s*(?<!\d)([^\W\d_]+)\^?[-\u2212](\d+)")  # 1e-6 is a number
    return powers.sub(lambda power: "/" + power[1] + power[2] * (power[2] != "1"), unicodedata.normalize("NFKC", unit))


def _number(value: Any) -> float | str | None:
    """A cell as a number; None for an empty one; as it is where it is neither."""
    if isinstance(value, bool):
        return str(value)
    text = "" if value is None else str(value).strip()  # of an integer of 400 digits, too
    if text.lower() in MISSING:
        return None
    try:
        number = float(text.replace("_", "?"))  # Python takes 1_31 for 131
    except ValueError:
        return text
    return number if number == number else None


def _refuse_text(
    path: Path, raw: RawTable, wanted: Sequence[Target], cells: Sequence[list[float | str | None]]
) -> None:
    """DataError for a column without one number."""
    for target, column in zip(wanted, cells, strict=True):
        if any(isinstance(value, float) for value in column) or len(raw.broken) == raw.rows:
            continue
        text = next((value for value in column if value is not None), None)
        what = f"holds text ({str(text)[:40]!r})" if text is not None else "is empty"
        raise DataError(f"{path}: the column {target.column} {what}: name a column of numbers with --target")


def _label(value: float | str | None, target: Target) -> tuple[float, str]:
    """A cell as a label in the property's unit, or not a number and what is wrong with it."""
    if value is None:
        return np.nan, ""
    if isinstance(value, str):
        return np.nan, f"is not a number ({value[:40]!r})"
    if target.logarithm:
        value = 10.0**value if value < 300 else np.inf
    if not isfinite(value):
        return np.nan, "is infinite"
    if abs(value) > LARGEST:
        return np.nan, f"is {value:.3g}, which no property is"
    if target.prop.transform == "log10" and value <= 0:
        return np.nan, "is not positive, so that it has no logarithm"
    return value, ""
