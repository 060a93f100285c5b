"""Structures per second of crystalpredict and its peers: neighbours or graph and model, parsing not included.

python benchmarks/peers.py FOLDER_OF_CIFS --peer matgl=PYTHON --peer chgnet=PYTHON --peer alignn=PYTHON [--count 200]

PYTHON is the interpreter of an environment that has the peer, made with

    python -m venv peer && peer/bin/pip install -c constraints.txt torch pymatgen PEER  # matgl, chgnet, alignn

Each runs in its own environment, on the same structures, read by pymatgen beforehand, with the same number of threads;
the best of some rounds through all of them counts, for a shared machine is not always equally fast. chgnet comes with
its weights. matgl and alignn download theirs, so the networks of their default settings are measured with random
weights; the time does not depend on the values. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
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

Predict = Callable[[Sequence[Any]], None]
THREADS = 2
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

    yield "Crystalformer, five properties", "bundled", model.predict
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
    yield (
        "CHGNet, energy",
        "pretrained",
        lambda structures: model.predict_structure(structures, task="e", batch_size=64),
    )


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
    "alignn": alignn_models,
}


def work(tool: str, only: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each model of a tool whose name has `only` in it, in this interpreter."""
    import torch
    from pymatgen.core import Structure

    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    structures = [Structure.from_file(path) for path in paths]
    rows = []
    for model, weights, predict in MODELS[tool]():
        if only not in model:
            continue
        row: dict[str, Any] = {"tool": tool, "version": version(tool), "model": model, "weights": weights}
        try:
            predict(structures[:5])
            times = []
            for _ in range(2):
                start = time.perf_counter()
                predict(structures)
                times.append(time.perf_counter() - start)
            rows.append({**row, "ms_per_structure": round(min(times) / len(structures) * 1e3, 3)})
        except Exception as error:  # a peer's own trouble is a row
            rows.append({**row, "failed": f"{type(error).__name__}: {error}".split("\n")[0][:200]})
    return rows


def run(tool: str, python: str, only: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a tool, by its own interpreter."""
    command = [python, str(Path(__file__).resolve()), "--worker", tool, only]
    try:
        done = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True)
    except OSError as error:
        return [{"tool": tool, "failed": f"{python}: {error.strerror}"}]
    if done.returncode:
        return [{"tool": tool, "failed": done.stderr.strip().split("\n")[-1][:200]}]
    rows: list[dict[str, Any]] = json.loads(done.stdout.strip().split("\n")[-1])
    return rows


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(*sys.argv[2:4], sys.stdin.read().split("\n"))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", action="append", default=[], metavar="TOOL=PYTHON")
    parser.add_argument("--count", type=int, default=200, help="of structures, evenly chosen from the folder")
    parser.add_argument("--only", default="", help="models of peers with this in their names")
    parser.add_argument("--rounds", type=int, default=3, help="through all tools in turn")
    options = parser.parse_args()
    files = sorted(str(path.resolve()) for path in options.folder.glob("*.cif"))
    paths = files[:: max(1, len(files) // options.count)][: options.count]
    pythons = {"crystalpredict": sys.executable} | dict(peer.split("=", 1) for peer in options.peer)
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(options.rounds):
        for tool, python in pythons.items():
            for row in run(tool, python, "" if tool == "crystalpredict" else options.only, paths):
                name = (tool, row.get("model", ""))
                best[name] = min(best.get(name, row), row, key=lambda row: row.get("ms_per_structure", math.inf))
    rows = list(best.values())
    ours = rows[0].get("ms_per_structure")
    print("| tool | model | weights | ms a structure | structures a second | crystalpredict is faster |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        name = f"| {row['tool']} {row.get('version', '')} | {row.get('model', '')} | {row.get('weights', '')} |"
        spent = row.get("ms_per_structure")
        if spent and ours:
            row["times_slower"] = round(spent / ours, 1)
            print(f"{name} {spent} | {1e3 / spent:.0f} | {row['times_slower']} times |")
        else:
            print(f"{name} {row.get('failed')} | | |")
    from provenance import provenance

    print(
        json.dumps(
            {"structures": len(paths), "rounds": options.rounds, "threads": THREADS, "rows": rows, **provenance()}
        )
    )


if __name__ == "__main__":
    main()
