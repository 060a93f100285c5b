"""The Predictor, which predicts structures for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Entry
from crystalpredict.io.reader import found_in, read_structures, windows_of
from crystalpredict.nn.bins import arrays_of, split_by_crystal
from crystalpredict.nn.devices import (
    CPU_BATCH_ATOMS,
    choose_device,
    free_memory,
    max_batch_atoms,
    no_busy_cores,
    runs_on_cpu,
)
from crystalpredict.nn.first_answers import FirstAnswers, quick_imports
from crystalpredict.nn.terms import bytes_per_edge
from crystalpredict.prediction.decoder import MAX_LOG_RATIO, SEE_UNRELAXED, OutputDecoder
from crystalpredict.prediction.relaxation import Relaxed, put_volume_change, relax, scaled
from crystalpredict.prediction.rows import Embedding as Embedding
from crystalpredict.prediction.rows import Prediction as Prediction
from crystalpredict.prediction.rows import failure_of, isolated_atoms
from crystalpredict.prediction.stability import Hull
from crystalpredict.prediction.strain_energy import add_strain_energies

if TYPE_CHECKING:
    import torch
    from pymatgen.core.structure import Structure

    from crystalpredict.nn.batch import CrystalBatch
    from crystalpredict.nn.ensemble import Network
    from crystalpredict.nn.threads import BatchThreads
    from crystalpredict.prediction.orderings import Orderer
    from crystalpredict.prediction.relaxation_by_potential import Relaxation, Relaxer

ALWAYS_FREE_BYTES = 2**29  # assumed to be free without a check
PART_ATOMS = 288  # padded together: more than in training, because more crystals of similar size are at hand


class Predictor:
    """A model on a device, ready to predict; `load_model` makes one.

    On a CPU NumPy computes the first crystals. As soon as torch would be quicker in all, its network is made.

    Attributes:
        columns: Names of the columns of `Prediction.values`, which end with their units.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        targets: Sequence[str] = (),
        batch_atoms: int | None = None,
        *,
        uncertainty: bool = True,
        hull: Hull | None = None,
        relax: Relaxation | None = None,
        orderings: int = 0,
    ) -> None:
        """Arguments as for `load_model`. `batch_atoms` is halved if memory runs out."""
        if relax and checkpoint.unrelaxed:
            raise UsageError(f"model {checkpoint.name} is for structures that are not relaxed: use another with relax")
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.device_name = "cpu" if runs_on_cpu(device) else str(choose_device(device))
        self.on_cpu = self.device_name == "cpu"
        self.first_answers = FirstAnswers(checkpoint.source, self.device_name)
        self.batch_atoms = batch_atoms or (CPU_BATCH_ATOMS if self.on_cpu else max_batch_atoms(self.device))
        self.busy = no_busy_cores
        self.relaxer: Relaxer | None = None
        if relax:
            from crystalpredict.prediction.relaxation_by_potential import Relaxer

            self.relaxer = Relaxer(relax, self.config, self.device_name)
        self.decoder = OutputDecoder(checkpoint, targets, uncertainty=uncertainty, hull=hull)
        self.properties = self.decoder.properties
        self.columns = [prop.column for prop in self.properties]
        self.orderer: Orderer | None = None
        if orderings:
            from crystalpredict.prediction.orderings import Orderer, refuse_orderings

            refuse_orderings(orderings, relax=relax)
            self.orderer = Orderer(self, orderings)

    @cached_property
    def device(self) -> torch.device:
        """The device of the network in torch."""
        return choose_device(self.device_name)

    @cached_property
    def model(self) -> Network:
        """The network in torch, which is imported and made when it is first needed."""
        with quick_imports():
            return self.checkpoint.model.to(self.device).eval()

    @cached_property
    def batch_threads(self) -> BatchThreads:
        """The threads that compute batches by torch."""
        from crystalpredict.nn.threads import BatchThreads

        return BatchThreads(self.device)

    def expect(self, sources: int) -> None:
        """Import torch now, while others read, if so many sources are too many for NumPy."""
        if not self.first_answers.expect(sources):
            _ = self.model

    def predict(
        self, structures: Iterable[str | PathLike[str] | Structure], *, reduce: bool = True
    ) -> list[Prediction]:
        """Return the predictions for structures, one row each, in order.

        Args:
            structures: Paths of files, pymatgen structures or ASE Atoms, in any mixture, or one of these. A file with
                several structures gives several rows.
            reduce: Compute only one of each kind of equivalent atoms, which is faster and changes predictions by
                rounding only.

        Returns:
            Rows with values, intervals and warnings. A structure that cannot be read or predicted has an `error`.
        """
        return list(self.stream(self._entries(structures, reduce)))

    def embed(
        self, structures: Iterable[str | PathLike[str] | Structure], *, per_atom: bool = False
    ) -> list[Embedding]:
        """Return the network's features of structures, one row each, in order, for another regressor.

        Args:
            structures: As for `predict`.
            per_atom: Return the features of each atom, (n, D), instead of their mean over the atoms, (D,).

        Returns:
            Rows with features. A structure that cannot be read or computed has an `error`.
        """
        return list(self.stream_embeddings(self._entries(structures, reduce=not per_atom), per_atom=per_atom))

    def stream(self, entries: Iterable[Entry], busy: Callable[[], int] = no_busy_cores) -> Iterator[Prediction]:
        """Yield the predictions in the order of the entries, with one window in memory at a time."""
        return chain.from_iterable(self.windows(entries, busy))

    def windows(
        self, entries: Iterable[Entry], busy: Callable[[], int] = no_busy_cores
    ) -> Iterator[Iterator[Prediction]]:
        """Yield the predictions by windows, each of which is computed independently of the others.

        Args:
            entries: The entries.
            busy: Returns the number of cores that other processes use; the others compute.
        """
        for window in self._windows(entries, busy):
            rows = self.predictions(window)
            yield self.orderer.added(window, rows) if self.orderer else rows

    def stream_embeddings(
        self, entries: Iterable[Entry], busy: Callable[[], int] = no_busy_cores, *, per_atom: bool = False
    ) -> Iterator[Embedding]:
        """Yield the features in the order of the entries; with `per_atom`, atoms must not be merged."""
        for window in self._windows(entries, busy):
            yield from self._embeddings(window, per_atom)

    def stream_with_features(
        self, entries: Iterable[Entry], busy: Callable[[], int] = no_busy_cores
    ) -> Iterator[tuple[Prediction, FloatArray | None]]:
        """Yield the predictions with the features (D,), None beside an error, in the order of the entries."""
        for window in self._windows(entries, busy):
            yield from self._predictions_with_features(window)

    def _windows(self, entries: Iterable[Entry], busy: Callable[[], int]) -> Iterator[list[Entry]]:
        """Yield the entries by windows, and use `busy` for the computation of each."""
        self.busy = busy
        yield from self.relaxer.windows(entries) if self.relaxer else windows_of(entries)

    def predictions(self, entries: Sequence[Entry]) -> Iterator[Prediction]:
        """Yield the predictions of some entries, computed together."""
        return (row for row, _ in self._predictions_with_features(entries))

    def _predictions_with_features(self, entries: Sequence[Entry]) -> Iterator[tuple[Prediction, FloatArray | None]]:
        """Yield the predictions of some entries with their features (D,); None beside an error."""
        found = self.relaxed_by_network(entries)
        crystals, neighbors = found.crystals, found.neighbors
        outputs, features, too_large = self._outputs(crystals, neighbors)
        if self.decoder.needs_energies:
            too_large |= add_strain_energies(
                self.checkpoint, crystals, neighbors, outputs, lambda *of: self._outputs(*of)[::2]
            )
        left = found.combine(self.checkpoint, outputs)
        begun = self.decoder.begin(outputs, crystals, neighbors, found.deformations)
        table = self.decoder.values(begun)  # (crystals, properties)
        ends = self.decoder.bounds(begun, table, features)
        texts = self.decoder.texts_of(begun)
        volume_warnings = self.decoder.volume_warnings(begun, features)
        volumes_known = (np.abs(left) < MAX_LOG_RATIO).tolist()
        domain_warnings = self.decoder.domain_warnings(begun, neighbors, features, volumes_known)
        finite = np.asarray(np.isfinite(outputs).all(axis=1))
        # of each row; none if not calibrated
        bounded = [(prop.column, i) for i, prop in enumerate(self.properties) if prop.has_interval and ends.size]
        rows = enumerate(table.tolist())
        for entry in entries:
            values: dict[str, float] = {}
            said: dict[str, str] = {}
            bounds: dict[str, FloatArray] = {}
            relaxed: Crystal | None = None
            error, notes = entry.error, entry.warnings
            if entry.neighbors:
                row, numbers = next(rows)
                edges = neighbors[row]
                notes += isolated_atoms(edges, self.config.radius)
                if finite[row]:
                    said, values = texts[row], dict(zip(self.columns, numbers, strict=True))
                    bounds = {column: ends[row, i] for column, i in bounded}
                    about_volume = volume_warnings[row]
                    if self.checkpoint.unrelaxed:
                        relaxed = scaled(crystals[row], left[row])
                    elif entry.given:
                        relaxed = crystals[row]
                        put_volume_change(entry.given, relaxed, values, bounds)
                        about_volume = about_volume.removesuffix(SEE_UNRELAXED)
                    notes += tuple(text for text in (domain_warnings[row], about_volume) if text)
                else:
                    error = failure_of(edges, self.device_name if row in too_large else None)
            own = features[row] if entry.neighbors and not error else None
            yield (
                Prediction(
                    entry.path, entry.index, entry.formula, entry.n_atoms, values, notes, error, bounds, said, relaxed
                ),
                own,
            )

    def relaxed_by_network(self, entries: Sequence[Entry]) -> Relaxed:
        """Return the crystals that are predicted: with a model for unrelaxed structures, what they relax to."""
        crystals, neighbors = found_in(entries)
        return relax(self.checkpoint, crystals, neighbors, lambda *found: self._outputs(*found)[0], self._states)

    def _states(self, crystals: list[Crystal], neighbors: list[Neighbors]) -> tuple[FloatArray, list[FloatArray]]:
        """Return outputs as `_outputs`, and states of the listed atoms of each crystal, as `relax` needs them."""
        outputs = np.full((len(crystals), self.config.outputs), np.nan)
        states = [np.full((edges.size, self.config.states), np.nan) for edges in neighbors]

        def compute(rows: IntArray, network: Any, batch: Any) -> None:
            found, every = network.first.all_states(batch)
            outputs[rows] = _array(found)
            sizes = [neighbors[row].size for row in rows]
            for row, own in zip(rows, split_by_crystal(_array(every), batch.crystals, sizes), strict=True):
                states[row] = own

        self._computed(crystals, neighbors, compute)
        return outputs, states

    def _outputs(self, crystals: list[Crystal], neighbors: list[Neighbors]) -> tuple[FloatArray, FloatArray, set[int]]:
        """Return standardised outputs (B, outputs) and features (B, D) of crystals, and which do not fit into memory.

        Of these the numbers are not a number.
        """
        outputs = np.full((len(crystals), self.config.outputs), np.nan)
        features = np.full((len(crystals), self.config.features), np.nan)

        def compute(rows: IntArray, network: Any, batch: Any) -> None:
            features[rows], outputs[rows] = map(_array, network.answer(batch))

        too_large = self._computed(crystals, neighbors, compute)
        return outputs, features, too_large

    def _embeddings(self, entries: list[Entry], per_atom: bool) -> Iterator[Embedding]:
        relaxed = self.relaxed_by_network(entries)
        crystals, neighbors = relaxed.crystals, relaxed.neighbors
        features: dict[int, FloatArray] = {}

        def compute(rows: IntArray, network: Any, batch: Any) -> None:
            if per_atom:
                sizes = [crystals[row].n_atoms for row in rows]
                atoms = split_by_crystal(_array(network.encode(batch)), batch.crystals, sizes)
                features.update(zip(rows.tolist(), atoms, strict=True))
            else:
                features.update(zip(rows.tolist(), _array(network.features(batch)), strict=True))

        too_large = self._computed(crystals, neighbors, compute)
        rows = iter(range(len(crystals)))
        for entry in entries:
            found, numbers, error, notes = None, None, entry.error, entry.warnings
            if entry.crystal and entry.neighbors:
                row = next(rows)
                edges = neighbors[row]
                notes += isolated_atoms(edges, self.config.radius)
                found = features.get(row)
                if found is None or not np.isfinite(found).all():
                    found, error = None, failure_of(edges, self.device_name if row in too_large else None)
                elif per_atom:
                    numbers = entry.crystal.main_numbers
            yield Embedding(entry.path, entry.index, entry.formula, entry.n_atoms, found, numbers, notes, error)

    def _computed(
        self, crystals: list[Crystal], neighbors: list[Neighbors], compute: Callable[[IntArray, Any, Any], None]
    ) -> set[int]:
        """Call `compute` with the indices of some crystals, a network and its batch of them until all are computed.

        Network and batch are either those of NumPy or those of torch.

        Returns:
            Indices of the crystals that do not fit into memory.
        """
        if not crystals:
            return set()
        if network := self.first_answers.network_for(neighbors):
            with np.errstate(all="ignore"):  # what is not finite is reported
                compute(np.arange(len(crystals)), network, arrays_of(crystals, neighbors, part_atoms=PART_ATOMS))
            return set()
        model = self.model
        return self._in_batches(crystals, neighbors, lambda rows, batch: compute(rows, model, batch))

    def _in_batches(
        self, crystals: list[Crystal], neighbors: list[Neighbors], compute: Callable[[IntArray, CrystalBatch], None]
    ) -> set[int]:
        """Call `compute` with the indices and torch's batch of some crystals until all are computed, as `_computed`."""
        from crystalpredict.nn.inference import run_in_batches

        too_large, self.batch_atoms = run_in_batches(
            crystals, neighbors, lambda rows, batch: compute(rows, batch.to(self.device)), self.batch_threads,
            batch_atoms=self.batch_atoms, busy_cores=self.busy,
            part_atoms=PART_ATOMS if self.on_cpu else self.batch_atoms, has_room=self._has_room,
        )  # fmt: skip
        return too_large

    def _has_room(self, edges: int, batches: int) -> bool:
        """Return whether some batches of `edges` padded edges each fit into half of the free memory.

        Always True on a GPU, where a batch that does not fit raises an error.
        """
        if not self.on_cpu:
            return True
        needed = edges * bytes_per_edge(self.config) * batches
        return needed <= ALWAYS_FREE_BYTES or needed <= free_memory() / 2

    def _entries(self, structures: Iterable[str | PathLike[str] | Structure], reduce: bool) -> Iterator[Entry]:
        """Yield the structures given from Python; with `reduce`, equivalent atoms are merged."""
        return read_structures(structures, self.config.radius, merge=reduce, vectors=self.config.vectors)


