"""crystalpredict: properties of inorganic crystals from their structures.

>>> from crystalpredict import load_model
>>> model = load_model()
>>> rows = model.predict(["NaCl.cif"])
"""

from crystalpredict.safe_path import leave_working_directory, started_as_module

if started_as_module(__name__):  # before anything else is imported, which the working directory might have too
    leave_working_directory()

from typing import TYPE_CHECKING, Any

from crystalpredict.errors import CrystalPredictError

if TYPE_CHECKING:
    from crystalpredict.predict import Embedding, Prediction, Predictor, load_model

__version__ = "0.1.0"
__all__ = ["CrystalPredictError", "Embedding", "Prediction", "Predictor", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import torch and pymatgen only when something that needs them is asked for."""
    if name in ("Embedding", "Prediction", "Predictor", "load_model"):
        from crystalpredict import predict

        return getattr(predict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
