"""Write the card and metrics.json of a bundled model from what `crystalpredict evaluate` measured; refresh the index.

crystalpredict evaluate mp2018/test.jsonl.gz --plots docs/figures/crystalformer-mp -f json > energies.json
python scripts/card.py models/crystalformer-mp mp2018/test=energies.json elastic/test=moduli.json

The text around the figures is scripts/cards/NAME.md. `--table` prints the README's table of accuracy instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from crystalpredict.checkpoints.registry import default_model
from crystalpredict.properties import TRAINED, find_property

ROOT = Path(__file__).resolve().parents[1]
ELEMENTS_SHOWN = 8


def scores_of(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Test set and score of each property, on the scale of the literature, in the usual order."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, report in metrics.items():
        for score in report["scores"]:
            found.setdefault(score["property"], (name, score))
    return [found[prop.name] for prop in TRAINED if prop.name in found]


def label_of(score: dict[str, Any]) -> str:
    """Property with its unit, as tables have it."""
    return f"{find_property(score['property'], TRAINED).label}, {score['unit']}"


def errors(metrics: dict[str, Any]) -> str:
    """Markdown table of the errors."""
    lines = [
        "| property | test set | crystals | MAE | 95 % interval | median | RMSE | R² | MAD | in 90 % intervals |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores_of(metrics):
        low, high = score["mae_interval95"]
        lines.append(
            f"| {label_of(score)} | {name} | {score['crystals']:,} | **{score['mae']:.4f}** | {low:.4f} to {high:.4f} "
            f"| {score['median_error']:.4f} | {score['rmse']:.4f} | {score['r2']:.3f} | {score['mad_of_labels']:.3f} "
            f"| {score['intervals']['coverage']['90']:.1%} |"
        )
    return "\n".join(lines)


def sizes(metrics: dict[str, Any]) -> str:
    """Markdown table of mean absolute errors by atoms in the cell."""
    scores = [score for _, score in scores_of(metrics)]
    names = list(dict.fromkeys(size for score in scores for size in score["by_atoms"]))
    lines = ["| property | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for score in scores:
        groups = [score["by_atoms"].get(name) for name in names]
        cells = [f"{group['crystals']:,}: {group['mae']:.4f}" if group else "" for group in groups]
        lines.append(f"| {label_of(score)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def coverage(metrics: dict[str, Any]) -> str:
    """Markdown table of the share of labels in the intervals, by level, and at 90 % by thirds of size."""
    scores = [score for _, score in scores_of(metrics)]
    levels = list(scores[0]["intervals"]["coverage"])
    heads = [*(f"{level} %" for level in levels), "90 %, by atoms in the cell", "mean width at 90 %"]
    lines = ["| property | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for score in scores:
        found = score["intervals"]
        shares = [f"{found['coverage'][level]:.1%}" for level in levels]
        thirds = [f"{name}: {group['coverage']:.1%}" for name, group in found["coverage90_by_atoms"].items()]
        cells = [*shares, ", ".join(thirds), f"{found['mean_width']['90']:.3f}"]
        lines.append(f"| {label_of(score)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pictures(metrics: dict[str, Any], folder: Path) -> str:
    """Markdown of the pictures in a folder that `evaluate --plots` wrote, a row for each property."""
    lines = ["| | parity | intervals | by element |", "|---|---|---|---|"]
    for _, score in scores_of(metrics):
        cells = []
        for kind in ("parity", "coverage", "elements"):
            file = folder / f"{score['property']}_{kind}.png"
            cells.append(f"![{kind} of {score['property']}](../../{file.relative_to(ROOT).as_posix()})")
        lines.append(f"| {label_of(score)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def elements(metrics: dict[str, Any]) -> str:
    """Markdown list of the elements with the largest errors."""
    lines = []
    for _, score in scores_of(metrics):
        worst = sorted(score["by_element"].items(), key=lambda item: -item[1]["mae"])[:ELEMENTS_SHOWN]
        told = ", ".join(f"{symbol} {group['mae']:.3f} ({group['crystals']})" for symbol, group in worst)
        lines.append(f"* {label_of(score)}: {told}")
    return "\n".join(lines)


def readme_table(metrics: dict[str, Any]) -> str:
    """Markdown table of mean absolute errors, as the README has it."""
    lines = ["| | mean absolute error | crystals | on |", "|---|---|---|---|"]
    for name, score in scores_of(metrics):
        lines.append(f"| {label_of(score)} | {score['mae']:.3f} | {score['crystals']:,} | {name} |")
    return "\n".join(lines)


def metrics_of_default() -> dict[str, Any]:
    """metrics.json of the default model."""
    content: dict[str, Any] = json.loads((default_model().folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def main() -> None:
    """Read the reports, write card, metrics and index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("reports", nargs="*", metavar="NAME=FILE", help="name of the test set, JSON of `evaluate`")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(readme_table(metrics_of_default()))
        return
    metrics = {}
    for item in options.reports:
        name, _, file = item.partition("=")
        report = json.loads(Path(file).read_text(encoding="utf-8"))
        # the place of a file on somebody's disk says nothing; its sha256 does
        metrics[name] = {"sha256": report["data"]["sha256"], "models": report["models"], "scores": report["scores"]}
        for score in metrics[name]["scores"]:
            score.pop("worst", None)
    card = (ROOT / "scripts" / "cards" / f"{options.folder.name}.md").read_text(encoding="utf-8")
    for key, made in (("errors", errors), ("sizes", sizes), ("coverage", coverage), ("elements", elements)):
        card = card.replace(f"<!-- {key} -->", made(metrics))
    figures = ROOT / "docs" / "figures" / options.folder.name
    card = card.replace("<!-- pictures -->", pictures(metrics, figures))
    (options.folder / "README.md").write_text(card, encoding="utf-8")
    (options.folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    from export import refresh_index  # needs torch, which the README's table does not

    refresh_index(options.folder)
    print(f"{options.folder}: card and metrics written")


if __name__ == "__main__":
    main()
