"""`--help` on a terminal of 80 columns: no word is cut or broken, and no panel is too long to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from crystalpredict.cli.app import app

MOST_IN_A_PANEL = 9


def commands() -> Iterator[tuple[str, Any]]:
    """The words of each command, and the command."""

    def of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for below, each in getattr(command, "commands", {}).items():
            yield from of(each, f"{name} {below}".strip())

    yield from of(typer.main.get_command(app), "")


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_words_are_whole(program, monkeypatch, name) -> None:
    shown = {}
    for columns in (80, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown[columns] = program(*name.split(), "--help").stdout
        assert max(map(len, shown[columns].splitlines())) <= columns
    assert "…" not in shown[80]
    broken = set(shown[80].split()) - set(shown[400].split())
    assert not {word for word in broken if word.strip("─╭╮╰╯")}


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_end_where_the_terminal_ends(name) -> None:
    """A paragraph of several lines would keep their ends."""
    assert not [part for part in (COMMANDS[name].help or "").split("\n\n") if "\n" in part.strip()]


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_panels_are_short(name) -> None:
    panels = Counter(getattr(param, "rich_help_panel", None) for param in COMMANDS[name].params)
    assert max(panels.values(), default=0) <= MOST_IN_A_PANEL, panels


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict", "a.cif", "--top", "0"), "--top 0: give a number from 1 to 1e+12"),
        (("predict", "a.cif", "--relax-force", "nan"), "--relax-force nan: give a number from 1e-09 to 1000"),
        (("predict", "a.cif", "--orderings", "101"), "--orderings 101: give a number from 0 to 100"),
        (("predict", "a.cif", "--jobs", "-1"), "--jobs -1: give a number from 0 to 10000"),
        (("finetune", "a.csv", "--validation", "0.95"), "--validation 0.95: give a number from 0.001 to 0.9"),
        (("finetune", "a.csv", "--learning-rate", "inf"), "--learning-rate inf: give a number from 0 to 1e+12"),
        (("suggest", "a.cif", "-t", "bandgap", "-n", "0"), "--count 0: give a number from 1 to 10000"),
        (("report", "a.csv", "-o", "a.html", "--cells", "201"), "--cells 201: give a number from 0 to 200"),
    ],
)
def test_a_number_out_of_its_range_is_refused_in_one_line(program, arguments, said) -> None:
    outcome = program(*arguments)
    assert (outcome.code, outcome.stderr) == (2, f"crystalpredict: error: {said}\n")
