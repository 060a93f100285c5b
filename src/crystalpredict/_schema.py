"""JSON files as typed records: read strictly, checked against the annotations of a dataclass, without any other layer.

The records say with `Annotated` what a value must be like; msgspec checks it. What is read from a file is plain data:
no key twice, no number that is not finite, no deep nesting. An error is one line that names the key.
"""

from __future__ import annotations

import json
import re
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import Meta, ValidationError, convert

from crystalpredict.errors import CheckpointError, printable

T = TypeVar("T")

DEEPEST = 20  # lists and objects in one another
MOST_DIGITS = 25  # of an integer
LARGEST_JSON = 2**24  # bytes of a file
LONGEST_VALUE = 60  # characters of a value in a message

# no control characters, none that turn the direction of writing, none without a width, no halves of surrogates
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff]*\Z"
LETTERS = r"^[0-9A-Za-z_]*\Z"
NAME = r"^[A-Za-z0-9][\w.-]*\Z"
DIGITS = r"^[0-9a-f]{64}\Z"
PATTERNS = {
    PRINTABLE: "without control characters", LETTERS: "of letters, digits and _", NAME: "that can be a file's name",
    DIGITS: "of 64 hexadecimal digits",
}  # fmt: skip
Text = Annotated[str, Meta(max_length=1000, pattern=PRINTABLE)]
Summary = Annotated[str, Meta(max_length=2000, pattern=PRINTABLE)]
Letters = Annotated[str, Meta(max_length=500, pattern=LETTERS)]
Word = Annotated[str, Meta(min_length=1, max_length=500, pattern=LETTERS)]
FileName = Annotated[str, Meta(max_length=200, pattern=NAME)]
Sha256 = Annotated[str, Meta(pattern=DIGITS)]
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]  # which not-a-number is not
Positive = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
AtomicNumber = Annotated[int, Meta(ge=1, le=98)]  # of crystal.ELEMENTS

