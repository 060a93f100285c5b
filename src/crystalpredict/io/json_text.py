"""JSON that may come from anywhere: no more values than memory has, and what is wrong with it in one phrase."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from crystalpredict.errors import StructureError

MOST_VALUES = 2**25  # in JSON that is read at once: an empty list takes 64 bytes
AGAIN = "write or download it again"
_SPACE = re.compile(r"[ \t\n\r]*")


def parsed_json(text: str, most: int = 0) -> Any:
    """The content of JSON; ValueError or RecursionError if it is none.

    StructureError for more than `most` values, or MOST_VALUES, which the memory may not have.
    """
    _refuse_many_values(text, most or MOST_VALUES)
    return json.loads(text)


def _refuse_many_values(text: str, most: int) -> None:
    if len(text) > most and sum(map(text.count, ",[{")) > most:
        raise StructureError(f"JSON of more than {most:,} values: write a line or a file for each crystal")


def items_of(text: str) -> Iterator[tuple[Any, str]]:
    """The items of a list of JSON and the text of each; StructureError at the first place where there is none."""
    _refuse_many_values(text, MOST_VALUES)
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
        raise StructureError(f"broken JSON ({json_reason(error)}): write or download it again") from None
    if text[place:].strip() != "]":
        line = text.count("\n", 0, place) + 1
        raise StructureError(f"broken JSON (at line {line}): write or download it again")


def json_reason(error: Exception) -> str:
    """Why a text is no JSON, in one phrase."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"at line {error.lineno}, column {error.colno}"
    return "a number of too many digits"
