"""Settings of the service under test, which owe nothing to the environment."""

from pathlib import Path

from backend.config import Settings
from tests import canaries

SECRET = canaries.SECRET


def make_settings(database_url: str, **changes: object) -> Settings:
    """Settings for an application of this process."""
    return Settings(**{"database_url": database_url, "better_auth_secret": SECRET, "health_db_ttl": 0, **changes})  # type: ignore[arg-type]


def settings_of(folder: Path, **changes: str) -> dict[str, str]:
    """Environment variables for a service in a process of its own, on an SQLite file in this folder."""
    return {"BETTER_AUTH_SECRET": SECRET, "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'todo.db'}"} | changes
