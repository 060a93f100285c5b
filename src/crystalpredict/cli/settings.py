"""Settings: the command line takes precedence over environment variables, these over a TOML file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import typer

from crystalpredict.errors import UsageError, hint_of

PREFIX = "CRYSTALPREDICT_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
SETTINGS = ("model", "device", "jobs", "batch-atoms", "format", "timeout-per-file", "memory-per-process", "quiet")


def variable_of(setting: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + setting.upper().replace("-", "_")


def settings_file() -> Path:
    """Return the settings file: that of CRYSTALPREDICT_CONFIG, or config.toml in the user's configuration folder."""
    if named := os.environ.get(FILE_VARIABLE):
        return Path(os.path.expanduser(named))
    from platformdirs import user_config_path

    return user_config_path("crystalpredict", appauthor=False) / "config.toml"


def read_settings() -> dict[str, Any]:
    """Return the settings in the file by name; empty without a file.

    Raises:
        UsageError: The file cannot be read, or a setting is unknown or has no valid value.
    """
    path = settings_file()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise UsageError(f"{path}: no such file; {FILE_VARIABLE} names it, correct it or unset it") from None
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: the settings cannot be read ({reason}): correct the file") from None
    for name, value in content.items():
        if name not in SETTINGS:
            raise UsageError(f"{path}: unknown setting {name!r}: {hint_of(name, SETTINGS)}")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{path}: {name} must be a text or a number")
    return content


def apply_settings(ctx: typer.Context, settings: dict[str, Any]) -> None:
    """Make the settings the defaults of all commands that have them.

    Raises:
        UsageError: A value is invalid.
    """
    ctx.default_map = _defaults(ctx, ctx.command, {variable_of(name): value for name, value in settings.items()})


def _defaults(ctx: typer.Context, command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a command's parameters and subcommands by name."""
    defaults = {name: _defaults(ctx, below, values) for name, below in getattr(command, "commands", {}).items()}
    for param in command.params:
        if (variable := getattr(param, "envvar", None)) in values:
            try:
                param.process_value(ctx, values[variable])
            except Exception as error:  # of typer, or of click in older versions
                said = getattr(error, "message", str(error))
                name = param.opts[0].strip("-")
                raise UsageError(f"{settings_file()}: {name} = {values[variable]!r}: {said}") from None
            defaults[param.name] = values[variable]
    return defaults
