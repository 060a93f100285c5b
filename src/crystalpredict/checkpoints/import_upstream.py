"""Import checkpoints of the authors' programs, Crystalformer and CrystalFramer.

Lightning files are read without running code in them. Tensors are renamed; their values do not change. A file with an
unknown tensor or setting is refused, with its name in the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalpredict._schema import record
from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.errors import CheckpointError, UsageError, printable, suppress_warnings
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.properties import PROPERTIES, Property, find_property

# Å, and in units of the widest Gaussian's sigma. The authors sum over images within 3.5 sigma, or two cells if that is
# farther; both sums are converged
MIN_RADIUS, RADIUS_IN_SIGMA = 9.0, 4.5
WEIGHTS_PREFIX, MEAN_WEIGHTS_PREFIX = "model.", "swa_model.module."
MEAN_COUNT = "swa_model.n_averaged"
# attention by the authors' `domain`
ATTENTION = {"real": "real", "multihead": "dual", "real-reci": "alternating", "reci": "reciprocal"}

# settings of the network, with the values that apply to files older than the setting
DEFAULTS: dict[str, Any] = {
    "domain": "real", "scale_real": [1.4], "scale_reci": [2.2], "gauss_lb_real": 0.5, "gauss_lb_reci": 0.5,
    "value_pe_dist_max": -10.0, "head_num": 8, "value_pe_angle_real": 0, "value_pe_angle_wscale": 4.0,
    "value_pe_angle_coef": 1.0, "value_pe_dist_coef": 1.0, "frame_method": "max",
}  # fmt: skip
# settings of which only one value is supported
FIXED: dict[str, Any] = {
    "encoder_name": "latticeformer", "lattice_range": 2, "adaptive_cutoff_sigma": -3.5, "minimum_range": True,
    "k_dim": 0, "v_dim": 0, "t_activation": "relu", "gauss_state": "q", "normalize_gauss": True,
    "use_cgcnn_feat": False, "value_pe_dist_reci": 0, "value_pe_wave_real": 0, "value_pe_wave_reci": 0,
    "value_pe_width_scale": 1.0, "value_pe_dist_wscale": 1.0, "value_pe_headed": True, "value_pe_condproj": "no",
    "exclude_self": False, "norm_func_mode": 0, "pooling": "avr", "pre_pooling_op": "no", "norm_type": "no",
    "cos_abs": 0, "frame_mode": "both",
}  # fmt: skip
# settings that follow from the tensors, or do not change predictions
IGNORED_SETTINGS = set(
    """
    targets num_layers model_dim ff_dim embedding_dim value_pe_dist_real positive_func positive_func_beta scale_crystal
    param_file training_data momentum normalize_targets
    seed experiment_name save_path optimizer lr lr_sch sch_params adam_betas weight_decay clip_norm clip_grad dropout
    batch_size n_epochs loss_func t_fixup_init freeze_bn_epochs train_filter_max train_filter_min train_percent_check
    val_percent_check model_checkpoint_save_top_k pretrained_model num_workers target_set swa_epochs scale_grad
    use_cuda_code use_low_memory ddp reproduciblity_state symm_break_noise
    """.split()  # noqa: SIM905  as a table it can be read
)

_GAPS = ("gap", "band_gap", "bandgap")
TARGETS: dict[str, Property] = {
    **{
        name: find_property(ours)
        for ours, names in {
            "bandgap": ("bandgap",),
            "formation_energy": ("e_form", "formation_energy", "delta_e"),
            "e_above_hull": ("ehull", "e_hull", "e_above_hull"),
            "bulk_modulus": ("bulk_modulus",),
            "shear_modulus": ("shear_modulus",),
        }.items()
        for name in names
    },
    "opt_bandgap": Property("opt_bandgap", "band gap (OptB88vdW)", "eV", "eV", _GAPS, minimum=0.0),
    "mbj_bandgap": Property("mbj_bandgap", "band gap (MBJ)", "eV", "eV", _GAPS, minimum=0.0),
    "total_energy": Property("total_energy", "total energy", "eV/atom", "eV_per_atom", ("energy",)),
    "stability": Property("stability", "distance from the hull (OQMD)", "eV/atom", "eV_per_atom"),
}


def read_upstream(path: Path, targets: Sequence[str] = ()) -> Checkpoint:
    """Return the checkpoint in a file of the authors' programs, with the running means of the weights if there are any.

    Args:
        path: of the Lightning file.
        targets: names of known properties, one for each output; none: those that the file names.

    Raises:
        UsageError: the file cannot be read, or its targets are unknown.
        CheckpointError: the file is not a checkpoint, or has an unknown tensor or setting.
    """
    content = _load(path)
    state = content.get("state_dict")
    settings = content.get("hyper_parameters", {})
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path}: it has no state_dict of tensors; is it a Lightning checkpoint?")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: hyper_parameters is not a dictionary")
    try:
        _refuse_unknown(settings)
        weights, rest, averaged = _choose_weights(state)
        config = _config(weights, {**DEFAULTS, **settings})
        model = Crystalformer(config)
        model.load_state_dict(_renamed(weights, model))
        mean, deviation = (rest.pop(name).double().reshape(-1).numpy() for name in ("target_mean", "target_std"))
        if not len(mean) == len(deviation) == config.outputs:
            raise ValueError(f"{len(mean)} means and {len(deviation)} deviations for {config.outputs} outputs")
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
            raise ValueError("target_mean is not a number, or target_std is not positive")
    except KeyError as error:
        raise CheckpointError(f"{path}: {printable(str(error.args[0]))} is missing") from error
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: {printable(first[:300])}") from error
    if rest:
        raise CheckpointError(f"{path}: tensor {min(rest)[:100]!r} is unknown")
    properties = _properties(settings.get("targets"), targets, config.outputs)
    kind = "running means of the weights" if averaged else "last weights"
    training = {"imported_from": path.name, "weights": kind, "settings": _to_json(settings)}
    return Checkpoint(path.stem, model.eval(), properties, mean, deviation, training)


def _load(path: Path) -> dict[str, Any]:
    """Return the tensors and settings in a Lightning file; code in it is not run."""
    try:
        with suppress_warnings():  # about pickle protocols of files that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # torch raises errors of many types for damaged files
        raise CheckpointError(
            f"{path}: not a file of tensors and plain settings ({type(error).__name__}); other content is not loaded"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; is it a Lightning checkpoint?")
    return content


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError if a setting or its value is not supported."""
    for name, value in settings.items():
        if name in FIXED:
            if value != FIXED[name]:
                raise ValueError(f"{name} is {value!r}, but only {FIXED[name]!r} is supported")
        elif name not in DEFAULTS and name not in IGNORED_SETTINGS:
            raise ValueError(f"setting {name!r} is unknown")


