"""Ask OSV, the open database of vulnerabilities, about every version of requirements.lock. Part of `make check`.

Where the database cannot be reached, that is said, and is no failure: a check must run without a network, too.
"""

import sys
import threading
from pathlib import Path
from typing import Any

import httpx

DATABASE = "https://api.osv.dev/v1/querybatch"
LOCK = Path(__file__).parents[1] / "requirements.lock"
LIMIT = 15.0
"""Seconds that the database has, the look-up of its name included."""

ACCEPTED = {
    # ecdsa leaks what it signs with, through time. It comes with python-jose, which uses cryptography instead; and
    # the service signs nothing but HS256. There will be no fix.
    "GHSA-wj6h-64fc-37mp",
    "PYSEC-2026-1325",
}
"""Known, and no danger here. Both names of one are listed."""


def audit(lock: Path = LOCK, database: str = DATABASE, limit: float = LIMIT) -> str | None:
    """Say in one line what was found, and return why the check fails, None where it does not."""
    pins = [line.split("==") for line in lock.read_text().splitlines()]
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
    results = _ask(database, queries, limit)
    if results is None:
        print("audit: no database of vulnerabilities can be reached; nothing was audited")
        return None
    found = [
        f"{name} {version}: {each['id']}"
        for (name, version), result in zip(pins, results, strict=True)
        for each in result.get("vulns", [])
        if each["id"] not in ACCEPTED
    ]
    if found:
        return "audit: known vulnerabilities in " + ", ".join(found)
    print(f"audit: no known vulnerability in {len(pins)} packages")
    return None


def _ask(database: str, queries: list[dict[str, Any]], limit: float) -> list[dict[str, Any]] | None:
    responses: list[list[dict[str, Any]]] = []

    def ask() -> None:
        try:
            response = httpx.post(database, json={"queries": queries}, timeout=limit)
            results = response.raise_for_status().json()["results"]
        except (httpx.HTTPError, ValueError, TypeError, KeyError):
            return
        responses.append(results)

    # Nothing limits the look-up of a name, and a process does not wait for its daemons.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit)
    return responses[0] if responses else None


if __name__ == "__main__":
    sys.exit(audit())
