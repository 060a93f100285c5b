"""Checkpoint folders: config.json, model.safetensors, golden.json and a card; no pickle.

config.json      format_version, model (ModelConfig), properties with unit, transform, mean and deviation,
                 weights_sha256, calibration_sha256 if there is that file, crystalpredict (the version that wrote it),
                 training (free text and figures)
calibration.safetensors  how large the errors are and what the training data were like (uncertainty.calibration)
domain.safetensors       what the training data of a fine-tuned model were like; training.domain_sha256 names it
golden.json      crystals and the network's outputs for them, which a loaded model must repeat
README.md        the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from crystalpredict._files import write_atomically
from crystalpredict._schema import checkpoint_file, damaged, read_json_file
from crystalpredict._version import __version__
from crystalpredict.checkpoints.files import (
    GoldenCrystal,
    Identity,
    TrainedProperty,
    format_version,
    json_bytes,
    read_config,
    read_golden,
)
from crystalpredict.crystals.cell import cell_error
from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import CheckpointError
from crystalpredict.nn import ModelConfig, Network, network_of
from crystalpredict.nn.batch import collate
from crystalpredict.properties import Property
from crystalpredict.uncertainty.applicability import Domain
from crystalpredict.uncertainty.calibration import (
    CALIBRATION_FILE,
    DOMAIN_FILE,
    Calibration,
    domain_from_bytes,
    domain_to_bytes,
)

WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_NUMBER = 8  # bytes, of a weight
LONGEST_HEADER = 2**20  # bytes, of the names and shapes in a file of tensors
LARGEST_CALIBRATION = 2**26  # bytes
MOST_GOLDEN = 2**28  # numbers for the edges of golden.json, some; 1 GiB
GOLDEN_TOLERANCE = 1e-4  # of standardised outputs in float32, across CPUs and CUDA


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what its outputs mean; mean and deviation (outputs,) of the trained scale."""

    name: str
    model: Network
    properties: tuple[Property, ...]
    mean: FloatArray
    deviation: FloatArray
    training: dict[str, Any]
    calibration: Calibration | None = None
    training_domain: Domain | None = None
    """Of a fine-tuned model, whose calibration has none."""

    @property
    def domain(self) -> Domain | None:
        """Statistics of the training crystals, from which warnings follow; None if there are none."""
        return (self.calibration.domain if self.calibration else None) or self.training_domain

    @property
    def learnt(self) -> set[Identity]:
        """Identities of its properties, and of those that models before it learnt: it may know crystals of each."""
        return {prop.identity for prop in self.properties} | set(map(tuple, self.training.get("learnt", ())))

    @property
    def floors(self) -> FloatArray:
        """Least standardised values (outputs,) that are physically possible, minus infinity where there is no least."""
        least = np.array([prop.raised(np.array(-np.inf)) for prop in self.properties], dtype=float)
        return (least - self.mean) / self.deviation

    def centres(self, outputs: FloatArray) -> FloatArray:
        """Standardised outputs (B, outputs) to the trained scale, raised to what is physically possible."""
        values = outputs * self.deviation + self.mean
        return np.stack([prop.raised(values[:, i]) for i, prop in enumerate(self.properties)], axis=1)

    def decode(self, outputs: FloatArray) -> dict[str, FloatArray]:
        """Standardised outputs (B, outputs) to values in each property's unit, by property name."""
        values = outputs * self.deviation + self.mean
        return {prop.name: prop.decode(values[:, i]) for i, prop in enumerate(self.properties)}


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, in evaluation mode on the CPU; CheckpointError if anything about it is off."""
    config = read_config(folder)
    properties, mean, deviation = properties_of(config.properties)
    model = _read_network(folder / "model.safetensors", config.weights_sha256, config.model)
    calibration = _read_calibration(folder / CALIBRATION_FILE, config.calibration_sha256, config.model)
    domain = _read_domain(folder / DOMAIN_FILE, config.training.get("domain_sha256"), config.model)
    return Checkpoint(folder.name, model, properties, mean, deviation, config.training, calibration, domain)


def properties_of(entries: Sequence[TrainedProperty]) -> tuple[tuple[Property, ...], FloatArray, FloatArray]:
    """Properties of a checkpoint or a run, mean and deviation (outputs,) of their trained scale."""
    scales = np.array([(entry.mean, entry.deviation) for entry in entries])
    return tuple(entry.plain for entry in entries), *scales.T


def save_checkpoint(checkpoint: Checkpoint, folder: Path, golden: Sequence[Crystal], card: str) -> None:
    """Write the checkpoint as a folder, with outputs for the crystals `golden` and the text of its card."""
    weights = safetensors.torch.save({k: v.contiguous().cpu() for k, v in checkpoint.model.state_dict().items()})
    entries = [
        asdict(prop) | {"mean": float(mean), "deviation": float(deviation)}
        for prop, mean, deviation in zip(checkpoint.properties, checkpoint.mean, checkpoint.deviation, strict=True)
    ]
    config: dict[str, Any] = {
        "format_version": format_version(checkpoint.model.config),
        "crystalpredict": __version__,
        "model": checkpoint.model.config.to_dict(),
        "properties": entries,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": {name: fact for name, fact in checkpoint.training.items() if name != "domain_sha256"},
    }
    files = {"model.safetensors": weights}
    if checkpoint.calibration:
        files[CALIBRATION_FILE] = checkpoint.calibration.to_bytes()
        config["calibration_sha256"] = hashlib.sha256(files[CALIBRATION_FILE]).hexdigest()
    if checkpoint.training_domain:
        files[DOMAIN_FILE] = domain_to_bytes(checkpoint.training_domain)
        config["training"]["domain_sha256"] = hashlib.sha256(files[DOMAIN_FILE]).hexdigest()
    outputs = network_outputs(checkpoint.model, golden)
    examples = [
        {
            "lattice": crystal.lattice.tolist(),
            "positions": crystal.positions.tolist(),
            "numbers": crystal.numbers[:, 0].tolist(),
            "outputs": [round(float(value), 6) for value in row],
        }
        for crystal, row in zip(golden, outputs, strict=True)
    ]
    files["golden.json"] = json.dumps({"crystals": examples}, indent=1).encode()
    files["README.md"] = card.encode()
    files["config.json"] = json_bytes(config)  # last: it makes the folder a checkpoint
    for name, content in files.items():
        with write_atomically(folder / name) as file:
            file.write(content)
    for name in {CALIBRATION_FILE, DOMAIN_FILE} - files.keys():  # those of other weights
        (folder / name).unlink(missing_ok=True)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Put a calibration into a checkpoint folder, in place of the one it may have."""
    read_config(folder)
    content, config = calibration.to_bytes(), read_json_file(folder / "config.json")
    config["calibration_sha256"] = hashlib.sha256(content).hexdigest()
    for name, data in ((CALIBRATION_FILE, content), ("config.json", json_bytes(config))):
        with write_atomically(folder / name) as file:
            file.write(data)


