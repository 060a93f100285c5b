"""Files made here by the authors' table of keys are imported, and predict what the paper's own sums give."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalpredict.checkpoints.checkpoint import load_checkpoint, network_outputs, save_checkpoint
from crystalpredict.checkpoints.import_upstream import card_of, golden_crystals, read_upstream
from crystalpredict.errors import CheckpointError, UsageError
from tests.brute_force import network
from tests.reference import GOLDEN, from_upstream, reference_crystals

PLAIN: dict[str, Any] = {
    "seed": 123, "optimizer": "adamw", "lr": 0.0005, "sch_params": [4000.0], "adam_betas": [0.9, 0.98], "n_epochs": 500,
    "targets": "e_form", "loss_func": "L1", "encoder_name": "latticeformer", "num_layers": 2, "lattice_range": 2,
    "adaptive_cutoff_sigma": -3.5, "minimum_range": True, "model_dim": 32, "k_dim": 0, "v_dim": 0, "head_num": 4,
    "ff_dim": 64, "t_fixup_init": True, "embedding_dim": [24], "t_activation": "relu", "domain": "real",
    "gauss_lb_real": 0.5, "gauss_lb_reci": 0.5, "gauss_state": "q", "normalize_gauss": True, "positive_func": "elu=0.1",
    "use_cgcnn_feat": False, "scale_real": [1.4], "scale_reci": [2.2], "value_pe_dist_real": 16,
    "value_pe_dist_reci": 0, "value_pe_dist_max": -10.0, "value_pe_width_scale": 1.0, "value_pe_headed": True,
    "exclude_self": False, "norm_func_mode": 0, "pooling": "avr", "pre_pooling_op": "no", "norm_type": "no",
    "pretrained_model": None, "normalize_targets": "scale_bias", "swa_epochs": 50, "use_cuda_code": True,
    "param_file": "default.json",
}  # fmt: skip
ANGLES: dict[str, Any] = {
    "positive_func_beta": 0.1, "value_pe_dist_wscale": 1.0, "frame_method": "max", "cos_abs": 0,
    "value_pe_angle_real": 16, "value_pe_angle_wscale": 4.0, "value_pe_angle_coef": 1.0, "value_pe_dist_coef": 1.0,
    "symm_break_noise": 1e-5,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "simplified": {"value_pe_dist_real": 0},
    "seven blocks": {"num_layers": 7},
    "other constants": {"scale_real": [1.2], "value_pe_dist_max": 9.0, "positive_func": "elu=0.1"},
    "wide": {"scale_real": [2.2]},
    "dual": {"domain": "multihead"},
    "alternating": {"domain": "real-reci", "num_layers": 3},
    "reciprocal": {"domain": "reci", "scale_reci": [1.9]},
    "framed": ANGLES,
    "framed, light": ANGLES | {"value_pe_dist_coef": 1.5, "value_pe_angle_wscale": 1.0, "value_pe_angle_coef": 6.0},
}
CRYSTALS = [reference_crystals()[number] for number in (0, 1, 3, 4)]
TARGET = {"target_mean": torch.tensor([-1.5]), "target_std": torch.tensor([0.8])}
Change = Callable[[dict[str, Any]], object]


def tensors_of(settings: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """A network by the table of keys: the reference weights, its layers repeated, a little noise, random directions."""
    noise = torch.Generator().manual_seed(seed)
    golden = {key: torch.from_numpy(value).float() for key, value in np.load(GOLDEN / "reference_weights.npz").items()}
    tensors = {key: value for key, value in golden.items() if not key.startswith("encoder")}
    for block in range(settings["num_layers"]):
        own, source = f"encoder.layers.{block}.", f"encoder.layers.{block % 2}."
        for key, value in golden.items():
            if key.startswith(source):
                tensors[own + key.removeprefix(source)] = value * (0.5 if settings["num_layers"] > 3 else 1.0)
        attention = own + "self_attn."
        tensors[attention + "gauss_scale"] = golden[source + "self_attn.gauss_scale"].clone()
        tensors[attention + "atten_scale"] = torch.zeros(1)
        reciprocal = settings["domain"] == "reci" or (settings["domain"] == "real-reci" and block % 2)
        if reciprocal or not settings["value_pe_dist_real"]:
            del tensors[attention + "pe_dist_proj"]
        for axis in (1, 2, 3):
            if settings.get("value_pe_angle_real"):
                tensors[f"{attention}proj_angle{axis}"] = 0.3 * torch.randn(1, 4, 8, 16, generator=noise)
    return {
        key: value + (0.02 * torch.randn(value.shape, generator=noise) if value.numel() > 2 else 0)
        for key, value in tensors.items()
    }


def content_of(settings: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What Lightning writes: running means of the weights beside other, last ones, and what the training had."""
    last = {f"model.{key}": value + 0.5 for key, value in tensors.items()}
    means = {f"swa_model.module.{key}": value for key, value in tensors.items()}
    return {
        "epoch": 499, "global_step": 12345, "pytorch-lightning_version": "1.9.0", "hyper_parameters": settings,
        "state_dict": {**last, **means, **TARGET, "swa_model.n_averaged": torch.tensor(99)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}], "callbacks": {}, "loops": {},
    }  # fmt: skip


