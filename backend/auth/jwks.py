"""The issuer's public keys: fetched when first needed, kept through its outages, fetched again when they rotate."""

import asyncio
import functools
import ipaddress
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jose.backends.base import Key

from backend import __version__
from backend.auth.keys import public_keys
from backend.errors import IssuerUnavailable, TokenInvalid

if TYPE_CHECKING:
    import httpx

FETCH_TIMEOUT = 3.0
"""Seconds that a fetch may take, connecting included."""
MAX_BYTES = 64 * 1024
REFETCH_INTERVAL = 30.0
"""Seconds between two fetches for unknown key ids: strangers choose those, and must not choose our requests."""
RETRY_INTERVAL = 1.0
"""Seconds after a failed fetch in which the next is not begun, where no key is known: every request would begin one."""
REFRESH_AFTER = 600.0
"""Seconds after which the keys are fetched again in the background, so that a withdrawn key is forgotten."""

_HEADERS = {
    # Uncompressed, so that the limit limits what is read into memory.
    "Accept-Encoding": "identity",
    # Some firewalls refuse the one of Python's libraries.
    "User-Agent": f"todo-backend/{__version__}",
}

logger = logging.getLogger(__name__)


class JWKS:
    """The key set at one URL (RFC 7517). One fetch at a time, shared by all who wait for it."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self.keys: dict[tuple[str, str], Key] = {}
        """Those that are known now, by key id and algorithm."""
        self._fetched_at = 0.0
        self._refetched_at = float("-inf")
        self._failure: str | None = None  # of the last fetch
        self._replaced_at: float | None = None
        self._fetches = self._failures = 0
        self._fetch: asyncio.Task[None] | None = None
        self.date: str | None = None
        """The issuer's clock at the last fetch: its `Date` header, if it sends one."""

    def state(self) -> dict[str, float]:
        """Return, for metrics, how many fetches there were, how many failed, and how old the keys are, if any."""
        counted: dict[str, float] = {"key_fetches_total": self._fetches, "key_fetch_failures_total": self._failures}
        if self._replaced_at is None:
            return counted
        return counted | {"keys_age_seconds": self._clock() - self._replaced_at}

    async def key(self, key_id: str, algorithm: str) -> Key:
        """Return the issuer's key of this id for this algorithm, fetching the keys where that may help.

        Raises `TokenInvalid` where the issuer has no such key, `IssuerUnavailable` where it cannot be asked.
        """
        wanted = (key_id, algorithm)
        if self._replaced_at is None:
            failed = self._failure is not None and not self._fetching()
            if failed and self._clock() - self._fetched_at < RETRY_INTERVAL:
                raise IssuerUnavailable(f"the keys could not be fetched from {self._url}: {self._failure}")
            await self.fetch()
        elif wanted in self.keys:
            if self._clock() - self._fetched_at >= REFRESH_AFTER:
                self._start_fetch()
        elif self._fetching() or self._clock() - self._refetched_at >= REFETCH_INTERVAL:
            if not self._fetching():
                self._refetched_at = self._clock()
            await self.fetch()
        elif self._failure is not None:
            raise IssuerUnavailable("unknown key id while the issuer is down")
        if not self.keys:
            raise IssuerUnavailable("the issuer publishes no key that can be used")
        if wanted not in self.keys:
            raise TokenInvalid("unknown key id or algorithm")
        return self.keys[wanted]

    async def fetch(self) -> None:
        """Fetch the keys, or wait for the fetch under way.

        Raises `IssuerUnavailable`; then what is known stays known.
        """
        await asyncio.shield(self._start_fetch())
        if self._failure is not None:
            raise IssuerUnavailable(f"the keys cannot be fetched from {self._url}: {self._failure}")

    def _fetching(self) -> bool:
        return self._fetch is not None and not self._fetch.done()

    def _start_fetch(self) -> asyncio.Task[None]:
        if self._fetch is None or self._fetch.done():
            self._fetched_at = self._clock()  # also of a failed one: the next background refresh is due a while later
            self._fetch = asyncio.create_task(self._replace_keys())
        return self._fetch

    async def _replace_keys(self) -> None:
        self._fetches += 1
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                document = await self._download()
            self.keys = _read(document)
            self._replaced_at = self._clock()
            self._failure = None
        except Exception as error:  # noqa: BLE001 # whatever the issuer sends or does, what is known stays known
            self._failures += 1
            self._failure = _describe(error) + (", through a proxy" if _proxy(self._url) else "")
            logger.warning("the issuer's keys cannot be fetched from %s: %s", self._url, self._failure)

    async def _download(self) -> bytes:
        import httpx  # not needed where tokens are signed with a shared secret

        body = bytearray()
        async with (
            _client(self._url) as client,
            client.stream("GET", self._url, headers=_HEADERS) as response,
        ):
            if response.has_redirect_location:
                raise ValueError(f"it redirects to {response.headers['Location'][:200]}")
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            self.date = response.headers.get("Date")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return bytes(body)


