"""CIFs of disordered crystals of well-known structure types, without symmetry."""

from __future__ import annotations

FCC = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
HEAD = """data_{name}
_cell_length_a {length}
_cell_length_b {length}
_cell_length_c {length}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{symmetry}loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
Site = tuple[str, float, tuple[float, float, float]]


def cif(name: str, length: float, sites: list[Site], group: str = "") -> str:
    """CIF of a cubic cell: an element, its occupancy and the fractional coordinates of each site."""
    symmetry = f"_space_group_name_H-M_alt '{group}'\n" if group else ""
    lines = (
        f"{element}{number} {element} {' '.join(map(str, place))} {share}"
        for number, (element, share, place) in enumerate(sites, start=1)
    )
    return HEAD.format(name=name, length=length, symmetry=symmetry) + "\n".join(lines) + "\n"


CU3AU = cif("Cu3Au", 3.75, [("Cu", 0.75, FCC[0]), ("Au", 0.25, FCC[0])], "F m -3 m")
GAINAS = cif("GaInAs", 5.86, [("Ga", 0.5, FCC[0]), ("In", 0.5, FCC[0]), ("As", 1, (0.25,) * 3)], "F -4 3 m")
SPINEL = cif(
    "MgAl2O4",
    8.08,
    [
        ("Mg", 0.75, (0.125,) * 3), ("Al", 0.25, (0.125,) * 3), ("Al", 0.875, (0.5,) * 3), ("Mg", 0.125, (0.5,) * 3),
        ("O", 1, (0.2624,) * 3),
    ],
    "F d -3 m :2",
)  # fmt: skip
PEROVSKITE = cif(
    "BaSrTiO", 3.95,
    [("Ba", 0.5, FCC[0]), ("Sr", 0.5, FCC[0]), ("Ti", 1, (0.5,) * 3), *(("O", 1, place) for place in FCC[1:])],
)  # fmt: skip
SILVER_IODIDE = cif("AgI", 5.06, [("Ag", 0.16667, (0.25, 0, 0.5)), ("I", 1, FCC[0])], "I m -3 m")


def rock_salt(share: float, length: float = 5.0) -> str:
    """CIF of (Mg,Ca)O."""
    return cif("MgCaO", length, [("Mg", share, FCC[0]), ("Ca", 1 - share, FCC[0]), ("O", 1, (0.5,) * 3)], "F m -3 m")
