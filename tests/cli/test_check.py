"""`todo-backend check`: each of many broken set-ups is named in one line, and none that cannot work passes."""

import asyncio
import json
import re
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from backend.auth.tokens import mint
from backend.check import Report, check_all, check_token
from backend.config import Settings
from backend.db.migrating import migrate
from backend.db.migrations import downgrade, head
from tests.auth.issuer import response, running_issuer, signer
from tests.databases import connect, create_tables, execute, new_postgres_database
from tests.network import free_port, need
from tests.processes import DEADLINE, backend, run
from tests.settings import SECRET, make_settings, settings_of

ROLE = f"todo_check_{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
async def server_url(postgres_server_url: str) -> AsyncIterator[str]:
    """A server with a role that owns nothing."""
    connection = await connect(postgres_server_url)
    await connection.execute(f"DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE} LOGIN PASSWORD 'app'")
    yield postgres_server_url
    await connection.execute(f"DROP ROLE {ROLE}")
    await connection.close()


@pytest.fixture
async def url(server_url: str) -> AsyncIterator[str]:
    """A migrated database, on which the role may do what requests need."""
    async with new_postgres_database(server_url) as url:
        await create_tables(url)
        yield url
        connection = await connect(url)
        await connection.execute(f"DROP OWNED BY {ROLE}; ALTER ROLE {ROLE} RESET ALL; ALTER ROLE {ROLE} NOBYPASSRLS")
        await connection.close()


