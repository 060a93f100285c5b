"""Read tables: CSV, JSON lines, JSON of data sets, Parquet, and the folders of CGCNN and ALIGNN."""

from __future__ import annotations

import csv
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from crystalpredict.errors import DataError, StructureError
from crystalpredict.io.cell_values import MISSING_VALUES
from crystalpredict.io.json_text import json_reason, parsed_json
from crystalpredict.io.parquet import columns_of_parquet, rows_of_parquet
from crystalpredict.io.text import (
    CANNOT_UNPACK,
    MAX_BLANK_LINES,
    MAX_FILE_BYTES,
    encoding_of,
    head_of,
    opened_text,
    reason_of_failure,
    refuse_pipe,
)

MAX_COLUMNS = 10_000  # more suggest a transposed table
MAX_DOCUMENT_CHARACTERS = 2**30  # of JSON that is not one object a line
MAX_DOCUMENT_VALUES = 2**27
MAX_FIELDS_PER_ROW = 2**22  # more would fill the memory
DELIMITERS = ",\t;|"
ID_PROP = "id_prop.csv"
ID_COLUMNS = (
    "id", "material_id", "mp_id", "mpid", "jid", "identifier", "entry_id", "task_id", "structure_id", "cod_id",
    "icsd_id",
)  # fmt: skip
FORMATS_HINT = "give CSV, JSON lines, JSON or Parquet"
OTHER_FORMATS = {b"PK": "a zip or Excel file", b"%PDF": "a PDF", b"\x89PNG": "an image"}
STRUCTURE_KEYS = ("lattice", "species", "frac_coords")  # of a JSON row that is itself a structure


@dataclass(frozen=True)
class RawTable:
    """R rows of a table as stored: names of all columns, values (R,) of some, and errors by number of row."""

    names: tuple[str, ...]
    columns: dict[str, list[Any]]
    rows: int
    broken: dict[int, str] = field(default_factory=dict)


def read_table(path: Path, wanted: Callable[[str], bool]) -> RawTable:
    """Return the table in a file; of a CSV, only the columns whose names are `wanted`.

    Raises:
        DataError: The file cannot be read as a table.
    """
    with _readable(path):
        head = head_of(path)
        if head[:4] == b"PAR1":
            columns = columns_of_parquet(path)
            return RawTable(tuple(columns), columns, len(next(iter(columns.values()), [])))
        encoding, start = _start(path, head)
        with opened_text(path, encoding) as file:
            return _read_json(path, file) if start.startswith(("{", "[")) else _read_csv(path, file, wanted)


def rows_of(path: Path, known: Container[str] = ()) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a table by column name, or the error of a broken row.

    Args:
        path: The table.
        known: Names of columns, in lower case, that a CSV may have only once.

    Raises:
        DataError: The file is not a table, a `known` column is repeated, or the following rows cannot be read.
    """
    with _readable(path):
        head = head_of(path)
        if head[:4] == b"PAR1":
            yield from rows_of_parquet(path)
            return
        encoding, start = _start(path, head)
        with opened_text(path, encoding) as file:
            if not start.startswith(("{", "[")):
                yield from _rows_of_csv(path, file, known)
            elif _is_one_a_line(path, file):
                yield from (_object_or_reason(line) for line in _lines(path, file) if line.strip())
            else:
                yield from _rows_of_json(path, file)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of reading and unpacking in the block into DataError with the path."""
    try:
        refuse_pipe(path)
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: check the path") from None
    except StructureError as error:
        raise DataError(f"{path}: {error}") from None
    except CANNOT_UNPACK as error:
        reason = reason_of_failure(error)
        raise DataError(f"{path}: cannot be read ({reason}): check the file and its permissions") from None


def read_id_prop(folder: Path, names: Sequence[str]) -> RawTable:
    """Return the table of a folder as CGCNN and ALIGNN define it: columns `id`, `path` and one for each of `names`.

    Each line of id_prop.csv has an id or a file name, and one or more values. A header is optional.

    Raises:
        DataError: id_prop.csv is missing or not such a table.
    """
    path = folder / ID_PROP
    if not path.is_file():
        raise DataError(f"{folder}: a folder without {ID_PROP}: name a table, or add {ID_PROP} with lines `id,value`")
    with _readable(path), opened_text(path, encoding_of(head_of(path))) as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if not rows or len(rows[0]) < 2:
        raise DataError(f"{path}: each line needs an id and a value, separated by a comma")
    width = len(rows[0])
    uneven = next((number for number, row in enumerate(rows, start=1) if len(row) != width), None)
    if uneven:
        raise DataError(f"{path}, line {uneven}: {len(rows[uneven - 1])} fields where the first line has {width}")
    header: Sequence[str] = names
    words = [cell for cell in rows[0][1:] if cell]
    if words and not any(_is_number(word) or word.lower() in MISSING_VALUES for word in words):
        header = rows.pop(0)[1:]
    if len(header) != width - 1:
        raise DataError(f"{path}: no header: name each of its {width - 1} values with --target NAME")
    columns = {name: [row[column] for row in rows] for column, name in enumerate(("id", *header))}
    columns["path"] = [_structure_file(folder, name) for name in columns["id"]]
    return RawTable(("id", "path", *header), columns, len(rows))


