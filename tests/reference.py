"""The tiny reference model and its crystals: weights in the key layout of upstream checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, Crystal
from crystalpredict.nn import Crystalformer, ModelConfig

GOLDEN = Path(__file__).parent / "nn"


def reference() -> dict[str, Any]:
    return dict(json.loads((GOLDEN / "reference.json").read_text()))


def reference_crystals() -> list[Crystal]:
    return [
        Crystal.ordered(
            np.array(entry["lattice"]),
            np.array(entry["frac"]) @ np.array(entry["lattice"]),
            np.array([ATOMIC_NUMBERS[symbol] for symbol in entry["species"]]),
        )
        for entry in reference()["structures"]
    ]


def reference_model(radius: float = 16.0, dtype: torch.dtype = torch.float64, **family: Any) -> Crystalformer:
    """The model of reference_weights.npz, or another of its family; directions, of which it has none, are random."""
    shape = reference()["config"]
    config = ModelConfig(
        blocks=shape["blocks"], width=shape["model_dim"], heads=shape["heads"], feedforward=shape["ff_dim"],
        radial_basis=shape["radial_basis"], readout=shape["mlp_hidden"], radius=radius,
        **family,
    )  # fmt: skip
    upstream = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "reference_weights.npz").items()}
    torch.manual_seed(0)
    model = Crystalformer(config).to(dtype)
    state = model.state_dict()
    weights = from_upstream(upstream, config)
    for block in range(config.blocks):
        name = f"blocks.{block}.attention.radial_weights"
        if name not in state:  # a block in reciprocal space
            del weights[name]
        else:
            weights[name] = weights[name][: len(state[name])]
        name = f"blocks.{block}.attention.direction_weights"
        if name in state:
            weights[name] = 10 * state[name]
    model.load_state_dict(weights)
    return model.eval()


def from_upstream(upstream: dict[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    heads, channels = config.heads, config.width // config.heads
    ours = {"embedding.weight": upstream["input_embeddings.weight"].T}
    for i in range(config.blocks):
        layer, block = f"encoder.layers.{i}.", f"blocks.{i}."
        attention = layer + "self_attn."
        ours[block + "attention.query_key_value.weight"] = torch.cat(
            [upstream[f"{attention}{name}_proj_weight"] for name in "qkv"]
        )
        ours[block + "attention.query_key_value.bias"] = upstream[attention + "in_proj_bias"]
        ours[block + "attention.width_weights"] = upstream[attention + "lattice_pos_weights"].view(heads, channels)
        ours[block + "attention.width_norm"] = upstream[attention + "gauss_scale"]
        if attention + "pe_dist_proj" in upstream:
            ours[block + "attention.radial_weights"] = upstream[attention + "pe_dist_proj"][0]
        if attention + "proj_angle1" in upstream:
            ours[block + "attention.direction_weights"] = torch.cat(
                [upstream[f"{attention}proj_angle{axis}"] for axis in (1, 2, 3)]
            )
        for kind in ("weight", "bias"):
            ours[f"{block}attention.output.{kind}"] = upstream[f"{attention}out_proj.{kind}"]
            ours[f"{block}feedforward.0.{kind}"] = upstream[f"{layer}linear1.{kind}"]
            ours[f"{block}feedforward.2.{kind}"] = upstream[f"{layer}linear2.{kind}"]
    for kind in ("weight", "bias"):
        ours[f"readout.0.{kind}"] = upstream[f"mlp.0.{kind}"]
        ours[f"readout.2.{kind}"] = upstream[f"mlp.3.{kind}"]
    return ours
