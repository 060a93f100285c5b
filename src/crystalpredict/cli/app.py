"""The `crystalpredict` program: its commands and what becomes of their errors."""

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
from crystalpredict.cli.merge import merge
from crystalpredict.cli.models import models_app
from crystalpredict.cli.predict import predict
from crystalpredict.cli.settings import apply_settings, read_settings
from crystalpredict.cli.tally import EXIT_INTERRUPTED
from crystalpredict.cli.terminal import say
from crystalpredict.errors import UsageError

EXIT_BROKEN_PIPE = 141
# threads of torch that wait do not spin, or they take the cores from whoever else computes; and NumPy's products are
# small: more than one thread of each would only wait, awake
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


class _Program(TyperGroup):
    """Ctrl-C and closed pipes, before typer turns them into exit codes of its own."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with one_interrupt():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # `| head` has seen enough
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
app.command()(merge)
app.command()(evaluate)
app.command()(finetune)
app.command()(embed)
app.command()(hull)
app.add_typer(models_app, name="models")
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
        if ctx.invoked_subcommand != "doctor":  # which tells of it among other things
            raise
        ctx.obj = str(error)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    """Letters that a stream has not, as JSON may write them, so that JSON stays JSON there; to go on behind them."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end]).strip('"'), error.end


def main() -> None:
    """Run the program; an error is one line on stderr and an exit code."""
    codecs.register_error("as_in_json", _as_in_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files, Å and R², where the terminal's letters are few
            stream.reconfigure(errors="as_in_json")
    try:
        app()
    except Exception as error:
        line, code = line_of(error)
        say(f"error: {line}")
        sys.exit(code)


class _Lossy(io.FileIO):
    """A stream that takes everything, and loses what its reader, its disk or its terminal does not take.

    What is said on stderr is no result: a run does not end because the reader of its messages did.
    """

    def write(self, content: Any) -> int:
        with suppress(OSError):
            return super().write(content) or len(content)
        return len(content)


def make_stderr_lossy() -> None:
    """Let no message end the program."""
    sys.stderr.flush()
    buffer = io.BufferedWriter(_Lossy(sys.stderr.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


def open_standard_streams() -> None:
    """Give a program that was started without a standard stream one that is empty, or that takes nothing.

    Else the first file that is opened becomes that stream, and what is said goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # results that nobody can read are an error, what is said is not
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def program() -> None:
    """`main` as the program: it ends at once, since to take torch apart takes a quarter of a second."""
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
    except KeyboardInterrupt:  # after what a command had to save
        code = EXIT_INTERRUPTED
    if not isinstance(code, int | None):
        sys.exit(code)
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more, or it has no room, which was said
        code = code or EXIT_BROKEN_PIPE
    sys.stderr.flush()
    os._exit(code or 0)
