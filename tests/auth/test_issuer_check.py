"""What `todo-backend check` says of the issuer's keys."""

import asyncio
import time
from email.utils import formatdate

import pytest

from backend.auth import jwks as module
from backend.check import Finding
from backend.check import issuer as check
from backend.check.issuer import look_at_issuer
from backend.errors import IssuerUnavailable
from tests.auth.issuer import Issuer, response, running_issuer, signer
from tests.settings import make_settings


async def findings_of(issuer: Issuer) -> dict[str, Finding]:
    settings = make_settings("sqlite+aiosqlite://", better_auth_url=issuer.origin)
    return {finding.name: finding async for finding in look_at_issuer(settings)}


async def level_and_text(issuer: Issuer, name: str = "jwks") -> tuple[str, str]:
    finding = (await findings_of(issuer))[name]
    return finding.level, finding.text


def dated(issuer: Issuer, date: str) -> None:
    issuer.response = issuer.response.replace(b"Connection:", f"Date: {date}\r\nConnection:".encode(), 1)


async def test_keys_and_their_algorithms_are_counted():
    async with running_issuer() as issuer:
        dated(issuer, formatdate(usegmt=True))
        expected = "5 keys: ES256, ES512, EdDSA, PS256, RS256"
        assert await level_and_text(issuer) == ("ok", expected)


async def test_one_key_of_two_algorithms_is_one_key():
    async with running_issuer(signer("RS256").jwk(alg=...)) as issuer:
        assert (await level_and_text(issuer))[1] == "1 keys: PS256, RS256"


@pytest.mark.parametrize(
    ("seconds", "level", "words"),
    [
        (0, "ok", "agrees with this machine's"),
        (15, "ok", "agrees with"),
        (-15, "ok", "agrees with"),
        (60, "warn", "s ahead of"),
        (-60, "warn", "s behind"),
        (-270, "warn", "s behind"),
        (330, "FAIL", "s ahead of"),
        (-365 * 86_400, "FAIL", "s behind"),
    ],
)
async def test_the_issuers_clock_may_differ_by_30_seconds(seconds: int, level: str, words: str):
    async with running_issuer(signer("EdDSA").jwk()) as issuer:
        dated(issuer, formatdate(time.time() + seconds, usegmt=True))
        found, text = await level_and_text(issuer, "clock")
        assert found == level
        assert words in text


@pytest.mark.parametrize("date", [None, "", "yesterday", "Fri, 99 Nov 2026 99:99:99 GMT", "0", "\xff", "9" * 400])
async def test_a_date_that_says_nothing_is_no_reason_to_worry(date: str | None):
    async with running_issuer(signer("EdDSA").jwk()) as issuer:
        if date is not None:
            dated(issuer, date)
        assert await level_and_text(issuer, "clock") == ("ok", "the issuer's clock cannot be read")


async def test_no_usable_key_fails():
    async with running_issuer(signer("RS256", "small", 1024).jwk(), {"kty": "oct", "kid": "x", "k": "AAAA"}) as issuer:
        assert await level_and_text(issuer) == ("FAIL", "the issuer publishes no key that can be used")


async def test_an_issuer_that_cannot_be_asked_fails(monkeypatch: pytest.MonkeyPatch):
    async with running_issuer() as issuer:
        issuer.response = response(b"", "404 Not Found")
        with pytest.raises(IssuerUnavailable):
            await level_and_text(issuer)
        monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.05)
        monkeypatch.setattr(check, "_OK_TIMEOUT", 0.05)
        issuer.gate.clear()
        async with asyncio.timeout(10):
            with pytest.raises(IssuerUnavailable):
                await level_and_text(issuer)
        await issuer.down()
        with pytest.raises(IssuerUnavailable):
            await level_and_text(issuer)


async def test_without_an_issuer_there_is_nothing_to_look_at():
    found = [finding async for finding in look_at_issuer(make_settings("sqlite+aiosqlite://"))]
    assert [finding.level for finding in found] == ["ok", "ok"]
