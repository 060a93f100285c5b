"""docs/cli.md, from the commands themselves: `python scripts/cli_docs.py`; `--check` says whether it is up to date."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def page() -> str:
    """The page that typer makes of the program; it knows nothing of terminals and settings."""
    command = [sys.executable, "-m", "typer", "crystalpredict.cli.app", "utils", "docs", "--name", "crystalpredict"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    return html.unescape(made).rstrip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE}: the commands have changed; run python scripts/cli_docs.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
