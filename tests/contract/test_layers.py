"""Who may import whom: the layers, held by reading every import of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EVERYTHING = {
    "main",
    "check",
    "api",
    "serving",
    "agents",
    "strict_json",
    "services",
    "auth",
    "db",
    "migrations",
    "models",
    "errors",
    "observation",
    "metrics",
    "config",
    "log",
}

ALLOWED: dict[str, set[str]] = {
    "main": EVERYTHING,
    "cli": EVERYTHING,
    "check": EVERYTHING,
    "__main__": {"cli"},
    "__init__": set(),
    "serving": {"api.body", "api.exchange", "api.overload", "api.problems", "config", "log"},
    "api": {"services", "auth", "db", "models", "errors", "config", "strict_json", "observation"},
    "agents": {
        *("api.body", "api.cursors", "api.deps", "api.field_errors"),
        *("api.incidents", "api.problems", "api.queries", "api.responses"),
        *("services", "models", "errors", "observation"),
    },
    "services": {"models", "errors"},
    "auth": {"config", "errors", "strict_json"},
    "db": {"config", "errors", "observation"},
    "migrations": {"models", "db.url", "config"},
    "models": set(),
    "strict_json": set(),
    "errors": set(),
    "observation": set(),
    "metrics": {"observation"},
    "config": set(),
    "log": {"config"},
}
"""What each layer may import besides itself."""

EXCEPTIONS = {
    ("db", "db.migrations"),  # session.py and its callers run the migrations
}

WEB = {"fastapi", "starlette"}
WEB_LAYERS = {"main", "api"}


def modules() -> dict[str, Path]:
    """Every module of the service, by its name without `backend.`"""
    found = {}
    for path in sorted((ROOT / "backend").rglob("*.py")):
        parts = path.relative_to(ROOT / "backend").with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        found[name] = path
    return found


def layer(module: str) -> str:
    return "migrations" if module.startswith("db.migrations") else module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """The full names of all that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(name: str) -> str | None:
    """The module of ours that an import names, None for others'."""
    if not name.startswith("backend."):
        return None
    parts = name.removeprefix("backend.").split(".")
    known = modules()
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts) or None


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    here = layer(module)
    assert here in ALLOWED, f"{module}: a new layer needs a rule here"
    for name in imports(modules()[module]):
        imported = own(name)
        if imported is None or layer(imported) == here or (here, imported) in EXCEPTIONS:
            continue
        allowed = ALLOWED[here]
        assert layer(imported) in allowed or imported in allowed, f"backend.{module} must not import {name}"


@pytest.mark.parametrize("module", modules())
def test_the_web_framework_is_known_to_main_and_api_only(module: str) -> None:
    if layer(module) not in WEB_LAYERS:
        assert not {name.partition(".")[0] for name in imports(modules()[module])} & WEB


@pytest.mark.parametrize("module", modules())
def test_only_the_database_layer_knows_the_driver(module: str) -> None:
    if layer(module) not in {"db", "migrations"}:
        assert not {name.partition(".")[0] for name in imports(modules()[module])} & {"asyncpg", "aiosqlite", "sqlite3"}


def test_the_rules_look_at_every_module() -> None:
    assert {"main", "cli", "api.routers.tasks", "db.migrations.env", "services.tasks"} <= set(modules())
    assert own("backend.db.url.PostgresURL") == "db.url"
    assert own("backend.errors") == "errors"
    assert own("fastapi.FastAPI") is None
    assert "backend.services.tasks.TaskService" in imports(modules()["api.deps"])
