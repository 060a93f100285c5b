"""Pack JSONL files of labelled crystals into one array file, to train where torch, NumPy and msgspec are installed.

python scripts/prepare.py --train a.jsonl.gz b.jsonl.gz --validation c.jsonl.gz -o crystals.npz

a.jsonl.gz:10 takes of a file only the crystals with at most 10 atoms, a.jsonl.gz*3 takes each of them three times.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crystalpredict.crystals.crystal import cell_volume, lattice_from_parameters
from crystalpredict.data.dataset import TRAIN, VALIDATION, read_jsonl, table_from_rows
from crystalpredict.errors import CrystalPredictError

MIN_GAP = 0.01  # eV; a smaller one is that of a metal
NONMAGNETIC = "NM"
CELL = ("lattice", "species", "frac_coords")


def rows_of(name: str, elements: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the rows of `file`, of `file:N` those with at most N atoms, of `file*N` each N times.

    Args:
        name: of the file.
        elements: number of times that a crystal of one element is yielded.
    """
    path, most, times = re.fullmatch(r"(.*?)(?::(\d+))?(?:\*(\d+))?", name).groups()
    for row in read_jsonl(Path(path)):
        if most is None or len(row["species"]) <= int(most):
            for _ in range(int(times or 1) * (elements if len(set(row["species"])) == 1 else 1)):
                yield row


def with_derived_labels(row: dict[str, Any], split: int = TRAIN) -> dict[str, Any]:
    """Return a row of a relaxed crystal with the labels that follow from its others.

    Gaps beside PBE's are learnt from crystals that are no metals; validation crystals keep the gaps of metals.
    """
    new = dict(row)
    if "formation_energy" in row or "bulk_modulus" in row:
        new["volume_change"] = 0.0
    if row.get("bandgap") is not None:
        new["metal_probability"] = float(row["bandgap"] <= MIN_GAP)
        new["bandgap_nonmetal"] = row["bandgap"] if row["bandgap"] > MIN_GAP else None
    if row.get("moment_per_atom") is not None:
        new["magnetic_moment"] = row["moment_per_atom"]
    if row.get("magnetic_ordering") is not None:
        new["magnetic_probability"] = float(row["magnetic_ordering"] != NONMAGNETIC)
    for source, name in (("bandgap_hse", "hse"), ("bandgap_expt", "experiment")):
        if row.get(source) is not None:
            new[f"metal_probability_{name}"] = float(row[source] <= MIN_GAP)
            new[f"bandgap_{name}"] = row[source] if row[source] > MIN_GAP or split != TRAIN else None
    return new


def unrelaxed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the cell that a relaxation began with and the labels of the relaxed crystal."""
    new = {
        **with_derived_labels(row),
        **{name: row["unrelaxed"][name] for name in CELL},
        "id": f"{row['id']}~unrelaxed",
    }
    volumes = [cell_volume(lattice_from_parameters(each["lattice"])) / len(each["species"]) for each in (new, row)]
    new["volume_change"] = 100 * (volumes[1] / volumes[0] - 1)
    return new


def main() -> None:
    """Read, pack, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", metavar="FILE[:ATOMS][*TIMES]", required=True)
    parser.add_argument("--validation", nargs="+", metavar="FILE[:ATOMS]", required=True)
    parser.add_argument(
        "--unrelaxed", nargs="+", default=[], metavar="FILE[:ATOMS][*TIMES]", help="train on their starting cells"
    )
    parser.add_argument("--unrelaxed-validation", nargs="+", default=[], metavar="FILE", help="the same for validation")
    parser.add_argument(
        "--relaxed", nargs="+", default=[], metavar="FILE[:ATOMS]", help="train on relaxed crystals without labels"
    )
    parser.add_argument("--elements", type=int, default=1, metavar="N", help="repeat training crystals of one element")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    def rows() -> Iterator[tuple[dict[str, Any], int]]:
        for name in options.train:
            yield from ((with_derived_labels(row), TRAIN) for row in rows_of(name, options.elements))
        for name in options.relaxed:
            yield from (
                ({**{key: row[key] for key in ("id", *CELL)}, "volume_change": 0.0}, TRAIN) for row in rows_of(name)
            )
        for names, split in ((options.unrelaxed, TRAIN), (options.unrelaxed_validation, VALIDATION)):
            for name in names:
                yield from ((unrelaxed(row), split) for row in rows_of(name) if row.get("unrelaxed"))
        for name in options.validation:
            yield from ((with_derived_labels(row, VALIDATION), VALIDATION) for row in rows_of(name))

    table = table_from_rows(rows())
    table.save(options.output)
    size = options.output.stat().st_size / 2**20
    print(f"{options.output}: {len(table):,} crystals, {len(table.numbers):,} atoms, {size:.1f} MiB")


if __name__ == "__main__":
    try:
        main()
    except (CrystalPredictError, OSError) as error:
        sys.exit(f"error: {error}")