@pytest.fixture
async def owner(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(url)
    await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
    yield connection
    await connection.close()


def as_role(url: str) -> str:
    return f"{url}&user={ROLE}&password=app"


def failures(report: Report) -> str:
    return "\n".join(f"{finding.name}: {finding.text}" for finding in report.findings if finding.level == "FAIL")


async def look(url: str, **changes: object) -> Report:
    return await check_all(make_settings(url, **changes), limit=DEADLINE)


BROKEN: dict[str, tuple[str, str]] = {
    # Rights.
    "no right to read": (f"REVOKE SELECT ON tasks FROM {ROLE}", "SELECT on tasks"),
    "no right to insert": (f"REVOKE INSERT ON tasks FROM {ROLE}", "INSERT on tasks"),
    "no right to update": (f"REVOKE UPDATE ON tasks FROM {ROLE}", "UPDATE on tasks"),
    "no right to delete": (f"REVOKE DELETE ON tasks FROM {ROLE}", "DELETE on tasks"),
    "no right to delete owners": (f"REVOKE DELETE ON owners FROM {ROLE}", "DELETE on owners"),
    "no right at all": (f"REVOKE ALL ON tasks FROM {ROLE}", "SELECT on tasks"),
    "no right in the schema": ("REVOKE USAGE ON SCHEMA public FROM public", "no table tasks"),
    # Row security.
    "row security without a policy": (
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY",
        "row security hides rows of tasks",
    ),
    "a policy that hides": (
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON tasks USING (user_id = current_user)",
        "row security hides rows of tasks",
    ),
    "a policy for reading alone": (
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY read ON tasks FOR SELECT USING (true)",
        "row security hides rows of tasks",
    ),
    "a policy that restricts": (
        """ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY every ON tasks USING (true);
        CREATE POLICY no ON tasks AS RESTRICTIVE USING (completed)""",
        "row security hides rows of tasks",
    ),
    "a policy for another role": (
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY every ON tasks TO pg_monitor USING (true)",
        "row security hides rows of tasks",
    ),
    "a policy that refuses new rows": (
        "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON tasks USING (true) WITH CHECK (false)",
        "row security hides rows of tasks",
    ),
    # What the role or the database is set to.
    "a read-only role": (f"ALTER ROLE {ROLE} SET default_transaction_read_only = on", "read_only is on"),
    "a role of another isolation": (
        f"ALTER ROLE {ROLE} SET default_transaction_isolation = 'repeatable read'",
        "transactions are repeatable read",
    ),
    "a serializable role": (
        f"ALTER ROLE {ROLE} SET default_transaction_isolation = 'serializable'",
        "transactions are serializable",
    ),
    "another search_path": (f"CREATE SCHEMA app; ALTER ROLE {ROLE} SET search_path = app", "search_path"),
    "no such schema": (f"ALTER ROLE {ROLE} SET search_path = nowhere", "no table tasks"),
    # Tables.
    "no table": ("DROP TABLE tasks", "no table tasks"),
    "a missing column": ("ALTER TABLE tasks DROP COLUMN description", "tasks.description"),
    "a renamed column": ("ALTER TABLE tasks RENAME title TO name", "tasks.title"),
    "a table of somebody else's": ("DROP TABLE tasks; CREATE TABLE tasks (id int)", "tasks.title"),
    "a column of another type": ("ALTER TABLE tasks ALTER completed TYPE text", "type boolean"),
    "a trigger that refuses": (
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END';
        CREATE TRIGGER refuse BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()""",
        "writes",
    ),
    "a constraint that refuses": ("ALTER TABLE tasks ADD CHECK (title <> 'todo-backend check')", "violates check"),
    "a revision of before": ("UPDATE todo_backend_version SET version_num = '0000'", ""),
    "no revision": ("DROP TABLE todo_backend_version", "migrate --adopt"),
    "two revisions": ("INSERT INTO todo_backend_version VALUES ('0000')", "has 2 rows"),
}
NO_FAILURE = {"a revision of before"}
"""A revision that is not known is a newer one, and that is fine where the columns are there."""


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_database_is_named(broken: str, url: str, owner: asyncpg.Connection) -> None:
    statements, words = BROKEN[broken]
    assert failures(await look(as_role(url), database_url_direct=SecretStr(url))) == ""
    await owner.execute(statements)
    report = await look(as_role(url), database_url_direct=SecretStr(url))
    assert report.ok is (broken in NO_FAILURE), report.lines()
    assert words in failures(report)


HARMLESS = {
    "a policy for everything": "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY every ON tasks USING (true)",
    "a role that bypasses": f"ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; ALTER ROLE {ROLE} BYPASSRLS",
    "a foreign key to users": (
        'CREATE TABLE "user" (id text PRIMARY KEY); ALTER TABLE tasks ADD FOREIGN KEY (user_id) REFERENCES "user" (id)'
    ),
    "another column": "ALTER TABLE tasks ADD COLUMN colour text",
    "no right to read the revision": f"REVOKE ALL ON todo_backend_version FROM {ROLE}",
}


@pytest.mark.parametrize("change", HARMLESS)
async def test_what_does_no_harm_passes(change: str, url: str, owner: asyncpg.Connection) -> None:
    await owner.execute(HARMLESS[change])
    assert failures(await look(as_role(url), database_url_direct=SecretStr(url))) == ""
    assert await owner.fetchval("SELECT count(*) FROM tasks") == 0


async def test_a_locked_table_is_named_with_its_holder(url: str, owner: asyncpg.Connection) -> None:
    async with owner.transaction():
        await owner.execute("LOCK TABLE tasks")
        report = await look(url)
        assert f"locked by the server process {owner.get_server_pid()}" in failures(report)


async def test_a_role_that_cannot_migrate_is_told_when_it_must(url: str, owner: asyncpg.Connection) -> None:
    at_head = await look(as_role(url))
    assert at_head.ok
    assert any(finding.level == "warn" and "does not own" in finding.text for finding in at_head.findings)
    await owner.execute("DROP TABLE tasks, owners, todo_backend_version CASCADE")
    assert "needs the role that owns" in failures(await look(as_role(url)))


async def test_an_unmigrated_address_is_not_saved_by_another_that_is_migrated(url: str, server_url: str) -> None:
    async with new_postgres_database(server_url) as empty:
        assert "no table tasks" in failures(await look(empty, database_url_direct=SecretStr(url)))
        assert "migrations: at no revision" in failures(await look(url, database_url_direct=SecretStr(empty)))


async def test_tables_that_migrations_go_past_fail_in_one_line(url: str, server_url: str) -> None:
    async with new_postgres_database(server_url) as old:
        await create_tables(old)
        await migrate(make_settings(old), lambda connection: downgrade(connection, "0003"))
        assert failures(await look(old, database_url_direct=SecretStr(url))) == (
            f"tables: DATABASE_URL has revision 0003, not {head()}: is DATABASE_URL_DIRECT another database?"
        )


async def test_a_database_of_another_encoding_fails(server_url: str) -> None:
    connection = await connect(server_url)
    await connection.execute("CREATE DATABASE todo_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        separator = "&" if "?" in server_url else "?"
        latin = f"{server_url}{separator}dbname=todo_latin"
        await create_tables(latin)
        assert "LATIN1" in failures(await look(latin))
    finally:
        await connection.execute("DROP DATABASE todo_latin WITH (FORCE)")
        await connection.close()


ADDRESSES: dict[str, Callable[[str], str]] = {
    "a wrong password": lambda url: f"{url}&user=todo_check_nobody&password=x",
    "a wrong database": lambda url: f"{url}&dbname=nowhere",
    "a closed port": lambda _url: f"postgresql://u:p@127.0.0.1:{free_port()}/db?connect_timeout=1",
    "an unknown host": lambda _url: "postgresql://u:p@nowhere.invalid/db",
    "TLS that the server has not": lambda url: f"{url}&sslmode=verify-full&host=127.0.0.1&port={free_port()}",
}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("which", ["database_url", "database_url_direct"])
async def test_an_address_that_leads_nowhere_fails(which: str, address: str, url: str) -> None:
    wrong = ADDRESSES[address](url)
    report = await (look(wrong) if which == "database_url" else look(url, database_url_direct=SecretStr(wrong)))
    assert {finding.name for finding in report.findings if finding.level == "FAIL"} >= (
        {"database", "migrations"} if which == "database_url" else {"migrations"}
    )


PLAIN_WORDS = {
    "an unknown host": "nowhere.invalid, port 5432: the host's name leads nowhere",
    "a closed port": "connection refused: does the server run, and are host and port right in the URL?",
    "no socket": "/nowhere, port 5432: no such file or directory: does the server run",
}


@pytest.mark.parametrize("address", PLAIN_WORDS)
async def test_what_cannot_be_reached_is_told_in_plain_words(address: str) -> None:
    addresses = ADDRESSES | {"no socket": lambda _url: "postgresql://u:p@/db?host=/nowhere&connect_timeout=1"}
    lines = (await look(addresses[address](""))).lines()
    assert PLAIN_WORDS[address] in lines
    assert "Error" not in lines
    assert "Errno" not in lines


async def test_each_address_of_a_name_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_more: both)  # as "localhost" is on many machines
    lines = (await look(f"postgresql://u:p@both.example:{port}/db?connect_timeout=1")).lines()
    assert f"both.example, port {port}: connection refused: does the server run" in lines


async def test_a_server_without_tls_and_one_that_is_silent_are_told_in_plain_words() -> None:
    async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        writer.close()

    async with await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        lines = (await look(f"postgresql://u:p@127.0.0.1:{port}/db?sslmode=require")).lines()
        assert f"127.0.0.1, port {port} has no TLS, which the URL's sslmode asks for" in lines
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lines = (await look(f"postgresql://u:p@127.0.0.1:{port}/db?connect_timeout=1")).lines()
        assert f"127.0.0.1, port {port} did not respond in time" in lines


async def test_what_hangs_is_left_behind_and_named(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent_url = f"postgresql://u:p@127.0.0.1:{port}/db"
        report = await check_all(
            make_settings(silent_url, better_auth_url=f"http://127.0.0.1:{port}", database_url_direct=SecretStr(url)),
            limit=5,  # in which a busy machine, too, has taken the look that does not hang
        )
    assert report.hung
    assert {finding.name for finding in report.findings if finding.level == "FAIL"} == {"database", "jwks"}
    assert "ok    migrations" in report.lines()


ISSUERS = {
    "an empty set": b'{"keys": []}',
    "not JSON": b"<html>",
    "nothing": b"",
}


@pytest.mark.parametrize("document", ISSUERS)
async def test_an_issuer_without_keys_fails(document: str, sqlite_url: str) -> None:
    await create_tables(sqlite_url)
    async with running_issuer(signer("EdDSA").jwk()) as issuer:
        issuer.response = response(ISSUERS[document])
        report = await look(sqlite_url, better_auth_url=issuer.origin)
    assert failures(report).startswith("jwks: ")


async def test_an_issuer_that_never_comes_to_its_response_fails(sqlite_url: str) -> None:
    async def hint(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await writer.drain()

    await create_tables(sqlite_url)
    server = await asyncio.start_server(hint, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    report = await look(sqlite_url, better_auth_url=f"http://127.0.0.1:{port}")
    server.close()  # not waited for: it may still write
    assert failures(report).startswith("jwks: ")
    assert "no response within 3 s" in report.lines()


@pytest.mark.parametrize(
    ("host", "named", "level", "words"),
    [
        ("127.0.0.1", "127.0.0.1", "warn", "cannot be seen"),
        ("127.0.0.1", "localhost", "warn", "cannot be seen"),
        ("::1", "127.0.0.1", "FAIL", r"it responds on (\[::1\]|localhost), not on 127\.0\.0\.1: set BETTER_AUTH_URL"),
        ("127.0.0.1", "[::1]", "FAIL", r"it responds on (127\.0\.0\.1|localhost), not on \[::1\]: set BETTER_AUTH_URL"),
    ],
)
async def test_names_of_this_machine_are_several_issuers(
    host: str, named: str, level: str, words: str, sqlite_url: str
) -> None:
    need("::1")
    await create_tables(sqlite_url)
    async with running_issuer(signer("EdDSA").jwk(), host=host) as issuer:
        url = f"http://{named}:{issuer.origin.rpartition(':')[2]}"
        report = await look(sqlite_url, better_auth_url=url, better_auth_secret=None)
    (finding,) = [finding for finding in report.findings if finding.name == "issuer"]
    assert finding.level == level
    assert re.search(words, finding.text)
    assert f"tokens     iss {url}, aud {url}" in report.lines()
    assert "origins    browsers on http://localhost:3000 may call" in report.lines()


async def test_an_issuer_that_is_set_is_the_one_that_counts(sqlite_url: str) -> None:
    await create_tables(sqlite_url)
    async with running_issuer(signer("EdDSA").jwk()) as issuer:
        url = issuer.origin
        named = await look(
            sqlite_url, better_auth_url=url, better_auth_issuer="https://one.example,https://two.example"
        )
        agents = await look(sqlite_url, better_auth_url=url, mcp=True)
    assert f"tokens     iss https://one.example or https://two.example, aud {url}" in named.lines()
    assert "issuer" not in {finding.name for finding in named.findings}
    assert f"tokens     iss {url} or {url}/api/auth, aud {url}" in agents.lines()


SUSPICIOUS: dict[str, tuple[dict[str, object], str]] = {
    "a file in production": ({"environment": "production"}, "lost with the machine"),
    "a local origin in production": ({"environment": "production"}, "ALLOWED_ORIGINS has http://localhost:3000"),
    "a shared secret in production": ({"environment": "production"}, "HS256"),
    "a forgotten environment": ({"allowed_origins": "https://app.example.com"}, "ENVIRONMENT is development"),
    "two ways": ({"better_auth_url": "http://127.0.0.1:1"}, "is the secret still needed"),
}


@pytest.mark.parametrize("setting", SUSPICIOUS)
async def test_a_suspicious_setting_is_a_warning(setting: str, sqlite_url: str) -> None:
    changes, words = SUSPICIOUS[setting]
    report = await look(sqlite_url, **changes)
    assert any(words in finding.text and finding.level == "warn" for finding in report.findings), report.lines()


async def test_a_misspelt_name_is_a_warning_without_its_value(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    others = "NEXT_PUBLIC_URL=a\nDATABASE_URL_UNPOOLED=b\nOTEL_EXPORTER_OTLP_TRACES_ENDPOINT=c\nLOG_USER_KEY_FILE=\n"
    (tmp_path / ".env").write_text(f"ALOWED_ORIGINS=c4n4ry\nALLOWED_HEADERS=X-One\n{others}")
    report = await look(sqlite_url)
    (warning,) = [finding.text for finding in report.findings if finding.level == "warn"]
    assert warning == ".env has ALOWED_ORIGINS, which is no setting: ALLOWED_ORIGINS is meant?"


async def test_more_places_than_connections_are_a_warning(url: str) -> None:
    report = await look(url, max_concurrent_requests=5000)
    assert report.ok
    assert any(finding.name == "connections" and finding.level == "warn" for finding in report.findings)


FILES: dict[str, Callable[[Path], object]] = {
    "none": lambda path: path.unlink(),
    "an empty one": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"not a database, but a text of some length" * 100),
    "no table": lambda path: execute(path, "DROP TABLE tasks"),
    "a column too few": lambda path: execute(path, "ALTER TABLE tasks RENAME title TO name"),
}


@pytest.mark.parametrize("file", FILES)
async def test_a_broken_file_fails(file: str, sqlite_url: str, tmp_path: Path) -> None:
    await create_tables(sqlite_url)
    assert (await look(sqlite_url)).ok
    for leftover in ("todo.db-wal", "todo.db-shm"):
        (tmp_path / leftover).unlink(missing_ok=True)
    FILES[file](tmp_path / "todo.db")
    assert not (await look(sqlite_url)).ok


# The command itself.


def test_one_document_for_machines_with_the_same_status(tmp_path: Path) -> None:
    result = backend("check", "--json", cwd=tmp_path, **settings_of(tmp_path))
    document = json.loads(result.stdout)
    assert (result.returncode, document["ok"]) == (1, False)
    assert all(set(each) == {"name", "level", "text"} for each in document["checks"])


def test_it_ends_though_everything_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/db"
        settings = settings_of(tmp_path, DATABASE_URL=url, DATABASE_CONNECT_TIMEOUT="1")
        result = backend("check", cwd=tmp_path, **settings)
    assert result.returncode == 1
    assert "FAIL  database" in result.stdout


@pytest.mark.parametrize(("token", "status"), [(None, 0), ("nonsense", 1), ("", 1)])
async def test_a_token_alone_is_checked(token: str | None, status: int, tmp_path: Path) -> None:
    token = mint(Settings(better_auth_secret=SecretStr(SECRET)), "alice", 60) if token is None else token
    (tmp_path / "token").write_text(f"{token}\n")
    command = f"{sys.executable} -m backend check --token - < token"
    result = await asyncio.to_thread(run, ["sh", "-c", command], tmp_path, BETTER_AUTH_SECRET=SECRET)
    assert result.returncode == status
    assert len(result.stdout.splitlines()) == 1


SHORTENED: dict[str, Callable[[str], str]] = {
    "cut": lambda token: token.rpartition(".")[0],
    "with Bearer": lambda token: f"Bearer {token}",
    "quoted": lambda token: f'"{token}"',
    "empty": lambda _: "",
    "a character short": lambda token: token[:-1],
}


# What is left of a signature is canonical base64url for one user in sixteen: it is then a signature, of nothing.
@pytest.mark.parametrize("way", SHORTENED)
async def test_a_token_that_was_copied_badly_is_told_in_plain_words(way: str) -> None:
    settings = Settings(better_auth_secret=SecretStr(SECRET))
    for user in range(64):
        line = (await check_token(settings, SHORTENED[way](mint(settings, f"user-{user}", 60)))).lines()
        assert "cut short" in line


@pytest.mark.parametrize("arguments", [["--token"], [], ["--token="]], ids=" ".join)
def test_a_token_in_place_of_a_file_is_not_repeated(arguments: list[str], tmp_path: Path) -> None:
    token = mint(Settings(better_auth_secret=SecretStr(SECRET)), "alice", 60)
    words = [*arguments, token] if arguments != ["--token="] else [f"--token={token}"]
    result = backend("check", *words, cwd=tmp_path, BETTER_AUTH_SECRET=SECRET)
    assert (result.returncode, result.stdout) == (2, "")
    assert token[:6] not in result.stderr
    assert ("takes a file" in result.stderr) == bool(arguments)
