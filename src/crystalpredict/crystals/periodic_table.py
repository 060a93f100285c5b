"""Elements as pictures show them: places in the periodic table, sizes and colours."""

from __future__ import annotations

import re
from colorsys import hls_to_rgb

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS

NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)  # atomic numbers at the ends of the rows of the periodic table
ELECTROPOSITIVE = frozenset({3, 4, 11, 12, 19, 20, 37, 38, 55, 56, 87, 88})  # alkali and alkaline earth metals
_SYMBOL = re.compile("[A-Z][a-z]?")

# covalent, Å, by atomic number from 1 (Cordero et al., Dalton Transactions 2008, 2832); Bk and Cf as Cm
COVALENT_RADII = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02, 1.06, 2.03,
    1.76, 1.70, 1.60, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.20, 1.19, 1.20, 1.20, 1.16, 2.20, 1.95,
    1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.40, 2.44, 2.15, 2.07,
    2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87, 1.75, 1.70, 1.62, 1.51, 1.44,
    1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.21, 2.15, 2.06, 2.00, 1.96, 1.90, 1.87, 1.80,
    1.69, 1.69, 1.69,
)  # fmt: skip
# those that readers expect; other elements have hues of their own
_USUAL_COLOURS = {
    "H": "#f4f4f4", "Li": "#a87bd6", "B": "#efa9a0", "C": "#585858", "N": "#4667d8", "O": "#dd3b30", "F": "#7ccf52",
    "Na": "#8d63d2", "Mg": "#69b04a", "Al": "#b3a6b0", "Si": "#d9b27c", "P": "#ef8a2c", "S": "#e7c92f",
    "Cl": "#3fb54d", "K": "#7a4fc4", "Ca": "#4f9a3f", "Ti": "#a9b3bd", "Fe": "#cf6a3a", "Co": "#d97a94",
    "Ni": "#58a77c", "Cu": "#c0803a", "Zn": "#8488b3", "Se": "#dd9a23", "Br": "#9c4331", "Ag": "#bcc2c8",
    "I": "#84459a", "Pt": "#c9ccd4", "Au": "#e5bd34", "Pb": "#666c74",
}  # fmt: skip
_HUE_STEP = 0.381966  # golden ratio: neighbours in the periodic table differ most


def place_in_periodic_table(number: int) -> tuple[int, int]:
    """Return row and column (1 to 18) of an element; lanthanides are in row 8, actinides in row 9."""
    row = next(row for row, end in enumerate(NOBLE_GASES, start=1) if number <= end)
    end, start = NOBLE_GASES[row - 1], NOBLE_GASES[row - 2] + 1 if row > 1 else 1
    offset = number - start
    if number == end:
        return row, 18
    if row >= 6 and 2 <= offset < 17:
        return row + 2, offset + 1
    return (row, offset + 1) if offset < 2 else (row, 18 - (end - number))


def elements_in(formula: str) -> set[str]:
    """Return the symbols in a formula; what is no element of the networks is left out."""
    return ATOMIC_NUMBERS.keys() & set(_SYMBOL.findall(formula))


def colour_of(symbol: str) -> str:
    """Return the colour of an element as `#rrggbb`."""
    if symbol in _USUAL_COLOURS:
        return _USUAL_COLOURS[symbol]
    number = ATOMIC_NUMBERS[symbol]
    return _hexadecimal(hls_to_rgb(number * _HUE_STEP % 1, 0.62 + 0.1 * (number % 2), 0.38))


def shaded(colour: str, share: float) -> str:
    """Return a colour with its brightness multiplied by a share of at most 1."""
    red, green, blue = _parts(colour)
    return _hexadecimal((red * share, green * share, blue * share))


def is_dark(colour: str) -> bool:
    """Whether white text is easier to read on a colour than black text."""
    red, green, blue = _parts(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55  # perceived brightness


def _parts(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _hexadecimal(parts: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
