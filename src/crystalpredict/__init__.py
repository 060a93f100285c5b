"""crystalpredict: properties of inorganic crystals from their structures.

>>> from crystalpredict import load_model
>>> model = load_model()
>>> rows = model.predict(["NaCl.cif"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalpredict._version import __version__ as __version__
from crystalpredict.errors import CrystalPredictError

if TYPE_CHECKING:
    from crystalpredict.prediction.predictor import Predictor, load_model
    from crystalpredict.prediction.rows import Embedding, Prediction

__all__ = ["CrystalPredictError", "Embedding", "Prediction", "Predictor", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import torch and pymatgen only when something that needs them is asked for."""
    if name in ("Embedding", "Prediction", "Predictor", "load_model"):
        from crystalpredict.prediction import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
