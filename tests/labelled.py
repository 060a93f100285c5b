"""Small tables of labelled crystals, as users keep them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

METALS = ("Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd")
PARTNERS = ("F", "Cl", "Br", "I", "O", "S", "Se", "Te")


def cif(one: str, two: str, a: float) -> str:
    """Rock salt of two elements with the lattice constant a, Å, in its primitive cell."""
    return f"""data_{one}{two}
_cell_length_a {a / 2**0.5:.4f}
_cell_length_b {a / 2**0.5:.4f}
_cell_length_c {a / 2**0.5:.4f}
_cell_angle_alpha 60
_cell_angle_beta 60
_cell_angle_gamma 60
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{one}1 {one} 0 0 0
{two}1 {two} 0.5 0.5 0.5
"""


def rows(count: int = 40) -> list[dict[str, str]]:
    """Rows with `id`, `cif`, `bandgap` and `bulk_modulus`, all of different compositions up to 80, smooth labels."""
    pairs = [(one, two) for two in PARTNERS for one in METALS]
    return [
        {
            "id": f"x{number}",
            "cif": cif(one, two, 5 + 0.02 * number),
            "bandgap": f"{2 + number % 7 * 0.3:.2f}",
            "bulk_modulus": f"{20 + number % 10 * 15}",
        }
        for number, (one, two) in enumerate(pairs[:count])
    ]


def write(
    path: Path, lines: Sequence[dict[str, str]], columns: Iterable[str] | None = None, delimiter: str = ","
) -> Path:
    """The rows as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns or lines[0]), delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path
