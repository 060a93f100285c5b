"""Networks in torch, without file access. Names are imported lazily, because ModelConfig does not need torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalpredict.nn.config import ModelConfig
    from crystalpredict.nn.crystalformer import Crystalformer
    from crystalpredict.nn.ensemble import Network, ensemble_of, network_of

__all__ = ["Crystalformer", "ModelConfig", "Network", "ensemble_of", "network_of"]
MODULES = {
    "ModelConfig": "config",
    "Crystalformer": "crystalformer",
    "Network": "ensemble",
    "ensemble_of": "ensemble",
    "network_of": "ensemble",
}


def __getattr__(name: str) -> Any:
    """Import a name, and with it torch, on first use."""
    if name in MODULES:
        return getattr(import_module(f"crystalpredict.nn.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
