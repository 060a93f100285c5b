"""Screen: halide perovskites made by substitution in CsPbBr3, ranked by the energy above hull of what they relax to."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from pymatgen.core import Structure

from crystalpredict import load_model

PARENT = Path(__file__).resolve().parents[2] / "examples" / "CsPbBr3.cif"
GAPS = (1.0, 2.5)  # eV, of the PBE functional, which is below the measured gap
HIGHEST_ABOVE_HULL = 0.05  # eV/atom
LARGE = ("K", "Rb", "Cs")
METALS = {"Mg": 0.72, "Ca": 1.00, "Sr": 1.18, "Zn": 0.74, "Cd": 0.95, "Ge": 0.73, "Sn": 1.15, "Pb": 1.19}
HALOGENS = {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20}  # ionic radii in Å (Shannon, 1976), six neighbours


def candidates(parent: Structure) -> dict[str, Structure]:
    """Structures by formula: each element replaced, and the cell scaled as the bond between metal and halogen."""
    made = {}
    for large, metal, halogen in product(LARGE, METALS, HALOGENS):
        crystal = parent.copy()
        crystal.replace_species({"Cs": large, "Pb": metal, "Br": halogen})
        bond, parent_bond = METALS[metal] + HALOGENS[halogen], METALS["Pb"] + HALOGENS["Br"]
        crystal.scale_lattice(parent.volume * (bond / parent_bond) ** 3)
        made[crystal.reduced_formula] = crystal
    return made


def main() -> None:
    """Print the candidates with a suitable gap that may be stable."""
    crystals = candidates(Structure.from_file(PARENT))
    model = load_model("crystalformer-mp-unrelaxed", targets=["bandgap", "e_above_hull", "bulk_modulus"])
    rows = model.predict(crystals.values())
    usual = [row for row in rows if not row.error and not row.warnings]
    found = [
        row
        for row in usual
        if GAPS[0] <= row["bandgap_eV"] <= GAPS[1] and row["e_above_hull_eV_per_atom"] <= HIGHEST_ABOVE_HULL
    ]
    found.sort(key=lambda row: row["e_above_hull_eV_per_atom"])
    print(f"{len(rows)} candidates, {len(usual)} of them like the training data, {len(found)} suitable\n")
    print("formula    above hull, eV/atom    gap, eV   90 % interval    K, GPa")
    for row in found:
        low, high = row.intervals["bandgap_eV"]
        hull, gap, modulus = row["e_above_hull_eV_per_atom"], row["bandgap_eV"], row["bulk_modulus_GPa"]
        print(f"{row.formula:8} {hull:21.3f} {gap:10.2f}   {low:4.2f} to {high:4.2f} {modulus:9.0f}")


if __name__ == "__main__":
    main()
