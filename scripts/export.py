"""Turn a training run, or several to be averaged, into a checkpoint folder and enter it in index.json beside it.

python scripts/export.py runs/first crystals.npz models/crystalformer-mp --summary "..." \\
    --card scripts/cards/crystalformer-mp.md [--default]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crystalpredict._files import file_sha256
from crystalpredict._schema import record
from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, properties_of, save_checkpoint
from crystalpredict.checkpoints.files import TrainedProperty
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.data.dataset import CrystalTable
from crystalpredict.io.entries import read_entries
from crystalpredict.nn import Crystalformer, ModelConfig, ensemble_of
from crystalpredict.training.run_folder import kept_state
from crystalpredict.training.trainer import LAST_LAYERS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def main() -> None:
    """Read the run, write the folder, update the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", type=Path, help="the prepared crystals that the run was trained on")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--summary", required=True, help="one line for `crystalpredict models list`")
    parser.add_argument("--card", type=Path, required=True, help="text of the model card")
    parser.add_argument("--began", type=Path, help="checkpoint that the run began with, which knows crystals too")
    parser.add_argument("--with", dest="others", nargs="*", type=Path, default=[], help="others to average with it")
    parser.add_argument("--properties", nargs="+", metavar="NAME", help="of the checkpoint [default: all of the run]")
    parser.add_argument("--default", action="store_true")
    parser.add_argument("--unrelaxed", action="store_true", help="the run learnt what unrelaxed crystals relax to")
    options = parser.parse_args()

    config = json.loads((options.run / "config.json").read_text())
    runs = [options.run, *options.others]
    network = record(config["model"], ModelConfig)
    members = [Crystalformer(network) for _ in runs]
    for run, member in zip(runs, members, strict=True):
        other = json.loads((run / "config.json").read_text())
        if other["properties"] != config["properties"] or record(other["model"], ModelConfig) != network:
            parser.error(f"{run}: another network, other properties, or another scale, than {options.run}")
        finished = (run / "model.safetensors").exists()  # a checkpoint, as `finetune` leaves one
        member.load_state_dict(load_checkpoint(run).model.state_dict() if finished else kept_state(run))
    entries = record(config["properties"], tuple[TrainedProperty, ...])
    kept = [row for row, entry in enumerate(entries) if entry.name in (options.properties or [entry.name])]
    members = [with_outputs(member, kept) for member in members]
    properties, mean, deviation = properties_of([entries[row] for row in kept])
    if options.unrelaxed:  # what changes on relaxation is part of the answer
        properties = tuple(replace(prop, on_request=False) for prop in properties)
    table = CrystalTable.load(options.table)
    began = load_checkpoint(options.began) if options.began else None
    known_elements = began.training.get("elements_seen", ()) if began else ()
    training = {
        "settings": config["training"],
        "crystals": config["crystals"],
        "elements_seen": sorted({*np.unique(table.numbers).tolist(), *known_elements}),
        "learnt": sorted({*(prop.identity for prop in properties), *(began.learnt if began else ())}),
    }
    if options.unrelaxed:
        training["unrelaxed"] = True
    model = ensemble_of(members).eval()
    checkpoint = Checkpoint(options.folder.name, model, properties, mean, deviation, training)
    golden = golden_crystals(model.config)
    save_checkpoint(checkpoint, options.folder, golden, options.card.read_text(encoding="utf-8"))
    uses = [use for use in ("default", "unrelaxed") if getattr(options, use)]
    enter_in_index(options.folder, options.summary, [prop.name for prop in properties], uses)
    print(f"{options.folder}: written, with outputs for {len(golden)} crystals")


def golden_crystals(config: ModelConfig) -> list[Crystal]:
    """The crystals of examples/, whose outputs a checkpoint keeps."""
    return [
        entry.crystal
        for path in sorted(EXAMPLES.iterdir())
        for entry in read_entries(str(path), config.radius, vectors=config.vectors)
        if entry.crystal
    ]


def with_outputs(model: Crystalformer, rows: list[int]) -> Crystalformer:
    """The network with some of its outputs only."""
    state = model.state_dict()
    for name in [name for name in state if name.startswith(LAST_LAYERS)]:
        state[name] = state[name][rows]
    new = Crystalformer(replace(model.config, outputs=len(rows)))
    new.load_state_dict(state)
    return new


def enter_in_index(folder: Path, summary: str, properties: list[str], uses: Sequence[str] = ()) -> None:
    """Add the folder with its checksums to index.json beside it; it becomes the model of some `uses`."""
    path = folder.parent / "index.json"
    new = {"default": folder.name, "unrelaxed": folder.name, "models": {}}
    index = json.loads(path.read_text()) if path.exists() else new
    files = sorted(file for file in folder.iterdir() if file.is_file())
    index["models"][folder.name] = {
        "folder": folder.name,
        "summary": summary,
        "properties": properties,
        "format_version": json.loads((folder / "config.json").read_text())["format_version"],
        "files": {file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in files},
    }
    index.update(dict.fromkeys(uses, folder.name))
    path.write_text(json.dumps(index, indent=2) + "\n")


def save_changed(checkpoint: Checkpoint, folder: Path) -> None:
    """Save a checkpoint whose network has changed with the card of its folder; it needs calibrating afterwards."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    save_checkpoint(replace(checkpoint, calibration=None), folder, golden_crystals(checkpoint.model.config), card)
    refresh_index(folder)


def refresh_index(folder: Path) -> None:
    """Bring properties, checksums and sizes of a folder that is in the index beside it up to date."""
    path = folder.parent / "index.json"
    entry = json.loads(path.read_text())["models"].get(folder.name) if path.exists() else None
    if entry:
        properties = json.loads((folder / "config.json").read_text())["properties"]
        enter_in_index(folder, entry["summary"], [prop["name"] for prop in properties])


if __name__ == "__main__":
    main()
