"""What the tools of the server do; no protocol here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.checkpoints.registry import bundled_models, config_of_model, find_model, installed_models
from crystalpredict.errors import CrystalPredictError, StructureError, UsageError, hint_of
from crystalpredict.integrations import mcp_requests as records
from crystalpredict.integrations.root_folder import RootFolder
from crystalpredict.io.entries import Inline, Source
from crystalpredict.properties import DEFORMATION, VOLUME_CHANGE

if TYPE_CHECKING:
    from crystalpredict.crystals.crystal import Crystal
    from crystalpredict.io.entries import Entry
    from crystalpredict.prediction.phase_diagram import DiagramPhase
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.relaxation_by_potential import Relaxer
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

MODELS_LOADED = 2  # the default one, and that for unrelaxed structures
MAX_PHASES = 200  # of a phase diagram
MAX_ATOMS = 5000  # of a cell
MAX_ATOMS_POTENTIAL = 200  # of a cell that a potential relaxes


class Tools:
    """The tools, with the models that are loaded."""

    def __init__(
        self, root: str | Path = ".", model: str | None = None, device: str = "auto", potential: str | None = None
    ) -> None:
        """Check the arguments; models are loaded by the first call that needs them.

        Args:
            root: Folder below which files are read.
            model: Name of a model, or a checkpoint folder; None: the default.
            device: `cpu`, `cuda`, `cuda:N` or `auto`.
            potential: Interatomic potential for `relax`, as `--relax` takes it; None: none.

        Raises:
            UsageError: There is no such folder, model, device or potential.
        """
        self.root, self.model, self.device, self.potential = RootFolder(root), model, device, potential
        find_model(model)
        if device not in ("auto", "cpu"):
            from crystalpredict.nn.devices import choose_device

            choose_device(device)
        if potential is not None:
            from crystalpredict.prediction.potentials import refuse_missing

            refuse_missing(potential)
        self._predictor = lru_cache(MODELS_LOADED)(self._loaded)
        self._relaxer: Relaxer | None = None

    def predict(self, request: records.PredictRequest) -> records.PredictResult:
        """Return predictions."""
        predictor = self._predictor(self._folder(request.model, unrelaxed=request.unrelaxed))
        wanted = self._wanted(predictor, request.properties)
        entries = self._entries(predictor, self._sources(request.structures, request.paths))
        rows = predictor.stream(entries)
        if request.orderings:
            from crystalpredict.prediction.orderings import Orderer

            rows = Orderer(predictor, request.orderings).added(entries, rows)
        results = [_predicted(row, wanted) for row in rows]
        return records.PredictResult(predictor.checkpoint.name, results)

    def hull(self, request: records.HullRequest) -> records.HullResult:
        """Return the phase diagram of a system."""
        from crystalpredict.prediction.phase_diagram import diagram_of_rows, elements_of_system
        from crystalpredict.prediction.rows import name_of

        rows: list[Prediction] = []
        if request.system:
            elements_of_system(request.system)
        elif not (request.structures or request.paths):
            raise UsageError("no system and no structures: give one of them")
        predictor = self._predictor(self._folder(request.model, unrelaxed=request.unrelaxed))
        self._wanted(predictor, ["formation_energy"])
        if request.structures or request.paths:
            rows = self._rows(predictor, self._sources(request.structures, request.paths))
            rows = [replace(row, path=name_of(row.path, row.index), index=0) for row in rows]
        diagram = diagram_of_rows(rows, request.system or None)
        warnings = {row.path: list(row.warnings) for row in rows}
        near = [
            phase
            for phase in diagram.phases
            if phase.source != "reference" or phase.e_above_hull <= request.within_eV_per_atom
        ]
        known = [phase for phase in near if phase.source == "reference"][: max(MAX_PHASES - len(rows), 0)]
        shown = [phase for phase in near if phase.source != "reference" or phase in known]
        inside = {phase.id for phase in shown}
        return records.HullResult(
            predictor.checkpoint.name,
            list(diagram.elements),
            sum(phase.stable for phase in diagram.phases),
            [_phase(phase, warnings) for phase in shown],
            [f"{row.path}: {row.error}" for row in diagram.failed],
            [row.path for row in rows if not row.error and row.path not in inside],
            len(diagram.phases) - len(shown),
        )

    def relax(self, request: records.RelaxRequest) -> records.RelaxResult:
        """Return structures as they are predicted to relax, or relaxed by the potential."""
        sources = self._sources(request.structures, request.paths, records.MAX_RELAXED)
        if request.method == "volume":
            predictor = self._predictor(self._folder("", unrelaxed=True))
            entries = self._entries(predictor, sources)
            relaxed = [_as_predicted(row) for row in predictor.stream(entries)]
            return records.RelaxResult("volume", self._relaxed(entries, relaxed, write_cif=request.write_cif))
        if self.potential is None:
            raise UsageError("this server has no potential: start it with --relax chgnet, or use the method volume")
        predictor = self._predictor(self._folder("", unrelaxed=False))
        entries = self._entries(predictor, sources)
        relaxed = [self._by_potential(entry, request, predictor) for entry in entries]
        return records.RelaxResult(self.potential, self._relaxed(entries, relaxed, write_cif=request.write_cif))

    def evaluate(self, request: records.EvaluateRequest) -> records.EvaluateResult:
        """Return errors on a labelled table."""
        from crystalpredict.checkpoints.registry import weights_sha256
        from crystalpredict.evaluation.evaluate import collect_predictions
        from crystalpredict.evaluation.evaluate import evaluate as scored
        from crystalpredict.evaluation.models import find_models, read_table

        path = self.root.resolved(request.data)
        path = path if path.is_dir() else self.root.file(request.data)
        if path.is_dir():
            self.root.file(str(path / "id_prop.csv"))
        folder = self._folder(request.model, unrelaxed=request.unrelaxed)
        (model,) = find_models(str(folder), ())
        table = read_table(path, [model], request.properties, request.structure_column or None, None)
        if len(table.sources) > records.MAX_EVALUATED:
            raise UsageError(
                f"{request.data}: {len(table.sources):,} rows, but at most {records.MAX_EVALUATED:,} in a call"
            )
        table = replace(table, sources=tuple(map(self.root.read, table.sources)))
        predictor = self._predictor(folder)
        rows = self._rows(predictor, table.sources)
        columns = [prop.column for prop in table.properties]
        report = scored(table, [collect_predictions(model.name, weights_sha256(folder), columns, rows)])
        return records.EvaluateResult(
            model.name,
            report.rows,
            report.predicted,
            [_score(score.to_dict()) for score in report.leading],
            list(map(self.root.without_root, report.notes)),
            [self.root.without_root(f"{loss.count} rows, first row {loss.row}: {loss.reason}") for loss in report.lost],
        )

    def list_models(self, request: records.NoArguments) -> records.ModelList:
        """Return the models at hand."""
        del request
        own = find_model(self.model)
        found = [(model.name, model.folder, model.summary) for model in bundled_models().values()]
        found += [(name, folder, "installed by the user") for name, folder in installed_models().items()]
        if own not in [folder for _, folder, _ in found]:
            found.insert(0, (own.name, own, "the model of this server"))
        entries = []
        for name, folder, summary in found:
            if config := config_of_model(folder):
                names = [prop.name for prop in config.properties]
                entries.append(records.ModelEntry(name, summary, names, folder == own, config.unrelaxed))
        return records.ModelList(entries, self.potential)

    def list_properties(self, request: records.PropertiesRequest) -> records.PropertyList:
        """Return the properties that a model predicts."""
        predictor = self._predictor(self._folder(request.model, unrelaxed=request.unrelaxed))
        default = self._wanted(predictor, [])
        properties = [
            records.PropertyEntry(
                prop.name, prop.label, prop.unit, list(prop.aliases), prop.has_interval and not prop.is_text,
                prop in default,
            )
            for prop in self._wanted(predictor, _every(predictor))
        ]  # fmt: skip
        return records.PropertyList(predictor.checkpoint.name, properties)

    def _folder(self, name: str, *, unrelaxed: bool) -> Path:
        """Return the folder of a model by its name; not of a path, which a caller must not choose."""
        if not name:
            return find_model(unrelaxed=True) if unrelaxed else find_model(self.model)
        known = (*bundled_models(), *installed_models())
        if name not in known:
            raise UsageError(f"no model {name[:80]!r}: {hint_of(name, known)}")
        return find_model(name, unrelaxed=unrelaxed)

    def _loaded(self, folder: Path) -> Predictor:
        """Return the model in a folder, for all that it predicts."""
        from crystalpredict.prediction.predictor import Predictor, load_model

        plain = load_model(folder, self.device)
        return Predictor(plain.checkpoint, self.device, _every(plain))

    def _wanted(self, predictor: Predictor, names: Sequence[str]) -> tuple[Property, ...]:
        from crystalpredict.prediction.derived import asked_for

        return asked_for(predictor.checkpoint.properties, names)

    def _sources(
        self, structures: Sequence[str], paths: Sequence[str], most: int = records.MAX_STRUCTURES
    ) -> list[Source]:
        texts: list[Source] = [Inline(f"structures[{number}]", text) for number, text in enumerate(structures)]
        found = texts + self.root.sources(list(paths), most)
        if not found:
            raise UsageError("no structures: give texts in structures, or paths")
        if len(found) > most:
            raise UsageError(f"{len(found):,} structures: give at most {most:,} in a call")
        return found

    def _entries(self, predictor: Predictor, sources: Sequence[Source]) -> list[Entry]:
        """Return the structures of sources, with their neighbours; too large ones have an error."""
        from crystalpredict.io.reader import read_chunk

        config = predictor.config
        entries = read_chunk(sources, config.radius, merge=True, vectors=config.vectors)
        if len(entries) > max(len(sources), records.MAX_STRUCTURES):
            raise UsageError(f"{len(entries):,} structures: give at most {records.MAX_STRUCTURES:,} in a call")
        return [_refused(entry) if (entry.n_atoms or 0) > MAX_ATOMS else entry for entry in entries]

    def _rows(self, predictor: Predictor, sources: Sequence[Source]) -> list[Prediction]:
        return list(predictor.stream(self._entries(predictor, sources)))

    def _by_potential(self, entry: Entry, request: records.RelaxRequest, predictor: Predictor) -> _Relaxed:
        from crystalpredict.prediction.relaxation_by_potential import Relaxation, Relaxer

        assert self.potential is not None
        if entry.crystal is None:
            return _Relaxed(error=entry.error)
        if entry.crystal.n_atoms > MAX_ATOMS_POTENTIAL:
            return _Relaxed(
                error=f"{entry.crystal.n_atoms} atoms, more than {MAX_ATOMS_POTENTIAL}: give a smaller cell"
            )
        how = Relaxation(self.potential, request.force_eV_per_A, request.steps, request.seconds)
        if self._relaxer is None:
            self._relaxer = Relaxer(how, predictor.config, predictor.device_name)
        self._relaxer.relaxation = how
        found = self._relaxer.relaxed_entry(entry)
        return _Relaxed(found.crystal, warnings=list(found.warnings), error=found.error)

    def _relaxed(
        self, entries: Sequence[Entry], relaxed: Sequence[_Relaxed], *, write_cif: bool
    ) -> list[records.RelaxedStructure]:
        from crystalpredict.io.cell_writers import cif

        results = []
        for entry, found in zip(entries, relaxed, strict=True):
            given, new = entry.crystal, found.crystal
            change = 100 * (new.volume / given.volume - 1) if given and new else None
            results.append(
                records.RelaxedStructure(
                    entry.path, entry.index, entry.formula or None, _number(given.volume if given else None, 3),
                    _number(new.volume if new else None, 3), _number(change, 2), _number(found.low, 2),
                    _number(found.high, 2), _number(found.strain, 2), _number(found.displacement, 3),
                    cif(new) if new and write_cif else None, found.warnings, found.error or None,
                )
            )  # fmt: skip
        return results


@dataclass(frozen=True)
class _Relaxed:
    """A relaxed crystal.

    Attributes:
        crystal: The crystal; None if there is an error.
        low: Lower end of the interval of the change of its volume, in percent; None by a potential.
        high: Its upper end.
        strain: Predicted largest strain, in percent; None by a potential, or by a model that does not predict it.
        displacement: Predicted largest displacement of an atom, Å; None as for the strain.
        warnings: About the structure, and about the relaxation.
        error: Why there is no crystal.
    """

    crystal: Crystal | None = None
    low: float | None = None
    high: float | None = None
    strain: float | None = None
    displacement: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""


def _every(predictor: Predictor) -> list[str]:
    """Return the names of all properties that a model predicts, or that follow from them."""
    from crystalpredict.prediction.derived import derivable

    known = predictor.checkpoint.properties
    return [prop.name for prop in (*known, *derivable(known))]


def _refused(entry: Entry) -> Entry:
    reason = f"{entry.n_atoms:,} atoms, more than {MAX_ATOMS:,}: use the command line"
    return replace(entry, crystal=None, neighbors=None, error=entry.error or reason)


def _as_predicted(row: Prediction) -> _Relaxed:
    low, high = row.intervals.get(VOLUME_CHANGE.column, (None, None))
    strain, displacement = (row.values.get(prop.column) for prop in DEFORMATION)
    return _Relaxed(row.relaxed, low, high, strain, displacement, list(row.warnings), row.error)


def _number(value: float | None, digits: int) -> float | None:
    """Return a rounded number; None for one that is not finite, which JSON cannot write."""
    return round(value, digits) if value is not None and isfinite(value) else None


def _predicted(row: Prediction, properties: Sequence[Property]) -> records.PredictedStructure:
    values = [_value(row, prop) for prop in properties] if row.values and not row.error else []
    return records.PredictedStructure(
        row.path, row.index, row.formula or None, row.n_atoms, values, list(row.warnings), row.error or None
    )


def _value(row: Prediction, prop: Property) -> records.PropertyValue:
    if prop.is_text:
        return records.PropertyValue(prop.name, "", row.texts.get(prop.column) or None)
    digits = min(prop.decimals, 12)
    low, high = row.intervals.get(prop.column, (None, None))
    return records.PropertyValue(
        prop.name, prop.unit, _number(row.values[prop.column], digits), _number(low, digits), _number(high, digits),
        _orderings(row, prop, digits),
    )  # fmt: skip


def _orderings(row: Prediction, prop: Property, digits: int) -> records.Orderings | None:
    count = int(row.values.get("orderings", 0))
    if not count:
        return None
    from crystalpredict.prediction.orderings import properties_of_orderings

    mean, low, high = (_number(row.values[each.column], digits) for each in properties_of_orderings([prop])[:3])
    return records.Orderings(count, mean, low, high)


def _phase(phase: DiagramPhase, warnings: dict[str, list[str]]) -> records.HullPhase:
    return records.HullPhase(
        phase.formula, phase.id, phase.source, round(phase.formation_energy, 4), _number(phase.lo90, 4),
        _number(phase.hi90, 4), round(phase.e_above_hull, 4), _number(phase.hull_distance, 4), phase.decomposes_to,
        warnings.get(phase.id, []) if phase.source == "predicted" else [],
    )  # fmt: skip


def _score(score: dict[str, Any]) -> records.PropertyScore:
    low, high = score["mae_interval95"]
    return records.PropertyScore(
        score["property"], score["unit"], score["crystals"], score["mae"], low, high, score["median_error"],
        score["rmse"], score["r2"], score.get("intervals", {}).get("coverage", {}).get("90"),
    )  # fmt: skip


def call(tools: Tools, tool: Callable[[Tools, Any], Any], kind: type[Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what a tool gives for the arguments of a call, as objects of JSON.

    Raises:
        CrystalPredictError: In one line.
    """
    try:
        return records.plain(tool(tools, records.arguments_of(arguments, kind)))
    except CrystalPredictError as error:  # that the server's folder lies somewhere else is nothing to its callers
        raise type(error)(tools.root.without_root(str(error))) from None
    except MemoryError:
        raise StructureError("not enough memory for these structures: give fewer or smaller ones") from None
