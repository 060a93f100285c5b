"""Read CIFs with gemmi: each data block with atoms gives one crystal, or an error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import inf, nan, prod
from typing import Any, NamedTuple

import gemmi
import numpy as np

from crystalpredict.crystals.cell import MAX_CELL_LENGTH, MIN_VOLUME_PER_ATOM
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, FloatArray, IntArray, cell_volume, lattice_from_parameters
from crystalpredict.errors import StructureError
from crystalpredict.io.cif_sites import Sites, elements_of, expand, number, owners, shared
from crystalpredict.io.cif_symmetry import UNKNOWN_VALUES, CifItems, Decision, decide, value_of
from crystalpredict.io.plain import MAX_CELLS_AWAY_PLAIN, PlainCrystal

MIN_RELATIVE_VOLUME = 1e-3  # volume over the product of the lengths: below it, a cell counts as flat
CHECK_CIF_HINT = "check the cell, the symmetry operations and the atom loop"
_LENGTHS = tuple(f"_cell_length_{axis}" for axis in "abc")
_ANGLES = tuple(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma"))
_PARAMETERS = (*_LENGTHS, *_ANGLES)
_QUOTES = ("'", '"', ";")
_SITE = re.compile(r"_atom_site_(label|type_symbol|fract_[xyz]|cartn_[xyz]|occupancy|calc_flag|attached_hydrogens)")
_CELL = re.compile(
    r"_cell_(length|angle)_[a-z]+|_cell_formula_units_z|_cell_modulation_dimension|_chemical_formula_sum"
    r"|_symmetry_(?!equiv_pos_site_id|equiv_pos_id).*|_space_group_(?!symop_id|symop_sg_id|id).*"
)
_UNITS_TOLERANCE = 0.05  # relative, of the formula units in a cell with partly occupied sites
_PROPORTION_TOLERANCE = 0.02  # relative, of the proportions of the elements


class CifCrystal(NamedTuple):
    """A crystal of a CIF block, with its m sites as listed and their n images in the cell.

    Attributes:
        lattice: (3, 3), Å.
        fractional: Coordinates of the images, (n, 3).
        sites: Listed site of each image, (n,).
        table: The listed sites.
        symbols: Elements of the listed sites.
        occupancies: Of the listed sites, (m,).
        places: Fractional coordinates of the listed sites, (m, 3).
        usual: Whether all sites are full, in a cell of usual size.
        decision: The symmetry.
        formula: As stated in the CIF; empty if there is none.
        units: Z as stated in the CIF; empty if there is none.
    """

    lattice: FloatArray
    fractional: FloatArray
    sites: IntArray
    table: Sites
    symbols: Sequence[str]
    occupancies: FloatArray
    places: FloatArray
    usual: bool
    decision: Decision
    formula: str
    units: str

    def at_each_place(self) -> tuple[FloatArray, list[dict[str, float]], list[str], list[str]]:
        """Return the different places (k, 3), their occupancies by element, the names of their sites, and warnings.

        Raises:
            StructureError: Occupancies exceed 1, or the symmetry contradicts the formula.
        """
        owner = owners(self.fractional, self.sites, self.lattice)
        found = shared(self.table, self.symbols, self.occupancies, self.places, owner)
        kept = owner[self.sites] == self.sites
        own = self.sites[kept].tolist()
        counts: dict[str, float] = {}
        for site in own:
            for symbol, occupancy in found[site].items():
                counts[symbol] = counts.get(symbol, 0.0) + occupancy
        warning = contradiction(self, counts)
        names = [self.table.name(site) for site in own]
        return self.fractional[kept], [found[site] for site in own], names, [warning] if warning else []


def read_plain_cif(text: str) -> list[PlainCrystal]:
    """Return the crystals of a plain CIF: all sites are full, and nothing contradicts the symmetry; of others, none.

    Atoms may still be too close to each other, or in the same place.
    """
    return plain_of(items_of_cif(text))


def plain_of(blocks: Iterable[CifItems | StructureError]) -> list[PlainCrystal]:
    """Return the crystals of a plain CIF from the items of its data blocks; of others, none."""
    plain = []
    try:
        for items in blocks:
            crystal = _read(items)
            if not crystal.usual:
                return []
            symbols = crystal.symbols
            if crystal.decision.symmetry.order > 1:
                symbols = [symbols[site] for site in crystal.sites.tolist()]
            stated = crystal.units or crystal.decision.conflict or crystal.decision.warning
            if stated and contradiction(crystal, Counter(symbols)):
                return []
            numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols])
            plain.append(PlainCrystal(crystal.lattice, crystal.fractional, numbers, crystal.formula))
    except (StructureError, KeyError):  # of elements that the network does not have
        return []
    return plain


def read_cif(text: str) -> Iterator[CifCrystal | StructureError]:
    """Yield the crystal of each data block with atoms, or its error; blocks of bibliography alone are skipped."""
    for items in items_of_cif(text):
        try:
            yield _read(items)
        except StructureError as error:
            yield error


def cif_blocks(text: str) -> list[str]:
    """Return the texts of the data blocks; `data_` in a text field, between lines that start with `;`, begins none."""
    blocks: list[list[str]] = [[]]
    in_text = False
    for line in text.split("\n"):
        if line.startswith(";"):
            in_text = not in_text
        elif not in_text and line.lstrip()[:5].lower() == "data_":
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block) for block in blocks[1:] or blocks]  # lines before the first block are comments


def may_be_cif(text: str) -> bool:
    """Whether a text may have a data block, which begins with `data_` or `global_`."""
    lower = text.lower()
    return "data_" in lower or "global_" in lower


def items_of_cif(text: str) -> list[CifItems | StructureError]:
    """Return the items, or the error, of each data block with atoms; if no block has atoms, of the first block."""
    if not text.isascii():  # gemmi refuses such characters, which authors' names have; no number or label has a %
        text = re.sub(r"[^\x00-\x7f]", "%", text.lstrip("\ufeff"))
    try:
        blocks: list[tuple[bool, CifItems | StructureError]] = [
            _items_or_error(block) for block in gemmi.cif.read_string(text)
        ]
    except (ValueError, RuntimeError):  # in one block; or two blocks have the same name, as some programs write them
        blocks = [_read_alone(block) for block in cif_blocks(text)]
    with_atoms = [items for has_atoms, items in blocks if has_atoms]
    return with_atoms or [items for _, items in blocks[:1]]


def _items_or_error(block: gemmi.cif.Block) -> tuple[bool, CifItems | StructureError]:
    """Return whether a data block has atoms, and its items, or the error if they contradict each other."""
    try:
        items = _items(block)
    except StructureError as error:
        return True, error
    return _has_atoms(items), items


def _has_atoms(items: CifItems) -> bool:
    return "_atom_site_fract_x" in items or any(tag.startswith("_atom_site_") for tag in items)


def _read_alone(text: str) -> tuple[bool, CifItems | StructureError]:
    """Return whether a data block has atoms, and its items, or the error in its syntax."""
    try:
        return _items_or_error(gemmi.cif.read_string(text).sole_block())
    except (ValueError, RuntimeError) as error:
        has_atoms = bool(re.search(r"_atom_site[_.]", text, re.IGNORECASE))
        return has_atoms, _syntax_error(str(error), text)


def _syntax_error(reason: str, text: str) -> StructureError:
    """Return the error of a block with invalid syntax, from gemmi's message."""
    if twice := re.search(r"duplicate tag (\S+)", reason):
        return StructureError(f"{twice[1]} comes twice in a data block: leave one, or begin a block")
    if not re.search(r"^[^\S\n]*_cell[_.]length_a\s+\S", text, re.MULTILINE | re.IGNORECASE):
        return StructureError("no unit cell in the CIF (_cell_length_a and its kin): no crystal, or a file cut off")
    line = re.match(r"string:([0-9]+)", reason)
    near = text.split("\n")[int(line[1]) - 1 : int(line[1])] if line else []
    where = f" at {near[0].strip()[:60]!r}" if near and near[0].strip() else ""
    what = next((told for part, told in _SYNTAX if part in reason), "not written as CIF is")
    return StructureError(f"broken CIF ({what}{where}): {CHECK_CIF_HINT}")