def _structure_file(folder: Path, name: str) -> str:
    """Return the file of an id, relative to the folder: the id itself or, if such a file exists, with a suffix."""
    for suffix in ("", ".cif", ".vasp", ".poscar", ".json"):
        if name and (folder / f"{name}{suffix}").is_file():
            return f"{name}{suffix}"
    return f"{name}.cif"  # missing: opening it gives the error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _start(path: Path, head: bytes) -> tuple[str, str]:
    """Return the encoding of a table and its first characters; DataError if it is binary or empty."""
    kind = next((kind for magic, kind in OTHER_FORMATS.items() if head.startswith(magic)), "")
    encoding = encoding_of(head)
    if kind or (encoding == "utf-8-sig" and b"\0" in head):
        raise DataError(f"{path}: {kind or 'a binary file'}, not a table: {FORMATS_HINT}")
    start = head.decode(encoding, errors="ignore").lstrip()
    if not start:
        raise DataError(f"{path}: empty: write or download it again")
    return encoding, start


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a text; DataError for lines that would fill the memory."""
    blank = 0
    while line := file.readline(MAX_FILE_BYTES + 1):
        if len(line) > MAX_FILE_BYTES:
            raise DataError(f"{path}: a line of more than {MAX_FILE_BYTES >> 20} MiB: check that the file is a table")
        blank = 0 if not line.isspace() else blank + 1
        if blank > MAX_BLANK_LINES:
            raise DataError(
                f"{path}: more than {MAX_BLANK_LINES:,} empty lines in a row: check that the file is a table"
            )
        yield line


def _csv_reader(path: Path, file: IO[str]) -> Any:
    lines = _lines(path, file)
    header_line = next(line for line in lines if line.strip())
    delimiter = max(DELIMITERS, key=header_line.count)
    lines = (_not_wide(path, line, delimiter) for line in lines)
    if header_line.count(delimiter) >= MAX_COLUMNS:
        count = header_line.count(delimiter) + 1
        raise DataError(f"{path}: {count:,} columns: if the table is transposed, give one with a row for each crystal")
    csv.field_size_limit(MAX_FILE_BYTES)  # Python's limit of 2**17 is below a CIF of 2,000 atoms
    return csv.reader(chain([header_line], lines), delimiter=delimiter, strict=True)


def _not_wide(path: Path, line: str, delimiter: str) -> str:
    if len(line) > MAX_FIELDS_PER_ROW and line.count(delimiter) > MAX_FIELDS_PER_ROW:
        raise DataError(f"{path}: a line of more than {MAX_FIELDS_PER_ROW:,} fields: check the delimiters")
    return line


def _uneven(cells: Sequence[str], names: Sequence[str]) -> str:
    return f"{len(cells)} fields where the header has {len(names)}: check delimiters and quotes"


def _rows_of_csv(path: Path, file: IO[str], known: Container[str]) -> Iterator[dict[str, Any] | str]:
    reader = _csv_reader(path, file)
    try:
        names = [name.strip() for name in next(reader)]
        _refuse_repeated(path, names, [name for name in names if name.lower() in known])
        for cells in reader:
            if any(cells):
                fits = len(cells) == len(names)
                yield dict(zip(names, cells, strict=True)) if fits else _uneven(cells, names)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: broken CSV ({error}): check the quotes") from None


def _refuse_repeated(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    if repeated := [name for name in needed if names.count(name) > 1]:
        raise DataError(f"{path}: {names.count(repeated[0])} columns are called {repeated[0]!r}: rename one")


def _read_csv(path: Path, file: IO[str], wanted: Callable[[str], bool]) -> RawTable:
    reader = _csv_reader(path, file)
    try:
        names = [name.strip() for name in next(reader)]
        kept = {column: name for column, name in enumerate(names) if wanted(name)}
        _refuse_repeated(path, names, list(kept.values()))
        columns: dict[str, list[Any]] = {name: [] for name in kept.values()}
        broken: dict[int, str] = {}
        rows = 0
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                broken[rows] = _uneven(cells, names)
                cells = [""] * len(names)
            for column, name in kept.items():
                columns[name].append(cells[column])
            rows += 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: broken CSV ({error}): check the quotes") from None
    return RawTable(tuple(names), columns, rows, broken)


def _read_json(path: Path, file: IO[str]) -> RawTable:
    """Return the table in JSON lines, a list of objects (jarvis-tools, MEGNet) or pandas' formats (Matbench: split)."""
    one_a_line = _is_one_a_line(path, file)
    try:
        if one_a_line:
            numbered = enumerate(_lines(path, file), start=1)
            rows = [_object(path, number, line) for number, line in numbered if line.strip()]
        else:
            rows = _rows_of_document(path, _document(path, file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({json_reason(error)}): write or download it again") from None
    names = tuple(dict.fromkeys(str(name) for row in rows for name in row))
    if len(names) >= MAX_COLUMNS:
        raise DataError(
            f"{path}: {len(names):,} columns: if the table is transposed, give one with a row for each crystal"
        )
    columns = {name: [row.get(name) for row in rows] for name in names}
    if set(STRUCTURE_KEYS) <= set(names) and not any(holds_structure(cell) for cell in columns.get("structure", [])):
        columns["structure"] = [{key: row.get(key) for key in STRUCTURE_KEYS} for row in rows]
        columns = {name: values for name, values in columns.items() if name not in STRUCTURE_KEYS}
    return RawTable(tuple(columns), columns, len(rows))


def holds_structure(cell: Any) -> bool:
    """Whether a cell is a structure, or text that may be one rather than a path."""
    if isinstance(cell, str):
        return "\n" in cell or cell.lstrip()[:1] in ("{", "[")
    return isinstance(cell, dict | list)


def _is_one_a_line(path: Path, file: IO[str]) -> bool:
    """Whether an unread JSON file has an object on each line."""
    lines = iter(lambda: file.readline(MAX_FILE_BYTES), "")
    first = next((line for line in islice(lines, MAX_BLANK_LINES) if line.strip()), "")
    file.seek(0)
    try:
        return isinstance(content := parsed_json(first), dict) and not _is_whole(content)
    except (ValueError, RecursionError):
        return False
    except StructureError:  # too many values on this line: only its row fails
        return first.endswith("\n") and first.lstrip().startswith("{")


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether a JSON object is a whole table as pandas writes it: split, or by columns."""
    if {"columns", "data"} <= set(content):
        return True
    rows = [list(column) if isinstance(column, dict) else [] for column in content.values()]
    return bool(rows and rows[0]) and all(each == rows[0] for each in rows) and all(map(str.isdecimal, rows[0]))


def _object_or_reason(line: str) -> dict[str, Any] | str:
    try:
        row = parsed_json(line)
    except StructureError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        return f"broken JSON ({json_reason(error)}): write or download it again"
    return row if isinstance(row, dict) else f"not a JSON object, but {type(row).__name__}"


def _rows_of_json(path: Path, file: IO[str]) -> Iterator[dict[str, Any] | str]:
    try:
        yield from _rows_of_document(path, _document(path, file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({json_reason(error)}): write or download it again") from None


def _document(path: Path, file: IO[str]) -> Any:
    """Return the JSON of a whole file; DataError if it is too large for the memory."""
    text = file.read(MAX_DOCUMENT_CHARACTERS + 1)
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise DataError(
            f"{path}: more than {MAX_DOCUMENT_CHARACTERS >> 30} GiB of JSON: write a line for each crystal instead"
        )
    return parsed_json(text, MAX_DOCUMENT_VALUES)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = parsed_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: broken JSON ({json_reason(error)})") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not a JSON object, but {type(row).__name__}")
    return row


def _rows_of_document(path: Path, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, dict) and {"columns", "data"} <= set(content):
        return _rows_of_split(path, content)
    if isinstance(content, dict) and _is_whole(content):
        return [dict(zip(content, row, strict=True)) for row in zip(*map(dict.values, content.values()), strict=True)]
    rows = [content] if isinstance(content, dict) else content
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise DataError(f"{path}: JSON, but no list of objects, one for each crystal")
    return rows


def _rows_of_split(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of columns and data; a unique index gives their ids if no column does."""
    names, data, index = content["columns"], content["data"], content.get("index")
    lists = isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data)
    if not lists or any(len(row) != len(names) for row in data):
        raise DataError(f"{path}: JSON of columns and data, but no list of names and no list of rows as long as it")
    names = list(map(str, names))
    _refuse_repeated(path, names, names)
    rows = [dict(zip(names, row, strict=True)) for row in data]
    ids = list(map(str, index)) if isinstance(index, list) else []
    if not len(set(ids)) == len(ids) == len(rows) or set(map(str.lower, names)) & {*ID_COLUMNS}:
        return rows
    return [{"id": name} | row for name, row in zip(ids, rows, strict=True)]
