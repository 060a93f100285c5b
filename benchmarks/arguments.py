"""Arguments that benchmarks on a part of the labelled data have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser_of_part(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the folder of the labelled data, and of the part that is predicted.

    Args:
        description: of the benchmark.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", default="val", choices=("val", "test"))
    return parser
