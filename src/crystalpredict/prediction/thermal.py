"""Sound, heat and hardness of an isotropic polycrystal, from its bulk modulus K, shear modulus G and density.

* Velocities of sound: v_l = sqrt((K + 4 G / 3) / rho), v_t = sqrt(G / rho), and their mean over the three branches,
  v_m = (3 / (1 / v_l^3 + 2 / v_t^3))^(1/3).
* Debye temperature: h v_m / k_B (3 n / (4 pi))^(1/3) with n atoms a volume; O. L. Anderson, J. Phys. Chem. Solids 24
  (1963) 909.
* Vickers hardness: 0.92 (G / K)^1.137 G^0.708, in GPa; Y. Tian, B. Xu and Z. Zhao, Int. J. Refract. Met. Hard Mater. 33
  (2012) 93.
* Lattice thermal conductivity above the Debye temperature: G. A. Slack, Solid State Physics 34 (1979) 1, as in
  D. T. Morelli and G. A. Slack, High Thermal Conductivity Materials (2006), A M theta^3 d / (gamma^2 n^(2/3) T): mean
  atomic mass M, Debye temperature theta, d^3 the volume of an atom, n atoms in the primitive cell, A = 2.43e-6 /
  (1 - 0.514 / gamma + 0.228 / gamma^2) in Da, K and Å; Grueneisen parameter gamma = 3 (1 + nu) / (2 (2 - 3 nu)) by
  Poisson's ratio nu (V. N. Belomestnykh and E. P. Tesleva, Tech. Phys. 49 (2004) 1098).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.masses import ATOMIC_MASSES
from crystalpredict.crystals.primitive import primitive_sizes
from crystalpredict.uncertainty import LEVELS

DALTON = 1.66053906892e-27  # kg
PLANCK, BOLTZMANN = 6.62607015e-34, 1.380649e-23  # J s, J/K
ROOM_TEMPERATURE = 300.0  # K
NORMAL_QUANTILES = np.array([0.674, 0.994, 1.282, 1.645, 1.960])  # half-widths of LEVELS in standard deviations
assert len(NORMAL_QUANTILES) == len(LEVELS)


@dataclass(frozen=True)
class Matter:
    """Density, atomic mass and size of the primitive cells of B crystals.

    Attributes:
        density: kg/m^3, (B,).
        mass: mean mass of an atom, kg, (B,).
        atoms: in the primitive cell, by their occupancies, (B,).
    """

    density: FloatArray
    mass: FloatArray
    atoms: FloatArray


def matter_of(crystals: Sequence[Crystal]) -> Matter:
    """Return densities, atomic masses and sizes of the primitive cells of B crystals."""
    masses = np.array([(crystal.occupancies * ATOMIC_MASSES[crystal.numbers]).sum() for crystal in crystals]) * DALTON
    volumes = np.array([crystal.volume for crystal in crystals]) * 1e-30
    sites = np.array([crystal.n_atoms for crystal in crystals], dtype=float)
    atoms = np.array([crystal.occupancies.sum() for crystal in crystals], dtype=float)
    primitive = primitive_sizes(crystals).astype(float)
    return Matter(masses / volumes, masses / atoms, primitive * atoms / sites)


def transverse_velocity(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the velocity of transverse sound, m/s."""
    return np.asarray(np.sqrt(shear * 1e9 / matter.density))


def longitudinal_velocity(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the velocity of longitudinal sound, m/s."""
    return np.asarray(np.sqrt((bulk + 4 / 3 * shear) * 1e9 / matter.density))


def mean_velocity(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the velocity of sound, m/s, whose inverse cube is the mean of the three branches'."""
    along, across = longitudinal_velocity(bulk, shear, matter), transverse_velocity(bulk, shear, matter)
    return np.asarray((3 / (along**-3 + 2 * across**-3)) ** (1 / 3))


def debye_temperature(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the Debye temperature, K."""
    number_density = matter.density / matter.mass
    wave_number = np.cbrt(3 * number_density / (4 * np.pi))
    return np.asarray(PLANCK / BOLTZMANN * wave_number * mean_velocity(bulk, shear, matter))


def vickers_hardness(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the Vickers hardness, GPa."""
    return 0.92 * (shear / bulk) ** 1.137 * shear**0.708


def thermal_conductivity(bulk: FloatArray, shear: FloatArray, matter: Matter) -> FloatArray:
    """Return the lattice thermal conductivity at 300 K, W/(m K)."""
    poisson = (3 * bulk - 2 * shear) / (6 * bulk + 2 * shear)
    gruneisen = 1.5 * (1 + poisson) / (2 - 3 * poisson)
    factor = 2.43e-6 / (1 - 0.514 / gruneisen + 0.228 / gruneisen**2)
    spacing = np.cbrt(matter.mass / matter.density) * 1e10
    cube = debye_temperature(bulk, shear, matter) ** 3
    mass = matter.mass / DALTON
    return np.asarray(factor * mass * cube * spacing / (gruneisen**2 * matter.atoms ** (2 / 3) * ROOM_TEMPERATURE))


Formula = Callable[[FloatArray, FloatArray, Matter], FloatArray]
FORMULAS: dict[str, Formula] = {
    "sound_velocity": mean_velocity,
    "sound_velocity_longitudinal": longitudinal_velocity,
    "sound_velocity_transverse": transverse_velocity,
    "debye_temperature": debye_temperature,
    "vickers_hardness": vickers_hardness,
    "thermal_conductivity": thermal_conductivity,
}
# standard deviation of ln(formula / label) by moduli and labels of the AFLOW library (2,591 crystals), whose own
# conductivities come from a model of Slack's form; the errors of the other formulas are not known, and taken as 0
FORMULA_ERRORS = {"debye_temperature": 0.016, "thermal_conductivity": 0.60}
