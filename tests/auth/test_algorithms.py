"""Signatures: each algorithm with its own key and no other, each checked once for as long as its key is the one."""

import itertools
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from jose.backends.base import Key

from backend.auth import tokens as module
from backend.auth.jwks import REFRESH_AFTER
from backend.auth.tokens import LEEWAY, TokenVerifier
from backend.config import ConfigurationError
from backend.errors import TokenExpired, TokenInvalid
from tests.auth.issuer import (
    ORIGIN,
    PUBLIC_KEY_ALGORITHMS,
    Clock,
    Issuer,
    Signer,
    claims,
    encode,
    encode_json,
    secret_signer,
    signer,
)
from tests.settings import SECRET, make_settings

ALGORITHMS = ("HS256", *PUBLIC_KEY_ALGORITHMS)
PAIRS = list(itertools.permutations(ALGORITHMS, 2))


def signer_of(algorithm: str) -> Signer:
    return secret_signer(SECRET) if algorithm == "HS256" else signer(algorithm)


def other_signer_of(algorithm: str) -> Signer:
    return secret_signer(SECRET[::-1]) if algorithm == "HS256" else signer(algorithm, "other")


@pytest.fixture
def clock() -> Clock:
    """The time of day."""
    return Clock(time.time())


@pytest.fixture
def keys_clock() -> Clock:
    """The time since the machine's start, which decides when keys are fetched."""
    return Clock()


@pytest.fixture
def verifier(issuer: Issuer, clock: Clock, keys_clock: Clock) -> TokenVerifier:
    """Takes tokens by the secret and by the issuer's keys."""
    verifier = verifier_of(issuer, clock)
    assert verifier.jwks is not None
    verifier.jwks._clock = keys_clock
    return verifier


def verifier_of(issuer: Issuer, clock: Clock, **changes: Any) -> TokenVerifier:
    settings = make_settings(
        "sqlite+aiosqlite://", better_auth_url=ORIGIN, better_auth_jwks_url=issuer.origin, **changes
    )
    return TokenVerifier(settings, clock)


class Counting(Key):  # type: ignore[misc] # python-jose has no types
    """A key that counts how often it is asked to verify."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.count = 0

    def verify(self, message: bytes, signature: bytes) -> bool:
        self.count += 1
        return bool(self._key.verify(message, signature))


async def counting(verifier: TokenVerifier, algorithm: str) -> Counting:
    """Replace the verifier's key of an algorithm with one that counts."""
    if algorithm == "HS256":
        key = Counting(verifier._secrets[0])
        verifier._secrets = (key,)
        return key
    assert verifier.jwks is not None
    if not verifier.jwks.keys:
        await verifier.jwks.fetch()
    name = (f"key-{algorithm}", algorithm)
    key = Counting(verifier.jwks.keys[name])
    verifier.jwks.keys[name] = key
    return key


# --- one key, one algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_right_key_is_accepted(verifier: TokenVerifier, algorithm: str):
    assert (await verifier.verify(signer_of(algorithm).token())).user_id == "user-1"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_another_key_is_refused(verifier: TokenVerifier, algorithm: str):
    good, other = signer_of(algorithm), other_signer_of(algorithm)
    with pytest.raises(TokenInvalid):
        await verifier.verify(other.token())
    with pytest.raises(TokenInvalid):
        await verifier.verify(other.token(good.header()))  # under the good key's id


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_signature_of_another_message_is_refused(verifier: TokenVerifier, algorithm: str):
    by = signer_of(algorithm)
    header, payload, signature = by.token().split(".")
    for changed in (
        f"{header}.{encode_json(claims(sub='user-2'))}.{signature}",
        f"{encode_json(by.header(typ='JWT'))}.{payload}.{signature}",
    ):
        with pytest.raises(TokenInvalid):
            await verifier.verify(changed)


@pytest.mark.parametrize(("signed", "claimed"), PAIRS)
async def test_no_signature_passes_for_another_algorithms(verifier: TokenVerifier, signed: str, claimed: str):
    for key_id in (..., f"key-{signed}", f"key-{claimed}"):
        token = signer_of(signed).token(signer_of(signed).header(alg=claimed, kid=key_id))
        with pytest.raises(TokenInvalid):
            await verifier.verify(token)


@pytest.mark.parametrize(("signed", "claimed"), PAIRS)
async def test_no_key_is_found_under_another_keys_id(verifier: TokenVerifier, signed: str, claimed: str):
    token = signer_of(signed).token(signer_of(signed).header(kid=f"key-{claimed}"))
    if signed == "HS256":  # the secret has no id, and needs none
        assert (await verifier.verify(token)).user_id == "user-1"
    else:
        with pytest.raises(TokenInvalid):
            await verifier.verify(token)


