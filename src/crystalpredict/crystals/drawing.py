"""Drawings of unit cells as SVG: atoms, bonds and the edges of the cell, seen from a little above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import combinations, pairwise, product
from math import cos, pi, radians, sin

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray
from crystalpredict.crystals.periodic_table import COVALENT_RADII, ELECTROPOSITIVE, colour_of, is_dark, shaded

MAX_ATOMS = 200  # in the cell; a drawing of more shows nothing but a heap
MAX_ATOMS_WITH_SYMBOLS = 70
WIDTH, HEIGHT = 240, 200  # of the drawing, without the legend
LEGEND_HEIGHT, MAX_LEGEND = 24, 8
MARGIN = 18
TURN, TILT = radians(-22), radians(14)  # of the view, about the vertical and the horizontal axis
ATOM_SIZE = 0.42  # drawn radius over covalent radius
BOND_LENGTH = 1.15  # longest bond over the sum of covalent radii
BOND_WIDTH = 0.2  # Å
FACE = 0.02  # atoms so close to a face, as a fraction of an edge, are drawn on the opposite face too
EDGE_PARTS = 8  # of an edge of the cell: each is before or behind an atom


@dataclass(frozen=True)
class _Atoms:
    """N atoms to draw: sites (N,) of the crystal, places in the view (N, 3): right, up, and distance; radii (N,)."""

    sites: IntArray
    places: FloatArray
    radii: FloatArray


def cell_svg(crystal: Crystal, label: str = "") -> str:
    """Return a drawing of the unit cell of a crystal; "" if it has more than MAX_ATOMS atoms.

    Atoms on a face are drawn on the opposite face too. A shared site is a pie of its elements; empty parts are white.

    Args:
        crystal: The crystal.
        label: What the drawing shows, for those who cannot see it.
    """
    if crystal.n_atoms > MAX_ATOMS:
        return ""
    view = _view(crystal.lattice)
    atoms = _atoms(crystal, view)
    corners = np.array(list(product((0, 1), repeat=3))) @ crystal.lattice @ view
    low = np.minimum((atoms.places - atoms.radii[:, None]).min(axis=0), corners.min(axis=0))
    high = np.maximum((atoms.places + atoms.radii[:, None]).max(axis=0), corners.max(axis=0))
    scale = min((WIDTH - 2 * MARGIN) / (high[0] - low[0]), (HEIGHT - 2 * MARGIN) / (high[1] - low[1]))
    middle = (low + high) / 2

    def on_page(points: FloatArray) -> FloatArray:
        """Return points (n, 3) of the view in pixels, with their distance as it is."""
        return np.asarray((points - middle) * (scale, -scale, 1) + np.array([WIDTH / 2, HEIGHT / 2, 0]))

    drawn = _Atoms(atoms.sites, on_page(atoms.places), atoms.radii * scale)
    edges = crystal.lattice @ view
    shapes = [
        *_edges(on_page(corners)),
        *_bonds(crystal, atoms, on_page, scale),
        *_spheres(crystal, drawn, with_symbols=len(drawn.sites) <= MAX_ATOMS_WITH_SYMBOLS),
    ]
    shapes.sort(key=lambda shape: -shape[0])  # the farthest first
    body = "".join(text for _, text in shapes)
    body += _letters(on_page(np.vstack([np.zeros(3), edges])), drawn)
    symbols = sorted({ELEMENTS[number - 1] for number in crystal.numbers[crystal.occupancies > 0].tolist()})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cell" viewBox="0 0 {WIDTH} {HEIGHT + LEGEND_HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT + LEGEND_HEIGHT}" role="img" aria-label="{escape(label or "unit cell")}" '
        f'font-family="system-ui, sans-serif">{body}{_legend(symbols)}</svg>'
    )


def _view(lattice: FloatArray) -> FloatArray:
    """Return the matrix (3, 3) from Cartesian coordinates to right, up and distance, with c upright."""
    right = lattice[0] / np.linalg.norm(lattice[0])
    up = np.cross(lattice[0], lattice[1])
    up = up / np.linalg.norm(up) * (1 if lattice[2] @ up >= 0 else -1)
    upright = np.array([right, np.cross(up, right), up]).T
    turn = np.array([[cos(TURN), sin(TURN), 0], [-sin(TURN), cos(TURN), 0], [0, 0, 1]])
    # columns: right, up, distance
    tilt = np.array([[1, 0, 0], [0, sin(TILT), cos(TILT)], [0, cos(TILT), -sin(TILT)]])
    return np.asarray(upright @ turn @ tilt)


def _atoms(crystal: Crystal, view: FloatArray) -> _Atoms:
    """Return the atoms of the cell, and the images of those on its faces."""
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    fractional = fractional - np.floor(fractional + FACE)
    sites, places = [], []
    for site, own in enumerate(fractional):
        steps = [(0, 1) if abs(each) < FACE else (0,) for each in own]
        for step in product(*steps):
            sites.append(site)
            places.append(own + step)
    main = crystal.main_numbers
    radii = ATOM_SIZE * np.array(COVALENT_RADII)[main - 1]
    chosen = np.array(sites)
    return _Atoms(chosen, np.array(places) @ crystal.lattice @ view, radii[chosen])


def _edges(corners: FloatArray) -> Iterator[tuple[float, str]]:
    """Yield the distance and the line of each part of the twelve edges of a cell, given its corners (8, 3)."""
    for one, two in combinations(range(8), 2):
        if (one ^ two).bit_count() != 1:
            continue
        stops = np.linspace(corners[one], corners[two], EDGE_PARTS + 1)
        for start, end in pairwise(stops):
            line = _line(start, end, 'stroke="currentColor" stroke-opacity=".55"')
            yield float(start[2] + end[2]) / 2, line


def _bonds(
    crystal: Crystal, atoms: _Atoms, on_page: Callable[[FloatArray], FloatArray], scale: float
) -> Iterator[tuple[float, str]]:
    """Yield the distance and the line of each half of a bond, in the colour of its atom."""
    main = crystal.main_numbers[atoms.sites]
    reach = BOND_LENGTH / ATOM_SIZE * (atoms.radii[:, None] + atoms.radii)
    lengths = np.linalg.norm(atoms.places[:, None] - atoms.places, axis=2)
    bonded = np.triu((lengths < reach) & (lengths > 0.1), 1)
    soft = np.isin(main, list(ELECTROPOSITIVE))
    if not soft.all():
        bonded &= ~(soft[:, None] & soft)  # ions of the same kind, which are only large
    width = max(BOND_WIDTH * scale, 1.2)
    for one, two in np.argwhere(bonded).tolist():
        middle = (atoms.places[one] + atoms.places[two]) / 2
        for atom in (one, two):
            along = (middle - atoms.places[atom]) / np.linalg.norm(middle - atoms.places[atom])
            start, end = on_page(np.array([atoms.places[atom] + 0.9 * atoms.radii[atom] * along, middle]))
            colour = shaded(colour_of(ELEMENTS[main[atom] - 1]), 0.85)
            line = _line(start, end, f'stroke="{colour}" stroke-width="{width:.1f}"')
            yield float(start[2] + end[2]) / 2, line


def _spheres(crystal: Crystal, atoms: _Atoms, *, with_symbols: bool) -> Iterator[tuple[float, str]]:
    """Yield the distance and the shapes of each atom."""
    for site, (x, y, distance), radius in zip(atoms.sites.tolist(), atoms.places, atoms.radii, strict=True):
        shares = [
            (ELEMENTS[number - 1], float(share))
            for number, share in zip(crystal.numbers[site].tolist(), crystal.occupancies[site], strict=True)
            if share > 0
        ]
        symbol = max(shares, key=lambda pair: pair[1])[0]
        whole = len(shares) == 1 and shares[0][1] > 0.99
        fill = colour_of(symbol) if whole else "#ffffff"
        text = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>'
        text += "" if whole else _pie(float(x), float(y), float(radius), shares)
        rim = shaded(colour_of(symbol), 0.5)
        text += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="none" stroke="{rim}"/>'
        if with_symbols:
            gleam = (x - 0.35 * radius, y - 0.38 * radius, 0.26 * radius)
            text += '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" fill="#fff" fill-opacity=".45"/>'.format(*gleam)
            if whole and radius > 7:
                ink = "#fff" if is_dark(colour_of(symbol)) else "#111"
                size = min(0.95 * radius, 12)
                text += _text(x, y + 0.36 * size, size, symbol, f'fill="{ink}"')
        yield float(distance), text


def _pie(x: float, y: float, radius: float, shares: list[tuple[str, float]]) -> str:
    """Return a sector for each element of a shared site; what is empty stays white."""
    text, start = "", 0.0
    for symbol, share in shares:
        end = min(start + share, 0.9999)
        (x0, y0), (x1, y1) = (
            (x + radius * sin(2 * pi * part), y - radius * cos(2 * pi * part)) for part in (start, end)
        )
        large = int(end - start > 0.5)
        path = f"M{x:.1f} {y:.1f}L{x0:.1f} {y0:.1f}A{radius:.1f} {radius:.1f} 0 {large} 1 {x1:.1f} {y1:.1f}Z"
        text += f'<path d="{path}" fill="{colour_of(symbol)}"/>'
        start = end
    return text


def _letters(points: FloatArray, atoms: _Atoms) -> str:
    """Return the letters of the cell's edges beyond their ends, given origin and ends (4, 3) on the page."""
    text = ""
    for letter, end in zip("abc", points[1:], strict=True):
        along = (end - points[0])[:2]
        length = float(np.linalg.norm(along))
        covering = np.linalg.norm(atoms.places[:, :2] - end[:2], axis=1) < atoms.radii
        away = 9 + float(atoms.radii[covering].max(initial=0.0))
        x, y = end[:2] + (away * along / length if length > 1 else away)
        text += _text(min(max(x, 5), WIDTH - 5), min(max(y + 4, 10), HEIGHT - 2), 10, letter, 'fill="currentColor"')
    return text


def _legend(symbols: list[str]) -> str:
    """Return a line with the colours of the elements."""
    shown = symbols[:MAX_LEGEND]
    step = min(38.0, (WIDTH - 10) / len(shown))
    x, y, text = (WIDTH - step * len(shown)) / 2 + 8, HEIGHT + 12, ""
    for symbol in shown:
        colour = colour_of(symbol)
        text += f'<circle cx="{x:.1f}" cy="{y}" r="5.5" fill="{colour}" stroke="{shaded(colour, 0.5)}"/>'
        more = "…" if symbol == shown[-1] and len(symbols) > MAX_LEGEND else ""
        text += f'<text x="{x + 8:.1f}" y="{y + 4}" font-size="11" fill="currentColor">{symbol}{more}</text>'
        x += step
    return text


def _line(start: FloatArray, end: FloatArray, style: str) -> str:
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" {style}/>'


def _text(x: float, y: float, size: float, letters: str, style: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}"'
    return f'<text {place} text-anchor="middle" {style}>{letters}</text>'
