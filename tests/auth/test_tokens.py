"""Tokens signed with the shared secret: what is accepted, and a corpus of what is not.

The tokens are made by hand, so that each signature is right and only the thing under test is wrong.
"""

import asyncio
import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jose import jws, jwt

from backend.auth import tokens
from backend.auth.tokens import LEEWAY, MAX_TOKEN_LENGTH, TokenVerifier, mint
from backend.config import ConfigurationError, Settings
from backend.errors import IssuerUnavailable, TokenExpired, TokenInvalid
from tests.settings import SECRET, make_settings

NOW = 1_800_000_000
ISSUER = "https://auth.example.com"
HEADER = {"alg": "HS256", "typ": "JWT"}
CLAIMS = {"sub": "alice", "iat": NOW, "exp": NOW + 900}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def sign(header: Any = HEADER, claims: Any = CLAIMS, secret: str | bytes = SECRET, digest: str = "sha256") -> str:
    """A token whose signature is right."""
    signed = f"{b64(to_bytes(header))}.{b64(to_bytes(claims))}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{b64(hmac.new(key, signed.encode(), digest).digest())}"


def resign(signed: str) -> str:
    """Sign a header and a payload that are spelled in some way of their own."""
    return f"{signed}.{b64(hmac.new(SECRET.encode(), signed.encode(), 'sha256').digest())}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def verify(token: str, *, now: float = NOW, settings: Settings | None = None, **changes: object) -> str:
    """Verify a token at a moment; return its user."""
    settings = settings or make_settings("sqlite+aiosqlite://", **changes)
    return asyncio.run(TokenVerifier(settings, lambda: now).verify(token)).user_id


GOOD = sign()
PART = {"header": GOOD.split(".")[0], "claims": GOOD.split(".")[1], "signature": GOOD.split(".")[2]}
PUBLIC_KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)


def flipped(signature: str) -> str:
    return ("B" if signature[0] == "A" else "A") + signature[1:]


