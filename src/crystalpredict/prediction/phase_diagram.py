"""The phase diagram of a chemical system: known phases and crystals of one's own, and how stable each is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS
from crystalpredict.errors import UsageError
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.prediction.known_phases import join_phases, read_phases
from crystalpredict.prediction.predictions import predict
from crystalpredict.prediction.rows import Prediction, name_of
from crystalpredict.prediction.stability import decomposition_of, formula_of
from crystalpredict.properties import FORMATION_ENERGY
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.hull import ON_HULL, hull_points
from crystalpredict.stability.reference import Composition, Phase, ReferenceEnergies

if TYPE_CHECKING:
    from pandas import DataFrame

LOG = logging.getLogger(__name__)
FORMATION_COLUMN = "formation_energy_eV_per_atom"
MAX_SYSTEM = 12  # elements of a phase diagram
COLUMNS = {
    "formula": "formula",
    "id": "id",
    "source": "source",
    "formation_energy": "formation_energy_eV_per_atom",
    "lo90": "formation_energy_eV_per_atom_lo90",
    "hi90": "formation_energy_eV_per_atom_hi90",
    "e_above_hull": "e_above_hull_eV_per_atom",
    "hull_distance": "hull_distance_eV_per_atom",
    "decomposes_to": "decomposes_to",
}  # of a table, by attribute of DiagramPhase


@dataclass(frozen=True)
class DiagramPhase:
    """A phase of a diagram.

    Attributes:
        formula: reduced.
        id: of the Materials Project or of an entry, or the name of a file.
        source: `reference`, `entries` or `predicted`.
        formation_energy: eV/atom.
        lo90, hi90: ends of the interval of a predicted formation energy, eV/atom; None for others.
        e_above_hull: distance to the hull of all phases of the diagram, eV/atom, not below 0.
        hull_distance: distance to the hull of the phases of other compositions and of the known ones of its own,
            eV/atom: below 0 for a new stable phase; None for known phases.
        decomposes_to: phases of the hull at its composition, with their shares of the atoms; "" if it is stable.
    """

    formula: str
    id: str
    source: str
    formation_energy: float
    lo90: float | None
    hi90: float | None
    e_above_hull: float
    hull_distance: float | None
    decomposes_to: str

    @property
    def stable(self) -> bool:
        """Whether it lies on the hull."""
        return self.e_above_hull <= ON_HULL


@dataclass(frozen=True)
class Candidate:
    """A crystal of one's own: a phase, and the interval of its formation energy, if it has one."""

    phase: Phase
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PhaseDiagram:
    """Phases of a chemical system, the stable ones first.

    Attributes:
        elements: symbols.
        phases: of these elements.
        reference: known phases and candidates together.
        failed: predictions of structures that have an error instead of an energy.
    """

    elements: tuple[str, ...]
    phases: tuple[DiagramPhase, ...]
    reference: ReferenceEnergies
    failed: tuple[Prediction, ...] = ()

    @property
    def summary(self) -> str:
        """The system with the numbers of phases and of stable ones."""
        stable = sum(phase.stable for phase in self.phases)
        count = len(self.phases)
        return f"{'-'.join(self.elements)}: {count} phase{'s' * (count != 1)}, {stable} stable"

    def __repr__(self) -> str:
        """Return a line that counts the phases, and the table."""
        return f"{self.summary}\n{self.to_frame().to_string()}"

    def _repr_html_(self) -> str:
        return str(self.to_frame()._repr_html_())

    def to_frame(self) -> DataFrame:
        """Return the phases as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame([as_record(phase) for phase in self.phases], columns=list(COLUMNS.values()))

    def decomposition(self, composition: Composition) -> tuple[str, float]:
        """Return the phases of the hull at a composition, and the hull's energy there, eV/atom."""
        (point,) = hull_points(self.reference, [composition])
        return decomposition_of(self.reference, point), point.energy


def elements_of_system(text: str) -> tuple[int, ...]:
    """Return the atomic numbers of a chemical system, `Li-Fe-O`, or of the elements of a formula, `LiFeO2`.

    Raises:
        UsageError: The text is neither.
    """
    if "-" in text:
        symbols = text.split("-")
        if unknown := [symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS]:
            raise UsageError(f"{text[:60]!r}: no element {unknown[0][:20]!r}: write a system as Li-Fe-O")
        return tuple(sorted({ATOMIC_NUMBERS[symbol] for symbol in symbols}))
    try:
        return tuple(sorted(composition_of_formula(text)))
    except ValueError as error:
        raise UsageError(f"{error}; a system is written as Li-Fe-O") from None


