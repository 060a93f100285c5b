"""A SQLite file of one table in a cache folder, read by many processes and written by one thread of each run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crystalpredict.errors import printable

LOCK_TIMEOUT_SECONDS = 30  # while another run writes
MAX_SCHEMA_STEPS = 10**6  # SQLite instructions to read the schema of a file
SCHEMA = "SELECT type, name, sql FROM sqlite_master LIMIT 2"


@dataclass(frozen=True)
class Table:
    """A table of a cache.

    Attributes:
        name: Its name.
        sql: The statement that creates it, as SQLite keeps it.
        find: The query of the rows of a key, its only parameter.
        add: The statement that adds a row.
        max_row_bytes: Size of a row, at most.
    """

    name: str
    sql: str
    find: str
    add: str
    max_row_bytes: int


class SqliteFile:
    """A SQLite file of one table.

    Errors of the file give one warning; the run continues without it. Connections are not pickled.

    Attributes:
        mode: URI parameters for reading; empty if the file cannot be read.
        writable: Whether rows can be written.
    """

    def __init__(self, path: Path, table: Table, warn: Callable[[str], None]) -> None:
        """Open the file, or create it.

        Args:
            path: The file.
            table: Its table.
            warn: Called with a message if the file cannot be read or written.
        """
        self.path, self.table, self.warn = path, table, warn
        self.writable = True
        self.mode = ""
        self.connection: sqlite3.Connection | None = None
        self.owner = 0  # id of the process that opened the connection
        self._create()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "connection": None, "warn": _ignore}

    def rows(self, key: bytes) -> sqlite3.Cursor:
        """Return the rows of a key.

        Raises:
            sqlite3.Error: The file cannot be read.
        """
        return self._connected().execute(self.table.find, (key,))

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows; if that fails, warn and stop writing."""
        if not rows or not self.writable:
            return
        try:
            connection = open_database(self.path, self.table, "mode=rw")
            try:
                connection.execute("PRAGMA synchronous = NORMAL")
                with connection:
                    connection.executemany(self.table.add, rows)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # keeps everything in the main file
            finally:
                connection.close()
        except sqlite3.Error as error:
            self._warn(f"no further rows are stored ({error})")

    def _create(self) -> None:
        """Create the file if it is missing, and find out whether it can be read and written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():
                raise OSError("not a file")
            connection = open_database(self.path, self.table, "mode=rwc")
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    connection.execute(self.table.sql.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                connection.execute(f"SELECT key FROM {self.table.name} LIMIT 1").fetchall()
                connection.execute("BEGIN IMMEDIATE")  # fails for a read-only file
                self.mode = "mode=ro"
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            self.mode = "immutable=1"  # in other modes SQLite writes files next to it
            readable = not all(os.access(path, os.W_OK) for path in (self.path, self.path.parent)) and self._readable()
            self.mode = self.mode if readable else ""
            self._warn(f"read-only ({error})" if readable else f"not used ({error})")

    def _readable(self) -> bool:
        try:
            self.rows(b"").fetchall()
        except sqlite3.Error:
            return False
        return True

    def _connected(self) -> sqlite3.Connection:
        """Return a read-only connection of this process."""
        if self.connection is None or self.owner != os.getpid():  # a connection must not be used after a fork
            connection = open_database(self.path, self.table, self.mode)
            connection.execute("PRAGMA query_only = ON")
            self.connection, self.owner = connection, os.getpid()
        return self.connection

    def _warn(self, what: str) -> None:
        self.writable = False
        self.warn(f"cache {self.path}: {printable(what)}; the run continues")


def open_database(path: Path, table: Table, mode: str) -> sqlite3.Connection:
    """Open a file that may come from anywhere; `mode`: parameters of SQLite's URI.

    Raises:
        sqlite3.Error: The file has anything but the table, such as a view or a trigger.
    """
    address = f"file:{quote(os.fsencode(path.absolute()))}?{mode}"
    connection = sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, table.max_row_bytes)
        connection.set_progress_handler(lambda: True, MAX_SCHEMA_STEPS)
        if connection.execute(SCHEMA).fetchall() not in ([], [("table", table.name, table.sql)]):
            raise sqlite3.DatabaseError("it is not a cache of this program: delete it, or name another folder")
        connection.set_progress_handler(None, 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _ignore(message: str) -> None:
    """Drop the warnings of a reader process: the writing process gives the same."""
