"""Do the quick CIF reader and pymatgen give the same crystal? On many files, with the time of each.

python benchmarks/cif_readers.py FOLDER_OF_CIFS...

Two crystals are the same if they have the same atoms and, between each two elements, the same distances within 5 Å (to
1e-4 Å). Prints what differs, a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from provenance import provenance
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import suppress_warnings
from crystalpredict.io.cif import read_plain_cif
from crystalpredict.io.from_pymatgen import crystal_of_structure
from crystalpredict.io.text import read_text

RADIUS = 5.0
TOLERANCE = 1e-4  # Å


def pairs(crystal: Crystal) -> np.ndarray:
    """Rows (E, 3): elements of both ends and distance of every edge, in ascending order."""
    edges = find_neighbors(crystal.lattice, crystal.positions, RADIUS)
    keep = edges.distances < RADIUS - 1e-3  # an edge at the radius itself is a matter of rounding
    centres = np.repeat(np.arange(crystal.n_atoms), edges.edge_counts)[keep]
    numbers = crystal.numbers[:, 0]
    rows = np.stack([numbers[centres], numbers[edges.indices[keep]], edges.distances[keep]], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


def difference(one: Crystal, two: Crystal) -> str:
    """In what two crystals differ; empty if in nothing."""
    if sorted(one.numbers[:, 0]) != sorted(two.numbers[:, 0]) or (two.occupancies != 1).any():
        return "elements"
    ours, theirs = pairs(one), pairs(two)
    if ours.shape != theirs.shape or (ours[:, :2] != theirs[:, :2]).any():
        return "neighbours"
    deviation = np.abs(ours[:, 2] - theirs[:, 2]).max()
    return f"distances, by {deviation:.2g} Å" if deviation > TOLERANCE else ""


def by_pymatgen(text: str) -> list[Structure]:
    """The structures that pymatgen's own parser finds."""
    with suppress_warnings():
        return CifParser.from_str(text).parse_structures(primitive=False, on_error="ignore")


def main() -> None:
    """Read, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    paths = [path for folder in parser.parse_args().folders for path in sorted(folder.glob("*.cif"))]
    seconds = {"quick": 0.0, "pymatgen": 0.0}
    plain = same = 0
    for path in paths:
        text = read_text(str(path))
        start = time.perf_counter()
        quick = read_plain_cif(text)
        middle = time.perf_counter()
        structures = by_pymatgen(text)
        seconds["quick"] += middle - start
        seconds["pymatgen"] += time.perf_counter() - middle
        if not quick:
            print(f"{path}: not read, or not of whole atoms alone")
            continue
        plain += 1
        found = "number of structures" if len(quick) != len(structures) else ""
        for one, two in zip(quick, structures, strict=False):
            crystal = Crystal.ordered(one.lattice, one.fractional @ one.lattice, one.numbers)
            found = found or difference(crystal, crystal_of_structure(two)[0])
        same += not found
        if found:
            print(f"{path}: {found}")
    times = {f"{name}_us_per_file": round(value / len(paths) * 1e6) for name, value in seconds.items()}
    result = {"files": len(paths), "plain": plain, "same": same, **times}
    print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    print(json.dumps({**result, **provenance()}))


if __name__ == "__main__":
    main()
