"""What a setting's value may be: the types of the fields of `Settings`, which refuse without repeating a value."""

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

MINIMUM_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least the 256 bits of the hash."""

_QUOTES = frozenset("'\"`“”")
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+")
_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%-]*")
"""Unreserved characters and what joins them: they stand in a header, a policy and a page as they are."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$")
_TWO_READINGS = frozenset("ßς\u200c\u200d")
"""Letters of which Python, by IDNA 2003, and browsers make different punycode."""
_APPS_ORIGIN = re.compile(
    r"(?:capacitor|tauri|app|ionic|chrome-extension|moz-extension|safari-web-extension)://[a-z0-9.-]+(?::\d+)?/?",
    re.ASCII | re.IGNORECASE,
)
"""Of pages that an application or a browser's extension brings with it."""

_OWN_ADDRESS = re.compile(r"/(api(/tasks(/.*)?)?|(health|docs|openapi\.json|static|mcp|\.well-known)(/.*)?)")
"""A prefix that is none of these, such as `/api/todo`, can be told from the service's own addresses."""


def is_quoted(text: str) -> bool:
    """Tell whether a value has quotes around it, as `docker --env-file` hands them over."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES


def _split(value: Any) -> Any:
    """Take names apart at their commas."""
    if not isinstance(value, str):
        return value
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if any(part.startswith("[") or not _QUOTES.isdisjoint(part) for part in parts):
        raise ValueError("takes names separated by commas, without brackets and quotes")
    if not parts:
        raise ValueError("must name at least one")
    return parts


def origin_of(url: str) -> str:
    """Return the origin of an http URL as browsers write it: in lower case, the host as punycode, no default port.

    Raises `ValueError`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if not _TWO_READINGS.isdisjoint(host):
        raise ValueError("has a host that only its punycode, xn--…, names without doubt")
    if ":" in host:
        host = f"[{ipaddress.IPv6Address(host).compressed}]"
    elif _ENDS_IN_A_NUMBER.search(host):
        host = str(ipaddress.IPv4Address(host))  # browsers take 127.1 for an address, too, and write it in full
    else:
        host = host.encode("idna").decode()  # which refuses empty labels, as in a..b
    return f"{parts.scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}")


def _http_url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError(
            "must be an http or https URL of ASCII letters, digits and -._~, others in the path as %XX, in the host as "
            "xn--…, without user, query or fragment"
        )
    return _international_url(value)


def _international_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = _HOST.fullmatch(parts.hostname or "") and origin_of(value) and parts.port != 0
        usable = usable and not parts.netloc.endswith(":")  # which is the beginning of a second URL
    except (ValueError, KeyError):
        usable = False
    # An empty query or fragment is none to urlsplit, and what is put behind it would be no part of the path.
    if not usable or parts.username is not None or not set("?# \\").isdisjoint(value) or not value.isprintable():
        raise ValueError("must be an http or https URL with its scheme and host, without user, query or fragment")
    # A scheme means the same in capitals, and whoever asks for "http:" must see it.
    return (parts.scheme + value[len(parts.scheme) :]).rstrip("/")


def _base_url(value: str) -> str:
    if re.search(r"/(jwks|jwks\.json)/?$|/\.well-known/", value):
        raise ValueError("must be the base URL; the address of the keys is for BETTER_AUTH_JWKS_URL")
    return value


def _origin(value: str) -> str:
    if _APPS_ORIGIN.fullmatch(value):
        return value.lower().rstrip("/")
    is_pattern = value.startswith("https://*.")
    try:
        url = _international_url(value.replace("*.", "", 1) if is_pattern else value)
        origin = origin_of(url)
        if urlsplit(url).path or (is_pattern and "." not in origin):
            raise ValueError
    except ValueError:
        raise ValueError("each must be an origin such as https://app.example.com, or https://*.example.com") from None
    return origin.replace("https://", "https://*.", 1) if is_pattern else origin


def _name(name: str) -> str:
    # RFC 7519, section 2: a name with a colon is a URI, which has no blank in it.
    several = ":" in name and re.search(r"[\s;]", name)
    if several or name == "*" or "${" in name or not name.isprintable():
        raise ValueError("takes names separated by commas, each to be met exactly, and no placeholder")
    return name


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name):
        raise ValueError("each must be the name of a header")
    return name


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes")
    if len(set(value.get_secret_value())) == 1:
        raise ValueError("must not be one character again and again")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _level(value: Any) -> Any:
    name = value.upper() if isinstance(value, str) and value.isascii() else value  # a Turkish i has the same capital
    return "WARNING" if name == "WARN" else name


def _root_path(value: str) -> str:
    path = value.rstrip("/")
    if not re.fullmatch(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", path):
        raise ValueError("must be a path such as /todo")
    if _OWN_ADDRESS.fullmatch(path):
        raise ValueError(
            "must not be like an address of the service, which would be taken for the prefix in front of it"
        )
    return path


def _plain(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.startswith("-----BEGIN"):
        return value  # a key, which the verifier refuses as such
    if is_quoted(text) or text != text.strip() or not text.isprintable():
        raise ValueError("must have no blanks or quotes around it, and no line end or other control character in it")
    if text.lower().startswith("bearer "):
        raise ValueError("must be the value alone, without Bearer")
    return value


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"0*([1-9](?:_?[0-9]){0,7})\s*/\s*(second|minute|hour|day)", re.ASCII | re.IGNORECASE)


def _rate(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise ValueError("must be a number of requests in a period, such as 300/minute")
    return int(found[1]), _PERIODS[found[2].lower()]


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, as only it can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_plain(url: str) -> bool:
    """Tell whether whoever is on the way to a URL can read and change what is sent."""
    return url.startswith("http:") and not is_loopback(urlsplit(url).hostname or "")


Names = Annotated[tuple[Annotated[str, AfterValidator(_name)], ...], NoDecode, BeforeValidator(_split)]
HeaderNames = Annotated[tuple[Annotated[str, AfterValidator(_header_name)], ...], NoDecode, BeforeValidator(_split)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
BaseUrl = Annotated[HttpUrl, AfterValidator(_base_url)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]
Secret = Annotated[SecretStr, AfterValidator(_plain)]
SigningSecret = Annotated[SecretStr, AfterValidator(_plain), AfterValidator(_long_enough)]
RateLimit = Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_rate)]
RootPath = Annotated[str, AfterValidator(_root_path)]
Environment = Annotated[Literal["development", "production"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower)]
LogRequests = Annotated[Literal["all", "errors", "slow"], BeforeValidator(_lower)]
