"""Known properties: names, units and transforms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from math import floor, log10
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from crystalpredict._schema import Letters, Number, Text, Word
from crystalpredict.errors import UsageError

Transform = Literal["none", "log10", "log_change"]
FORMATION_ENERGY, E_ABOVE_HULL, NEAREST_KNOWN = "formation_energy", "e_above_hull", "nearest_known"
HULL_BY_NETWORK = "e_above_hull_by_network_eV_per_atom"  # a column
OUTPUT_COLUMNS = ("path", "index", "formula", "n_atoms", "warnings", "error")  # besides those of the properties
MAX_DECIMALS = 323  # of a float


@dataclass(frozen=True)
class Property:
    """A scalar property of a crystal.

    Attributes:
        name: of the property, as given to --target.
        label: for tables and plots.
        unit: "" if dimensionless.
        unit_in_name: unit in the name of the output column.
        aliases: other names.
        transform: from `unit` to the trained scale; `log_change` is ln(1 + x / 100) of a change x in percent.
        minimum: smallest physically possible value, in `unit`; smaller predictions are raised to it.
        decimals: digits after the point in a table of predictions.
        on_request: whether the property is left out of predictions unless it is asked for.
        maximum: largest possible value, in `unit`; larger predictions are lowered to it.
        has_interval: whether predictions have intervals; a probability has none.
    """

    name: Word
    label: Text
    unit: Text
    unit_in_name: Letters
    aliases: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()
    transform: Transform = "none"
    minimum: Number | None = None
    decimals: Annotated[int, Meta(ge=0, le=MAX_DECIMALS)] = 4
    on_request: bool = False
    maximum: Number | None = None
    has_interval: bool = True

    is_text: ClassVar[bool] = False

    @cached_property
    def column(self) -> str:
        """Name of the output column, with the unit."""
        return f"{self.name}_{self.unit_in_name}" if self.unit_in_name else self.name

    @property
    def trained_unit(self) -> str:
        """Unit of the trained scale."""
        if self.transform == "none":
            return self.unit
        if self.transform == "log_change":
            return "log"
        return f"{self.transform}({self.unit})" if self.unit else self.transform

    @property
    def identity(self) -> tuple[str, str, str]:
        """Name, unit and transform; outputs of equal identity are interchangeable."""
        return self.name, self.unit, self.transform

    def with_decimals_for(self, labels: NDArray[np.floating]) -> Property:
        """Return the property with enough decimals to print its labels (n,), in `unit`.

        The last decimal is at most 1/1000 of their standard deviation, or of their 1 % quantile for a logarithm.
        """
        known = labels[np.isfinite(labels)]
        if not len(known):
            return self
        scale = np.quantile(known, 0.01) if self.transform == "log10" else np.std(known)
        needed = 3 - floor(log10(scale)) if scale > 0 else 0
        return replace(self, decimals=min(max(self.decimals, needed), MAX_DECIMALS))

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return values in `unit` on the trained scale, not a number where a logarithm does not exist."""
        if self.transform == "log10":
            return np.log10(np.where(values > 0, values, np.nan))
        if self.transform == "log_change":
            return np.log1p(np.where(values > -100, values, np.nan) / 100)
        return values

    def in_unit(self, labels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return labels on the trained scale in `unit`, also below the minimum."""
        if self.transform == "log_change":
            return np.asarray(100 * np.expm1(labels))
        return 10.0**labels if self.transform == "log10" else labels

    def decode(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return predictions on the trained scale in `unit`, not below the minimum or above the maximum."""
        return _between(self.in_unit(values), self.minimum, self.maximum)

    def clip(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return values on the trained scale, not below the minimum or above the maximum; a logarithm has none."""
        return _between(values, self.minimum, self.maximum) if self.transform == "none" else values


def _between(values: NDArray[np.floating], low: float | None, high: float | None) -> NDArray[np.floating]:
    return values if low is None and high is None else np.clip(values, low, high)


@dataclass(frozen=True)
class TextProperty(Property):
    """What is said of a crystal in words: a column of texts, without intervals."""

    is_text: ClassVar[bool] = True


PROPERTIES = (
    Property("bandgap", "band gap", "eV", "eV", ("gap", "band_gap", "egap", "eg", "gap_pbe"), minimum=0.0),
    Property(
        FORMATION_ENERGY, "formation energy", "eV/atom", "eV_per_atom",
        ("eform", "e_form", "formation_energy_per_atom", "formation_energy_peratom", "ef"),
    ),
    Property(
        E_ABOVE_HULL, "energy above hull", "eV/atom", "eV_per_atom",
        ("ehull", "e_hull", "energy_above_hull", "hull"), minimum=0.0,
    ),
    Property(
        "bulk_modulus", "bulk modulus", "GPa", "GPa", ("k", "kvrh", "k_vrh", "bulk"), "log10", minimum=0.0, decimals=2,
    ),
    Property(
        "shear_modulus", "shear modulus", "GPa", "GPa", ("g", "gvrh", "g_vrh", "shear"), "log10",
        minimum=0.0, decimals=2,
    ),
)  # fmt: skip

VOLUME_CHANGE = Property(
    "volume_change", "volume change on relaxation", "%", "percent", ("relaxation",), "log_change",
    minimum=-100.0, decimals=2, on_request=True,
)  # fmt: skip

# of a model for unrelaxed structures with a head of relaxation (crystalpredict.prediction.relaxation)
DEFORMATION = (
    Property(
        "strain", "largest strain on relaxation, apart from the volume", "%", "percent", minimum=0.0, decimals=2,
        has_interval=False,
    ),
    Property(
        "displacement", "largest displacement of an atom on relaxation", "Å", "A", minimum=0.0, decimals=3,
        has_interval=False,
    ),
)  # fmt: skip


def _probability(name: str, of: str, *aliases: str) -> Property:
    return Property(
        name, f"probability of {of}", "", "", aliases, minimum=0.0, decimals=3, on_request=True, maximum=1.0,
        has_interval=False,
    )  # fmt: skip


def _gap(name: str, label: str, *aliases: str) -> Property:
    return Property(name, label, "eV", "eV", aliases, minimum=0.0, on_request=True)


# learnt beside PROPERTIES where the training data have them
AUXILIARY = (
    VOLUME_CHANGE,
    _probability("metal_probability", "a metal (PBE)", "metal", "is_metal"),
    _gap("bandgap_nonmetal", "band gap if not a metal (PBE)"),
    _gap("bandgap_hse", "band gap (HSE)", "gap_hse", "hse"),
    _probability("metal_probability_hse", "a metal (HSE)"),
    _gap("bandgap_gllbsc", "band gap (GLLB-SC)", "gap_gllbsc", "gllbsc"),
    _gap("bandgap_experiment", "measured band gap", "gap_experiment", "bandgap_expt", "gap_expt", "measured_gap"),
    _probability("metal_probability_experiment", "a metal (measured)"),
    Property(
        "refractive_index", "refractive index", "", "", ("n_refractive",), "log10", minimum=1.0, decimals=3,
        on_request=True,
    ),
    Property(
        "magnetic_moment", "magnetic moment (PBE)", "µB/atom", "muB_per_atom",
        ("moment_per_atom", "magmom"), minimum=0.0, decimals=3, on_request=True,
    ),
    _probability("magnetic_probability", "magnetism (PBE)", "magnetic", "is_magnetic"),
    Property(
        "phonon_peak", "highest phonon peak", "1/cm", "per_cm", ("last_phdos_peak",),
        "log10", minimum=0.0, decimals=1, on_request=True,
    ),
    Property(
        "heat_capacity_300K", "heat capacity at 300 K, of a mole of atoms", "J/(K mol)", "J_per_K_mol",
        ("heat_capacity",), minimum=0.0, decimals=2, on_request=True, maximum=24.94,  # 3 R, of Dulong and Petit
    ),
)  # fmt: skip

TRAINED = (*PROPERTIES, *AUXILIARY)  # all that models learn from labels

# computed from bulk and shear modulus (crystalpredict.prediction.derived)
ELASTIC = (
    Property(
        "youngs_modulus", "Young's modulus", "GPa", "GPa", ("young", "youngs", "young_modulus", "e_modulus"), "log10",
        minimum=0.0, decimals=2,
    ),
    Property(
        "poisson_ratio", "Poisson's ratio", "", "", ("poisson", "poissons_ratio", "nu"), minimum=-1.0,
    ),
    Property("pugh_ratio", "Pugh's ratio", "", "", ("pugh", "pughs_ratio", "k_over_g"), "log10", minimum=0.0),
)  # fmt: skip


def _positive(name: str, label: str, unit: str, unit_in_name: str, *aliases: str, decimals: int = 0) -> Property:
    return Property(name, label, unit, unit_in_name, aliases, "log10", minimum=0.0, decimals=decimals)


# computed from both moduli and the density (crystalpredict.prediction.thermal)
THERMAL = (
    _positive("debye_temperature", "Debye temperature", "K", "K", "debye", decimals=1),
    _positive("sound_velocity", "mean velocity of sound", "m/s", "m_per_s"),
    _positive("sound_velocity_longitudinal", "velocity of longitudinal sound", "m/s", "m_per_s"),
    _positive("sound_velocity_transverse", "velocity of transverse sound", "m/s", "m_per_s"),
    _positive("vickers_hardness", "Vickers hardness", "GPa", "GPa", "hardness", decimals=2),
    _positive(
        "thermal_conductivity", "lattice thermal conductivity at 300 K", "W/(m K)", "W_per_m_K", decimals=2,
    ),
)  # fmt: skip
DERIVED = (*ELASTIC, *THERMAL)

# of the formation energy and the hull of known phases (crystalpredict.prediction.stability)
STABILITY = (
    Property(
        "hull_distance", "distance to the hull", "eV/atom", "eV_per_atom",
        ("distance_to_hull", "e_hull_signed", "stability", "decomposition_energy"),
    ),
    Property("total_energy", "total energy (PBE)", "eV/atom", "eV_per_atom", ("energy_per_atom", "pbe_energy")),
    TextProperty("decomposes_to", "phases on the hull", "", "", ("decomposition",)),
    TextProperty("known_phase", "lowest known phase of the composition", "", "", ("polymorph", "known_polymorph")),
    TextProperty(
        NEAREST_KNOWN, "known crystal with the nearest structure", "", "", ("nearest", "nearest_crystal", "novelty"),
    ),
    Property(
        "e_above_hull_by_network", "energy above hull by the network alone", "eV/atom", "eV_per_atom", (), minimum=0.0,
    ),
)  # fmt: skip
REQUESTED = (
    *DERIVED,
    *STABILITY,
    *DEFORMATION,
)  # predicted where a model has what they follow from, and only on request
TEXT_COLUMNS = tuple(prop.column for prop in STABILITY if isinstance(prop, TextProperty))


def match_property(name: str, among: Iterable[Property] = PROPERTIES) -> Property | None:
    """Return the property with a given name, output column or alias, or None.

    An exact match of a name or column comes first, then any match regardless of case, with `-` and space as `_`.
    """
    among = tuple(among)
    exact = {prop.column: prop for prop in among} | {prop.name: prop for prop in among}
    return exact.get(name) or _by_key(among).get(_key(name))


def find_property(name: str, among: Iterable[Property] = PROPERTIES) -> Property:
    """Return the property with a given name, output column or alias, as `match_property`.

    Raises:
        UsageError: there is none.
    """
    among = tuple(among)
    if prop := match_property(name, among):
        return prop
    known = _by_key(among)
    near = get_close_matches(_key(name), known, n=1)
    hint = f"did you mean {known[near[0]].name!r}?" if near else f"choose from {', '.join(p.name for p in among)}"
    raise UsageError(f"unknown target {name!r}: {hint}")


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _by_key(among: Sequence[Property]) -> dict[str, Property]:
    """Return properties by the keys of their names, columns and aliases, in this order of precedence."""
    names = [(prop.name, prop) for prop in among] + [(prop.column, prop) for prop in among]
    aliases = [(alias, prop) for prop in among for alias in prop.aliases]
    return {_key(name): prop for name, prop in reversed(names + aliases)}
