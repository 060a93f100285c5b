"""`crystalpredict config`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import typer

from crystalpredict.checkpoints.registry import CACHE_VARIABLE, MODELS_VARIABLE, default_model, user_models_folder
from crystalpredict.cli.failures import DEBUG_VARIABLE
from crystalpredict.cli.settings import FILE_VARIABLE, PREFIX, SETTINGS, read_settings, settings_file, variable_of
from crystalpredict.errors import UsageError, hint_of


def config(ctx: typer.Context) -> None:
    """Show the value in force of every setting, where it comes from, and the settings file.

    Example: crystalpredict config
    """
    program: Any = ctx.find_root()
    # `predict` has all settings as options: parse it without a call
    parsed = program.command.commands["predict"].make_context("predict", ["-"], parent=program)
    path = settings_file()
    in_file = read_settings()
    typer.echo(f"# {path}: {'read' if path.is_file() else 'no such file'}")
    typer.echo(f"# models are installed in {user_models_folder()}")
    for setting in SETTINGS:
        name = setting.replace("-", "_")
        source = parsed.get_parameter_source(name).name
        where = {"ENVIRONMENT": variable_of(setting), "DEFAULT_MAP": "the file"}.get(source, "default")
        if source == "ENVIRONMENT" and setting in in_file:
            where += f", not {_as_toml(in_file[setting])} of the file"
        value, meaning = parsed.params[name], _meaning(setting, parsed.params)
        if value is None and setting == "model":
            value = default_model().name
        line = f"{setting} = {_as_toml(value)}  # {where}" + f"; {meaning}" * bool(meaning)
        typer.echo(f"# {setting} has no value: {meaning}" if value is None else line)
    known = (*map(variable_of, SETTINGS), FILE_VARIABLE, MODELS_VARIABLE, CACHE_VARIABLE, DEBUG_VARIABLE)
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            typer.echo(f"# {name} is not a setting: {hint_of(name, known)}")


def _meaning(setting: str, values: dict[str, Any]) -> str:
    """Return what a value such as `auto` means on this machine; empty for a literal value."""
    from crystalpredict.io.worker_pool import available_cores, share_of_memory
    from crystalpredict.nn.devices import choose_device, max_batch_atoms

    jobs = values["jobs"] or available_cores()
    if setting == "device" and values["device"] == "auto":
        return f"here {choose_device()}"
    if setting == "batch-atoms" and values["batch_atoms"] == "auto":
        with suppress(UsageError):  # no such device, as `doctor` reports
            return f"here {max_batch_atoms(choose_device(values['device'])):,} atoms"
    if setting == "jobs" and not values["jobs"]:
        return f"here {jobs}"
    if setting == "memory-per-process" and not values["memory_per_process"]:
        share = share_of_memory(jobs)
        return f"each reader process may have {share / 2**30:.3g} GiB" if share else "no limit"
    if setting == "format" and values["format"] == "auto":
        return "a table on a terminal, CSV in a pipe, the suffix of -o"
    return "no limit" if setting == "timeout-per-file" and not values["timeout_per_file"] else ""


def _as_toml(value: Any) -> str:
    """Return a value in the syntax of the settings file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(getattr(value, "value", value))
