"""`crystalpredict doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from itertools import chain
from typing import Annotated, Any

import typer

from crystalpredict.cli.options import Device, ModelName
from crystalpredict.cli.settings import settings_file


class DoctorFormat(StrEnum):
    """Formats of the checks."""

    text = "text"
    json = "json"


def doctor(
    ctx: typer.Context,
    model: ModelName = None,
    device: Device = "auto",
    format: Annotated[
        DoctorFormat, typer.Option("--format", "-f", help="A line for each check, or one JSON object.")
    ] = DoctorFormat.text,
) -> None:
    """Check this installation: libraries, device, settings, every model, and a prediction.

    Example: crystalpredict doctor

    Exit code 0: everything works; 1: a line says what does not, and what to do.
    """  # fmt: skip
    from crystalpredict.cli.checks import Check, examine

    path = settings_file()
    wrong = ctx.obj or wrong_setting(ctx)
    settings = Check("settings", not wrong, wrong or f"{path}{'' if path.is_file() else ': no such file'}")
    checks = []
    for check in chain([settings], examine(model, device)):
        checks.append(check)
        if format == DoctorFormat.text:
            typer.echo(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.said}")
    well = all(check.ok for check in checks)
    if format == DoctorFormat.json:
        typer.echo(
            json.dumps({"ok": well, "checks": [asdict(check) for check in checks]}, indent=2, ensure_ascii=False)
        )
    if not well:
        raise typer.Exit(1)


def wrong_setting(ctx: typer.Context) -> str:
    """Return the error of a setting in the file or the environment, found by parsing `predict`; empty if none."""
    program: Any = ctx.find_root()
    try:
        program.command.commands["predict"].make_context("predict", ["-"], parent=program)
    except Exception as error:  # of typer, or of click in older versions
        format_message = getattr(error, "format_message", None)
        return str(format_message() if format_message else error)
    return ""
