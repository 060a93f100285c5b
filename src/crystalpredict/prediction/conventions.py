"""Formation energies in the Materials Project's conventions of 2018 and 2020, or without corrections.

Networks are trained on the convention of 2018. Others differ from it by a sum that the composition and the type of
oxide decide, so that predictions are converted exactly, and intervals keep their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from crystalpredict.checkpoints.registry import ELEMENT_ENERGIES, reference_energies_folder
from crystalpredict.crystals.composition import compositions_of
from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.oxides import OxideType, oxide_types
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.elements import ElementEnergies
from crystalpredict.stability.reference import Composition


@cache
def bundled_elements() -> ElementEnergies:
    """Return the energies of the elements that come with the package.

    Raises:
        CheckpointError: a file is missing or altered.
    """
    return ElementEnergies.load(reference_energies_folder() / ELEMENT_ENERGIES)


def shift_to(
    convention: Convention, composition: Composition, oxide_type: OxideType = "oxide", *, sulfate: bool = False,
    elements: ElementEnergies | None = None,
) -> float:  # fmt: skip
    """Return a formation energy of a convention less that of 2018, eV/atom.

    Args:
        convention: of the formation energy.
        composition: atomic numbers to amounts.
        oxide_type: from `oxide_types`.
        sulfate: whether sulfur is no anion, from `are_sulfates`; it matters in the convention of 2020 alone.
        elements: their energies; None: those that come with the package.

    Returns:
        NaN if an element has no reference energy.
    """
    if convention == Convention.mp2018:
        return 0.0
    shift = (elements or bundled_elements()).uncorrected_shift(composition, oxide_type)
    if convention == Convention.mp2020:
        from crystalpredict.io.mp2020 import mp2020_correction  # half a second, for pymatgen's input sets

        shift += mp2020_correction(composition, oxide_type, sulfate=sulfate)
    return shift


def shifts_of(crystals: Sequence[Crystal], convention: Convention) -> FloatArray:
    """Return formation energies of a convention less those of 2018 (B,), eV/atom; NaN without reference energies.

    Args:
        crystals: B crystals.
        convention: of the formation energies.
    """
    if convention == Convention.mp2018:
        return np.zeros(len(crystals))
    sulfates = [False] * len(crystals)
    if convention == Convention.mp2020:
        from crystalpredict.io.mp2020 import are_sulfates

        sulfates = are_sulfates(crystals)
    kinds = zip(compositions_of(crystals), oxide_types(crystals), sulfates, strict=True)
    shifts = [shift_to(convention, composition, oxide, sulfate=sulfate) for composition, oxide, sulfate in kinds]
    return np.array(shifts, dtype=float)


def total_energies(crystals: Sequence[Crystal], energies: FloatArray) -> FloatArray:
    """Return total energies (B,), eV/atom, of PBE or PBE+U without corrections; NaN for elements without a reference.

    Args:
        crystals: B crystals.
        energies: formation energies (B,) in the convention of 2018, eV/atom.
    """
    elements = bundled_elements()
    compositions, types = compositions_of(crystals), oxide_types(crystals)
    differences = [elements.energy(*pair) for pair in zip(compositions, types, strict=True)]
    return np.asarray(energies + np.array(differences, dtype=float))
