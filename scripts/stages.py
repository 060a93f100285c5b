"""Give a model for unrelaxed structures a second network, for crystals as the first relaxes them.

python scripts/stages.py models/crystalformer-mp-unrelaxed runs/second

The run learnt from the table of scripts/correct.py, from weights of the same shape and scale (scripts/train.py --from).
A second network that the model has already is replaced. The folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from export import save_changed

from crystalpredict._schema import record
from crystalpredict.checkpoints.checkpoint import load_checkpoint, properties_of
from crystalpredict.checkpoints.files import TrainedProperty
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.ensemble import Ensemble, Stages
from crystalpredict.training.run_folder import kept_state


def main() -> None:
    """Join, write, refresh the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint of the model, which is changed")
    parser.add_argument("run", type=Path, help="of the second network")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.folder)
    config = json.loads((options.run / "config.json").read_text())
    properties, mean, deviation = properties_of(record(config["properties"], tuple[TrainedProperty, ...]))
    own = [prop.identity for prop in checkpoint.properties]
    if isinstance(checkpoint.model, Ensemble) or checkpoint.relaxation is None:
        parser.error(f"{options.folder} has no head of relaxation")
    first = checkpoint.model.first
    same = np.array_equal(mean, checkpoint.mean) and np.array_equal(deviation, checkpoint.deviation)
    if (
        [prop.identity for prop in properties] != own
        or not same
        or record(config["model"], ModelConfig) != first.config
    ):
        parser.error(f"{options.run}: another network, other properties, or another scale, than {options.folder}")
    second = Crystalformer(first.config)
    second.load_state_dict(kept_state(options.run))
    training = checkpoint.training | {"second": {"settings": config["training"], "crystals": config["crystals"]}}
    save_changed(replace(checkpoint, source=Stages([first, second.eval()]), training=training), options.folder)


if __name__ == "__main__":
    main()
