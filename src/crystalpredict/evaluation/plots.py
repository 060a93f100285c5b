"""Plots of errors, intervals and losses as PNG, by matplotlib without pyplot and its global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS
from crystalpredict.crystals.periodic_table import place_in_periodic_table
from crystalpredict.evaluation.metrics import Metrics
from crystalpredict.evaluation.scores import MIN_CRYSTALS_PER_ELEMENT, Coverage, Group, Score

DPI = 150
FIGURE_SIZE = (5.4, 4.4)  # inches
MAX_POINTS = 300  # crystals drawn as points; more are counted in hexagons
COLOUR, LINE = "#2a5b8f", "#b3402a"
SHADES = "viridis"
COLOUR_RANGE = 20  # largest error over the smallest with a colour of its own in the periodic table
RGBA = tuple[float, float, float, float]
STYLE: dict[Any, Any] = {  # overrides the matplotlibrc of the user
    "text.usetex": False,
    "text.parse_math": False,  # a unit may contain a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",
    "savefig.bbox": None,
}


def plots_of(score: Score) -> dict[str, bytes]:
    """Return PNG images of a score by kind: `parity`, `errors`, `elements` and `coverage`, the last two if possible."""
    with matplotlib.rc_context(STYLE):
        images = {"parity": _png(_parity(score)), "errors": _png(_errors(score))}
        if score.by_element:
            images["elements"] = _png(_periodic_table(score))
        if score.coverage:
            images["coverage"] = _png(_coverage(score, score.coverage))
    return images


def loss_curve(epochs: Sequence[float], losses: Sequence[float], errors: Mapping[str, Sequence[float]]) -> bytes:
    """Return a PNG of a training run; the smallest errors are marked.

    Args:
        epochs: numbers of the epochs, (n,).
        losses: training loss after each epoch, (n,).
        errors: validation errors after each epoch, (n,), by name of the property.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_SIZE[0], 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(epochs, losses, color=COLOUR)
        upper.set_ylabel("training loss")
        for name, values in errors.items():
            (line,) = lower.plot(epochs, values, label=name)
            least = int(np.nanargmin(values))
            lower.plot(epochs[least], values[least], "o", color=line.get_color())
        lower.set_ylabel("validation error")
        lower.set_xlabel("epoch")
        lower.legend(frameon=False)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _parity(score: Score) -> Figure:
    """Draw predictions over labels with the line of equality; colours are numbers of crystals."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    labels, predictions = score.labels, score.predictions
    low, high = float(min(labels.min(), predictions.min())), float(max(labels.max(), predictions.max()))
    margin = 0.03 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=LINE, linewidth=1, zorder=3)
    if len(labels) <= MAX_POINTS:
        axes.scatter(labels, predictions, s=16, color=COLOUR, alpha=0.6, linewidths=0)
    else:
        hexagons = axes.hexbin(
            labels,
            predictions,
            gridsize=60,
            extent=(*limits, *limits),
            mincnt=1,
            bins="log",
            cmap=SHADES,
            linewidths=0.1,
        )
        bar = figure.colorbar(hexagons, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="crystals")
        bar.ax.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"label, {score.unit}")
    axes.set_ylabel(f"prediction, {score.unit}")
    axes.set_title(_title(score), loc="left")
    summary = axes.text(0.04, 0.96, _summary(score.metrics), transform=axes.transAxes, va="top", fontsize=9)
    summary.set_bbox({"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2})
    return figure


def _errors(score: Score) -> Figure:
    """Draw a histogram of the errors; the largest 1 % are outside the axes, and counted."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    errors = score.predictions - score.labels
    reach = float(np.quantile(np.abs(errors), 0.99)) or 1.0
    shown = errors[np.abs(errors) <= reach]
    axes.hist(shown, bins=min(61, max(11, len(shown) // 10) | 1), range=(-reach, reach), color=COLOUR)
    axes.axvline(0, color=LINE, linewidth=1)
    axes.set_xlim(-reach, reach)
    axes.set_xlabel(f"prediction − label, {score.unit}")
    axes.set_ylabel("crystals")
    axes.set_title(_title(score), loc="left")
    beyond = len(errors) - len(shown)
    lines = [f"mean {errors.mean():+.3g}", f"median {np.median(errors):+.3g}"]
    lines += [f"{beyond} beyond ±{reach:.3g}"] if beyond else []
    axes.text(0.98, 0.96, "\n".join(lines), transform=axes.transAxes, va="top", ha="right", fontsize=9)
    return figure


def _coverage(score: Score, found: Coverage) -> Figure:
    """Draw interval coverage over nominal coverage, with the 95 % range of exact intervals by chance."""
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.add_subplot()
    nominal = np.linspace(0, 1, 101)
    chance = 1.96 * np.sqrt(nominal * (1 - nominal) / score.metrics.count)  # normal approximation of a binomial
    axes.fill_between(nominal * 100, (nominal - chance) * 100, (nominal + chance) * 100, color="0.88", linewidth=0)
    axes.plot((0, 100), (0, 100), color=LINE, linewidth=1)
    axes.plot(list(found.shares), [share * 100 for share in found.shares.values()], "o-", color=COLOUR)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.set_xlabel("level of the interval, %")
    axes.set_ylabel("labels inside, %")
    axes.set_title(_title(score), loc="left")
    width = f"mean width at {found.shown} %: {found.widths[found.shown]:.3g} {score.unit}"
    axes.text(0.04, 0.96, width, transform=axes.transAxes, va="top", fontsize=9)
    return figure


def _periodic_table(score: Score) -> Figure:
    """Draw the mean absolute error of the crystals with each element, and their number, on the periodic table."""
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    groups = {group.name: group for group in score.by_element}
    errors = [group.mae for group in groups.values() if group.mae > 0] or [1.0]
    low, high = max(min(errors), max(errors) / COLOUR_RANGE) * 0.999, max(errors) * 1.001
    norm = LogNorm(low, high)
    shades = matplotlib.colormaps[SHADES]
    for symbol in ELEMENTS:
        _cell(axes, symbol, groups.get(symbol), lambda mae: shades(norm(max(mae, low))))
    axes.set(xlim=(0.45, 18.55), ylim=(9.9, 0.45), aspect="equal")
    axes.axis("off")
    axes.set_title(f"{_title(score)}: mean absolute error of crystals with each element", loc="left")
    scale = ScalarMappable(norm, shades)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", shrink=0.5, pad=0.01, aspect=40)
    powers = range(floor(log10(low)), floor(log10(high)) + 1)
    ticks = [tick for power in powers for digit in (1, 2, 5) if low <= (tick := digit * 10.0**power) <= high]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.ax.minorticks_off()
    few = f"fewer than {MIN_CRYSTALS_PER_ELEMENT}"
    bar.set_label(f"mean absolute error, {score.unit}; small figures: crystals; white: {few}")
    return figure


def _cell(axes: Axes, symbol: str, group: Group | None, colour: Callable[[float], RGBA]) -> None:
    row, column = place_in_periodic_table(ATOMIC_NUMBERS[symbol])
    y = row + (0.35 if row > 7 else 0)
    face = colour(group.mae) if group else (1.0, 1.0, 1.0, 1.0)
    dark = np.dot(face[:3], (0.299, 0.587, 0.114)) < 0.55  # perceived brightness
    ink = "white" if dark else "black" if group else "0.6"
    axes.add_patch(Rectangle((column - 0.47, y - 0.47), 0.94, 0.94, facecolor=face, edgecolor="0.8", linewidth=0.5))
    axes.text(column, y - (0.2 if group else 0), symbol, color=ink, ha="center", va="center", fontsize=9.5)
    if group:
        axes.text(column, y + 0.09, _two_digits(group.mae), color=ink, ha="center", va="center", fontsize=6.5)
        axes.text(column, y + 0.33, str(group.count), color=ink, ha="center", va="center", fontsize=5.5)


def _two_digits(value: float) -> str:
    """Return a positive number with two significant digits and without an exponent."""
    return f"{value:.{max(0, 1 - floor(log10(value)))}f}" if value else "0"


def _title(score: Score) -> str:
    return score.prop.label[:1].upper() + score.prop.label[1:]


def _summary(metrics: Metrics) -> str:
    lines = [f"{metrics.count:,} crystals", f"MAE {metrics.mae:.3g}", f"RMSE {metrics.rmse:.3g}"]
    return "\n".join([*lines, f"R² {metrics.r2:.3f}"] if np.isfinite(metrics.r2) else lines)
