"""The `crystalpredict` program: its commands, and handling of errors, signals and closed streams."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crystalpredict._safe_path import leave_working_directory, safe_environment
from crystalpredict._version import __version__
from crystalpredict.cli.config import config
from crystalpredict.cli.doctor import doctor
from crystalpredict.cli.embed import embed
from crystalpredict.cli.evaluate import evaluate
from crystalpredict.cli.failures import line_of
from crystalpredict.cli.finetune import finetune
from crystalpredict.cli.hull import hull
from crystalpredict.cli.interrupts import one_interrupt
from crystalpredict.cli.mcp import mcp
from crystalpredict.cli.merge import merge
from crystalpredict.cli.models import models_app
from crystalpredict.cli.predict import predict
from crystalpredict.cli.report import report
from crystalpredict.cli.settings import apply_settings, read_settings
from crystalpredict.cli.suggest import suggest
from crystalpredict.cli.tally import EXIT_INTERRUPTED
from crystalpredict.cli.terminal import say
from crystalpredict.errors import UsageError

EXIT_BROKEN_PIPE = 141
# idle threads of torch must not spin, because other processes need the cores; NumPy's products are too small for
# several threads
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


class _Program(TyperGroup):
    """Handles Ctrl-C and closed pipes before typer turns them into its own exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with one_interrupt():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # as of `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_BROKEN_PIPE)


app = typer.Typer(
    cls=_Program,
    name="crystalpredict",
    help="Predict properties of inorganic crystals from CIF and POSCAR files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(report)
app.command()(merge)
app.command()(evaluate)
app.command()(finetune)
app.command()(suggest)
app.command()(embed)
app.command()(hull)
app.add_typer(models_app, name="models")
app.command()(mcp)
app.command()(config)
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crystalpredict {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    try:
        apply_settings(ctx, read_settings())
    except UsageError as error:
        if ctx.invoked_subcommand != "doctor":  # doctor reports it
            raise
        ctx.obj = str(error)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    """Handle an encoding error: escape the characters as JSON does, so that JSON stays valid."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end]).strip('"'), error.end


def main() -> None:
    """Run the program; print an error as one line on stderr and exit with its code."""
    codecs.register_error("as_in_json", _as_in_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names, Å and R² on a terminal without Unicode
            stream.reconfigure(errors="as_in_json")
    try:
        app()
    except Exception as error:
        line, code = line_of(error)
        say(f"error: {line}")
        sys.exit(code)


class _Lossy(io.FileIO):
    """A stream that drops what cannot be written: a run must not fail because its messages are not read."""

    def write(self, content: Any) -> int:
        with suppress(OSError):
            return super().write(content) or len(content)
        return len(content)


def make_stderr_lossy() -> None:
    """Ignore errors of writing to stderr."""
    sys.stderr.flush()
    buffer = io.BufferedWriter(_Lossy(sys.stderr.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


def open_standard_streams() -> None:
    """Open missing standard streams: otherwise the first file opened would receive what is printed.

    stdin is empty, writing to stdout is an error, and stderr drops everything.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # lost results are an error, lost messages are not
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def program() -> None:
    """Run `main` and exit without cleaning up, because deleting torch takes a quarter of a second."""
    leave_working_directory()
    safe_environment()
    open_standard_streams()
    make_stderr_lossy()
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # a command has saved its rows
        code = EXIT_INTERRUPTED
    if not isinstance(code, int | None):
        sys.exit(code)
    try:
        sys.stdout.flush()
    except OSError:  # closed, or a full disk, which was reported
        code = code or EXIT_BROKEN_PIPE
    sys.stderr.flush()
    os._exit(code or 0)
