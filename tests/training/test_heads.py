"""What the scripts that change weights of a checkpoint do."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crystalpredict import load_model
from crystalpredict.checkpoints.checkpoint import load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.nn import Crystalformer
from crystalpredict.properties import VOLUME_CHANGE
from tests.sample_crystals import batch_of, random_crystal, rock_salt, table_of

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "crystalformer-mp"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_mixed_weights_are_means_and_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mix
    from export import save_changed

    one, two = (shutil.copytree(MODEL, tmp_path / name) for name in ("one", "two"))
    other = load_checkpoint(two)
    other.model.load_state_dict({name: value * 3 for name, value in other.model.state_dict().items()})
    save_changed(replace(other, source=other.model), two)
    monkeypatch.setattr(sys, "argv", ["mix.py", str(one), str(two), "--share", "0.75"])
    mix.main()
    before, after = (load_checkpoint(folder).model.state_dict() for folder in (MODEL, one))
    assert all(torch.allclose(after[name], value * 1.5, rtol=1e-5) for name, value in before.items())


def test_a_head_learns_by_how_much_an_output_exceeds_a_value() -> None:
    import fit_head

    checkpoint = load_checkpoint(MODEL)
    random = np.random.default_rng(5)
    features = random.normal(size=(4000, 6)).astype(np.float32)
    outputs = np.zeros((4000, len(checkpoint.properties)))
    outputs[:, 0] = features @ [0.8, -0.5, 0.3, 0, 0, 0.2]  # the gap
    head = fit_head.bend_of("bandgap=2", checkpoint, outputs, torch.from_numpy(features))
    start = (2 - checkpoint.mean[0]) / checkpoint.deviation[0]
    excess = np.maximum(outputs[:, 0] - start, 0)
    with torch.inference_mode():
        found = head(torch.from_numpy(features))[:, 0].numpy()
    assert np.abs(found - excess).mean() < 0.1 * excess.std()


def test_a_sum_of_heads_is_the_sum_of_their_outputs() -> None:
    import fit_head

    torch.manual_seed(3)
    heads = [nn.Sequential(nn.Linear(5, units), nn.ReLU(), nn.Linear(units, 1)) for units in (3, 7)]
    inputs = torch.randn(4, 5)
    with torch.inference_mode():
        wanted = 0.5 * heads[0](inputs) - 2 * heads[1](inputs)
        assert torch.allclose(fit_head.sum_of(heads, [0.5, -2.0])(inputs), wanted, atol=1e-6)


def test_heads_in_either_readout_change_one_output_by_what_they_say() -> None:
    import fit_head

    checkpoint = load_checkpoint(find_model(unrelaxed=True))
    network, batch = (
        checkpoint.model.first,
        batch_of(rock_salt(), random_crystal(4), radius=6.0).to("cpu", torch.float32),
    )
    torch.manual_seed(4)
    heads = {
        name: nn.Sequential(nn.Linear(inputs, 9), nn.ReLU(), nn.Linear(9, 1))
        for name, inputs in (("readout", network.config.width), ("readout_of_states", network.config.states))
    }
    with torch.inference_mode():
        means, before = network.means(batch), network(batch)
        added = {"readout": heads["readout"](means[:, -network.config.width :])[:, 0]}
        added["readout_of_states"] = heads["readout_of_states"](means)[:, 0]
        model = network
        for name, head in heads.items():
            model = fit_head.with_head(model, head, 1, {1: 1.0, 0: 0.5}, 0.25, name)
            changed = model(batch)
            expected = before[:, 1] + 0.5 * before[:, 0] + 0.25 + added[name]
            assert torch.allclose(changed[:, 1], expected, atol=1e-4)
            assert torch.allclose(changed[:, [0, 2, 3, 4, 5]], before[:, [0, 2, 3, 4, 5]], atol=1e-4)
            before = changed
        assert model.config.readout_of_states == 9
        again = fit_head.with_head(model, heads["readout"], 1, {}, 0.0, "readout")
        assert again.config.readout_of_states == 0
        assert torch.allclose(again(batch)[:, 1], added["readout"], atol=1e-4)


def test_a_second_network_is_joined_and_sees_what_the_first_relaxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import correct
    import stages
    from export import save_changed

    folder, second = (shutil.copytree(find_model(unrelaxed=True), tmp_path / name) for name in ("model", "second"))
    checkpoint = load_checkpoint(second)
    network = Crystalformer(checkpoint.model.first.config)
    network.load_state_dict({name: 2 * value for name, value in checkpoint.model.first.state_dict().items()})
    save_changed(replace(checkpoint, source=network, relaxation=None), second)
    monkeypatch.setattr(sys, "argv", ["stages.py", str(folder), str(second)])
    stages.main()
    joined = load_checkpoint(folder).model
    assert torch.equal(joined.networks[0].embedding.weight, checkpoint.model.first.embedding.weight)
    assert torch.equal(joined.networks[1].embedding.weight, network.embedding.weight)
    monkeypatch.setattr(sys, "argv", ["stages.py", str(folder), str(MODEL)])
    with pytest.raises(SystemExit):
        stages.main()

    salt = rock_salt()
    wide = replace(salt, lattice=salt.lattice * 1.04, positions=salt.positions * 1.04)
    table = table_of([salt, wide], np.array([[0.0], [100 * (1.04**-3 - 1)]]), VOLUME_CHANGE)
    found = correct.corrected(load_model(find_model(unrelaxed=True), "cpu", ["formation_energy"]), table)
    left = np.log1p(found.labels[:, 0] / 100)
    volumes = np.log(np.abs(np.linalg.det(found.lattices)) / salt.volume)
    assert np.abs(volumes + left).max() < 1e-5  # what is left leads back to the relaxed volume
    assert abs(left[1]) < 0.04 < np.log(1.04**3) / 2
