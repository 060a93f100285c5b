"""Where the time goes: stages, scaling with the size of a cell, training step, and the whole command on many files.

python benchmarks/speed.py FOLDER_OF_CIFS [--only PART ...] [--figure docs/speed.png]

Ratios are of times taken in one run. Stages and scaling are measured in processor time, which a busy machine changes
little. Prints tables, then one line of JSON. The figure, of the scaling, needs matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors, find_neighbors_of_many
from crystalpredict.io.cif import read_plain_cif
from crystalpredict.io.entries import Entry
from crystalpredict.io.reader import CHUNK_FILES, read_chunk, windows_of
from crystalpredict.nn import Crystalformer
from crystalpredict.nn.batch import batches_of
from crystalpredict.nn.bins import MISSING_DISTANCE
from crystalpredict.nn.threads import one_thread
from crystalpredict.prediction.predictor import PART_ATOMS, Predictor, load_model
from crystalpredict.prediction.writers import CsvWriter
from tests.brute_force import network

STAGE_CELLS = {2: 400, 20: 200, 200: 20, 2000: 2}  # atoms of a cell: how many cells
SCALING = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
ROUNDS = 3
PARTS = ("command", "stages", "scaling", "training_step", "padding")
PYMATGEN = "import sys, warnings; warnings.simplefilter('ignore'); from pymatgen.core import Structure\n"
PYMATGEN += "for path in sys.stdin.read().split('\\n'): Structure.from_file(path)"


def silicate(atoms: int, seed: int) -> Crystal:
    """A cell without symmetry, so that nothing is saved by it: a distorted cubic grid, 15 Å^3 an atom.

    Of three elements, as real ones have few: the hull of ninety takes seconds.
    """
    random = np.random.default_rng(seed)
    side = int(np.ceil(atoms ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms]
    lattice = np.diag([side, side, side * atoms / side**3]) * 15 ** (1 / 3)
    positions = (sites * [1, 1, atoms / side**3] + random.normal(scale=0.06, size=(atoms, 3))) * 15 ** (1 / 3)
    return Crystal.ordered(lattice, positions, random.choice([8, 12, 14], atoms))


def cif_of(crystal: Crystal) -> str:
    """A plain CIF of an ordered crystal in a cell with right angles."""
    lengths = "".join(f"_cell_length_{x} {crystal.lattice[i, i]:.6f}\n" for i, x in enumerate("abc"))
    angles = "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    names = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"]
    columns = "loop_\n" + "".join(f"_atom_site_{name}\n" for name in names)
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    rows = "".join(
        f"{ELEMENTS[number - 1]}{i} {ELEMENTS[number - 1]} {x:.8f} {y:.8f} {z:.8f}\n"
        for i, (number, (x, y, z)) in enumerate(zip(crystal.numbers[:, 0], fractional, strict=True))
    )
    return f"data_x\n{lengths}{angles}loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n{columns}{rows}"


def seconds(work: Callable[[], Any], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter) -> float:
    """Least time of some rounds; before them, one that does not count warms up, unless there is one alone."""
    times = []
    for _ in range(rounds + (rounds > 1)):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times[-rounds:])


def stages(model: Predictor) -> dict[str, dict[str, float]]:
    """Microseconds of a core a structure in each stage, by atoms of the cell."""
    result: dict[str, dict[str, float]] = {}
    radius = model.model.config.radius
    for atoms, count in STAGE_CELLS.items():
        crystals = [silicate(atoms, seed) for seed in range(count)]
        texts = [cif_of(crystal) for crystal in crystals]

        def neighbors(crystals: list[Crystal] = crystals) -> list[Any]:
            merged = []
            for start in range(0, len(crystals), CHUNK_FILES):  # as a reader does
                some = crystals[start : start + CHUNK_FILES]
                found = find_neighbors_of_many([(crystal.lattice, crystal.positions) for crystal in some], radius)
                merged += merge_equivalent(some, found, radius)
            return merged

        with tempfile.TemporaryDirectory() as folder:
            for number, text in enumerate(texts):
                Path(folder, f"{number}.cif").write_text(text)
            entries = read_chunk(sorted(map(str, Path(folder).iterdir())), radius, merge=True)
        rows = list(model.stream(entries))
        writer = CsvWriter(io.StringIO(), model.properties, intervals=True)
        times = {
            "read": seconds(lambda texts=texts: [read_plain_cif(text) for text in texts], clock=time.process_time),
            "neighbours": seconds(neighbors, clock=time.process_time),
            "model": seconds(lambda entries=entries: list(model.predictions(entries)), clock=time.process_time),
            "write": seconds(
                lambda rows=rows, writer=writer: [writer.write(row) for row in rows], clock=time.process_time
            ),
        }
        result[str(atoms)] = {name: round(value / count * 1e6, 1) for name, value in times.items()}
    return result


def scaling(model: Predictor) -> dict[str, list[float]]:
    """Microseconds of a core an atom for neighbours and model of one disordered cell, by its number of atoms.

    Also the largest memory of this process by then, GB.
    """
    radius = model.model.config.radius
    found: dict[str, list[float]] = {"neighbours": [], "model": [], "memory_GB": []}
    with one_thread():
        for atoms in SCALING:
            crystal = silicate(atoms, 0)
            rounds = 1 if atoms > 2000 else ROUNDS
            edges = find_neighbors(crystal.lattice, crystal.positions, radius)
            search = seconds(
                lambda c=crystal: find_neighbors(c.lattice, c.positions, radius), rounds, time.process_time
            )
            entry = Entry("", 0, n_atoms=atoms, crystal=crystal, neighbors=edges)
            compute = seconds(lambda entry=entry: list(model.predictions([entry])), rounds, time.process_time)
            found["neighbours"].append(round(search / atoms * 1e6, 1))
            found["model"].append(round(compute / atoms * 1e6, 1))
            found["memory_GB"].append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))
    return found


def training_step(paths: list[str], count: int = 16) -> dict[str, float]:
    """Seconds of forward and backward for some real crystals: ours, and the double sum of docs/method.md as written."""
    radius = 6.0
    entries = read_chunk(paths[:: max(1, len(paths) // count)][:count], radius, merge=True)
    pairs = [(entry.crystal, entry.neighbors) for entry in entries if entry.crystal and entry.neighbors]
    crystals, neighbors = [crystal for crystal, _ in pairs], [edges for _, edges in pairs]
    model = load_model(device="cpu").model.train()
    ((order, batch),) = batches_of(crystals, neighbors, 10**6)
    outputs: dict[str, torch.Tensor] = {}

    def ours() -> None:
        model.zero_grad()
        outputs["ours"] = model(batch)
        outputs["ours"].sum().backward()

    def direct() -> None:
        model.zero_grad()
        rows = [direct_output(model, crystals[row], radius) for row in order]
        outputs["direct"] = torch.stack(rows)
        outputs["direct"].sum().backward()

    fast, slow = seconds(ours), seconds(direct, rounds=2)
    deviation = float((outputs["ours"] - outputs["direct"]).abs().max().detach())
    atoms = sum(crystal.n_atoms for crystal in crystals)
    per_atom = fast / atoms * 1e6
    return {
        "crystals": count, "atoms": atoms, "ours_us_per_atom": round(per_atom, 1), "ours_s": round(fast, 4),
        "direct_s": round(slow, 2), "times_faster": round(slow / fast, 1), "largest_difference": round(deviation, 6),
    }  # fmt: skip


def direct_output(model: Crystalformer, crystal: Crystal, radius: float) -> torch.Tensor:
    """Outputs of one crystal by the sums over pairs and all images that reach the radius."""
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    spacing = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0).max()
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    positions = torch.from_numpy((fractional - np.floor(fractional)) @ crystal.lattice).float()
    mix = torch.nn.functional.one_hot(torch.from_numpy(crystal.numbers[:, 0] - 1), len(ELEMENTS)).float()
    reach = int(radius / spacing) + 1
    return network(weights, model.config, torch.from_numpy(crystal.lattice).float(), positions, mix, reach, radius)


def whole_command(paths: list[str]) -> dict[str, float]:
    """Seconds of `crystalpredict predict` on the files and of pymatgen's parse alone, one after the other; memory."""
    ours, theirs, memory = [], [], []
    for _ in range(ROUNDS):
        elapsed, peak = run_command(paths)
        ours.append(elapsed)
        memory.append(peak)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", PYMATGEN], input="\n".join(paths), text=True, check=True)
        theirs.append(time.perf_counter() - start)
    twice, memory_twice = run_command(paths * 2)
    ratios = [one / two for one, two in zip(ours, theirs, strict=True)]
    return {
        "files": len(paths), "seconds": round(float(np.median(ours)), 2),
        "pymatgen_s": round(float(np.median(theirs)), 2), "ratio": round(float(np.median(ratios)), 3),
        "ratio_least": round(min(ratios), 3), "ratio_most": round(max(ratios), 3),
        "files_per_s": round(len(paths) / float(np.median(ours))), "peak_MB": round(max(memory)),
        "twice_the_files_s": round(twice, 2), "twice_the_files_peak_MB": round(memory_twice),
    }  # fmt: skip


