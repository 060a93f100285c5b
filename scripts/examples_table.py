"""Print the README's table: the bundled model's predictions for examples/ beside measured values."""

from __future__ import annotations

import csv
from pathlib import Path

from crystalpredict import load_model

ROOT = Path(__file__).resolve().parents[1]
# title, column of the prediction, column of measured values in docs/examples.csv, digits
COLUMNS = (
    ("band gap of PBE, eV", "bandgap_eV", "", 2),
    ("measured gap, eV", "bandgap_experiment_eV", "bandgap_eV", 2),
    ("formation energy, eV/atom", "formation_energy_eV_per_atom", "formation_energy_eV_per_atom", 2),
    ("above hull, eV/atom", "e_above_hull_eV_per_atom", "", 2),
    ("bulk modulus, GPa", "bulk_modulus_GPa", "bulk_modulus_GPa", 0),
    ("shear modulus, GPa", "shear_modulus_GPa", "", 0),
)
TARGETS = ["bandgap", "bandgap_experiment", "formation_energy", "e_above_hull", "bulk_modulus", "shear_modulus"]


def table() -> str:
    """Markdown: predicted, and measured in parentheses where docs/examples.csv has a value."""
    lines = (ROOT / "docs" / "examples.csv").read_text(encoding="utf-8").splitlines()
    measured = {row["file"]: row for row in csv.DictReader(lines)}
    rows = load_model(device="cpu", targets=TARGETS).predict([str(ROOT / "examples" / name) for name in measured])
    lines = [
        "| | " + " | ".join(title for title, *_ in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for row, (name, known) in zip(rows, measured.items(), strict=True):
        cells = []
        for _, column, source, digits in COLUMNS:
            reference = known.get(source) or ""
            cells.append(f"{row[column]:.{digits}f}" + (f" ({float(reference):.{digits}f})" if reference else ""))
        lines.append(f"| {known['material']}, {known['structure']} (`{name}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
