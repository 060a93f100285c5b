"""A transformer of scikit-learn (the extra `sklearn`) that gives the network's features of structures."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.errors import StructureError, UsageError
from crystalpredict.integrations.embedding import embeddings, label_of

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError:
    raise UsageError("scikit-learn is not installed: pip install 'crystalpredict[sklearn]'") from None

OnError = Literal["raise", "nan"]


class CrystalTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Structures to the network's features, for a `Pipeline` or a `ColumnTransformer` of scikit-learn.

    Nothing is fitted, so that no information passes from test data to training data. The model is loaded by the first
    `transform` in a process, and is not part of a pickle.
    """

    def __init__(self, model: str | None = None, device: str = "auto", on_error: OnError = "raise") -> None:
        """Keep the parameters; `fit` checks them.

        Args:
            model: Name of a bundled or installed model, or a checkpoint folder; None: the default.
            device: `cpu`, `cuda`, `cuda:N` or `auto`.
            on_error: For a structure that cannot be computed: `raise` its error, or return `nan` for its features.
        """
        self.model = model
        self.device = device
        self.on_error = on_error

    def fit(self, X: Any, y: Any = None) -> CrystalTransformer:
        """Check the parameters and the shape of X, and return the transformer."""
        del y
        if self.on_error not in ("raise", "nan"):
            raise UsageError(f"on_error={self.on_error!r}: choose from raise, nan")
        label_of(self.model)
        _items(X)
        return self

    def transform(self, X: Any) -> FloatArray:
        """Return the features (n, D) of structures.

        Args:
            X: n pymatgen structures, ASE Atoms, paths, texts of CIFs or POSCARs, or pymatgen's dictionaries, in a list,
                an array, a Series or a DataFrame of one column.

        Raises:
            StructureError: A structure cannot be read or computed, unless `on_error` is `nan`.
        """
        items = _items(X)
        features = np.full((len(items), label_of(self.model)[1]), np.nan)
        for number, row in enumerate(embeddings(items, self.model, self.device)):
            if row.features is not None:
                features[number] = row.features
            elif self.on_error != "nan":
                raise StructureError(f"structure {number}: {row.error}")
        return features

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names (D,) of the features."""
        del input_features
        name, count = label_of(self.model)
        return np.array([f"{name}_{number}" for number in range(count)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn should know: X is no array of numbers, and nothing is fitted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.no_validation = True
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _items(X: Any) -> list[Any]:
    """Return the structures of X as a list."""
    if any(hasattr(X, name) for name in ("sites", "get_cell")) or isinstance(X, str | dict):
        raise UsageError("X is one structure: give a list of structures")
    if hasattr(X, "iloc"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2:
        if X.shape[1] != 1:
            raise UsageError(f"X has {X.shape[1]} columns: give one, of structures")
        X = X[:, 0]
    return list(X)
