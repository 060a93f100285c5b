"""The network: torch only, no files, no printing."""

from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer

__all__ = ["Crystalformer", "ModelConfig"]
