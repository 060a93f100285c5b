"""A cache that is damaged, or made by a stranger: no error, no row but those that were kept."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.io.entries import Origin
from crystalpredict.prediction.cache import FILE, Cache
from crystalpredict.prediction.rows import Prediction
from crystalpredict.uncertainty import LEVELS

COLUMNS = ("bandgap_eV", "bulk_modulus_GPa")
ONE, TWO = b"1" * 32, b"2" * 32  # keys of sources


def opened(folder: Path, said: list[str] | None = None, **facts: str) -> Cache:
    return Cache(folder, facts, COLUMNS, (said if said is not None else []).append)


def row(number: int, error: str = "") -> Prediction:
    values = {} if error else {"bandgap_eV": 1.25 + number, "bulk_modulus_GPa": 100.0}
    bounds = {name: np.array([[value - 1, value + 1]] * len(LEVELS)) for name, value in values.items()}
    return Prediction("", number, "NaCl", 8, values, ("a note",), error, bounds)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A cache with two predictions of one source, and an error of another."""
    cache = opened(tmp_path)
    cache.add(Origin(ONE, 0, 2), row(0))
    cache.add(Origin(ONE, 1, 2), row(1))
    cache.add(Origin(TWO, 0, 1), row(0, "no crystal"))
    cache.commit()
    assert [found.values["bandgap_eV"] for found in opened(tmp_path).find(ONE)] == [1.25, 2.25]
    assert [found.error for found in opened(tmp_path).find(TWO)] == ["no crystal"]
    return tmp_path


def run(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / FILE)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


DAMAGE = [
    *(f"UPDATE predictions SET {column} = {value} WHERE number = 0"
      for column in ("count", "texts", "numbers", "digest")
      for value in ("NULL", "''", "x''", "x'ff00ff'", "0", "-1", "1e300", "'nan'", "zeroblob(60000)", "9e999",
                    "9223372036854775807", f"'{'[' * 20_000}'")),
    "UPDATE predictions SET number = 7 WHERE number = 1",
    "DELETE FROM predictions WHERE number = 1",
    "UPDATE predictions SET texts = replace(texts, 'NaCl', 'KBr')",
    "INSERT INTO predictions SELECT key, 2, count, texts, numbers, digest FROM predictions WHERE number = 1",
    "INSERT INTO predictions SELECT key, 'x', count, texts, numbers, digest FROM predictions WHERE number = 1",
    # the row of another source, or of another place, with the checksum that it has there
    "UPDATE predictions SET (texts, numbers, digest) = (SELECT texts, numbers, digest FROM predictions WHERE number=1)",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda statement: statement[:70])
def test_a_row_that_is_damaged_or_in_another_place_is_none(kept: Path, damage: str) -> None:
    run(kept, damage)
    said: list[str] = []
    assert opened(kept, said).find(ONE) == []
    assert said == []


def test_a_row_kept_for_another_model_is_none(kept: Path) -> None:
    assert opened(kept, model="another").find(ONE) == []


def forged(texts: str, numbers: bytes) -> Callable[[Path], None]:
    """Puts a row into the cache whose digest is right."""

    def forge(folder: Path) -> None:
        digest = opened(folder)._digest(TWO, 0, 1, texts, numbers)
        connection = sqlite3.connect(folder / FILE)
        with connection:
            connection.execute(
                "REPLACE INTO predictions VALUES (?, ?, ?, ?, ?, ?)", (TWO, 0, 1, texts, numbers, digest)
            )
        connection.close()

    return forge


def numbers_of(*values: float, flag: int = 1) -> bytes:
    return bytes([flag]) + struct.pack(f"<{len(values)}d", *values)


SOUND = numbers_of(1.0, 0.5, 1.5, 100.0, 90.0, 110.0)
NAN, INF = float("nan"), float("inf")


def texts_of(formula: object = "NaCl", n_atoms: object = 8, warnings: object = (), error: object = "") -> str:
    return json.dumps([formula, n_atoms, warnings, error, []])


