"""Checkpoint folders: config.json, model.safetensors, golden.json and a card; no pickle.

config.json      format_version, model (ModelConfig), properties with unit, transform, mean and deviation,
                 weights_sha256, calibration_sha256 if there is that file, crystalpredict (the version that wrote it),
                 training (free text and figures)
calibration.safetensors  how large the errors are and what the training data were like (uncertainty.calibration)
golden.json      crystals and the network's outputs for them, which a loaded model must repeat
README.md        the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from crystalpredict._files import write_atomically
from crystalpredict._version import __version__
from crystalpredict.checkpoints.registry import LARGEST_JSON, checkpoint_file
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import CheckpointError
from crystalpredict.nn import ModelConfig, Network, network_of
from crystalpredict.nn.batch import collate
from crystalpredict.properties import Property
from crystalpredict.uncertainty.calibration import CALIBRATION_FILE, Calibration

# of the newest format: 2 added `attention` and what belongs to it, 3 `members`; the paper's model is written as 1
FORMAT_VERSION = 3
LARGEST_NUMBER = 8  # bytes, of a weight
LONGEST_HEADER = 2**20  # bytes, of the names and shapes in a file of tensors
LARGEST_CALIBRATION = 2**26  # bytes
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

    @property
    def learnt(self) -> set[tuple[str, ...]]:
        """Identities of its properties, and of those that models before it learnt: it may know crystals of each."""
        return {prop.identity for prop in self.properties} | {tuple(each) for each in self.training.get("learnt", ())}

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
    config = _read_json(folder / "config.json")
    version = config.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format {version!r}, but this crystalpredict {__version__} reads 1 to "
            f"{FORMAT_VERSION}; use the version that wrote it, or a newer one"
        )
    try:
        network = ModelConfig.from_dict(config["model"])
        properties, mean, deviation = properties_of(config)
        expected = config["weights_sha256"]
        training = dict(config.get("training", {}))
        if format_version(network) > version:
            missing = "ensembles" if network.members > 1 else f"{network.attention} attention"
            raise ValueError(f"format {version} has no {missing}")
        if not (np.isfinite(mean).all() and (deviation > 0).all() and np.isfinite(deviation).all()):
            raise ValueError("a mean is not a number, or a deviation is not positive")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: damaged ({type(error).__name__}: {error})") from error
    if len(properties) != network.outputs:
        raise CheckpointError(f"{folder / 'config.json'}: {len(properties)} properties for {network.outputs} outputs")
    model = _read_network(folder / "model.safetensors", expected, network)
    calibration = _read_calibration(folder / CALIBRATION_FILE, config.get("calibration_sha256"), network)
    return Checkpoint(folder.name, model, properties, mean, deviation, training, calibration)


def properties_of(config: dict[str, Any]) -> tuple[tuple[Property, ...], FloatArray, FloatArray]:
    """Properties of a checkpoint's or a run's config.json, mean and deviation (outputs,) of their trained scale."""
    scales = [(float(entry["mean"]), float(entry["deviation"])) for entry in config["properties"]]
    entries = [{k: v for k, v in entry.items() if k not in ("mean", "deviation")} for entry in config["properties"]]
    return tuple(map(Property.from_dict, entries)), *np.array(scales).T


def format_version(config: ModelConfig) -> int:
    """Format of a network's checkpoint: the oldest that has what it needs, which older programs can read."""
    return 3 if config.members > 1 else 2 if config.vectors else 1


def save_checkpoint(checkpoint: Checkpoint, folder: Path, golden: Sequence[Crystal], card: str) -> None:
    """Write the checkpoint as a folder, with outputs for the crystals `golden` and the text of its card."""
    weights = safetensors.torch.save({k: v.contiguous().cpu() for k, v in checkpoint.model.state_dict().items()})
    entries = [
        asdict(prop) | {"mean": float(mean), "deviation": float(deviation)}
        for prop, mean, deviation in zip(checkpoint.properties, checkpoint.mean, checkpoint.deviation, strict=True)
    ]
    config = {
        "format_version": format_version(checkpoint.model.config),
        "crystalpredict": __version__,
        "model": checkpoint.model.config.to_dict(),
        "properties": entries,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": checkpoint.training,
    }
    files = {"model.safetensors": weights}
    if checkpoint.calibration:
        files[CALIBRATION_FILE] = checkpoint.calibration.to_bytes()
        config["calibration_sha256"] = hashlib.sha256(files[CALIBRATION_FILE]).hexdigest()
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
    files["config.json"] = _json_bytes(config)  # last: it makes the folder a checkpoint
    for name, content in files.items():
        with write_atomically(folder / name) as file:
            file.write(content)
    if not checkpoint.calibration:  # that of other weights
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Put a calibration into a checkpoint folder, in place of the one it may have."""
    content, config = calibration.to_bytes(), _read_json(folder / "config.json")
    config["calibration_sha256"] = hashlib.sha256(content).hexdigest()
    for name, data in ((CALIBRATION_FILE, content), ("config.json", _json_bytes(config))):
        with write_atomically(folder / name) as file:
            file.write(data)


def verify_golden(checkpoint: Checkpoint, folder: Path, device: torch.device | str = "cpu") -> float:
    """Largest deviation from golden.json of the outputs on a device; CheckpointError above GOLDEN_TOLERANCE."""
    examples = _read_json(folder / "golden.json").get("crystals", [])
    if not examples:
        raise CheckpointError(f"{folder / 'golden.json'}: no crystals in it")
    try:
        crystals = [
            Crystal.ordered(np.array(e["lattice"]), np.array(e["positions"]), np.array(e["numbers"])) for e in examples
        ]
        expected = np.array([e["outputs"] for e in examples], dtype=float)
        if any(c.positions.shape != (len(c.numbers), 3) or not (c.numbers >= 1).all() for c in crystals):
            raise ValueError("positions and numbers do not agree")
        if max(c.numbers.max() for c in crystals) > len(ELEMENTS):
            raise ValueError("unknown element")
        worst = float(np.abs(network_outputs(checkpoint.model.to(device), crystals) - expected).max())
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'golden.json'}: damaged ({error!r}); fetch it again") from error
    if not worst <= GOLDEN_TOLERANCE:
        raise CheckpointError(f"{folder}: outputs differ from golden.json by {worst:.2g}; do not trust them here")
    return worst


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


def _json_bytes(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()


def _read_calibration(path: Path, expected: str | None, config: ModelConfig) -> Calibration | None:
    """The calibration that config.json names by its sha256; None if it names none and there is none."""
    if expected is None:
        if path.exists() or path.is_symlink():
            raise CheckpointError(f"{path}: config.json does not name it; delete it, or calibrate again")
        return None
    try:
        content = checkpoint_file(path, LARGEST_CALIBRATION)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged or altered (sha256 is not the one in config.json); fetch it again")
    try:
        return Calibration.from_bytes(content, config.outputs, config.features)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); calibrate again") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(f"{path}: missing; a checkpoint folder has config.json, model.safetensors, golden.json")
    try:
        content = json.loads(checkpoint_file(path, LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _read_network(path: Path, expected: str, config: ModelConfig) -> Network:
    """The network with the weights of a safetensors file whose sha256 is `expected`."""
    try:
        content = checkpoint_file(path, 2 * LARGEST_NUMBER * config.least_weights + LONGEST_HEADER)
        if hashlib.sha256(content).hexdigest() != expected:
            raise CheckpointError(f"{path}: damaged or altered (sha256 is not the one in config.json); fetch it again")
        tensors = safetensors.torch.load(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
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
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; the model was never trained")
    model.load_state_dict(tensors)
    return model.eval()
