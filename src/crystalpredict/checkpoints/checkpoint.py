"""Read, write and verify checkpoint folders, which contain no pickles.

* config.json: `crystalpredict.checkpoints.files.CheckpointConfig`
* model.safetensors: weights of the network
* calibration.safetensors: error model and statistics of the training data (`crystalpredict.uncertainty`), optional
* domain.safetensors: statistics of the training data of a fine-tuned model, optional
* relaxation.safetensors: head of relaxation of a model for unrelaxed structures, optional
* golden.json: crystals and the outputs of the network for them, which a loaded model must reproduce
* README.md: the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from crystalpredict._files import write_atomically
from crystalpredict._schema import damaged, read_checkpoint_file, read_json_file
from crystalpredict._version import __version__
from crystalpredict.checkpoints.files import (
    GoldenCrystal,
    Identity,
    TrainedProperty,
    format_version,
    json_bytes,
    property_record,
    read_config,
    read_golden,
)
from crystalpredict.crystals.cell import cell_error
from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import CheckpointError
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.relaxation_head import RelaxationHead, head_shapes
from crystalpredict.nn.weights import Weights, shapes_of
from crystalpredict.properties import E_ABOVE_HULL, Property
from crystalpredict.uncertainty.applicability import Domain
from crystalpredict.uncertainty.calibration import (
    CALIBRATION_FILE,
    DOMAIN_FILE,
    Calibration,
    domain_from_bytes,
    domain_to_bytes,
)

if TYPE_CHECKING:
    import torch

    from crystalpredict.nn.ensemble import Network

WEIGHT_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}  # of files, and as NumPy reads them
RELAXATION_FILE = "relaxation.safetensors"
SUMS_OF_FILES = ("domain_sha256", "relaxation_sha256")  # entries of `training`
MAX_WEIGHT_BYTES = 8
MAX_HEADER_BYTES = 2**20  # names and shapes in a file of tensors
MAX_CALIBRATION_BYTES = 2**26
MAX_GOLDEN_NUMBERS = 2**28  # estimated, of the edges of golden.json; 1 GiB
GOLDEN_TOLERANCE = 1e-4  # of standardised outputs in float32, across CPUs and CUDA


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and the meaning of its outputs.

    Attributes:
        name: of the folder.
        source: network, or several as one, or the weights that make one.
        properties: of the outputs.
        mean: of the training labels on the trained scale, (outputs,).
        deviation: standard deviation of the training labels on the trained scale, (outputs,).
        training: free text and figures about the training.
        calibration: error model and applicability domain, or None.
    """

    name: str
    source: Network | Weights
    properties: tuple[Property, ...]
    mean: FloatArray
    deviation: FloatArray
    training: dict[str, Any]
    calibration: Calibration | None = None
    training_domain: Domain | None = None
    """Of a fine-tuned model, whose calibration has none."""
    relaxation: RelaxationHead | None = None
    """Of a model for unrelaxed structures; it predicts strain and displacements."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the network."""
        return self.source.config

    @cached_property
    def model(self) -> Network:
        """Network, or several as one, made of the weights when it is first asked for; that imports torch."""
        return self.source.network() if isinstance(self.source, Weights) else self.source

    @property
    def domain(self) -> Domain | None:
        """Statistics of the training crystals, from which warnings follow; None if there are none."""
        return (self.calibration.domain if self.calibration else None) or self.training_domain

    @property
    def unrelaxed(self) -> bool:
        """Whether the model learnt from unrelaxed crystals what they relax to."""
        return bool(self.training.get("unrelaxed", False))

    @property
    def learnt(self) -> set[Identity]:
        """Identities of the properties that this model or its base models were trained on."""
        return {prop.identity for prop in self.properties} | set(map(tuple, self.training.get("learnt", ())))

    @property
    def minima(self) -> FloatArray:
        """Smallest possible standardised values, minus infinity for properties without a minimum, (outputs,)."""
        minima = np.array([prop.clip(np.array(-np.inf)) for prop in self.properties], dtype=float)
        return (minima - self.mean) / self.deviation

    def values(self, outputs: FloatArray) -> FloatArray:
        """Return values on the trained scale from standardised outputs, each (B, outputs)."""
        return np.asarray(outputs * self.deviation + self.mean)

    def interval_centres(self, outputs: FloatArray) -> FloatArray:
        """Return values on the trained scale, not below the minima, from standardised outputs (B, outputs)."""
        values = self.values(outputs)
        return np.stack([prop.clip(values[:, i]) for i, prop in enumerate(self.properties)], axis=1)

    def stability(self, outputs: FloatArray) -> FloatArray | None:
        """Return standardised energies above hull by the network (B,), from its outputs (B, outputs), if it has any."""
        names = [prop.name for prop in self.properties]
        return outputs[:, names.index(E_ABOVE_HULL)] if E_ABOVE_HULL in names else None

    def decode(self, outputs: FloatArray) -> dict[str, FloatArray]:
        """Return values in the unit of each property, by property name, from standardised outputs (B, outputs)."""
        values = self.values(outputs)
        return {prop.name: prop.decode(values[:, i]) for i, prop in enumerate(self.properties)}


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, in evaluation mode on the CPU; torch is not imported.

    Raises:
        CheckpointError: a file is missing, damaged, altered, or does not fit the others.
    """
    config = read_config(folder)
    properties, mean, deviation = properties_of(config.properties)
    weights = _read_weights(folder / "model.safetensors", config.weights_sha256, config.model)
    calibration = _read_calibration(folder / CALIBRATION_FILE, config.calibration_sha256, config.model)
    domain = _read_domain(folder / DOMAIN_FILE, config.training.get("domain_sha256"), config.model)
    head = _read_relaxation(folder / RELAXATION_FILE, config.training.get("relaxation_sha256"), config.model)
    return Checkpoint(folder.name, weights, properties, mean, deviation, config.training, calibration, domain, head)


def properties_of(entries: Sequence[TrainedProperty]) -> tuple[tuple[Property, ...], FloatArray, FloatArray]:
    """Return properties of a checkpoint or a run, and mean and deviation of their trained scale, each (outputs,)."""
    scales = np.array([(entry.mean, entry.deviation) for entry in entries])
    return tuple(entry.plain for entry in entries), *scales.T


def save_checkpoint(checkpoint: Checkpoint, folder: Path, golden: Sequence[Crystal], card: str) -> None:
    """Write a checkpoint folder.

    Args:
        checkpoint: to be saved.
        folder: new or existing.
        golden: ordered crystals whose outputs are saved in golden.json.
        card: text of README.md.
    """
    from safetensors.torch import save

    weights = save({k: v.contiguous().cpu() for k, v in checkpoint.model.state_dict().items()})
    entries = [
        property_record(prop) | {"mean": float(mean), "deviation": float(deviation)}
        for prop, mean, deviation in zip(checkpoint.properties, checkpoint.mean, checkpoint.deviation, strict=True)
    ]
    config: dict[str, Any] = {
        "format_version": format_version(
            checkpoint.config, checkpoint.properties, unrelaxed=checkpoint.unrelaxed, head=bool(checkpoint.relaxation)
        ),
        "crystalpredict": __version__,
        "model": checkpoint.config.to_dict(),
        "properties": entries,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "training": {name: fact for name, fact in checkpoint.training.items() if name not in SUMS_OF_FILES},
    }
    files = {"model.safetensors": weights}
    if checkpoint.calibration:
        files[CALIBRATION_FILE] = checkpoint.calibration.to_bytes()
        config["calibration_sha256"] = hashlib.sha256(files[CALIBRATION_FILE]).hexdigest()
    if checkpoint.training_domain:
        files[DOMAIN_FILE] = domain_to_bytes(checkpoint.training_domain)
        config["training"]["domain_sha256"] = hashlib.sha256(files[DOMAIN_FILE]).hexdigest()
    if checkpoint.relaxation:
        files[RELAXATION_FILE] = safetensors.numpy.save(checkpoint.relaxation.arrays)
        config["training"]["relaxation_sha256"] = hashlib.sha256(files[RELAXATION_FILE]).hexdigest()
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
    _write_files(folder, files)
    for name in {CALIBRATION_FILE, DOMAIN_FILE, RELAXATION_FILE} - files.keys():  # those of other weights
        (folder / name).unlink(missing_ok=True)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration into a checkpoint folder, in place of an old one."""
    read_config(folder)
    content, config = calibration.to_bytes(), read_json_file(folder / "config.json")
    config["calibration_sha256"] = hashlib.sha256(content).hexdigest()
    _write_files(folder, {CALIBRATION_FILE: content, "config.json": json_bytes(config)})