@pytest.mark.parametrize("secret", [SECRET, None], ids=["secret and keys", "keys only"])
@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
async def test_a_public_key_is_no_secret(issuer: Issuer, clock: Clock, algorithm: str, secret: str | None):
    verifier = verifier_of(issuer, clock, better_auth_secret=secret)
    by = signer(algorithm)
    jwk = by.jwk()
    for public in (
        by.pem(),
        by.pem().strip(),
        by.der(),
        json.dumps(jwk).encode(),
        json.dumps(jwk, separators=(",", ":")).encode(),
        json.dumps({"keys": [jwk]}).encode(),
        str(jwk.get("x", jwk.get("n"))).encode(),
        b"",
    ):
        forger = secret_signer(public)
        for header in (forger.header(), forger.header(kid=by.key_id), forger.header(alg=algorithm, kid=by.key_id)):
            with pytest.raises(TokenInvalid):
                await verifier.verify(forger.token(header))


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
async def test_without_a_secret_no_hs256_and_without_a_url_no_public_key(issuer: Issuer, clock: Clock, algorithm: str):
    by_keys = verifier_of(issuer, clock, better_auth_secret=None)
    with pytest.raises(TokenInvalid, match="HS256 needs BETTER_AUTH_SECRET"):
        await by_keys.verify(signer_of("HS256").token())
    by_secret = TokenVerifier(make_settings("sqlite+aiosqlite://"), clock)
    with pytest.raises(TokenInvalid, match=f"{algorithm} needs BETTER_AUTH_URL"):
        await by_secret.verify(signer(algorithm).token())


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS[1:])
async def test_a_public_key_as_the_secret_stops_the_start(algorithm: str):
    with pytest.raises(ConfigurationError, match="BETTER_AUTH_SECRET"):
        TokenVerifier(make_settings("sqlite+aiosqlite://", better_auth_secret=signer(algorithm).pem().decode()))


@pytest.mark.parametrize("secret", ["[" + "1," * 40 + "1]", '{"keys": [], "pad": "' + "x" * 40 + '"}'])
async def test_a_secret_that_looks_like_json_is_taken_as_it_is(secret: str):
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://", better_auth_secret=secret))
    assert (await verifier.verify(secret_signer(secret).token())).user_id == "user-1"
    with pytest.raises(TokenInvalid):
        await verifier.verify(secret_signer(secret.strip('"[]{}')).token())


async def test_an_rsa_key_that_does_not_name_its_algorithm_serves_both_and_one_that_does_serves_it(
    issuer: Issuer, clock: Clock
):
    pkcs = signer("RS256")
    pss = Signer("PS256", pkcs.key_id, pkcs.key)
    for published, good, bad in ((..., (pkcs, pss), ()), ("RS256", (pkcs,), (pss,)), ("PS256", (pss,), (pkcs,))):
        issuer.publish(pkcs.jwk(alg=published))
        verifier = verifier_of(issuer, clock)
        for each in good:
            assert (await verifier.verify(each.token())).user_id == "user-1"
        for each in bad:
            with pytest.raises(TokenInvalid):
                await verifier.verify(each.token())


# --- signatures of the wrong form


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_signature_that_is_cut_or_filled_up_is_refused(verifier: TokenVerifier, algorithm: str):
    by = signer_of(algorithm)
    signed = f"{encode_json(by.header())}.{encode_json(claims())}"
    good = by.sign(signed.encode())
    bad = [good[:-1], good[1:], good + b"\0", b"\0" + good, good * 2, good[::-1], bytes(len(good)), good[:1]]
    for signature in bad:
        with pytest.raises(TokenInvalid):
            await verifier.verify(f"{signed}.{encode(signature)}")


@pytest.mark.parametrize("algorithm", ["ES256", "ES512"])
async def test_an_ecdsa_signature_of_zeros_or_in_der_is_refused(verifier: TokenVerifier, algorithm: str):
    by = signer(algorithm)
    size, digest = (32, hashes.SHA256()) if algorithm == "ES256" else (66, hashes.SHA512())
    signed = f"{encode_json(by.header())}.{encode_json(claims())}"
    order = by.key.curve.group_order.to_bytes(size)
    zero = bytes(size)
    der = by.key.sign(signed.encode(), ec.ECDSA(digest))
    for signature in (zero + zero, order + order, zero + order, der):
        with pytest.raises(TokenInvalid):
            await verifier.verify(f"{signed}.{encode(signature)}")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
