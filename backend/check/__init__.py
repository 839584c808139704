"""The doctor behind `todo-backend check`: a line for everything that must be right in production.

It fails where a request or the next migration would fail, and warns of the rest. The looks are taken at the same time,
within one limit, so that whatever hangs is named and the others are still told.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Literal

from backend.auth.tokens import TokenVerifier
from backend.config import Settings
from backend.errors import TodoError, TokenExpired

LIMIT = 10.0
"""Seconds for all looks together. With the start of the program that is less than 12."""

Level = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found; a warning does not make the check fail."""

    name: str
    level: Level
    text: str


Look = Callable[[Settings], AsyncIterator[Finding]]
"""A function that yields what it finds. A `TodoError` that it raises becomes one more, a failure."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, as lines or as one JSON document."""

    findings: list[Finding]
    hung: bool = False
    """Whether something had to be left behind, such as a look-up of a name, which nothing can stop."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.level != "FAIL" for finding in self.findings)

    def lines(self) -> str:
        """`level name text`, a line for each finding."""
        return "\n".join(f"{each.level:5} {each.name:10} {' '.join(each.text.split())}" for each in self.findings)

    def document(self) -> str:
        """`{"ok", "checks": [{"name", "level", "text"}]}`."""
        return json.dumps({"ok": self.ok, "checks": [asdict(finding) for finding in self.findings]}, indent=2)


async def check_all(settings: Settings, limit: float = LIMIT) -> Report:
    """Take all looks, within `limit` seconds."""
    from backend.check.database import look_at_database, look_at_migrations
    from backend.check.issuer import look_at_issuer
    from backend.check.settings import look_at_settings

    looks: dict[str, Look] = {
        "settings": look_at_settings,
        "database": look_at_database,
        "migrations": look_at_migrations,
        "jwks": look_at_issuer,
    }
    found: dict[str, list[Finding]] = {name: [] for name in looks}
    tasks = [asyncio.create_task(_take(name, look, settings, found[name])) for name, look in looks.items()]
    _, hung = await asyncio.wait(tasks, timeout=limit)
    for name, task in zip(looks, tasks, strict=True):
        if task in hung:
            found[name].append(Finding(name, "FAIL", f"nothing more was heard for {limit:.0f} s"))
            task.cancel()
    return Report([finding for findings in found.values() for finding in findings], hung=bool(hung))


async def check_token(settings: Settings, token: str) -> Report:
    """Tell whether a token is accepted, and if not, which rule it breaks."""
    try:
        identity = await TokenVerifier(settings).verify(token)
    except TokenExpired:
        return Report([Finding("token", "FAIL", "expired")])
    except TodoError as error:
        return Report([Finding("token", "FAIL", str(error))])
    return Report([Finding("token", "ok", f"accepted: it speaks for {identity.user_id!r}")])


async def _take(name: str, look: Look, settings: Settings, found: list[Finding]) -> None:
    try:
        async for finding in look(settings):
            found.append(finding)  # noqa: PERF401 # each at once: what hangs later must not take it away
    except TodoError as error:
        found.append(Finding(name, "FAIL", str(error)))
    except Exception as error:  # noqa: BLE001 # a look that fails is a finding; its message could hold anything
        found.append(Finding(name, "FAIL", f"unexpected {type(error).__name__}"))
