"""The documents: what they name is there, and what there is they name."""

import re
from pathlib import Path

import pytest
import typer.main

from backend.cli import app
from backend.config import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CLAUDE.md", ROOT / "backend/CLAUDE.md", *(ROOT / "specs").rglob("*.md")]
OVERVIEW = (ROOT / "specs/overview.md").read_text()
COMMANDS = typer.main.get_group(app).commands
_FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names that a document's headings have on the web."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _FENCED.sub("", text)):
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_no_comments(document: Path) -> None:
    """The shell of macOS, zsh, takes none at its prompt: it runs their words, or waits for an apostrophe's twin."""
    for commands in re.findall(r"^```sh\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE):
        assert not re.findall(r"(?:^|\s)#.*", commands)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_has_a_place_in_a_row(name: str) -> None:
    rows = [
        line for line in OVERVIEW.splitlines() if line.startswith("| `") and f"`{name.upper()}`" in line.split("|")[1]
    ]
    assert len(rows) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_row_with_its_options(name: str) -> None:
    (row,) = [line for line in OVERVIEW.splitlines() if re.match(rf"\| `{name}[ `]", line)]
    options = {option for each in COMMANDS[name].params for option in each.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}`" not in row} == set()


def test_the_tests_that_show_what_is_promised_are_there() -> None:
    text = (ROOT / "specs/reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert named
    assert {path for path in named if not (ROOT / "tests" / path).is_file()} == set()
