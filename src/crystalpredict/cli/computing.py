"""Where the rows of a run come from: computed here, kept from earlier runs, or computed by a cluster."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.checkpoints.registry import cache_folder, identity_of, properties_of_model
from crystalpredict.cli.engine import opened_model
from crystalpredict.cli.render import columns_of, say
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.io.entries import Entry
    from crystalpredict.io.worker_pool import Limits
    from crystalpredict.prediction.cache import Cache
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.resume import Cursor
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

Windows = Iterable[Iterable["Prediction"]]


@dataclass(frozen=True)
class Computing:
    """What a run computes and how, as the options of `predict` say it; `folder` of the model that `model` names."""

    folder: Path
    model: str | None
    device: str
    batch_atoms: int | None
    jobs: int
    targets: tuple[str, ...]
    merge: bool
    uncertainty: bool
    limits: Limits
    cache: str | None
    scheduler: str | None
    quiet: bool

    def __post_init__(self) -> None:
        if self.scheduler and self.cache:
            raise UsageError("--scheduler does not go with --cache")

    @property
    def properties(self) -> tuple[Property, ...]:
        """Those asked for; none if the model is damaged, which whoever loads it will say."""
        from crystalpredict.prediction.derived import asked_for

        known = properties_of_model(self.folder)
        return asked_for(known, self.targets) if known else ()

    @property
    def intervals(self) -> bool:
        """Whether the predictions have them."""
        from crystalpredict.uncertainty.calibration import CALIBRATION_FILE

        return self.uncertainty and (self.folder / CALIBRATION_FILE).is_file()

    @property
    def columns(self) -> list[str]:
        """Names of the columns of values."""
        return [name for prop in self.properties for name in columns_of(prop, self.intervals)]

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for predictions to be, but for the input and the columns."""
        return {**identity_of(self.folder), "uncertainty": self.intervals, "no-reduce": not self.merge}

    @contextmanager
    def windows(self, cursor: Cursor) -> Iterator[Windows]:
        """The rows of the cursor's sources, without those that it is to pass over, by windows."""
        if self.scheduler:
            with self._on_cluster(self.scheduler, cursor) as windows:
                yield windows
            return
        cache, targets = None, self.targets
        if self.cache and (known := properties_of_model(self.folder)):
            from crystalpredict.prediction.cache import Cache
            from crystalpredict.prediction.derived import derivable

            every = (*known, *derivable(known))
            targets = tuple(prop.name for prop in every)
            facts, columns = {**self.facts, "device": self.device}, [prop.column for prop in every]
            cache = Cache(cache_folder(self.cache), facts, columns, say)
        with opened_model(
            cursor, self.folder, self.device, self.batch_atoms, self.jobs, targets=targets, merge=self.merge,
            uncertainty=self.uncertainty, limits=self.limits, cache=cache, quiet=self.quiet,
        ) as (load, reader):  # fmt: skip
            entries, busy = cursor.rest(reader.entries()), lambda: reader.busy
            if cache is None:
                yield load().windows(entries, busy)
            else:
                gc.enable()  # which `load` may never do
                yield windows_with_cache(entries, load, cache, busy, quiet=self.quiet)

    @contextmanager
    def _on_cluster(self, address: str, cursor: Cursor) -> Iterator[Windows]:
        from crystalpredict.prediction.dask_cluster import Job, connected, rows_of, windows_of_rows

        gc.enable()
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what becomes of inputs is said in their rows
        job = Job(
            str(self.folder.absolute()), self.model, tuple(identity_of(self.folder).items()), os.getcwd(), self.device,
            self.batch_atoms, self.targets, self.uncertainty, self.merge, self.limits.seconds,
        )  # fmt: skip
        with connected(address, job, say) as client:
            if not self.quiet:
                say(f"model {self.folder.name}, {len(client.nthreads())} workers of {address}")
            yield windows_of_rows(cursor.rest(rows_of(client, job, cursor)))


def windows_with_cache(
    entries: Iterable[Entry], load: Callable[[], Predictor], cache: Cache, busy: Callable[[], int], *, quiet: bool
) -> Iterator[Iterator[Prediction]]:
    """Predictions by windows, as `Predictor.windows` gives them; what is computed is kept, once its rows are written.

    The predictor, of all columns of the cache, is loaded when there is something to be computed.
    """
    from crystalpredict.io.reader import windows_of
    from crystalpredict.prediction.rows import Prediction

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
    if not quiet:
        say(f"{known} from the cache {cache.path.parent}")


def _kept(window: list[Entry], found: Iterator[Prediction], cache: Cache) -> Iterator[Prediction]:
    for entry in window:
        if entry.known:
            yield replace(entry.known, path=entry.path, index=entry.index)
            continue
        row = next(found)
        if entry.origin and row.error == entry.error:  # what the device had no memory for, another time it may have
            cache.add(entry.origin, row)
        yield row
