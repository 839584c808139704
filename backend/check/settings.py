"""What is wrong with the settings as such: what keeps the service from starting, and what is likely a mistake."""

from collections.abc import AsyncIterator
from difflib import get_close_matches
from urllib.parse import urlsplit

from backend.auth.tokens import TokenVerifier
from backend.check import Finding
from backend.config import Settings, is_loopback, is_plain, load_settings
from backend.config.sources import EnvFile
from backend.db.url import PostgresURL, SQLiteURL, database_url, direct_database_url

HS256_IN_PRODUCTION = "BETTER_AUTH_SECRET verifies tokens (HS256): whoever reads it can be anybody"


def checked_settings() -> Settings:
    """Return the settings. Exits with one line where the service could not start with them."""
    return load_settings(database_url, direct_database_url, TokenVerifier)


async def look_at_settings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield a warning for each setting that is likely a mistake."""
    warnings = [*_misspelt(), *_warnings(settings)]
    for warning in warnings:
        yield Finding("settings", "warn", warning)
    if not warnings:
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
