"""Read what VASP writes besides POSCARs: vasprun.xml, OUTCAR and XDATCAR."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from io import StringIO
from xml.parsers import expat

import numpy as np

from crystalpredict.errors import StructureError
from crystalpredict.io.frames import frame_text
from crystalpredict.io.text import number_of

XML_CHARACTERS = 2**20  # given to the XML parser at a time
HEADER_LINES = 7  # of a frame of XDATCAR: title, scale, three vectors, symbols, counts
NO_STEP = "ended before its first ionic step was complete: give its POSCAR"
_NO_ENTITIES = "a vasprun.xml that defines entities, which VASP does not write: not read"
_RUN = re.compile(r"^ ?vasp\.\d", re.MULTILINE)
_IONS = re.compile(r"^ *ions per type *=([ \d]*)$", re.MULTILINE)
_CONFIGURATION = re.compile(r"\s*direct\s+configuration=", re.IGNORECASE)


class _Steps:
    """Handler of the XML parser that collects the species, and the structure of each ionic step.

    ASE's reader keeps the whole document in memory, and needs energies and k-points that are whole.
    """

    def __init__(self) -> None:
        self.species: list[str] = []
        self.found: list[str] = []
        self.path: list[str] = []
        self.rows: dict[str, list[list[float]]] = {}
        self.words: list[str] | None = None
        self.columns = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.EntityDeclHandler = self._entity

    def _entity(self, *_: object) -> None:
        raise StructureError(_NO_ENTITIES)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.path.append(f"{tag} {attributes['name']}" if "name" in attributes else tag)
        if tag == "structure" and "calculation" in self.path:
            self.rows = {"varray basis": [], "varray positions": []}
        elif tag == "rc" and "array atoms" in self.path:
            self.columns = 0
        if (tag == "v" and self.rows and self.path[-2] in self.rows) or (tag == "c" and "array atoms" in self.path):
            self.words = []
            self.parser.CharacterDataHandler = self.words.append

    def _end(self, tag: str) -> None:
        if self.words is not None:
            text = "".join(self.words)
            self.words, self.parser.CharacterDataHandler = None, None
            if tag == "v":
                self.rows[self.path[-2]].append(_numbers(text.split()))
            elif not self.columns:
                self.species.append(text.strip())
            self.columns += 1
        elif tag == "structure" and self.rows:
            basis, positions = self.rows["varray basis"], self.rows["varray positions"]
            self.rows = {}
            if any(len(row) != 3 for row in basis + positions):
                raise StructureError("broken vasprun.xml: a vector or a coordinate without three numbers")
            self.found.append(frame_text(np.array(basis), self.species, np.array(positions), fractional=True))
        self.path.pop()


def _numbers(words: Sequence[str]) -> list[float]:
    try:
        return [number_of(word) for word in words]
    except ValueError as error:
        raise StructureError(f"broken vasprun.xml: {error} in a structure") from None


def frames_of_vasprun(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structure of each ionic step of a vasprun.xml, or only the last one, as JSON of plain arrays.

    The last complete step of a file that is cut off counts; other damage is an error. The initial structure is not a
    step.

    Raises:
        StructureError: There is no complete step, or a structure is broken.
    """
    steps = _Steps()
    found: list[str] = []
    complete, damage = False, ""
    for place in range(0, len(text), XML_CHARACTERS):
        try:
            steps.parser.Parse(text[place : place + XML_CHARACTERS], place + XML_CHARACTERS >= len(text))
        except expat.ExpatError as error:  # at the end of a file that is cut off, after its last complete step
            damage = str(error)
        complete |= bool(steps.found)
        found, steps.found = (steps.found or found)[-1:] if last else steps.found, []
        if not last:
            yield from found
        if damage:
            break
    if damage and "no element found" not in damage and "unclosed" not in damage:  # not only cut off
        raise StructureError(f"broken vasprun.xml ({damage}): copy it again, or give the CONTCAR")
    if not complete:
        raise StructureError(f"a vasprun.xml that {NO_STEP}")
    if last:
        yield from found