_PLAIN: tuple[None, tuple[()], dict[str, Any]] = (None, (), {})  # parts of a number or a text
_KINDS = {
    "int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


class SchemaError(ValueError):
    """A value that is not what its record says; one line, which begins with the key."""


def parse_json(content: bytes | str) -> Any:
    """The plain data of a JSON text; SchemaError if it is none, or none that another program would read alike."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_finite
        )
    except SchemaError:
        raise
    except RecursionError:
        raise SchemaError(f"lists or objects nested more than {DEEPEST} deep") from None
    except UnicodeDecodeError:
        raise SchemaError("not a text in UTF-8") from None
    except ValueError as error:
        raise SchemaError(f"not JSON ({error})") from None
    _refuse_deep(value, DEEPEST)
    return value


def record(value: Any, kind: type[T], path: str = "") -> T:
    """Plain data as a record of a dataclass, or of another type; SchemaError names the first key that is wrong.

    `path`: where the data stand in their file.
    """
    _refuse_unknown(value, kind, path)
    return _converted(value, kind, path)


def read_record(content: bytes | str, kind: type[T]) -> T:
    """The record in a JSON text; SchemaError if it is none."""
    return record(parse_json(content), kind)


def checkpoint_file(path: Path, most: int) -> bytes:
    """What is in a file of a checkpoint; CheckpointError if it cannot be read or has more than `most` bytes.

    A link is not followed: it may lead to a device without end, or to what others must not see.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CheckpointError(f"{path}: a link, or no file: put the file itself there")
        if not path.exists():
            raise CheckpointError(f"{path}: missing, which a checkpoint folder has; fetch the whole of it again")
        if (size := path.stat().st_size) > most:
            raise CheckpointError(f"{path}: {size:,} bytes, far more than belong there; fetch it again")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json_file(path: Path) -> Any:
    """The plain data in a JSON file of a checkpoint; CheckpointError if it is none."""
    try:
        return parse_json(checkpoint_file(path, LARGEST_JSON))
    except SchemaError as error:
        raise damaged(path, error) from None


def record_of(value: Any, kind: type[T], path: Path) -> T:
    """The plain data of a file as a record; CheckpointError that names the file and the key."""
    try:
        return record(value, kind)
    except SchemaError as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that is not as it should be: one line."""
    remedy = "install crystalpredict" if path.name == "index.json" else "fetch it"
    return CheckpointError(f"{path}: damaged ({printable(str(error))}); {remedy} again")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise SchemaError(f"the key {_shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise SchemaError(f"{digits[:12]}... is an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise SchemaError(f"{digits[:40]} is not a finite number")
    return value


def _refuse_deep(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if not left:
        raise SchemaError(f"lists or objects nested more than {DEEPEST} deep")
    for item in value.values() if isinstance(value, dict) else value:
        _refuse_deep(item, left - 1)


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What a type is made of: its origin and arguments, without annotations; types of the fields of a record."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    is_record = isinstance(kind, type) and (is_dataclass(kind) or is_typeddict(kind))
    return get_origin(kind), get_args(kind), get_type_hints(kind, include_extras=True) if is_record else {}


def _refuse_unknown(value: Any, kind: Any, path: str) -> None:
    """SchemaError for a key or a word that the type does not have, with the nearest that it has."""
    origin, inner, fields = _parts(kind)
    if origin is Literal:
        if isinstance(value, str) and value not in inner:
            raise SchemaError(f"{path} is {_shown(value)}{_nearest(value, inner)}")
    elif origin is Union or origin is UnionType:
        for each in inner:
            _refuse_unknown(value, each, path)
    elif isinstance(value, dict):
        if origin is not dict and not fields:
            return
        for key, item in value.items():
            below = f"{path}.{_word(key)}".lstrip(".")
            if fields and key not in fields:
                raise SchemaError(f"{path or 'it'} has a key {_shown(key)}, which is unknown{_nearest(key, fields)}")
            _refuse_unknown(item, fields[key] if fields else inner[1], below)
            if not fields:
                _converted(item, inner[1], below)  # msgspec does not say under which of the keys something is wrong
    elif isinstance(value, list) and inner and _parts(inner[0]) != _PLAIN:
        for number, item in enumerate(value):
            _refuse_unknown(item, inner[0], f"{path}[{number}]")


def _nearest(name: object, known: Any) -> str:
    names = [str(each) for each in known]
    near = get_close_matches(str(name)[:100], names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"


def _converted(value: Any, kind: type[T], path: str) -> T:
    try:
        return convert(value, kind)
    except (ValidationError, UnicodeError) as error:  # halves of surrogates have no place in a key
        raise SchemaError(_in_words(str(error), value, path)) from None


def _in_words(message: str, value: Any, path: str) -> str:
    """The message of msgspec without its marks, with the key first and the value that is wrong."""
    text, _, own = message.partition(" - at `$")
    own = own.rstrip("`")
    where = f"{path}{own}".lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", text):
        return f"{where}.{missing[1]} is missing".lstrip(".")
    if not text.startswith(("Expected", "Number", "Invalid")):
        return f"{where}: {text}" if where else text  # of a record's own check
    for pattern, words in PATTERNS.items():
        text = text.replace(f"matching regex {pattern!r}", words)
    text = re.sub(r", got .*", "", text).replace("Expected", "expected").replace("Number", "number")
    text = re.sub(
        r"`([^`]*)`", lambda kinds: " or ".join(_KINDS.get(kind, kind) for kind in kinds[1].split(" | ")), text
    )
    return f"{where or 'the file'} is {_shown(_at(value, own))}: {text}"


def _at(value: Any, path: str) -> Any:
    """The value at a path of msgspec, or, below an object whose keys are free, that object."""
    for key, number in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        if number == "..." or not isinstance(value, dict | list):
            break
        value = value[int(number)] if number else value[key]
    return value


def _word(key: str) -> str:
    return key if re.fullmatch(r"[\w.-]{1,60}", key) else _shown(key)


def _shown(value: Any) -> str:
    """The value in a message: one short line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else json.dumps(value, ensure_ascii=False)
    text = repr(value) if isinstance(value, str) and value.isprintable() else text
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
