"""Predict properties of inorganic crystals from their structures.

>>> import crystalpredict
>>> rows = crystalpredict.predict(["NaCl.cif"])
>>> rows.to_frame()
"""

from crystalpredict._safe_path import leave_working_directory, started_as_module

if started_as_module(__name__):  # before other imports, which a file in the working directory could replace
    leave_working_directory()

from typing import TYPE_CHECKING, Any

from crystalpredict._version import __version__ as __version__
from crystalpredict.errors import CrystalPredictError

if TYPE_CHECKING:
    from crystalpredict.evaluation.models import evaluate
    from crystalpredict.evaluation.scores import Report
    from crystalpredict.evaluation.screen_page import screen_report
    from crystalpredict.integrations.featurizer import CrystalFeaturizer
    from crystalpredict.integrations.transformer import CrystalTransformer as CrystalTransformer
    from crystalpredict.prediction.known_phases import hull_of
    from crystalpredict.prediction.orderings import orderings
    from crystalpredict.prediction.phase_diagram import PhaseDiagram, phase_diagram
    from crystalpredict.prediction.predictions import Predictions, predict
    from crystalpredict.prediction.predictor import Predictor, load_model
    from crystalpredict.prediction.relaxation_by_potential import Relaxation
    from crystalpredict.prediction.rows import Embedding, Prediction
    from crystalpredict.training.options import FinetuneOptions
    from crystalpredict.training.result import FinetuneResult
    from crystalpredict.training.run import finetune, resume_finetuning
    from crystalpredict.training.run_folder import Progress

__all__ = [
    "CrystalFeaturizer", "CrystalPredictError", "Embedding", "FinetuneOptions", "FinetuneResult", "PhaseDiagram",
    "Prediction", "Predictions", "Predictor", "Progress", "Relaxation", "Report", "__version__", "evaluate",
    "finetune", "hull_of", "load_model", "orderings", "phase_diagram", "predict", "resume_finetuning",
    "screen_report",
]  # fmt: skip
# CrystalTransformer is left out: `from crystalpredict import *` must not need scikit-learn
_NAMES = {
    "evaluation.models": ("evaluate",),
    "evaluation.scores": ("Report",),
    "evaluation.screen_page": ("screen_report",),
    "integrations.featurizer": ("CrystalFeaturizer",),
    "integrations.transformer": ("CrystalTransformer",),
    "prediction.known_phases": ("hull_of",),
    "prediction.orderings": ("orderings",),
    "prediction.phase_diagram": ("PhaseDiagram", "phase_diagram"),
    "prediction.predictions": ("Predictions", "predict"),
    "prediction.predictor": ("Predictor", "load_model"),
    "prediction.relaxation_by_potential": ("Relaxation",),
    "prediction.rows": ("Embedding", "Prediction"),
    "training.options": ("FinetuneOptions",),
    "training.result": ("FinetuneResult",),
    "training.run": ("finetune", "resume_finetuning"),
    "training.run_folder": ("Progress",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import torch and pymatgen only when something that needs them is used."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"crystalpredict.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
