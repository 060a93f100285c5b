"""Predict ordered supercells of disordered crystals, beside the average site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalpredict.errors import StructureError, UsageError
from crystalpredict.properties import Property

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

    from crystalpredict.crystals.crystal import Crystal
    from crystalpredict.io.entries import Entry
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.rows import Prediction

MAX_ORDERINGS = 100  # of a crystal
MAX_SITES_OF_CALL = 10_000  # of a supercell that a caller from Python may ask for
ENDS = {"mean": "mean of orderings", "lo": "lowest of orderings", "hi": "highest of orderings"}  # of a column's name
COUNT = Property("orderings", "orderings", "", "", decimals=0, has_interval=False)


def orderings(
    structure: str | PathLike[str] | Structure, n: int = 10, *, seed: int = 0, max_sites: int | None = None
) -> list[Structure]:
    """Return ordered supercells of a disordered structure, the same ones on every call.

    A supercell has at least 32 sites if possible, and at most `max_sites`. Each crystallographic site keeps its
    occupancies; if no such supercell can have them, all sites with the same occupants keep theirs together. If it has
    few arrangements, all that differ by symmetry are returned; otherwise random ones. Partly occupied sites that are
    too close to each other are not occupied together.

    Args:
        structure: A pymatgen structure, or the path of a file with one structure.
        n: Number of supercells, at most.
        seed: Of the random numbers.
        max_sites: Largest number of sites, vacant ones included; None: 128.

    Returns:
        The supercells; none for an ordered structure. `properties["share"]` of each is its weight in a mean.

    Raises:
        StructureError: The structure cannot be read, or no supercell within the limit has its occupancies.
        UsageError: A number is out of bounds.
    """
    from crystalpredict.crystals.orderings import MAX_SITES, orderings_of
    from crystalpredict.io.to_pymatgen import structure_of_crystal

    limit = MAX_SITES if max_sites is None else max_sites
    if not (1 <= n <= MAX_ORDERINGS and 1 <= limit <= MAX_SITES_OF_CALL and seed >= 0):
        bounds = f"n of 1 to {MAX_ORDERINGS}, max_sites of 1 to {MAX_SITES_OF_CALL:,}, a seed of 0 or more"
        raise UsageError(f"orderings: give {bounds}")
    found = []
    for each in orderings_of(_crystal(structure), n, seed, limit):
        supercell = structure_of_crystal(each.crystal)
        supercell.properties["share"] = each.share
        found.append(supercell)
    return found


def _crystal(structure: Any) -> Crystal:
    """Return the crystal of a structure or of a file; its sites may be close to each other."""
    from crystalpredict.io.from_pymatgen import crystal_of_structure
    from crystalpredict.io.structure_text import parse_text
    from crystalpredict.io.text import read_text

    if isinstance(structure, str | PathLike):
        path = fspath(structure)
        try:
            structure, *others = parse_text(read_text(path))
            if isinstance(structure, StructureError):
                raise structure
            if others:
                raise StructureError(f"{len(others) + 1} structures, where one is needed")
        except StructureError as error:
            raise StructureError(f"{path}: {error}") from None
    elif not hasattr(structure, "species_and_occu"):
        what = type(structure).__name__
        raise UsageError(f"orderings of an object of type {what}: give a pymatgen Structure, or the path of a file")
    return crystal_of_structure(structure)[0]


def refuse_orderings(count: int, *, cache: object = None, scheduler: object = None, relax: object = None) -> None:
    """Raise UsageError for a number of orderings out of bounds, or for options that do not go with them."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_ORDERINGS:
        raise UsageError(f"{count!r} orderings: give 1 to {MAX_ORDERINGS}, or 0 for none")
    for name, value in (("cache", cache), ("scheduler", scheduler), ("relax", relax)):
        if count and value:
            raise UsageError(f"--orderings does not go with --{name}")


def properties_of_orderings(properties: Sequence[Property]) -> tuple[Property, ...]:
    """Return the properties of the columns that orderings add: three for each that is a number, and a count."""
    found = [
        Property(
            f"{prop.name}_orderings_{end}", f"{prop.label}, {words}", prop.unit, prop.unit_in_name,
            decimals=prop.decimals, has_interval=False,
        )
        for prop in properties if not prop.is_text
        for end, words in ENDS.items()
    ]  # fmt: skip
    return (*found, COUNT)


class Orderer:
    """Adds the predictions of ordered supercells to the rows of disordered crystals."""

    def __init__(self, predictor: Predictor, count: int) -> None:
        """Keep the predictor, and the number of orderings of a crystal, at most."""
        self.predictor, self.count = predictor, count
        self.columns = [prop.column for prop in properties_of_orderings(predictor.properties)]

    def added(self, entries: Iterable[Entry], rows: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield the rows of entries with the columns of orderings, not a number for an ordered crystal."""
        from crystalpredict.crystals.orderings import is_disordered

        for entry, row in zip(entries, rows, strict=True):
            values, notes = dict.fromkeys(self.columns, np.nan) | {COUNT.column: 0.0}, row.warnings
            if row.error or entry.crystal is None:
                yield row
                continue
            if is_disordered(entry.crystal):
                try:
                    found, said = self._predicted(entry.crystal)
                    values |= found
                except StructureError as error:
                    said = str(error)
                notes += (said,) * bool(said)
            yield replace(row, values=row.values | values, warnings=notes)

    def _predicted(self, crystal: Crystal) -> tuple[dict[str, float], str]:
        """Return the values of the orderings of a crystal by column, and a warning, or "".

        Raises:
            StructureError: There are no orderings.
        """
        from crystalpredict.crystals.orderings import orderings_of
        from crystalpredict.io.reader import entries_of_crystals

        config = self.predictor.config
        found = orderings_of(crystal, self.count)
        try:
            entries = entries_of_crystals([each.crystal for each in found], config.radius, vectors=config.vectors)
        except ValueError as error:
            raise StructureError(f"no ordered supercells: {error}") from None
        rows = list(self.predictor.predictions(entries))
        good = [number for number, row in enumerate(rows) if not row.error]
        if not good:
            raise StructureError(f"none of {len(rows)} ordered supercells could be predicted: {rows[0].error}")
        shares = np.array([found[number].share for number in good])
        values = {COUNT.column: float(len(good))}
        for prop in self.predictor.properties:
            own = np.array([rows[number].values[prop.column] for number in good])
            ends = {"mean": shares @ own / shares.sum(), "lo": own.min(), "hi": own.max()}
            columns = properties_of_orderings([prop])[: len(ENDS)]
            values |= {column.column: float(ends[end]) for column, end in zip(columns, ENDS, strict=True)}
        return values, _warning(rows)


def _warning(rows: Sequence[Prediction]) -> str:
    """Return a warning about orderings that failed, or have warnings themselves; "" if there are none."""
    failed = [row.error for row in rows if row.error]
    if failed:
        return f"{len(failed)} of {len(rows)} orderings could not be predicted: {failed[0]}"
    warned = [row.warnings[0] for row in rows if row.warnings]
    return f"{len(warned)} of {len(rows)} orderings have warnings, the first: {warned[0]}" if warned else ""
