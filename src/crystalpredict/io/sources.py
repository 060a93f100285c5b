"""Names of files to sources of structures: files as they are, archives, tables and XYZ taken apart, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crystalpredict.data.labels import (
    PATH_COLUMNS,
    TEXT_COLUMNS,
    find_column,
    find_structure_column,
    source_of_cell,
    structure_in_row,
    text_of_id,
)
from crystalpredict.errors import DataError, StructureError, UsageError
from crystalpredict.io.archives import members_of
from crystalpredict.io.ase_db import rows_of_database
from crystalpredict.io.entries import Inline, Source, start_of
from crystalpredict.io.file_types import is_archive, is_database, is_found, is_table, is_xyz
from crystalpredict.io.table_formats import ID_COLUMNS, head_of, holds_structure, opened_text, rows_of
from crystalpredict.io.text import CANNOT_UNPACK, encoding_of, unreadable
from crystalpredict.io.xyz import frames_of


def sources_of(
    names: Iterable[str], structure_column: str | None = None, takes: Callable[[str], bool] = lambda name: True
) -> Iterator[Source]:
    """The sources of structures in files, in their order; whatever cannot be read is a source with an error.

    `takes` is asked of the name of every source, in order, whether it is wanted: for one that is not, no file is opened
    and no member of an archive is unpacked.

    A member of an archive is called `archive.zip/member.cif`; a structure in a table `table.csv#id`, or by the number
    of its row where there is no id, one in an ASE database `name.db#id`; frames of an XYZ file by its name, with their
    number as index.
    """
    for name in names:
        if is_archive(name):
            yield from _in_archive(name, takes)
        elif is_table(name) or is_database(name) or is_xyz(name):
            if is_table(name):
                inside = _in_table(name, structure_column)
            else:
                inside = _in_database(name) if is_database(name) else _in_xyz(name)
            yield from (source for source in inside if takes(start_of(source)[0]))
        elif takes(name):
            yield name


def _in_archive(path: str, takes: Callable[[str], bool]) -> Iterator[Source]:
    empty = True

    def wanted(name: str) -> bool:
        nonlocal empty
        if not is_found(name):
            return False
        empty = False
        return takes(f"{path}/{name}")

    for member in members_of(path, wanted):
        if not member.name:  # an error of the whole archive
            empty = False
            if takes(path):
                yield Inline(path, error=member.error)
        elif is_archive(member.name):
            yield Inline(f"{path}/{member.name}", error="an archive in an archive: unpack it first")
        else:
            yield Inline(f"{path}/{member.name}", member.content, error=member.error)
    if empty and takes(path):
        yield Inline(path, error="no CIF, POSCAR, *.vasp, XYZ or JSON file in this archive")


def _in_table(path: str, wanted: str | None) -> Iterator[Source]:
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
            name = text_of_id(row[id_column]) if id_column else str(number)
            where = f"{path}#{name or f'row {number}'}"  # since the number may be the id of another row
            texts = find_column(names, TEXT_COLUMNS)
            if not wanted and not (texts and holds_structure(row[texts])) and (text := structure_in_row(row)):
                yield Inline(where, text)
                continue
            try:
                column = find_structure_column(path, names, wanted)
            except UsageError as error:
                if number == 1:
                    raise
                yield Inline(where, error=_without(path, error))
                continue
            source = source_of_cell(row[column], column, table.parent, where)
            yield source or Inline(where, error=f"no structure in the column {column}")
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
    except OSError:
        yield path  # whoever reads it will say what is wrong
        return
    if empty:
        yield Inline(path, error="an ASE database without rows")


def _without(path: str, error: Exception) -> str:
    """Message of an error, without the path that it begins with."""
    return str(error).removeprefix(path).lstrip(":, ")


def _in_xyz(path: str) -> Iterator[Source]:
    index = 0
    try:
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
        yield path  # not there, or empty: whoever reads it will say so