def _choose_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Return weights by their names in the network, the other tensors, and whether the weights are running means."""
    of_prefix = {
        prefix: {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in (WEIGHTS_PREFIX, MEAN_WEIGHTS_PREFIX)
    }
    averaged = bool(of_prefix[MEAN_WEIGHTS_PREFIX]) and int(state.get(MEAN_COUNT, torch.tensor(1))) > 0
    weights = of_prefix[MEAN_WEIGHTS_PREFIX if averaged else WEIGHTS_PREFIX]
    if not weights:
        raise ValueError(f"no tensors named {WEIGHTS_PREFIX}* or {MEAN_WEIGHTS_PREFIX}*: not a Crystalformer")
    prefixes = (WEIGHTS_PREFIX, MEAN_WEIGHTS_PREFIX)
    rest = {name: value for name, value in state.items() if not name.startswith(prefixes) and name != MEAN_COUNT}
    for name, value in weights.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name} has more numbers than the file")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds values that are not finite")
    return weights, rest, averaged


def _config(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a network, with its shape from the tensors and its constants from the settings."""
    blocks = 1 + max(
        (int(found[1]) for name in weights if (found := re.match(r"encoder\.layers\.(\d+)\.", name))), default=0
    )
    layer = "encoder.layers.0."
    width, known = weights["input_embeddings.weight"].shape
    if known != len(ELEMENTS):
        raise ValueError(f"input_embeddings.weight is for {known} elements, but {len(ELEMENTS)} are supported")
    encodings = [value for name, value in weights.items() if name.endswith("pe_dist_proj")]
    heads = encodings[0].shape[1] if encodings else int(settings["head_num"])
    attention = ATTENTION.get(settings["domain"])
    if attention is None:
        raise ValueError(f"domain is {settings['domain']!r}, but only {', '.join(ATTENTION)} are supported")
    angles = weights.get(f"{layer}self_attn.proj_angle1")
    if angles is not None:
        if attention != "real" or settings["frame_method"] != "max":
            raise ValueError(f"frame_method {settings['frame_method']!r} in the domain {attention} is not supported")
        if "cos_abs" not in settings:
            raise ValueError("cos_abs is missing: it decides whether cosines have a sign")
        attention = "framed"
    elif settings["value_pe_angle_real"] or settings["value_pe_dist_coef"] != 1:
        raise ValueError("value_pe_angle_real or value_pe_dist_coef is set, but there is no proj_angle1")
    if attention not in ("real", "framed") and "lattice_range" not in settings:
        raise ValueError("lattice_range is missing: it decides which waves are summed")
    bounds = {float(settings[f"gauss_lb_{space}"]) for space in ("real", "reci")}
    if attention in ("real", "framed"):
        bounds = {float(settings["gauss_lb_real"])}
    bound = _single("gauss_lb", sorted(bounds))
    if not 0 < bound < 1:
        raise ValueError(f"gauss_lb is {bound}: it must be between 0 and 1")
    r0 = _single("scale_real", settings.get("scale_crystal", settings["scale_real"]))
    farthest = float(settings["value_pe_dist_max"])  # in units of r0 where it is negative
    values = {
        "blocks": blocks,
        "width": width,
        "heads": heads,
        "feedforward": weights[f"{layer}linear1.weight"].shape[0],
        "radial_basis": encodings[0].shape[3] if encodings else 0,
        "readout": weights["mlp.0.weight"].shape[0],
        "outputs": weights["mlp.3.weight"].shape[0],
        "r0": r0,
        "r_max": farthest if farthest > 0 else -farthest * r0,
        "rho_bound": bound,
        "rho_slope": _slope(settings),
        "radius": max(MIN_RADIUS, RADIUS_IN_SIGMA * r0 / sqrt(bound)),
        "attention": attention,
        "reciprocal_r0": _single("scale_reci", settings["scale_reci"]),
        "reciprocal_reach": 2 if attention in ("dual", "alternating", "reciprocal") else 0,
        "direction_basis": 64 if angles is None else angles.shape[3],
        "direction_width": float(settings["value_pe_angle_wscale"]),
        "radial_factor": float(settings["value_pe_dist_coef"]),
        "direction_factor": float(settings["value_pe_angle_coef"]),
    }
    return record(values, ModelConfig)