def _array(found: Any) -> FloatArray:
    """Return an array of NumPy, or a tensor of torch on any device, as an array of NumPy."""
    return np.asarray(found if isinstance(found, np.ndarray) else found.cpu().numpy())


def load_model(
    name: str | PathLike[str] | None = None,
    device: str = "auto",
    targets: Sequence[str] = (),
    batch_atoms: int | None = None,
    *,
    uncertainty: bool = True,
    hull: Hull | None = None,
    relax: str | Relaxation | None = None,
    orderings: int = 0,
) -> Predictor:
    """Return a model, ready to predict.

    Args:
        name: Name of a bundled or installed model, or a checkpoint folder, which a Path always is. None: the default
            model, `crystalformer-mp`.
        device: `auto`, `cpu` or `cuda`.
        targets: Names or aliases of properties in the order of the columns, such as `["bandgap", "K"]`. Empty: all
            properties of the model.
        batch_atoms: Number of atoms computed at once. None: chosen by the memory of the device.
        uncertainty: Whether rows have intervals, if the model is calibrated.
        hull: Known phases that define the convex hull, from `crystalpredict.prediction.known_phases.hull_of`. None:
            those bundled with the package.
        relax: Potential, or Relaxation, by which structures are relaxed before they are predicted. None: they are
            predicted as they are.
        orderings: Number of ordered supercells of each disordered crystal that are predicted beside the average site.

    Returns:
        The Predictor.

    Raises:
        UsageError: No model has this name, no such property is known, or the device or the potential is missing.
        CheckpointError: The checkpoint is damaged or of an unknown format.
    """
    checkpoint = load_checkpoint(find_model(name))
    if isinstance(relax, str):
        from crystalpredict.prediction.relaxation_by_potential import Relaxation

        relax = Relaxation(relax)
    return Predictor(
        checkpoint, device, targets, batch_atoms, uncertainty=uncertainty, hull=hull, relax=relax, orderings=orderings
    )
