""".env.example: every setting, once, each with a comment of its own."""

import re
from pathlib import Path

import pytest

from backend.config import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
NAMES = [name.upper() for name in Settings.model_fields]
ASSIGNMENT = re.compile(r"^#?\s?([A-Z][A-Z0-9_]*)=(.*)$")


def assignments() -> list[tuple[int, str, str]]:
    """The lines that set a variable, commented out or not: line, name, value."""
    lines = EXAMPLE.read_text().splitlines()
    return [(at, found[1], found[2]) for at, line in enumerate(lines) if (found := ASSIGNMENT.match(line))]


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_there_exactly_once(name: str) -> None:
    count = sum(found == name for _, found, _ in assignments())
    assert count == 1, f".env.example has {count} lines with {name}=: there must be exactly one"


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_has_a_comment_of_its_own(name: str) -> None:
    lines = EXAMPLE.read_text().splitlines()
    for at, found, _ in assignments():
        if found == name:
            before = lines[at - 1] if at else ""
            assert before.startswith("# "), f".env.example: the line before {name}= must be a comment that explains it"
            assert not ASSIGNMENT.match(before), f".env.example: {name} shares its comment with the setting before it"


def test_there_is_nothing_that_is_no_setting() -> None:
    unknown = {name for _, name, _ in assignments()} - set(NAMES)
    assert not unknown, f".env.example names what is no setting: {unknown}"


def test_the_example_can_be_used_as_it_is_once_there_is_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text(EXAMPLE.read_text() + f"\nBETTER_AUTH_SECRET={'s-' * 20}\n")
    monkeypatch.delenv("BETTER_AUTH_SECRET")
    settings = Settings(_env_file=file)
    defaults = Settings(_env_file=None, better_auth_secret="s-" * 20)
    for name in Settings.model_fields:
        assert getattr(settings, name) == getattr(defaults, name), f".env.example sets {name.upper()} to no default"
