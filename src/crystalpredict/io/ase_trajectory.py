"""Read ASE trajectories: the arrays of the structures only.

ASE's own reader is not used: it builds the constraints and objects that a file names, with arguments from the file.
A trajectory is a file of ASE's ulm format: a header, a table of offsets, and for each frame a JSON object whose keys
that end with a dot refer to arrays elsewhere in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.frames import PARTLY_OCCUPIED, frame_of_numbers, is_partly_occupied
from crystalpredict.io.json_text import parsed_json

MAGIC = b"- of Ulm"
TAG = b"ASE-Trajectory"
TYPES = re.compile(r"bool|u?int(8|16|32|64)|float(32|64)")  # of arrays: numbers only, never objects
BROKEN = "broken ASE trajectory: the file is cut off or damaged; write it again"
MAX_FRAME_VALUES = 2**22  # of the JSON of a frame, without its arrays


def frames_of_trajectory(content: bytes, *, last: bool) -> Iterator[str]:
    """Yield each structure of a trajectory, or only the last one, as JSON of plain arrays.

    Args:
        content: The unpacked file.
        last: Whether to yield only the last structure.

    Raises:
        StructureError: The file is damaged, no trajectory, or a frame is not a periodic crystal, or has partly
            occupied sites.
    """
    if (tag := content[8:24].rstrip()) != TAG:
        name = tag.decode("ascii", "replace")
        kind = "gpw" if name == "gpaw" else "FORMAT"
        hint = f"convert it with `ase convert -i {kind} FILE out.cif`"
        raise StructureError(f"a file of ASE's ulm format for {name or 'other data'}: {hint}")
    _, count, place = _integers(content, 24, 3)
    if not count:
        raise StructureError("an ASE trajectory without frames")
    offsets = _integers(content, place, count)
    first = _frame_at(content, offsets[0])
    for offset in offsets[-1:] if last else offsets:
        own = _frame_at(content, offset)
        if is_partly_occupied(own.get("info")):
            raise StructureError(PARTLY_OCCUPIED)
        header = own if {"numbers", "numbers."} & set(own) else first
        numbers, periodic = _array(content, header, "numbers"), _array(content, header, "pbc")
        yield frame_of_numbers(_array(content, own, "cell"), numbers, _array(content, own, "positions"), periodic)


def _integers(content: bytes, place: int, count: int) -> list[int]:
    if min(place, count) < 0 or place + 8 * count > len(content):
        raise StructureError(BROKEN)
    return [int(number) for number in np.frombuffer(content, "<i8", count, place)]


def _frame_at(content: bytes, offset: int) -> dict[str, Any]:
    """Return the JSON of a frame: its length, eight bytes, and its text."""
    (size,) = _integers(content, offset, 1)
    if not 0 <= size <= len(content) - offset - 8:
        raise StructureError(BROKEN)
    try:
        frame = parsed_json(content[offset + 8 : offset + 8 + size].decode(), MAX_FRAME_VALUES)
    except (ValueError, RecursionError):
        raise StructureError(BROKEN) from None
    if not isinstance(frame, dict):
        raise StructureError(BROKEN)
    return frame


def _array(content: bytes, frame: dict[str, Any], name: str) -> FloatArray:
    """Return an array of a frame, from its JSON or from the place in the file that the JSON names."""
    try:
        if name in frame:
            return np.array(frame[name])
        shape, kind, offset = frame[f"{name}."]["ndarray"]
        count = 1
        for length in shape:
            count *= length if type(length) is int and 0 <= length <= len(content) else len(content) + 1
        if not TYPES.fullmatch(kind) or count * np.dtype(kind).itemsize + offset > len(content) or offset < 0:
            raise StructureError(BROKEN)
        order = "<" if frame.get("_little_endian", True) else ">"
        return np.frombuffer(content, np.dtype(kind).newbyteorder(order), count, offset).reshape(shape)
    except (KeyError, TypeError, ValueError):
        raise StructureError(f"broken ASE trajectory: a frame without {name}; write it again") from None
