"""From a bearer token to an identity (RFC 7519, RFC 8725).

python-jose verifies the signature, with one key and one algorithm; all else is checked here, before it and after it
(specs/decisions/0007-tokens.md).
"""

import base64
import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from jose import jws, jwt
from jose.backends.base import Key
from jose.exceptions import JWSError

from backend import strict_json
from backend.auth.identity import Identity
from backend.auth.jwks import JWKS
from backend.auth.keys import PUBLIC_KEY_ALGORITHMS, secret_key
from backend.config import ConfigurationError, Settings, origin_of
from backend.errors import IssuerUnavailable, TokenExpired, TokenInvalid
from backend.models.fields import OWNER_MAX, is_storable

MAX_TOKEN_LENGTH = 8192
MAX_HEADER_LENGTH = 1024
"""Characters of a token's header, which is read before anything is verified. Better Auth's have under a hundred."""
LEEWAY = 30
"""Seconds that the issuer's clock may differ from ours."""
MAX_KEPT = 4096

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_NOT_WHOLE = "not a whole JWT (three parts with dots): cut short, or with `Bearer` or quotes around it"
_FORBIDDEN_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64"})
_FORBIDDEN_CLAIMS = {
    "cnf": "bound to a key that is not shown (RFC 7800)",
    "events": "a security event, no token of access (RFC 8417)",
}
_TYPES = frozenset({"jwt", "at+jwt"})
_SYNONYMS = {"Ed25519": "EdDSA"}
"""RFC 9864 gives the algorithm the name of its curve."""
_YEAR_2200 = 7_258_118_400

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Verified:
    """The outcome of a verification, as long as the key that it was made with is the one to use."""

    identity: Identity
    expires: float
    algorithm: str
    key_id: str | None
    key: Key


