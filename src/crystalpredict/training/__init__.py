"""Training and fine-tuning: a table of labelled crystals to a checkpoint."""
