"""Recognise the files that calculations leave, and read their structures: all of them, or the last."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module

from crystalpredict.io.ase_trajectory import MAGIC

SEARCHED_CHARACTERS = 2**16  # at the beginning of a file
ULM = MAGIC.decode()  # of a text that is a binary file, decoded as Latin-1
# kind, how its beginning looks, and its reader; the modules are imported when a file of the kind is read
_KINDS = (
    ("vasprun.xml", r"<modeling>", "vasp_outputs", "frames_of_vasprun"),
    ("OUTCAR", r"\A\s*vasp\.\d", "vasp_outputs", "frames_of_outcar"),
    ("pw.x output", r"^[ \t]*Program PWSCF", "espresso", "frames_of_output"),
    ("pw.x input", r"^[ \t]*&(control|system)\b", "espresso", "frames_of_input"),
    ("geometry.in", r"^[ \t]*lattice_vector\s", "aims", "frames_of_geometry"),
    (".castep", r"(Welcome to|Materials Studio)[^\n]*CASTEP", "castep", "frames_of_output"),
    (".cell", r"^[ \t]*%block\s+(lattice_(cart|abc)|positions_(frac|abs))", "castep", "frames_of_cell"),
)
_CIF = re.compile(r"^[^\S\n]*(data_\S*|_cell_length_a|_cell\.length_a)", re.MULTILINE | re.IGNORECASE)
_READERS = tuple((re.compile(form, re.MULTILINE | re.IGNORECASE), room, name) for _, form, room, name in _KINDS)

Reader = Callable[..., Iterator[str]]


def reader_of(text: str) -> Reader | None:
    """Return the function that yields the structures of a calculation's file as texts; None for any other text."""
    if text.startswith(ULM):
        return _of_trajectory
    start = text[:SEARCHED_CHARACTERS]
    for form, room, name in _READERS:
        if form.search(start):
            found: Reader = getattr(import_module(f"crystalpredict.io.{room}"), name)
            return found
    return None


def is_calculation(text: str) -> bool:
    """Whether a text is a calculation's file, or an XDATCAR; no CIF that begins in the part that is searched."""
    from crystalpredict.io.vasp_outputs import is_xdatcar

    return not is_cif(text[:SEARCHED_CHARACTERS]) and (is_xdatcar(text) or reader_of(text) is not None)


def is_cif(text: str) -> bool:
    """Whether a text has a data block or a cell of a CIF."""
    return _CIF.search(text) is not None


def is_espresso(text: str) -> bool:
    """Whether a text begins like an input or an output of Quantum ESPRESSO."""
    found = (room for form, room, _ in _READERS if form.search(text[:SEARCHED_CHARACTERS]))
    return next(found, "") == "espresso"


def _of_trajectory(text: str, *, last: bool) -> Iterator[str]:
    from crystalpredict.io.ase_trajectory import frames_of_trajectory

    return frames_of_trajectory(text.encode("latin-1"), last=last)


def calculation_frames(text: str, *, last: bool) -> Iterator[str] | None:
    """Return the texts of the structures of a calculation's file, an XDATCAR too; None for any other text.

    Each is JSON of plain arrays or a POSCAR.

    Args:
        text: Of the file.
        last: Whether only the last structure is wanted.
    """
    from crystalpredict.io.vasp_outputs import frames_of_xdatcar, is_xdatcar

    reader = frames_of_xdatcar if is_xdatcar(text) else reader_of(text)
    return reader(text, last=last) if reader else None


def last_frame(reader: Reader, text: str) -> str:
    """Return the text of the last structure of a calculation's file.

    Raises:
        StructureError: There is none, or it is broken.
    """
    (found,) = deque(reader(text, last=True), maxlen=1)
    return found
