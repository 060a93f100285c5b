"""Sources to rows: read by processes, then computed here, found in a cache, or computed on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict._files import file_sha256
from crystalpredict.checkpoints.registry import (
    config_of_model,
    identity_of,
    properties_of_model,
    reference_energies_sha256,
)
from crystalpredict.prediction.rows import Prediction, columns_of
from crystalpredict.stability.conventions import Convention

if TYPE_CHECKING:
    from crystalpredict.io.entries import Entry, Lookup, Source
    from crystalpredict.io.reader import Reader
    from crystalpredict.io.worker_pool import Limits
    from crystalpredict.prediction.cache import Cache
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.relaxation_by_potential import Relaxation
    from crystalpredict.prediction.resume import Cursor
    from crystalpredict.properties import Property

LOG = logging.getLogger(__name__)
Windows = Iterable[Iterable[Prediction]]  # rows that are computed together


def do_nothing() -> None:
    """Do nothing: by default, nothing happens when the model is loaded."""


@dataclass(frozen=True)
class Pipeline:
    """The way from sources to rows of one model.

    What happens is logged under `crystalpredict.prediction`.

    Attributes:
        folder: of the checkpoint.
        targets: names of the properties to predict; none: all of the model.
        device: name of the device.
        batch_atoms: listed atoms that go through the network at once; None: as many as suit the device.
        jobs: reader processes; 0: one for each core.
        merge: whether equivalent atoms are computed once.
        uncertainty: whether predictions have intervals, if the model is calibrated.
        limits: of reading one file; None: the default ones.
        entries: file of known phases of one's own for the hull; None: no such file.
        reference: whether the known phases that come with the package are used, too.
        on_load: called when the model is loaded.
        convention: of formation energies.
        relaxation: how structures are relaxed before they are predicted; None: they are predicted as they are.
        orderings: ordered supercells of each disordered crystal that are predicted too.
    """

    folder: Path
    targets: tuple[str, ...] = ()
    device: str = "auto"
    batch_atoms: int | None = None
    jobs: int = 0
    merge: bool = True
    uncertainty: bool = True
    limits: Limits | None = None
    on_load: Callable[[], None] = do_nothing
    entries: Path | None = None
    reference: bool = True
    convention: Convention = Convention.mp2018
    relaxation: Relaxation | None = None
    orderings: int = 0

    @property
    def properties(self) -> tuple[Property, ...]:
        """The properties to predict; none if the model is damaged, which `load_model` reports."""
        from crystalpredict.prediction.derived import asked_for

        known = properties_of_model(self.folder)
        found = asked_for(known, self.targets) if known else ()
        if self.orderings and found:
            from crystalpredict.prediction.orderings import properties_of_orderings

            return (*found, *properties_of_orderings(found))
        return found

    @property
    def intervals(self) -> bool:
        """Whether the rows have intervals."""
        from crystalpredict.uncertainty.calibration import CALIBRATION_FILE

        return self.uncertainty and (self.folder / CALIBRATION_FILE).is_file()

    @property
    def columns(self) -> list[str]:
        """Names of the columns of values."""
        return [name for prop in self.properties for name in columns_of(prop, self.intervals)]

    @property
    def facts(self) -> dict[str, Any]:
        """What predictions depend on, except the inputs and the columns, as JSON values."""
        own = file_sha256(self.entries) if self.entries else ""
        phases = f"{own} {reference_energies_sha256() if self.reference else ''}"
        known = {"known phases": phases, "convention": self.convention.value}
        options = {"uncertainty": self.intervals, "no-reduce": not self.merge}
        relaxed = {"relaxation": self.relaxation.facts if self.relaxation else None}
        orderings = {"orderings": self.orderings} if self.orderings else {}
        return {**identity_of(self.folder), **options, **known, **relaxed, **orderings}

    @contextmanager
    def open(
        self, sources: Iterable[Source], known: Lookup | None = None
    ) -> Iterator[tuple[Callable[[], Predictor], Reader]]:
        """Yield a function that loads the model on its first call, and the reader of the sources.

        Reader processes start before torch is imported: they are small then, and read in the meantime.

        Args:
            sources: what to read.
            known: rows that need not be computed.
        """
        from crystalpredict.io.reader import Reader
        from crystalpredict.io.worker_pool import processes_of

        config = config_of_model(self.folder)
        radius, vectors = (config.model.radius, config.model.vectors) if config else (0.0, False)
        jobs = processes_of(self.jobs) if config else 1
        with Reader(
            sources, radius, jobs, merge=self.merge, vectors=vectors, limits=self.limits, known=known
        ) as reader:

            @lru_cache
            def load() -> Predictor:
                from crystalpredict.prediction.predictor import load_model

                own = None
                if self.entries or not self.reference or self.convention != Convention.mp2018:
                    from crystalpredict.prediction.known_phases import hull_of

                    own = hull_of(self.entries, reference=self.reference, convention=self.convention)
                predictor = load_model(
                    self.folder, self.device, self.targets, self.batch_atoms, uncertainty=self.uncertainty, hull=own,
                    relax=self.relaxation, orderings=self.orderings,
                )  # fmt: skip
                predictor.expect(reader.ahead)
                self.on_load()
                atoms = "equivalent atoms once" if self.merge and not vectors else "all atoms"
                LOG.info("model %s, device %s, %s", predictor.checkpoint.name, predictor.device_name, atoms)
                return predictor

            yield load, reader

    @contextmanager
    def windows(self, cursor: Cursor) -> Iterator[Windows]:
        """Yield the rows of the cursor's sources that are not written yet, in windows."""
        with self.open(cursor) as (load, reader):
            yield load().windows(cursor.rest(reader.entries()), lambda: reader.busy)

    @contextmanager
    def windows_with_cache(self, cursor: Cursor, folder: Path) -> Iterator[Windows]:
        """Yield the same; rows in the cache in a folder are taken from there, and the others kept there."""
        known = properties_of_model(self.folder)
        if not known:
            with self.windows(cursor) as windows:  # which reports the damage
                yield windows
            return
        from crystalpredict.prediction.cache import Cache
        from crystalpredict.prediction.derived import derivable
        from crystalpredict.properties import NEAREST_KNOWN

        asked = self.properties
        every = [each for each in (*known, *derivable(known)) if each.name != NEAREST_KNOWN or each in asked]  # costly
        facts, columns = {**self.facts, "device": self.device}, [prop.column for prop in every]
        cache = Cache(folder, facts, columns, LOG.warning)
        whole = replace(self, targets=tuple(prop.name for prop in every))
        with whole.open(cursor, cache) as (load, reader):
            yield _windows_with_cache(cursor.rest(reader.entries()), load, cache, lambda: reader.busy)

    @contextmanager
    def windows_on_cluster(self, cursor: Cursor, address: str, model: str | None) -> Iterator[Windows]:
        """Yield the same, computed by the workers of the Dask scheduler at an address.

        Args:
            cursor: hands out sources, and keeps count of the rows that are written.
            address: of the scheduler, such as tcp://host:8786, or the path of a scheduler file.
            model: name by which workers find the model, if it has one there.
        """
        from crystalpredict.io.worker_pool import Limits
        from crystalpredict.prediction.dask_cluster import Job, connected, identity_of_run, rows_of, windows_of_rows

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures of inputs are reported in their rows
        job = Job(
            str(self.folder.absolute()), model, identity_of_run(self.folder, self.relaxation), os.getcwd(), self.device,
            self.batch_atoms, self.targets, self.uncertainty, self.merge, (self.limits or Limits()).seconds,
            self.relaxation,
        )  # fmt: skip
        with connected(address, job, LOG.warning) as client:
            LOG.info("model %s, %d workers of %s", self.folder.name, len(client.nthreads()), address)
            yield windows_of_rows(cursor.rest(rows_of(client, job, cursor)))


