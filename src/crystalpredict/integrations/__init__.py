"""What other programs call: a server of tools, a featurizer, a transformer."""
