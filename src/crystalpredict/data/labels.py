"""Read tables with a structure and labels in each row."""

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
from crystalpredict.io.cell_values import MISSING_VALUES
from crystalpredict.io.entries import Source
from crystalpredict.io.table_formats import ID_COLUMNS, RawTable, read_id_prop, read_table
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

MAX_ABS_LABEL = 1e30  # sums of squares of larger labels overflow
ENERGY_OR_PRESSURE_UNIT = re.compile(r"[num\u00b5\u03bckMGT]?(eV|Pa|bar|J|cal|Ha|Ry)(/\w+)*")
SPLIT_COLUMN = "split"
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SYMBOL_WORDS = {"/": " per ", "%": "percent", "^": "", "Å": "A", "Ω": "ohm", "\u03bc": "u", "°": "deg"}
# of a column that counts as a known property although --target does not name it: g may be anything
MIN_NAME_LENGTH = 3


@dataclass(frozen=True)
class Dropped:
    """A row, or a label of a row, that was left out, with the reason; row 1 is the first row of data."""

    file: str
    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class NewTargets:
    """Options for columns that are not known properties.

    Attributes:
        units: one for all columns, or one for each.
        log: whether the network is trained on log10 of the labels.
    """

    units: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class LabelledTable:
    """R rows of a table, each with a structure and at least one label.

    Attributes:
        path: of the table.
        ids: names of the rows, (R,).
        rows: numbers of the rows in the file, 1 for the first row of data, (R,).
        sources: of the structures, (R,).
        labels: in the unit of each property, not a number where missing, (R, P).
        properties: P of them.
        splits: train, val, test, "" if empty, or another word of the table, (R,).
        dropped: rows that were left out.
        dropped_labels: labels that were left out of the R rows.
        notes: messages about how the columns were read.
    """

    path: str
    ids: tuple[str, ...]
    rows: IntArray
    sources: tuple[Source, ...]
    labels: FloatArray
    properties: tuple[Property, ...]
    splits: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    dropped_labels: tuple[Dropped, ...] = ()
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
    """Return the labelled rows of a table.

    Args:
        path: table, or folder with id_prop.csv.
        targets: names of columns, which may be joined by commas; none: all columns that are known properties.
        new: options for columns that are not known properties; None: such columns are an error.
        structure_column: column with the structures; None: one of the usual names.
        known: known properties.
        raw: the table, if it is in memory; `path` is its name then.

    Raises:
        UsageError: a column is missing, ambiguous or unknown, or a unit is wrong.
        DataError: the table cannot be read, or no row has a structure and a label.
    """
    raw = raw or _read(path, targets, structure_column, known)
    names = [name for target in targets for name in ([target] if target in raw.names else _split_names(target))]
    wanted = _find_targets(path, raw, names, new, known)
    column = find_structure_column(path, raw.names, structure_column)
    ids = _ids_of(raw)
    cells = [[_number(value) for value in raw.columns[target.column]] for target in wanted]
    _check_numeric(path, raw, wanted, cells)
    base = path if path.is_dir() else path.parent
    dropped, dropped_labels, kept, sources = [], [], [], []
    seen: set[str] = set()
    labels = np.full((raw.rows, len(wanted)), np.nan)
    for number in range(raw.rows):
        row, name = number + 1, ids[number]
        source = source_of_cell(raw.columns[column][number], column, base, f"{path.name}, row {row}")
        problems = []
        for index, target in enumerate(wanted):
            labels[number, index], problem = _label(cells[index][number], target)
            problems += [f"{target.column} {problem}"] if problem else []
        reason = raw.broken.get(number, "") or _unusable(source, column, name in seen, labels[number], problems)
        if reason or source is None:
            dropped.append(Dropped(str(path), row, name, reason))
            continue
        seen.add(name)
        dropped_labels += [Dropped(str(path), row, name, problem) for problem in problems]
        kept.append(number)
        sources.append(source)
    if not kept:
        first = f"; the first: row {dropped[0].row}, {dropped[0].reason}" if dropped else ""
        raise DataError(f"{path}: none of its {raw.rows} rows can be used{first}")
    pairs = zip((target.prop for target in wanted), labels[kept].T, strict=True)
    properties = [prop if prop in known else prop.with_decimals_for(values) for prop, values in pairs]
    notes = [f"{raw.rows:,} rows", f"structures in {column}", *_describe_targets(wanted, new)]
    return LabelledTable(
        str(path), tuple(ids[number] for number in kept), np.array(kept) + 1, tuple(sources), labels[kept],
        tuple(properties), _parts_of(raw, kept),
        tuple(dropped), tuple(dropped_labels), tuple(notes),
    )  # fmt: skip


def _unusable(source: Source | None, column: str, repeated: bool, labels: FloatArray, problems: Sequence[str]) -> str:
    """Return why a row cannot be used; empty if it can.

    Args:
        source: of its structure.
        column: with the structures.
        repeated: whether an earlier row has its id.
        labels: of the row, not a number where missing, (P,).
        problems: what is wrong with its labels.
    """
    if source is None:
        return f"no structure in the column {column}"
    if repeated:
        return "repeats the id of an earlier row"
    if not np.isfinite(labels).any():
        return "; ".join(problems) or "no label"
    return ""


