"""Give a checkpoint the weights between its own and those of another of the same network.

python scripts/mix.py models/crystalformer-mp-unrelaxed EARLIER --share 0.6

EARLIER is a checkpoint that the training of the first began with, or one from the same beginning: weights of networks
from different beginnings have no sensible mean. The folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from export import save_changed

from crystalpredict.checkpoints.checkpoint import load_checkpoint


def main() -> None:
    """Mix, write, refresh the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint, which is changed")
    parser.add_argument("other", type=Path, help="a checkpoint folder")
    parser.add_argument("--share", type=float, default=0.5, help="of the first checkpoint's weights")
    options = parser.parse_args()
    own, other = load_checkpoint(options.folder), load_checkpoint(options.other)
    scales = [(own.mean, other.mean), (own.deviation, other.deviation)]
    if own.config != other.config:
        parser.error(f"{options.other}: a network of another shape than {options.folder}")
    if own.properties != other.properties or not all(np.array_equal(*pair) for pair in scales):
        parser.error(f"{options.other}: other properties, or another scale, than {options.folder}")
    weights, others = own.model.state_dict(), other.model.state_dict()
    mixed = {name: options.share * value + (1 - options.share) * others[name] for name, value in weights.items()}
    own.model.load_state_dict(mixed)
    save_changed(replace(own, source=own.model), options.folder)  # the file's weights are the source until now


if __name__ == "__main__":
    main()
