"""The issuer: its keys, its clock, and what a token of its must say."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from backend.auth.tokens import LEEWAY, TokenVerifier, audiences, issuers
from backend.check import Finding, Level
from backend.config import Settings
from backend.errors import IssuerUnavailable

CLOCK_LIMIT = 300.0
"""Seconds by which a clock may be off before fresh tokens are refused, or expired ones accepted, for long."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_OK_TIMEOUT = 1.0
"""Seconds for one name, whatever responds there: httpx's own limits are for each read."""


async def look_at_issuer(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what tokens must say, whether there are keys, and whether the clocks agree."""
    names, accepted = (" or ".join(sorted(each)) or "any" for each in (issuers(settings), audiences(settings)))
    yield Finding("tokens", "ok", f"iss {names}, aud {accepted}")
    jwks = TokenVerifier(settings).jwks
    if jwks is None:
        yield Finding("jwks", "ok", "not used: tokens are signed with BETTER_AUTH_SECRET")
        return
    failure = None
    try:
        await jwks.fetch()
    except IssuerUnavailable as error:
        failure = error
    async for finding in _look_at_twins(settings):
        yield finding
    if failure is not None:
        raise failure
    if not jwks.keys:
        yield Finding("jwks", "FAIL", "the issuer publishes no key that can be used")
        return
    algorithms = sorted({algorithm for _, algorithm in jwks.keys})
    yield Finding("jwks", "ok", f"{len({key_id for key_id, _ in jwks.keys})} keys: {', '.join(algorithms)}")
    yield clock("the issuer's clock", _seconds_from_now(jwks.date))


def clock(whose: str, difference: float | None) -> Finding:
    """Tell how far a clock is from this machine's: `difference` in seconds, None where that cannot be told."""
    if difference is None:
        return Finding("clock", "ok", f"{whose} cannot be read")
    if abs(difference) <= LEEWAY:
        return Finding("clock", "ok", f"{whose} agrees with this machine's")
    direction = "ahead of" if difference > 0 else "behind"
    level: Level = "FAIL" if abs(difference) >= CLOCK_LIMIT else "warn"
    return Finding("clock", level, f"{whose} is {abs(difference):.0f} s {direction} this machine's")


async def _look_at_twins(settings: Settings) -> AsyncIterator[Finding]:
    """Look at an issuer on this machine, which has several names: tokens hold the one that Better Auth was given."""
    url = settings.better_auth_url or ""
    host = next((name for name in _LOOPBACK if urlsplit(url).netloc.removesuffix(f":{urlsplit(url).port}") == name), "")
    if not host:
        return
    twins = [name for name in _LOOPBACK if name != host]
    if not await _responds(url):
        for twin in twins:
            if await _responds(url.replace(f"//{host}", f"//{twin}", 1)):
                yield Finding(
                    "issuer",
                    "FAIL",
                    f"it responds on {twin}, not on {host}: set BETTER_AUTH_URL to what Better Auth has",
                )
                return
    if not settings.better_auth_issuer:
        names = " or ".join((host, *twins))
        text = f"whether Better Auth's own URL says {names} cannot be seen; others' tokens are refused"
        yield Finding("issuer", "warn", text)


async def _responds(url: str) -> bool:
    """Tell whether Better Auth's `/ok` responds there."""
    import httpx

    paths = ("/ok",) if urlsplit(url).path else ("/api/auth/ok", "/ok")
    with suppress(TimeoutError):
        async with asyncio.timeout(_OK_TIMEOUT), httpx.AsyncClient(trust_env=False) as client:
            for path in paths:
                with suppress(httpx.HTTPError):
                    async with client.stream("GET", url + path) as response:
                        if response.status_code == httpx.codes.OK:
                            return True
    return False


def _seconds_from_now(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return None
