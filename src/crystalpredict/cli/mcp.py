"""`crystalpredict mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalpredict.cli.options import INPUT, RELAXATION, Device, ModelName, Quiet
from crystalpredict.cli.terminal import messages, say


def mcp(
    root: Annotated[
        Path,
        typer.Option(
            metavar="DIR", rich_help_panel=INPUT, help="Folder below which files are read; links that leave it are not."
        ),
    ] = Path("."),
    relax: Annotated[
        str | None,
        typer.Option(
            metavar="POTENTIAL",
            show_default=False,
            rich_help_panel=RELAXATION,
            help="Offer relaxation by chgnet, sevenn, or module:function, as predict --relax does.",
        ),
    ] = None,
    model: ModelName = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve predictions to programs that speak the model context protocol, such as assistants, on stdin and stdout.

    Example: crystalpredict mcp --root structures

    The tools are predict, hull, relax, evaluate, list_models and list_properties. The extra `mcp` has the SDK.

    Exit code 0: the client closed the connection; 1: damaged model; 2: wrong usage; 130: interrupted.
    """  # fmt: skip
    from crystalpredict.integrations.mcp_server import refuse_missing_sdk, serve
    from crystalpredict.integrations.mcp_tools import Tools

    refuse_missing_sdk()
    with messages(quiet=quiet):
        tools = Tools(root, model, device, relax)
        if not quiet:
            say(f"serving the model context protocol; files below {tools.root.path}")
        serve(tools)
