"""Read JSON files strictly, into dataclasses that constrain their fields with `Annotated`; msgspec checks them.

Repeated keys, numbers that are not finite, and deep nesting are errors. An error message is one line with the key.
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

MAX_NESTING = 20  # of lists and objects
MAX_INTEGER_DIGITS = 25
MAX_JSON_BYTES = 2**24
MAX_VALUE_LENGTH = 60  # characters of a value in a message

# no control characters, no change of the writing direction, no characters without width, no halves of surrogates
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
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]  # excludes not-a-number
Positive = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
AtomicNumber = Annotated[int, Meta(ge=1, le=98)]  # of crystal.ELEMENTS

_SCALAR: tuple[None, tuple[()], dict[str, Any]] = (None, (), {})  # `_type_parts` of a number or a text
_TYPE_WORDS = {
    "int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


class SchemaError(ValueError):
    """A value does not fit its type; the message is one line that begins with the key."""


def parse_json(content: bytes | str) -> Any:
    """Return the data of a JSON text.

    Raises:
        SchemaError: it is not JSON, or other programs could read it differently.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_int=_parse_integer, parse_float=_parse_finite,
            parse_constant=_parse_finite,
        )  # fmt: skip
    except SchemaError:
        raise
    except RecursionError:
        raise SchemaError(f"lists or objects nested more than {MAX_NESTING} deep") from None
    except UnicodeDecodeError:
        raise SchemaError("not a text in UTF-8") from None
    except ValueError as error:
        raise SchemaError(f"not JSON ({error})") from None
    _check_nesting(value, MAX_NESTING)
    return value


def record(value: Any, kind: type[T], path: str = "") -> T:
    """Return data of a JSON file as a dataclass or another type.

    Args:
        value: lists, dictionaries, texts, numbers.
        kind: type of the result.
        path: of keys to the value in its file, for the message.

    Raises:
        SchemaError: a key is missing or unknown, or a value does not fit its type.
    """
    _check_keys(value, kind, path)
    return _convert(value, kind, path)


def read_record(content: bytes | str, kind: type[T]) -> T:
    """Return a JSON text as a dataclass; raise a SchemaError as `parse_json` and `record`."""
    return record(parse_json(content), kind)


def read_checkpoint_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file of a checkpoint.

    Symbolic links are refused: they could lead to an endless device, or to a confidential file.

    Raises:
        CheckpointError: the file is missing, a link, too large, or cannot be read.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise CheckpointError(f"{path}: a symbolic link or not a file: put the file itself there")
        if not path.exists():
            raise CheckpointError(f"{path}: missing; fetch the whole checkpoint folder again")
        if (size := path.stat().st_size) > max_bytes:
            raise CheckpointError(f"{path}: {size:,} bytes are far too many for this file; fetch it again")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json_file(path: Path) -> Any:
    """Return the data of a JSON file of a checkpoint.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return parse_json(read_checkpoint_file(path, MAX_JSON_BYTES))
    except SchemaError as error:
        raise damaged(path, error) from None


def record_of(value: Any, kind: type[T], path: Path) -> T:
    """Return data of a file as a dataclass.

    Raises:
        CheckpointError: the data do not fit; the message has the file and the key.
    """
    try:
        return record(value, kind)
    except SchemaError as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a damaged file, with a message of one line."""
    remedy = "install crystalpredict" if path.name == "index.json" else "fetch it"
    return CheckpointError(f"{path}: damaged ({printable(str(error))}); {remedy} again")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise SchemaError(f"the key {_quote(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return found


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise SchemaError(f"{digits[:12]}... is an integer of {len(digits)} digits")
    return int(digits)


def _parse_finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise SchemaError(f"{digits[:40]} is not a finite number")
    return value


def _check_nesting(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if not left:
        raise SchemaError(f"lists or objects nested more than {MAX_NESTING} deep")
    for item in value.values() if isinstance(value, dict) else value:
        _check_nesting(item, left - 1)


@cache
def _type_parts(kind: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return origin and arguments of a type without its annotations, and the types of the fields of a dataclass."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    is_record = isinstance(kind, type) and (is_dataclass(kind) or is_typeddict(kind))
    return get_origin(kind), get_args(kind), get_type_hints(kind, include_extras=True) if is_record else {}


def _check_keys(value: Any, kind: Any, path: str) -> None:
    """Raise a SchemaError if a key or a literal is unknown, with the most similar known one."""
    origin, inner, fields = _type_parts(kind)
    if origin is Literal:
        if isinstance(value, str) and value not in inner:
            raise SchemaError(f"{path} is {_quote(value)}{_suggestion(value, inner)}")
    elif origin is Union or origin is UnionType:
        for each in inner:
            _check_keys(value, each, path)
    elif isinstance(value, dict):
        if origin is not dict and not fields:
            return
        for key, item in value.items():
            below = f"{path}.{_quote_key(key)}".lstrip(".")
            if fields and key not in fields:
                raise SchemaError(f"{path or 'it'} has a key {_quote(key)}, which is unknown{_suggestion(key, fields)}")
            _check_keys(item, fields[key] if fields else inner[1], below)
            if not fields:
                _convert(item, inner[1], below)  # errors of msgspec do not contain the keys of a dictionary
    elif isinstance(value, list) and inner and _type_parts(inner[0]) != _SCALAR:
        for number, item in enumerate(value):
            _check_keys(item, inner[0], f"{path}[{number}]")


def _suggestion(name: object, known: Any) -> str:
    names = [str(each) for each in known]
    near = get_close_matches(str(name)[:100], names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"


def _convert(value: Any, kind: type[T], path: str) -> T:
    try:
        return convert(value, kind)
    except (ValidationError, UnicodeError) as error:  # for halves of surrogates in a key
        raise SchemaError(_plain_message(str(error), value, path)) from None


def _plain_message(message: str, value: Any, path: str) -> str:
    """Return a message of msgspec in plain words, beginning with the key and the wrong value."""
    text, _, own = message.partition(" - at `$")
    own = own.rstrip("`")
    where = f"{path}{own}".lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", text):
        return f"{where}.{missing[1]} is missing".lstrip(".")
    if not text.startswith(("Expected", "Number", "Invalid")):
        return f"{where}: {text}" if where else text  # of the __post_init__ of a dataclass
    for pattern, words in PATTERNS.items():
        text = text.replace(f"matching regex {pattern!r}", words)
    text = re.sub(r", got .*", "", text).replace("Expected", "expected").replace("Number", "number")
    text = re.sub(
        r"`([^`]*)`", lambda kinds: " or ".join(_TYPE_WORDS.get(kind, kind) for kind in kinds[1].split(" | ")), text
    )
    return f"{where or 'the file'} is {_quote(_value_at(value, own))}: {text}"


def _value_at(value: Any, path: str) -> Any:
    """Return the value at a path of msgspec, or an object above it if the path does not contain its keys."""
    for key, number in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        if number == "..." or not isinstance(value, dict | list):
            break
        value = value[int(number)] if number else value[key]
    return value


def _quote_key(key: str) -> str:
    return key if re.fullmatch(r"[\w.-]{1,60}", key) else _quote(key)


def _quote(value: Any) -> str:
    """Return a value for a message: one short line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, str):
        text = repr(value) if value.isprintable() else ascii(value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