def spare_bits(text: str) -> str:
    """The same bytes in base64url with the bits set that its last character does not use."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4 != 0
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


HOSTILE: dict[str, str] = {
    # The form.
    "empty": "",
    "one part": "abc",
    "two parts": f"{PART['header']}.{PART['claims']}",
    "four parts": f"{GOOD}.{PART['signature']}",
    "five parts, as an encrypted token": f"{GOOD}.{PART['signature']}.{PART['signature']}",
    "no signature": f"{PART['header']}.{PART['claims']}.",
    "no header": f".{PART['claims']}.{PART['signature']}",
    "no claims": f"{PART['header']}..{PART['signature']}",
    "only dots": "..",
    "a space before": f" {GOOD}",
    "a line end after": f"{GOOD}\n",
    "a space inside": GOOD.replace(".", ". ", 1),
    "padding of the signature": f"{GOOD}=",
    "padding of the header": resign(f"{PART['header']}==.{PART['claims']}"),
    "base64 instead of base64url": resign(f"{b64(b'{}')}+/.{PART['claims']}"),
    "spare bits of the signature": f"{PART['header']}.{PART['claims']}.{spare_bits(PART['signature'])}",
    "spare bits of the claims": resign(f"{PART['header']}.{spare_bits(b64(to_bytes(CLAIMS | {'x': 'yy'})))}"),
    "a length that no base64 has": resign(f"{PART['header']}A.{PART['claims']}"),
    "letters of another alphabet": GOOD.replace("e", "\u0435", 1),
    "a NUL": f"{GOOD}\0",
    "a lone surrogate": f"{GOOD}\ud800",
    "bytes of Latin-1": f"{GOOD}\xff",
    "a megabyte": "A" * 1_000_000,
    "too long by its claims": sign(claims=CLAIMS | {"x": "y" * MAX_TOKEN_LENGTH}),
    # The signature.
    "another secret": sign(secret="another-secret-that-is-long-enough"),
    "an empty secret": sign(secret=""),
    "a changed signature": f"{PART['header']}.{PART['claims']}.{flipped(PART['signature'])}",
    "a shortened signature": GOOD[:-4],
    "a lengthened signature": f"{GOOD}AAAA",
    "a signature of other claims": f"{PART['header']}.{b64(to_bytes(CLAIMS | {'sub': 'bob'}))}.{PART['signature']}",
    "a signature of zeros": f"{PART['header']}.{PART['claims']}.{b64(bytes(32))}",
    # The algorithm.
    "none": sign({"alg": "none"}),
    "none without a signature": f"{b64(b'{}')}.{PART['claims']}.",
    "None": sign({"alg": "None"}),
    "no algorithm": sign({"typ": "JWT"}),
    "an algorithm that is null": sign({"alg": None}),
    "an algorithm that is a list": sign({"alg": ["HS256"]}),
    "an algorithm that is a number": sign({"alg": 256}),
    "an empty algorithm": sign({"alg": ""}),
    "hs256 in lower case": sign({"alg": "hs256"}),
    "a part of a name": sign({"alg": "HS"}),
    "HS384": sign({"alg": "HS384"}, digest="sha384"),
    "HS512": sign({"alg": "HS512"}, digest="sha512"),
    "RS256 signed with the secret": sign({"alg": "RS256", "kid": "k"}),
    "ES256 signed with the secret": sign({"alg": "ES256", "kid": "k"}),
    "EdDSA signed with the secret": sign({"alg": "EdDSA", "kid": "k"}),
    "HS256 signed with a public key": sign(secret=PUBLIC_KEY),
    "an encrypted token's algorithm": sign({"alg": "dir", "enc": "A256GCM"}),
    # The header.
    "an embedded key": sign(HEADER | {"jwk": {"kty": "oct", "k": b64(SECRET.encode())}}),
    "an address of keys": sign(HEADER | {"jku": "https://evil.example.com/jwks"}),
    "an address of a certificate": sign(HEADER | {"x5u": "https://evil.example.com/cert"}),
    "an embedded certificate": sign(HEADER | {"x5c": ["MII"]}),
    "an extension that must be understood": sign(HEADER | {"crit": ["exp"], "exp": NOW}),
    "an empty list of extensions": sign(HEADER | {"crit": []}),
    "a payload that is not encoded": sign(HEADER | {"b64": False, "crit": ["b64"]}),
    "b64 alone": sign(HEADER | {"b64": True}),
    "another type": sign(HEADER | {"typ": "better-auth.session-cache+jwt"}),
    "a type that is null": sign(HEADER | {"typ": None}),
    "a type that is a list": sign(HEADER | {"typ": ["JWT"]}),
    "a key id that is a number": sign(HEADER | {"kid": 1}),
    "a key id that is an object": sign(HEADER | {"kid": {}}),
    "a header that is a list": sign([HEADER]),
    "a header that is a string": sign("HS256"),
    "a header that is null": sign(None),
    "a header that is no JSON": sign(b"{"),
    "an empty header": sign({}),
    "a header with a name twice": sign(b'{"alg":"none","alg":"HS256"}'),
    "a header with NaN": sign(b'{"alg":"HS256","x":NaN}'),
    "a header in UTF-16": sign(json.dumps(HEADER).encode("utf-16")),
    "a header with a byte order mark": sign(b"\xef\xbb\xbf" + to_bytes(HEADER)),
    "a header that is no UTF-8": sign(b'{"alg":"HS256","x":"\xff"}'),
    "a deeply nested header": sign(b'{"alg":"HS256","x":' + b"[" * 2500 + b"]" * 2500 + b"}"),
    "an unfinished nested header": sign(b"[" * 5000),
    # The claims.
    "claims that are a list": sign(claims=[CLAIMS]),
    "claims that are a string": sign(claims="alice"),
    "claims that are null": sign(claims=None),
    "claims that are no JSON": sign(claims=b"{"),
    "no bytes of claims": sign(claims=b" "),
    "claims with a name twice": sign(claims=b'{"sub":"bob",' + to_bytes(CLAIMS)[1:]),
    "a name twice further in": sign(claims=to_bytes(CLAIMS)[:-1] + b',"x":{"a":1,"a":2}}'),
    "claims with NaN": sign(claims=to_bytes(CLAIMS)[:-1] + b',"x":NaN}'),
    "claims with Infinity": sign(claims=to_bytes(CLAIMS)[:-1] + b',"x":-Infinity}'),
    "claims that are no UTF-8": sign(claims=to_bytes(CLAIMS)[:-1] + b',"x":"\xff"}'),
    "claims with a byte order mark": sign(claims=b"\xef\xbb\xbf" + to_bytes(CLAIMS)),
    "an endless number": sign(claims=to_bytes(CLAIMS)[:-1] + b',"x":' + b"9" * 5000 + b"}"),
    # Who.
    "no sub": sign(claims=without("sub")),
    "a sub that is null": sign(claims=CLAIMS | {"sub": None}),
    "a sub that is a number": sign(claims=CLAIMS | {"sub": 1}),
    "a sub that is true": sign(claims=CLAIMS | {"sub": True}),
    "a sub that is a list": sign(claims=CLAIMS | {"sub": ["alice"]}),
    "an empty sub": sign(claims=CLAIMS | {"sub": ""}),
    "a sub of 256 characters": sign(claims=CLAIMS | {"sub": "a" * 256}),
    "a sub with NUL": sign(claims=CLAIMS | {"sub": "ali\0ce"}),
    "a sub with half a character": sign(claims=CLAIMS | {"sub": "ali\ud800ce"}),
    "a user in another claim": sign(claims=without("sub") | {"id": "alice", "user_id": "alice"}),
    # When.
    "no exp": sign(claims=without("exp")),
    "an exp that is null": sign(claims=CLAIMS | {"exp": None}),
    "an exp that is a string": sign(claims=CLAIMS | {"exp": str(NOW + 900)}),
    "an exp that is true": sign(claims=CLAIMS | {"exp": True}),
    "an exp that is a list": sign(claims=CLAIMS | {"exp": [NOW + 900]}),
    "an exp that is an object": sign(claims=CLAIMS | {"exp": {}}),
    "an exp of Infinity": sign(claims=to_bytes(without("exp"))[:-1] + b',"exp":Infinity}'),
    "an exp past all floats": sign(claims=to_bytes(without("exp"))[:-1] + b',"exp":1e999}'),
    "an exp of 400 digits": sign(claims=to_bytes(without("exp"))[:-1] + b',"exp":' + b"9" * 400 + b"}"),
    "an nbf in the future": sign(claims=CLAIMS | {"nbf": NOW + LEEWAY + 1}),
    "an nbf that is a string": sign(claims=CLAIMS | {"nbf": str(NOW)}),
    "an nbf that is null": sign(claims=CLAIMS | {"nbf": None}),
    "an nbf that is true": sign(claims=CLAIMS | {"nbf": True}),
    "an iat in the future": sign(claims=CLAIMS | {"iat": NOW + LEEWAY + 1}),
    "an iat that is a string": sign(claims=CLAIMS | {"iat": str(NOW)}),
    "an iat that is null": sign(claims=CLAIMS | {"iat": None}),
    "an iat that is false": sign(claims=CLAIMS | {"iat": False}),
    "an iat that is a list": sign(claims=CLAIMS | {"iat": []}),
}


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 60
    assert verify(GOOD) == "alice", "what the corpus was made from is good"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_invalid(name: str) -> None:
    with pytest.raises(TokenInvalid) as error:
        verify(HOSTILE[name])
    assert not isinstance(error.value, TokenExpired)
    assert SECRET not in str(error.value)
    assert len(str(error.value)) < 100, "the reason goes to the log, and must not bring the token there"


@given(st.text(max_size=300))
def test_any_text_is_invalid(text: str) -> None:
    with pytest.raises(TokenInvalid):
        verify(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="latin-1"))
def test_any_changed_character_is_invalid(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    if changed != GOOD:
        with pytest.raises(TokenInvalid):
            verify(changed)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
claim_names = st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud"])


@given(header=json_values, claims=json_values, changes=st.dictionaries(claim_names, json_values, max_size=3))
def test_whatever_is_signed_is_accepted_or_refused_and_nothing_else(header: Any, claims: Any, changes: Any) -> None:
    changed = CLAIMS | changes
    for token, signed in ((sign(header), CLAIMS), (sign(claims=claims), claims), (sign(claims=changed), changed)):
        try:
            user = verify(token)
        except TokenInvalid:
            continue
        assert user == signed["sub"]


# What is accepted


ACCEPTED: dict[str, str] = {
    "no type": sign({"alg": "HS256"}),
    "an access token": sign(HEADER | {"typ": "at+jwt"}),
    "a key id, which HS256 does not need": sign(HEADER | {"kid": "any"}),
    "a header parameter that nobody must understand": sign(HEADER | {"x": {"y": [1]}}),
    "other claims": sign(claims=CLAIMS | {"name": "Alice", "email": "a@example.com", "emailVerified": True}),
    "an audience where none is asked for": sign(claims=CLAIMS | {"aud": "anything", "iss": "anyone"}),
    "times with fractions": sign(claims=CLAIMS | {"exp": NOW + 0.5, "iat": NOW - 0.5, "nbf": NOW - 0.5}),
    "no iat": sign(claims=without("iat")),
    "a sub of 255 characters": sign(claims=CLAIMS | {"sub": "a" * 255}),
    "a sub of 255 characters outside the first plane": sign(claims=CLAIMS | {"sub": "\U0001f600" * 255}),
    "a sub of white space": sign(claims=CLAIMS | {"sub": " "}),
    "spaces in the JSON": sign(claims=json.dumps(CLAIMS, indent=4).encode()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_good_token_names_its_user(name: str) -> None:
    token = ACCEPTED[name]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert verify(token) == claims["sub"]


def test_tokens_of_python_jose_are_accepted() -> None:
    token = jwt.encode(CLAIMS, SECRET, algorithm="HS256")
    assert verify(token) == "alice"


@pytest.mark.parametrize("secret", ["1" * 39 + "2", "[1" + ",1" * 20 + "]"])
def test_a_secret_that_looks_like_json_is_a_secret(secret: str) -> None:
    settings = make_settings("sqlite+aiosqlite://", better_auth_secret=secret)
    assert verify(sign(secret=secret), settings=settings) == "alice"


def test_a_secret_of_any_script_is_its_utf8_bytes() -> None:
    secret = "pässwörd-" * 4
    assert verify(sign(secret=secret), better_auth_secret=secret) == "alice"


# Time: thirty seconds either way


@pytest.mark.parametrize(
    ("claim", "offset", "accepted"),
    [
        ("exp", -29, True),
        ("exp", -31, False),
        ("nbf", 29, True),
        ("nbf", 31, False),
        ("iat", 29, True),
        ("iat", 31, False),
    ],
)
def test_clocks_may_differ_by_thirty_seconds(claim: str, offset: int, accepted: bool) -> None:
    token = sign(claims=CLAIMS | {claim: NOW + offset})
    if accepted:
        assert verify(token) == "alice"
    else:
        with pytest.raises(TokenExpired if claim == "exp" else TokenInvalid):
            verify(token)


def test_exactly_thirty_seconds_after_its_end_a_token_has_expired() -> None:
    with pytest.raises(TokenExpired):
        verify(sign(claims=CLAIMS | {"exp": NOW}), now=NOW + LEEWAY)


@pytest.mark.parametrize("changes", [{"sub": ""}, {"nbf": NOW + 100}, {"iat": "x"}])
def test_a_token_that_is_wrong_and_expired_is_only_wrong(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid) as error:
        verify(sign(claims=CLAIMS | {"exp": NOW - 100} | changes))
    assert not isinstance(error.value, TokenExpired)


def test_an_expired_token_of_a_stranger_is_only_wrong() -> None:
    with pytest.raises(TokenInvalid) as error:
        verify(sign(claims=CLAIMS | {"exp": NOW - 100}, secret="another-secret-that-is-long-enough"))
    assert not isinstance(error.value, TokenExpired)


# What is remembered


async def test_a_remembered_token_still_expires() -> None:
    now = NOW
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"), lambda: now)
    assert (await verifier.verify(GOOD)).user_id == "alice"
    now = CLAIMS["exp"] + LEEWAY - 1  # type: ignore[operator] # CLAIMS holds strings, too
    assert (await verifier.verify(GOOD)).user_id == "alice"
    now += 1
    with pytest.raises(TokenExpired):
        await verifier.verify(GOOD)


async def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    check = jws.verify

    def count(*arguments: Any) -> Any:
        nonlocal checks
        checks += 1
        return check(*arguments)

    monkeypatch.setattr(jws, "verify", count)
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"), lambda: NOW)
    for _ in range(3):
        assert (await verifier.verify(GOOD)).user_id == "alice"
    assert checks == 1


async def test_a_full_memory_is_not_looked_through_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,096 that would take ten times as long as to verify one."""
    monkeypatch.setattr(tokens, "MAX_KEPT", 20)
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"), lambda: NOW)
    looked: list[None] = []
    make_room = verifier._make_room
    monkeypatch.setattr(verifier, "_make_room", lambda: looked.append(make_room()))
    for number in range(40):
        await verifier.verify(sign(claims=CLAIMS | {"sub": f"user-{number}"}))
    assert len(looked) == 10


