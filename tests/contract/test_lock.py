"""requirements.lock: every distribution that the project needs, at the version that these tests ran with."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
BUILD = {"flit-core"}
"""Needed to install the project, not by it."""


def needs(name: str, *, development: bool = True) -> list[str]:
    """The requirements of a distribution; our own as they are written now, whenever it was installed."""
    if name != "todo-backend":
        return distribution(name).requires or []
    project = tomllib.loads(PROJECT.read_text())["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["dev"] if development else ())]


def closure(*, development: bool = True) -> dict[str, str]:
    """All distributions that the project needs, for running and for developing, with their installed versions."""
    found: dict[str, str] = {}
    done = set()
    todo: list[tuple[str, frozenset[str]]] = [("todo-backend", frozenset())]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        for text in needs(name, development=development):
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            needed = canonicalize_name(requirement.name)
            try:
                found[needed] = distribution(needed).version
            except PackageNotFoundError:
                raise AssertionError(f"{needed}, which {name} needs, is not installed") from None
            todo.append((needed, frozenset(requirement.extras)))
    return found


def locked() -> dict[str, str]:
    pairs = [line.split("==") for line in LOCK.read_text().splitlines()]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_line_is_a_name_and_a_version() -> None:
    for line in LOCK.read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_no_name_is_there_twice() -> None:
    assert len(locked()) == len(LOCK.read_text().splitlines())


def test_the_lock_is_what_the_project_needs_at_the_installed_versions() -> None:
    needed = closure()
    pinned = {name: version for name, version in locked().items() if name not in BUILD}
    missing = {name: version for name, version in needed.items() if pinned.get(name) != version}
    assert not missing, f"needed and installed, but not so in requirements.lock (make lock): {missing}"
    unneeded = set(pinned) - set(needed)
    assert not unneeded, f"in requirements.lock, but nothing needs it (make lock): {unneeded}"


def test_each_dependency_has_a_line_that_says_why() -> None:
    reasons = (ROOT / "specs/decisions/0009-dependencies.md").read_text().partition("## Rejected")[0]
    for text in needs("todo-backend"):
        assert re.search(rf"^\| .*`{Requirement(text).name}[`\[]", reasons, re.MULTILINE), f"{text}: no line says why"


def test_each_dependency_is_used() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "backend").rglob("*.py"))
    modules = packages_distributions()
    for text in needs("todo-backend", development=False):
        name = Requirement(text).name
        assert any(
            re.search(rf"\b{module}\b", sources)
            for module, distributions in modules.items()
            if canonicalize_name(name) in map(canonicalize_name, distributions)
        ), f"{name}: no line of backend/ names it"


def test_the_build_tool_is_locked_too() -> None:
    assert set(locked()) >= BUILD


RUNTIME_LOCK = ROOT / "requirements-runtime.lock"


def test_what_the_image_installs_is_what_running_needs_at_the_locked_versions_with_hashes() -> None:
    lines = RUNTIME_LOCK.read_text().splitlines()
    pinned = [Requirement(line.removesuffix("\\")) for line in lines if re.match("[A-Za-z]", line)]
    here = [each for each in pinned if each.marker is None or each.marker.evaluate()]  # others are for other systems
    pins = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in here}
    assert pins.items() <= locked().items()
    missing = closure(development=False).keys() - pins.keys()
    assert not missing, f"needed for running, but not in requirements-runtime.lock (make lock): {missing}"
    assert len(lines) >= 2 * len(pinned), "a version without a hash"
    assert not [line for line in lines if "://" in line]
