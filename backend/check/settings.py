"""What is wrong with the settings as such: what keeps the service from starting, and what is likely a mistake."""

import logging
import os
from collections.abc import AsyncIterator
from difflib import get_close_matches
from urllib.parse import urlsplit

from backend.auth.tokens import TokenVerifier
from backend.check import Finding
from backend.config import Settings, is_loopback, is_plain, load_settings
from backend.config.sources import ConfigurationError, EnvFile
from backend.db.url import PostgresURL, SQLiteURL, database_url, direct_database_url

ENVIRONMENT_ALONE = {"PORT": 65_535, "WEB_CONCURRENCY": 256}
"""What `serve` takes from the environment and no `.env` holds, as platforms set it: whole numbers, up to these."""

_OTLP = "OTEL_EXPORTER_OTLP"
_FILES_OF_TLS = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")

HS256_IN_PRODUCTION = "BETTER_AUTH_SECRET verifies tokens (HS256): whoever reads it can be anybody"


def checked_settings() -> Settings:
    """Return the settings. Exits with one line where the service could not start with them."""
    return load_settings(database_url, direct_database_url, TokenVerifier, check_trace_variables)


def check_trace_variables(settings: Settings) -> None:
    """Raise `ConfigurationError` for what OpenTelemetry could not read: it would go on without, and log the value."""
    if settings.otel_exporter_otlp_endpoint is None:
        return
    from opentelemetry.util.re import parse_env_headers

    logging.getLogger("opentelemetry.util.re").disabled = True  # it quotes what it cannot read
    for variable in (f"{_OTLP}_HEADERS", f"{_OTLP}_TRACES_HEADERS"):
        for part in _parts(variable):
            values = parse_env_headers(part, liberal=True).values()
            if not values or not all(value.isascii() and value.isprintable() for value in values):
                raise ConfigurationError(variable, "must be name=value, separated by commas, each of printable ASCII")
    if not all("=" in part for part in _parts("OTEL_RESOURCE_ATTRIBUTES")):
        raise ConfigurationError("OTEL_RESOURCE_ATTRIBUTES", "must be name=value, separated by commas")
    for variable in (f"{_OTLP}_{signal}{file}" for signal in ("", "TRACES_") for file in _FILES_OF_TLS):
        if (path := os.environ.get(variable)) and not os.access(path, os.R_OK):
            raise ConfigurationError(variable, "names a file that cannot be read")


def _parts(variable: str) -> list[str]:
    return [part for part in os.environ.get(variable, "").split(",") if part.strip()]


def whole_number(variable: str, text: str) -> int:
    """Read a number of `ENVIRONMENT_ALONE`. Raises `ConfigurationError`."""
    most = ENVIRONMENT_ALONE[variable]
    try:
        number = int(text) if text.isascii() else 0
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise ConfigurationError(variable, f"must be a whole number from 1 to {most}")
    return number


def wrong_numbers() -> list[Finding]:
    """Return a failure for each number of the environment that `serve` would refuse; an empty one is none."""
    found = []
    for variable in ENVIRONMENT_ALONE:
        try:
            whole_number(variable, os.environ.get(variable) or "1")
        except ConfigurationError as error:
            found.append(Finding("settings", "FAIL", str(error)))
    return found


async def look_at_settings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield a failure for each number that `serve` would refuse, and a warning for each likely mistake."""
    warnings = [*_misspelt(), *_warnings(settings)]
    for warning in warnings:
        yield Finding("settings", "warn", warning)
    wrong = wrong_numbers()
    for finding in wrong:
        yield finding
    if not warnings and not wrong:
        yield Finding("settings", "ok", f"environment {settings.environment}")
    yield Finding("origins", "ok", f"browsers on {', '.join(settings.allowed_origins)} may call")


def _misspelt() -> list[str]:
    """Look for names in `.env` that are nearly a setting's: what others have there is no business of ours."""
    known = {name + end for name in Settings.model_fields for end in ("", "_file")}
    return [
        f".env has {name.upper()}, which is no setting: {nearest[0].upper()} is meant?"
        for name in EnvFile(Settings).env_vars
        if name not in known and (nearest := get_close_matches(name, known, n=1, cutoff=0.9))
    ]


def _warnings(settings: Settings) -> list[str]:
    found = []
    url = database_url(settings)
    origins = {origin: urlsplit(origin).hostname or "" for origin in settings.allowed_origins}
    local = [origin for origin, host in origins.items() if is_loopback(host)]
    if settings.production:
        if isinstance(url, SQLiteURL):
            found.append("production on an SQLite file: it is lost with the machine")
        if local:
            found.append(f"ALLOWED_ORIGINS has {local[0]}: any page that a user's own machine serves may call")
        if settings.better_auth_secret is not None:
            found.append(HS256_IN_PRODUCTION)
    else:
        hosts = [urlsplit(settings.better_auth_url or "").hostname or "", *origins.values()]
        hosts += [url.host or ""] if isinstance(url, PostgresURL) and not (url.host or "").startswith("/") else []
        if away := next((host for host in hosts if host and not is_loopback(host)), None):
            found.append(f"ENVIRONMENT is development, although {away} is another machine: production is meant?")
    if settings.better_auth_secret is not None and settings.better_auth_url is not None:
        found.append(
            "BETTER_AUTH_SECRET and BETTER_AUTH_URL: tokens of either are accepted; is the secret still needed?"
        )
    if settings.better_auth_url is not None and is_plain(settings.better_auth_url):
        found.append("BETTER_AUTH_URL is http: whoever is on the way can be the issuer")
    return found
