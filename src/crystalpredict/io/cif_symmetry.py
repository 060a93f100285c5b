"""Symmetry of a CIF block: its listed operations and named space groups, checked against each other and the cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.errors import StructureError

CifItems = dict[str, list[str]]  # values of each item of a block, by its name in lower case with `_` for `.`
UNKNOWN_VALUES = ("?", ".", "")  # placeholders of a value that is not given
MAX_OPERATIONS = 1000  # Fm-3m has 192; the memory for a site grows with their number
METRIC_TOLERANCE = 0.05  # largest relative change of a length, or change of a cosine, by a symmetry operation
LIST_OPERATIONS_HINT = "list its operations, _symmetry_equiv_pos_as_xyz"
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_MAGNETIC_OPERATIONS = ("_space_group_symop_magn_operation_xyz", "_space_group_symop_magn_operation_mxyz")
_MAGNETIC_CENTRING = ("_space_group_symop_magn_centering_xyz", "_space_group_symop_magn_centering_mxyz")
_NAMES = ("_symmetry_space_group_name_h-m", "_space_group_name_h-m_alt", "_space_group_name_h-m_full")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group_name_h-m_ref")  # no setting
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NAMES_OF_P1 = ("p1", "c1^1", "c11", "1", "triclinic", "anorthic", "(a)", "ct", "cit", "#1")
_MAGNETIC_NAME = re.compile(r"_magn_(name|number)_(bns|og)$")
# P1, P11', P1.1', P_S1 (BNS), P_2s1 (OG) and their numbers, without spaces and quotes
_NOT_MAGNETIC = re.compile(r"1\..*|P(_\{?[0-9]?[A-Za-z]+\}?|S)?1(\.?1)?'*|[?.]?")
_MODULATED = "_cell_modulation_dimension"
_MAX_ROTATION_ENTRY = 4  # of a matrix, in an unusual choice of axes


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The n different operations x -> W x + w of a crystal, in fractional coordinates.

    Attributes:
        rotations: W, (n, 3, 3).
        translations: w, (n, 3).
        number: Of the space group, if its setting is tabulated; else 0.
        types: Types of rotations with their counts.
        centring: Number of pure translations.
        is_group: Whether the operations are closed under multiplication.
    """

    rotations: FloatArray
    translations: FloatArray
    number: int
    types: tuple[tuple[int, int], ...]
    centring: int
    is_group: bool

    @property
    def order(self) -> int:
        """Number of operations."""
        return len(self.rotations)


@dataclass(frozen=True)
class Decision:
    """The symmetry of a block, and what supports it.

    Attributes:
        symmetry: The operations.
        conflict: What contradicts them; empty if nothing does.
        named: Whether a named space group agrees with them.
        from_name: Whether they are those of a named space group, and none are listed.
        warning: A contradiction that does not matter; empty if there is none.
    """

    symmetry: Symmetry
    conflict: str = ""
    named: bool = False
    from_name: bool = False
    warning: str = ""


def values_of(items: CifItems, *names: str) -> list[str]:
    """Return the values of the first of the named items that has known values; empty if none has."""
    for name in names:
        values = items.get(name, [])
        if any(value not in UNKNOWN_VALUES for value in values):
            return values
    return []


def value_of(items: CifItems, name: str) -> str:
    """Return the first value of an item; empty if it is missing or unknown."""
    values = items.get(name)
    return values[0].strip() if values and values[0] not in UNKNOWN_VALUES else ""


def decide(items: CifItems, lattice: FloatArray, angles: tuple[float, float]) -> Decision:
    """Return the symmetry that a block lists or names; P 1 if it does neither.

    Args:
        items: Items of the block.
        lattice: (3, 3), Å.
        angles: alpha and gamma, degrees, which decide the axes of space groups that have a choice.

    Raises:
        StructureError: The symmetry is not understood, not a group, or does not fit the cell.
    """
    said = [tag for tag in items if tag[1] == "s" or tag == _MODULATED]
    key = tuple([(tag, tuple(items[tag])) for tag in said])
    # gemmi makes no further difference between angles
    decision, groups, listed = _statements(key, *((90.0, 120.0) if angles[1] > 1.125 * angles[0] else (90.0, 90.0)))
    decision = decision or _of_list(listed, groups, lattice)
    symmetry, which = decision.symmetry, f"of {groups[0][0]!r} " if groups and decision.from_name else ""
    if symmetry.order > 1 and not fits_cell(lattice, symmetry.rotations):
        raise StructureError(
            f"the symmetry operations {which}do not fit the cell: check its lengths, angles and setting"
        )
    if not symmetry.is_group:
        wanted = next((f" (those of {name!r} are {of(group).order})" for name, group in groups), "")
        raise StructureError(
            f"the {symmetry.order} different symmetry operations listed are no group{wanted}: list all of them, "
            "those of centring too"
        )
    return decision


