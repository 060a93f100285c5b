"""The network: torch only, no files, no printing. Its config needs no torch, which is imported with the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalpredict.nn.config import ModelConfig as ModelConfig

if TYPE_CHECKING:
    from crystalpredict.nn.crystalformer import Crystalformer as Crystalformer
    from crystalpredict.nn.ensemble import Network as Network
    from crystalpredict.nn.ensemble import ensemble_of as ensemble_of
    from crystalpredict.nn.ensemble import network_of as network_of

_MODULES = {"Crystalformer": "crystalformer", **dict.fromkeys(("Network", "ensemble_of", "network_of"), "ensemble")}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