_SYNTAX = (
    ("number of values", "values are missing or too many in the loop that begins"),
    ("unterminated", "a quotation mark or a text field that does not end"),
    ("has no value", "a name without a value"),
    ("block header", "no line data_ before the first name"),
)


@lru_cache(4096)
def _key(tag: str) -> str:
    """Return the name of an item in lower case with `_` for `.`, as older dictionaries have it; empty if not needed."""
    key = tag.lower().replace(".", "_")
    return key if _SITE.fullmatch(key) or _CELL.fullmatch(key) else ""


@lru_cache(1024)
def _columns(tags: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return the numbers and keys of the columns of a loop that are needed."""
    return [(column, key) for column, key in enumerate(map(_key, tags)) if key]


def _items(block: gemmi.cif.Block) -> CifItems:
    """Return the values of the needed items of a block by `_key`; of an item with two names, the known values."""
    items: CifItems = {}
    for item in block:
        pair: Any = item.pair
        if pair is not None:
            tag, text = pair
            key = _key(tag)
            if key and text not in UNKNOWN_VALUES:
                _add(items, key, [gemmi.cif.as_string(text) if text[0] in _QUOTES else text])
        elif (loop := item.loop) is not None and (columns := _columns(tuple(loop.tags))):
            _add_loop(items, columns, loop.values, loop.width())
    return items


def _add_loop(items: CifItems, columns: list[tuple[int, str]], values: list[str], width: int) -> None:
    joined = "".join(values)
    quoted = "'" in joined or '"' in joined or ";" in joined
    for column, key in columns:
        own = values[column::width]
        if own and not (own[0] in UNKNOWN_VALUES and all(text in UNKNOWN_VALUES for text in own)):
            if quoted:
                own = [gemmi.cif.as_string(text) if text[0] in _QUOTES else text for text in own]
            _add(items, key, own)


def _add(items: CifItems, key: str, values: list[str]) -> None:
    before = items.setdefault(key, values)
    if before is not values and [text.strip("'\"") for text in before] != [text.strip("'\"") for text in values]:
        raise StructureError(f"{key} is given twice, with different values: leave one of them")


def _read(items: CifItems | StructureError) -> CifCrystal:
    """Return the crystal of a block; StructureError if there is none."""
    if isinstance(items, StructureError):
        raise items
    if not value_of(items, _LENGTHS[0]):
        if items.get(_LENGTHS[0]):
            raise StructureError("no cell length a in the CIF: give _cell_length_a a number")
        raise StructureError("no unit cell in the CIF (_cell_length_a and its kin): no crystal, or a file cut off")
    lattice, parameters = _lattice(items)
    if "_atom_site_fract_x" not in items and "_atom_site_cartn_x" in items:
        raise StructureError("Cartesian coordinates only: give fractional ones, _atom_site_fract_x, y and z")
    table = Sites(items)
    places = table.places()
    decision = decide(items, lattice, (parameters[3], parameters[5]))
    formula = value_of(items, "_chemical_formula_sum")
    symbols = table.symbols(formula)
    occupancies = table.occupancies()
    if decision.symmetry.order == 1:
        fractional: FloatArray = places - np.floor(places)
        sites: IntArray = np.arange(len(places))
    else:
        fractional, sites = expand(places, table.limits(occupancies, lattice), decision.symmetry, lattice)
    lengths, angles = parameters[:3], parameters[3:]
    usual = table.full and min(lengths) > 0.5 and max(lengths) < 1000 and min(angles) > 2 and max(angles) < 178
    usual = usual and table.extent < MAX_CELLS_AWAY_PLAIN
    units = value_of(items, "_cell_formula_units_z")
    return CifCrystal(lattice, fractional, sites, table, symbols, occupancies, places, usual, decision, formula, units)


def _given(items: CifItems, tags: Sequence[str]) -> str:
    return ", ".join(repr(value_of(items, tag)[:20]) for tag in tags)


def _lattice(items: CifItems) -> tuple[FloatArray, list[float]]:
    """Return the lattice (3, 3), Å, and the three lengths, Å, and three angles, degrees, of the cell."""
    parameters = [number(items[tag][0]) if tag in items else nan for tag in _PARAMETERS]
    lengths = parameters[:3]
    try:
        lattice = lattice_from_parameters(parameters)
    except ValueError:
        raise _impossible(items, lengths) from None
    longest, volume = max(lengths), cell_volume(lattice)
    if not volume >= MIN_RELATIVE_VOLUME * prod(lengths):  # true for not-a-number too
        raise _impossible(items, lengths)
    if longest > MAX_CELL_LENGTH:
        raise StructureError(f"the cell is {longest:.3g} Å long: check its lengths")
    if volume < MIN_VOLUME_PER_ATOM:
        raise StructureError(f"the cell has {volume:.3g} Å^3: check its lengths and angles")
    return lattice, parameters


def _impossible(items: CifItems, lengths: Sequence[float]) -> StructureError:
    """Return the error of impossible lengths or angles of a cell."""
    if not all(0 < length < inf for length in lengths):
        return StructureError(f"cell lengths {_given(items, _LENGTHS)} Å: each must be a positive number")
    return StructureError(f"cell angles {_given(items, _ANGLES)}°: no cell has these angles")


def contradiction(crystal: CifCrystal, counts: Mapping[str, float]) -> str:
    """Return a warning if symmetry, formula and Z disagree; empty if they agree.

    Args:
        crystal: The crystal.
        counts: Number of atoms of each element in the cell.

    Raises:
        StructureError: They disagree, and it cannot be decided which of them is right.
    """
    decision, formula = crystal.decision, crystal.formula
    stated, z = elements_of(formula), number(crystal.units) if crystal.units else 0.0
    if stated.keys() == counts.keys() and all(counts[symbol] == z * amount for symbol, amount in stated.items()):
        return decision.conflict or decision.warning  # most files: they agree exactly
    ratios = [counts[symbol] / stated[symbol] for symbol in counts if stated.get(symbol)]
    spread = 1 + 2 * _PROPORTION_TOLERANCE
    comparable = z > 0 and stated.keys() == counts.keys() and max(ratios) <= min(ratios) * spread
    units = sum(ratios) / len(ratios) if comparable else 0.0
    agrees = comparable and abs(units / z - 1) <= _UNITS_TOLERANCE
    if decision.conflict and not agrees:
        raise StructureError(f"{decision.conflict}: correct one of them")
    if decision.conflict or decision.warning or agrees or not comparable:
        return decision.conflict or decision.warning
    of_cell = abs(units - 1) <= _UNITS_TOLERANCE and all(count % z == 0 for count in stated.values())
    if of_cell:  # as some programs state the formula of the whole cell
        return ""
    cell = f"the cell has {units:.3g} formula units of {formula[:60]!r}"
    differs = f"{cell}, where _cell_formula_units_Z is {crystal.units[:20]}"
    if (decision.named and decision.symmetry.order > 1) or (decision.symmetry.order == 1 and units > z):
        return differs
    raise StructureError(f"{differs}: correct it, or the symmetry operations")
