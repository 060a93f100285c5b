"""Structures per second of crystalpredict and its peers: neighbours or graph and model, parsing not included.

python benchmarks/peers.py FOLDER_OF_CIFS|TABLE.jsonl.gz --peer matgl=PYTHON --peer chgnet=PYTHON [--count 200]

PYTHON is the interpreter of an environment that has the peer (matgl, chgnet, sevenn or alignn), made with

    python -m venv peer && peer/bin/pip install -c constraints.txt torch pymatgen PEER

Each runs in its own environment, on the same structures, read by pymatgen beforehand, with the same number of threads;
the best of some rounds through all of them counts, for a shared machine is not always equally fast. chgnet and sevenn
come with their weights. matgl and alignn download theirs, so the networks of their default settings are measured with
random weights; the time does not depend on the values.

Of a table of JSON lines with `lattice` [a, b, c, alpha, beta, gamma], `species`, `frac_coords` and `formation_energy`
(Materials Project, convention of 2018, eV/atom) errors are measured, too: those of crystalpredict's formation energies,
and of the peers' energies against those that the labels mean, with the corrections of 2020 where a peer learnt them.
Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

# eV/atom: energies as learnt by a peer, or formation energies; None: of random weights
Predict = Callable[[Sequence[Any]], Sequence[float] | None]
BATCH = 64


def crystalpredict_models() -> Iterator[tuple[str, str, Predict]]:
    """Name, weights and function of our model: with all that a prediction has, and neighbours and network alone."""
    import numpy as np

    from crystalpredict import load_model
    from crystalpredict.crystals.crystal import Crystal
    from crystalpredict.crystals.equivalence import merge_equivalent
    from crystalpredict.crystals.neighbors import find_neighbors_of_many
    from crystalpredict.io.reader import CHUNK_FILES

    model = load_model(device="cpu")
    network, radius = model.model, model.model.config.radius

    def rows(structures: Sequence[Any]) -> list[float]:
        return [row["formation_energy_eV_per_atom"] for row in model.predict(structures)]

    def outputs(structures: Sequence[Any]) -> None:
        crystals, neighbors = [], []
        for start in range(0, len(structures), CHUNK_FILES):
            some = structures[start : start + CHUNK_FILES]
            own = [
                Crystal.ordered(each.lattice.matrix, each.cart_coords, np.array(each.atomic_numbers)) for each in some
            ]
            found = find_neighbors_of_many([(crystal.lattice, crystal.positions) for crystal in own], radius)
            neighbors += merge_equivalent(own, found, radius)
            crystals += own
        model._in_batches(crystals, neighbors, lambda rows, batch: network(batch))

    yield "Crystalformer, five properties", "bundled", rows
    yield "the same, neighbours and network alone", "bundled", outputs


def matgl_models() -> Iterator[tuple[str, str, Predict]]:
    """MEGNet and M3GNet, one structure at a time as their interface for users has it, and in batches of BATCH."""
    import torch
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.models import M3GNet, MEGNet
    from torch_geometric.data import Batch

    def one_by_one(model: Any) -> Predict:
        def predict(structures: Sequence[Any]) -> None:
            with torch.no_grad():
                for structure in structures:
                    model.predict_structure(structure)

        return predict

    def batched(model: Any) -> Predict:
        converter = Structure2Graph(element_types=model.element_types, cutoff=model.cutoff)

        def predict(structures: Sequence[Any]) -> None:
            for start in range(0, len(structures), BATCH):
                graphs, states = [], []
                for structure in structures[start : start + BATCH]:
                    graph, lattice, state = converter.get_graph(structure)
                    graph.pbc_offshift = graph.pbc_offset @ lattice[0]
                    graph.pos = graph.frac_coords @ lattice[0]
                    graphs.append(graph)
                    states.append(torch.as_tensor(state))
                with torch.no_grad():
                    model(g=Batch.from_data_list(graphs), state_attr=torch.stack(states))

        return predict

    for name, model in (
        ("MEGNet", MEGNet().eval()),
        ("M3GNet", M3GNet(is_intensive=True, readout_type="set2set", threebody_cutoff=5.0).eval()),
    ):
        yield f"{name}, one by one", "random", one_by_one(model)
        yield f"{name}, batches of {BATCH}", "random", batched(model)


def chgnet_models() -> Iterator[tuple[str, str, Predict]]:
    """CHGNet, energies only, batched as its interface offers."""
    from chgnet.model import CHGNet

    model = CHGNet.load(use_device="cpu", verbose=False)

    def predict(structures: Sequence[Any]) -> list[float]:
        return [float(found["e"]) for found in model.predict_structure(structures, task="e", batch_size=BATCH)]

    yield "CHGNet, energy", "pretrained, energies corrected as in 2020", predict


def sevenn_models() -> Iterator[tuple[str, str, Predict]]:
    """SevenNet-0, which comes with the package, by its calculator, one structure at a time: forces, too."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator("7net-0", device="cpu")

    def predict(structures: Sequence[Any]) -> list[float]:
        energies = []
        for structure in structures:
            atoms = AseAtomsAdaptor.get_atoms(structure)
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy() / len(atoms))
        return energies

    yield "SevenNet-0, energy and forces", "pretrained", predict


