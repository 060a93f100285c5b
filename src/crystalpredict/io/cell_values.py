"""Values in the cells of tables: numbers in texts, and JSON values of what a format has in its own way."""

from __future__ import annotations

import json
import re
from math import isfinite, isnan
from typing import Any, Literal

Kind = Literal["integer", "number", "boolean", "text", "json"]
MISSING_VALUES = frozenset({"", "na", "n/a", "nan", "none", "null", "-", "--", "?"})  # cells without a value
MAX_EXACT = 2**53  # beyond, not all integers are floats
EXACT_DIGITS = 15  # of a decimal number, which a float keeps
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
NUMBER = re.compile(r"-?(?!0[0-9])([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)  # 007 may be an id
TRUTH = {"true": True, "false": False}


def kind_of_cell(cell: Any, texts: bool) -> Kind:
    """Return the kind of a cell with a value; in `texts`, as those of a CSV, numbers are texts too."""
    if isinstance(cell, str):
        value = parsed(cell) if texts else cell
        return "text" if isinstance(value, str) else kind_of_cell(value, texts=False)
    if isinstance(cell, bool):
        return "boolean"
    if isinstance(cell, int):
        return "integer" if abs(cell) < MAX_EXACT else "text"
    if isinstance(plain_json(cell), float):
        return "number"
    return "json" if isinstance(cell, list | dict) else "text"


def is_missing(cell: Any) -> bool:
    """Whether a cell has no value."""
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING_VALUES
    return cell is None or (isinstance(cell, float) and isnan(cell))


def parsed(text: str) -> int | float | bool | str:
    """Return the number or the truth value in a text, which the text itself is again if there is none."""
    plain = text.strip()
    if plain.lower() in TRUTH:
        return TRUTH[plain.lower()]
    if INTEGER.fullmatch(plain):
        return int(plain) if len(plain) < 17 and abs(int(plain)) < MAX_EXACT else text
    if NUMBER.fullmatch(plain) and isfinite(value := float(plain)):
        return value
    return text


def value_of(cell: Any, kind: str) -> Any:
    """Return the JSON value of a cell of a column; None for a missing one.

    A text that is no number stays a text in a column of numbers.
    """
    if isinstance(cell, str):
        if kind in ("text", "json"):
            return cell or None
        return None if is_missing(cell) else parsed(cell)
    if is_missing(cell):
        return None
    cell = plain_json(cell)
    return cell if kind != "text" or isinstance(cell, str) else text_of(cell)


def plain_json(value: Any) -> Any:
    """Return a value as JSON has it: dates and infinities are texts."""
    if isinstance(value, float):
        return value if isfinite(value) else None if isnan(value) else str(value)
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, dict):
        return {str(key): plain_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(each) for each in value]
    if hasattr(value, "as_tuple") and len(value.as_tuple().digits) <= EXACT_DIGITS:  # a Decimal
        return plain_json(float(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def text_of(value: Any) -> str:
    """Return a JSON value as a text for a cell of a CSV; lists and objects as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def fits(value: Any, kind: str) -> bool:
    """Whether a value can be written to a column of numbers, truth values or texts of Parquet."""
    if value is None or kind in ("text", "json"):
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) and abs(value) < 2**63
    exact = isinstance(value, int) and abs(value) <= MAX_EXACT
    return kind == "number" and (exact or isinstance(value, float))
