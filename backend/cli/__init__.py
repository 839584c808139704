"""The commands. Heavy modules are imported by the command that needs them, after the settings have been checked."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from backend import __version__
from backend.cli import data, reports, servers
from backend.cli.common import fail

app = typer.Typer(
    help="A tasks API for Neon and Better Auth. Settings come from the environment or .env; see .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command that the command line names. An error is one line; with --debug its traceback comes before it."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # wherever it stands
    debug = len(arguments) < len(sys.argv) - 1
    if debug:
        os.environ["LOG_LEVEL"] = "DEBUG"
    if isinstance(sys.stdout, TextIOWrapper):  # which it is unless it is closed
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: programs read it, too
    try:
        try:
            app(arguments)
        finally:
            print(end="", flush=True)  # here, because what fails in the interpreter's own end fails in its own words
    except Exception as error:  # noqa: BLE001 # the last place where an error can become a line
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError):  # such as a full disk, to which the end must not try to write once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            fail(f"{error.strerror or type(error).__name__}; --debug shows where")
        fail(f"unexpected error: {type(error).__name__}; --debug shows where")


def _show_version(value: bool) -> None:
    if value:
        print(f"todo-backend {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error; log at DEBUG.")
    ] = False,
) -> None:
    pass


class _Command(TyperCommand):
    """A command that does not repeat an argument too many: it may be a token, or a database URL."""

    allow_extra_args = True

    def invoke(self, context: Any) -> Any:
        if context.args:
            context.fail("Got an argument too many")
        return super().invoke(context)


COMMANDS = (
    *(servers.dev, servers.serve, data.migrate, reports.token, data.transfer, data.purge, data.resync, data.export),
    *(data.erase, servers.mcp, servers.health, reports.openapi, reports.check),
)
"""In the order of the help."""

for command in COMMANDS:
    app.command(cls=_Command)(command)