async def test_an_rsa_signature_without_its_leading_zero_is_refused(verifier: TokenVerifier, algorithm: str):
    by = signer(algorithm)
    for number in itertools.count():
        signed = f"{encode_json(by.header())}.{encode_json(claims(number=number))}"
        signature = by.sign(signed.encode())
        if signature[0] == 0:  # one in 256 begins so
            break
    with pytest.raises(TokenInvalid):
        await verifier.verify(f"{signed}.{encode(signature[1:])}")
    assert (await verifier.verify(f"{signed}.{encode(signature)}")).user_id == "user-1"


async def test_a_ps256_signature_with_another_salt_is_refused(verifier: TokenVerifier):
    by = signer("PS256")
    signed = f"{encode_json(by.header())}.{encode_json(claims())}"
    for salt in (0, 20, 64):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=salt)
        signature = by.key.sign(signed.encode(), scheme, hashes.SHA256())
        with pytest.raises(TokenInvalid):
            await verifier.verify(f"{signed}.{encode(signature)}")


# --- the outcome that is kept


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_signature_is_checked_once_for_each_token(verifier: TokenVerifier, algorithm: str):
    key = await counting(verifier, algorithm)
    token = signer_of(algorithm).token()
    for _ in range(5):
        assert (await verifier.verify(token)).user_id == "user-1"
    assert key.count == 1
    other = signer_of(algorithm).token(payload=claims(sub="user-2"))
    assert (await verifier.verify(other)).user_id == "user-2"
    assert key.count == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_refusal_is_not_kept_and_keeps_nothing(verifier: TokenVerifier, algorithm: str):
    key = await counting(verifier, algorithm)
    header, payload, _ = signer_of(algorithm).token().split(".")
    forged = f"{header}.{payload}.{encode(other_signer_of(algorithm).sign(f'{header}.{payload}'.encode()))}"
    for _ in range(3):
        with pytest.raises(TokenInvalid):
            await verifier.verify(forged)
    assert key.count == 3
    assert not verifier._kept


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_is_kept_ends_with_exp(verifier: TokenVerifier, clock: Clock, algorithm: str):
    token = signer_of(algorithm).token(payload=claims(exp=clock.now + 60))
    assert (await verifier.verify(token)).user_id == "user-1"
    clock.advance(60 + LEEWAY - 1)
    assert (await verifier.verify(token)).user_id == "user-1"
    clock.advance(1)
    with pytest.raises(TokenExpired):
        await verifier.verify(token)


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
async def test_what_is_kept_ends_with_a_withdrawn_key(
    issuer: Issuer, verifier: TokenVerifier, keys_clock: Clock, algorithm: str
):
    token = signer(algorithm).token()
    assert (await verifier.verify(token)).user_id == "user-1"
    assert verifier.jwks is not None
    issuer.publish(signer(algorithm, "other").jwk())
    await verifier.jwks.fetch()
    with pytest.raises(TokenInvalid):
        await verifier.verify(token)


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
async def test_a_key_that_is_fetched_anew_checks_anew(
    issuer: Issuer, verifier: TokenVerifier, keys_clock: Clock, algorithm: str
):
    before = await counting(verifier, algorithm)
    token = signer(algorithm).token()
    assert (await verifier.verify(token)).user_id == "user-1"
    assert verifier.jwks is not None
    keys_clock.advance(REFRESH_AFTER)
    assert (await verifier.verify(token)).user_id == "user-1"
    assert before.count == 1
    await verifier.jwks.fetch()  # joins the one in the background
    after = await counting(verifier, algorithm)
    for _ in range(3):
        assert (await verifier.verify(token)).user_id == "user-1"
    assert (before.count, after.count) == (1, 1)
    assert issuer.fetches == 2


async def test_a_kept_outcome_of_one_key_is_not_that_of_another_under_its_id(issuer: Issuer, verifier: TokenVerifier):
    token = signer("EdDSA").token()
    assert (await verifier.verify(token)).user_id == "user-1"
    assert verifier.jwks is not None
    issuer.publish(signer("EdDSA", "other").jwk(kid="key-EdDSA"))
    await verifier.jwks.fetch()
    with pytest.raises(TokenInvalid):
        await verifier.verify(token)


async def test_only_so_many_outcomes_are_kept_and_the_oldest_goes_first(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    key = await counting(verifier, "HS256")
    first, second, third = (signer_of("HS256").token(payload=claims(sub=f"user-{n}")) for n in range(3))
    for token in (first, second, third, third, second):
        await verifier.verify(token)
    assert (key.count, len(verifier._kept)) == (3, 2)
    await verifier.verify(first)
    assert (key.count, len(verifier._kept)) == (4, 2)
