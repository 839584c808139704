"""The commands that print something and change nothing: a token, the API's document, the doctor's report."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from backend.auth.tokens import mint
from backend.cli.common import checked_user, fail, read_settings
from backend.config import ConfigurationError, Settings


def token(
    user: Annotated[str, typer.Option(help="The user's id: the token's `sub`.", callback=checked_user)],
    ttl: Annotated[int, typer.Option(help="Seconds for which it is good.", min=1, max=366 * 24 * 3600)] = 3600,
) -> None:
    """Print a token for a user, signed with BETTER_AUTH_SECRET. In development only."""
    try:
        print(mint(read_settings(), user, ttl))
    except ConfigurationError as error:
        fail(str(error))


def openapi() -> None:
    """Print the API's OpenAPI document. No setting counts: it is the same under all of them."""
    import json

    os.environ.clear()
    os.environ["BETTER_AUTH_SECRET"] = "the document is the same for every secret"  # noqa: S105 # and this is none
    Settings.model_config["env_file"] = None
    from backend.main import app as application

    json.dump(application.openapi(), sys.stdout, indent=2)
    print()


def _read_token(source: str) -> str:
    """Read the option, whose value is not repeated where it is no file: it may be the token itself."""
    try:
        return (sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")).strip()
    except (OSError, ValueError):
        raise typer.BadParameter("takes a file that can be read, or - for standard input") from None


def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", parser=_read_token, help="Check the token in this file alone; - is standard input."
        ),
    ] = None,
) -> None:
    """Look at everything that must be right in production, one line each. Fails where the service would not work."""
    from backend.check import Finding, Report, check_all, check_token
    from backend.check.settings import wrong_numbers

    def finish(report: Report) -> NoReturn:
        print(report.document() if as_json else report.lines(), flush=True)
        if report.hung:  # nothing can stop a thread that looks up a name, and the interpreter would wait for it
            os._exit(1)
        sys.exit(not report.ok)

    try:
        settings = read_settings()
    except SystemExit as wrong:  # a finding like any other, for who reads the document
        reason = str(wrong.code).partition("wrong setting: ")[2]
        finish(Report([Finding("settings", "FAIL", reason), *([] if token is not None else wrong_numbers())]))
    logging.getLogger("backend").setLevel(logging.CRITICAL)  # the report says it

    async def run() -> None:
        finish(await (check_all(settings) if token is None else check_token(settings, token)))

    asyncio.run(run())