def _single(name: str, values: Any) -> float:
    """Return the only value in a list with a value for each block."""
    found = {float(value) for value in values} if isinstance(values, list | tuple) else {float(values)}
    if len(found) != 1:
        raise ValueError(f"{name} differs between blocks or spaces ({sorted(found)}), which is not supported")
    return found.pop()


def _slope(settings: Mapping[str, Any]) -> float:
    """Return the slope a of rho: `positive_func_beta`, or in older files `positive_func`, such as elu=0.1."""
    if "positive_func_beta" in settings:
        return float(settings["positive_func_beta"])
    function = str(settings.get("positive_func", "elu=0.1"))
    if not function.startswith("elu="):
        raise ValueError(f"positive_func is {function!r}, but only elu=NUMBER is supported")
    return float(function.removeprefix("elu="))


def _renamed(weights: Mapping[str, Tensor], model: Crystalformer) -> dict[str, Tensor]:
    """Return the state dict of the model from tensors with the authors' names.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor is unknown or has another shape.
    """
    config, left = model.config, dict(weights)
    ours = {"embedding.weight": left.pop("input_embeddings.weight").T}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for number in range(config.blocks):
        layer, block = f"encoder.layers.{number}.", f"blocks.{number}."
        theirs, mine = layer + "self_attn.", block + "attention."
        ours[mine + "query_key_value.weight"] = torch.cat([left.pop(f"{theirs}{name}_proj_weight") for name in "qkv"])
        ours[mine + "query_key_value.bias"] = left.pop(theirs + "in_proj_bias")
        ours[mine + "width_weights"] = left.pop(theirs + "lattice_pos_weights").view(config.heads, -1)
        ours[mine + "width_norm"] = left.pop(theirs + "gauss_scale")
        if not ours[mine + "width_norm"][0] > 0:
            raise ValueError(
                f"{theirs}gauss_scale was never set: predictions would depend on which crystals share the batch"
            )
        left.pop(theirs + "atten_scale", None)  # unused
        if mine + "radial_weights" in wanted:
            # the file also has encodings of the heads in reciprocal space, which are not used
            ours[mine + "radial_weights"] = left.pop(theirs + "pe_dist_proj")[0, : wanted[mine + "radial_weights"][0]]
        if mine + "direction_weights" in wanted:
            angles = [left.pop(f"{theirs}proj_angle{axis}")[0] for axis in (1, 2, 3)]
            ours[mine + "direction_weights"] = torch.stack(angles)
        for kind in ("weight", "bias"):
            ours[f"{mine}output.{kind}"] = left.pop(f"{theirs}out_proj.{kind}")
            ours[f"{block}feedforward.0.{kind}"] = left.pop(f"{layer}linear1.{kind}")
            ours[f"{block}feedforward.2.{kind}"] = left.pop(f"{layer}linear2.{kind}")
    for kind in ("weight", "bias"):
        ours[f"readout.0.{kind}"] = left.pop(f"mlp.0.{kind}")
        ours[f"readout.2.{kind}"] = left.pop(f"mlp.3.{kind}")
    if left:
        raise ValueError(f"tensor {min(left)!r} is unknown")
    for name, shape in wanted.items():
        if ours[name].shape != shape:
            raise ValueError(f"{name} has the shape {tuple(ours[name].shape)} instead of {tuple(shape)}")
    return ours


