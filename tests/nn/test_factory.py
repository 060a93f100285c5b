"""Configurations of all attention types: parameters, checkpoints and training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalpredict._schema import record
from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, verify_golden
from crystalpredict.checkpoints.files import read_config
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table
from crystalpredict.errors import CheckpointError, DataError
from crystalpredict.nn import Crystalformer, ModelConfig, network_of
from crystalpredict.nn.attention import InfinitelyConnectedAttention
from crystalpredict.nn.directional import FramedAttention
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.properties import find_property
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer
from tests.in_process import run_script
from tests.sample_crystals import random_crystal, rock_salt, table_of

FAMILY: dict[str, dict[str, Any]] = {
    "real": {},
    "simplified": {"radial_basis": 0},
    "dual": {"attention": "dual"},
    "alternating": {"attention": "alternating"},
    "reciprocal": {"attention": "reciprocal"},
    "framed": {"attention": "framed", "direction_basis": 16},
}
VARIANTS = [name for name in FAMILY if name not in ("real", "simplified")]
SMALL = ModelConfig(blocks=2, width=32, heads=4, feedforward=64, readout=32, radial_basis=16, outputs=1)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 853_505),
        ({"blocks": 7}, 1_471_766 - 7 * 3),  # upstream counts 3 untrained numbers a block
        ({"radial_basis": 0}, 820_749 - 4 * 3),
        ({"attention": "alternating"}, 837_133 - 4 * 3),
        ({"attention": "dual"}, 837_133 - 4 * 3),  # upstream keeps, unused, the encodings of the reciprocal heads
        ({"attention": "framed"}, 951_821 - 4 * 3),
        ({"width": 64, "heads": 4, "feedforward": 256, "readout": 64}, 226_049),
        ({"width": 256, "heads": 16, "feedforward": 1024, "readout": 256}, 3_312_641),
    ],
    ids=str,
)
def test_parameters_of_the_papers_networks_and_of_other_widths(change: dict[str, Any], count: int) -> None:
    model = Crystalformer(ModelConfig(**change))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_a_block_has_the_attention_that_the_config_names() -> None:
    kinds = {
        name: [block.attention for block in Crystalformer(replace(SMALL, blocks=3, **change)).blocks]
        for name, change in FAMILY.items()
    }
    assert all(type(attention) is InfinitelyConnectedAttention for attention in kinds["real"])
    assert all(type(attention) is FramedAttention for attention in kinds["framed"])
    real = [[getattr(attention, "real_heads", 4) for attention in kinds[name]] for name in VARIANTS[:3]]
    assert real == [[2, 2, 2], [4, 0, 4], [0, 0, 0]]
    assert kinds["alternating"][1].radial_weights is None
    assert kinds["dual"][1].radial_weights.shape == (2, 8, 16)


def test_direction_weights_begin_small() -> None:
    torch.manual_seed(0)
    attention = Crystalformer(ModelConfig(attention="framed")).blocks[2].attention
    assert attention.direction_weights.abs().max().item() == pytest.approx(0.0221, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "dull"}, "attention is 'dull'; did you mean 'dual'"),
        ({"attention": 7}, "attention is 7: expected a text"),
        ({"attention": "dual", "heads": 1}, "even"),
        ({"attention": "framed", "direction_basis": 1}, "at least 2"),
        ({"reciprocal_reach": -1}, "reciprocal_reach is -1: expected an integer >= 0"),
        ({"reciprocal_cutoff": 0.0}, "expected a number > 0.0"),
        ({"direction_width": -1.0}, "expected a number > 0.0"),
        ({"members": 0}, "expected an integer >= 1"),
        ({"members": 2000}, "expected an integer <= 100"),
        ({"stages": 3}, "expected an integer <= 2"),
        ({"stages": 2, "members": 2}, "2 stages and 2 members"),
        ({"blocks": 4000, "width": 512}, "weights or more"),
    ],
    ids=str,
)
def test_impossible_members_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(change, ModelConfig)


@pytest.mark.parametrize(
    "change",
    [*FAMILY.values(), {"members": 3}, {"stages": 2}, {"readout_of_states": 300}, {"radial_basis": 0}],
    ids=str,
)
def test_the_lower_bound_on_the_number_of_weights_holds(change: dict[str, Any]) -> None:
    config = ModelConfig(outputs=5, **change)
    weights = sum(value.numel() for value in network_of(config).state_dict().values())
    assert config.least_weights <= weights < 1.1 * config.least_weights


def checkpoint_of(change: dict[str, Any]) -> Checkpoint:
    torch.manual_seed(1)
    model = Crystalformer(replace(SMALL, **change))
    crystals = [random_crystal(seed) for seed in range(8)]
    config = model.config
    edges = [find_neighbors(c.lattice, c.positions, config.radius, vectors=config.vectors) for c in crystals]
    from crystalpredict.nn.batch import collate

    model.fit_width_norm(collate(crystals, edges))
    return Checkpoint("one", model.eval(), (find_property("bandgap"),), np.array([1.0]), np.array([2.0]), {})


@pytest.mark.parametrize("name", FAMILY)
def test_a_saved_network_predicts_the_same_after_loading(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(FAMILY[name])
    save_checkpoint(checkpoint, tmp_path / "one", [rock_salt(), random_crystal(3)], "# A card\n")
    loaded = load_checkpoint(tmp_path / "one")
    assert loaded.model.config == checkpoint.model.config
    assert verify_golden(loaded, tmp_path / "one") < 1e-6
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["format_version"] == (2 if name in VARIANTS else 1)
    assert ("attention" in config["model"]) == (name in VARIANTS) == read_config(tmp_path / "one").model.vectors
    files = sorted(str(path) for path in (Path(__file__).parents[2] / "examples").glob("*.vasp"))
    one, two = (Predictor(this, device="cpu").predict(files) for this in (checkpoint, loaded))
    assert [row.values for row in one] == [row.values for row in two]
    assert all(np.isfinite(row["bandgap_eV"]) for row in one)


@pytest.mark.parametrize("name", ["real", "framed"])
def test_an_ensemble_predicts_the_mean_of_its_members(name: str, tmp_path: Path) -> None:
    alone = checkpoint_of(FAMILY[name])
    ensemble = network_of(replace(alone.model.config, members=3))
    for number, member in enumerate(ensemble.networks):
        torch.manual_seed(number)
        weights = {key: value + 0.1 * torch.randn_like(value) for key, value in alone.model.state_dict().items()}
        member.load_state_dict(weights)
    checkpoint = replace(alone, source=ensemble.eval())
    save_checkpoint(checkpoint, tmp_path / "all", [rock_salt(), random_crystal(3)], "# A card\n")
    loaded = load_checkpoint(tmp_path / "all")
    assert loaded.model.config == ensemble.config
    assert verify_golden(loaded, tmp_path / "all") < 1e-6
    assert json.loads((tmp_path / "all" / "config.json").read_text())["format_version"] == 3
    files = sorted(str(path) for path in (Path(__file__).parents[2] / "examples").glob("*.vasp"))
    together = Predictor(loaded, device="cpu").predict(files)
    singly = [Predictor(replace(alone, source=member), device="cpu").predict(files) for member in ensemble.networks]
    for number, row in enumerate(together):
        values = [rows[number]["bandgap_eV"] for rows in singly]
        assert max(values) - min(values) > 1e-3
        # the least gap is 0, which the mean of the outputs may be above where a member is not
        assert row["bandgap_eV"] == pytest.approx(np.mean(values), rel=1e-5) or min(values) == 0
    (features, *_), own = Predictor(loaded, device="cpu").embed(files), SMALL.width
    assert features.features.shape == (3 * own,)
    for number, member in enumerate(ensemble.networks):
        (expected, *_) = Predictor(replace(alone, source=member), device="cpu").embed(files)
        assert features.features[number * own : (number + 1) * own] == pytest.approx(expected.features, rel=1e-5)


def test_an_ensemble_in_an_older_format_is_refused(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of(FAMILY["framed"]), tmp_path, [rock_salt()], "")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["members"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no ensembles"):
        load_checkpoint(tmp_path)
    config["format_version"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_the_papers_model_has_no_key_of_the_family(tmp_path: Path) -> None:
    """So that older versions of the program read it."""
    save_checkpoint(checkpoint_of({}), tmp_path, [rock_salt()], "")
    assert list(json.loads((tmp_path / "config.json").read_text())["model"]) == [
        "blocks", "width", "heads", "feedforward", "radial_basis", "readout", "outputs", "r0", "r_max", "rho_bound",
        "rho_slope", "radius",
    ]  # fmt: skip


def test_weights_of_another_member_are_refused(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of(FAMILY["dual"]), tmp_path, [rock_salt()], "")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["attention"] = "framed"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def table() -> CrystalTable:
    crystals = [random_crystal(seed, n_atoms=1 + seed % 4) for seed in range(30)]
    labels = np.array([[crystal.numbers.mean() / 50 - 1] for crystal in crystals])
    table = table_of(crystals, labels, find_property("formation_energy"))
    return replace(table, splits=np.where(np.arange(30) < 26, TRAIN, VALIDATION))


@pytest.mark.parametrize("name", [*VARIANTS, "simplified"])
def test_the_training_script_trains_every_member(name: str, table: CrystalTable, tmp_path: Path) -> None:
    table.save(tmp_path / "crystals.npz")
    run_script(
        "train.py", tmp_path / "crystals.npz", tmp_path / "run", "--threads", "1", "--set", "epochs=15",
        "batch_atoms=20", "learning_rate=1e-2", "schedule=one_cycle", "--model", "blocks=2", "width=16", "heads=2",
        "feedforward=32", *(f"{key}={value}" for key, value in FAMILY[name].items()),
    )  # fmt: skip
    losses = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)["loss"]
    assert losses[-1] < 0.8 * losses[0]
    model = record(json.loads((tmp_path / "run" / "config.json").read_text())["model"], ModelConfig)
    assert model.attention == FAMILY[name].get("attention", "real")


@pytest.mark.parametrize("name", ["dual", "framed"])
def test_a_member_goes_on_from_its_checkpoint(name: str, table: CrystalTable, tmp_path: Path) -> None:
    start = checkpoint_of(FAMILY[name])
    neighbors = neighbor_table(table, start.model.config.radius, tmp_path / "cache", merging=start.model.config.merging)
    again = neighbor_table(table, start.model.config.radius, tmp_path / "cache", merging=start.model.config.merging)
    assert np.array_equal(again.vectors, neighbors.vectors)
    config = TrainingConfig(epochs=1, batch_atoms=20)
    training = Trainer(tmp_path / "run", table, neighbors, start.model.config, config, start)
    assert torch.equal(training.model.blocks[0].attention.output.weight, start.model.blocks[0].attention.output.weight)
    training.run(lambda progress: None)
    resumed = Trainer(tmp_path / "run", table, neighbors, start.model.config, config, start)
    assert resumed.step == training.step > 0


def test_lists_without_vectors_are_refused_before_a_training(table: CrystalTable, tmp_path: Path) -> None:
    plain = neighbor_table(table, 6.0)
    with pytest.raises(DataError, match="framed attention needs neighbour lists made with vectors"):
        Trainer(tmp_path, table, plain, replace(SMALL, attention="framed"), TrainingConfig())
    assert not list(tmp_path.iterdir())


def test_neighbour_lists_with_vectors_are_kept_apart_from_those_without(table: CrystalTable, tmp_path: Path) -> None:
    plain, full = (neighbor_table(table, 5.0, tmp_path, merging=merging) for merging in ("distances", "nothing"))
    assert plain.vectors is None
    assert len(list(tmp_path.iterdir())) == 2
    edges = full.neighbors(5)
    crystal = table.crystal(5)
    assert edges.size == crystal.n_atoms
    assert np.allclose(np.linalg.norm(edges.vectors, axis=1), edges.distances, atol=1e-5)
    (merged,) = merge_equivalent([crystal], [edges], 5.0)
    assert merged.size == crystal.n_atoms