def diagram_of_phases(
    elements: Iterable[int], reference: ReferenceEnergies, candidates: Sequence[Candidate] = (), *,
    own_identifiers: Iterable[str] = (),
) -> PhaseDiagram:  # fmt: skip
    """Return the phase diagram of a chemical system.

    Args:
        elements: atomic numbers of the system.
        reference: known phases.
        candidates: crystals of one's own with no other elements.
        own_identifiers: phases of the reference that are entries of one's own.

    Raises:
        UsageError: The system has too many elements.
    """
    system = sorted(set(elements))
    if len(system) > MAX_SYSTEM:
        raise UsageError(f"a system of {len(system)} elements: at most {MAX_SYSTEM} have a phase diagram")
    own = set(own_identifiers)
    known = [reference.phase(number) for number in reference.of_system(system)]
    elements_known = (phase for phase in known if len(phase.composition) == 1 and phase.energy <= ON_HULL)
    present = {number for phase in elements_known for number in phase.composition}
    known += [Phase({number: 1}, 0.0, "") for number in system if number not in present]
    before = ReferenceEnergies.of_phases(known)
    joined = before.with_phases(candidate.phase for candidate in candidates)
    every: list[tuple[Phase, str, tuple[float, float] | None]] = [
        (phase, "entries" if phase.identifier in own else "reference", None) for phase in known
    ]
    every += [(candidate.phase, "predicted", candidate.interval) for candidate in candidates]
    compositions = [phase.composition for phase, _, _ in every]
    points, others = hull_points(joined, compositions), hull_points(before, compositions[len(known) :])
    rows = []
    for (phase, source, interval), point in zip(every, points, strict=True):
        above = max(phase.energy - point.energy, 0.0)
        low, high = interval or (None, None)
        decomposition = "" if above <= ON_HULL else decomposition_of(joined, point)
        formula = formula_of(phase.composition)
        rows.append(
            DiagramPhase(formula, phase.identifier, source, phase.energy, low, high, above, None, decomposition)
        )
    for row, point in enumerate(others, start=len(known)):
        rows[row] = replace(rows[row], hull_distance=rows[row].formation_energy - point.energy)
    rows.sort(key=lambda row: (not row.stable, row.e_above_hull, row.formula))
    return PhaseDiagram(tuple(ELEMENTS[number - 1] for number in system), tuple(rows), joined)


def phase_diagram(
    system: str | None = None, structures: Any = (), model: str | PathLike[str] | None = None, *,
    entries: str | PathLike[str] | None = None, reference: bool = True, device: str = "auto", jobs: int = 1,
    convention: str = "mp2018",
) -> PhaseDiagram:  # fmt: skip
    """Return the phase diagram of a chemical system, with the predicted energies of structures.

    Args:
        system: `Li-Fe-O`, or a formula with the elements of the system; None: the elements of the structures.
        structures: What `predict` takes. Those with elements that are not the system's are left out.
        model: Name of a model that predicts formation energies, or a checkpoint folder; None: the default.
        entries: File of known phases of one's own: JSON of pymatgen's ComputedEntry objects, or a table with formula
            and formation_energy or total_energy in eV/atom.
        reference: Whether the known phases that come with the package take part.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        jobs: Processes that read structures.
        convention: Of formation energies: that of the Materials Project of 2018 or 2020, `mp2018` or `mp2020`, or
            `uncorrected`.

    Returns:
        The phases, the stable ones first.

    Raises:
        UsageError: The system is none, or has too many elements; there is no such convention.
        DataError: The file of entries cannot be read.
    """
    if system:
        elements_of_system(system)  # refused before anything is read
    chosen = Convention.of(convention)
    own = [] if entries is None else list(read_phases(Path(entries), chosen))
    rows = predict(structures, model, [FORMATION_ENERGY], device=device, jobs=jobs, convention=convention)
    if warned := sum(bool(row.warnings) for row in rows):
        LOG.info("%d structures have warnings, which predict shows", warned)
    return diagram_of_rows(rows, system, own, reference=reference, convention=chosen)


def diagram_of_rows(
    rows: Sequence[Prediction], system: str | None = None, own: Sequence[Phase] = (), *, reference: bool = True,
    convention: Convention = Convention.mp2018,
) -> PhaseDiagram:  # fmt: skip
    """Return the phase diagram of a chemical system, with structures whose formation energies are predicted.

    Args:
        rows: Predictions, in the convention.
        system: `Li-Fe-O`, or a formula with the elements of the system; None: the elements of the structures.
        own: Known phases of one's own.
        reference: Whether the known phases that come with the package take part.
        convention: Of formation energies.

    Raises:
        UsageError: The system is none, or has too many elements.
    """
    elements = set(elements_of_system(system)) if system else set()
    failed = tuple(row for row in rows if row.error)
    candidates = [_candidate(row) for row in rows if not row.error]
    elements = elements or {number for each in candidates for number in each.phase.composition}
    if not elements:
        first = f": {failed[0].path}: {failed[0].error}" if failed else ""
        raise UsageError(f"no system, and no structure that was predicted{first}")
    inside = [candidate for candidate in candidates if elements.issuperset(candidate.phase.composition)]
    if outside := len(candidates) - len(inside):
        LOG.info("%d structures left out: they have elements that the system has not", outside)
    phases = join_phases(own, reference=reference, convention=convention)
    diagram = diagram_of_phases(elements, phases, inside, own_identifiers=[phase.identifier for phase in own])
    return replace(diagram, failed=failed)


def _candidate(row: Prediction) -> Candidate:
    """Return a predicted structure as a phase."""
    name = name_of(row.path, row.index)
    interval = row.interval(FORMATION_COLUMN) if row.bounds else None
    return Candidate(Phase(composition_of_formula(row.formula), row[FORMATION_COLUMN], name), interval)


def as_record(phase: DiagramPhase) -> dict[str, Any]:
    """Return a phase as a JSON object, with numbers rounded to four decimals."""
    return {
        column: round(value, 4) if isinstance(value := getattr(phase, name), float) else value
        for name, column in COLUMNS.items()
    }
