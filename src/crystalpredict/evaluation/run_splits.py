"""The split of the run that made a fine-tuned model: which rows of its table it was trained on."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from crystalpredict._files import file_sha256
from crystalpredict._schema import read_json_file
from crystalpredict.data.labels import SPLIT_WORDS, LabelledTable
from crystalpredict.errors import CheckpointError, DataError, UsageError
from crystalpredict.io.table_formats import ID_PROP

SPLITS, PROVENANCE = "splits.csv", "provenance.json"
PARTS = ("train", "val", "test")


def parts_of_run(folder: Path, table: Path) -> dict[str, str] | None:
    """Return the part of each row of a table by its id, in the run whose folder holds a model.

    Args:
        folder: of the model.
        table: path of the table.

    Returns:
        None if the folder holds no run, or one on another table: ids such as `row 7` would name other crystals there.

    Raises:
        DataError: a file of the run is damaged.
    """
    path = folder / SPLITS
    if not path.is_file() or not (folder / PROVENANCE).is_file():
        return None
    try:
        origin: Any = read_json_file(folder / PROVENANCE)
        same = origin["data"]["sha256"] == file_sha256(table / ID_PROP if table.is_dir() else table)
        with path.open(encoding="utf-8", newline="") as file:
            parts = {row["id"]: row["split"] for row in csv.DictReader(file, strict=True)} if same else None
    except (OSError, KeyError, TypeError, ValueError, csv.Error, CheckpointError):
        raise DataError(f"{folder}: {SPLITS} or {PROVENANCE} is damaged: name the rows in a column split") from None
    if parts is not None and not set(parts.values()) <= set(PARTS):
        raise DataError(f"{path}: damaged: its column split has other words than {', '.join(PARTS)}")
    return parts


def with_split_of_run(table: LabelledTable, folder: Path, split: str | None) -> LabelledTable:
    """Return a table with the parts that its rows had in the run of a model, unless it has a column split.

    Args:
        table: labelled rows.
        folder: of the model.
        split: part that is to be evaluated; None: all.

    Raises:
        UsageError: the rows are to be of a part, and neither the table nor the run says which they are.
    """
    parts = parts_of_run(folder, Path(table.path))
    own = any(table.splits)
    if parts is None:
        if split and not own and (folder / SPLITS).is_file():
            raise UsageError(
                f"{table.path}: no column split, and it is not the table that {folder.resolve().name} was trained on "
                f"(its sha256 differs): write the column, or name that table"
            )
        return table
    found = tuple(parts.get(name, "") for name in table.ids)
    wanted = SPLIT_WORDS.get(split.strip().lower(), split.strip()) if split else None
    used = table.splits if own else found
    counts = Counter(part for part, word in zip(found, used, strict=True) if part and wanted in (None, word))
    trained = ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts[part])
    notes = [] if own or not split else [f"split of the run {folder.resolve().name}"]
    if counts["train"] or counts["val"]:
        notes.append(f"in the run of {folder.resolve().name} these rows were {trained}: for others, use --split test")
    return replace(table, splits=used, notes=(*table.notes, *notes))
