"""A report on models as one page of HTML that needs nothing else: tables, and images inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import floor, isfinite, log10

from crystalpredict._version import __version__
from crystalpredict.evaluation.scores import FEWEST, Group, Report, Score

CAPTIONS = {
    "parity": "Predictions over labels; on the line they are equal.",
    "errors": "Errors: how many crystals are predicted too low or too high, and by how much.",
    "coverage": "Labels inside the intervals, over the share that should be; grey: what chance explains.",
    "elements": "Mean absolute error of the crystals that have an element, and how many there are.",
}
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1rem 1.25rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin-top: 2.5rem; padding-top: .75rem; border-top: 2px solid #2a5b8f; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom-color: #888; vertical-align: bottom; } .left { text-align: left; }
.prose td { white-space: normal; overflow-wrap: anywhere; } .prose td:first-child { white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 26rem; } figure.elements { flex-basis: 100%; }
figure.coverage { flex-grow: 0; }
figcaption, .note { font-size: .875rem; color: #555; }
img { display: block; max-width: 100%; height: auto; }
summary { cursor: pointer; font-weight: bold; margin: 1.5rem 0 .4rem; }
@media (max-width: 30rem) { figure { flex-basis: 100%; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; } .wide { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: 1pt 3pt; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing is fetched, no script runs
REASONS = 30  # that are listed; a table of broken structures may have one for each


def page_of(report: Report, images: Mapping[str, Mapping[str, bytes]]) -> str:
    """The page; images: PNGs by kind for each property name, of the first model."""
    verb = "predicts" if len(report.models) == 1 else "predict"
    title = f"How well {' and '.join(report.models)} {verb} {_file(report.path)}"
    parts = [f"<h1>{escape(title)}</h1>", _sources(report), "<h2>Errors</h2>", *_errors(report)]
    for score in report.leading:
        parts.append(f"<h2>{escape(sentence(score.prop.label))}</h2>")
        parts += _details(report.beside(score), images.get(score.prop.name, {}))
    if report.lost:
        parts += ["<h2>Rows without a prediction</h2>", *_lost(report)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def number(value: float, sign: str = "") -> str:
    """Three digits, never as a power of ten for what errors are like; `-` where undefined. sign "+": always say it."""
    if not isfinite(value):
        return "-"
    value = float(f"{value:.3g}")
    if not 1e-6 < abs(value) < 1e12:
        return f"{value:{sign}g}"
    return f"{value:{sign},.{max(0, 2 - floor(log10(abs(value))))}f}"


def fraction(value: float) -> str:
    """A number around 1; `-` where undefined."""
    return f"{value:.3f}" if isfinite(value) else "-"


def span(low: float, high: float, sign: str = "") -> str:
    """An interval; `-` where undefined."""
    return f"{number(low, sign)} to {number(high, sign)}" if isfinite(low) and isfinite(high) else "-"


def sentence(words: str) -> str:
    """The words with a capital letter at their beginning."""
    return words[:1].upper() + words[1:]


def _file(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _sources(report: Report) -> str:
    rows = [
        ("data", f"{report.path}, sha256 {report.sha256}"),
        ("rows", f"{report.rows:,} read, {report.predicted:,} predicted, {report.rows - report.predicted:,} not"),
        *(("", note) for note in report.notes),
        *(("model", f"{name}, weights sha256 {sha256}") for name, sha256 in report.models.items()),
        ("made by", f"crystalpredict {__version__}"),
    ]
    return _table((), rows, left=2, kind="prose")


def _errors(report: Report) -> Iterator[str]:
    """The table of all scores."""
    if not report.scores:
        yield "<p>No crystal with a label was predicted.</p>"
        return
    several = len(report.models) > 1
    heads = ["property", "unit", *(["model"] if several else []), "crystals", "MAE", "95 % interval", "median", "RMSE"]
    heads += ["R²", "largest", "MAD", "MAE/MAD"]
    rows = []
    for score in report.scores:
        found = score.metrics
        row = [score.prop.label, score.unit, *([score.model] if several else []), f"{found.count:,}", number(found.mae)]
        row += [span(*found.interval), *map(number, (found.median, found.rmse)), fraction(found.r2)]
        rows.append([*row, number(found.largest), number(found.deviation), fraction(found.relative)])
    yield _table(heads, rows, left=3 if several else 2)
    yield (
        '<p class="note">MAE: mean absolute error, with a bootstrap interval over crystals. MAD: mean absolute '
        "deviation of the labels, which is the error of always predicting their mean; so MAE/MAD is 0 for a perfect "
        "model and 1 for one that knows nothing. R² and MAD are undefined where all labels are the same.</p>"
    )
    if several:
        yield from _differences(report)


def _differences(report: Report) -> Iterator[str]:
    """What the errors of the other models are beside those of the first."""
    rows = [
        [score.prop.label, score.unit, score.model, number(change, "+"), span(low, high, "+")]
        for score in report.scores if score.difference for change, low, high in [score.difference]
    ]  # fmt: skip
    first = next(iter(report.models))
    yield f"<h3>Beside {escape(first)}</h3>"
    yield _table(["property", "unit", "model", f"MAE minus that of {first}", "95 % interval"], rows, left=3)
    yield (
        '<p class="note">Models are compared on the same crystals, those that all of them predict; the differences '
        "have paired intervals, by bootstrap over crystals. Where one excludes 0, more crystals of the same kind are "
        "unlikely to turn the order of the two.</p>"
    )


def _details(scores: Sequence[Score], images: Mapping[str, bytes]) -> Iterator[str]:
    """What there is about a property on one scale, for one or more models."""
    first = scores[0]
    if images:
        yield '<div class="figures">'
        for kind, png in images.items():
            caption = CAPTIONS[kind] + (f" Model: {first.model}." if len(scores) > 1 else "")
            data = b64encode(png).decode()
            yield (
                f'<figure class="{kind}"><img alt="{escape(f"{first.prop.label}: {caption}")}" '
                f'src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
            )
        yield "</div>"
    yield from _decided(scores)
    yield from _covered(scores)
    yield f"<h3>By atoms in the cell: mean absolute error, {escape(first.unit)}</h3>"
    yield _grouped("atoms", scores, [score.by_size for score in scores])
    yield f"<h3>Largest errors, {escape(first.unit)}</h3>"
    several = len(scores) > 1
    rows = [
        [*([score.model] if several else []), crystal.id, crystal.formula, f"{crystal.row:,}", number(crystal.label),
         number(crystal.prediction), number(crystal.prediction - crystal.label, "+")]
        for score in scores for crystal in score.worst
    ]  # fmt: skip
    heads = [*(["model"] if several else []), "id", "formula", "row", "label", "prediction", "error"]
    yield _table(heads, rows, left=3 if several else 2)
    if first.by_element:
        title = f"By element, of {FEWEST} crystals or more: mean absolute error, {first.unit}"
        yield f"<details{'' if images else ' open'}><summary>{escape(title)}</summary>"
        yield _grouped("element", scores, [score.by_element for score in scores])
        yield "</details>"


def _decided(scores: Sequence[Score]) -> Iterator[str]:
    """How often the yes or no that the property stands for is right."""
    first = scores[0]
    decision = first.decision
    counts = [(score.model, score.confusion) for score in scores if score.confusion]
    if not decision or not counts:
        return
    so = counts[0][1].true_positives + counts[0][1].false_negatives
    yield f"<h3>{escape(sentence(decision.name))} or not</h3>"
    yield (
        f'<p class="note">Called {decision.name}: {escape(first.prop.label)} of at most {decision.limit:g} '
        f"{escape(first.prop.unit)}, {so:,} of {first.metrics.count:,} crystals by their labels.</p>"
    )
    rows = [
        [model, *map(fraction, (c.accuracy, c.precision, c.recall)),
         *(f"{n:,}" for n in (c.true_positives, c.false_positives, c.false_negatives, c.true_negatives))]
        for model, c in counts
    ]  # fmt: skip
    name = decision.name
    heads = ["model", "right", "precision", "recall", f"{name}, rightly", f"{name}, wrongly", "not, wrongly"]
    yield _table([*heads, "not, rightly"], rows, left=1)


def _covered(scores: Sequence[Score]) -> Iterator[str]:
    """How often the labels lie in the intervals of the models that have them."""
    found = [(score, score.coverage) for score in scores if score.coverage]
    if not found:
        return
    levels = list(found[0][1].shares)
    yield "<h3>Labels inside the intervals</h3>"
    heads = ["model", *(f"{level} % intervals" for level in levels), f"mean width at {found[0][1].shown} %"]
    sizes = list(dict.fromkeys(name for _, own in found for name, _, _ in own.by_third))
    heads += [f"{found[0][1].shown} %, {size} atoms" for size in sizes]
    rows = []
    for score, own in found:
        shares = {name: percent(share) for name, _, share in own.by_third}
        row = [score.model, *(percent(own.shares[level]) for level in levels), number(own.widths[own.shown])]
        rows.append([*row, *(shares.get(size, "-") for size in sizes)])
    yield _table(heads, rows, left=1)


def percent(share: float) -> str:
    """A share in percent; `-` where undefined."""
    return f"{100 * share:.1f} %" if isfinite(share) else "-"


def _grouped(head: str, scores: Sequence[Score], groups: Sequence[Sequence[Group]]) -> str:
    """Errors of groups of crystals, a row each, a column for each model."""
    names = [score.model for score in scores] if len(scores) > 1 else ["MAE"]
    rows = [
        [same[0].name, f"{same[0].count:,}", *(number(group.mae) for group in same)]
        for same in zip(*groups, strict=True)
    ]
    return _table([head, "crystals", *names], rows, left=1)


def _lost(report: Report) -> Iterator[str]:
    rows = [[loss.reason, f"{loss.count:,}", f"{loss.row:,}"] for loss in report.lost[:REASONS]]
    yield _table(["reason", "rows", "first row"], rows, left=1, kind="prose")
    if others := report.lost[REASONS:]:
        yield f"<p>{len(others):,} other reasons, {sum(loss.count for loss in others):,} rows.</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int, kind: str = "") -> str:
    """A table whose first `left` columns are words; no head for no heads."""

    def line(tag: str, cells: Sequence[str]) -> str:
        opening = [f'<{tag} class="left">'] * left + [f"<{tag}>"] * (len(cells) - left)
        parts = (start + escape(cell) + f"</{tag}>" for start, cell in zip(opening, cells, strict=True))
        return f"<tr>{''.join(parts)}</tr>"

    head = f"<thead>{line('th', heads)}</thead>" if heads else ""
    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="wide"><table class="{kind}">{head}<tbody>\n{body}\n</tbody></table></div>'