def padding(paths: list[str], model: Predictor) -> dict[str, float]:
    """What the network computes beyond the atoms and the edges of the files, as a share of these, for its batches."""
    radius, sums = model.model.config.radius, np.zeros(4)
    chunks = (paths[start : start + CHUNK_FILES] for start in range(0, len(paths), CHUNK_FILES))
    entries = (entry for chunk in chunks for entry in read_chunk(chunk, radius, merge=True))
    for window in windows_of(entries):
        crystals = [entry.crystal for entry in window if entry.crystal]
        neighbors = [entry.neighbors for entry in window if entry.neighbors]
        for _, batch in batches_of(crystals, neighbors, model.batch_atoms, PART_ATOMS) if crystals else ():
            cells = [part.distances.numel() for part in batch.parts]
            edges = [int((part.distances < MISSING_DISTANCE).sum()) for part in batch.parts]
            sums += len(batch.counts), int((batch.counts > 0).sum()), sum(cells), sum(edges)
    slots, atoms, cells, edges = sums.tolist()
    return {"atoms": round(slots / atoms - 1, 3), "edges": round(cells / edges - 1, 3)}


def run_command(paths: list[str]) -> tuple[float, float]:
    """Seconds from first to last byte, and the peak of the memory of all processes together, MB (Linux)."""
    command = [sys.executable, "-m", "crystalpredict", "predict", "-", "-q", "-f", "csv"]
    with tempfile.TemporaryFile("w+") as rows, tempfile.TemporaryFile("w+") as names:
        names.write("\n".join(paths))
        names.seek(0)
        start = time.perf_counter()
        program = subprocess.Popen(command, stdin=names, stdout=rows)
        peak = 0.0
        while program.poll() is None:
            peak = max(peak, sum(map(private_megabytes, [program.pid, *children(program.pid)])))
            time.sleep(0.1)
        elapsed = time.perf_counter() - start
        rows.seek(0)
        lines = sum(1 for _ in rows)
    if program.returncode or lines != len(paths) + 1:
        raise SystemExit(f"the command failed ({program.returncode}), {lines} lines for {len(paths)} files")
    return elapsed, peak


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    try:  # by any of its threads
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in lists for child in text.split()]


