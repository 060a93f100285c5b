"""A training step on a device: ours, the same mathematics in plain eager torch, and the floor in arithmetic.

PYTHONPATH=src python benchmarks/training.py crystals.npz [--device cuda] [--compile] [--cache FOLDER]

crystals.npz is a prepared file (scripts/prepare.py); torch and NumPy are enough. With --cache also whole steps,
optimiser included; on CUDA, where ours are graphs, also whether these wait for the device. With --framed also those of
the network with directions, atoms that rotations map onto each other merged, with our kernels and in torch alone.
Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from provenance import provenance
from torch import Tensor

from crystalpredict.crystals.crystal import Crystal, IntArray, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent, merge_rotated
from crystalpredict.crystals.neighbors import find_neighbors, find_neighbors_of_many
from crystalpredict.data.dataset import CrystalTable, neighbor_table
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.attention import radial_basis
from crystalpredict.nn.batch import batches_of
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer

CRYSTALS = 128  # of a step, the paper's batch
STEPS = 8
FLOP_PER_ATOM = 3 * 1.8e6  # forward and backward of four blocks: projections, feed-forward, radial contraction


class PlainCrystalformer(torch.nn.Module):
    """The network of docs/method.md, [M5], edge by edge, without our layout: every atom, one flat list of edges."""

    def __init__(self, model: Crystalformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, flat: dict[str, Tensor]) -> Tensor:
        """Standardised outputs (B, outputs)."""
        model, config = self.model, self.model.config
        state = model.embedding(flat["elements"])
        basis = radial_basis(flat["distances"], config)
        for block in model.blocks:
            state = state + self.attention(block.attention, state, flat, basis)
            state = state + block.feedforward(state)
        sums = state.new_zeros(len(flat["n_atoms"]), config.width).index_add(0, flat["crystals"], state)
        return model.readout(sums / flat["n_atoms"][:, None])

    def attention(self, layer: torch.nn.Module, state: Tensor, flat: dict[str, Tensor], basis: Tensor) -> Tensor:
        """The attention term (N, D) over the edges (E,); a softmax by maximum, exponential and sum of each centre."""
        config, centre, neighbor = self.model.config, flat["centres"], flat["neighbors"]
        projected = layer.query_key_value(state).view(len(state), 3, config.heads, -1)
        query, key, value = projected.unbind(1)  # (N, H, d)
        logits = (query[centre] * key[neighbor]).sum(-1) * query.shape[-1] ** -0.5
        decay = layer._rho(query) / (2 * config.r0**2)
        logits = logits - decay[centre] * flat["distances"][:, None] ** 2  # (E, H)
        top = logits.new_full((len(state), config.heads), -torch.inf)
        top = top.scatter_reduce(0, centre[:, None].expand_as(logits), logits.detach(), "amax")
        weights = torch.exp(logits - top[centre])
        total = weights.new_zeros(len(state), config.heads).index_add(0, centre, weights)
        weights = weights / total[centre]
        heads = torch.zeros_like(value).index_add(0, centre, weights[..., None] * value[neighbor])
        moments = state.new_zeros(len(state), config.heads, basis.shape[1])
        moments = moments.index_add(0, centre, weights[..., None] * basis[:, None])  # (N, H, K')
        radial = layer.radial_weights[..., : basis.shape[1]]
        return layer.output((heads + torch.einsum("nhk,hdk->nhd", moments, radial)).flatten(1))


def flat_batch(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], device: str) -> dict[str, Tensor]:
    """All atoms and edges of the crystals, one after the other."""
    starts = np.cumsum([0, *(crystal.n_atoms for crystal in crystals)])
    rows = [np.repeat(np.arange(edges.size), edges.edge_counts) for edges in neighbors]
    arrays = {
        "elements": np.concatenate([crystal.numbers[:, 0] - 1 for crystal in crystals]),
        "crystals": np.repeat(np.arange(len(crystals)), np.diff(starts)),
        "n_atoms": np.diff(starts).astype(np.float32),
        "centres": np.concatenate([row + start for row, start in zip(rows, starts, strict=False)]),
        "neighbors": np.concatenate([edges.indices + start for edges, start in zip(neighbors, starts, strict=False)]),
        "distances": np.concatenate([edges.distances for edges in neighbors]).astype(np.float32),
    }
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def milliseconds(step: Callable[[int], object], numbers: Sequence[int], device: str) -> float:
    """Median time of the steps of these numbers, without the first STEPS, which warm up."""
    times = []
    for number in numbers:
        start = time.perf_counter()
        step(number)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[STEPS:])) * 1e3


def whole_steps(table: CrystalTable, cache: Path, device: str, framed: bool) -> dict[str, float | bool]:
    """Milliseconds of a whole optimiser step, ours and the plain network's with torch's AdamW and running mean.

    Ours begins with rows of the table, in the host's memory; the plain one's batches are on the device already. On
    CUDA also whether ours runs without the host waiting for the device. `framed`: ours with directions, too.
    """
    training, steps, result = our_steps(table, cache, device, ModelConfig())
    network = PlainCrystalformer(Crystalformer(training.model.config))
    network.model.load_state_dict(training.model.state_dict())
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn())
    flat = []
    for rows in steps[:STEPS]:
        crystals = [table.crystal(row) for row in rows]
        edges = [find_neighbors(crystal.lattice, crystal.positions, 6.0) for crystal in crystals]
        labels, _ = training.data.labels(rows)
        flat.append((flat_batch(crystals, edges, device), torch.from_numpy(labels).to(device)))

    def plain(number: int) -> None:
        batch, labels = flat[number % STEPS]
        loss = training._loss(network(batch), labels) / labels.numel()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(network)

    result["plain_whole_step_ms"] = milliseconds(plain, range(len(steps)), device)
    result["whole_step_times_faster"] = round(result["plain_whole_step_ms"] / result["whole_step_ms"], 2)
    if framed:
        _, _, with_directions = our_steps(table, cache, device, ModelConfig(attention="framed"))
        result |= {f"framed_{name}": value for name, value in with_directions.items()}
    return result


def our_steps(
    table: CrystalTable, cache: Path, device: str, model: ModelConfig
) -> tuple[Trainer, list[IntArray], dict[str, float | bool]]:
    """A training of some steps, their rows, and what was measured of them."""
    config = TrainingConfig(device=device, epochs=1, batch_atoms=28 * CRYSTALS)
    neighbors = neighbor_table(table, model.radius, cache, 8, model.merging)
    with tempfile.TemporaryDirectory() as folder:
        training = Trainer(Path(folder), table, neighbors, model, config)
    steps = [rows for _, rows in zip(range(3 * STEPS), training.data.steps(training.data.order(0)), strict=False)]

    def step(number: int) -> None:
        training._update(steps[number], 1e-4)
        training.step += 1

    result: dict[str, float | bool] = {"whole_step_ms": milliseconds(step, range(len(steps)), device)}
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        result["no_waiting"] = True
    return training, steps, result


def framed_ms(several: Sequence[Sequence[Crystal]], device: str) -> float:
    """Milliseconds of forward and backward of the network with directions, for each of several lists of crystals."""
    model = Crystalformer(ModelConfig(attention="framed", outputs=5))
    steps = []
    for crystals in several:
        cells = [(crystal.lattice, crystal.positions) for crystal in crystals]
        merged = merge_rotated(crystals, find_neighbors_of_many(cells, model.config.radius, vectors=True))
        steps.append([batch for _, batch in batches_of(crystals, merged, 640 if device == "cpu" else 10**6)])
    model.fit_width_norm(steps[0][0])
    model.to(device)

    def step(number: int) -> None:
        for batch in steps[number]:
            model(batch.to(device)).sum().backward()

    return milliseconds(step, [*range(STEPS)] * 2, device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile of ours")
    parser.add_argument("--framed", action="store_true", help="also measure the network with directions")
    parser.add_argument("--cache", type=Path, help="folder of neighbour lists; given, whole steps too")
    options = parser.parse_args()
    device = options.device
    table = CrystalTable.load(options.table)
    torch.manual_seed(0)
    model = Crystalformer(ModelConfig(outputs=5))
    random = np.random.default_rng(0)
    ours, plain, several, atoms = [], [], [], 0
    for _ in range(STEPS):
        crystals = [table.crystal(row) for row in random.choice(len(table), CRYSTALS, replace=False)]
        full = [find_neighbors(crystal.lattice, crystal.positions, model.config.radius) for crystal in crystals]
        merged = merge_equivalent(crystals, full, model.config.radius)
        ((order, batch),) = batches_of(crystals, merged, 10**6, 192 if device == "cpu" else 10**6)
        ours.append(batch)
        plain.append(flat_batch([crystals[row] for row in order], [full[row] for row in order], device))
        several.append(crystals)
        atoms += sum(crystal.n_atoms for crystal in crystals)
    model.fit_width_norm(ours[0])
    model.to(device)
    reference = PlainCrystalformer(model)
    ours = [batch.to(device) for batch in ours]
    with torch.no_grad():
        difference = float((model(ours[0]) - reference(plain[0])).abs().max())
    rounds = [*range(STEPS)] * 3
    result = {
        "crystals_a_step": CRYSTALS, "atoms_a_step": atoms // STEPS, "largest_difference": float(f"{difference:.2g}"),
        "ours_ms": milliseconds(lambda i: model(ours[i]).sum().backward(), rounds, device),
        "plain_ms": milliseconds(lambda i: reference(plain[i]).sum().backward(), rounds, device),
    }  # fmt: skip
    result["times_faster"] = round(result["plain_ms"] / result["ours_ms"], 2)
    result["floor_TFLOP"] = round(FLOP_PER_ATOM * atoms / STEPS / 1e12, 5)
    result["achieved_TFLOP_per_s_of_all_atoms"] = round(result["floor_TFLOP"] / result["ours_ms"] * 1e3, 3)
    if options.compile:
        compiled = torch.compile(model, dynamic=True)
        start = time.perf_counter()
        compiled(ours[0]).sum().backward()
        result["compile_s"] = time.perf_counter() - start
        result["compiled_ms"] = milliseconds(lambda i: compiled(ours[i]).sum().backward(), rounds, device)
    if options.framed:
        result["framed_ms"] = framed_ms(several, device)
        with mock.patch("crystalpredict.nn.frames.kernels_on", return_value=None):
            result["framed_in_torch_alone_ms"] = framed_ms(several, device)
    if options.cache:
        result |= whole_steps(table, options.cache, device, options.framed)
    for name, value in result.items():
        print(f"{name:36} {value:.6g}")
    print(json.dumps({**result, "device": device, "threads": torch.get_num_threads(), **provenance()}))


if __name__ == "__main__":
    main()