def _ids_of(raw: RawTable) -> list[str]:
    """Return the ids of the rows (R,); `row N` where there is none."""
    column = find_column(raw.names, ID_COLUMNS)
    ids = [text_of_id(value) for value in raw.columns[column]] if column else [""] * raw.rows
    return [name or f"row {row}" for row, name in enumerate(ids, start=1)]


def _parts_of(raw: RawTable, rows: Sequence[int]) -> tuple[str, ...]:
    """Return the part of the split that some rows belong to; "" where the table does not say."""
    column = find_column(raw.names, (SPLIT_COLUMN,))
    cells = raw.columns[column] if column else [""] * raw.rows
    parts = ["" if cells[row] is None else str(cells[row]).strip() for row in rows]
    return tuple(SPLIT_WORDS.get(part.lower(), part) for part in parts)


def _describe_targets(targets: Sequence[Target], new: NewTargets | None) -> list[str]:
    """Return messages about columns that were read under another name, or without the logarithm of --log."""
    notes = [f"{target.column} is {target.prop.name}" for target in targets if target.column != target.prop.name]
    linear = [target.prop.name for target in targets if new and new.log and target.prop.transform == "none"]
    return notes + [f"{name} is a known property, which --log does not change" for name in linear]


def _split_names(target: str) -> list[str]:
    return [name.strip() for name in target.split(",") if name.strip()]


def _read(path: Path, targets: Sequence[str], structure_column: str | None, known: Sequence[Property]) -> RawTable:
    """Return the columns of a table that may be needed."""
    names = [name for target in targets for name in _split_names(target)]
    if path.is_dir():
        return read_id_prop(path, names)
    names += [*TEXT_COLUMNS, *PATH_COLUMNS, *ID_COLUMNS, SPLIT_COLUMN, structure_column or "", *targets]
    keys = {name.lower() for name in names}
    return read_table(path, lambda name: name.lower() in keys or _known_target(name, known) is not None)


def _known_target(column: str, known: Sequence[Property]) -> Target | None:
    """Return the known property that a column holds by its name, or whose log10 it holds; None for other columns."""
    for name, logarithm in ((column, False), (logarithm_of(column, known), True)):
        if prop := match_property(name, known):
            return Target(column, prop, logarithm)
    bare, stated = _without_unit(column)
    prop = match_property(bare, known) if stated else None
    return Target(column, prop) if prop and _without_spaces(prop.unit) == stated else None


def logarithm_of(column: str, known: Sequence[Property]) -> str:
    """Return the X of a column named log10(X), log_X or logX, such as log10(K_VRH), log_kvrh or logB; else ""."""
    name = column.strip()
    found = re.fullmatch(r"log(10)?([\s_]*\(?)\s*([A-Za-z][\w ]*?)\s*\)?", name, re.IGNORECASE)
    if not found:
        return ""
    separate = found[1] or found[2] or (name[1:3] == "og" and found[3][0].isupper())  # `logical` is one word
    return found[3] if separate or match_property(found[3], known) else ""


def _without_unit(column: str) -> tuple[str, str]:
    """Return the name of a column and the unit in brackets at its end, or "" if there is none."""
    parts = re.fullmatch(r"(.*\S)\s*[(\[]([^()\[\]]+)[)\]]", column.strip())
    return (parts[1], _without_spaces(parts[2])) if parts else (column, "")


def check_column_unit(column: str, prop: Property) -> None:
    """Check that the name of a column states no other unit than that of the property in it.

    Raises:
        UsageError: the text in brackets is another unit of energy or pressure; any other text may not be a unit.
    """
    stated = _without_unit(column)[1]
    if ENERGY_OR_PRESSURE_UNIT.fullmatch(stated) and stated != _without_spaces(prop.unit):
        hint = "convert the labels, or rename the column"
        raise UsageError(f"{column.strip()}: {prop.name} is compared in {prop.unit or 'no unit'}: {hint}")


def _without_spaces(unit: str) -> str:
    return unit.replace(" ", "")


