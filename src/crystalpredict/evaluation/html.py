"""What all HTML pages have in common: their templates, and how numbers and words are written."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Return the environment of the templates, which escape every text."""
    from jinja2 import Environment, PackageLoader  # here: tables of a terminal need only the formats below

    found = Environment(
        loader=PackageLoader("crystalpredict.evaluation", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["sentence"] = sentence
    return found


def number(value: float, sign: str = "") -> str:
    """Return a number with three significant digits, `-` if it is not finite.

    Args:
        value: the number; only extreme ones are written with an exponent.
        sign: "+" writes the sign of positive numbers too.
    """
    if not isfinite(value):
        return "-"
    value = float(f"{value:.3g}")
    if not 1e-6 < abs(value) < 1e12:
        return f"{value:{sign}g}"
    return f"{value:{sign},.{max(0, 2 - floor(log10(abs(value))))}f}"


def sentence(words: str) -> str:
    """Return the words with a capital letter at their beginning."""
    return words[:1].upper() + words[1:]
