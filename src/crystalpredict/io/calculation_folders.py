"""Choose one file for each calculation in a folder or an archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from crystalpredict.io.file_types import is_found

# of one calculation, the best first: what it ended with, then its steps, then what it began with
VASP_ORDER = ("CONTCAR", "vasprun.xml", "OUTCAR", "XDATCAR", "CHGCAR", "LOCPOT", "POSCAR")
AIMS_ORDER = ("geometry.in.next_step", "geometry.in")
SUFFIX_ORDER = (".castep", "-out.cell", ".cell", ".pwo", ".out", ".pwi", ".in", ".traj")
_PACKED = r"(\.(gz|bz2|xz|zst))?"
_VASP = re.compile(rf"({'|'.join(map(re.escape, VASP_ORDER))})(\.relax([0-9]{{1,4}}))?{_PACKED}", re.IGNORECASE)
_AIMS = re.compile(rf"({'|'.join(map(re.escape, AIMS_ORDER))}){_PACKED}", re.IGNORECASE)
_NAMED = re.compile(rf"(.+?)({'|'.join(map(re.escape, SUFFIX_ORDER))}){_PACKED}", re.IGNORECASE | re.DOTALL)
_VASP_INPUT = re.compile(rf"INCAR{_PACKED}", re.IGNORECASE)
_PLACES = {name.lower(): place for place, name in enumerate((*VASP_ORDER, *AIMS_ORDER, *SUFFIX_ORDER))}


def chosen_files(
    names: Iterable[str], is_empty: Callable[[str], bool], is_espresso: Callable[[str], bool]
) -> list[str]:
    """Return the files of one folder that are read as structures, each calculation once, sorted.

    A folder with files of VASP or geometry.in of FHI-aims is one calculation, of which the best file counts and nothing
    else. In any other folder, files of Quantum ESPRESSO, CASTEP and ASE with the same name before the suffix are one
    calculation, and other structure files count as usual.

    Args:
        names: Names of the files in the folder.
        is_empty: Returns whether a file is empty, as CONTCAR is until the first step ends.
        is_espresso: Returns whether a file called *.in or *.out is one of Quantum ESPRESSO.
    """
    names = sorted(names)
    whole = [
        (_PLACES[found[1].lower()], -int(found[3] or 10**4), name) for name in names if (found := _VASP.fullmatch(name))
    ]
    only_begun = {place for place, *_ in whole} == {_PLACES["poscar"]}
    if only_begun and not any(map(_VASP_INPUT.fullmatch, names)):
        whole = []  # a POSCAR among other structures
    whole += [(_PLACES[found[1].lower()], 0, name) for name in names if (found := _AIMS.fullmatch(name))]
    if whole:
        return [_first_with_content(whole, is_empty)]
    groups: dict[str, list[tuple[int, int, str]]] = {}
    for name in names:
        found = _NAMED.fullmatch(name)
        if found and (found[2].lower() not in (".in", ".out") or is_espresso(name)):
            groups.setdefault(found[1], []).append((_PLACES[found[2].lower()], 0, name))
    return sorted([*filter(is_found, names), *(_first_with_content(group, is_empty) for group in groups.values())])


def _first_with_content(files: list[tuple[int, int, str]], is_empty: Callable[[str], bool]) -> str:
    """Return the best file that is not empty; the best one if all are."""
    ordered = [name for *_, name in sorted(files)]
    return next((name for name in ordered if not is_empty(name)), ordered[0])


def chosen_members(names: Iterable[str]) -> set[str]:
    """Return the members of an archive that are read, each calculation once; names as the archive has them.

    Sizes are not known, and *.in and *.out are left out.
    """
    folders: dict[str, dict[str, str]] = {}
    for name in names:
        folder, _, base = name.replace("\\", "/").rpartition("/")
        if not base.startswith("._") and not name.startswith("__MACOSX/"):
            folders.setdefault(folder, {})[base] = name
    return {
        members[base]
        for members in folders.values()
        for base in chosen_files(members, lambda _: False, lambda _: False)
    }