def _client(url: str) -> "httpx.AsyncClient":
    """Return a client that goes by the proxies of the environment, where it can."""
    import httpx

    options: dict[str, Any] = {"verify": _authorities(), "timeout": FETCH_TIMEOUT, "follow_redirects": False}
    try:
        proxy = _proxy(url)
        _ = urlsplit(proxy or "").port  # httpx takes a port that is none, and fails later
        return httpx.AsyncClient(**options, trust_env=False, proxy=proxy)
    except (ImportError, ValueError, httpx.InvalidURL):  # SOCKS without its library, or no address
        _warn_of_proxies()
        return httpx.AsyncClient(**options, trust_env=False)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment has for a URL.

    httpx's own reading fails as a whole on a NO_PROXY with a range of IPv6, and knows no range of IPv4.
    """
    from urllib.request import getproxies, proxy_bypass  # as httpx

    parts = urlsplit(url)
    host, proxies = parts.hostname or "", getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host) or proxy_bypass(parts.netloc) or _is_in_ranges(host, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_in_ranges(host: str, ranges: str) -> bool:
    for each in ranges.split(","):
        with suppress(ValueError):  # a name
            if ipaddress.ip_address(host) in ipaddress.ip_network(each.strip(), strict=False):
                return True
    return False


@functools.cache
def _warn_of_proxies() -> None:
    logger.warning("what HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names is no proxy to use: the issuer is asked directly")


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no response within {FETCH_TIMEOUT:.0f} s"
    if isinstance(error, json.JSONDecodeError | KeyError | TypeError | UnicodeDecodeError):
        return "what it sends is no JSON key set"
    if isinstance(error, ValueError):  # ours
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror | ssl.SSLError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    if type(error).__name__ == "RemoteProtocolError":
        return "what it sends is no HTTP"
    return type(error).__name__  # its text may hold what the other side has sent


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Return the trusted authorities, read once: that takes 20 ms, and strangers can bring fetches about."""
    import httpx

    return httpx.create_ssl_context()


def _read(body: bytes) -> dict[tuple[str, str], Key]:
    """Read a key set. A key that cannot be used is left out: it must not keep the others from working."""
    keys: dict[tuple[str, str], Key] = {}
    document: Any = json.loads(body)
    entries = document["keys"]
    if not isinstance(entries, list):
        raise TypeError("keys must be a list")
    for entry in entries:
        key_id = entry.get("kid") if isinstance(entry, dict) else None
        if not isinstance(key_id, str):
            continue
        try:
            usable = public_keys(entry)
        except Exception as error:  # noqa: BLE001 # python-jose and cryptography raise of everything
            logger.warning("a key of the issuer cannot be used: %s", type(error).__name__)
            continue
        for algorithm, key in usable.items():
            keys.setdefault((key_id, algorithm), key)
    return keys
