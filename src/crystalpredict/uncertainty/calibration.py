"""The calibration of a checkpoint, an error model and statistics of its training data, as one file of tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import safetensors.numpy

from crystalpredict.uncertainty.applicability import Domain
from crystalpredict.uncertainty.intervals import ErrorModel

CALIBRATION_FILE = "calibration.safetensors"
DTYPES = {"elements": np.int32, "pairs": np.uint8}  # all other tensors are float32


@dataclass(frozen=True)
class Calibration:
    """The error model of a checkpoint, and its applicability domain if that was fitted."""

    errors: ErrorModel
    domain: Domain | None = None

    def to_bytes(self) -> bytes:
        """Return the content of a calibration file."""
        tensors: dict[str, np.ndarray] = {}
        parts: list[ErrorModel | Domain] = [self.errors, *([self.domain] if self.domain else [])]
        for part in parts:
            for field in fields(part):
                dtype = DTYPES.get(field.name, np.float32)
                tensors[_key(type(part), field.name)] = np.ascontiguousarray(getattr(part, field.name), dtype=dtype)
        return safetensors.numpy.save(tensors)

    @classmethod
    def from_bytes(cls, content: bytes, properties: int, features: int) -> Calibration:
        """Return the calibration in a file.

        Args:
            content: of the file.
            properties: number of properties of the checkpoint.
            features: number of features of its network.

        Raises:
            ValueError: the content is damaged, or belongs to another checkpoint.
        """
        try:
            tensors = safetensors.numpy.load(content)
        except Exception as error:  # such as a KeyError for a type that NumPy does not have
            raise ValueError("not a readable safetensors file") from error
        error_keys, domain_keys = ([_key(kind, field.name) for field in fields(kind)] for kind in (ErrorModel, Domain))
        has_domain = not tensors.keys().isdisjoint(domain_keys)
        expected = {*error_keys, *(domain_keys if has_domain else ())}
        if wrong := sorted(expected ^ tensors.keys()):
            raise ValueError(f"tensors are missing or unknown, the first is {wrong[0]!r}")
        for name, tensor in tensors.items():
            if tensor.dtype != DTYPES.get(name.partition(".")[2], np.float32):
                raise ValueError(f"{name} has the type {tensor.dtype}")
        errors = ErrorModel(*(tensors[key] for key in error_keys))
        domain = Domain(*(tensors[key] for key in domain_keys)) if has_domain else None
        width = len(domain.shift) if domain else features
        if (len(errors.weights), errors.features, width) != (properties, features, features):
            raise ValueError("it belongs to another model")
        return cls(errors, domain)


def _key(kind: type[ErrorModel | Domain], field: str) -> str:
    """Return the name of a tensor in the file."""
    return f"{'errors' if kind is ErrorModel else 'domain'}.{field}"
