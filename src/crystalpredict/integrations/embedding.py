"""Features of structures, one row for each item of a list, by models that are loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.checkpoints.registry import find_model
from crystalpredict.errors import CheckpointError
from crystalpredict.io.entries import Entry, Inline, Source, entries_of_structures
from crystalpredict.io.reader import merge_entries, read_chunk
from crystalpredict.io.table_structures import source_of_cell

if TYPE_CHECKING:
    from crystalpredict.nn.config import ModelConfig
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.rows import Embedding

MODELS_LOADED = 2
ITEMS_READ_TOGETHER = 64


def embeddings(items: Sequence[Any], model: str | None, device: str) -> Iterator[Embedding]:
    """Yield the features of items, one row each, in order.

    Args:
        items: pymatgen structures or their dictionaries, ASE Atoms, paths of files with one structure, or texts of CIFs
            or POSCARs.
        model: Name of a model, or a checkpoint folder; None: the default.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
    """
    predictor = _loaded(find_model(model), device)
    yield from predictor.stream_embeddings(_entries(items, predictor.config))


def label_of(model: str | None) -> tuple[str, int]:
    """Return the name of a model and the number of its features; it is not loaded.

    Raises:
        UsageError: There is no such model.
        CheckpointError: It is damaged.
    """
    from crystalpredict.checkpoints.files import read_config

    folder = find_model(model)
    features = read_config(folder).model.features
    if features < 1:
        raise CheckpointError(f"{folder}: a model without features")
    return folder.name, features


@lru_cache(MODELS_LOADED)
def _loaded(folder: Path, device: str) -> Predictor:
    from crystalpredict.prediction.predictor import load_model

    return load_model(folder, device, uncertainty=False)


def _entries(items: Sequence[Any], config: ModelConfig) -> Iterator[Entry]:
    """Yield an entry for each item, named by its number."""
    numbered = ((number, _source(number, item)) for number, item in enumerate(items))
    for is_source, same in groupby(numbered, lambda pair: isinstance(pair[1], str | Inline)):
        while some := list(islice(same, ITEMS_READ_TOGETHER)):
            if is_source:
                yield from _entries_of_sources([source for _, source in some], config)
            else:
                structures = [item for _, item in some]
                found = entries_of_structures(structures, config.radius, first=some[0][0], vectors=config.vectors)
                yield from merge_entries(found, config.radius)


def _source(number: int, item: Any) -> Any:
    """Return a path or a text as a source, and a structure as it is."""
    name = f"item {number}"
    if isinstance(item, PathLike):
        return fspath(item)
    if item is None or (isinstance(item, float) and item != item):  # as pandas has a missing cell
        return Inline(name, error="no structure")
    if isinstance(item, str | dict):
        return source_of_cell(item, "", Path(), name) or Inline(name, error="no structure")
    return item


def _entries_of_sources(sources: Sequence[Source], config: ModelConfig) -> Iterator[Entry]:
    """Yield one entry for each source; an error for one of several structures."""
    for source in sources:
        first, *others = read_chunk([source], config.radius, merge=True, vectors=config.vectors)
        if others:
            several = f"{len(others) + 1} structures, where one is needed: give each on its own"
            first = Entry(first.path, first.index, error=several)
        yield first