def alignn_models() -> Iterator[tuple[str, str, Predict]]:
    """ALIGNN without DGL, graph and line graph by its own code, one structure at a time."""
    import torch
    from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
    from alignn.torch_graph_builder import build_pure_torch_graph
    from jarvis.core.atoms import pmg_to_atoms

    config = ALIGNNAtomWisePureConfig(  # of the published models, as their graphs: 12 neighbours within 8 Å
        name="alignn_atomwise_pure", calculate_gradient=False, atom_input_features=92, alignn_layers=4, gcn_layers=4,
        hidden_features=256,
    )  # fmt: skip
    model = ALIGNNAtomWisePure(config).eval()

    def predict(structures: Sequence[Any]) -> None:
        with torch.no_grad():
            for structure in structures:
                atoms = pmg_to_atoms(structure)
                graph, lines = build_pure_torch_graph(atoms, two_body_cutoff=8.0, max_neighbors=12)
                model([graph, lines, torch.tensor(atoms.lattice_mat)])

    yield "ALIGNN, 4 + 4 layers, one by one", "random", predict


MODELS = {
    "crystalpredict": crystalpredict_models,
    "matgl": matgl_models,
    "chgnet": chgnet_models,
    "sevenn": sevenn_models,
    "alignn": alignn_models,
}


def structure_of(line: str) -> Any:
    """The structure of a row of a table, or of a file."""
    from pymatgen.core import Lattice, Structure

    if not line.startswith("{"):
        return Structure.from_file(line)
    row = json.loads(line)
    return Structure(Lattice.from_parameters(*row["lattice"]), row["species"], row["frac_coords"])


def version_of(tool: str) -> str:
    """The version that is imported; that of our own checkout may be newer than the installed metadata."""
    if tool != "crystalpredict":
        return version(tool)
    import crystalpredict

    return crystalpredict.__version__