def save_relaxation(head: RelaxationHead, folder: Path) -> None:
    """Write a head of relaxation into the checkpoint folder of a network for unrelaxed structures."""
    config = read_config(folder)
    content, values = safetensors.numpy.save(head.arrays), read_json_file(folder / "config.json")
    values["training"]["relaxation_sha256"] = hashlib.sha256(content).hexdigest()
    values["format_version"] = format_version(config.model, unrelaxed=True, head=True)
    _write_files(folder, {RELAXATION_FILE: content, "config.json": json_bytes(values)})


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        with write_atomically(folder / name) as file:
            file.write(content)


def verify_golden(checkpoint: Checkpoint, folder: Path, device: torch.device | str = "cpu") -> float:
    """Return the largest difference between the outputs on a device and those in golden.json, standardised.

    Raises:
        CheckpointError: the difference exceeds GOLDEN_TOLERANCE, or golden.json is damaged.
    """
    examples, config = read_golden(folder).crystals, checkpoint.config
    try:
        for number, example in enumerate(examples):
            if len(example.outputs) != config.outputs:
                raise ValueError(f"crystals[{number}]: {len(example.outputs)} outputs, not {config.outputs}")
        crystals = [golden_crystal(number, example) for number, example in enumerate(examples)]
        edges = sum(crystal.n_atoms**2 / crystal.volume for crystal in crystals) * 4 / 3 * pi * config.radius**3
        if edges * (config.width + config.radial_basis + 3 * config.direction_basis) > MAX_GOLDEN_NUMBERS:
            raise ValueError("crystals: too many atoms and neighbours")
    except ValueError as error:
        raise damaged(folder / "golden.json", error) from None
    outputs = network_outputs(checkpoint.model.to(device), crystals)
    worst = float(np.abs(outputs - np.array([example.outputs for example in examples])).max())
    if not worst <= GOLDEN_TOLERANCE:
        raise CheckpointError(f"{folder}: outputs differ from golden.json by {worst:.2g}; do not use the model here")
    return worst