@lru_cache(256)
def _statements(
    key: tuple[tuple[str, tuple[str, ...]], ...], alpha: float, gamma: float
) -> tuple[Decision | None, list[tuple[str, gemmi.SpaceGroup]], Symmetry]:
    """Return the symmetry, None if it depends on the cell; the named groups; the listed or named operations."""
    items = {tag: list(values) for tag, values in key}
    _refuse_modulated(items)
    if magnetic := _magnetic(items):
        return Decision(magnetic), [], magnetic
    listed, groups = _listed(items), _groups(items, alpha, gamma)
    if listed is None:
        named = _of_names(items, groups)
        return Decision(named, named=bool(groups), from_name=True), groups, named
    if listed.order == 1 and not groups and (unread := _unread(items)):
        raise StructureError(
            f"space group {unread[:60]!r} not understood, and the operations listed are the identity alone: list all"
        )
    same = all(_same(listed, of(group)) for _, group in groups)
    return Decision(listed, named=bool(groups)) if same else None, groups, listed


def fits_cell(lattice: FloatArray, rotations: FloatArray) -> bool:
    """Whether rotations W of fractional coordinates, (n, 3, 3), leave the cell unchanged.

    The condition is W^T G W = G for the metric tensor G, with the tolerance METRIC_TOLERANCE.
    """
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diag(metric))
    change = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
    return bool((np.abs(change) <= 2 * METRIC_TOLERANCE * np.outer(lengths, lengths)).all())


def symmetry_of(operations: Iterable[gemmi.Op]) -> Symmetry:
    """Return the symmetry of some operations; those that differ by lattice translations count once."""
    unique = {operation.wrap().triplet(): operation for operation in operations}
    ops = list(unique.values())
    rotations = np.array([op.rot for op in ops])
    translations = np.array([op.tran for op in ops])
    types = Counter(op.rot_type() for op in ops)
    centring = sum(op.rot == gemmi.Op("x,y,z").rot for op in ops)
    group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(ops))
    tabulated = group is not None and {op.wrap().triplet() for op in group.operations()} == set(unique)
    return Symmetry(
        rotations / gemmi.Op.DEN,
        translations / gemmi.Op.DEN,
        group.number if group and tabulated else 0,
        tuple(sorted(types.items())),
        centring,
        tabulated or _is_closed(rotations, translations),
    )


def _is_closed(rotations: IntArray, translations: IntArray) -> bool:
    """Whether all products of operations are among them; rotations and translations are in units of 1/24."""
    whole, rest = np.divmod(rotations, gemmi.Op.DEN)
    if rest.any() or np.abs(whole).max() > _MAX_ROTATION_ENTRY:
        return False
    codes = np.sort(_codes(whole, translations))
    for rotation, translation in zip(whole, translations, strict=True):
        turned = rotation @ whole
        if np.abs(turned).max() > _MAX_ROTATION_ENTRY:
            return False
        products = _codes(turned, translations @ rotation.T + translation)
        found = np.minimum(np.searchsorted(codes, products), len(codes) - 1)
        if (codes[found] != products).any():
            return False
    return True


def _codes(rotations: IntArray, translations: IntArray) -> IntArray:
    """Return a number for each operation; two are equal only if the operations differ by lattice translations."""
    entries = np.hstack([rotations.reshape(-1, 9) + _MAX_ROTATION_ENTRY, translations % gemmi.Op.DEN])
    bases = np.cumprod([1, *[gemmi.Op.DEN] * 3, *[2 * _MAX_ROTATION_ENTRY + 1] * 8])[::-1]
    return np.asarray(entries @ bases)


@lru_cache(256)
def _of_texts(texts: tuple[str, ...]) -> Symmetry:
    return symmetry_of(_operation(text) for text in texts)


def of(group: gemmi.SpaceGroup) -> Symmetry:
    """Return the symmetry of a tabulated space group."""
    return _of_hall(group.hall)