def written(path: Path, settings: dict[str, Any], change: Change = lambda content: None) -> Path:
    content = content_of(settings, tensors_of(settings))
    change(content)
    torch.save(content, path)
    return path


def paper_sums(settings: dict[str, Any], config: Any) -> list[float]:
    """Values by the double sums in float64, of the crystals of the reference."""
    weights = {key: value.double() for key, value in from_upstream(tensors_of(settings), config).items()}
    values = []
    for crystal in CRYSTALS:
        spacing = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0).max()
        reach = int(np.ceil((config.radius + 1) / spacing)) + 1
        mix = torch.zeros(crystal.n_atoms, 98, dtype=torch.float64)
        mix[torch.arange(crystal.n_atoms), torch.from_numpy(crystal.numbers[:, 0] - 1)] = 1
        lattice, positions = torch.from_numpy(crystal.lattice), torch.from_numpy(crystal.positions)
        values.append(float(network(weights, config, lattice, positions, mix, reach)[0]) * 0.8 - 1.5)
    return values


@pytest.mark.parametrize("name", VARIANTS)
def test_an_imported_network_predicts_what_the_papers_sums_give(name: str, tmp_path: Path) -> None:
    settings = PLAIN | VARIANTS[name]
    checkpoint = read_upstream(written(tmp_path / "best.ckpt", settings))
    save_checkpoint(checkpoint, tmp_path / "best", golden_crystals(), card_of(checkpoint))
    loaded = load_checkpoint(tmp_path / "best")
    values = loaded.decode(network_outputs(loaded.model, CRYSTALS))["formation_energy"]
    assert values.tolist() == pytest.approx(paper_sums(settings, loaded.model.config), abs=1e-4)
    assert loaded.training["weights"] == "running means of the weights"
    assert loaded.training["settings"]["domain"] == settings["domain"]


