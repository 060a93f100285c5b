"""Split files into sources of structures: archives into members, tables into rows, XYZ into frames."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalpredict.errors import DataError, StructureError, UsageError
from crystalpredict.io.archives import members_of
from crystalpredict.io.ase_db import rows_of_database
from crystalpredict.io.entries import Inline, Source, start_of
from crystalpredict.io.file_types import Frames, is_archive, is_database, is_found, is_json, is_query, is_table, is_xyz
from crystalpredict.io.json_text import items_of, parsed_json
from crystalpredict.io.table_formats import ID_COLUMNS, holds_structure, rows_of
from crystalpredict.io.table_structures import (
    PATH_COLUMNS,
    TEXT_COLUMNS,
    find_column,
    find_structure_column,
    other_cells,
    source_of_cell,
    structure_in_row,
    text_of_id,
)
from crystalpredict.io.text import (
    CANNOT_UNPACK,
    encoding_of,
    head_of,
    opened_text,
    read_text,
    refuse_pipe,
    text_of,
    unreadable,
)
from crystalpredict.io.time_limit import DEFAULT_TIMEOUT_SECONDS, TimeLimitExceeded, items_in_time, too_slow
from crystalpredict.io.xyz import frames_of

_ANSWER = re.compile(r'\s*\{\s*"(data|meta|links|included|jsonapi|[0-9]+)"\s*:')  # of a server; an ASE database


@dataclass(frozen=True)
class TableRow:
    """The source of the structure in a row of a table, and the other cells of the row by column."""

    source: Source
    cells: Mapping[str, Any]


def sources_of(
    names: Iterable[str],
    structure_column: str | None = None,
    takes: Callable[[str], bool] = lambda name: True,
    *,
    frames: Frames = Frames.last,
    calculations: bool = False,
    seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
) -> Iterator[Source]:
    """Yield the sources of structures in files, in their order; one that cannot be read has an error.

    A member of an archive is named `archive.zip/member.cif`, a row of a table `table.csv#id`, or its number without an
    id, a row of an ASE database `name.db#id`, and an item of a JSON list `list.json#id`. Items without ids and XYZ
    frames have the name of the file and their number as index.

    Args:
        names: Paths of files.
        structure_column: Column of tables with the structures; None: the usual names.
        takes: Called once with the name of each source, in order: whether to include it. Files and members of archives
            that are not included are not opened, unless all frames are wanted.
        frames: Whether a trajectory or the steps of a calculation give their `last` structure, or `all`; each frame of
            XYZ is a structure in any case.
        calculations: Whether archives give the outputs of calculations too, one member for each calculation.
        seconds: Time limit for taking all frames out of one file; None or 0: none.
    """
    found = sources_and_rows(names, structure_column, takes, frames=frames, calculations=calculations, seconds=seconds)
    yield from map(source_in, found)


def sources_and_rows(
    names: Iterable[str],
    structure_column: str | None = None,
    takes: Callable[[str], bool] = lambda name: True,
    *,
    frames: Frames = Frames.last,
    calculations: bool = False,
    seconds: float | None = DEFAULT_TIMEOUT_SECONDS,
) -> Iterator[Source | TableRow]:
    """Yield the same, but for a structure in a row of a table the row; arguments as for `sources_of`."""
    for name in names:
        if is_archive(name):
            yield from _in_archive(name, takes, frames, calculations, seconds)
        elif inside := _inside(name, structure_column, frames, seconds):
            yield from (each for each in inside if takes(start_of(source_in(each))[0]))
        elif takes(name):
            yield name


def source_in(found: Source | TableRow) -> Source:
    """Return a source, or that in a row of a table."""
    return found.source if isinstance(found, TableRow) else found


def _inside(
    name: str, structure_column: str | None, frames: Frames, seconds: float | None
) -> Iterator[Source | TableRow] | None:
    """Return the sources in a file whose name is that of a container; None for any other file."""
    if is_query(name):
        from crystalpredict.io.optimade_client import structures_of_query

        return structures_of_query(name)
    if is_table(name):
        return _in_table(name, structure_column)
    if is_database(name):
        return _in_database(name)
    if is_xyz(name):
        return _in_xyz(name)
    if is_json(name):
        return _in_json(name)
    return _in_calculation(name, seconds) if frames == Frames.all else None


def _in_archive(
    path: str, takes: Callable[[str], bool], frames: Frames, calculations: bool, seconds: float | None
) -> Iterator[Source | TableRow]:
    empty = True
    found = _found_in(path) if calculations else is_found

    def wanted(name: str) -> bool:
        nonlocal empty
        if not found(name):
            return False
        empty = False
        return takes(f"{path}/{name}")

    for member in members_of(path, wanted):
        if not member.name:  # an error of the whole archive
            empty = False
            if takes(path):
                yield Inline(path, error=member.error)
        elif is_archive(member.name):
            yield Inline(f"{path}/{member.name}", error=member.error or "an archive inside an archive: unpack it first")
        elif is_json(member.name) and not member.error:
            yield from _in_member(f"{path}/{member.name}", member.content)
        elif frames == Frames.all and not member.error:
            yield from _in_calculation(f"{path}/{member.name}", seconds, member.content)
        else:
            yield Inline(f"{path}/{member.name}", member.content, error=member.error)
    if empty and takes(path):
        yield Inline(path, error="no CIF, POSCAR, *.vasp, XYZ or JSON file in this archive")


def _found_in(path: str) -> Callable[[str], bool]:
    """Return the function that says which members of an archive are read, each calculation once."""
    from crystalpredict.io.calculation_folders import chosen_members

    names: list[str] = []
    for _ in members_of(path, lambda name: bool(names.append(name))):  # type: ignore[func-returns-value]
        pass  # the errors come again when the members are read
    return chosen_members(names).__contains__


def _in_calculation(path: str, seconds: float | None, content: bytes | None = None) -> Iterator[Source]:
    """Yield each frame of a file or of the content of a member; the file or the member itself if it has no frames."""
    index = 0
    try:
        for text in items_in_time(_frames(path, content), seconds):
            yield Inline(path, text, index=index)
            index += 1
    except TimeLimitExceeded:
        yield Inline(path, error=too_slow(seconds), index=index)
        return
    except (StructureError, OSError) as error:
        if isinstance(error, StructureError):
            yield Inline(path, error=f"{error}; frames after this one are not read", index=index)
            return
    if not index:
        yield path if content is None else Inline(path, content)


def _frames(path: str, content: bytes | None) -> Iterator[str]:
    """Yield the text of each frame; none if the file, or the content of a member, is not that of a calculation."""
    from crystalpredict.io.calculations import calculation_frames

    if content is None:
        refuse_pipe(path)
    yield from calculation_frames(read_text(path) if content is None else text_of(content), last=False) or ()


def _in_table(path: str, wanted: str | None) -> Iterator[Source | TableRow]:
    table = Path(path)
    number = 0
    names_of = (wanted,) if wanted else (*TEXT_COLUMNS, *PATH_COLUMNS)
    known = {name.lower() for name in (*names_of, *ID_COLUMNS)}
    try:
        for number, row in enumerate(rows_of(table, known), start=1):
            if isinstance(row, str):
                yield Inline(f"{path}#{number}", error=row)
                continue
            names = list(row)
            id_column = find_column(names, ID_COLUMNS)
            name = text_of_id(row[id_column]) if id_column else id_of_item(row) or str(number)
            where = f"{path}#{name or f'row {number}'}"  # a bare number could be the id of another row
            texts = find_column(names, TEXT_COLUMNS)
            if not wanted and not (texts and holds_structure(row[texts])) and (text := structure_in_row(row)):
                yield TableRow(Inline(where, text), other_cells(row))
                continue
            try:
                column = find_structure_column(path, names, wanted)
            except UsageError as error:
                if number == 1:
                    raise
                yield Inline(where, error=_without(path, error))
                continue
            source = source_of_cell(row[column], column, table.parent, where)
            source = source or Inline(where, error=f"no structure in the column {column}")
            yield TableRow(source, other_cells(row, column))
    except (DataError, UsageError) as error:
        yield Inline(path, error=_without(path, error))
        return
    if not number:
        yield Inline(path, error="a table without rows")


def _in_database(path: str) -> Iterator[Source]:
    empty = True
    try:
        for number, found in rows_of_database(path):
            empty = False
            where = f"{path}#{number}"
            yield Inline(where, found) if isinstance(found, str) else Inline(where, error=str(found))
    except StructureError as error:
        yield Inline(path, error=str(error))
        return
    except FileNotFoundError:
        yield path  # reading it gives the error
        return
    except OSError as error:
        yield Inline(path, error=str(unreadable(error)))
        return
    if empty:
        yield Inline(path, error="an ASE database without rows")


def _in_json(path: str) -> Iterator[Source | TableRow]:
    """Yield the items of a JSON list, or the file itself if it is not a list."""
    try:
        refuse_pipe(path)
        head = head_of(Path(path))
        start = head.decode(encoding_of(head), errors="ignore").lstrip()
        if start[:1] == "[":
            yield from _in_list(path, read_text(path))
            return
        if _ANSWER.match(start) and (documents := _documents(path, read_text(path))):
            yield from documents
            return
    except (StructureError, *CANNOT_UNPACK):
        pass  # reading it gives the error
    yield path


def _in_member(name: str, content: bytes) -> Iterator[Source | TableRow]:
    """Yield the items of a JSON list in an archive, or the member itself if it is not a list."""
    try:
        if (text := text_of(content)).lstrip()[:1] == "[":
            yield from _in_list(name, text)
            return
        if _ANSWER.match(text) and (documents := _documents(name, text)):
            yield from documents
            return
    except StructureError:
        pass
    yield Inline(name, content)


def _documents(path: str, text: str) -> list[Source]:
    """Return the documents under `data` in the answer of a server, named by their ids; none for other JSON."""
    from crystalpredict.io.json_structures import data_of

    try:
        content = parsed_json(text)
    except (ValueError, RecursionError):
        return []  # reading it gives the error
    documents = data_of(content)
    if documents == [content]:
        return []
    names = list(map(id_of_item, documents))
    return [
        Inline(f"{path}#{name}" if name else path, json.dumps(item), index=0 if name else index)
        for index, (name, item) in enumerate(zip(names, documents, strict=True))
    ]


def _in_list(path: str, text: str) -> Iterator[Source | TableRow]:
    """Yield the items of a JSON list, named by their ids or, without ids, by their number."""
    index = -1
    try:
        for index, (item, own) in enumerate(items_of(text)):
            name, row = id_of_item(item), item if isinstance(item, dict) else {}
            texts = (cell for cell in map(row.get, TEXT_COLUMNS) if isinstance(cell, str) and holds_structure(cell))
            own = next(texts, own)
            source = Inline(f"{path}#{name}", own) if name else Inline(path, own, index=index)
            yield TableRow(source, other_cells(row)) if row else source
    except StructureError as error:
        yield Inline(path, error=str(error), index=index + 1)
        return
    if index < 0:
        yield Inline(path, text)


def id_of_item(item: Any) -> str:
    """Return the id of a structure in JSON, from the object or its data or properties; empty if there is none."""
    if not isinstance(item, dict):
        return ""
    structure = item.get("structure")
    own = structure.get("properties") if isinstance(structure, dict) else None
    for part in (item, item.get("data"), item.get("properties"), own):
        if isinstance(part, dict) and (names := [name for name in map(str.lower, part) if name in ID_COLUMNS]):
            by_name = {key.lower(): value for key, value in part.items()}
            for key in sorted(names, key=ID_COLUMNS.index):
                if isinstance(by_name[key], str | int) and (name := text_of_id(by_name[key])):
                    return name
    return ""


def _without(path: str, error: Exception) -> str:
    """Return the message of an error without the path at its beginning."""
    return str(error).removeprefix(path).lstrip(":, ")


def _in_xyz(path: str) -> Iterator[Source]:
    index = 0
    try:
        refuse_pipe(path)
        with opened_text(Path(path), encoding_of(head_of(Path(path)))) as file:
            for text in frames_of(file):
                yield Inline(path, text, index=index)
                index += 1
    except StructureError as error:
        yield Inline(path, error=str(error), index=index)
        return
    except CANNOT_UNPACK as error:
        if not isinstance(error, FileNotFoundError):
            yield Inline(path, error=str(unreadable(error)), index=index)
            return
    if not index:
        yield path  # missing or empty: reading it gives the error
