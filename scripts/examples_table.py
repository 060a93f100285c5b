"""Print the README's table: the bundled model's predictions for examples/ beside measured values."""

from __future__ import annotations

import csv
from pathlib import Path

from crystalpredict import load_model

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    ("band gap, eV", "bandgap_eV", 2),
    ("formation energy, eV/atom", "formation_energy_eV_per_atom", 2),
    ("above hull, eV/atom", "e_above_hull_eV_per_atom", 2),
    ("bulk modulus, GPa", "bulk_modulus_GPa", 0),
    ("shear modulus, GPa", "shear_modulus_GPa", 0),
)


def table() -> str:
    """Markdown: predicted, and measured in parentheses where docs/examples.csv has a value."""
    lines = (ROOT / "docs" / "examples.csv").read_text(encoding="utf-8").splitlines()
    measured = {row["file"]: row for row in csv.DictReader(lines)}
    rows = load_model(device="cpu").predict([str(ROOT / "examples" / name) for name in measured])
    lines = [
        "| | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for row, (name, known) in zip(rows, measured.items(), strict=True):
        cells = []
        for _, column, digits in COLUMNS:
            reference = known.get(column) or ""
            cells.append(f"{row[column]:.{digits}f}" + (f" ({float(reference):.{digits}f})" if reference else ""))
        lines.append(f"| {known['material']}, {known['structure']} (`{name}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
