"""Reference energies for hulls, from labelled crystals: the lowest formation energy of each composition.

python scripts/reference_energies.py train.jsonl.gz val.jsonl.gz -o models/reference-energies [--without val.jsonl.gz]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from crystalpredict._files import file_sha256, write_atomically
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS
from crystalpredict.data.dataset import read_jsonl
from crystalpredict.stability.reference import Phase, ReferenceEnergies

ENERGIES_FILE = "energies.safetensors"
CARD = """\
# Reference energies

Formation energies of {count:,} compositions in {systems:,} chemical systems, the lowest of each: what crystals are
compared with for their energy above hull.

| | |
|---|---|
| source | [Materials Project](https://materialsproject.org), formation energies of the 2018 and 2019 releases (PBE, \
PBE+U, with the corrections of those years), as in the MEGNet 2018.6.1 data set, Matbench and the JARVIS leaderboard |
| entries read | {entries:,} crystals; those of test sets are left out |
| licence | CC-BY-4.0; credit: A. Jain et al., APL Materials 1, 011002 (2013) |
| made by | `python scripts/reference_energies.py`, {date} |
| sha256 | `{sha256}` |

Pure elements are at 0 eV/atom. Identifiers are those of the Materials Project.
"""


def phases_in(paths: Sequence[Path]) -> Iterator[Phase]:
    """The phases of all crystals with a formation energy."""
    for path in paths:
        for row in read_jsonl(path):
            if row.get("formation_energy") is not None:
                counts = Counter(ATOMIC_NUMBERS[symbol] for symbol in row["species"])
                yield Phase(_reduced(counts), float(row["formation_energy"]), str(row["id"]))


def _reduced(counts: Counter[int]) -> dict[int, float]:
    from math import gcd

    divisor = gcd(*counts.values())
    return {number: count // divisor for number, count in counts.items()}


def main() -> None:
    """Read the tables, write the file and its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, help="JSON lines with id, species and formation_energy")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the file and its card")
    parser.add_argument("--date", default="2026-11-29", help="for the card")
    options = parser.parse_args()
    phases = list(phases_in(options.tables))
    reference = ReferenceEnergies.of_phases(phases)
    options.output.mkdir(parents=True, exist_ok=True)
    reference.save(options.output / ENERGIES_FILE)
    card = CARD.format(
        count=len(reference), systems=len(reference.systems), entries=len(phases), date=options.date,
        sha256=file_sha256(options.output / ENERGIES_FILE),
    )  # fmt: skip
    with write_atomically(options.output / "README.md") as file:
        file.write(card.encode())


if __name__ == "__main__":
    main()
