"""What a training says of its data before it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.labelled import PARTS, LabelledCrystals
from crystalpredict.data.splits import repeated_rows
from crystalpredict.properties import Property

SHOWN = 8  # reasons, elements or pairs that are named; the rest is counted


def lines_of_data(crystals: LabelledCrystals) -> list[str]:
    """Rows kept and dropped, by reason; labels of each property; what looks wrong with them."""
    table = crystals.table
    lines = [f"{len(table):,} crystals of {table.sizes.min()} to {table.sizes.max()} atoms"]
    reasons = Counter(drop.reason for drop in crystals.dropped)
    for reason, count in reasons.most_common(SHOWN):
        first = next(drop for drop in crystals.dropped if drop.reason == reason)
        lines.append(f"dropped {count:,}: {reason} (first: row {first.row}, {first.id})")
    if len(reasons) > SHOWN:
        rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(SHOWN))
        lines.append(f"dropped {rest:,} for {len(reasons) - SHOWN} other reasons: see dropped.csv")
    if crystals.holes:
        hole = crystals.holes[0]
        lines.append(f"{len(crystals.holes):,} labels left out (first: row {hole.row}, {hole.id}, {hole.reason})")
    for column, prop in enumerate(table.properties):
        labels = table.labels[:, column].astype(float)
        known = labels[np.isfinite(labels)]
        low, middle, high = np.percentile(known, [0, 50, 100])
        lines.append(
            f"{prop.name}: {len(known):,} labels, {low:.4g} to {high:.4g}, median {middle:.4g} {prop.unit}".rstrip()
        )
    return lines + warnings_of_labels(table.labels, table.properties, table.sizes)


def lines_of_split(crystals: LabelledCrystals, splits: Sequence[IntArray], by: str) -> list[str]:
    """Sizes of the parts, of several folds from the least to the largest, and crystals that are in two of them."""
    sizes = ", ".join(f"{_span([int((s == part).sum()) for s in splits])} {name}" for part, name in PARTS.items())
    lines = [f"split by {by}{f', {len(splits)} folds' * (len(splits) > 1)}: {sizes}"]
    if by != "column" and any(crystals.splits):
        lines[0] += "; the column split is not used, --split-by column would"
    groups = repeated_rows(crystals.formulas, crystals.fingerprints)
    apart = {
        group[0]: row for parts in splits for group in groups for row in group if parts[row] != parts[group[0]]
    }  # a row of each that is in another part than the first
    if apart:
        ids = crystals.table.ids
        named = ", ".join(f"{ids[one]} and {ids[two]}" for one, two in list(apart.items())[:SHOWN])
        lines.append(f"{len(apart):,} crystals are in two parts, which flatters the errors: {named}")
    elif groups:
        lines.append(f"{len(groups):,} crystals are there more than once, each in one part")
    return lines


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def warnings_of_labels(labels: FloatArray, properties: Sequence[Property], sizes: IntArray) -> list[str]:
    """What looks wrong with labels (C, P) of crystals of `sizes` atoms (C,): another unit than theirs."""
    lines = []
    for prop, column in zip(properties, labels.T, strict=True):
        known = np.isfinite(column)
        values = column[known].astype(float)
        for complaint in _suspicions(prop, values, sizes[known]):
            lines.append(f"{prop.name}: {complaint}")
    return lines


def _suspicions(prop: Property, values: FloatArray, sizes: IntArray) -> list[str]:
    """Complaints about labels (n,) of one property, in its unit."""
    if not len(values):
        return []
    found = []
    largest, middle = float(np.abs(values).max()), float(np.median(np.abs(values)))
    if prop.unit == "GPa" and largest < 4:
        found.append(f"no label is above {largest:.3g} GPa: log10(GPa)? Call the column log10({prop.name})")
    if prop.unit == "GPa" and middle > 2000:
        found.append(f"the median is {middle:.4g} GPa: kbar or MPa? Convert to GPa")
    if prop.unit == "eV" and largest > 30:
        found.append(f"labels up to {largest:.4g} eV: meV? Convert to eV")
    if prop.unit == "eV/atom" and largest > 8:
        per_cell = len(values) > 10 and np.ptp(sizes) > 0 and np.corrcoef(np.abs(values), sizes)[0, 1] > 0.4
        guess = "per cell? Divide by the atoms" if per_cell else "meV or kJ/mol? Convert to eV"
        found.append(f"labels up to {largest:.4g} eV/atom: {guess}")
    if prop.minimum is not None and (values < prop.minimum).any():
        count = int((values < prop.minimum).sum())
        found.append(f"{count:,} labels are below {prop.minimum:g} {prop.unit}, which physics does not allow")
    return found
