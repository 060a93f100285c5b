"""The short set, in some five minutes: what is felt, as ratios within one run, and what changed since the last record.

python benchmarks/short.py [--files 3000] [--record]

Structures are made here, so that every machine measures the same. Each ratio compares with something that this project
does not change: the import of torch, pymatgen's parse, a product of matrices. `--record` adds the run to
benchmarks/records.jsonl; a run is compared with the last record of the same machine. Prints a table, then one line of
JSON.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import first_answer
import torch
from provenance import provenance
from speed import PYMATGEN, cif_of, run_command, seconds, silicate

from crystalpredict.io.reader import CHUNK_FILES, read_chunk
from crystalpredict.nn.batch import CrystalBatch, batches_of
from crystalpredict.prediction.predictor import PART_ATOMS, Predictor, load_model
from crystalpredict.prediction.writers import CsvWriter

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records.jsonl"
ROUNDS = 3
PARSED_BY_PYMATGEN = 600  # files; it takes the same time for each
SIZES = (1, 6, 7, 8, 18, 20)  # atoms of the cells, on a grid that leaves them far enough from each other
LARGE_CELL = 2000  # atoms
MATRIX = 1024  # rows and columns of the product that shows what the processor can do
NOTABLE = 0.1  # change of a ratio that a shared machine does not make by itself


def first_answers() -> dict[str, float]:
    """Processor time of the first answer, and of the help, over that of the import of torch."""
    found = first_answer.measure(ROOT / "examples" / "NaCl.cif", 5)
    middle = {name: statistics.median(times["cpu"]) for name, times in found.items()}
    return {f"{name} / import torch": middle[name] / middle["import torch"] for name in ("predict", "help")}


def of_files(folder: Path, count: int) -> dict[str, float]:
    """The whole command over pymatgen's parse of the same files, and the memory of all its processes, GB."""
    rng = random.Random(0)
    for number in range(count):
        (folder / f"{number}.cif").write_text(cif_of(silicate(rng.choice(SIZES), number)))
    paths = sorted(map(str, folder.iterdir()))
    ratios, memory = [], []
    for _ in range(ROUNDS):
        elapsed, peak = run_command(paths)
        parse = timed(lambda: parse_by_pymatgen(paths[:PARSED_BY_PYMATGEN])) - timed(lambda: parse_by_pymatgen([]))
        ratios.append(elapsed / (parse * count / min(count, PARSED_BY_PYMATGEN)))
        memory.append(peak)
    return {"command / pymatgen's parse": statistics.median(ratios), "memory of the command, GB": max(memory) / 1000}


def parse_by_pymatgen(paths: list[str]) -> None:
    """Parse files in another process."""
    program = PYMATGEN.replace("split('\\n')", "split()")
    subprocess.run([sys.executable, "-c", program], input="\n".join(paths), text=True, check=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stages(folder: Path, model: Predictor) -> dict[str, float]:
    """Parts of a prediction over the network's time for the same crystals, and the network's share of the peak."""
    paths = sorted(map(str, folder.iterdir()))[:1000]
    chunks = [paths[start : start + CHUNK_FILES] for start in range(0, len(paths), CHUNK_FILES)]
    entries = [entry for chunk in chunks for entry in read_chunk(chunk, model.config.radius, merge=True)]
    crystals = [entry.crystal for entry in entries if entry.crystal]
    neighbors = [entry.neighbors for entry in entries if entry.neighbors]
    batches = [batch for _, batch in batches_of(crystals, neighbors, model.batch_atoms, PART_ATOMS)]
    rows = list(model.predictions(entries))
    writer = CsvWriter(io.StringIO(), model.properties, intervals=True)
    torch.set_num_threads(1)

    def compute() -> None:
        with torch.inference_mode():
            for batch in batches:
                model.model(batch)

    network = seconds(compute)
    read = seconds(lambda: [read_chunk(chunk, model.config.radius, merge=True) for chunk in chunks])
    write = seconds(lambda: [writer.write(row) for row in rows])
    whole = seconds(lambda: list(model.predictions(entries)))
    entry = large_cell(folder, model)
    large = seconds(lambda: list(model.predictions([entry])))
    atoms = sum(int((batch.counts > 0).sum()) for batch in batches)
    matrix = torch.rand(MATRIX, MATRIX)
    peak = 2 * MATRIX**3 / seconds(lambda: matrix @ matrix)
    products = sum(dense_products(batch, model) for batch in batches)
    return {
        "reading / network": read / network,
        "writing / network": write / network,
        "predictions without reading / network": whole / network,
        f"an atom in a cell of {LARGE_CELL} / in small cells": large / LARGE_CELL / (network / atoms),
        "network's share of the peak in dense products": products / network / peak,
    }


def large_cell(folder: Path, model: Predictor) -> Any:
    """The entry of one disordered cell."""
    path = folder.parent / "large.cif"
    path.write_text(cif_of(silicate(LARGE_CELL, 0)))
    (entry,) = read_chunk([str(path)], model.config.radius, merge=True)
    return entry


def dense_products(batch: CrystalBatch, model: Predictor) -> float:
    """Floating-point operations of the products of matrices in the blocks, padding included."""
    config, slots = model.config, len(batch.counts)
    per_slot = 2 * config.width * (4 * config.width + 2 * config.feedforward)  # query, key, value, output, feed-forward
    total = float(slots * per_slot)
    for part in batch.parts:
        bins, own, width = part.neighbors.shape
        total += bins * own * (4 * own * config.width + 2 * width * config.heads * config.radial_basis)
        total += bins * own * 2 * config.width * config.radial_basis
    return total * config.blocks


def last_record(machine: str) -> dict[str, Any] | None:
    """The last record of a machine."""
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    records = [record for record in map(json.loads, lines) if record["machine"] == machine]
    return records[-1] if records else None


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="so many small CIFs")
    parser.add_argument("--record", action="store_true", help="add the run to benchmarks/records.jsonl")
    options = parser.parse_args()
    start = time.perf_counter()
    ratios = first_answers()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "cifs")
        folder.mkdir()
        ratios |= of_files(folder, options.files)
        ratios |= stages(folder, load_model(device="cpu"))
    facts = provenance()
    before = last_record(facts["machine"])
    table = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    table.writerow(("ratio", "now", "recorded", "change"))
    for name, value in ratios.items():
        old = before["ratios"].get(name) if before else None
        change = f"{value / old - 1:+.0%}{' !' * (abs(value / old - 1) > NOTABLE)}" if old else "new"
        table.writerow((f"{name:50}", f"{value:.3f}", f"{old:.3f}" if old else "", change))
    if before:
        print(f"recorded at {before['commit']}; ! marks more than {NOTABLE:.0%}")
    record = {"ratios": {name: round(value, 4) for name, value in ratios.items()}, "files": options.files, **facts}
    if options.record:
        with RECORDS.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record | {"seconds": round(time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