def _properties(named: Any, targets: Sequence[str], outputs: int) -> tuple[Property, ...]:
    """Return the properties of the outputs: known properties by name, or those that the file names.

    Args:
        named: `targets` in the file, of any type.
        targets: names of known properties, or none.
        outputs: number of outputs.
    """
    if targets:
        properties = tuple(find_property(name, PROPERTIES) for name in targets)
    else:
        names = [named] if isinstance(named, str) else list(named) if isinstance(named, list | tuple) else []
        unknown = [name for name in names if not isinstance(name, str) or name not in TARGETS]
        if unknown or not names:
            problem = f"unknown target {printable(repr(unknown[0])[:60])}" if unknown else "a file without targets"
            known = ", ".join(prop.name for prop in PROPERTIES)
            raise UsageError(f"{problem}: name the outputs with --target, from {known}")
        properties = tuple(TARGETS[name] for name in names)
    if len(properties) != outputs:
        raise UsageError(f"{len(properties)} targets for {outputs} outputs: name one for each with --target")
    return properties


def _to_json(value: Any, depth: int = 10) -> Any:
    """Return a value as JSON data: other types become texts, and anything below `depth` levels becomes "..."."""
    if not depth:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _to_json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, depth - 1) for item in value]
    is_json = isinstance(value, str | None) or (isinstance(value, int | float) and abs(value) < 1e20)
    return value if is_json else str(value)[:1000]


def golden_crystals() -> list[Crystal]:
    """Return crystals for golden.json of an imported checkpoint: rock salt, a perovskite, and one without symmetry."""
    face_centred = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    perovskite = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    lattice = np.array([[4.1, 0.0, 0.0], [0.7, 4.6, 0.0], [-0.9, 0.5, 5.2]])
    sites = np.array([[0.03, 0.11, 0.07], [0.48, 0.56, 0.41], [0.71, 0.17, 0.62]])
    return [
        Crystal.ordered(5.64 * face_centred, np.array([[0.0, 0, 0], [2.82, 2.82, 2.82]]), np.array([11, 17])),
        Crystal.ordered(3.905 * np.eye(3), 3.905 * perovskite, np.array([38, 22, 8, 8, 8])),
        Crystal.ordered(lattice, sites @ lattice, np.array([13, 22, 8])),
    ]


def card_of(checkpoint: Checkpoint) -> str:
    """Return the model card of an imported checkpoint."""
    config = checkpoint.model.config
    cell = (
        "\nSums over waves are cut off by indices, as in the training, so predictions depend on the cell.\n"
        "The model was trained on primitive standard cells: use those.\n"
        if config.reciprocal_reach
        else ""
    )
    return (
        f"# {checkpoint.name}\n\nImported from `{checkpoint.training['imported_from']}`, a checkpoint of the authors' "
        f"program: {checkpoint.training['weights']}.\n\n"
        f"* properties: {', '.join(f'{prop.name} ({prop.unit})' for prop in checkpoint.properties)}\n"
        f"* network: {config.attention} attention, {config.blocks} blocks, width {config.width}, "
        f"{config.radial_basis} radial functions, neighbours up to {config.radius:g} Å\n{cell}\n"
        "Training data, errors and licence are those of the original file.\n"
    )
