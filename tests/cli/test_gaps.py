"""Gaps beside those of PBE, as targets of `predict`."""

from __future__ import annotations


def test_a_probability_has_a_value_without_an_interval(program) -> None:
    (row,) = program("predict", "examples/MgO.cif", "-t", "metal_probability,bandgap_experiment").rows
    assert list(row)[4:8] == [
        "metal_probability", "bandgap_experiment_eV", "bandgap_experiment_eV_lo90", "bandgap_experiment_eV_hi90",
    ]  # fmt: skip
    table = program("predict", "examples/MgO.cif", "-t", "metal_probability,bandgap", "-f", "table")
    assert table.code == 0
    assert "bandgap_experiment_eV" not in program("predict", "examples/MgO.cif").rows[0]  # only on request
    chosen = program("predict", "examples/MgO.cif", "-t", "metal_probability", "--where", "metal_probability < 0.5")
    assert len(chosen.rows) == 1