def _windows_with_cache(
    entries: Iterable[Entry], load: Callable[[], Predictor], cache: Cache, busy: Callable[[], int]
) -> Iterator[Iterator[Prediction]]:
    """Yield predictions in windows, as `Predictor.windows` does; those computed are kept once their rows are written.

    The predictor, of all columns of the cache, is loaded when something has to be computed.
    """
    from crystalpredict.io.reader import windows_of

    known = 0
    for window in windows_of(entries):
        new = [entry for entry in window if not entry.known]
        known += len(window) - len(new)
        found: Iterator[Prediction] = (
            Prediction(
                entry.path, entry.index, entry.formula, entry.n_atoms, warnings=entry.warnings, error=entry.error
            )
            for entry in new
        )
        if any(entry.neighbors for entry in new):
            found = load().stream(new, busy)
        yield _kept(window, found, cache)
        cache.commit()
    LOG.info("%d from the cache %s", known, cache.path.parent)


def _kept(window: list[Entry], found: Iterator[Prediction], cache: Cache) -> Iterator[Prediction]:
    """Yield the rows of a window in the order of its entries; new rows are added to the cache."""
    for entry in window:
        if entry.known:
            yield replace(entry.known, path=entry.path, index=entry.index)
            continue
        row = next(found)
        if entry.origin and row.error == entry.error:  # with more memory on the device it may be computed later
            cache.add(entry.origin, row)
        yield row