def golden_crystal(number: int, example: GoldenCrystal) -> Crystal:
    """Return the crystal of an example; raise a ValueError if no crystal can have its cell."""
    crystal = Crystal.ordered(np.array(example.lattice), np.array(example.positions), np.array(example.numbers))
    if error := cell_error(crystal.lattice, crystal.n_atoms):
        raise ValueError(f"crystals[{number}].lattice: {error}")
    return crystal


def network_outputs(model: Network, crystals: Sequence[Crystal]) -> FloatArray:
    """Return standardised outputs (B, outputs) of one batch, on the device and in the precision of the model."""
    import torch

    from crystalpredict.nn.batch import collate

    weight, config = next(model.parameters()), model.config
    edges = [
        find_neighbors(crystal.lattice, crystal.positions, config.radius, vectors=config.vectors)
        for crystal in crystals
    ]
    with torch.inference_mode():
        batch = collate(crystals, edges).to(weight.device, weight.dtype)
        return np.asarray(model(batch).cpu().numpy(), dtype=float)


def _read_calibration(path: Path, expected: str | None, config: ModelConfig) -> Calibration | None:
    """Return the calibration whose sha256 is in config.json; None if neither that nor the file exists."""
    content = _named_content(path, expected)
    if content is None:
        return None
    try:
        return Calibration.from_bytes(content, config.outputs, config.features)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); calibrate again") from error


def _read_domain(path: Path, expected: str | None, config: ModelConfig) -> Domain | None:
    """Return the domain whose sha256 is in config.json; None if neither that nor the file exists."""
    content = _named_content(path, expected)
    try:
        return None if content is None else domain_from_bytes(content, config.features)
    except ValueError as error:
        raise damaged(path, error) from error


def _read_relaxation(path: Path, expected: str | None, config: ModelConfig) -> RelaxationHead | None:
    """Return the head of relaxation whose sha256 is in config.json; None if neither that nor the file exists."""
    content = _named_content(path, expected)
    return None if content is None else RelaxationHead(_arrays(path, _tensors(path, content), head_shapes(config)))


def _named_content(path: Path, expected: str | None) -> bytes | None:
    """Return the content of a file whose sha256 is in config.json; None if neither that nor the file exists."""
    if expected is None:
        if path.exists() or path.is_symlink():
            raise CheckpointError(f"{path}: config.json does not name it; delete it, or calibrate again")
        return None
    return _read_verified(path, MAX_CALIBRATION_BYTES, expected)


def _read_verified(path: Path, max_bytes: int, expected: str) -> bytes:
    """Return the content of a file with a given sha256."""
    content = read_checkpoint_file(path, max_bytes)
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged or altered (sha256 is not the one in config.json); fetch it again")
    return content


def _read_weights(path: Path, expected: str, config: ModelConfig) -> Weights:
    """Return the weights in a safetensors file of a given sha256, which fit the network of a config."""
    content = _read_verified(path, 2 * MAX_WEIGHT_BYTES * config.least_weights + MAX_HEADER_BYTES, expected)
    tensors = _tensors(path, content)
    # before a table of all names is made, which a config from anywhere can make long
    if sum(prod(t["shape"]) for t in tensors.values()) < config.least_weights or len(tensors) < config.least_tensors:
        raise CheckpointError(
            f"{path}: does not fit the model in config.json, which has more weights; fetch both again"
        )
    return Weights(config, _arrays(path, tensors, shapes_of(config)))


def _tensors(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    """Return the tensors in the content of a safetensors file as they stand there, by name."""
    try:
        return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise damaged(path, ValueError("not a readable safetensors file")) from error


def _arrays(
    path: Path, tensors: dict[str, dict[str, Any]], wanted: dict[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Return tensors of a file as arrays with the names and shapes that are wanted, and finite."""
    found = {name: tuple(tensor["shape"]) for name, tensor in tensors.items()}
    if wanted != found:
        names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(f"{path}: does not fit the model in config.json, first at {names[0]!r}; fetch both again")
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        kind = tensor["dtype"]
        if kind not in WEIGHT_DTYPES:
            raise CheckpointError(f"{path}: {name} has the type {kind}, which weights cannot have")
        array = np.frombuffer(tensor["data"], dtype=WEIGHT_DTYPES[kind])
        if kind == "BF16":  # the upper half of a number in single precision
            array = (array.astype("<u4") << 16).view("<f4")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite: the training failed")
        arrays[name] = array.reshape(wanted[name])
    return arrays
