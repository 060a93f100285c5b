"""crystalpredict: properties of inorganic crystals from their structures."""

__version__ = "0.1.0"