@lru_cache(256)
def _of_hall(hall: str) -> Symmetry:
    return symmetry_of(gemmi.symops_from_hall(hall))


def _operation(text: str) -> gemmi.Op:
    """Return the symmetry operation in a text such as -x,y+1/2,z."""
    try:
        if not re.search("[abchkl]", text, re.IGNORECASE):  # gemmi would accept axes and indices too
            return gemmi.Op(text)
    except (ValueError, RuntimeError):
        pass
    raise StructureError(f"symmetry operation {text!r} not understood: write it like -x,y+1/2,z")


def _listed(items: CifItems) -> Symmetry | None:
    """Return the operations that a block lists, None if it lists none; StructureError if two lists differ."""
    lists = [tuple(items[tag]) for tag in _OPERATIONS if values_of(items, tag)]
    if not lists:
        return None
    _refuse_many(lists[0])
    symmetry = _of_texts(lists[0])
    if len(lists) > 1 and _places(_of_texts(lists[1])) != _places(symmetry):
        raise StructureError(f"{_OPERATIONS[0]} and {_OPERATIONS[1]} list different operations: leave one of them")
    return symmetry


def _places(symmetry: Symmetry) -> set[bytes]:
    return {row.tobytes() for row in np.hstack([symmetry.rotations.reshape(-1, 9), symmetry.translations % 1])}


def _refuse_many(texts: tuple[str, ...]) -> None:
    if len(texts) > MAX_OPERATIONS:
        raise StructureError(f"{len(texts)} symmetry operations: no space group has so many, list each once")


def _names(items: CifItems) -> list[str]:
    """Return the names and numbers of the space group, the most specific first."""
    return [name for tag in (*_NAMES, *_NUMBERS) if (name := value_of(items, tag))]


def _halls(items: CifItems) -> list[str]:
    return [hall for tag in _HALL if (hall := value_of(items, tag))]


def _groups(items: CifItems, alpha: float, gamma: float) -> list[tuple[str, gemmi.SpaceGroup]]:
    """Return the space groups that a block names by Hall symbol, name or number, with these names."""
    halls = [(hall, _group_of_hall(hall)) for hall in _halls(items)]
    names = [(name, _group_of_name(name, alpha, gamma)) for name in _names(items)]
    return [(name, group) for name, group in halls + names if group]


@lru_cache(1024)
def _group_of_name(name: str, alpha: float, gamma: float) -> gemmi.SpaceGroup | None:
    """Return the space group of a name or number, with the axes that fit the angles of the cell, degrees."""
    if name.isdecimal():
        numbered = gemmi.find_spacegroup_by_number(int(name)) if 0 < int(name) <= 230 else None  # 0 would be P 1
        name = numbered.hm if numbered else ""
    return gemmi.find_spacegroup_by_name(re.sub(r"[_()]", "", name), alpha, gamma)  # P 2_1/c, P 2(1)/c


@lru_cache(1024)
def _group_of_hall(hall: str) -> gemmi.SpaceGroup | None:
    try:
        return gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    except (ValueError, RuntimeError):  # an invalid symbol is ignored
        return None


def _of_list(symmetry: Symmetry, groups: list[tuple[str, gemmi.SpaceGroup]], lattice: FloatArray) -> Decision:
    """Return the listed operations, and whether the named groups agree with them."""
    agreeing = [name for name, group in groups if _agree(symmetry, group, lattice)]
    other = next(((name, group) for name, group in groups if name not in agreeing), None)
    if other is None:
        return Decision(symmetry, named=bool(agreeing))
    name, group = other
    conflict = f"the {symmetry.order} symmetry operations listed are not the {of(group).order} of space group {name!r}"
    if agreeing and name.isdecimal():  # an outdated number, but a name and operations that agree
        return Decision(symmetry, named=True, warning=conflict)
    return Decision(symmetry, conflict)


def _same(one: Symmetry, two: Symmetry) -> bool:
    """Whether two symmetries have the same number of operations of each type; origin and axes may differ."""
    return (one.types, one.centring) == (two.types, two.centring) and one.number in (0, two.number)


def _agree(symmetry: Symmetry, group: gemmi.SpaceGroup, lattice: FloatArray) -> bool:
    """Whether operations are those of a space group, in this cell or in another cell of the same lattice."""
    theirs = of(group)
    if _same(symmetry, theirs) or symmetry.number not in (0, theirs.number) or fits_cell(lattice, theirs.rotations):
        return _same(symmetry, theirs)
    return _point_group(symmetry) == _point_group(theirs)