def work(tool: str, only: str, threads: int, lines: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each model of a tool whose name has `only` in it, in this interpreter."""
    import torch

    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    structures = [structure_of(line) for line in lines]
    rows = []
    for model, weights, predict in MODELS[tool]():
        if only not in model:
            continue
        row: dict[str, Any] = {"tool": tool, "version": version_of(tool), "model": model, "weights": weights}
        try:
            predict(structures[:5])
            times, spent = [], []
            for _ in range(2):
                start, before = time.perf_counter(), time.process_time()
                energies = predict(structures)
                times.append(time.perf_counter() - start)
                spent.append(time.process_time() - before)
            row["ms_per_structure"] = round(min(times) / len(structures) * 1e3, 3)
            row["cpu_ms_per_structure"] = round(min(spent) / len(structures) * 1e3, 3)
            rows.append({**row, "energies": energies})
        except Exception as error:  # a peer's own trouble is a row
            rows.append({**row, "failed": f"{type(error).__name__}: {error}".split("\n")[0][:200]})
    return rows


def run(tool: str, python: str, only: str, threads: int, lines: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a tool, by its own interpreter."""
    command = [python, str(Path(__file__).resolve()), "--worker", tool, only, str(threads)]
    try:
        done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    except OSError as error:
        return [{"tool": tool, "failed": f"{python}: {error.strerror}"}]
    if done.returncode:
        return [{"tool": tool, "failed": done.stderr.strip().split("\n")[-1][:200]}]
    rows: list[dict[str, Any]] = json.loads(done.stdout.strip().split("\n")[-1])
    return rows


def add_errors(rows: Sequence[dict[str, Any]], lines: Sequence[str]) -> None:
    """Replace the energies of each row by their errors against the labels, eV/atom, if there are labels."""
    import numpy as np

    from crystalpredict.crystals.crystal import Crystal
    from crystalpredict.prediction.conventions import Convention, shifts_of, total_energies

    labels, crystals = [], []
    for line in lines:
        if line.startswith("{"):
            structure = structure_of(line)
            sites = structure.lattice.matrix, structure.cart_coords, np.array(structure.atomic_numbers)
            crystals.append(Crystal.ordered(*sites))
            labels.append(json.loads(line)["formation_energy"])
    formation = np.array(labels)
    total = total_energies(crystals, formation) if crystals else formation
    for row in rows:
        if (energies := row.pop("energies", None)) is None or not crystals:
            continue
        right = formation if row["tool"] == "crystalpredict" else total
        if "corrected" in row["weights"]:
            right = total + shifts_of(crystals, Convention.mp2020) - shifts_of(crystals, Convention.uncorrected)
        errors = np.abs(np.array(energies) - right)
        row["mae_eV_per_atom"] = round(float(np.nanmean(errors)), 4)
        row["median_error_eV_per_atom"] = round(float(np.nanmedian(errors)), 4)


def lines_of(place: Path, count: int) -> list[str]:
    """Paths of the CIFs of a folder, or rows of a table, so many, evenly chosen."""
    if place.is_dir():
        lines = sorted(str(path.resolve()) for path in place.glob("*.cif"))
    else:
        with gzip.open(place, "rt", encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    return lines[:: max(1, len(lines) // count)][:count]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(*sys.argv[2:4], int(sys.argv[4]), sys.stdin.read().split("\n"))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="FOLDER|TABLE")
    parser.add_argument("--peer", action="append", default=[], metavar="TOOL=PYTHON")
    parser.add_argument("--count", type=int, default=200, help="of structures, evenly chosen")
    parser.add_argument("--only", default="", help="models of peers with this in their names")
    parser.add_argument("--rounds", type=int, default=3, help="through all tools in turn")
    parser.add_argument(
        "--threads", type=int, default=2, help="of torch; on a busy machine 1, since others wait busily"
    )
    options = parser.parse_args()
    lines = lines_of(options.place, options.count)
    pythons = {"crystalpredict": sys.executable} | dict(peer.split("=", 1) for peer in options.peer)
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(options.rounds):
        for tool, python in pythons.items():
            for row in run(tool, python, "" if tool == "crystalpredict" else options.only, options.threads, lines):
                name = (tool, row.get("model", ""))
                best[name] = min(best.get(name, row), row, key=lambda row: row.get("ms_per_structure", math.inf))
    rows = list(best.values())
    add_errors(rows, lines)
    ours = rows[0].get("ms_per_structure")
    heads = ("tool", "model", "weights", "ms", "ms of CPU", "per second", "slower by", "MAE, eV/atom", "median error")
    print("", *heads, "", sep=" | ")
    print("|" + "---|" * len(heads))
    for row in rows:
        cells = [f"{row['tool']} {row.get('version', '')}", row.get("model", ""), row.get("weights", "")]
        if (spent := row.get("ms_per_structure")) and ours:
            row["times_slower"] = round(spent / ours, 1)
            cells += [spent, row["cpu_ms_per_structure"], f"{1e3 / spent:.0f}", row["times_slower"]]
            cells += [row.get("mae_eV_per_atom", ""), row.get("median_error_eV_per_atom", "")]
        else:
            cells.append(row.get("failed"))
        print("", *cells, "", sep=" | ")
    from provenance import provenance

    about = {"structures": len(lines), "rounds": options.rounds, "threads": options.threads}
    print(json.dumps(about | {"rows": rows} | provenance()))


if __name__ == "__main__":
    main()
