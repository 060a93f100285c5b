"""Checks of an installation: libraries, device, every checkpoint, and a prediction."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec

from crystalpredict._version import __version__
from crystalpredict.checkpoints.registry import bundled_models, find_model, installed_models, user_models_folder
from crystalpredict.errors import CrystalPredictError

LIBRARIES = ("torch", "numpy", "safetensors", "pymatgen", "gemmi", "vesin")
OPTIONAL = {"pyarrow": "parquet", "matplotlib": "plots"}  # by library, the extra that installs it
ROCK_SALT = """data_NaCl
_symmetry_space_group_name_H-M 'F m -3 m'
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 0 0 0
Cl1 0.5 0.5 0.5
"""


@dataclass(frozen=True)
class Check:
    """One check: whether it passed and what it found, with advice if it failed."""

    name: str
    ok: bool
    said: str


def examine(model: str | None = None, device: str = "auto") -> Iterator[Check]:
    """Yield all checks; `model` and `device` are those of the prediction."""
    system = f"Python {platform.python_version()}, {platform.platform()}"
    yield Check("program", True, f"crystalpredict {__version__}, {system}")
    yield _check("libraries", _libraries)
    yield _check("device", _device, device)
    yield Check("models folder", True, str(user_models_folder()))
    try:
        names = [*bundled_models(), *installed_models()]
    except CrystalPredictError as error:
        yield Check("models", False, str(error))
        return
    for name in names:
        yield _check(f"model {name}", _model, name, device)
    yield _check("prediction", _prediction, model, device)


def _check(name: str, look: Callable[..., str], *arguments: object) -> Check:
    """Return the finding of `look`, or the error that it raises."""
    try:
        return Check(name, True, look(*arguments))
    except CrystalPredictError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a broken library can raise anything
        first = (str(error).strip() or "no message").splitlines()[0]
        return Check(name, False, f"{type(error).__name__}: {first}; install crystalpredict again")


def _libraries() -> str:
    """Return the versions of required and optional libraries."""
    found = []
    for name in (*LIBRARIES, *OPTIONAL):
        if name in OPTIONAL and find_spec(name) is None:
            found.append(f"no {name}: pip install 'crystalpredict[{OPTIONAL[name]}]'")
            continue
        import_module(name)
        found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def _device(name: str) -> str:
    """Return the device in use, threads and GPUs."""
    import torch

    from crystalpredict.nn.devices import choose_device

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{choose_device(name)}; {torch.get_num_threads()} threads; CUDA: {', '.join(cards) or 'none'}"


def _model(name: str, device: str) -> str:
    """Check the checksums and golden outputs of a checkpoint."""
    from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
    from crystalpredict.nn.devices import choose_device

    folder = find_model(name)
    worst = verify_golden(load_checkpoint(folder), folder, choose_device(device))
    return f"unaltered, repeats its golden.json within {worst:.1e}; {folder}"


def _prediction(model: str | None, device: str) -> str:
    """Predict rock salt from its CIF, and return a value and the times."""
    from crystalpredict.io.entries import Inline
    from crystalpredict.io.reader import read_chunk
    from crystalpredict.prediction.predictor import load_model

    started = time.perf_counter()
    predictor = load_model(model, device)
    loaded = time.perf_counter()
    config = predictor.config
    entries = read_chunk([Inline("NaCl", ROCK_SALT)], config.radius, merge=True, vectors=config.vectors)
    (row,) = predictor.stream(entries)
    ended = time.perf_counter()
    if row.error:
        raise CrystalPredictError(f"{row.error}; install crystalpredict again")
    column, value = next(iter(row.values.items()))
    times = f"model in {loaded - started:.2f} s, prediction in {ended - loaded:.3f} s"
    return f"NaCl: {column} {value:.3f} by {predictor.checkpoint.name}; {times}"
