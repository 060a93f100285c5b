"""The calibration of a checkpoint, an error model and statistics of its training data, as one file of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import safetensors.numpy

from crystalpredict.uncertainty.applicability import Domain
from crystalpredict.uncertainty.intervals import N_BINS, N_STABILITY_GROUPS, UNUSED, ErrorModel

CALIBRATION_FILE = "calibration.safetensors"
DOMAIN_FILE = "domain.safetensors"  # of a fine-tuned model
KINDS: tuple[type[ErrorModel], type[Domain]] = (ErrorModel, Domain)
BINS, STABILITY, QUANTILES = "errors.bins", "errors.stability", "errors.quantiles"
DTYPES = {"elements": np.int32, "pairs": np.uint8}  # all other tensors are float32


@dataclass(frozen=True)
class Calibration:
    """The error model of a checkpoint, and its applicability domain if that was fitted."""

    errors: ErrorModel
    domain: Domain | None = None

    def to_bytes(self) -> bytes:
        """The content of a calibration file."""
        return _bytes_of([self.errors, *([self.domain] if self.domain else [])])

    @classmethod
    def from_bytes(cls, content: bytes, properties: int, features: int) -> Calibration:
        """The calibration of a model of so many properties and features; ValueError if it is none."""
        wanted = [{_key(kind, field.name) for field in fields(kind)} for kind in KINDS]
        ages = [wanted[0] - {BINS, STABILITY}, wanted[0] - {STABILITY}, wanted[0]]
        tensors = _tensors_of(content, [own | more for own in ages for more in (set(), wanted[1])])
        _add_groups(tensors)
        errors = ErrorModel(*(tensors[_key(ErrorModel, field.name)] for field in fields(ErrorModel)))
        domain = None
        if tensors.keys() & wanted[1]:
            domain = Domain(*(tensors[_key(Domain, field.name)] for field in fields(Domain)))
        width = features if domain is None else _width_of(domain, features)
        if (len(errors.weights), errors.features, width) != (properties, features, features):
            raise ValueError("it belongs to another model")
        return cls(errors, domain)


def _add_groups(tensors: dict[str, np.ndarray]) -> None:
    """Add to the tensors of an older file one bin and one group for all, where its intervals depend on none."""
    for name, count, axis, dimensions in ((BINS, N_BINS, 1, 3), (STABILITY, N_STABILITY_GROUPS, 3, 4)):
        if name not in tensors:
            quantiles = tensors[QUANTILES]
            if quantiles.ndim != dimensions:
                raise ValueError(f"{QUANTILES} is not of {dimensions} dimensions")
            tensors[name] = np.full((len(quantiles), count - 1), UNUSED, dtype=np.float32)
            tensors[QUANTILES] = np.repeat(np.expand_dims(quantiles, axis), count, axis=axis)


def domain_to_bytes(domain: Domain) -> bytes:
    """Return the content of a domain file."""
    return _bytes_of([domain])


def domain_from_bytes(content: bytes, features: int) -> Domain:
    """Return the domain in a file, of a model of so many features; ValueError if it is none."""
    tensors = _tensors_of(content, [{_key(Domain, field.name) for field in fields(Domain)}])
    domain = Domain(*(tensors[_key(Domain, field.name)] for field in fields(Domain)))
    if _width_of(domain, features) != features:
        raise ValueError("it belongs to another model")
    return domain


def _width_of(domain: Domain, features: int) -> int:
    """Number of features that a domain compares; `features` if it compares none."""
    return features if np.isinf(domain.reach[0]) else len(domain.shift)


def _bytes_of(parts: Sequence[ErrorModel | Domain]) -> bytes:
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        for field in fields(part):
            kind = DTYPES.get(field.name, np.float32)
            tensors[_key(part, field.name)] = np.ascontiguousarray(getattr(part, field.name), dtype=kind)
    return safetensors.numpy.save(tensors)


def _tensors_of(content: bytes, wanted: Sequence[set[str]]) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name; ValueError unless their names are one of the sets that are wanted."""
    try:
        tensors = safetensors.numpy.load(content)
    except Exception as error:  # of types that NumPy does not have, its reader raises a KeyError, and others
        raise ValueError("not a readable safetensors file") from error
    if set(tensors) not in wanted:
        odd = sorted(wanted[-1] ^ set(tensors))
        raise ValueError(f"tensors are missing or unknown, the first is {odd[0]!r}")
    for name, tensor in tensors.items():
        if tensor.dtype != DTYPES.get(name.partition(".")[2], np.float32):
            raise ValueError(f"{name} has the type {tensor.dtype}")
    return tensors


def _key(part: object, field: str) -> str:
    return f"{'errors' if part is ErrorModel or isinstance(part, ErrorModel) else 'domain'}.{field}"
