"""Tables of labelled crystals and what models say of them, made up for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystalpredict.data.labels import Dropped, LabelledTable
from crystalpredict.evaluation.evaluate import ModelPredictions
from crystalpredict.io.entries import Inline
from crystalpredict.properties import PROPERTIES, Property, find_property

GAP, HULL, BULK, FORMATION = (
    find_property(name) for name in ("bandgap", "e_above_hull", "bulk_modulus", "formation_energy")
)
FORMULAS = ("NaCl", "MgO", "Si", "CsCl", "TiO2")


def labelled(
    folder: Path, labels: object, properties: Sequence[Property] = PROPERTIES[:1], *, splits: Sequence[str] = (),
    dropped: Sequence[Dropped] = (), dropped_labels: Sequence[Dropped] = (),
) -> LabelledTable:  # fmt: skip
    """A table of rows 1, 2, ... with these labels (R, P)."""
    path = folder / "table.csv"
    path.write_text("only its checksum matters\n")
    values = np.array(labels, dtype=float).reshape(-1, len(properties))
    count = len(values)
    return LabelledTable(
        str(path), tuple(f"c{row}" for row in range(1, count + 1)), np.arange(1, count + 1),
        tuple(Inline(f"table.csv, row {row}", "") for row in range(1, count + 1)), values, tuple(properties),
        tuple(splits) or ("",) * count, tuple(dropped), tuple(dropped_labels), ("made up",),
    )  # fmt: skip


def said(
    values: object, name: str = "one", *, properties: int = 1, formulas: Sequence[str] = (),
    n_atoms: Sequence[int] = (), reasons: Sequence[str] = (),
) -> ModelPredictions:  # fmt: skip
    """What a model says of R rows: values (R, P)."""
    table = np.array(values, dtype=float).reshape(-1, properties)
    count = len(table)
    names = tuple(formulas) or tuple(FORMULAS[row % len(FORMULAS)] for row in range(count))
    sizes = np.array(n_atoms or [2] * count)
    return ModelPredictions(name, name * 8, table, names, sizes, ((),) * count, tuple(reasons) or ("",) * count)