async def test_what_is_remembered_is_bounded_and_never_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_KEPT", 16)
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"), lambda: NOW)
    many = {f"user-{number}": sign(claims=CLAIMS | {"sub": f"user-{number}"}) for number in range(26)}
    for user, token in many.items():
        assert (await verifier.verify(token)).user_id == user
    assert len(verifier._kept) <= 16
    for user, token in many.items():
        assert (await verifier.verify(token)).user_id == user


async def test_a_refused_token_is_not_remembered() -> None:
    now = NOW
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"), lambda: now)
    token = sign(claims=CLAIMS | {"nbf": NOW + 100})
    with pytest.raises(TokenInvalid):
        await verifier.verify(token)
    now += 100
    assert (await verifier.verify(token)).user_id == "alice"


# Who it is from, and for whom


ADDRESSES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    # With an issuer, HS256 tokens are held to it, too; its origin is also the audience.
    ({"better_auth_url": ISSUER}, {"iss": ISSUER, "aud": ISSUER}, True),
    ({"better_auth_url": f"{ISSUER}/"}, {"iss": ISSUER, "aud": ISSUER}, True),
    ({"better_auth_url": f"{ISSUER}/base/path"}, {"iss": ISSUER, "aud": ISSUER}, True),
    ({"better_auth_url": "https://AUTH.example.com:443"}, {"iss": ISSUER, "aud": ISSUER}, True),
    (
        {"better_auth_url": "http://localhost:3000"},
        {"iss": "http://localhost:3000", "aud": "http://localhost:3000"},
        True,
    ),
    ({"better_auth_url": "http://[::1]:3000"}, {"iss": "http://[::1]:3000", "aud": "http://[::1]:3000"}, True),
    ({"better_auth_url": ISSUER}, {"aud": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": f"{ISSUER}/", "aud": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": f"{ISSUER}.evil.com", "aud": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": [ISSUER], "aud": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": None, "aud": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": ISSUER}, False),
    ({"better_auth_url": ISSUER}, {"iss": ISSUER, "aud": "other"}, False),
    ({"better_auth_url": ISSUER}, {"iss": ISSUER, "aud": "better-auth:session-cache"}, False),
    # An audience that is set replaces the issuer's.
    ({"better_auth_url": ISSUER, "api_audience": "api"}, {"iss": ISSUER, "aud": "api"}, True),
    ({"better_auth_url": ISSUER, "api_audience": "api"}, {"iss": ISSUER, "aud": ISSUER}, False),
    ({"api_audience": "api"}, {"aud": "api"}, True),
    ({"api_audience": "api"}, {"aud": "api", "iss": "anyone"}, True),
    ({"api_audience": "api,web"}, {"aud": "web"}, True),
    ({"api_audience": "api"}, {"aud": ["other", "api"]}, True),
    ({"api_audience": "api"}, {}, False),
    ({"api_audience": "api"}, {"aud": None}, False),
    ({"api_audience": "api"}, {"aud": ""}, False),
    ({"api_audience": "api"}, {"aud": []}, False),
    ({"api_audience": "api"}, {"aud": "ap"}, False),
    ({"api_audience": "api"}, {"aud": "api,web"}, False),
    ({"api_audience": "api"}, {"aud": ["api", 1]}, False),
    ({"api_audience": "api"}, {"aud": [["api"]]}, False),
    ({"api_audience": "api"}, {"aud": {"api": 1}}, False),
    ({"api_audience": "api"}, {"aud": 1}, False),
    ({}, {"aud": 1}, True),
]


@pytest.mark.parametrize(("settings", "claims", "accepted"), ADDRESSES)
def test_issuer_and_audience(settings: dict[str, Any], claims: dict[str, Any], accepted: bool) -> None:
    token = sign(claims=CLAIMS | claims)
    if accepted:
        assert verify(token, **settings) == "alice"
    else:
        with pytest.raises(TokenInvalid):
            verify(token, **settings)


def test_without_a_secret_nothing_signed_with_one_is_accepted() -> None:
    settings = make_settings("sqlite+aiosqlite://", better_auth_secret=None, better_auth_url=ISSUER)
    for secret in (SECRET, "", "None", PUBLIC_KEY):
        with pytest.raises(TokenInvalid):
            verify(sign(claims=CLAIMS | {"iss": ISSUER, "aud": ISSUER}, secret=secret), settings=settings)


def test_a_token_for_the_issuers_keys_needs_a_key_id() -> None:
    with pytest.raises(TokenInvalid):
        verify(sign({"alg": "EdDSA"}), better_auth_url=ISSUER)


def test_where_the_issuer_cannot_be_asked_nobody_is_blamed() -> None:
    with pytest.raises(IssuerUnavailable):
        verify(sign({"alg": "EdDSA", "kid": "k"}), better_auth_url="http://127.0.0.1:1")


# Secrets that are none


@pytest.mark.parametrize(
    "secret",
    [
        PUBLIC_KEY.decode(),
        "-----BEGIN CERTIFICATE-----\nMIIB" + "A" * 32,
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 user@host",
    ],
)
def test_a_public_key_is_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        TokenVerifier(make_settings("sqlite+aiosqlite://", better_auth_secret=secret))
    assert str(error.value).startswith("BETTER_AUTH_SECRET: ")
    assert secret[10:20] not in str(error.value)


# Minting


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"better_auth_url": f"{ISSUER}/path/"},
        {"api_audience": "web, api"},
        {"better_auth_url": ISSUER, "api_audience": "api"},
    ],
)
def test_a_minted_token_is_accepted_until_it_ends(changes: dict[str, object]) -> None:
    settings = make_settings("sqlite+aiosqlite://", **changes)
    token = mint(settings, "alice", 60, lambda: NOW)
    assert verify(token, settings=settings) == "alice"
    assert verify(token, settings=settings, now=NOW + 60 + LEEWAY - 1) == "alice"
    with pytest.raises(TokenExpired):
        verify(token, settings=settings, now=NOW + 60 + LEEWAY)


def test_production_mints_nothing() -> None:
    with pytest.raises(ConfigurationError, match="ENVIRONMENT"):
        mint(make_settings("sqlite+aiosqlite://", environment="production"), "alice", 60)


def test_without_a_secret_nothing_is_minted() -> None:
    settings = make_settings("sqlite+aiosqlite://", better_auth_secret=None, better_auth_url=ISSUER)
    with pytest.raises(ConfigurationError, match="BETTER_AUTH_SECRET"):
        mint(settings, "alice", 60)


def test_the_hmac_of_this_file_is_that_of_the_standard() -> None:
    # RFC 7515, appendix A.1.
    key = base64.urlsafe_b64decode(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    )
    header = b'{"typ":"JWT",\r\n "alg":"HS256"}'
    claims = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
    assert sign(header, claims, key).endswith(".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
