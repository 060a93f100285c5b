"""Energy corrections of the Materials Project's convention of 2020, computed by pymatgen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import comb, prod
from typing import Any, cast, get_args

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS, Crystal
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.crystals.oxides import MIN_FULL_OCCUPANCY, OxideType, oxide_types
from crystalpredict.errors import suppress_warnings

# elements whose correction depends on whether they are anions
ANION_DEPENDENT_ELEMENTS = frozenset({"Br", "I", "Se", "Si", "Sb", "Te", "H", "N", "F", "Cl"})
MAX_SITES = 20  # of a reduced formula whose oxidation states pymatgen guesses
MAX_COMBINATIONS = 2 * 10**6  # of oxidation states to try, which takes seconds: above, they count as unknown
MAX_CACHED_COMPOSITIONS = 10**5
SULFUR = ATOMIC_NUMBERS["S"]
SULFUR_REACH, SHELL, COORDINATION = 4.0, 0.4, 4  # Å, Å, atoms: of sulfur's neighbours, as in pymatgen's `sulfide_type`

# what pymatgen takes for these where the structure is unknown
TYPES_OF_FORMULAS: dict[str, OxideType] = {
    **dict.fromkeys(("Li2O2", "Na2O2", "K2O2", "Cs2O2", "Rb2O2", "BeO2", "MgO2", "CaO2", "SrO2", "BaO2"), "peroxide"),
    **dict.fromkeys(("LiO2", "NaO2", "KO2", "RbO2", "CsO2"), "superoxide"),
    **dict.fromkeys(("LiO3", "NaO3", "KO3", "NaO5"), "ozonide"),
}  # fmt: skip


def mp2020_correction(
    composition: Mapping[int, float], oxide_type: OxideType = "oxide", *, sulfate: bool = False
) -> float:
    """Return the sum of the corrections of a composition, eV/atom; 0 for an element.

    Those of anions (Wang et al., Sci. Rep. 11, 15496 (2021)) and those that make energies with and without U
    comparable. The energy is taken to be computed with U where the Materials Project does so.

    Args:
        composition: atomic numbers to amounts.
        oxide_type: from `crystalpredict.crystals.oxides.oxide_types`.
        sulfate: from `are_sulfates`.
    """
    return _correction(tuple(sorted(composition.items())), oxide_type, sulfate)


@lru_cache(MAX_CACHED_COMPOSITIONS)
def _correction(amounts: tuple[tuple[int, float], ...], oxide_type: OxideType, sulfate: bool) -> float:
    from pymatgen.entries.computed_entries import ComputedEntry

    composition = Composition({ELEMENTS[number - 1]: amount for number, amount in amounts})
    if len(composition) < 2:
        return 0.0
    with suppress_warnings():
        symbols = {element.symbol for element in composition.elements}
        anion = sorted(composition.elements, key=lambda element: element.X)[-1].symbol
        settings = _compatibility().u_settings.get(anion, {})
        hubbards = {symbol: settings[symbol] for symbol in symbols if settings.get(symbol)}
        parameters = {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards}
        data: dict[str, Any] = {"oxide_type": oxide_type, "sulfide_type": "sulfate" if sulfate else "sulfide"}
        if not symbols & ANION_DEPENDENT_ELEMENTS - {anion} or combinations_of(composition) > MAX_COMBINATIONS:
            data["oxidation_states"] = {}  # or pymatgen would guess them
        entry = ComputedEntry(composition, 0.0, parameters=parameters, data=data)
        adjustments = _compatibility().get_adjustments(entry)
    return float(sum(each.value for each in adjustments) / composition.num_atoms)


@lru_cache(1)
def _compatibility() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)


def combinations_of(composition: Composition) -> int:
    """Return how many combinations of oxidation states pymatgen tries for a composition, at most; 0 for none.

    Args:
        composition: of at least one element.
    """
    reduced = composition.reduced_composition
    if reduced.num_atoms > MAX_SITES or any(amount != int(amount) for amount in reduced.values()):
        return 0
    sums, most = [], 0
    for element, amount in reduced.items():
        states = Element(element.symbol).icsd_oxidation_states or Element(element.symbol).common_oxidation_states
        own = comb(int(amount) + len(states) - 1, int(amount)) if states else 0
        most = max(most, own)
        sums.append(min(own, int(amount) * (max(states) - min(states)) + 1) if states else 0)  # that are different
    return max(most, prod(sums))


def are_sulfates(crystals: Sequence[Crystal]) -> list[bool]:
    """Return whether a sulfur atom of each of some crystals is no anion, as in sulfates, by its neighbours.

    It is none if those next to it are on average more electronegative. Disordered crystals count as none.

    Args:
        crystals: B crystals.
    """
    with suppress_warnings():
        strength = np.array([0.0, *[np.nan_to_num(Element(symbol).X) for symbol in ELEMENTS]])
    found = [False] * len(crystals)
    rows = [
        row
        for row, crystal in enumerate(crystals)
        if crystal.numbers.shape[1] == 1
        and (crystal.numbers == SULFUR).any()
        and (strength[crystal.numbers] > strength[SULFUR]).any()
        and (crystal.occupancies >= MIN_FULL_OCCUPANCY).all()
    ]
    cells = [(crystals[row].lattice, crystals[row].positions) for row in rows]
    for row, edges in zip(rows, find_neighbors_of_many(cells, SULFUR_REACH), strict=True):
        numbers = crystals[row].numbers[:, 0]
        for atom in np.flatnonzero(numbers == SULFUR).tolist():
            own = slice(int(edges.first[atom]) + 1, int(edges.first[atom + 1]))  # without itself
            order = np.argsort(edges.distances[own], kind="stable")[:COORDINATION]
            distances = edges.distances[own][order]
            near = numbers[edges.indices[own][order]][distances < distances.min(initial=np.inf) + SHELL]
            found[row] |= bool(len(near) and strength[near].mean() > strength[SULFUR])
    return found


def anions_of_entry(row: dict[str, Any], composition: Mapping[int, float]) -> tuple[OxideType, bool]:
    """Return the type of oxide of an entry, and whether it is a sulfate.

    By its structure, if it has one; or as it states; or, of a formula alone, by what is usual.

    Args:
        row: pymatgen's dictionary of a ComputedEntry or ComputedStructureEntry, or a row of a table.
        composition: atomic numbers to amounts.
    """
    if isinstance(structure := row.get("structure"), dict):
        from crystalpredict.io.from_pymatgen import crystal_of_structure

        try:
            crystals = [crystal_of_structure(Structure.from_dict(structure))[0]]
            return oxide_types(crystals)[0], are_sulfates(crystals)[0]
        except Exception:
            pass  # a dictionary that is no structure may raise anything
    formula = Composition({ELEMENTS[number - 1]: amount for number, amount in composition.items()})
    data = row.get("data")
    stated = data.get("oxide_type") if isinstance(data, dict) else None
    usual = TYPES_OF_FORMULAS.get(formula.reduced_formula, "oxide")
    oxide_type = next((cast(OxideType, known) for known in get_args(OxideType) if known == stated), usual)
    return oxide_type, SULFUR in composition and _states_of(formula).get("S", 0) > 0


def _states_of(composition: Composition) -> dict[str, float]:
    """Return the oxidation states that pymatgen guesses, by symbol; empty if it finds none."""
    if not 0 < combinations_of(composition) <= MAX_COMBINATIONS:
        return {}
    with suppress_warnings():
        return next(iter(composition.oxi_state_guesses(max_sites=-MAX_SITES)), {})
