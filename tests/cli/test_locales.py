"""The commands where the system's language has an encoding of its own, and names of its own for the weekdays."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from backend.db.session import Database, create_db_and_tables
from backend.models.task import TaskCreate
from backend.services.tasks import TaskService
from tests.processes import SCRIPT, run, serving
from tests.programs import needed_program
from tests.settings import make_settings, settings_of

TITLE = "Käse → 🧀"


@pytest.fixture
def german(tmp_path: Path) -> dict[str, str]:
    """Variables that make a process speak German in ISO-8859-1."""
    name = "de_DE.ISO-8859-1"
    localedef = needed_program("locales", "localedef")
    made = subprocess.run(
        [localedef, "-i", "de_DE", "-f", "ISO-8859-1", str(tmp_path / name)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("not installed: locales")
    return {"LOCPATH": str(tmp_path), "LC_ALL": name}


def test_dev_starts_and_shows_its_page(german: dict[str, str], tmp_path: Path) -> None:
    with serving([SCRIPT, "dev"], tmp_path, **german) as server:
        assert "starting todo-backend for development …" in server.stdout_file.read_text("utf-8")
        assert "⠿" in httpx.get(server.url, headers={"Accept": "text/html"}).text


async def test_what_is_exported_is_utf_8(german: dict[str, str], tmp_path: Path) -> None:
    variables = settings_of(tmp_path)
    database = Database(make_settings(variables["DATABASE_URL"]))
    await create_db_and_tables(database)
    await TaskService(database.executor, "alice").create(TaskCreate(title=TITLE))
    await database.close()
    exported = run([SCRIPT, "export", "alice"], tmp_path, **variables, **german).stdout
    assert json.loads(exported)["title"] == TITLE


def test_the_dates_of_a_rule_are_the_same(german: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import locale; locale.setlocale(locale.LC_ALL, ''); from datetime import date;"
        "from backend.models.recurrence import next_date; day = date(2026, 12, 1);"
        "print(f'{day:%a}', next_date('FREQ=DAILY;INTERVAL=7;BYDAY=TU;BYMONTH=1', day, day))"
    )
    assert run([sys.executable, "-c", program], tmp_path, **german).stdout == "Di 2027-01-05\n"