def private_megabytes(pid: int) -> float:
    """Memory of a process, its share of what it has in common with others, MB."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return float(text.split("Pss:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def draw(times: dict[str, list[float]], path: Path) -> None:
    """The scaling plot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    for name in ("neighbours", "model"):
        axes.loglog(SCALING, np.array(times[name]) * SCALING / 1e6, "o-", label=name)
    axes.loglog(SCALING, np.array(SCALING) * 1e-4, "--", color="grey", label="100 µs an atom")
    axes.set_xlabel("atoms in the cell, none of them equivalent")
    axes.set_ylabel("seconds of one CPU core, one cell")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of CIFs, for the whole command and the training step")
    parser.add_argument("--figure", type=Path, help="write the scaling plot here")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    paths = sorted(str(path) for path in options.folder.glob("*.cif"))
    if not paths:
        raise SystemExit(f"{options.folder}: no *.cif in it")
    result: dict[str, Any] = {}
    if "command" in options.only:  # before the model takes memory
        result["command"] = whole_command(paths)
    model = load_model(device="cpu")
    work = {
        "stages_us_per_structure": lambda: stages(model), "scaling_us_per_atom": lambda: scaling(model),
        "training_step": lambda: training_step(paths), "padding": lambda: padding(paths, model),
    }  # fmt: skip
    result |= {name: measure() for name, measure in work.items() if name.split("_us")[0] in options.only}
    if options.figure:
        draw(result["scaling_us_per_atom"], options.figure)
    if found := result.get("stages_us_per_structure"):
        print("| atoms | " + " | ".join(f"{name}, µs" for name in ("read", "neighbours", "model", "write")) + " |")
        for atoms, times in found.items():
            print(f"| {atoms} | " + " | ".join(f"{value:.0f}" for value in times.values()) + " |")
    for name in {"command", "training_step", "padding"} & result.keys():
        print("\n".join(f"{name}: {key:24} {value}" for key, value in result[name].items()))
    about = {"scaling_atoms": SCALING, "threads": torch.get_num_threads()}
    print(json.dumps(result | about | provenance()))


if __name__ == "__main__":
    main()