def verify_golden(checkpoint: Checkpoint, folder: Path, device: torch.device | str = "cpu") -> float:
    """Largest deviation from golden.json of the outputs on a device; CheckpointError above GOLDEN_TOLERANCE."""
    examples, config = read_golden(folder).crystals, checkpoint.model.config
    try:
        for number, example in enumerate(examples):
            if len(example.outputs) != config.outputs:
                raise ValueError(f"crystals[{number}]: {len(example.outputs)} outputs, not {config.outputs}")
        crystals = [_golden_crystal(number, example) for number, example in enumerate(examples)]
        edges = sum(crystal.n_atoms**2 / crystal.volume for crystal in crystals) * 4 / 3 * pi * config.radius**3
        if edges * (config.width + config.radial_basis + 3 * config.direction_basis) > MOST_GOLDEN:
            raise ValueError("crystals: too many atoms and neighbours for an example")
    except ValueError as error:
        raise damaged(folder / "golden.json", error) from None
    outputs = network_outputs(checkpoint.model.to(device), crystals)
    worst = float(np.abs(outputs - np.array([example.outputs for example in examples])).max())
    if not worst <= GOLDEN_TOLERANCE:
        raise CheckpointError(f"{folder}: outputs differ from golden.json by {worst:.2g}; do not trust them here")
    return worst