def _find_targets(
    path: Path, raw: RawTable, names: Sequence[str], new: NewTargets | None, known: Sequence[Property]
) -> list[Target]:
    """Return the targets of some names, or all known properties in the table if there are no names."""
    if not names:
        if new and (new.units or new.log):
            raise UsageError("--unit and --log need --target: name the columns that they are for")
        full_names = {prop.name for prop in known}
        columns = [name for name in raw.names if len(name.strip()) >= MIN_NAME_LENGTH or name in full_names]
        targets = [target for name in columns if (target := _known_target(name, known))]
        if not targets:
            raise UsageError(
                f"{path}: no column is a known property; there are {list_names(raw.names)}: name one with --target"
            )
    else:
        units = new.units if new else ()
        if len(units) not in (0, 1, len(names)):
            raise UsageError(f"{len(units)} units for {len(names)} targets: give one for all, or one for each")
        each = units * len(names) if len(units) == 1 else units or ("",) * len(names)
        targets = [_target(path, raw, name, unit, new, known) for name, unit in zip(names, each, strict=True)]
        old = [target for target in targets if target.prop in known]
        if len(units) == len(names) or len(old) == len(targets):  # else the one unit is for the new properties
            for target, unit in zip(targets, each, strict=True):
                if target in old and unit and _without_spaces(unit) != _without_spaces(target.prop.unit):
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
    """Return the target of a name, a new property in the given unit if the column is not a known one."""
    column = find_column(raw.names, (name,))
    if column is None:  # another name of the property, such as bandgap for band_gap
        asked = _known_target(name, known)
        targets = [target for each in raw.names if (target := _known_target(each, known))]
        columns = [target.column for target in targets if asked and target.prop == asked.prop]
        if len(columns) > 1:
            raise UsageError(f"{path}: more than one column for {name}: name one of {', '.join(columns)}")
        column = columns[0] if columns else None
    if column is None:
        near = get_close_matches(name.lower(), [each.lower() for each in raw.names], n=1)
        hint = f"did you mean {find_column(raw.names, near)!r}?" if near else f"it has {list_names(raw.names)}"
        raise UsageError(f"{path}: no column {name!r}: {hint}")
    if target := _known_target(column, known):
        return target
    if new is None:
        predicted = ", ".join(prop.name for prop in known)
        raise UsageError(f"{path}: the model does not predict {name!r}: choose from {predicted}")
    return Target(column, _new_property(column, unit, log=new.log))


def _new_property(column: str, unit: str, *, log: bool) -> Property:
    """Return a new property, named after its column without the unit.

    The full name of the column is an alias, so that it is found in other tables.

    Raises:
        UsageError: the column has no letters, or the name of another output column.
    """
    label = column.strip()
    bare, stated = _without_unit(label)
    has_unit = stated == _without_spaces(unit) and not match_property(bare)
    name = _slug(bare if has_unit else label)
    aliases = () if name == label else (label,)
    prop = Property(name, label, unit, _slug(_with_slashes(unit)), aliases, transform="log10" if log else "none")
    if not name or prop.column in OUTPUT_COLUMNS:
        raise UsageError(f"{column!r} cannot be the name of a property: rename the column")
    return prop


def _slug(text: str) -> str:
    """Return a name or a unit in ASCII letters, digits and _: µV/K becomes uV_per_K, κ becomes kappa."""
    words = unicodedata.normalize("NFKC", text)
    for symbol, word in SYMBOL_WORDS.items():
        words = words.replace(symbol, word)
    words = re.sub("[\u0391-\u03c9]", lambda greek: unicodedata.name(greek[0]).split()[-1].lower(), words)
    return re.sub(r"[^0-9A-Za-z]+", "_", words).strip("_")


def _with_slashes(unit: str) -> str:
    """Return a unit with slashes for negative powers: W m⁻¹ K^-1 becomes W/m/K."""
    powers = re.compile(r"\s*[·*]?\s*(?<!\d)([^\W\d_]+)\^?[-\u2212](\d+)")  # 1e-6 is a number
    return powers.sub(lambda power: "/" + power[1] + power[2] * (power[2] != "1"), unicodedata.normalize("NFKC", unit))


def _number(value: Any) -> float | str | None:
    """Return a cell as a number, None if it is empty, or its text if it is neither."""
    if isinstance(value, bool):
        return str(value)
    text = "" if value is None else str(value).strip()  # fits integers that are too large for a float
    if text.lower() in MISSING_VALUES:
        return None
    try:
        number = float(text.replace("_", "?"))  # Python reads 1_31 as 131
    except ValueError:
        return text
    return number if number == number else None


def _check_numeric(
    path: Path, raw: RawTable, targets: Sequence[Target], cells: Sequence[list[float | str | None]]
) -> None:
    """Raise a DataError if a column of labels has no number."""
    for target, column in zip(targets, cells, strict=True):
        if any(isinstance(value, float) for value in column) or len(raw.broken) == raw.rows:
            continue
        text = next((value for value in column if value is not None), None)
        content = f"holds text ({str(text)[:40]!r})" if text is not None else "is empty"
        raise DataError(f"{path}: the column {target.column} {content}: name a column of numbers with --target")


def _label(value: float | str | None, target: Target) -> tuple[float, str]:
    """Return a cell as a label in the unit of the property, or not a number and what is wrong with the cell."""
    if value is None:
        return np.nan, ""
    if isinstance(value, str):
        return np.nan, f"is not a number ({value[:40]!r})"
    if target.logarithm:
        value = 10.0**value if value < 300 else np.inf
    if not isfinite(value):
        return np.nan, "is infinite"
    if abs(value) > MAX_ABS_LABEL:
        return np.nan, f"is {value:.3g}, which is out of range"
    if target.prop.transform == "log10" and value <= 0:
        return np.nan, "is not positive and has no logarithm"
    return value, ""
