"""Reference energies for hulls, from labelled crystals: the lowest formation energy of each composition.

python scripts/reference_energies.py mp2018/train.jsonl.gz mp2018/val.jsonl.gz mp2019/train.jsonl.gz \\
    --elements element_refs.json -o models/reference-energies

With --elements the file has the shifts of formation energies to other conventions, too, which takes some minutes.
Without the validation part, a file of the same kind is what `calibrate.py --reference` takes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from crystalpredict._files import file_sha256, write_atomically
from crystalpredict.checkpoints.registry import ELEMENT_ENERGIES, REFERENCE_ENERGIES
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, Crystal, lattice_of_parameters
from crystalpredict.crystals.oxides import OxideType, oxide_types
from crystalpredict.data.dataset import read_jsonl
from crystalpredict.prediction.conventions import shift_to
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.elements import ElementEnergies
from crystalpredict.stability.reference import Phase, ReferenceEnergies

# corrections of oxygen that the Materials Project used in 2018 (pymatgen's MPCompatibility.yaml), with the other sign;
# that of oxides is fitted with the rest
OXIDE_CORRECTIONS = {"peroxide": 0.46622, "superoxide": 0.14598, "ozonide": 0.0}
PROCESSES = 2
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

`elements.json` turns formation energies into total energies: PBE energies of the elements (the Materials Project's of
2023, CC-BY-4.0), and those that give total energies of the MPF.2021.2.8 data set (CC-BY-4.0) back from the formation
energies, fitted to 39,836 crystals: the median residual is 0.2 meV/atom. `shift_uncorrected` and `shift_mp2020` in the
file are formation energies without corrections, and with those of pymatgen's `MaterialsProject2020Compatibility`
(S. Wang et al., Sci. Rep. 11, 15496 (2021)), less those of 2018, eV/atom.
"""


def phases_in(paths: Sequence[Path]) -> Iterator[Phase]:
    """The phases of all crystals with a formation energy."""
    for path in paths:
        for row in read_jsonl(path):
            if row.get("formation_energy") is not None:
                counts = Counter(ATOMIC_NUMBERS[symbol] for symbol in row["species"])
                yield Phase(_reduced(counts), float(row["formation_energy"]), str(row["id"]))


def oxides_in(paths: Sequence[Path], identifiers: Iterable[str]) -> dict[str, OxideType]:
    """Types of those crystals of some identifiers that are no plain oxides."""
    wanted = set(identifiers)
    rows = (row for path in paths for row in read_jsonl(path) if row["id"] in wanted and "O" in row["species"])
    found: dict[str, OxideType] = {}
    while some := list(islice(rows, 1000)):
        found |= dict(zip([str(row["id"]) for row in some], oxide_types(list(map(_crystal, some))), strict=True))
    return {identifier: kind for identifier, kind in found.items() if kind != "oxide"}


def _crystal(row: dict[str, Any]) -> Crystal:
    lattice = lattice_of_parameters(row["lattice"])
    numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in row["species"]])
    return Crystal.ordered(lattice, np.array(row["frac_coords"]) @ lattice, numbers)


def with_shifts(reference: ReferenceEnergies, oxides: dict[str, OxideType], elements: Path) -> ReferenceEnergies:
    """The phases with shifts to all conventions, by the energies of elements in a file."""
    energies = ElementEnergies.load(elements)
    phases = [reference.phase(number) for number in range(len(reference))]
    asked = [(dict(phase.composition), oxides.get(phase.identifier, "oxide")) for phase in phases]
    shifts = {}
    with Pool(PROCESSES) as pool:
        for convention in (Convention.uncorrected, Convention.mp2020):
            found = pool.starmap(partial(shift_to, convention, elements=energies), asked, chunksize=500)
            shifts[convention] = np.array(found)
    return replace(reference, shifts=shifts)


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
    parser.add_argument(
        "--elements", type=Path, help="energies of the elements: `mu`, `u_shift`, `o_compound` and so on"
    )
    options = parser.parse_args()
    phases = list(phases_in(options.tables))
    reference = ReferenceEnergies.of_phases(phases)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.elements:
        found = json.loads(options.elements.read_text())
        elements = {
            "reference": found["mu"],
            "u_shift": found["u_shift"],
            "oxide_corrections": {"oxide": found["o_compound"], **OXIDE_CORRECTIONS},
            "uncorrected": found["mp2023_elements"],
        }
        (options.output / ELEMENT_ENERGIES).write_text(json.dumps(elements, indent=1) + "\n")
        oxides = oxides_in(options.tables, reference.identifiers)
        reference = with_shifts(reference, oxides, options.output / ELEMENT_ENERGIES)
    reference.save(options.output / REFERENCE_ENERGIES)
    card = CARD.format(
        count=len(reference), systems=len(reference.systems), entries=len(phases), date=options.date,
        sha256=file_sha256(options.output / REFERENCE_ENERGIES),
    )  # fmt: skip
    with write_atomically(options.output / "README.md") as file:
        file.write(card.encode())
    enter_in_index(options.output)


def enter_in_index(folder: Path) -> None:
    """Enter the folder in the index beside it, if there is one."""
    path = folder.parent / "index.json"
    if not path.exists():
        return
    index = json.loads(path.read_text())
    files = {
        file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in sorted(folder.iterdir())
    }
    index["reference_energies"] = {"folder": folder.name, "files": files}
    with write_atomically(path) as file:
        file.write((json.dumps(index, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
