"""The issuer's keys: when they are fetched, how often, and what happens when they cannot be."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from backend.auth import jwks as module
from backend.auth.jwks import FETCH_TIMEOUT, JWKS, MAX_BYTES, REFETCH_INTERVAL, REFRESH_AFTER, RETRY_INTERVAL
from backend.auth.tokens import TokenVerifier, mint
from backend.errors import IssuerUnavailable, TokenInvalid
from backend.main import create_app
from tests.auth.issuer import (
    JWKS_PATH,
    PUBLIC_KEY_ALGORITHMS,
    Clock,
    Issuer,
    Signer,
    claims,
    response,
    running_issuer,
    secret_signer,
    signer,
)
from tests.neon import certificate_of_localhost
from tests.network import free_port
from tests.settings import SECRET, make_settings

OLD, NEW, STRANGER = signer("EdDSA"), signer("EdDSA", "new"), signer("EdDSA", "stranger")

UNUSABLE: dict[str, bytes] = {
    "500": response(b"", "500 Internal Server Error"),
    "404": response(json.dumps({"keys": [NEW.jwk()]}).encode(), "404 Not Found"),
    "201": response(json.dumps({"keys": [NEW.jwk()]}).encode(), "201 Created"),
    "204": response(b"", "204 No Content"),
    "hangs up": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "shorter than announced": response(b"{}").replace(b"Content-Length: 2", b"Content-Length: 200"),
    "nothing": response(b""),
    "a page": response(b"<!doctype html><title>Sign in</title>"),
    "no UTF-8": response(b'{"keys": ["\xff"]}'),
    "an empty object": response(b"{}"),
    "null": response(b"null"),
    "an array": response(json.dumps([NEW.jwk()]).encode()),
    "null for keys": response(b'{"keys": null}'),
    "an object for keys": response(b'{"keys": {}}'),
    "a string for keys": response(b'{"keys": "none"}'),
    "nested too deep": response(b'{"keys":' + b"[" * 60_000),
    "too large": response(json.dumps({"keys": [NEW.jwk()], "pad": "x" * MAX_BYTES}).encode()),
    "too large, of unknown length": response(
        json.dumps({"keys": [NEW.jwk()], "pad": "x" * MAX_BYTES}).encode(), with_length=False
    ),
    "endless": response(b"x" * 50_000_000, with_length=False),
    "compressed": response(b"\x1f\x8b\x08\x00", "200 OK", "Content-Encoding: gzip"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def verifier(issuer: Issuer, clock: Clock) -> TokenVerifier:
    return verifier_of(issuer, clock)


def verifier_of(issuer: Issuer, clock: Clock, **changes: Any) -> TokenVerifier:
    settings = make_settings("sqlite+aiosqlite://", better_auth_url=issuer.origin, **changes)
    verifier = TokenVerifier(settings)
    assert verifier.jwks is not None
    verifier.jwks._clock = clock
    return verifier


def token(issuer: Issuer, by: Signer, **header: Any) -> str:
    return by.token(by.header(**header), claims(iss=issuer.origin, aud=issuer.origin))


async def accepts(verifier: TokenVerifier, token: str) -> bool:
    try:
        return (await verifier.verify(token)).user_id == "user-1"
    except TokenInvalid:
        return False


async def settled(verifier: TokenVerifier) -> None:
    """Wait for the fetch that is under way in the background."""
    assert verifier.jwks is not None
    assert verifier.jwks._fetch is not None
    await verifier.jwks._fetch


async def test_the_limits_are_those_of_the_contract():
    assert (FETCH_TIMEOUT, MAX_BYTES, REFETCH_INTERVAL, REFRESH_AFTER, RETRY_INTERVAL) == (3, 64 * 1024, 30, 600, 1)


async def test_metrics_show_fetches_their_failures_the_keys_age_and_what_was_not_verified_again(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert verifier.state() == {"token_cache_hits_total": 0, "key_fetches_total": 0, "key_fetch_failures_total": 0}
    kept = token(issuer, OLD)  # one: another, made a second later, would not be the same
    for _ in range(3):
        assert await accepts(verifier, kept)
    issuer.response = UNUSABLE["500"]
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, kept)
    await settled(verifier)
    assert verifier.state() == {
        "token_cache_hits_total": 3,
        "key_fetches_total": 2,
        "key_fetch_failures_total": 1,
        "keys_age_seconds": REFRESH_AFTER,
    }


# --- when the keys are fetched


async def test_nothing_is_fetched_before_a_token_needs_a_key(issuer: Issuer, verifier: TokenVerifier):
    for hostile in (
        "",
        "x.y.z",
        token(issuer, OLD, jku=issuer.origin),
        token(issuer, OLD, kid=...),
        token(issuer, OLD, alg="none"),
    ):
        assert not await accepts(verifier, hostile)
    assert issuer.fetches == 0


async def test_the_first_token_has_the_keys_fetched_and_they_are_kept(issuer: Issuer, verifier: TokenVerifier):
    for _ in range(3):
        assert await accepts(verifier, token(issuer, OLD))
    assert issuer.paths == [JWKS_PATH]


async def test_the_first_token_of_a_new_key_succeeds_with_one_fetch(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.publish(NEW.jwk(), OLD.jwk())
    assert await accepts(verifier, token(issuer, NEW))  # at once: the first fetch does not count against the 30 s
    assert issuer.fetches == 2
    assert await accepts(verifier, token(issuer, OLD))
    assert issuer.fetches == 2


async def test_unknown_key_ids_cause_at_most_one_fetch_in_30_seconds(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    flood = [token(issuer, STRANGER, kid=f"stranger-{n}") for n in range(1000)]
    for number, hostile in enumerate(flood):
        assert not await accepts(verifier, hostile)
        clock.advance(REFETCH_INTERVAL / len(flood) if number else 0)
    assert issuer.fetches == 2
    assert not await accepts(verifier, flood[0])
    assert issuer.fetches == 2
    clock.advance(0.1)  # the 30 s are over
    assert not await accepts(verifier, flood[0])
    assert issuer.fetches == 3


async def test_a_flood_at_once_causes_one_fetch(issuer: Issuer, verifier: TokenVerifier):
    assert await accepts(verifier, token(issuer, OLD))
    flood = (token(issuer, STRANGER, kid=f"stranger-{n}") for n in range(200))
    assert not any(await asyncio.gather(*(accepts(verifier, hostile) for hostile in flood)))
    assert issuer.fetches == 2


async def test_a_rotated_key_is_refused_for_at_most_30_seconds_where_strangers_spent_the_budget(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    assert not await accepts(verifier, token(issuer, STRANGER))
    issuer.publish(NEW.jwk(), OLD.jwk())
    assert not await accepts(verifier, token(issuer, NEW))
    assert await accepts(verifier, token(issuer, OLD))
    clock.advance(REFETCH_INTERVAL)
    assert await accepts(verifier, token(issuer, NEW))
    assert issuer.fetches == 3


async def test_a_known_key_id_with_another_algorithm_is_unknown(issuer: Issuer, verifier: TokenVerifier):
    assert await accepts(verifier, token(issuer, OLD))
    for _ in range(10):
        assert not await accepts(verifier, token(issuer, OLD, alg="ES256"))
    assert issuer.fetches == 2


async def test_a_hundred_requests_share_the_first_fetch(issuer: Issuer, verifier: TokenVerifier):
    issuer.gate.clear()
    waiting = [asyncio.create_task(accepts(verifier, token(issuer, OLD))) for _ in range(100)]
    await issuer.arrived(1)
    waiting += [asyncio.create_task(accepts(verifier, token(issuer, OLD)))]  # one more, while it is under way
    issuer.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert issuer.fetches == 1


async def test_a_hundred_requests_share_a_failure(issuer: Issuer, verifier: TokenVerifier):
    issuer.gate.clear()
    issuer.response = UNUSABLE["500"]
    waiting = [asyncio.create_task(verifier.verify(token(issuer, OLD))) for _ in range(100)]
    await issuer.arrived(1)
    issuer.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {IssuerUnavailable}
    assert issuer.fetches == 1


async def test_a_new_keys_token_shares_the_fetch_that_a_stranger_has_caused(issuer: Issuer, verifier: TokenVerifier):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.publish(NEW.jwk(), OLD.jwk())
    issuer.gate.clear()
    stranger = asyncio.create_task(accepts(verifier, token(issuer, STRANGER)))
    await issuer.arrived(2)
    new = asyncio.create_task(accepts(verifier, token(issuer, NEW)))
    await asyncio.wait([new], timeout=0)
    issuer.gate.set()
    assert await new
    assert not await stranger
    assert issuer.fetches == 2


async def test_a_stranger_who_shares_a_refresh_does_not_spend_the_budget(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.gate.clear()
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, token(issuer, OLD))
    await issuer.arrived(2)
    stranger = asyncio.create_task(accepts(verifier, token(issuer, STRANGER)))
    await asyncio.wait([stranger], timeout=0)
    issuer.gate.set()
    assert not await stranger
    assert issuer.fetches == 2
    issuer.publish(NEW.jwk(), OLD.jwk())
    assert await accepts(verifier, token(issuer, NEW))
    assert issuer.fetches == 3


async def test_a_request_that_goes_away_leaves_the_fetch_to_the_others(issuer: Issuer, verifier: TokenVerifier):
    issuer.gate.clear()
    first, second = (asyncio.create_task(accepts(verifier, token(issuer, OLD))) for _ in range(2))
    await issuer.arrived(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.gate.set()
    assert await second
    assert issuer.fetches == 1


async def test_a_fetch_whose_only_request_goes_away_still_brings_the_keys(issuer: Issuer, verifier: TokenVerifier):
    issuer.gate.clear()
    only = asyncio.create_task(accepts(verifier, token(issuer, OLD)))
    await issuer.arrived(1)
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    issuer.gate.set()
    await settled(verifier)
    assert await accepts(verifier, token(issuer, OLD))
    assert issuer.fetches == 1


# --- what a new document does


async def test_a_new_document_replaces_the_old_one(issuer: Issuer, verifier: TokenVerifier):
    kept = token(issuer, OLD)
    assert await accepts(verifier, kept)
    issuer.publish(NEW.jwk())
    assert await accepts(verifier, token(issuer, NEW))
    assert not await accepts(verifier, kept)
    assert not await accepts(verifier, token(issuer, OLD))


async def test_a_key_of_the_same_id_is_replaced(issuer: Issuer, verifier: TokenVerifier, clock: Clock):
    kept = token(issuer, OLD)
    assert await accepts(verifier, kept)
    issuer.publish(NEW.jwk(kid=OLD.key_id))
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, kept)
    await settled(verifier)
    assert not await accepts(verifier, kept)
    assert await accepts(verifier, token(issuer, NEW, kid=OLD.key_id))


async def test_after_10_minutes_the_keys_are_refreshed_while_the_old_ones_serve(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    clock.advance(REFRESH_AFTER - 0.1)
    assert await accepts(verifier, token(issuer, OLD))
    assert issuer.fetches == 1
    issuer.publish(NEW.jwk())
    issuer.gate.clear()
    clock.advance(0.1)
    assert await accepts(verifier, token(issuer, OLD))  # though the issuer has not responded yet
    await issuer.arrived(2)
    assert await accepts(verifier, token(issuer, OLD))
    issuer.gate.set()
    await settled(verifier)
    assert issuer.fetches == 2
    assert not await accepts(verifier, token(issuer, OLD))
    assert await accepts(verifier, token(issuer, NEW))


async def test_a_refresh_in_the_background_does_not_spend_the_budget_of_unknown_key_ids(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, token(issuer, OLD))
    await settled(verifier)
    issuer.publish(OLD.jwk(), NEW.jwk())
    assert await accepts(verifier, token(issuer, NEW))
    assert issuer.fetches == 3


@pytest.mark.parametrize("sent", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_refresh_that_fails_keeps_what_is_known(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock, sent: bytes
):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.response = sent
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, token(issuer, OLD))
    await settled(verifier)
    assert await accepts(verifier, token(issuer, OLD))
    assert issuer.fetches == 2  # the next refresh is due in 10 minutes


async def test_known_keys_outlive_a_day_without_the_issuer(issuer: Issuer, verifier: TokenVerifier, clock: Clock):
    assert await accepts(verifier, token(issuer, OLD))
    await issuer.down()
    for _ in range(24 * 6):
        clock.advance(REFRESH_AFTER)
        assert await accepts(verifier, token(issuer, OLD))
        await settled(verifier)
    await issuer.up()
    issuer.publish(NEW.jwk())
    assert await accepts(verifier, token(issuer, NEW))


# --- an issuer in trouble


@pytest.mark.parametrize("sent", UNUSABLE.values(), ids=UNUSABLE)
async def test_without_any_key_the_issuer_is_at_fault_not_the_token(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock, sent: bytes
):
    issuer.response = sent
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(issuer, OLD))
    assert issuer.fetches == 1
    clock.advance(RETRY_INTERVAL)
    issuer.publish(OLD.jwk())
    assert await accepts(verifier, token(issuer, OLD))  # the first fetch that succeeds is the first


async def test_an_issuer_that_refuses_connections_is_unavailable_until_it_is_up(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    await issuer.down()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(issuer, OLD))
    await issuer.up()
    clock.advance(RETRY_INTERVAL)
    assert await accepts(verifier, token(issuer, OLD))


async def test_an_issuer_that_does_not_respond_is_given_up(
    issuer: Issuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.05)
    issuer.gate.clear()
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(issuer, OLD))
    assert issuer.fetches == 1


async def test_an_issuer_that_responds_a_byte_at_a_time_is_given_up(monkeypatch: pytest.MonkeyPatch):
    hung_up = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.create_task(reader.read())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not gone.done():  # each byte well within any limit on the time between two
            writer.write(b" ")
            await asyncio.wait([gone], timeout=0.001)
        gone.exception()
        writer.close()
        hung_up.set()

    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.1)
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        keys = JWKS(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with pytest.raises(IssuerUnavailable):
            await keys.fetch()
        await hung_up.wait()


async def test_an_issuer_that_is_down_is_asked_once_a_second(issuer: Issuer, verifier: TokenVerifier, clock: Clock):
    issuer.response = response(b"", "503 Service Unavailable")
    for _ in range(50):
        with pytest.raises(IssuerUnavailable, match="status 503"):
            await verifier.verify(token(issuer, OLD))
    assert issuer.fetches == 1
    clock.advance(RETRY_INTERVAL)
    issuer.publish(OLD.jwk())
    assert await accepts(verifier, token(issuer, OLD))


async def why_it_failed(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """What the log says of a fetch; whoever needs the keys is told the same."""
    with pytest.raises(IssuerUnavailable) as failure:
        await JWKS(url).fetch()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "backend.auth.jwks"]
    address, _, reason = str(failure.value).removeprefix("the keys cannot be fetched from ").partition(": ")
    assert address == url
    assert line == f"the issuer's keys cannot be fetched from {url}: {reason}"
    return reason


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (response(b"", "302 Found", "Location: /sign-in"), "it redirects to /sign-in"),
        (response(b"", "404 Not Found"), "status 404"),
        (response(b"<html>"), "what it sends is no JSON key set"),
        (response(b" " * 70_000), "more than 65536 bytes"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what it sends is no HTTP"),
    ],
)
async def test_a_useless_response_is_named(sent: bytes, reason: str, issuer: Issuer, caplog: pytest.LogCaptureFixture):
    issuer.response = sent
    assert await why_it_failed(issuer.origin, caplog) == reason


async def test_why_there_is_no_response_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    port = free_port()
    assert await why_it_failed(f"http://127.0.0.1:{port}", caplog) == "Connection refused"
    caplog.clear()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    assert await why_it_failed("http://auth.invalid", caplog) == "Connection refused, through a proxy"
    caplog.clear()
    monkeypatch.delenv("HTTP_PROXY")
    assert "ame" in await why_it_failed("http://auth.invalid", caplog)  # no such name, in the system's words
    caplog.clear()
    with certificate_of_localhost() as (context, _):
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert "certificate verify failed" in await why_it_failed(url, caplog)


async def test_the_fetch_says_who_asks(issuer: Issuer, verifier: TokenVerifier):
    assert verifier.jwks is not None
    await verifier.jwks.fetch()
    assert re.search(r"\r\nUser-Agent: todo-backend/\d", issuer.heads[0])


@pytest.mark.parametrize(
    ("variables", "warns"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}, False),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, True),
        ({"HTTP_PROXY": "ftp://127.0.0.1:9"}, True),
        ({"HTTP_PROXY": "http://127.0.0.1:99999"}, True),
        ({"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,fe80::/10,::1"}, False),
        ({"HTTP_PROXY": "127.0.0.1:9", "NO_PROXY": "10.0.0.0/8, 127.0.0.0/8"}, False),
        ({"HTTP_PROXY": "127.0.0.1:9", "NO_PROXY": "*"}, False),
        ({"HTTP_PROXY": "", "HTTPS_PROXY": "http://127.0.0.1:9"}, False),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_left_out_with_one_warning(
    variables: dict[str, str],
    warns: bool,
    issuer: Issuer,
    verifier: TokenVerifier,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module._warn_of_proxies.cache_clear()
    assert verifier.jwks is not None
    await verifier.jwks.fetch()
    await verifier.jwks.fetch()
    assert [record for record in caplog.records if "PROXY" in record.getMessage()][1:] == []
    assert ("PROXY" in caplog.text) is warns


@pytest.mark.parametrize("no_proxy", ["", "fe80::/10,::1", "other.example.com"])
async def test_the_proxy_of_the_environment_is_asked(no_proxy: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", issuer.origin.removeprefix("http://"))
    monkeypatch.setenv("NO_PROXY", no_proxy)
    keys = JWKS("http://auth.invalid/jwks")
    await keys.fetch()
    assert issuer.paths == ["http://auth.invalid/jwks"]
    assert keys.keys


async def test_redirects_are_not_followed(issuer: Issuer, verifier: TokenVerifier, clock: Clock):
    async with running_issuer(OLD.jwk()) as elsewhere:
        for status in ("301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"):
            issuer.response = response(b"", status, f"Location: {elsewhere.origin}{JWKS_PATH}")
            clock.advance(RETRY_INTERVAL)
            with pytest.raises(IssuerUnavailable):
                await verifier.verify(token(issuer, OLD))
        assert elsewhere.fetches == 0
    assert issuer.fetches == 5


async def test_a_document_of_exactly_the_limit_is_read(issuer: Issuer, verifier: TokenVerifier):
    document = json.dumps({"keys": [OLD.jwk()], "pad": ""}).encode()
    body = document.replace(b'"pad": ""', b'"pad": "' + b"x" * (MAX_BYTES - len(document)) + b'"')
    assert len(body) == MAX_BYTES
    issuer.response = response(body, with_length=False)
    assert await accepts(verifier, token(issuer, OLD))


async def test_an_unknown_key_id_is_the_issuers_fault_while_it_is_down(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock
):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.response = UNUSABLE["500"]
    for _ in range(10):
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token(issuer, NEW))
        assert await accepts(verifier, token(issuer, OLD))
    assert issuer.fetches == 2
    issuer.publish(NEW.jwk())
    clock.advance(REFETCH_INTERVAL)
    assert await accepts(verifier, token(issuer, NEW))
    assert not await accepts(verifier, token(issuer, STRANGER))  # it responds again, so it is the token's fault


@pytest.mark.parametrize(
    "entries",
    [[], [None], [1, "x", [], {}], [{"kty": "oct", "kid": OLD.key_id, "k": "c2VjcmV0"}], [OLD.jwk(kid=...)]],
    ids=["none", "null", "nonsense", "a secret", "no kid"],
)
async def test_a_document_without_a_usable_key_is_the_issuers_fault(
    issuer: Issuer, verifier: TokenVerifier, clock: Clock, entries: list[Any]
):
    issuer.publish(*entries)
    for _ in range(10):
        with pytest.raises(IssuerUnavailable):
            await verifier.verify(token(issuer, OLD))
    assert issuer.fetches == 2
    issuer.publish(OLD.jwk())
    clock.advance(REFETCH_INTERVAL)
    assert await accepts(verifier, token(issuer, OLD))


async def test_an_emptied_document_withdraws_all_keys(issuer: Issuer, verifier: TokenVerifier, clock: Clock):
    assert await accepts(verifier, token(issuer, OLD))
    issuer.publish()
    clock.advance(REFRESH_AFTER)
    assert await accepts(verifier, token(issuer, OLD))
    await settled(verifier)
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(issuer, OLD))


async def test_the_response_is_503_not_401_and_asks_to_come_again(issuer: Issuer):
    await issuer.down()
    settings = make_settings("sqlite+aiosqlite://", better_auth_url=issuer.origin)
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"Authorization": f"Bearer {token(issuer, OLD)}"}
        response = await client.get("/api/tasks", headers=headers)
    assert (response.status_code, response.json()["code"]) == (503, "issuer_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert "WWW-Authenticate" not in response.headers


# --- what is in the document


async def test_keys_of_all_types_serve_side_by_side(issuer: Issuer, verifier: TokenVerifier):
    signers = [signer(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS]
    issuer.publish(*(each.jwk() for each in signers))
    for each in signers:
        assert await accepts(verifier, token(issuer, each))
    assert issuer.fetches == 1


BAD_ENTRIES: dict[str, Any] = {
    "null": None,
    "a string": "key",
    "a list": [OLD.jwk()],
    "an empty object": {},
    "no kty": OLD.jwk(kty=..., kid="bad"),
    "kty of another type": OLD.jwk(kty=["OKP"], kid="bad"),
    "an unknown kty": OLD.jwk(kty="AKP", kid="bad"),
    "an unknown curve": OLD.jwk(crv="Ed448", kid="bad"),
    "a curve of another type": OLD.jwk(crv={"name": "Ed25519"}, kid="bad"),
    "P-384": signer("ES384").jwk(),
    "no x": OLD.jwk(x=..., kid="bad"),
    "x null": OLD.jwk(x=None, kid="bad"),
    "x too short": OLD.jwk(x="AAAA", kid="bad"),
    "x no base64": OLD.jwk(x="é" * 43, kid="bad"),
    "a point beside the curve": signer("ES256").jwk(x="AA" * 21 + "A", kid="bad"),
    "a point of another curve": signer("ES256").jwk(crv="P-521", alg="ES512", kid="bad"),
    "a modulus of 0": signer("RS256").jwk(n="AA", kid="bad"),
    "no modulus": signer("RS256").jwk(n=..., kid="bad"),
    "an exponent of 1": signer("RS256").jwk(e="AQ", kid="bad"),
    "kid null": OLD.jwk(kid=None),
    "kid a number": OLD.jwk(kid=1),
    "kid a list": OLD.jwk(kid=[OLD.key_id]),
    "key_ops a number": OLD.jwk(kid="bad", key_ops=1),
    "nonsense in key_ops": OLD.jwk(kid="bad", key_ops=[None, {}]),
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
async def test_a_bad_key_does_not_keep_a_good_one_from_serving(issuer: Issuer, verifier: TokenVerifier, entry: Any):
    for entries in ([entry, OLD.jwk()], [OLD.jwk(), entry]):
        issuer.publish(*entries)
        assert verifier.jwks is not None
        await verifier.jwks.fetch()
        assert list(verifier.jwks.keys) == [(OLD.key_id, "EdDSA")]
        assert await accepts(verifier, token(issuer, OLD))


UNFIT: dict[str, tuple[Signer, dict[str, Any]]] = {
    "for encryption": (OLD, {"use": "enc"}),
    "use null": (OLD, {"use": None}),
    "for another algorithm": (OLD, {"alg": "ES256"}),
    "for encryption by algorithm": (signer("RS256"), {"alg": "RSA-OAEP"}),
    "for PS256, not RS256": (signer("RS256"), {"alg": "PS256"}),
    "for RS256, not PS256": (signer("PS256"), {"alg": "RS256"}),
    "for RS512": (signer("RS256"), {"alg": "RS512"}),
    "alg null": (OLD, {"alg": None}),
    "alg a list": (OLD, {"alg": ["EdDSA"]}),
    "for signing only": (OLD, {"key_ops": ["sign"]}),
    "for nothing": (OLD, {"key_ops": []}),
    "1024 bits": (signer("RS256", "small", 1024), {}),
    "1024 bits, PS256": (signer("PS256", "small", 1024), {}),
    "2040 bits": (signer("RS256", "smaller", 2040), {}),
    "an id without a key": (OLD, {"kid": "other"}),
    "an id in other letters": (OLD, {"kid": "OLD"}),
}


@pytest.mark.parametrize(("by", "changes"), UNFIT.values(), ids=UNFIT)
async def test_a_key_that_is_not_meant_for_it_verifies_no_token(
    issuer: Issuer, verifier: TokenVerifier, by: Signer, changes: dict[str, Any]
):
    issuer.publish(by.jwk(**changes), NEW.jwk())
    assert not await accepts(verifier, token(issuer, by))
    assert await accepts(verifier, token(issuer, NEW))


FIT: dict[str, tuple[Signer, dict[str, Any]]] = {
    "use sig": (OLD, {"use": "sig"}),
    "no alg": (OLD, {"alg": ...}),
    "no alg, ES512": (signer("ES512"), {"alg": ...}),
    "no alg, RS256": (signer("RS256"), {"alg": ...}),
    "no alg, PS256": (signer("PS256"), {"alg": ...}),
    "to verify": (OLD, {"key_ops": ["verify"]}),
    "to sign and verify": (OLD, {"key_ops": ["sign", "verify"]}),
    "unknown members": (OLD, {"exp": 1, "x5c": ["AAAA"], "nbf": None}),
    "a private member by mistake": (OLD, {"d": "AAAA"}),
    "a private member by mistake, ES256": (signer("ES256"), {"d": "AAAA"}),
    "a private member by mistake, RS256": (signer("RS256"), {"d": "AAAA"}),
    "3072 bits": (signer("RS256", "large", 3072), {}),
    "an empty id": (OLD, {"kid": ""}),
}


@pytest.mark.parametrize(("by", "changes"), FIT.values(), ids=FIT)
async def test_a_key_that_is_meant_for_it_verifies_tokens(
    issuer: Issuer, verifier: TokenVerifier, by: Signer, changes: dict[str, Any]
):
    issuer.publish(by.jwk(**changes))
    assert await accepts(verifier, token(issuer, by, kid=changes.get("kid", by.key_id)))
    assert issuer.fetches == 1


async def test_of_two_keys_with_one_id_and_one_type_the_first_serves(issuer: Issuer, verifier: TokenVerifier):
    issuer.publish(OLD.jwk(kid="same"), NEW.jwk(kid="same"))
    assert await accepts(verifier, token(issuer, OLD, kid="same"))
    assert not await accepts(verifier, token(issuer, NEW, kid="same"))


async def test_keys_with_one_id_and_different_types_all_serve(issuer: Issuer, verifier: TokenVerifier):
    signers = [signer(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS]
    issuer.publish(*(each.jwk(kid="same") for each in signers))
    for each in signers:
        assert await accepts(verifier, token(issuer, each, kid="same"))
        assert not await accepts(verifier, token(issuer, signer(each.algorithm, "stranger"), kid="same"))


# --- where the document is


async def test_a_trailing_slash_on_the_issuers_url_is_ignored(issuer: Issuer, clock: Clock):
    settings = make_settings("sqlite+aiosqlite://", better_auth_url=f"{issuer.origin}/")
    assert await accepts(TokenVerifier(settings), token(issuer, OLD))
    assert issuer.paths == [JWKS_PATH]


async def test_the_issuer_may_live_under_a_path_while_its_tokens_name_its_origin(issuer: Issuer, clock: Clock):
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://", better_auth_url=f"{issuer.origin}/app"))
    assert await accepts(verifier, token(issuer, OLD))
    assert issuer.paths == ["/app/jwks"]


async def test_tokens_may_name_an_issuer_that_the_settings_name(issuer: Issuer, clock: Clock):
    settings = make_settings(
        "sqlite+aiosqlite://", better_auth_url=issuer.origin, better_auth_issuer=("https://a.test/", "https://b.test/x")
    )
    verifier = TokenVerifier(settings)
    for name, good in (
        ("https://a.test/", True),
        ("https://b.test/x", True),
        ("https://a.test", False),
        (issuer.origin, False),
    ):
        made = OLD.token(OLD.header(), claims(iss=name, aud=issuer.origin))
        assert await accepts(verifier, made) is good


@pytest.mark.parametrize(
    ("header", "extra", "good"),
    [
        ({"alg": "Ed25519"}, {}, True),
        ({"typ": "jwt"}, {}, True),
        ({"typ": "application/AT+JWT"}, {}, True),
        ({}, {"cnf": {"jkt": "x"}}, False),
        ({}, {"events": {}}, False),
        ({}, {"exp": 1_900_000_000_000}, False),
    ],
)
async def test_what_a_token_is_and_is_not(
    issuer: Issuer, clock: Clock, header: dict[str, Any], extra: dict[str, Any], good: bool
):
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://", better_auth_url=issuer.origin))
    made = OLD.token(OLD.header(**header), claims(iss=issuer.origin, aud=issuer.origin) | extra)
    assert await accepts(verifier, made) is good


async def test_a_time_in_milliseconds_is_refused_with_that_reason():
    verifier = TokenVerifier(make_settings("sqlite+aiosqlite://"))
    made = secret_signer(SECRET).token(payload=claims(exp=1_900_000_000_000))
    with pytest.raises(TokenInvalid, match="seconds are expected, not milliseconds"):
        await verifier.verify(made)


async def test_the_secret_before_is_accepted_and_makes_nothing():
    old = make_settings("sqlite+aiosqlite://", better_auth_secret="the-secret-before-it-was-replaced-here")
    new = make_settings("sqlite+aiosqlite://", better_auth_previous_secret="the-secret-before-it-was-replaced-here")
    verifier = TokenVerifier(new)
    for settings in (old, new, old):
        assert await accepts(verifier, mint(settings, "user-1", 600))
    assert not await accepts(TokenVerifier(old), mint(new, "user-1", 600))


async def test_keys_may_come_from_elsewhere_as_with_neon_auth(issuer: Issuer):
    url = f"{issuer.origin}/neondb/auth"
    verifier = TokenVerifier(
        make_settings(
            "sqlite+aiosqlite://",
            better_auth_secret=None,
            better_auth_url=url,
            better_auth_jwks_url=f"{url}/.well-known/jwks.json",
        )
    )
    assert await accepts(verifier, token(issuer, OLD))  # iss and aud are the URL's origin
    assert issuer.paths == ["/neondb/auth/.well-known/jwks.json"]
    assert not await accepts(verifier, OLD.token(payload=claims(iss=url, aud=url)))


async def test_nothing_of_a_token_or_a_document_is_logged(
    issuer: Issuer, verifier: TokenVerifier, caplog: pytest.LogCaptureFixture
):
    issuer.publish(OLD.jwk(x="leak-this"), {"kid": "leak-that", "kty": "RSA"}, NEW.jwk())
    assert await accepts(verifier, token(issuer, NEW))
    issuer.response = b"leak-no-http\r\n\r\n"
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(issuer, STRANGER, kid="leak-kid"))
    assert len(caplog.records) == 3
    assert "leak" not in caplog.text