def _golden_crystal(number: int, example: GoldenCrystal) -> Crystal:
    """The crystal of an example; ValueError if its cell is none that a crystal can have."""
    crystal = Crystal.ordered(np.array(example.lattice), np.array(example.positions), np.array(example.numbers))
    if error := cell_error(crystal.lattice, crystal.n_atoms):
        raise ValueError(f"crystals[{number}].lattice: {error}")
    return crystal


def network_outputs(model: Network, crystals: Sequence[Crystal]) -> FloatArray:
    """Standardised outputs (B, outputs) of one batch, on the device and in the precision of the model."""
    weight, config = next(model.parameters()), model.config
    edges = [
        find_neighbors(crystal.lattice, crystal.positions, config.radius, vectors=config.vectors)
        for crystal in crystals
    ]
    with torch.inference_mode():
        batch = collate(crystals, edges).to(weight.device, weight.dtype)
        return np.asarray(model(batch).cpu().numpy(), dtype=float)


def _read_calibration(path: Path, expected: str | None, config: ModelConfig) -> Calibration | None:
    """The calibration that config.json names by its sha256; None if it names none and there is none."""
    content = _named_content(path, expected)
    if content is None:
        return None
    try:
        return Calibration.from_bytes(content, config.outputs, config.features)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); calibrate again") from error


def _read_domain(path: Path, expected: str | None, config: ModelConfig) -> Domain | None:
    """The domain that config.json names by its sha256; None if it names none and there is none."""
    content = _named_content(path, expected)
    try:
        return None if content is None else domain_from_bytes(content, config.features)
    except ValueError as error:
        raise damaged(path, error) from error


def _named_content(path: Path, expected: str | None) -> bytes | None:
    """Content of a file that config.json names by its sha256; None if it names none and there is none."""
    if expected is None:
        if path.exists() or path.is_symlink():
            raise CheckpointError(f"{path}: config.json does not name it; delete it, or calibrate again")
        return None
    content = checkpoint_file(path, LARGEST_CALIBRATION)
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged or altered (sha256 is not the one in config.json); fetch it again")
    return content


def _read_network(path: Path, expected: str, config: ModelConfig) -> Network:
    """The network with the weights of a safetensors file whose sha256 is `expected`."""
    content = checkpoint_file(path, 2 * LARGEST_NUMBER * config.least_weights + LONGEST_HEADER)
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged or altered (sha256 is not the one in config.json); fetch it again")
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:  # of types that torch does not have, its reader raises a KeyError, and others
        raise damaged(path, ValueError("no safetensors file that can be read")) from error
    # a network takes memory, and is made only if the file has weights for it; `meta` tensors would import SymPy
    if sum(value.numel() for value in tensors.values()) < config.least_weights:
        raise CheckpointError(f"{path}: does not fit the model in config.json, which has more weights")
    with torch.device("cpu"):
        model = network_of(config).float()  # whatever the defaults of the program that asks
    wanted, found = ({name: tuple(value.shape) for name, value in own.items()} for own in (model.state_dict(), tensors))
    if wanted != found:
        names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(f"{path}: does not fit the model in config.json, first at {names[0]!r}")
    for name, value in tensors.items():
        if value.dtype not in WEIGHTS:
            raise CheckpointError(f"{path}: {name} has the type {value.dtype}, which no weights have")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; the model was never trained")
    model.load_state_dict(tensors)
    return model.eval()
