"""Who may import whom: the table in CLAUDE.md, held by reading every import of every module."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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
    return "db.migrations" if module.startswith("db.migrations") else module.partition(".")[0]


def table() -> dict[str, set[str]]:
    """What each layer may import besides itself."""
    rows = re.findall(r"^\| (`.+) \| (.+) \|$", (ROOT / "CLAUDE.md").read_text(), re.MULTILINE)
    everything = {layer(module) for module in modules()}
    return {
        name: everything if allowed == "everything" else set(re.findall("`(.+?)`", allowed))
        for names, allowed in rows
        for name in re.findall("`(.+?)`", names)
    }


ALLOWED = table() | {"__main__": {"cli"}, "__init__": set()}


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
    for name in imports(modules()[module]):
        imported = own(name)
        if imported is None or layer(imported) == here:
            continue
        allowed = ALLOWED[here]
        assert layer(imported) in allowed or imported in allowed, f"backend.{module} must not import {name}"


@pytest.mark.parametrize("module", modules())
def test_the_web_framework_is_known_to_main_and_api_only(module: str) -> None:
    if layer(module) not in WEB_LAYERS:
        assert not {name.partition(".")[0] for name in imports(modules()[module])} & WEB


@pytest.mark.parametrize("module", modules())
def test_only_the_database_layer_knows_the_driver(module: str) -> None:
    if layer(module) not in {"db", "db.migrations"}:
        assert not {name.partition(".")[0] for name in imports(modules()[module])} & {"asyncpg", "aiosqlite", "sqlite3"}


def test_the_rules_look_at_every_module() -> None:
    assert ALLOWED.keys() == {layer(module) for module in modules()}
    assert {"main", "cli", "api.routers.tasks", "db.migrations.env", "services.tasks"} <= set(modules())
    assert own("backend.db.url.PostgresURL") == "db.url"
    assert own("backend.errors") == "errors"
    assert own("fastapi.FastAPI") is None
    assert "backend.services.tasks.TaskService" in imports(modules()["api.deps"])
