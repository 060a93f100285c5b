"""`crystalpredict models list | info | verify | install | remove | import`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crystalpredict._files import refuse_long
from crystalpredict.checkpoints.registry import (
    bundled_models,
    find_model,
    install_model,
    installed_models,
    remove_model,
)
from crystalpredict.cli.completion import model_names
from crystalpredict.cli.options import Device
from crystalpredict.errors import UsageError, printable

models_app = typer.Typer(help="The models at hand: list, describe, verify, install, import.", no_args_is_help=True)


@models_app.command("list")
def list_models() -> None:
    """List the bundled models and those you installed; the default is marked by a star.

    Example: crystalpredict models list
    """
    for model in bundled_models().values():
        star = "*" if model.default else " "
        typer.echo(f"{star} {model.name}  {model.size / 1e6:.1f} MB  {', '.join(model.properties)}")
        typer.echo(f"  {model.summary}")
    for name, folder in installed_models().items():
        typer.echo(f"  {name}  installed in {folder}")


@models_app.command()
def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH", show_default=False, autocompletion=model_names, help="Default: the default model."
        ),
    ] = None,
) -> None:
    """Print the card of a model: data, split, errors, schedule, licence.

    Example: crystalpredict models info crystalformer-mp
    """
    from crystalpredict._schema import MAX_JSON_BYTES, read_checkpoint_file
    from crystalpredict.checkpoints.files import read_config

    folder = find_model(name)
    read_config(folder)  # fails unless it is a model
    card = folder / "README.md"
    if not card.is_file():
        typer.echo(f"{folder}: this model has no card")
        return
    typer.echo(printable(read_checkpoint_file(card, MAX_JSON_BYTES).decode("utf-8", "replace"), allowed="\n\t"))


@models_app.command()
def verify(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|PATH]...",
            show_default=False,
            autocompletion=model_names,
            help="Default: all bundled models.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Check the files of models against their checksums, and their outputs against golden.json.

    Example: crystalpredict models verify
    """
    from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
    from crystalpredict.nn.devices import choose_device

    for wanted in name or list(bundled_models()):
        folder = find_model(wanted)
        worst = verify_golden(load_checkpoint(folder), folder, choose_device(device))
        typer.echo(f"{folder.name}: files and outputs are as released (largest deviation {worst:.1e})")


@models_app.command()
def install(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="A checkpoint folder.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Default: the name of the folder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a model of that name.")] = False,
) -> None:
    """Verify a model and copy it to your data folder, so that `--model NAME` finds it everywhere.

    Example: crystalpredict models install finetuned-mine --name mine
    """
    from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
    from crystalpredict.checkpoints.other_folders import refuse_other_folder

    if not os.path.isdir(folder):
        raise UsageError(f"{str(folder)[:200]}: no such folder: name one that finetune wrote")
    refuse_other_folder(folder)
    verify_golden(load_checkpoint(folder), folder)
    name = name or folder.resolve().name
    typer.echo(f"{name}: installed in {install_model(folder, name, replace=replace)}")


@models_app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, autocompletion=model_names)],
) -> None:
    """Delete a model that you installed.

    Example: crystalpredict models remove mine
    """
    remove_model(name)
    typer.echo(f"{name}: removed")


@models_app.command("import")
def import_model(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.ckpt", show_default=False, help="A checkpoint of the authors' programs.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", show_default=False, help="Folder to make. Default: FILE without .ckpt."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", metavar="NAME", show_default=False, help="What the outputs are, if the file does not say."
        ),
    ] = None,
) -> None:
    """Make a checkpoint folder of a Lightning file that the authors' Crystalformer or CrystalFramer wrote.

    Example: crystalpredict models import best.ckpt
    """
    if not os.path.isfile(file):
        raise UsageError(f"{str(file)[:200]}: no such file: name a .ckpt file")
    folder = file.with_suffix("") if output is None else output
    refuse_long(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: exists; name another folder with --output")
    if not folder.parent.is_dir():
        raise UsageError(f"{folder}: no directory {folder.parent}; create it first")
    from crystalpredict.checkpoints.checkpoint import save_checkpoint
    from crystalpredict.checkpoints.import_upstream import card_of, golden_crystals, read_upstream

    targets = [name for option in target or [] for name in option.split(",") if name.strip()]
    checkpoint = read_upstream(file, targets)
    save_checkpoint(checkpoint, folder, golden_crystals(), card_of(checkpoint))
    config = checkpoint.model.config
    names = ", ".join(prop.name for prop in checkpoint.properties)
    typer.echo(f"{folder}: {names}; {config.attention} attention, {config.blocks} blocks")
    typer.echo(f"  {checkpoint.training['weights']}; use it with --model {folder}")
