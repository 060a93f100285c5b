"""Quantities of an isotropic polycrystal from its bulk modulus K and shear modulus G, both in GPa.

E = 9 K G / (3 K + G) and nu = (3 K - 2 G) / (2 (3 K + G)): Landau and Lifshitz, Theory of Elasticity, section 5.
K / G: Pugh, Philosophical Magazine 45, 823 (1954), who found metals above 1.75 ductile. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalpredict.checkpoints.registry import bundled_models
from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.errors import UsageError
from crystalpredict.prediction.stability import stability_properties
from crystalpredict.prediction.thermal import FORMULA_ERRORS, FORMULAS, NORMAL_QUANTILES, Matter
from crystalpredict.properties import (
    DEFORMATION,
    DERIVED,
    TRAINED,
    VOLUME_CHANGE,
    Property,
    find_property,
    match_property,
)

PARENTS = ("bulk_modulus", "shear_modulus")
SLOPE_STEP = 1e-6  # of the logarithm of a modulus


def derivable(properties: Sequence[Property]) -> tuple[Property, ...]:
    """Return the properties that can be derived from those of a model, without those it predicts itself."""
    known = {prop.name: prop for prop in properties}
    has_moduli = all(
        name in known and known[name].unit == "GPa" and known[name].transform == "log10" for name in PARENTS
    )
    found = (*(DERIVED if has_moduli else ()), *stability_properties(properties), *_deformations(properties))
    return tuple(prop for prop in found if not match_property(prop.name, properties))


def asked_for(properties: Sequence[Property], targets: Sequence[str] = ()) -> tuple[Property, ...]:
    """Return the properties that are requested.

    Args:
        properties: Those of the model.
        targets: Names or aliases of properties of the model or derived from them, or a single name. Empty: all of the
            model that are not left out unless asked for.
    """
    targets = [targets] if isinstance(targets, str) else targets
    among = (*properties, *derivable(properties))
    shown = (*(prop for prop in properties if not prop.on_request), *_deformations(properties))
    return tuple(dict.fromkeys(find_target(name, among) for name in targets)) or shown


def _deformations(properties: Sequence[Property]) -> tuple[Property, ...]:
    """Return how crystals deform on relaxation, if a model of these properties is for unrelaxed structures."""
    change = match_property(VOLUME_CHANGE.name, properties)
    return DEFORMATION if change and not change.on_request else ()


def find_target(name: str, among: Sequence[Property]) -> Property:
    """Return the property of a model with a given name, output column or alias.

    Raises:
        UsageError: The model has no such property. The message names the bundled models that have it, if any.
    """
    if not match_property(name, among):
        if others := _bundled_models_with(name):
            raise UsageError(f"this model does not predict {name!r}; bundled models that do: {', '.join(others)}")
        if match_property(name, DEFORMATION):
            hint = "that for unrelaxed structures does: --unrelaxed, without --relax"
            raise UsageError(f"this model does not predict {name!r}, {hint}")
    return find_property(name, among)


def _bundled_models_with(name: str) -> list[str]:
    """Return the names of the bundled models that predict a property, or what it is derived from."""
    found = []
    for model in bundled_models().values():
        own = [prop for prop in TRAINED if prop.name in model.properties]
        if match_property(name, (*own, *derivable(own))):
            found.append(model.name)
    return found


def derive(name: str, bulk: FloatArray, shear: FloatArray, matter: Matter | None = None) -> FloatArray:
    """Return the quantity `name` of DERIVED from K and G, GPa, of the same shape.

    Args:
        name: Name of the quantity.
        bulk: K, GPa, (B,).
        shear: G, GPa, (B,).
        matter: Of the crystals; not needed for the quantities in ELASTIC.
    """
    if name == "youngs_modulus":
        return 9 * bulk * shear / (3 * bulk + shear)
    if name == "poisson_ratio":
        return _poisson(bulk / shear)
    if name == "pugh_ratio":
        return bulk / shear
    assert matter is not None
    return FORMULAS[name](bulk, shear, matter)


def derived_bounds(
    name: str, bulk: FloatArray, shear: FloatArray, widths: tuple[FloatArray, FloatArray], correlation: float,
    matter: Matter | None = None,
) -> FloatArray:  # fmt: skip
    """Return the lower and upper ends (B, levels, 2) of intervals of a derived quantity.

    The errors of ln K and ln G are propagated linearly to the logarithm of the quantity, with their correlation. The
    error of the formula itself is added if it is known. Poisson's ratio increases with K / G, whose ends give its ends.

    Args:
        name: Name of the quantity.
        bulk: K, GPa, (B,).
        shear: G, GPa, (B,).
        widths: Half the width of the intervals of ln K and ln G, each (B, levels).
        correlation: Of the errors of ln K and ln G.
        matter: As for `derive`.
    """
    of = "pugh_ratio" if name == "poisson_ratio" else name
    middle = derive(of, bulk, shear, matter)
    up = np.exp(SLOPE_STEP)
    of_bulk, of_shear = (
        (np.log(derive(of, one, two, matter)) - np.log(middle))[:, None] / SLOPE_STEP
        for one, two in ((bulk * up, shear), (bulk, shear * up))
    )
    one, two = of_bulk * widths[0], of_shear * widths[1]
    own = FORMULA_ERRORS.get(name, 0.0) * NORMAL_QUANTILES[: one.shape[1]]
    width = np.sqrt(np.maximum(one**2 + two**2 + 2 * correlation * one * two, 0) + own**2)
    ends = middle[:, None, None] * np.exp(np.stack([-width, width], axis=-1))
    return _poisson(ends) if name == "poisson_ratio" else ends


def _poisson(pugh: FloatArray) -> FloatArray:
    """Return Poisson's ratio for K / G: -1 at 0, 1/2 at infinity."""
    return (3 * pugh - 2) / (6 * pugh + 2)
