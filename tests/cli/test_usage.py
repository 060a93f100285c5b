"""Whatever stands in the place of an option's value, the program ends with lines for its user and a true exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from crystalpredict.cli.app import app

VALUES = ["9" * 5000, "9" * 400, "nan", "inf", "long/" * 1000, "/" + "x" * 300, "\udcff\udcfe", "", "~no-such-user/x"]
BASES = {
    "predict": ["nowhere.cif"],
    "merge": ["nowhere.csv"],
    "evaluate": ["nowhere.csv"],
    "finetune": ["nowhere.csv"],
    "embed": ["nowhere.cif", "-o", "a.npz"],
    "suggest": ["nowhere.cif", "-t", "bandgap"],
    "models install": ["nowhere"],
    "models import": ["nowhere.ckpt"],
}


def parameters() -> Iterator[tuple[str, str]]:
    """Each command, and its options that take a value, "" for an argument."""

    def of(command: Any, name: str) -> Iterator[tuple[str, str]]:
        for below, each in getattr(command, "commands", {}).items():
            yield from of(each, f"{name} {below}".strip())
        for param in [] if hasattr(command, "commands") else command.params:
            if not getattr(param, "is_flag", False):
                yield name, param.opts[0] if param.opts[0].startswith("-") else ""

    yield from of(typer.main.get_command(app), "")


@pytest.mark.parametrize(("command", "option"), list(parameters()))
def test_values_that_make_no_sense(program, tmp_path, monkeypatch, command, option) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    for value in VALUES[4:5] if command == "doctor" else VALUES:  # which computes each time
        given = [option, value] if option else ["--", value]
        outcome = program(*command.split(), *(BASES.get(command, []) if option else []), *given)
        assert outcome.code in (0, 1, 2, 4), (value, outcome)
        assert "unforeseen" not in outcome.stderr, (value, outcome)
