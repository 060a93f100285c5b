"""Describe labelled data before a training: sizes, labels, dropped rows, suspicious units, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.labelled import PARTS, LabelledCrystals
from crystalpredict.data.splits import repeated_rows
from crystalpredict.properties import Property

MAX_LISTED = 8  # reasons or pairs that are named; the rest is counted


def describe_data(crystals: LabelledCrystals) -> list[str]:
    """Return messages about crystals, dropped rows by reason, labels of each property, and suspicious labels."""
    table = crystals.table
    lines = [f"{len(table):,} crystals of {table.sizes.min()} to {table.sizes.max()} atoms"]
    reasons = Counter(drop.reason for drop in crystals.dropped)
    for reason, count in reasons.most_common(MAX_LISTED):
        first = next(drop for drop in crystals.dropped if drop.reason == reason)
        lines.append(f"dropped {count:,}: {reason} (first: row {first.row}, {first.id})")
    if len(reasons) > MAX_LISTED:
        rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(MAX_LISTED))
        lines.append(f"dropped {rest:,} for {len(reasons) - MAX_LISTED} other reasons: see dropped.csv")
    if left_out := crystals.dropped_labels:
        where = f"row {left_out[0].row}, {left_out[0].id}, {left_out[0].reason}"
        lines.append(f"{len(left_out):,} labels left out (first: {where})")
    for column, prop in enumerate(table.properties):
        labels = table.labels[:, column].astype(float)
        known = labels[np.isfinite(labels)]
        low, middle, high = np.percentile(known, [0, 50, 100])
        lines.append(
            f"{prop.name}: {len(known):,} labels, {low:.4g} to {high:.4g}, median {middle:.4g} {prop.unit}".rstrip()
        )
    return lines + warnings_of_labels(table.labels, table.properties, table.sizes)


def describe_split(crystals: LabelledCrystals, splits: Sequence[IntArray], by: str) -> list[str]:
    """Return messages about the sizes of the parts of a split, and about crystals that are in two of them.

    Args:
        crystals: C labelled crystals.
        splits: part of each crystal, (C,), for each fold.
        by: how they were split: formula, random or column.
    """
    sizes = ", ".join(f"{_span([int((s == part).sum()) for s in splits])} {name}" for part, name in PARTS.items())
    lines = [f"split by {by}{f', {len(splits)} folds' * (len(splits) > 1)}: {sizes}"]
    if by != "column" and any(crystals.splits):
        lines[0] += "; the column split is not used (use it with --split-by column)"
    groups = repeated_rows(crystals.formulas, crystals.fingerprints)
    apart = {
        group[0]: row for parts in splits for group in groups for row in group if parts[row] != parts[group[0]]
    }  # first crystal of a group, and one that is in another part
    if apart:
        ids = crystals.table.ids
        named = ", ".join(f"{ids[one]} and {ids[two]}" for one, two in list(apart.items())[:MAX_LISTED])
        lines.append(f"{len(apart):,} crystals are in two parts, which makes the errors too small: {named}")
    elif groups:
        lines.append(f"{len(groups):,} crystals occur more than once, each in one part only")
    return lines


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def warnings_of_labels(labels: FloatArray, properties: Sequence[Property], sizes: IntArray) -> list[str]:
    """Return messages about labels that seem to have another unit.

    Args:
        labels: in the properties' units, not a number where missing, (C, P).
        properties: P of them.
        sizes: atoms of each crystal, (C,).
    """
    lines = []
    for prop, column in zip(properties, labels.T, strict=True):
        known = np.isfinite(column)
        values = column[known].astype(float)
        for suspicion in _suspicions(prop, values, sizes[known]):
            lines.append(f"{prop.name}: {suspicion}")
    return lines


def _suspicions(prop: Property, values: FloatArray, sizes: IntArray) -> list[str]:
    """Return what is suspicious about the labels (n,) of a property, in its unit."""
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
        found.append(f"{count:,} labels are below {prop.minimum:g} {prop.unit}, which is physically impossible")
    return found