def frames_of_outcar(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structure of each complete ionic step of an OUTCAR, or only the last one, as JSON of plain arrays.

    ASE's parsers of cells, species and positions read it; those of energies, bands and moments are left out, since
    a structure should not fail on them.

    Raises:
        StructureError: There is no complete step, one is broken, or the file is of several runs.
    """
    from ase.io.vasp_parsers import vasp_outcar_parsers as ase_parsers

    from crystalpredict.io.from_ase import text_of_atoms

    if len(_RUN.findall(text)) > 1 or len({tuple(counts.split()) for counts in _IONS.findall(text)}) > 1:
        raise StructureError("an OUTCAR of several runs put together: give each in a file of its own")
    file = StringIO(text)
    file.name = "OUTCAR"  # ASE asks for its folder, and reads nothing there with this header
    header = ase_parsers.OutcarHeaderParser([kinds := ase_parsers.SpeciesTypes(), ase_parsers.IonsPerSpecies()])
    parser = ase_parsers.OutcarChunkParser(parsers=[ase_parsers.Cell(), ase_parsers.PositionsAndForces()])
    found = False
    try:
        steps = ase_parsers.outcarchunks(file, parser, header)
        for step in deque(steps, maxlen=1) if last else steps:
            found = True
            if kinds.species != 2 * kinds.get_species():  # VASP lists them twice, ASE takes the first half
                raise StructureError("broken OUTCAR: its lists of POTCARs differ: give the CONTCAR")
            yield text_of_atoms(step.build())
    except StructureError:
        raise
    except Exception as error:  # ASE raises errors of many kinds
        if "Incomplete" not in str(error):
            what = "the species, the cell or the positions of a step cannot be read"
            raise StructureError(f"broken OUTCAR: {what}: give the CONTCAR") from None
    if not found:
        raise StructureError(f"an OUTCAR that {NO_STEP}")


def is_xdatcar(text: str) -> bool:
    """Whether a text that begins like a POSCAR is an XDATCAR."""
    lines = text.split("\n", HEADER_LINES + 1)
    return len(lines) > HEADER_LINES and _CONFIGURATION.match(lines[HEADER_LINES]) is not None


def frames_of_xdatcar(text: str, *, last: bool) -> Iterator[str]:
    """Yield each complete frame of an XDATCAR, or only the last one, as the text of a POSCAR.

    A cell that changes is repeated above each frame; one that does not stands above the first frame only. A frame that
    the end of the file or another header cuts does not count.

    Raises:
        StructureError: There is no complete frame, or a frame has another number of lines than atoms.
    """
    lines = text.split("\n")
    frames: list[tuple[int, int, int]] = []  # lines of the header, of the title of the coordinates, and after them
    header = atoms = 0
    titles = [number for number, line in enumerate(lines) if "configuration=" in line and _CONFIGURATION.match(line)]
    for place, start in enumerate(titles):
        if not place or _is_header(lines[max(0, start - HEADER_LINES) : start]):
            header = start - HEADER_LINES
            counts = lines[start - 1].split()
            if header < 0 or not counts or not all(map(str.isdecimal, counts)):
                raise StructureError("broken XDATCAR: no line of counts above its first frame")
            atoms = sum(map(int, counts))
        following = titles[place + 1] if place + 1 < len(titles) else len(lines) - 1  # the last line has no newline
        end = start + 1 + atoms
        if place + 1 < len(titles) and _is_header(lines[max(0, following - HEADER_LINES) : following]):
            following -= HEADER_LINES
        elif place + 1 < len(titles) and (end > following or "".join(lines[end:following]).strip()):
            raise StructureError(f"broken XDATCAR: other than {atoms} atoms below line {start + 1}: copy it again")
        if end <= following and len(lines[end - 1].split()) >= 3:
            frames.append((header, start, end))
    if not frames:
        raise StructureError(f"an XDATCAR that {NO_STEP}")
    for header, start, end in frames[-1:] if last else frames:
        yield "\n".join([*lines[header : header + HEADER_LINES], "Direct", *lines[start + 1 : end], ""])


def _is_header(lines: Sequence[str]) -> bool:
    """Whether lines are a title, a scale, three vectors, the symbols and the counts of a frame."""
    rows = [line.split() for line in lines]
    if len(rows) != HEADER_LINES or [len(row) for row in rows[1:5]] != [1, 3, 3, 3] or not rows[5] or not rows[6]:
        return False
    try:
        for row in rows[1:5]:
            _numbers(row)
    except StructureError:
        return False
    return all(word[0].isalpha() for word in rows[5]) and all(map(str.isdecimal, rows[6]))