def _point_group(symmetry: Symmetry) -> list[tuple[int, float]]:
    centring = max(symmetry.centring, 1)  # 0 without the identity, as in a damaged list
    return [(kind, number / centring) for kind, number in symmetry.types]


def _unread(items: CifItems) -> str:
    """Return a statement of symmetry that is not understood and not P 1; empty if there is none."""
    for tag, values in items.items():
        if not tag.startswith(("_symmetry_", "_space_group_")) or re.search("symop|equiv_pos|_magn|_ssg", tag):
            continue
        for value in values:
            if value not in UNKNOWN_VALUES and re.sub(r"[\s'\"]", "", value).lower() not in _NAMES_OF_P1:
                return value.strip()
    return ""


def _of_names(items: CifItems, groups: list[tuple[str, gemmi.SpaceGroup]]) -> Symmetry:
    """Return the operations of the named groups; StructureError if they differ, or their setting is ambiguous."""
    if not groups:
        if unread := _unread(items):
            raise StructureError(f"space group {unread[:60]!r} not understood: {LIST_OPERATIONS_HINT}")
        return _of_hall("P 1")
    if len({group.number for _, group in groups}) > 1:
        names = " and ".join(repr(name) for name, _ in groups)
        raise StructureError(f"{names} are different space groups: list the operations")
    exact = {name: of(group) for name, group in groups if name in _halls(items) or ":" in name or group.ext == "\0"}
    exact = {name: symmetry for name, symmetry in exact.items() if not name.isdecimal()}
    if len({frozenset(_places(symmetry)) for symmetry in exact.values()}) > 1:
        names = " and ".join(map(repr, exact))
        raise StructureError(f"{names} are different settings of a space group: list the operations")
    for tag in _HALL:
        try:
            if hall := value_of(items, tag):
                return _of_hall(hall)
        except (ValueError, RuntimeError):  # an invalid symbol is ignored
            continue
    name, group = groups[0]
    settings = [each for each in gemmi.spacegroup_table() if each.number == group.number]
    unread = next(
        (other for tag in _NAMES if (other := value_of(items, tag)) and not _group_of_name(other, 90, 90)), ""
    )
    if unread and len(settings) > 1:  # the number does not determine the setting
        raise StructureError(f"space group {unread!r} not understood: {LIST_OPERATIONS_HINT}")
    if group.ext in ("1", "2") and ":" not in name:
        raise StructureError(f"space group {name!r} has two origins: {LIST_OPERATIONS_HINT}")
    return of(group)


def _magnetic(items: CifItems) -> Symmetry | None:
    """Return the listed operations of a magnetic group, None without; StructureError if it is named, but not listed."""
    names = [(tag, re.sub(r"[\s'\"]", "", items[tag][0])) for tag in items if _MAGNETIC_NAME.search(tag) and items[tag]]
    name = next((items[tag][0] for tag, bare in names if not _NOT_MAGNETIC.fullmatch(bare)), "")
    texts = tuple(values_of(items, *_MAGNETIC_OPERATIONS))
    centring = tuple(values_of(items, *_MAGNETIC_CENTRING))
    if len(texts) * max(len(centring), 1) > 1:
        _refuse_many(texts + centring)
        return _of_magnetic_texts(texts, centring)
    if name and not values_of(items, *_OPERATIONS):
        raise StructureError(f"magnetic symmetry {name!r} not understood: {LIST_OPERATIONS_HINT}")
    return None


@lru_cache(256)
def _of_magnetic_texts(texts: tuple[str, ...], centring: tuple[str, ...]) -> Symmetry:
    """Return the symmetry of operations such as x,y,z+1/2,-1; the last part acts on moments only and is dropped."""
    plain, shifts = ([_operation(",".join(text.split(",")[:3])) for text in each] for each in (texts, centring))
    return symmetry_of(shift * operation for shift in shifts or [gemmi.Op("x,y,z")] for operation in plain)


def _refuse_modulated(items: CifItems) -> None:
    """Raise StructureError for a modulated crystal, which has no cell: its operations are those of superspace."""
    dimension = value_of(items, _MODULATED)
    if dimension not in ("", "0") or any(re.search(r"symop(_magn)?_ssg_", tag) for tag in items):
        raise StructureError("a modulated structure, which no cell repeats: give an approximant, a supercell of it")
