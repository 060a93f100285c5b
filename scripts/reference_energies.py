"""Reference energies for hulls, from labelled crystals: the lowest formation energy of each composition.

python scripts/reference_energies.py mp2018/train.jsonl.gz mp2018/val.jsonl.gz mp2019/train.jsonl.gz \\
    --elements element_refs.json --fingerprints -o models/reference-energies

With --elements the file has the shifts of formation energies to other conventions, too, and with --fingerprints those
of all crystals, also of the higher ones of a composition, for the target `nearest_known`. Each takes some minutes.
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
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, FloatArray
from crystalpredict.crystals.fingerprint import scaled_fingerprints
from crystalpredict.crystals.oxides import OxideType, oxide_types
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.io.mp2020 import are_sulfates
from crystalpredict.prediction.conventions import shift_to
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.elements import ElementEnergies
from crystalpredict.stability.reference import Composition, Phase, ReferenceEnergies

LARGEST_REVISION = 0.1  # eV/atom, of an element's energy between releases; corrections of anions are larger
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

`elements.json` turns formation energies into total energies: energies of the elements that give total energies of the
MPF.2021.2.8 data set (CC-BY-4.0) back from the formation energies, fitted to 39,836 crystals: the median residual is
0.2 meV/atom. Those of H, N, F, S and Cl as elements, which have no corrections, are the Materials Project's of 2023
(CC-BY-4.0).

`shift_uncorrected` and `shift_mp2020` in the file are formation energies without corrections, and with those of
pymatgen's `MaterialsProject2020Compatibility` (S. Wang et al., Sci. Rep. 11, 15496 (2021)), less those of 2018,
eV/atom.

`fingerprints` describe the structures of these crystals, and `polymorph_fingerprints` those of the {polymorphs:,}
others of the same compositions, for the target `nearest_known`: three sums over pairs of atoms each, in half precision.
"""


def phases_in(paths: Sequence[Path]) -> Iterator[Phase]:
    """The phases of all crystals with a formation energy."""
    for row in labelled_rows(paths):
        counts = Counter(ATOMIC_NUMBERS[symbol] for symbol in row["species"])
        yield Phase(_reduced(counts), float(row["formation_energy"]), str(row["id"]))


def labelled_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows with a formation energy."""
    return (row for path in paths for row in read_jsonl(path) if row.get("formation_energy") is not None)


def fingerprints_in(paths: Sequence[Path]) -> FloatArray:
    """The fingerprints of all crystals with a formation energy, in the order of `phases_in`."""
    rows = labelled_rows(paths)
    with Pool(PROCESSES) as pool:
        return np.concatenate(list(pool.imap(_fingerprints, iter(lambda: list(islice(rows, 1000)), []))))


def _fingerprints(rows: list[dict[str, Any]]) -> FloatArray:
    return scaled_fingerprints([crystal_of_row(row) for row in rows])


def kinds_in(paths: Sequence[Path], identifiers: Iterable[str]) -> dict[str, tuple[OxideType, bool]]:
    """Types of oxides of crystals of some identifiers, and whether they are sulfates; none of those without O and S."""
    wanted = set(identifiers)
    rows = (row for path in paths for row in read_jsonl(path) if row["id"] in wanted and {"O", "S"} & {*row["species"]})
    found: dict[str, tuple[OxideType, bool]] = {}
    while some := list(islice(rows, 1000)):
        crystals = [crystal_of_row(row) for row in some]
        kinds = zip(oxide_types(crystals), are_sulfates(crystals), strict=True)
        found |= dict(zip([str(row["id"]) for row in some], kinds, strict=True))
    return found


def with_shifts(
    reference: ReferenceEnergies, kinds: dict[str, tuple[OxideType, bool]], elements: ElementEnergies
) -> ReferenceEnergies:
    """The phases with shifts of their energies to all conventions."""
    phases = [reference.phase(number) for number in range(len(reference))]
    asked = [(dict(phase.composition), *kinds.get(phase.identifier, ("oxide", False))) for phase in phases]
    with Pool(PROCESSES) as pool:
        shifts = np.array(pool.map(partial(_shifts, elements), asked, chunksize=500))
    return replace(reference, shifts={Convention.uncorrected: shifts[:, 0], Convention.mp2020: shifts[:, 1]})


def _shifts(elements: ElementEnergies, asked: tuple[Composition, OxideType, bool]) -> tuple[float, float]:
    composition, oxide, sulfate = asked
    uncorrected = shift_to(Convention.uncorrected, composition, oxide, elements=elements)
    return uncorrected, shift_to(Convention.mp2020, composition, oxide, sulfate=sulfate, elements=elements)


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
    parser.add_argument("--fingerprints", action="store_true", help="keep the fingerprints of the crystals")
    options = parser.parse_args()
    phases = list(phases_in(options.tables))
    fingerprints = fingerprints_in(options.tables) if options.fingerprints else None
    reference = ReferenceEnergies.of_phases(phases, fingerprints)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.elements:
        found = json.loads(options.elements.read_text())
        mu = found["mu"]
        elements = {
            "reference": mu,
            "u_shift": found["u_shift"],
            "oxide_corrections": {"oxide": found["o_compound"], **OXIDE_CORRECTIONS},
            "uncorrected": {name: ground_state(mu[name], found["mp2023_elements"].get(name)) for name in mu},
        }
        (options.output / ELEMENT_ENERGIES).write_text(json.dumps(elements, indent=1) + "\n")
        kinds = kinds_in(options.tables, reference.identifiers)
        reference = with_shifts(reference, kinds, ElementEnergies.load(options.output / ELEMENT_ENERGIES))
    reference.save(options.output / REFERENCE_ENERGIES)
    card = CARD.format(
        count=len(reference), systems=len(reference.systems), entries=len(phases), date=options.date,
        polymorphs=len(phases) - len(reference),
        sha256=file_sha256(options.output / REFERENCE_ENERGIES),
    )  # fmt: skip
    with write_atomically(options.output / "README.md") as file:
        file.write(card.encode())
    enter_in_index(options.output)


def ground_state(in_compounds: float, recent: float | None) -> float:
    """PBE energy of an element: that of compounds, unless it holds an anion's correction; then one of 2023."""
    corrected = recent is not None and abs(in_compounds - recent) > LARGEST_REVISION
    return recent if corrected else in_compounds


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
