"""The reference model reproduces values summed independently over pairs and images to 1e-9."""

import numpy as np
import pytest
import torch

from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn.attention import geometry_of
from crystalpredict.nn.batch import collate
from tests.reference import reference, reference_crystals, reference_model

CRYSTALS = reference_crystals()
ENTRIES = reference()["structures"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_outputs_equal_the_converged_lattice_sums(dtype: torch.dtype, tolerance: float) -> None:
    model = reference_model(dtype=dtype)
    edges = [find_neighbors(c.lattice, c.positions, model.config.radius) for c in CRYSTALS]
    with torch.no_grad():
        outputs = model(collate(CRYSTALS, edges, dtype))[:, 0]
    assert outputs.tolist() == pytest.approx([entry["output"] for entry in ENTRIES], abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_outputs_in_dual_space_equal_the_converged_sums(dtype: torch.dtype, tolerance: float) -> None:
    shape = reference()["config"]
    model = reference_model(
        dtype=dtype, attention="dual", reciprocal_r0=shape["reciprocal_r0"], reciprocal_reach=shape["reciprocal_range"]
    )
    edges = [find_neighbors(c.lattice, c.positions, model.config.radius, vectors=True) for c in CRYSTALS]
    with torch.no_grad():
        outputs = model(collate(CRYSTALS, edges, dtype))[:, 0]
    assert outputs.tolist() == pytest.approx([entry["output_dual_space"] for entry in ENTRIES], abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("number", range(len(CRYSTALS)), ids=[entry["name"] for entry in ENTRIES])
def test_first_attention_block_equals_the_converged_lattice_sums(
    number: int, dtype: torch.dtype, tolerance: float
) -> None:
    model, crystal = reference_model(dtype=dtype), CRYSTALS[number]
    batch = collate([crystal], [find_neighbors(crystal.lattice, crystal.positions, model.config.radius)], dtype)
    with torch.no_grad():
        term = model.blocks[0].attention(model.embed(batch), geometry_of(batch, model.config))
    expected = np.array(ENTRIES[number]["first_attention_block"])
    assert np.abs(term.numpy() - expected).max() < tolerance
