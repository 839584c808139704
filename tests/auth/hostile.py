"""Tokens and Authorization headers that must not let anybody in, by name; `attacks` makes all of them.

Most are signed with a good key: what is wrong with them is all that can refuse them. Families are made for HS256 and
for EdDSA, because the two take different ways through the service.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.auth.issuer import (
    ORIGIN,
    PUBLIC_KEY_ALGORITHMS,
    Signer,
    claims,
    encode,
    encode_json,
    secret_signer,
    signer,
)
from tests.settings import SECRET

LIMIT = 8192
"""The longest token that is looked at, in characters."""


@dataclass(frozen=True)
class Attack:
    """Values of Authorization headers, and the `code` of the response that they must get."""

    values: tuple[bytes, ...]
    code: str = "token_invalid"


Named = Iterator[tuple[str, Attack]]


def bearer(token: str, code: str = "token_invalid") -> Attack:
    """The attack with this token."""
    return Attack((f"Bearer {token}".encode("latin-1"),), code)


def attacks(canary: str) -> dict[str, Attack]:
    """Make all attacks. `canary` is a URL that nobody must ever ask."""
    made: dict[str, Attack] = {}
    families = (
        _algorithms,
        _unsigned,
        _forbidden_parameters,
        _key_ids,
        _types,
        _signatures,
        _alphabet,
        _segments,
        _json,
        _subjects,
        _issuers,
        _audiences,
        _times,
        _strangers,
        _sizes,
        _schemes,
    )
    for family in families:
        for by in (secret_signer(SECRET), signer("EdDSA")):
            for name, attack in family(by, canary):
                made.setdefault(name if name.startswith(("header:", "headers:")) else f"{by.algorithm}: {name}", attack)
    return made


def _algorithms(by: Signer, canary: str) -> Named:
    texts = ["", "none", "None", "NONE", "nOnE", "none ", " none", "none\0", "null", "hs256", "HS256 ", "HS-256"]
    texts += ["HS384", "HS512", "RS384", "RS512", "PS384", "PS512", "ES384", "ES256K", "Ed448", "ed25519", "eddsa"]
    texts += [
        "dir",
        "A256KW",
        "RSA-OAEP",
        "RSA1_5",
        "ECDH-ES",
        "PBES2-HS256+A128KW",
        "HS256,EdDSA",
        "HS256\n",
        "*",
        "a" * 500,
    ]
    for text in texts:
        yield f"alg {text[:20]!r}", bearer(by.token(by.header(alg=text)))
    for value in (None, True, 0, 256, 1.5, [], ["HS256"], ["EdDSA"], {}, {"HS256": True}):
        yield f"alg {json.dumps(value)}", bearer(by.token(by.header(alg=value)))
    yield "no alg", bearer(by.token(by.header(alg=...)))
    yield "enc beside another alg", bearer(by.token(by.header(alg="dir", enc="A256GCM")))


def _unsigned(by: Signer, canary: str) -> Named:
    payload = encode_json(claims(sub="admin"))
    good = by.token().split(".")[2]
    for name in ("none", "None", "NONE", "nOnE", by.algorithm):
        header = encode_json(by.header(alg=name))
        yield f"{name} without a signature", bearer(f"{header}.{payload}.")
        yield f"{name} in two segments", bearer(f"{header}.{payload}")
        yield f"{name} with the signature of another token", bearer(f"{header}.{payload}.{good}")
        yield f"{name} with a signature of one byte", bearer(f"{header}.{payload}.AA")


def _forbidden_parameters(by: Signer, canary: str) -> Named:
    own = signer("EdDSA", "attacker")
    public: dict[str, Any] = own.jwk()
    chosen: dict[str, dict[str, Any]] = {
        "jwk": {"jwk": public},
        "jwk null": {"jwk": None},
        "jwk of a secret": {"jwk": {"kty": "oct", "k": encode("secret")}},
        "jku": {"jku": f"{canary}/jwks"},
        "jku of the issuer": {"jku": f"{ORIGIN}/api/auth/jwks"},
        "jku null": {"jku": None},
        "jku of a file": {"jku": "file:///etc/passwd"},
        "x5u": {"x5u": f"{canary}/x5u"},
        "x5u null": {"x5u": None},
        "x5c": {"x5c": [encode(own.der())]},
        "x5c empty": {"x5c": []},
        "crit of exp": {"crit": ["exp"], "exp": 0},
        "crit of b64": {"crit": ["b64"], "b64": True},
        "crit of alg": {"crit": ["alg"]},
        "crit of nobody knows": {"crit": ["x"], "x": 1},
        "crit empty": {"crit": []},
        "crit null": {"crit": None},
        "crit a string": {"crit": "exp"},
        "b64 false": {"b64": False},
        "b64 true": {"b64": True},
        "b64 null": {"b64": None},
        "all of them": {"jwk": public, "jku": canary, "x5u": canary, "x5c": [], "crit": ["b64"], "b64": False},
    }
    for name, parameters in chosen.items():
        yield f"{name}, by a good key", bearer(by.token(by.header(**parameters)))
        yield f"{name}, by the attacker's key", bearer(own.token(own.header(**parameters)))
        yield f"{name}, under a good key's id", bearer(own.token(own.header(kid="key-EdDSA", **parameters)))


def _key_ids(by: Signer, canary: str) -> Named:
    for value in (None, True, 0, 1, 1.5, [], ["key-EdDSA"], {}, {"kid": "key-EdDSA"}):
        yield f"kid {json.dumps(value)}", bearer(by.token(by.header(kid=value)))
    if by.algorithm == "HS256":
        return  # the secret has no id: a string is ignored
    texts = {
        "empty": "",
        "in capitals": "KEY-EDDSA",
        "with a space": "key-EdDSA ",
        "with a newline": "key-EdDSA\n",
        "with NUL": "key-EdDSA\0",
        "with a lone surrogate": "key-\ud800",
        "of another algorithm's key": "key-RS256",
        "a path": "../../../../../../dev/null",
        "an absolute path": "/dev/null",
        "a Windows path": "..\\..\\windows\\win.ini",
        "a file's URL": "file:///dev/null",
        "the canary": canary,
        "SQL": "' OR '1'='1",
        "SQL that selects": "x' UNION SELECT 'c2VjcmV0' --",
        "a shell's": "$(curl " + canary + ")",
        "a template": "{{7*7}}${7*7}",
        "a header": "x\r\nX-Admin: 1",
        "4,000 letters": "k" * 4000,
        "many code points": "🗝" * 500,
        "__proto__": "__proto__",
        "a wildcard": "*",
    }
    for name, text in texts.items():
        yield f"kid {name}", bearer(by.token(by.header(kid=text)))
    yield "no kid", bearer(by.token(by.header(kid=...)))


def _types(by: Signer, canary: str) -> Named:
    texts = [
        "",
        "JWT ",
        "JWS",
        "JWE",
        "JOSE",
        "JOSE+JSON",
        "application/",
        "application/application/jwt",
        "id_token+jwt",
    ]
    texts += ["dpop+jwt", "logout+jwt", "secevent+jwt", "better-auth.session-cache+jwt", "JWT\0", "JWT,at+jwt"]
    values: list[Any] = [*texts, None, True, 1, [], ["JWT"], {}]
    for value in values:
        yield f"typ {json.dumps(value)}", bearer(by.token(by.header(typ=value)))
    yield (
        "a session cookie of Better Auth",
        bearer(
            by.token(
                by.header(typ="better-auth.session-cache+jwt"),
                claims(aud="better-auth:session-cache", session={"token": "x"}, user={"id": "user-1"}, version="1"),
            )
        ),
    )
    yield (
        "a session cookie of Better Auth that names no type",
        bearer(by.token(payload=claims(aud="better-auth:session-cache"))),
    )


def _signatures(by: Signer, canary: str) -> Named:
    signed, _, _ = by.token().rpartition(".")
    good = by.sign(signed.encode())
    changed = {
        "cut by a byte": good[:-1],
        "without its first byte": good[1:],
        "a byte longer": good + b"\0",
        "twice": good + good,
        "zeros": bytes(len(good)),
        "backwards": good[::-1],
        "one byte": b"\1",
        "1 KB": good * 16,
        "its hash": hashlib.sha256(good).digest(),
    }
    changed |= {f"bit {bit} flipped": _flip(good, bit) for bit in (0, 7, 100, 200, 255)}
    for name, signature in changed.items():
        yield f"signature {name}", bearer(f"{signed}.{encode(signature)}")
    header, payload = signed.split(".")
    yield "another user's claims", bearer(f"{header}.{encode_json(claims(sub='admin'))}.{encode(good)}")
    yield "another header", bearer(f"{encode_json(by.header(typ='JWT'))}.{payload}.{encode(good)}")
    for other in (
        secret_signer(""),
        secret_signer("secret"),
        secret_signer(SECRET.upper()),
        secret_signer(SECRET[:-1]),
    ):
        yield f"signed with {other.key!r}", bearer(other.token(by.header()))
    for algorithm in PUBLIC_KEY_ALGORITHMS:
        stranger = signer(algorithm, "stranger")
        yield f"signed by a stranger's {algorithm}", bearer(stranger.token())
        yield f"signed by a stranger's {algorithm} under a good id", bearer(stranger.token(signer(algorithm).header()))
        good_signer = signer(algorithm)
        public = secret_signer(good_signer.pem())
        yield f"the {algorithm} key as the secret", bearer(public.token(public.header(kid=good_signer.key_id)))
        if algorithm != by.algorithm:
            yield f"signed by {algorithm}, said to be {by.algorithm}", bearer(good_signer.token(by.header()))
    if by.algorithm == "EdDSA":
        for algorithm, size in (("ES256", 64), ("ES512", 132)):
            header = encode_json(signer(algorithm).header())
            yield f"{algorithm} of r = s = 0", bearer(f"{header}.{payload}.{encode(bytes(size))}")


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _alphabet(by: Signer, canary: str) -> Named:
    # Each segment in turn has something in it that a lenient decoder drops or takes for something else.
    segments = by.token().split(".")
    insertions = {
        "padding": "=",
        "padding for two": "==",
        "a space": " ",
        "a newline": "\n",
        "a carriage return": "\r\n",
        "a tab": "\t",
        "NUL": "\0",
        "a star": "*",
        "a percent escape": "%41",
        "a letter with an accent": "é",
        "a byte order mark": "\xef\xbb\xbf",
        "a no-break space": "\xa0",
    }
    for index, which in enumerate(("header", "payload", "signature")):
        for name, text in insertions.items():
            for place, at in (("in", 3), ("after", len(segments[index]))):
                if which == "signature" and place == "after" and text == " ":
                    continue  # white space around the value belongs to HTTP
                changed = segments[index][:at] + text + segments[index][at:]
                yield (
                    f"{name} {place} the {which}",
                    bearer(".".join([*segments[:index], changed, *segments[index + 1 :]])),
                )
    # A sub that needs both characters in which base64url differs from base64. Signed as it is sent.
    payload = json.dumps(claims(sub="x"), separators=(",", ":")).replace('"x"', '"??>>~~??>>~~ÿÿ"')
    other = encode(payload).replace("-", "+").replace("_", "/")
    assert {"+", "/"} & set(other)
    yield "base64 instead of base64url, signed", bearer(by.token_of(encode_json(by.header()), other))
    for name, text in {"padded": "{}", "with trailing bits": "{}"}.items():
        claim = next(candidate for extra in range(3) if len(candidate := encode_json(claims(x="y" * extra))) % 4 == 2)
        changed = claim + "==" if name == "padded" else claim[:-1] + _next_letter(claim[-1])
        yield f"payload {name}, signed{text[2:]}", bearer(by.token_of(encode_json(by.header()), changed))
    signature = segments[2]
    yield (
        "signature with trailing bits",
        bearer(".".join([*segments[:2], signature[:-1] + _next_letter(signature[-1])])),
    )


def _next_letter(letter: str) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return letters[letters.index(letter) + 1]  # a canonical last letter stands for bits that end in zeros


def _segments(by: Signer, canary: str) -> Named:
    header, payload, signature = by.token().split(".")
    shapes = {
        "a word": "token",
        "a dot": ".",
        "two dots": "..",
        "three dots": "...",
        "a thousand dots": "." * 1000,
        "one segment": header,
        "two segments": f"{header}.{payload}",
        "four segments": f"{header}.{payload}.{signature}.{signature}",
        "no header": f".{payload}.{signature}",
        "no payload": f"{header}..{signature}",
        "a dot before": f".{header}.{payload}.{signature}",
        "a dot after": f"{header}.{payload}.{signature}.",
        "swapped": f"{payload}.{header}.{signature}",
        "other separators": f"{header}~{payload}~{signature}",
        "twice": f"{header}.{payload}.{signature}" * 2,
        "an encrypted token": ".".join(
            [encode_json({"alg": "dir", "enc": "A256GCM"}), "", encode("iv" * 6), encode("text"), encode("tag" * 5)]
        ),
        "an encrypted token with a key": ".".join(
            [encode_json({"alg": "RSA-OAEP", "enc": "A256GCM"}), *(encode("x" * 20) for _ in range(4))]
        ),
        "a compressed bomb": ".".join(
            [encode_json({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}), "", *(encode("x" * 900) for _ in range(3))]
        ),
        "JWS as JSON": json.dumps({"payload": payload, "protected": header, "signature": signature}),
        "JWS as general JSON": json.dumps(
            {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
        ),
        "an opaque session token": "LH9tSuNywlgRNCtPF8WzdrPCE3xOxkM5.KJLh/Lf7KVgCA03nWHJ1cJV7LcG+kywPTsVJlcT0D+8=",
        "an SD-JWT": f"{header}.{payload}.{signature}~{encode_json(['salt', 'sub', 'admin'])}~",
        "PASETO": f"v4.public.{payload}{signature}",
    }
    for name, text in shapes.items():
        yield name, bearer(text)
    yield "a token in a token", bearer(by.token_of(encode_json(by.header(cty="JWT")), encode(by.token())))


_OBJECTS: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda good: "",
    "white space": lambda good: "   ",
    "null": lambda good: "null",
    "true": lambda good: "true",
    "a number": lambda good: "1",
    "a string": json.dumps,
    "an array": lambda good: f"[{good}]",
    "an empty object": lambda good: "{}",
    "no JSON": lambda good: "alg: HS256",
    "cut": lambda good: good[:-1],
    "with more behind": lambda good: good + "x",
    "two objects": lambda good: good + good,
    "with a trailing comma": lambda good: good[:-1] + ",}",
    "with a comment": lambda good: "/* */" + good,
    "in single quotes": lambda good: good.replace('"', "'"),
    "in UTF-16": lambda good: good.encode("utf-16"),
    "in UTF-16 without a mark": lambda good: good.encode("utf-16-le"),
    "in UTF-32": lambda good: good.encode("utf-32"),
    "with a byte order mark": lambda good: b"\xef\xbb\xbf" + good.encode(),
    "not UTF-8": lambda good: good[:-1].encode() + b',"x":"\xff"}',
    "overlong UTF-8": lambda good: good[:-1].encode() + b',"x":"\xc0\xaf"}',
    "a surrogate in UTF-8": lambda good: good[:-1].encode() + b',"x":"\xed\xa0\x80"}',
    "with a raw newline in a string": lambda good: good[:-1] + ',"x":"\n"}',
    "with NaN": lambda good: good[:-1] + ',"x":NaN}',
    "with Infinity": lambda good: good[:-1] + ',"x":-Infinity}',
    "with a name twice": lambda good: good[:-1] + ',"x":1,"x":1}',
    "with a name twice, deep inside": lambda good: good[:-1] + ',"x":[{"y":{"z":1,"z":2}}]}',
    "with a number of 5,000 digits": lambda good: good[:-1] + ',"x":' + "9" * 5000 + "}",
    "nested 1,500 deep": lambda good: good[:-1] + ',"x":' + "[" * 1500 + "]" * 1500 + "}",
    "nested 1,000 deep in objects": lambda good: good[:-1] + ',"x":' + '{"":' * 1000 + "1" + "}" * 1000 + "}",
    "nested 100,000 deep": lambda good: good[:-1] + ',"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "100,000 brackets": lambda good: "[" * 100_000,
    "4,000 brackets": lambda good: "[" * 4000,
}


def _json(by: Signer, canary: str) -> Named:
    header, payload = (json.dumps(value, separators=(",", ":")) for value in (by.header(), claims()))
    for name, change in _OBJECTS.items():
        # How deep JSON may nest differs between Pythons; where it may, it is the signature that is wrong.
        signer_of_it = secret_signer("a stranger's") if name.startswith("nested") else by
        yield f"header {name}", bearer(signer_of_it.token_of(encode(change(header)), encode(payload)))
        yield f"payload {name}", bearer(signer_of_it.token_of(encode(header), encode(change(payload))))
    for name in ("alg", "typ"):
        twice = f'{{"{name}":"JWT","{name}":"{by.algorithm}",{header[1:]}'
        yield f"{name} twice", bearer(by.token_of(encode(twice), encode(payload)))
    for name, value in claims().items():
        for spelled in (name, f"\\u{ord(name[0]):04x}{name[1:]}"):
            rest = json.dumps(claims(**{name: ...}), separators=(",", ":"))
            pairs = {"the same": (value, value), "a bad one first": ("x", value), "a bad one last": (value, [])}
            for label, (first, second) in pairs.items():
                twice = f'{{"{name}":{json.dumps(first)},"{spelled}":{json.dumps(second)},{rest[1:]}'
                yield f"{name} and {spelled}, {label}", bearer(by.token_of(encode(header), encode(twice)))


def _subjects(by: Signer, canary: str) -> Named:
    values = [None, True, False, 0, 1, 1.5, [], ["user-1"], {}, {"id": "user-1"}, "", "\0", "user-1\0", "\0user-1"]
    for value in values:
        yield f"sub {json.dumps(value)}", bearer(by.token(payload=claims(sub=value)))
    for name, text in {
        "256 characters": "x" * 256,
        "256 characters of 4 bytes": "🙂" * 256,
        "5,000 characters": "x" * 5000,
        "a high surrogate": "user-\ud800",
        "a low surrogate": "\udfffuser",
        "surrogates the wrong way round": "\udc00\ud800",
    }.items():
        yield f"sub of {name}", bearer(by.token(payload=claims(sub=text)))
    yield "no sub", bearer(by.token(payload=claims(sub=...)))
    yield (
        "no sub, but the ids of others' recipes",
        bearer(
            by.token(payload=claims(sub=..., id="user-1", user_id="user-1", userId="user-1", email="a@example.com"))
        ),
    )


def _issuers(by: Signer, canary: str) -> Named:
    texts = ["", "https://evil.example.com", f"{ORIGIN}/", f"{ORIGIN}/api/auth", ORIGIN.upper(), f"{ORIGIN}.evil.com"]
    texts += [
        f"{ORIGIN}:443",
        f" {ORIGIN}",
        f"{ORIGIN}\0",
        ORIGIN.replace("https", "http"),
        ORIGIN[8:],
        f"{ORIGIN}@evil.com",
    ]
    values: list[Any] = [*texts, None, True, 0, [ORIGIN], {ORIGIN: True}]
    for value in values:
        yield f"iss {json.dumps(value)}", bearer(by.token(payload=claims(iss=value)))
    yield "no iss", bearer(by.token(payload=claims(iss=...)))


def _audiences(by: Signer, canary: str) -> Named:
    texts = [
        "",
        "https://evil.example.com",
        f"{ORIGIN}/",
        f"{ORIGIN}/api",
        ORIGIN.upper(),
        ORIGIN[:-1],
        "*",
        f"{ORIGIN} x",
    ]
    values: list[Any] = [
        *texts,
        None,
        True,
        0,
        [],
        [[ORIGIN]],
        ["x", "y"],
        [ORIGIN, None],
        [ORIGIN, 1],
        [{"a": ORIGIN}],
    ]
    values += [{ORIGIN: True}, [f"{ORIGIN},x"], f"{ORIGIN},{ORIGIN}"]
    for value in values:
        yield f"aud {json.dumps(value)}", bearer(by.token(payload=claims(aud=value)))
    yield "no aud", bearer(by.token(payload=claims(aud=...)))


def _times(by: Signer, canary: str) -> Named:
    now = time.time()
    raw = ["null", "true", "false", '""', '"9e9"', '"4102444800"', '"2999-01-01T00:00:00Z"', "[]", "[9e9]", "{}", "NaN"]
    raw += ["Infinity", "-Infinity", "1e400", "-1e400", "1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 5000]
    for name in ("exp", "nbf", "iat"):
        rest = json.dumps(claims(**{name: ...}), separators=(",", ":"))
        for text in raw:
            payload = f'{{"{name}":{text},{rest[1:]}'
            yield (
                f"{name} {text[:24]}, {len(text)} long",
                bearer(by.token_of(encode_json(by.header()), encode(payload))),
            )
    yield "no exp", bearer(by.token(payload=claims(exp=...)))
    for name in ("nbf", "iat"):
        for ahead in (45, 3600, 1e9, 1e300):
            yield f"{name} in {ahead:g} s", bearer(by.token(payload=claims(**{name: now + ahead})))
    past = {"0": 0, "-0.0": -0.0, "-1": -1, "-1e300": -1e300, "of 300 digits before 0": -(10**300), "1e-320": 1e-320}
    past |= {"31 s ago": now - 31, "32 whole s ago": int(now) - 32, "an hour ago": now - 3600}
    for name, value in past.items():
        yield f"expired {name}", bearer(by.token(payload=claims(exp=value, iat=0)), "token_expired")
    # What is wrong besides counts for more: nobody learns from "expired" that the rest was right.
    yield "expired, and for another audience", bearer(by.token(payload=claims(exp=1, aud="x")))
    yield "expired, and with another signature", bearer(f"{by.token(payload=claims(exp=1)).rpartition('.')[0]}.AAAA")


def _strangers(by: Signer, canary: str) -> Named:
    """What other parts of Better Auth, and other issuers, sign with the same keys."""
    now = int(time.time())
    yield (
        "an e-mail verification of Better Auth",
        bearer(by.token(payload={"email": "a@example.com", "iat": now, "exp": now + 900})),
    )
    yield (
        "a cookie cache of Better Auth",
        bearer(
            by.token(payload={"session": {"userId": "user-1"}, "user": {"id": "user-1"}, "iat": now, "exp": now + 300})
        ),
    )
    yield (
        "an OAuth access token for another API",
        bearer(by.token(by.header(typ="at+jwt"), claims(aud="https://api.example.com"))),
    )
    yield "an id token for a client", bearer(by.token(payload=claims(aud="client-1", azp="client-1", nonce="n")))
    yield (
        "another instance of Better Auth",
        bearer(by.token(payload=claims(iss="http://localhost:3000", aud="http://localhost:3000"))),
    )


def _sizes(by: Signer, canary: str) -> Named:
    for name, size in (("a character too long", LIMIT + 1), ("64 KB long", 65_536), ("1 MB long", 1_048_576)):
        token = padded(by, size)
        assert len(token) >= size
        yield f"a good token, {name}", bearer(token)
        yield f"letters, {name}", bearer("a" * size)
        yield f"a header, {name}", bearer(f"{'a' * (size - 4)}.a.a")
        yield f"a signature, {name}", bearer(f"a.a.{'a' * (size - 4)}")


def padded(by: Signer, size: int) -> str:
    """A good token of this length, or one or two characters more: base64url has no groups of one."""
    length = len(by.token(payload=claims(pad="")))
    extra = (size - length) * 3 // 4
    while len(token := by.token(payload=claims(pad="x" * max(extra, 0)))) < size:
        extra += 1
    return token


def _schemes(by: Signer, canary: str) -> Named:
    token = by.token().encode()
    missing: dict[str, bytes] = {
        "nothing": b"",
        "a space": b" ",
        "the scheme alone": b"Bearer",
        "the scheme and a space": b"Bearer ",
        "the scheme and spaces": b"Bearer      ",
        "the scheme and a tab": b"Bearer \t",
        "the token alone": token,
        "Basic": b"Basic dXNlcjpwYXNz",
        "the token as Basic": b"Basic " + token,
        "Digest": b'Digest username="user-1"',
        "Negotiate": b"Negotiate YII=",
        "Token": b"Token " + token,
        "JWT": b"JWT " + token,
        "DPoP": b"DPoP " + token,
        "Bearer in two words": b"Bear er " + token,
        "Bearers": b"Bearers " + token,
        "a colon": b"Bearer:" + token,
        "an equals sign": b"Bearer=" + token,
        "no space": b"Bearer" + token,
        "a tab between": b"Bearer\t" + token,
        "a no-break space between": b"Bearer\xa0" + token,
        "a newline between": b"Bearer\n" + token,
        "a space before": b" Bearer " + token,
        "NUL before": b"\0Bearer " + token,
        "an accent in the scheme": "Béarer ".encode() + token,
        "1 MB of a scheme": b"B" * 1_048_576,
    }
    for name, value in missing.items():
        yield f"header: {name}", Attack((value,), "token_missing")
    yield "header: none", Attack((), "token_missing")
    invalid: dict[str, bytes] = {
        "a comma after": b"Bearer " + token + b",",
        "a list": b"Bearer " + token + b", Bearer " + token,
        "a list of schemes": b"Bearer " + token + b", Basic dXNlcjpwYXNz",
        "Bearer twice": b"Bearer Bearer " + token,
        "the token twice": b"Bearer " + token + b" " + token,
        "a name": b"Bearer token=" + token,
        "quotes": b'Bearer "' + token + b'"',
        "angle brackets": b"Bearer <" + token + b">",
        "a semicolon": b"Bearer " + token + b"; charset=utf-8",
        "a tab after": b"Bearer " + token + b"\t",
        "a tab before": b"Bearer \t" + token,
        "a newline after": b"Bearer " + token + b"\n",
        "another header behind": b"Bearer " + token + b"\r\nX-User: admin",
        "NUL after": b"Bearer " + token + b"\0",
        "NUL": b"Bearer \0",
        "bytes that are no UTF-8": b"Bearer \xff\xfe\xfd",
        "UTF-8": "Bearer ключ.ключ.ключ".encode(),
        "full-width letters": "Bearer \uff41.\uff42.\uff43".encode(),
        "a word": b"Bearer null",
        "undefined": b"Bearer undefined",
        "[object Object]": b"Bearer [object Object]",
        "SQL": b"Bearer ' OR 1=1 --",
        "a URL": b"Bearer " + canary.encode(),
        "escapes": b"Bearer " + token.replace(b".", b"%2E"),
    }
    for name, value in invalid.items():
        yield f"header: {name}", Attack((value,))
    good, basic = b"Bearer " + token, b"Basic dXNlcjpwYXNz"
    several: dict[str, tuple[bytes, ...]] = {
        "a good one twice": (good, good),
        "good, then bad": (good, b"Bearer x"),
        "bad, then good": (b"Bearer x", good),
        "good, then empty": (good, b""),
        "empty, then good": (b"", good),
        "Basic, then good": (basic, good),
        "good, then Basic": (good, basic),
        "100 good ones": (good,) * 100,
    }
    for name, values in several.items():
        yield f"headers: {name}", Attack(values)
