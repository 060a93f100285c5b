"""Parse JSON with a limit on the number of its values."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from crystalpredict.errors import StructureError

MAX_JSON_VALUES = 2**25  # of one document: an empty list takes 64 bytes of memory
DOWNLOAD_AGAIN = "write or download it again"
MAX_LITERAL_CHARACTERS = 2**22  # of a Python dictionary: parsing takes a hundred times its size
_LITERAL = re.compile(r"\s*(\[\s*)?\{\s*'")  # JSON has no single quotes
_SPACE = re.compile(r"[ \t\n\r]*")


def parsed_json(text: str, max_values: int = 0) -> Any:
    """Return the content of JSON.

    Args:
        text: The JSON.
        max_values: Limit on its values; 0: MAX_JSON_VALUES.

    Raises:
        ValueError, RecursionError: It is not JSON.
        StructureError: It has too many values.
    """
    _refuse_many_values(text, max_values or MAX_JSON_VALUES)
    return json.loads(text)


def parsed_literal(text: str) -> Any:
    """Return the content of a Python dictionary or list, as pandas writes one into a CSV; None for any other text.

    Only literals are read: nothing is evaluated or called.

    Raises:
        StructureError: It begins like one, but has other values, or is too long.
    """
    if not _LITERAL.match(text):
        return None
    if "array(" in text:
        raise StructureError("a Python dictionary with NumPy arrays: write it as JSON, as ase.io.jsonio.encode does")
    if len(text) > MAX_LITERAL_CHARACTERS:
        raise StructureError(f"a Python dictionary of more than {MAX_LITERAL_CHARACTERS >> 20} MiB: write it as JSON")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise StructureError("a broken Python dictionary: write the structure as JSON") from None


def _refuse_many_values(text: str, max_values: int) -> None:
    if len(text) > max_values and sum(map(text.count, ",[{")) > max_values:
        raise StructureError(f"JSON of more than {max_values:,} values: write a line or a file for each crystal")


def items_of(text: str) -> Iterator[tuple[Any, str]]:
    """Yield the items of a JSON list, each with its text.

    Raises:
        StructureError: The JSON is broken after the items yielded so far, or has too many values.
    """
    _refuse_many_values(text, MAX_JSON_VALUES)
    decoder, space = json.JSONDecoder(), _SPACE
    place = space.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    if text[place : place + 1] == "]":
        return
    try:
        while True:
            item, end = decoder.raw_decode(text, place)
            yield item, text[place:end]
            place = space.match(text, end).end()  # type: ignore[union-attr]
            if text[place : place + 1] != ",":
                break
            place = space.match(text, place + 1).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError) as error:
        raise StructureError(f"broken JSON ({json_reason(error)}): {DOWNLOAD_AGAIN}") from None
    if text[place:].strip() != "]":
        line = text.count("\n", 0, place) + 1
        raise StructureError(f"broken JSON (at line {line}): {DOWNLOAD_AGAIN}")


def json_reason(error: Exception) -> str:
    """Return why a text is not JSON, in one phrase."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"at line {error.lineno}, column {error.colno}"
    return "a number of too many digits"
