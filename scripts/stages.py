"""Give a model for unrelaxed structures a second network, for crystals as the first relaxes them.

python scripts/stages.py models/crystalformer-mp-unrelaxed SECOND

SECOND is a checkpoint of the same shape and scale (scripts/export.py), which learnt from the table of
scripts/correct.py. A second network that the model has already is replaced. The folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from export import save_changed

from crystalpredict.checkpoints.checkpoint import load_checkpoint
from crystalpredict.nn import Crystalformer
from crystalpredict.nn.ensemble import Ensemble, Stages


def main() -> None:
    """Join, write, refresh the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint of the model, which is changed")
    parser.add_argument("second", type=Path, help="checkpoint folder")
    options = parser.parse_args()
    own, other = load_checkpoint(options.folder), load_checkpoint(options.second)
    if isinstance(own.model, Ensemble) or own.relaxation is None:
        parser.error(f"{options.folder} has no head of relaxation")
    first, second = own.model.first, other.model
    names = [[prop.identity for prop in checkpoint.properties] for checkpoint in (own, other)]
    scales = [np.array([checkpoint.mean, checkpoint.deviation]) for checkpoint in (own, other)]
    same = names[0] == names[1] and np.array_equal(*scales) and second.config == first.config
    if not same or not isinstance(second, Crystalformer):
        parser.error(f"{options.second}: another network, other properties, or another scale, than {options.folder}")
    facts = {name: other.training[name] for name in ("settings", "crystals") if name in other.training}
    elements = {element for each in (own, other) for element in each.training.get("elements_seen", ())}
    training = own.training | {"second": facts, "elements_seen": sorted(elements)}
    save_changed(replace(own, source=Stages([first, second]), training=training), options.folder)


if __name__ == "__main__":
    main()
