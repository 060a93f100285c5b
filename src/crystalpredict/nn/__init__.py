"""The network: torch only, no files, no printing."""

from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.nn.ensemble import Network, ensemble_of, network_of

__all__ = ["Crystalformer", "ModelConfig", "Network", "ensemble_of", "network_of"]
