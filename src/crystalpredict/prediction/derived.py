"""Elastic quantities of an isotropic polycrystal from its bulk modulus K and shear modulus G, both in GPa.

E = 9 K G / (3 K + G) and nu = (3 K - 2 G) / (2 (3 K + G)): Landau and Lifshitz, Theory of Elasticity, section 5.
K / G: Pugh, Philosophical Magazine 45, 823 (1954), who found metals above 1.75 ductile. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.prediction.stability import stability_properties
from crystalpredict.properties import DERIVED, Property, find_property, match_property

PARENTS = ("bulk_modulus", "shear_modulus")


def derivable(properties: Sequence[Property]) -> tuple[Property, ...]:
    """What can be derived from the properties of a model that it does not predict itself."""
    known = {prop.name: prop for prop in properties}
    has_moduli = all(
        name in known and known[name].unit == "GPa" and known[name].transform == "log10" for name in PARENTS
    )
    found = (*(DERIVED if has_moduli else ()), *stability_properties(properties))
    return tuple(prop for prop in found if not match_property(prop.name, properties))


def asked_for(properties: Sequence[Property], targets: Sequence[str] = ()) -> tuple[Property, ...]:
    """The properties that `targets`, names or aliases, stand for: of a model that has `properties`, or derived ones.

    None named: all of the model. A single name may stand without a list.
    """
    targets = [targets] if isinstance(targets, str) else targets
    among = (*properties, *derivable(properties))
    return tuple(dict.fromkeys(find_property(name, among) for name in targets)) or tuple(properties)


def derive(name: str, bulk: FloatArray, shear: FloatArray) -> FloatArray:
    """The quantity `name` of DERIVED, from K and G of the same shape."""
    if name == "youngs_modulus":
        return 9 * bulk * shear / (3 * bulk + shear)
    if name == "poisson_ratio":
        return _poisson(bulk / shear)
    return bulk / shear


def derived_bounds(
    name: str, bulk: FloatArray, shear: FloatArray, widths: tuple[FloatArray, FloatArray], correlation: float
) -> FloatArray:
    """Ends (B, levels, 2) of intervals of a derived quantity.

    bulk, shear (B,); widths, for each of the two, half the width (B, levels) of its interval in ln; correlation, of
    their errors. Errors of ln K and ln G are taken to be small, and added as those of correlated variables: ln E has
    the slopes G / (3 K + G) and 3 K / (3 K + G), ln K/G has 1 and -1. Poisson's ratio only grows with K / G, whose
    ends give its own.
    """
    if name == "youngs_modulus":
        of_bulk = (shear / (3 * bulk + shear))[:, None]
        of_shear = 1 - of_bulk
    else:
        of_bulk, of_shear = np.ones((len(bulk), 1)), -np.ones((len(bulk), 1))
    one, two = of_bulk * widths[0], of_shear * widths[1]
    width = np.sqrt(np.maximum(one**2 + two**2 + 2 * correlation * one * two, 0))
    middle = derive("pugh_ratio" if name == "poisson_ratio" else name, bulk, shear)
    ends = middle[:, None, None] * np.exp(np.stack([-width, width], axis=-1))
    return _poisson(ends) if name == "poisson_ratio" else ends


def _poisson(pugh: FloatArray) -> FloatArray:
    """Poisson's ratio of K / G: -1 for 0, 1/2 for infinity."""
    return (3 * pugh - 2) / (6 * pugh + 2)