class TokenVerifier:
    """Verifies bearer tokens by a shared secret (HS256), by an issuer's published keys, or by either.

    Keeps the last `MAX_KEPT` good outcomes, by the tokens' hashes: a signature is checked once for each token. What is
    kept ends with the token's `exp`, and with its key: one that was withdrawn, or even fetched anew, is another key.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        secrets = {
            "BETTER_AUTH_SECRET": settings.better_auth_secret,
            "BETTER_AUTH_PREVIOUS_SECRET": settings.better_auth_previous_secret,
        }
        self._secrets = tuple(secret_key(each, variable) for variable, each in secrets.items() if each is not None)
        self.jwks: JWKS | None = None
        if settings.better_auth_url is not None:
            self.jwks = JWKS(settings.better_auth_jwks_url or f"{authorization_server(settings)}/jwks")
        self._issuers = issuers(settings)
        self._audiences = audiences(settings)
        self._kept: dict[bytes, _Verified] = {}
        self._recalled = 0

    def state(self) -> dict[str, float]:
        """Return, for metrics, how often an outcome that was kept served, and figures of the issuer's keys."""
        return {"token_cache_hits_total": self._recalled} | ({} if self.jwks is None else self.jwks.state())

    async def verify(self, token: str) -> Identity:
        """Return who the token speaks for.

        Raises `TokenExpired`, `TokenInvalid` for anything else that is wrong with it, whatever bytes it holds, and
        `IssuerUnavailable` where there is no key to judge it by.
        """
        try:
            verified = await self._recall(token)
        except (TokenInvalid, IssuerUnavailable):
            raise
        except Exception as error:  # RecursionError and more can come from inside a JSON or JOSE library
            raise TokenInvalid(f"{type(error).__name__} while reading it") from error
        if self._clock() >= verified.expires + LEEWAY:
            raise TokenExpired
        return verified.identity

    async def _recall(self, token: str) -> _Verified:
        digest = sha256(token.encode()).digest()
        verified = self._kept.get(digest)
        if verified is None or verified.key not in await self._keys(verified.algorithm, verified.key_id):
            verified = await self._verify(token)
            if len(self._kept) >= MAX_KEPT:
                self._make_room()
            self._kept[digest] = verified
        else:
            self._recalled += 1
        return verified

    def _make_room(self) -> None:
        """Forget what has expired, and the oldest where a tenth of the room is not free then: looking at all costs."""
        now = self._clock()
        valid = [(digest, each) for digest, each in self._kept.items() if now < each.expires + LEEWAY]
        self._kept = dict(valid[-(MAX_KEPT * 9 // 10) :])

    async def _verify(self, token: str) -> _Verified:
        parts = _COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN_LENGTH else None
        if parts is None:
            raise TokenInvalid(_NOT_WHOLE if len(token) <= MAX_TOKEN_LENGTH else "too long")
        if len(parts[1]) > MAX_HEADER_LENGTH:
            raise TokenInvalid("the header is too long")
        header, payload = _decode_json(parts[1]), _decode_json(parts[2])
        _decode_base64url(parts[3])
        algorithm, key_id = _check_header(header)
        keys = await self._keys(algorithm, key_id)
        key = next((each for each in keys if _is_signed(token, each, header["alg"])), None)
        if key is None:
            raise TokenInvalid("the signature is not one of the key's: another key or secret, or cut short")
        identity, expires = self._check_claims(payload)
        return _Verified(identity, expires, algorithm, key_id, key)

    async def _keys(self, algorithm: str, key_id: str | None) -> tuple[Key, ...]:
        if algorithm == "HS256":
            if not self._secrets:
                raise TokenInvalid("HS256 needs BETTER_AUTH_SECRET, which is not set")
            return self._secrets
        if algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise TokenInvalid("algorithm not allowed")
        if self.jwks is None:
            raise TokenInvalid(f"{algorithm} needs BETTER_AUTH_URL, which is not set")
        if key_id is None:
            raise TokenInvalid("no key id")
        return (await self.jwks.key(key_id, algorithm),)

    def _check_claims(self, claims: dict[str, Any]) -> tuple[Identity, float]:
        subject = claims.get("sub")
        if not usable_subject(subject):
            raise TokenInvalid("sub is missing or unusable")
        for name, reason in _FORBIDDEN_CLAIMS.items():
            if name in claims:
                raise TokenInvalid(f"{name}: {reason}")
        if self._issuers and claims.get("iss") not in self._issuers:
            raise TokenInvalid(f"wrong issuer, expected {' or '.join(sorted(self._issuers))}")
        if self._audiences and not _addressed_to(claims.get("aud"), self._audiences):
            raise TokenInvalid(f"wrong audience, expected {' or '.join(sorted(self._audiences))}")
        expires = _time(claims, "exp")
        if expires is None:
            raise TokenInvalid("no exp")
        if expires > _YEAR_2200:
            raise TokenInvalid("exp is past the year 2200: seconds are expected, not milliseconds")
        for name in ("nbf", "iat"):
            moment = _time(claims, name)
            if moment is not None and moment > self._clock() + LEEWAY:
                raise TokenInvalid(f"{name} is in the future")
        return Identity(subject), expires


def usable_subject(subject: Any) -> TypeGuard[str]:
    """Tell whether a `sub` can own tasks: 1 to 255 characters, each of which every database can store."""
    return isinstance(subject, str) and 0 < len(subject) <= OWNER_MAX and is_storable(subject)


def _is_signed(token: str, key: Key, algorithm: str) -> bool:
    try:
        jws.verify(token, key, [algorithm])
    except JWSError:
        return False
    return True


def authorization_server(settings: Settings) -> str | None:
    """Return where Better Auth is; it reads a base URL without a path as one with `/api/auth`."""
    url = settings.better_auth_url
    return url if url is None or urlsplit(url).path else f"{url}/api/auth"


def issuer(settings: Settings) -> str | None:
    """Return the origin of Better Auth's base URL, which is what it writes as `iss` unless it is told otherwise."""
    return None if settings.better_auth_url is None else origin_of(settings.better_auth_url)


def issuers(settings: Settings) -> frozenset[str]:
    """Return the values of which a token's `iss` must be one; empty where any will do."""
    # Better Auth's OAuth provider, which agents use, names its base path where its sessions name the origin.
    known = (issuer(settings), authorization_server(settings) if settings.mcp else None)
    return frozenset(settings.better_auth_issuer or (each for each in known if each is not None))


def audiences(settings: Settings) -> frozenset[str]:
    """Return the values of which a token's `aud` must have one; empty where any will do."""
    origin = issuer(settings)
    return frozenset(settings.api_audience or ((origin,) if origin is not None else ()))


def mint(settings: Settings, user_id: str, lifetime: int, clock: Callable[[], float] = time.time) -> str:
    """Sign a token for `user_id` with the shared secret, good for `lifetime` seconds: for development.

    Raises `ConfigurationError` in production and where there is no secret.
    """
    if settings.production:
        raise ConfigurationError("ENVIRONMENT", "tokens are made in development only")
    if settings.better_auth_secret is None:
        raise ConfigurationError("BETTER_AUTH_SECRET", "is needed to sign a token")
    now = int(clock())
    claims: dict[str, Any] = {"sub": user_id, "iat": now, "exp": now + lifetime}
    if known := issuers(settings):
        claims["iss"] = min(known)
    if accepted := audiences(settings):
        claims["aud"] = min(accepted)
    token: str = jwt.encode(claims, settings.better_auth_secret.get_secret_value(), algorithm="HS256")
    return token


def _decode_base64url(text: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        data = b""
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise TokenInvalid("cut short or altered: a part is not canonical base64url")
    return data


def _decode_json(text: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(_decode_base64url(text))
    except (ValueError, RecursionError):
        raise TokenInvalid("not JSON with unique names, in base64url") from None
    if not isinstance(value, dict):
        raise TokenInvalid("not a JSON object")
    return value


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """Return the algorithm and the key id."""
    if not _FORBIDDEN_HEADERS.isdisjoint(header):
        raise TokenInvalid("a header parameter is refused")
    if "typ" in header:
        kind = header["typ"]
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
            raise TokenInvalid("wrong type")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (isinstance(key_id, str) or "kid" not in header):
        raise TokenInvalid("algorithm or key id is missing or no string")
    return _SYNONYMS.get(algorithm, algorithm), key_id


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate, None where the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenInvalid(f"{name} is not a time")
    return value


def _addressed_to(audience: Any, accepted: frozenset[str]) -> bool:
    values = audience if isinstance(audience, list) else [audience]
    return all(isinstance(value, str) for value in values) and not accepted.isdisjoint(values)
