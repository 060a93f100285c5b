"""Pictures of phase diagrams, drawn by pymatgen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from crystalpredict._files import write_atomically
from crystalpredict.errors import UsageError
from crystalpredict.prediction.phase_diagram import PhaseDiagram

SUFFIXES = (".png", ".svg", ".pdf", ".html")
MIN_ELEMENTS, MAX_ELEMENTS = 2, 4


def refuse_picture(path: Path) -> None:
    """Raise UsageError if no picture can have this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: no format for this suffix; use {', '.join(SUFFIXES)}")


def draw_phase_diagram(diagram: PhaseDiagram, path: Path, within: float) -> None:
    """Draw the phase diagram of two to four elements.

    Args:
        diagram: what to draw.
        path: picture to write, .png, .svg, .pdf, or .html, which can be turned.
        within: unstable phases of one's own are drawn if they are at most so far above the hull, eV/atom.

    Raises:
        UsageError: The system has another number of elements, or the suffix is of no picture.
    """
    refuse_picture(path)
    count = len(diagram.elements)
    if not MIN_ELEMENTS <= count <= MAX_ELEMENTS:
        raise UsageError(f"a picture needs a system of {MIN_ELEMENTS} to {MAX_ELEMENTS} elements, not {count}")
    from pymatgen.analysis.phase_diagram import PDEntry, PDPlotter
    from pymatgen.analysis.phase_diagram import PhaseDiagram as Diagram
    from pymatgen.core.composition import Composition

    entries = []
    for phase in diagram.phases:
        if phase.source == "reference" and not phase.stable:  # many, whose names would hide the picture
            continue
        composition = Composition(phase.formula)
        name = phase.formula if phase.source == "reference" else f"{phase.formula}, own"
        entries.append(PDEntry(composition, phase.formation_energy * composition.num_atoms, name=name))
    backend: Literal["plotly", "matplotlib"] = "plotly" if path.suffix.lower() == ".html" else "matplotlib"
    if backend == "matplotlib":
        import matplotlib as mpl

        mpl.use("Agg")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of limits that pymatgen sets twice
    plotter = PDPlotter(Diagram(entries), show_unstable=within, backend=backend)
    picture: Any = plotter.get_plot()
    with write_atomically(path) as file:
        if backend == "plotly":
            file.write(picture.to_html(include_plotlyjs=True).encode())
        else:
            picture.figure.savefig(file, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight")
