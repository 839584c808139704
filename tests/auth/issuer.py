"""An issuer of tokens to test against: keys of every algorithm, tokens in any shape, and a server with its key set.

Tokens are put together here, from bytes, and signed by `cryptography`: python-jose, which the service verifies with,
has no part in it, and would refuse to make most of them.
"""

import asyncio
import functools
import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ORIGIN = "https://auth.example.com"
"""The `iss` and the `aud` of the tokens, unless a test says otherwise."""
JWKS_PATH = "/api/auth/jwks"

PUBLIC_KEY_ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")

_CURVES: dict[str, tuple[ec.EllipticCurve, str, int, hashes.HashAlgorithm]] = {
    "ES256": (ec.SECP256R1(), "P-256", 32, hashes.SHA256()),
    "ES384": (ec.SECP384R1(), "P-384", 48, hashes.SHA384()),
    "ES512": (ec.SECP521R1(), "P-521", 66, hashes.SHA512()),
}
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)


def encode(data: bytes | str) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def encode_json(value: Any) -> str:
    """A JSON value as a token's segment."""
    return encode(json.dumps(value, separators=(",", ":")))


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to `...` leaves one out."""
    now = int(time.time())
    # Issued a while ago: where the service's clock stands still, a slow run must not make it a token of the future.
    good = {"sub": "user-1", "iss": ORIGIN, "aud": ORIGIN, "iat": now - 600, "exp": now + 900}
    return {name: value for name, value in (good | changes).items() if value is not ...}


class Signer:
    """A key pair, or a secret, with a key id: signs whatever bytes it is given, under whatever header."""

    def __init__(self, algorithm: str, key_id: str, key: Any) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.key = key

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, as RFC 7518 writes it."""
        if self.algorithm == "HS256":
            return hmac.digest(self.key, message, hashlib.sha256)
        if self.algorithm == "EdDSA":
            return bytes(self.key.sign(message))
        if self.algorithm == "RS256":
            return bytes(self.key.sign(message, padding.PKCS1v15(), hashes.SHA256()))
        if self.algorithm == "PS256":
            return bytes(self.key.sign(message, _PSS, hashes.SHA256()))
        _, _, size, digest = _CURVES[self.algorithm]
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(size) + s.to_bytes(size)

    def header(self, **changes: Any) -> dict[str, Any]:
        """The header of a good token, as Better Auth writes it; a change to `...` leaves a parameter out."""
        good = {"alg": self.algorithm} | ({} if self.algorithm == "HS256" else {"kid": self.key_id})
        return {name: value for name, value in (good | changes).items() if value is not ...}

    def token(self, header: Mapping[str, Any] | None = None, payload: Mapping[str, Any] | None = None) -> str:
        """A token, signed; a good one unless told otherwise."""
        return self.token_of(
            encode_json(self.header() if header is None else header),
            encode_json(claims() if payload is None else payload),
        )

    def token_of(self, header: str, payload: str) -> str:
        """A token of two segments that may be anything, signed."""
        return f"{header}.{payload}.{encode(self.sign(f'{header}.{payload}'.encode()))}"

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key as Better Auth publishes it; a change to `...` leaves a member out."""
        good = {"alg": self.algorithm, "kid": self.key_id} | self._public()
        return {name: value for name, value in (good | changes).items() if value is not ...}

    def pem(self) -> bytes:
        """The public key as PEM."""
        return bytes(self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def der(self) -> bytes:
        """The public key as DER."""
        return bytes(self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def _public(self) -> dict[str, str]:
        public = self.key.public_key()
        if self.algorithm == "EdDSA":
            return {"kty": "OKP", "crv": "Ed25519", "x": encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}
        numbers = public.public_numbers()
        if isinstance(numbers, rsa.RSAPublicNumbers):
            return {"kty": "RSA", "n": encode(_bytes(numbers.n)), "e": encode(_bytes(numbers.e))}
        _, name, size, _ = _CURVES[self.algorithm]
        return {"kty": "EC", "crv": name, "x": encode(numbers.x.to_bytes(size)), "y": encode(numbers.y.to_bytes(size))}


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


@functools.cache
def signer(algorithm: str, key_id: str | None = None, bits: int = 2048) -> Signer:
    """The key of this algorithm and id: another id, another key. Made once: an RSA key takes a while."""
    key: Any
    if algorithm == "EdDSA":
        key = ed25519.Ed25519PrivateKey.generate()
    elif algorithm in _CURVES:
        key = ec.generate_private_key(_CURVES[algorithm][0])
    else:
        key = rsa.generate_private_key(65_537, bits)
    return Signer(algorithm, f"key-{algorithm}" if key_id is None else key_id, key)


def secret_signer(secret: str | bytes) -> Signer:
    """Signs with a shared secret."""
    return Signer("HS256", "", secret.encode() if isinstance(secret, str) else secret)


class Clock:
    """Time that passes when a test says so, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def response(body: bytes, status: str = "200 OK", *headers: str, with_length: bool = True) -> bytes:
    """The bytes of an HTTP response."""
    length = (f"Content-Length: {len(body)}",) if with_length else ()
    return "\r\n".join((f"HTTP/1.1 {status}", "Connection: close", *length, *headers, "", "")).encode() + body


class Issuer:
    """An HTTP server that gives one response to everybody: a key set, unless a test says otherwise. It counts."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.response = b""
        self.gate = asyncio.Event()
        self.gate.set()
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def origin(self) -> str:
        """Where it responds."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    @property
    def fetches(self) -> int:
        """How many requests have arrived."""
        return len(self.paths)

    def publish(self, *jwks: Any) -> None:
        """Respond with a key set from now on."""
        self.response = response(json.dumps({"keys": jwks}).encode(), "200 OK", "Content-Type: application/json")

    async def arrived(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        async with self._arrived, asyncio.timeout(10):
            await self._arrived.wait_for(lambda: self.fetches >= count)

    async def up(self) -> None:
        """Listen; at the same port as before."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.close()  # not waited for: from Python 3.12 on that would wait for clients that are held
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            async with self._arrived:
                self.paths.append(request.split()[1].decode())
                self.heads.append(request.decode("latin-1"))
                self._arrived.notify_all()
            await self.gate.wait()
            writer.write(self.response)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()


@asynccontextmanager
async def running_issuer(*jwks: Any, host: str = "127.0.0.1") -> AsyncIterator[Issuer]:
    """An issuer that publishes these keys, or one of each algorithm, for as long as the block lasts."""
    issuer = Issuer(host)
    issuer.publish(*(jwks or (signer(algorithm).jwk() for algorithm in PUBLIC_KEY_ALGORITHMS)))
    await issuer.up()
    try:
        yield issuer
    finally:
        issuer.gate.set()
        await issuer.down()
