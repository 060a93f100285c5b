"""`crystalpredict config`."""

from __future__ import annotations

import json
import os
from typing import Any

import typer

from crystalpredict.checkpoints.registry import CACHE_VARIABLE, MODELS_VARIABLE, user_models_folder
from crystalpredict.cli.failures import DEBUG_VARIABLE
from crystalpredict.cli.settings import FILE_VARIABLE, PREFIX, SETTINGS, nearest, settings_file, variable_of


def config(ctx: typer.Context) -> None:
    """Show every setting, its value and where it comes from, and the settings file.

    Example: crystalpredict config
    """
    program: Any = ctx.find_root()
    # `predict` has all of them: parsed without a call, it says what it would do
    parsed = program.command.commands["predict"].make_context("predict", ["-"], parent=program)
    path = settings_file()
    typer.echo(f"# {path}: {'read' if path.is_file() else 'there is no such file'}")
    typer.echo(f"# models are installed in {user_models_folder()}")
    for setting in SETTINGS:
        name = setting.replace("-", "_")
        source = parsed.get_parameter_source(name).name
        where = {"ENVIRONMENT": variable_of(setting), "DEFAULT_MAP": "the file"}.get(source, "default")
        value = parsed.params[name]
        typer.echo(f"# {setting} has no value" if value is None else f"{setting} = {_as_toml(value)}  # {where}")
    known = (*map(variable_of, SETTINGS), FILE_VARIABLE, MODELS_VARIABLE, CACHE_VARIABLE, DEBUG_VARIABLE)
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            typer.echo(f"# {name} is no setting: {nearest(name, known)}")


def _as_toml(value: Any) -> str:
    """A value as it may stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(getattr(value, "value", value))