def test_the_last_weights_are_taken_where_there_are_no_means(tmp_path: Path) -> None:
    def only_last(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        content["state_dict"] = {key: value for key, value in state.items() if not key.startswith("swa")}

    def no_means_yet(content: dict[str, Any]) -> None:
        content["state_dict"]["swa_model.n_averaged"] = torch.tensor(0)

    for change in (only_last, no_means_yet):
        checkpoint = read_upstream(written(tmp_path / "last.ckpt", PLAIN, change))
        assert checkpoint.training["weights"] == "last weights"
        expected = tensors_of(PLAIN)["mlp.3.bias"] + 0.5
        assert torch.equal(checkpoint.model.readout[2].bias, expected)


def test_targets_are_known_or_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", PLAIN | {"targets": ["mbj_bandgap"]})
    (gap,) = read_upstream(path).properties
    assert gap.column == "mbj_bandgap_eV"
    assert "gap" in gap.aliases
    (shear,) = read_upstream(written(tmp_path / "b.ckpt", PLAIN | {"targets": "shear_modulus"})).properties
    assert shear.transform == "log10"
    path = written(tmp_path / "c.ckpt", PLAIN | {"targets": "hardness"})
    with pytest.raises(UsageError, match=r"target 'hardness'.*--target"):
        read_upstream(path)
    assert [prop.name for prop in read_upstream(path, ["eform"]).properties] == ["formation_energy"]
    with pytest.raises(UsageError, match="2 targets for 1 outputs"):
        read_upstream(path, ["eform", "gap"])
    with pytest.raises(UsageError, match="without targets"):
        read_upstream(written(tmp_path / "d.ckpt", {k: v for k, v in PLAIN.items() if k != "targets"}))


@pytest.mark.parametrize("name", ["opt_bandgap", "total_energy", "stability", "delta_e", "ehull", "bulk_modulus"])
def test_the_targets_of_the_authors_data_sets_are_known(name: str, tmp_path: Path) -> None:
    (prop,) = read_upstream(written(tmp_path / "a.ckpt", PLAIN | {"targets": [name]})).properties
    assert prop.unit == {"opt_bandgap": "eV", "bulk_modulus": "GPa"}.get(name, "eV/atom")


@pytest.mark.parametrize(("settings", "name"), [(ANGLES, "cos_abs"), ({"domain": "multihead"}, "lattice_range")])
def test_a_setting_whose_absence_means_something_else_is_asked_for(
    settings: dict[str, Any], name: str, tmp_path: Path
) -> None:
    settings = PLAIN | settings
    path = written(tmp_path / "odd.ckpt", settings, lambda content: content["hyper_parameters"].pop(name))
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read_upstream(path)


def changed(**values: Any) -> Change:
    return lambda content: content["hyper_parameters"].update(values)


def tensor(name: str, value: Tensor | None) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"].pop(name, None)
        if value is not None:
            content["state_dict"][name] = value

    return change


MEANS = "swa_model.module."
LAYER = MEANS + "encoder.layers.1."
DAMAGES: dict[str, tuple[Change, str]] = {
    "unknown setting": (changed(magic=1), "setting 'magic'"),
    "other pooling": (changed(pooling="max"), "pooling is 'max'"),
    "group norm": (changed(norm_type="bn"), "norm_type is 'bn'"),
    "other domain": (changed(domain="imaginary"), "domain is 'imaginary'"),
    "other activation of rho": (changed(positive_func="softplus"), "positive_func"),
    "widths by block": (changed(scale_real=[1.4, 1.5]), "scale_real differs"),
    "bounds by space": (changed(domain="multihead", gauss_lb_reci=0.4), "gauss_lb differs"),
    "other frames": (changed(frame_method="pca", value_pe_angle_real=16), "proj_angle1"),
    "scale in words": (changed(scale_real="wide"), "wide"),
    "unknown tensor": (tensor(MEANS + "encoder.norm.weight", torch.ones(32)), "'encoder.norm.weight'"),
    "unknown tensor in a block": (tensor(LAYER + "norm1.weight", torch.ones(32)), "norm1.weight"),
    "unknown tensor at the top": (tensor("teacher.weight", torch.ones(32)), "'teacher.weight'"),
    "no readout": (tensor(MEANS + "mlp.3.weight", None), "mlp.3.weight is missing"),
    "no key": (tensor(LAYER + "self_attn.k_proj_weight", None), "encoder.layers.1.self_attn.k_proj_weight is missing"),
    "no scale": (tensor("target_std", None), "target_std is missing"),
    "scale of two": (tensor("target_std", torch.ones(2)), "1 means and 2 deviations"),
    "scale 0": (tensor("target_std", torch.zeros(1)), "not positive"),
    "width never set": (tensor(LAYER + "self_attn.gauss_scale", torch.zeros(2)), "gauss_scale was never set"),
    "a shape": (tensor(LAYER + "linear2.bias", torch.ones(31)), "(31,)"),
    "not a number": (tensor(LAYER + "linear2.bias", torch.full((32,), torch.nan)), "not finite"),
    "100 elements": (tensor(MEANS + "input_embeddings.weight", torch.ones(32, 100)), "100 elements"),
    "no network": (lambda content: content.update(state_dict={"weight": torch.ones(1)}), "not a Crystalformer"),
    "no state": (lambda content: content.pop("state_dict"), "no state_dict"),
    "state of lists": (lambda content: content.update(state_dict=[1, 2]), "no state_dict"),
    "settings in a list": (lambda content: content.update(hyper_parameters=[1]), "hyper_parameters"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_understood_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    change, part = DAMAGES[damage]
    path = written(tmp_path / "odd.ckpt", dict(PLAIN), change)
    with pytest.raises(CheckpointError) as caught:
        read_upstream(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert part in str(caught.value)


def test_angles_in_dual_space_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "odd.ckpt", PLAIN | ANGLES | {"domain": "multihead"})
    with pytest.raises(CheckpointError, match="dual"):
        read_upstream(path)


class Harmful:
    """What a pickle may run when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("this ran",))


def whole(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", b"PK\x03\x04 no zip", b"\x80\x02}q\x00.", pickle.dumps({"state_dict": {}}),
        pickle.dumps(Harmful()), whole({"state_dict": Harmful()}), whole([1, 2]), whole(content_of(PLAIN, {}))[:800],
    ],
    ids=["empty", "text", "zip", "old pickle", "pickle", "harmful", "harmful inside", "list", "cut"],
)  # fmt: skip
def test_files_that_are_no_checkpoints_are_refused_and_not_run(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_upstream(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_upstream(tmp_path / "nowhere.ckpt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_upstream(tmp_path)
