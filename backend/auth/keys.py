"""Verification keys: each is made once and serves one algorithm, so that no token can talk a key into another.

Two algorithms that Better Auth can sign with are unknown to python-jose 3.5; they join it through its own extension
point, `jose.jwk.register_key`, on the `cryptography` package that it stands on.
"""

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA256
from jose import jwk
from jose.backends import RSAKey
from jose.backends.base import Key
from jose.exceptions import JWKError
from jose.utils import base64url_decode
from pydantic import SecretStr

from backend.config import ConfigurationError

MINIMUM_RSA_BITS = 2048
"""RFC 7518, section 3.3."""

_ALGORITHMS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-521"): ("ES512",),
    ("RSA", None): ("RS256", "PS256"),
}

PUBLIC_KEY_ALGORITHMS = frozenset(name for names in _ALGORITHMS.values() for name in names)


class Ed25519Key(Key):
    """An Ed25519 public key (RFC 8037)."""

    def __init__(self, key: dict[str, Any], algorithm: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(base64url_decode(key["x"].encode()))

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Tell whether `sig` is this key's signature of `msg`."""
        try:
            self._key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


class RSAPSSKey(Key):
    """An RSA public key that verifies PS256 (RFC 7518, section 3.5)."""

    def __init__(self, key: dict[str, Any], algorithm: str) -> None:
        self._key = RSAKey(key, "RS256").prepared_key

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Tell whether `sig` is this key's signature of `msg`."""
        if len(sig) * 8 < self._key.key_size:
            return False  # OpenSSL would take one that lost its leading zeros (RFC 8017, section 8.1.2)
        try:
            self._key.verify(sig, msg, PSS(MGF1(SHA256()), salt_length=SHA256.digest_size), SHA256())
        except InvalidSignature:
            return False
        return True


jwk.register_key("EdDSA", Ed25519Key)
jwk.register_key("PS256", RSAPSSKey)


def secret_key(secret: SecretStr, variable: str) -> Key:
    """Make the HS256 key of a secret. Raises `ConfigurationError` for one that python-jose takes for a public key."""
    try:
        # Made here, not inside jose.jwt.decode: that would read a secret that happens to be JSON as a key set.
        key: Key = jwk.construct(secret.get_secret_value(), "HS256")
    except JWKError:
        raise ConfigurationError(variable, "looks like a public key, which everybody may know") from None
    # python-jose imports what it needs when a key is first used, and takes a failure of that, such as no free file
    # descriptor, for a bad signature.
    key.verify(b"", b"")
    return key


def public_keys(document: dict[str, Any]) -> dict[str, Key]:
    """Make the keys of one JWK (RFC 7517), by algorithm; none where it cannot verify tokens.

    Raises what python-jose and `cryptography` raise for a malformed one. An RSA key that does not say its algorithm
    serves RS256 and PS256, each through a key object of its own.
    """
    kind, curve = document.get("kty"), document.get("crv")
    if not isinstance(kind, str) or document.get("use", "sig") != "sig":
        return {}
    algorithms = _ALGORITHMS.get((kind, curve if isinstance(curve, str) else None), ())
    keys = {}
    for algorithm in algorithms:
        if document.get("alg", algorithm) == algorithm and "verify" in document.get("key_ops", ["verify"]):
            public = {name: value for name, value in document.items() if name != "d"}
            key = jwk.construct(public, algorithm)
            if kind != "RSA" or _rsa_bits(document) >= MINIMUM_RSA_BITS:
                keys[algorithm] = key
    return keys


def _rsa_bits(document: dict[str, Any]) -> int:
    return int.from_bytes(base64url_decode(document["n"].encode())).bit_length()
