"""Settings: variables of the environment, below them a TOML file; the command line is above both."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from crystalpredict.errors import UsageError

PREFIX = "CRYSTALPREDICT_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
SETTINGS = ("model", "device", "jobs", "batch-atoms", "format", "timeout-per-file", "memory-per-process", "quiet")


def variable_of(setting: str) -> str:
    """The variable of the environment that has a setting's value."""
    return PREFIX + setting.upper().replace("-", "_")


def settings_file() -> Path:
    """Where settings are kept: the file in CRYSTALPREDICT_CONFIG, or config.toml in the user's configuration folder."""
    if named := os.environ.get(FILE_VARIABLE):
        return Path(os.path.expanduser(named))
    from platformdirs import user_config_path

    return user_config_path("crystalpredict", appauthor=False) / "config.toml"


def read_settings() -> dict[str, Any]:
    """The settings in the file, by name; none if there is no file. UsageError if one is unknown or no value."""
    path = settings_file()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise UsageError(f"{path}: no such file; {FILE_VARIABLE} names it") from None
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: the settings cannot be read ({reason})") from None
    for name, value in content.items():
        if name not in SETTINGS:
            raise UsageError(f"{path}: unknown setting {name!r}: {nearest(name, SETTINGS)}")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{path}: {name} must be a word or a number")
    return content


def nearest(name: str, known: tuple[str, ...]) -> str:
    """Which of the known names was meant, or all of them."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def apply_settings(ctx: typer.Context, settings: dict[str, Any]) -> None:
    """Let the settings be the defaults of all commands that have them; UsageError for a value that none can take."""
    ctx.default_map = _defaults(ctx, ctx.command, {variable_of(name): value for name, value in settings.items()})


def _defaults(ctx: typer.Context, command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Defaults of a command's parameters, and of the commands below it, by name."""
    defaults = {name: _defaults(ctx, below, values) for name, below in getattr(command, "commands", {}).items()}
    for param in command.params:
        if (variable := getattr(param, "envvar", None)) in values:
            try:
                param.process_value(ctx, values[variable])
            except Exception as error:  # typer's own or click's, which older versions of typer use
                said = getattr(error, "message", str(error))
                name = param.opts[0].strip("-")
                raise UsageError(f"{settings_file()}: {name} = {values[variable]!r}: {said}") from None
            defaults[param.name] = values[variable]
    return defaults
