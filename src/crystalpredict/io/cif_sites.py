"""Sites of a CIF block: elements, occupancies, coordinates, images, and which of these are the same atom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import gemmi
import numpy as np

from crystalpredict.crystals.cell import MAX_CELLS_AWAY, MAX_SITE_OCCUPANCY
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.errors import StructureError
from crystalpredict.io.cif_symmetry import UNKNOWN_VALUES, CifItems, Symmetry
from crystalpredict.io.plain import MAX_CELLS_AWAY_PLAIN

# Images of a site are the same atom if they are a few units of the last decimal apart, as rounding may move them. The
# distance is clipped to these limits, Å: atoms on fully occupied sites are never so close (gemmi has the same limit),
# but a partly occupied site may be split into such places.
MIN_IMAGE_DISTANCE, MAX_IMAGE_DISTANCE_FULL, MAX_IMAGE_DISTANCE_PARTIAL = 0.05, 0.4, 0.1
ROUNDING_UNITS_FULL, ROUNDING_UNITS_PARTIAL = 3, 1.25  # of the last decimal: how far rounding may move images apart
SHARED_SITE_DISTANCE = 0.02  # Å, largest between sites that share a place: three decimals in a cell of 20 Å
FRACTIONAL_TOLERANCE = 1e-4  # to recognise rounded thirds, and images of the same exact place
IMAGES_PER_CHUNK = 2**20  # limits the memory for the images of the sites
_AXES = ("fract_x", "fract_y", "fract_z")
_NEEDED = (*_AXES, "label", "type_symbol", "occupancy")
_COLUMNS = {name: f"_atom_site_{name}" for name in (*_NEEDED, "calc_flag", "attached_hydrogens")}
_CHECK = "check the atom loop"
_SYMBOLS = frozenset(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo
    Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl
    Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()  # noqa: SIM905  as a table it can be read
)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?:\([0-9]*\))?")
_OF_FORMULA = re.compile(r"([A-Z][a-z]?)([0-9]+\.?[0-9]*|\.[0-9]+)?")
_TYPE = re.compile(r"([A-Za-z]{1,2})(?:[0-9]*|[0-9.]*[+-][0-9.]*)")
# an element, then a charge, a number (also with one or two letters, C1A) or a number in brackets; also SiT1, because T
# is not an element
_LABEL = re.compile(
    r"([A-Za-z]{1,2})(?:[0-9]*[+-]?[0-9]*|[0-9]+[A-Za-z]{1,2}[0-9]*|\([0-9]+[A-Za-z]?\)[A-Za-z]?|_[0-9]+[A-Za-z]?"
    r"|(?<=[a-z])[AEGJLMQRTXZ][0-9]*)['\"*#]*"
)
_GROUP = re.compile(r"[HD][23][OS][0-9]*|RE[0-9]*|[A-Z][a-z]?[0-9]+([A-Z][a-z]?)[0-9]+")  # H2O, any rare earth, N2H4


def number(text: str) -> float:
    """Return a number of a CIF without its uncertainty; NaN if it does not have the syntax of one."""
    value = gemmi.cif.as_number(text)
    if value != value and (parts := _NUMBER.fullmatch(text)):
        return float(parts[1])  # too large for gemmi
    return value


@lru_cache(256)
def elements_of(formula: str) -> dict[str, float]:
    """Return the number of atoms by element in a formula such as 'Na Cl'; deuterium counts as hydrogen."""
    counts: dict[str, float] = {}
    for symbol, count in _OF_FORMULA.findall(formula):
        symbol = "H" if symbol == "D" else symbol
        counts[symbol] = counts.get(symbol, 0.0) + (float(count) if count else 1.0)
    return counts


class Sites:
    """The m sites in the atom loop of a block, without dummies.

    Attributes:
        columns: Values of the sites by name of the column.
        rows: Numbers of the sites in the file, from 0.
        extent: Upper bound of the coordinates, in cells; set by `places`.
        full: Whether all sites are fully occupied; set by `occupancies`.
    """

    def __init__(self, items: CifItems) -> None:
        self.columns = {name: items[tag] for name, tag in _COLUMNS.items() if tag in items}
        size = len(self.columns.get("fract_x", ()))
        for name in [name for name, column in self.columns.items() if len(column) != size]:
            if name in _NEEDED:
                raise StructureError(f"the atom loop has {size} values of fract_x, but not of {name}: {_CHECK}")
            del self.columns[name]  # of another loop
        self.rows: Sequence[int] = range(size)  # of the sites in the file
        flags = self.columns.get("calc_flag", ())
        if flags and any(flag.lower() == "dum" for flag in flags):
            self.rows = [row for row, flag in enumerate(flags) if flag.lower() != "dum"]
            self.columns = {name: [column[row] for row in self.rows] for name, column in self.columns.items()}

    def name(self, site: int) -> str:
        """Return the name of a site for messages: its number and its label in the file."""
        labels = self.columns.get("label")
        label = f" ({labels[site][:40]})" if labels else ""
        return f"site {self.rows[site] + 1}{label}"

    def places(self) -> FloatArray:
        """Return the fractional coordinates (m, 3)."""
        x, y, z = [self.columns.get(axis) for axis in _AXES]
        if not (x and y and z):
            raise StructureError(
                "no atoms in the CIF (no _atom_site_fract_x loop): a file cut off, or bibliography only"
            )
        texts = x + y + z
        numbers = [*map(gemmi.cif.as_number, texts)]
        places = np.array(numbers).reshape(3, -1).T
        self.extent = sum(map(abs, numbers))  # fast; the largest coordinate follows if this is too large
        if not self.extent < MAX_CELLS_AWAY_PLAIN:
            self.extent = float(np.abs(places).max())
        if not self.extent <= MAX_CELLS_AWAY:  # true for not-a-number too
            site, axis = np.argwhere(~(np.abs(places) <= MAX_CELLS_AWAY))[0].tolist()
            text, where = self.columns[_AXES[axis]][site], f"coordinate at {self.name(site)}"
            if text in UNKNOWN_VALUES:
                raise StructureError(f"no {'xyz'[axis]} {where}: give one, or leave the site out")
            wrong = "too large" if abs(number(text)) > MAX_CELLS_AWAY else "not a number"
            raise StructureError(f"{'xyz'[axis]} {where} is {text[:40]!r}, {wrong}: {_CHECK}")
        written = "".join(texts)
        return exact_thirds(places) if "333" in written or "666" in written else places

    def limits(self, occupancies: FloatArray, lattice: FloatArray) -> FloatArray:
        """Return the distance (m,), Å, below which images of a site are the same atom."""
        texts = zip(*(self.columns[axis] for axis in _AXES), strict=True)
        decimals = [[len(text.partition("(")[0].partition(".")[2]) for text in site] for site in texts]
        # .5 may be exact beside .51: where a site may be split, the digits of the other coordinates count
        known = np.where(occupancies < 1, np.max(decimals, axis=1), np.min(decimals, axis=1))
        units = np.where(occupancies < 1, ROUNDING_UNITS_PARTIAL, ROUNDING_UNITS_FULL)
        rounding = units * np.power(0.1, known) * np.linalg.norm(lattice, axis=1).max()
        most = np.where(occupancies < 1, MAX_IMAGE_DISTANCE_PARTIAL, MAX_IMAGE_DISTANCE_FULL)
        return np.asarray(np.clip(rounding, MIN_IMAGE_DISTANCE, most))

    def occupancies(self) -> FloatArray:
        """Return the occupancies (m,), 1 where none is given."""
        texts = self.columns.get("occupancy")
        known = {text: 1.0 if text in UNKNOWN_VALUES else number(text) for text in set(texts or ())}
        self.full = set(known.values()) <= {1.0}
        if texts is None or self.full:
            return np.array([1.0] * len(self.rows))
        values = np.array([known[text] for text in texts])
        if not (values > 0).all():  # false for not-a-number too
            site = int(np.argmin(values > 0))
            if np.isnan(values[site]):
                raise StructureError(f"occupancy {texts[site][:40]!r} at {self.name(site)} is not a number: {_CHECK}")
            raise StructureError(
                f"occupancy {texts[site]} at {self.name(site)}: it must be above 0; leave an empty site out"
            )
        return values

    def symbols(self, formula: str) -> list[str]:
        """Return the elements of the sites; the stated formula decides whether CO is cobalt."""
        for site, text in enumerate(self.columns.get("attached_hydrogens", ())):
            if text not in ("0", *UNKNOWN_VALUES):
                where = f"site {self.rows[site] + 1} have no coordinates"
                raise StructureError(f"{text} hydrogens attached to {where}: list them as sites of their own")
        types = self.columns.get("type_symbol")
        texts = types or self.columns.get("label")
        if not texts:
            raise StructureError("no elements in the atom loop: add _atom_site_type_symbol")
        read = element_of_type if types else element_of_label
        symbols = {text: read(text) or read(text, frozenset(elements_of(formula))) for text in set(texts)}
        if all(symbols.values()):
            return [symbols[text] for text in texts]
        site = next(site for site, text in enumerate(texts) if not symbols[text])
        if types:
            raise StructureError(
                f"unknown element {texts[site]!r} at site {self.rows[site] + 1}: name a chemical element"
            )
        raise StructureError(
            f"label {texts[site]!r} of site {self.rows[site] + 1} names no element: add _atom_site_type_symbol"
        )


@lru_cache(4096)  # bounded: there are too many different labels to keep
def element_of_type(text: str, stated: frozenset[str] = frozenset()) -> str:
    """Return the element of a type symbol such as Na, Na1+ or NA; empty if it is not one."""
    parts = _TYPE.fullmatch(text)
    return _symbol(parts[1], stated) if parts else ""


@lru_cache(4096)
def element_of_label(text: str, stated: frozenset[str] = frozenset()) -> str:
    """Return the element of a label such as Na, Na1 or NA1A; empty if it may be something else, like Oh or SO4."""
    parts = _LABEL.fullmatch(text)
    group = _GROUP.fullmatch(text)
    if not parts or (group and (group[1] is None or group[1] in _SYMBOLS)):
        return ""
    return _symbol(parts[1], stated)


def _symbol(letters: str, stated: frozenset[str]) -> str:
    """Return the element of one or two letters; empty if there is none.

    Letters in another case are accepted if they cannot be two elements. CO is cobalt only if the stated formula has
    cobalt, and not both carbon and oxygen.
    """
    if letters in _SYMBOLS:
        return letters
    if letters in ("D", "d"):
        return "H"
    name = letters.capitalize()
    alone = set(letters.upper())
    if len(letters) == 2 and alone <= {*_SYMBOLS, "D"} and not (name in stated and not alone <= stated):
        return ""
    return name if name in _SYMBOLS else ""


def exact_thirds(places: FloatArray) -> FloatArray:
    """Return fractional coordinates with rounded positive thirds, 0.3333 or 0.6667, replaced by the exact values."""
    thirds = np.rint(3 * places) / 3
    rounded = (np.abs(places - thirds) < FRACTIONAL_TOLERANCE * thirds) & (thirds != np.rint(places))
    return np.where(rounded, thirds, places)


def expand(
    places: FloatArray, limits: FloatArray, symmetry: Symmetry, lattice: FloatArray
) -> tuple[FloatArray, IntArray]:
    """Return the different images (n, 3) of the sites in the cell, and the site (n,) of each.

    A site that some operations move by less than its limit is moved onto their symmetry element, to the mean of these
    images.

    Args:
        places: Fractional coordinates of the sites, (m, 3).
        limits: Limits of the sites, (m,), Å.
        symmetry: The operations.
        lattice: (3, 3), Å.
    """
    found, sites = [], []
    step = max(1, IMAGES_PER_CHUNK // symmetry.order)
    for start in range(0, len(places), step):
        images, counts = _images(places[start : start + step], limits[start : start + step], symmetry, lattice)
        for site, (own, count) in enumerate(zip(images, counts.tolist(), strict=True), start=start):
            own = _once(own) if count > 1 else own
            found.append(own)
            sites.append(np.full(len(own), site))
    return np.concatenate(found), np.concatenate(sites)


def _images(
    places: FloatArray, limits: FloatArray, symmetry: Symmetry, lattice: FloatArray
) -> tuple[FloatArray, IntArray]:
    """Return the images (m, operations, 3) of the sites after `expand` moved them.

    Also how many operations leave each site in its place (m,).
    """
    for _ in range(3):  # once is enough, except for an image at the limit
        images = np.einsum("oij,sj->soi", symmetry.rotations, places) + symmetry.translations
        offsets = images - places[:, None]
        offsets -= np.rint(offsets)
        near = np.square(offsets @ lattice).sum(axis=2) < np.square(limits)[:, None]
        counts = near.sum(axis=1)
        shifts = (offsets * near[:, :, None]).sum(axis=1) / counts[:, None]
        if np.abs(shifts).max(initial=0) < 1e-9:
            break
        places = places + shifts
    return images - np.floor(images), counts


def _once(images: FloatArray) -> FloatArray:
    """Return the different ones (k, 3) of the images (n, 3) of a site."""
    kept = []
    while len(images):
        offsets = images - images[0]
        kept.append(images[0])
        images = images[(np.abs(offsets - np.rint(offsets)) > FRACTIONAL_TOLERANCE).any(axis=1)]
    return np.array(kept)


def owners(fractional: FloatArray, sites: IntArray, lattice: FloatArray) -> IntArray:
    """Return, for each listed site (m,), the first site that has an image in its place.

    Args:
        fractional: Images of the sites, (n, 3), from `expand`.
        sites: Site of each image, (n,).
        lattice: (3, 3), Å.
    """
    normals = np.linalg.inv(lattice)
    reach = SHARED_SITE_DISTANCE * float(np.linalg.norm(normals[:, 0]))  # by how much x may differ
    order = np.argsort(fractional[:, 0], kind="stable")
    ordered = fractional[order, 0]
    ordered = np.concatenate([ordered - 1, ordered, ordered + 1])
    order = np.concatenate([order] * 3)
    firsts = np.searchsorted(sites, np.arange(int(sites[-1]) + 1))
    owner = np.arange(len(firsts))
    for site, place in enumerate(fractional[firsts]):
        low, high = np.searchsorted(ordered, (place[0] - reach, place[0] + reach))
        candidates = order[low:high]
        offsets = fractional[candidates] - place
        offsets -= np.rint(offsets)
        near = np.square(offsets @ lattice).sum(axis=1) < SHARED_SITE_DISTANCE**2
        owner[site] = owner[sites[candidates[near]].min()]
    return owner


def shared(
    table: Sites, symbols: Sequence[str], occupancies: FloatArray, places: FloatArray, owner: IntArray
) -> dict[int, dict[str, float]]:
    """Return the occupancies by element of each place, by the first of the sites that share it.

    A site that repeats another counts once, for example if a file lists the whole cell and its space group, or an atom
    at 0 and at 1. It repeats a site of the same element and occupancy if it is listed with other coordinates, or if
    the occupancies exceed 1 otherwise.

    Raises:
        StructureError: The occupancies of a place exceed 1.
    """
    members: dict[int, list[int]] = {}
    types = table.columns.get("type_symbol", symbols)  # Fe2+ and Fe3+ are different atoms of one element
    kinds = list(zip(types, symbols, occupancies.tolist(), strict=True))
    for site, first in enumerate(owner.tolist()):
        own = members.setdefault(first, [])
        same = [other for other in own if kinds[other] == kinds[site]]
        if not any(np.abs(places[other] - places[site]).max() > FRACTIONAL_TOLERANCE for other in same):
            own.append(site)
    found = {}
    for first, own in members.items():
        if occupancies[own].sum() > MAX_SITE_OCCUPANCY:
            own = list({kinds[site]: site for site in reversed(own)}.values())[::-1]
        total = float(occupancies[own].sum())
        if total > MAX_SITE_OCCUPANCY:
            names = " and ".join(table.name(site) for site in own)
            also = "two atoms in one place; " if len(own) > 1 else ""
            raise StructureError(f"occupancies of {names} add up to {total:.3g}: {also}they must not exceed 1")
        there: dict[str, float] = {}
        for site in own:
            there[symbols[site]] = there.get(symbols[site], 0.0) + float(occupancies[site]) / max(total, 1.0)
        found[first] = there
    return found
