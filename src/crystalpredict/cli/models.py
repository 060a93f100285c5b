"""`crystalpredict models list | info | verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from crystalpredict.registry import bundled_models, find_model

models_app = typer.Typer(help="The bundled models: list, describe, verify.", no_args_is_help=True)


@models_app.command("list")
def list_models() -> None:
    """List the bundled models; the default is marked by a star."""
    for model in bundled_models().values():
        star = "*" if model.default else " "
        typer.echo(f"{star} {model.name}  {model.size / 1e6:.1f} MB  {', '.join(model.properties)}")
        typer.echo(f"  {model.summary}")


@models_app.command()
def info(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|PATH", show_default=False, help="Default: the default model.")
    ] = None,
) -> None:
    """Print the card of a model: data, split, errors, schedule, licence."""
    folder = find_model(name)
    card = folder / "README.md"
    typer.echo(card.read_text(encoding="utf-8") if card.is_file() else f"{folder}: this model has no card")


@models_app.command()
def verify(
    name: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|PATH]...", show_default=False, help="Default: all bundled models."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
) -> None:
    """Check the files of models against their checksums, and their outputs against golden.json."""
    from crystalpredict.checkpoint import load_checkpoint, verify_golden
    from crystalpredict.devices import choose_device

    for wanted in name or list(bundled_models()):
        folder = find_model(wanted)
        worst = verify_golden(load_checkpoint(folder), folder, choose_device(device))
        typer.echo(f"{folder.name}: files and outputs are as released (largest deviation {worst:.1e})")