FORGED = {
    "deep": ("[" * 30_000, b""),
    "no JSON": ("NaCl", SOUND),
    "an object": ("{}", SOUND),
    "too few": ('["NaCl", 8]', SOUND),
    "formula is a number": (texts_of(formula=7), SOUND),
    "formula with commands": (texts_of(formula="\x1b[2J"), SOUND),
    "a long formula": (texts_of(formula="Na" * 5000), SOUND),
    "atoms in words": (texts_of(n_atoms="eight"), SOUND),
    "minus one atom": (texts_of(n_atoms=-1), SOUND),
    "atoms of 400 digits": (f'["NaCl", {"9" * 400}, [], ""]', SOUND),
    "warnings is a text": (texts_of(warnings="odd"), SOUND),
    "a warning is a list": (texts_of(warnings=[[]]), SOUND),
    "error and values": (texts_of(error="odd"), SOUND),
    "neither": (texts_of(), b""),
    "one number": (texts_of(), b"\x01"),
    "a byte too many": (texts_of(), SOUND + b"x"),
    "a column too few": (texts_of(), numbers_of(1.0, 0.5, 1.5)),
    "another flag": (texts_of(), b"\x07" + SOUND[1:]),
    "not a number": (texts_of(), numbers_of(NAN, 0.5, 1.5, 100.0, 90.0, 110.0)),
    "infinite": (texts_of(), numbers_of(INF, 0.5, 1.5, 100.0, 90.0, 110.0)),
    "interval upside down": (texts_of(), numbers_of(1.0, 1.5, 0.5, 100.0, 90.0, 110.0)),
    "interval not a number": (texts_of(), numbers_of(1.0, NAN, 1.5, 100.0, 90.0, 110.0)),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_row_is_none_unless_it_is_a_prediction(kept: Path, name: str) -> None:
    forged(texts_of(), SOUND)(kept)
    assert opened(kept).find(TWO)[0].values["bandgap_eV"] == 1.0
    forged(*FORGED[name])(kept)
    assert opened(kept).find(TWO) == []


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
SCHEMAS = {
    "a view": f"CREATE VIEW predictions AS {ENDLESS} i AS key, 0 AS number, 1 AS count, '' AS texts, '' AS numbers, "
    "'' AS digest FROM n",
    "other columns": "CREATE TABLE predictions (key)",
    "a row of large values": "CREATE TABLE predictions (key BLOB, number INTEGER DEFAULT (zeroblob(1000000000)))",
    "a virtual table": "CREATE VIRTUAL TABLE predictions USING fts5(key, number, count, texts, numbers, digest)",
    "another table": "CREATE TABLE others (key)",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_of_another_schema_is_not_used(tmp_path: Path, name: str) -> None:
    run(tmp_path, SCHEMAS[name])
    before = (tmp_path / FILE).read_bytes()
    refused(tmp_path, "not a cache of this program")
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("what", ["TRIGGER odd AFTER INSERT ON predictions BEGIN DELETE FROM predictions; END",
                                  "INDEX odd ON predictions (count)", "VIEW odd AS SELECT 1"])  # fmt: skip
def test_nor_is_one_with_more_than_the_table(kept: Path, what: str) -> None:
    run(kept, f"CREATE {what}")
    refused(kept, "not a cache of this program")


def refused(folder: Path, words: str) -> None:
    """One line is said of it, nothing is found in it, and nothing is kept there."""
    said: list[str] = []
    cache = opened(folder, said)
    assert cache.find(ONE) == []
    cache.add(Origin(TWO, 0, 1), row(0))
    cache.commit()
    (line,) = said
    assert words in line
    assert "\n" not in line
    assert line.endswith("the run continues")


@pytest.mark.parametrize("place", [20, 100, 105, 4096, 4100, 4104, 8000])
def test_a_damaged_file_gives_nothing_else(kept: Path, place: int) -> None:
    whole = bytearray((kept / FILE).read_bytes())
    whole[place : place + 40] = b"\xa5" * len(whole[place : place + 40])
    (kept / FILE).write_bytes(whole)
    said: list[str] = []
    cache = opened(kept, said)
    assert [found.values for found in cache.find(ONE)] in ([], [row(0).values, row(1).values])
    cache.add(Origin(TWO, 0, 1), row(0))
    cache.commit()
    assert len(said) <= 1


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    refused(tmp_path, "not used")
