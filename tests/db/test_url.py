"""Database URLs: what each means, what is refused, and that no refusal repeats a part of one."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import certifi
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.config import ConfigurationError
from backend.db.url import (
    POSTGRES_SCHEMES,
    PostgresURL,
    SQLiteURL,
    direct_database_url,
    parse_database_url,
)
from tests.settings import make_settings

NEON = "ep-cool-darkness-a1b2c3d4.eu-central-1.aws.neon.tech"
POOLED = "ep-cool-darkness-a1b2c3d4-pooler.eu-central-1.aws.neon.tech"


def parse(text: str) -> PostgresURL:
    url = parse_database_url(text)
    assert isinstance(url, PostgresURL)
    return url


def refusal(text: str, variable: str = "DATABASE_URL") -> str:
    with pytest.raises(ConfigurationError) as error:
        parse_database_url(text, variable)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__  # or a traceback would show the error that quotes the URL
    return str(error.value)


CONSOLE = f"alice:npg_S3cr3t@{NEON}/neondb?sslmode=require&channel_binding=require"
CONSOLE_POOLED = f"alice:npg_S3cr3t@{POOLED}/neondb?sslmode=require&channel_binding=require"
NEON_PARTS = {"port": 5432, "user": "alice", "password": "npg_S3cr3t", "database": "neondb", "sslmode": "require"}

ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    # What Neon's console gives out, under each scheme.
    (f"postgresql://{CONSOLE}", {"host": NEON, "is_pooled": False, "channel_binding_required": True, **NEON_PARTS}),
    (f"postgresql://{CONSOLE_POOLED}", {"host": POOLED, "is_pooled": True, "is_neon": True, **NEON_PARTS}),
    (f"postgres://{CONSOLE_POOLED}", {"host": POOLED, "is_pooled": True, **NEON_PARTS}),
    (f"postgresql+asyncpg://{CONSOLE_POOLED}", {"host": POOLED, "is_pooled": True, **NEON_PARTS}),
    (f"POSTGRESQL://{CONSOLE}", {"host": NEON, **NEON_PARTS}),
    (f"postgresql://u:p@{POOLED.upper()}/db", {"host": POOLED, "is_pooled": True, "sslmode": "require"}),
    ("postgresql://u:p@ep-x-1.eastus2.azure.neon.tech/db", {"is_neon": True, "sslmode": "require"}),
    # A host that only looks like Neon's is not.
    ("postgresql://u:p@ep-x-pooler.neon.tech.example.com/db", {"is_neon": False, "is_pooled": False}),
    ("postgresql://u:p@my-pooler.example.com/db", {"is_neon": False, "is_pooled": False}),
    # sslmode: six values, and what Neon makes of the weaker ones.
    ("postgresql://u:p@host/db", {"sslmode": "prefer"}),
    ("postgresql://u:p@host/db?sslmode=disable", {"sslmode": "disable"}),
    ("postgresql://u:p@host/db?sslmode=allow", {"sslmode": "allow"}),
    ("postgresql://u:p@host/db?sslmode=prefer", {"sslmode": "prefer"}),
    ("postgresql://u:p@host/db?sslmode=require", {"sslmode": "require"}),
    ("postgresql://u:p@host/db?sslmode=verify-ca", {"sslmode": "verify-ca"}),
    ("postgresql://u:p@host/db?sslmode=verify-full", {"sslmode": "verify-full"}),
    ("postgresql://u:p@host/db?ssl=require", {"sslmode": "require"}),
    (f"postgresql://u:p@{NEON}/db", {"sslmode": "require"}),
    (f"postgresql://u:p@{NEON}/db?sslmode=prefer", {"sslmode": "require"}),
    (f"postgresql://u:p@{NEON}/db?sslmode=verify-full", {"sslmode": "verify-full"}),
    (f"postgresql://u:p@{NEON}/db?sslmode=no-verify", {"sslmode": "no-verify"}),
    ("postgresql://u:p@host/db?ssl=true", {"sslmode": "require"}),
    ("postgresql://u:p@host/db?ssl=false", {"sslmode": "disable"}),
    ("postgresql://u:p@host/db?ssl=no-verify", {"sslmode": "no-verify"}),
    # As a console shows it, or as a shell or a .env file kept it.
    (f"psql 'postgresql://{CONSOLE}'", {"host": NEON, **NEON_PARTS}),
    (f'psql "postgresql://{CONSOLE}"', {"host": NEON, **NEON_PARTS}),
    (f"psql postgresql://{CONSOLE}", {"host": NEON, **NEON_PARTS}),
    (f" 'postgresql://{CONSOLE}' ", {"host": NEON, **NEON_PARTS}),
    (f'" postgresql://{CONSOLE} "', {"host": NEON, **NEON_PARTS}),
    (f"`postgresql://{CONSOLE}`", {"host": NEON, **NEON_PARTS}),
    # What could be meant is kept.
    ("postgresql://u@host/db?password=secret;", {"password": "secret;"}),
    ("postgresql://u@host/db?password=secret,", {"password": "secret,"}),
    ("postgresql://u:p@host/db;", {"database": "db;"}),
    ("postgresql://u:p@host/o'b=rien", {"database": "o'b=rien"}),
    ("postgresql://u:p@host/%2F%26%27%3D%40%22", {"database": "/&'=@\""}),
    ("postgresql://u:p\u2100@host/db", {"password": "p\u2100"}),
    # An @ in the query, behind a path; and in names before the last one, as in Azure's user@server.
    (
        "postgresql:///db?host=/cloudsql/p:r:i&user=sa@proj.iam",
        {"host": "/cloudsql/p:r:i", "user": "sa@proj.iam", "database": "db"},
    ),
    ("postgresql://host/db?user=u&password=p@ss", {"host": "host", "user": "u", "password": "p@ss"}),
    ("postgresql://me@server:p@ss@host/db", {"host": "host", "user": "me@server", "password": "p@ss"}),
    ("postgresql://u:p@host/db/?sslmode=disable", {"database": "db"}),
    ("postgresql://u:p@host/db?host=&user=", {"host": None, "user": None, "password": "p"}),
    ("postgresql://u:p@[::1]:5433/db", {"host": "::1", "port": 5433}),
    ("postgresql://u%40tenant:p%2F%3F%23@host./a%2Fb", {"user": "u@tenant", "password": "p/?#", "database": "a/b"}),
    ("postgresql://u:p@host/db?sslmode=REQUIRE", {"sslmode": "require"}),
    ("postgresql://u:p@host/db?ssl=True", {"sslmode": "require"}),
    ("postgresql://u:p@host/db?ssl=0", {"sslmode": "disable"}),
    # What other tools add.
    (
        "postgresql+asyncpg://u:p@host/db?ssl=require&prepared_statement_cache_size=0&statement_cache_size=0",
        {"sslmode": "require", "server_settings": {}},
    ),
    (f"postgresql://u:p@{POOLED}/db?schema=public", {"is_pooled": True, "server_settings": {}}),
    ("postgresql://u:p@host/db?client_encoding=UTF8", {"server_settings": {}}),
    ("postgres://u:p@/db?host=/cloudsql/project:region:name", {"host": "/cloudsql/project:region:name"}),
    ("postgresql://postgres.abc:p@aws-0-x.pooler.supabase.com:6543/postgres", {"user": "postgres.abc", "port": 6543}),
    (
        "postgresql://u:p@host/db?pgbouncer=true&connection_limit=1&pool_timeout=10&supa=x&keepalives=1",
        {"server_settings": {}, "must_be_writable": False},
    ),
    ("postgresql://u:p@host/db?uselibpqcompat=true&keepalives_idle=30&gssencmode=disable", {"server_settings": {}}),
    ("postgresql://u:p@host/db?gssencmode=prefer&target_session_attrs=any", {"must_be_writable": False}),
    ("postgresql://u:p@host/db?target_session_attrs=read-write", {"must_be_writable": True}),
    ("postgresql://u:p@host/db?schema=todo", {"server_settings": {"search_path": "todo"}}),
    # channel_binding, options, application_name.
    ("postgresql://u:p@host/db?channel_binding=disable", {"channel_binding_required": False}),
    ("postgresql://u:p@host/db?channel_binding=prefer", {"channel_binding_required": False}),
    ("postgresql://u:p@host/db?sslmode=require&channel_binding=require", {"channel_binding_required": True}),
    (
        f"postgresql://u:p@{NEON}/db?options=endpoint%3Dep-cool-darkness-a1b2c3d4",
        {"server_settings": {"options": "endpoint=ep-cool-darkness-a1b2c3d4"}},
    ),
    (
        "postgresql://u:p@host/db?options=-c%20search_path%3Dtodo&application_name=my%20app",
        {"server_settings": {"options": "-c search_path=todo", "application_name": "my app"}},
    ),
    (
        "postgresql://u:p@host/db?fallback_application_name=fallback",
        {"server_settings": {"application_name": "fallback"}},
    ),
    (
        "postgresql://u:p@host/db?fallback_application_name=fallback&application_name=own",
        {"server_settings": {"application_name": "own"}},
    ),
    # connect_timeout: zero and less are libpq's "no limit", where our own limit holds.
    ("postgresql://u:p@host/db?connect_timeout=15", {"connect_timeout": 15}),
    ("postgresql://u:p@host/db?connect_timeout=0", {"connect_timeout": None}),
    ("postgresql://u:p@host/db?connect_timeout=-1", {"connect_timeout": None}),
    ("postgresql://u:p@host/db", {"connect_timeout": None}),
    # Certificates and the way into TLS.
    (
        "postgresql://u:p@host/db?sslrootcert=system",
        {"sslmode": "verify-full", "sslrootcert": "system"},
    ),
    ("postgresql://u:p@host/db?sslmode=verify-full&sslrootcert=system", {"sslmode": "verify-full"}),
    (
        f"postgresql://u:p@host/db?sslmode=require&sslrootcert={quote(certifi.where())}",
        {"sslmode": "verify-ca", "sslrootcert": certifi.where()},
    ),
    (
        f"postgresql://u:p@host/db?sslmode=verify-full&sslrootcert={quote(certifi.where())}",
        {"sslmode": "verify-full", "sslrootcert": certifi.where()},
    ),
    (f"postgresql://u:p@{NEON}/db?sslnegotiation=direct", {"direct_tls": True, "sslnegotiation": "direct"}),
    (f"postgresql://u:p@{NEON}/db", {"direct_tls": True, "sslnegotiation": None}),
    (f"postgresql://u:p@{NEON}/db?sslnegotiation=postgres", {"direct_tls": False}),
    ("postgresql://u:p@host/db?sslmode=require", {"direct_tls": False}),
    ("postgresql://u:p@host/db?sslmode=require&sslnegotiation=direct", {"direct_tls": True}),
    ("postgresql://u:p@host/db?sslnegotiation=postgres", {"direct_tls": False}),
    # Passwords and names.
    ("postgresql://al%40ice:p%40ss%3Aw%2Ford%23%3F@host/d%20b", {"user": "al@ice", "password": "p@ss:w/ord#?"}),
    ("postgresql://u:p%25+%2B@host/db", {"password": "p%++"}),
    ("postgresql://u:a+b@host/db", {"password": "a+b"}),
    ("postgresql://host/db?user=u&password=a+b%2Bc%20d", {"user": "u", "password": "a+b+c d"}),
    ("postgresql://u@host/db", {"user": "u", "password": None}),
    ("postgresql://u:p%C3%A4ss@host/db", {"password": "päss"}),
    ("postgresql://u:päss@host/db", {"password": "päss"}),
    ("postgresql://u:p@host/a%2Fb", {"database": "a/b"}),
    # Hosts, ports, sockets.
    ("postgresql://u:p@host:6432/db", {"host": "host", "port": 6432}),
    ("postgresql://u:p@host:/db", {"port": 5432}),
    ("postgresql://u:p@host/db?port=6432", {"port": 6432}),
    ("postgresql://u:p@127.0.0.1/db", {"host": "127.0.0.1"}),
    ("postgresql://u:p@[::1]:6432/db", {"host": "::1", "port": 6432}),
    ("postgresql://u:p@[2001:db8::1]/db", {"host": "2001:db8::1", "port": 5432}),
    ("postgresql:///db?host=/run/postgresql", {"host": "/run/postgresql", "user": None, "database": "db"}),
    (f"postgresql://u:p@/db?host={POOLED.upper()}", {"host": POOLED, "is_pooled": True}),
    ("postgresql://u:p@[fe80::1%25eth0]/db", {"host": "fe80::1%eth0"}),
    ("postgresql://u:p@/db?host=%2Frun%2FPostgreSQL&port=6432", {"host": "/run/PostgreSQL", "port": 6432}),
    ("postgresql://u:p@%2Frun%2FPostgreSQL/db", {"host": "/run/PostgreSQL"}),
    ("postgresql://u:p@host/db?dbname=other", {"database": "other"}),
    ("postgresql://u:p@host", {"database": None}),
    ("postgresql:///db", {"host": None, "database": "db"}),
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_a_url_means_what_libpq_would_make_of_it(text: str, expected: dict[str, Any]) -> None:
    url = parse(text)
    assert {name: getattr(url, name) for name in expected} == expected


@pytest.mark.parametrize("scheme", POSTGRES_SCHEMES)
def test_every_scheme_means_the_same(scheme: str) -> None:
    assert parse(f"{scheme}://{CONSOLE_POOLED}") == parse(f"postgresql://{CONSOLE_POOLED}")


SECRET = "hunter2secret"
WITH_SECRET = f"postgresql://dave:{SECRET}@dbhost.example.com/ledger"

REFUSED: list[tuple[str, str]] = [
    ("", "must begin with"),
    (SECRET, "must begin with"),
    (f"mysql://dave:{SECRET}@host/db", "must begin with"),
    (f"psql -h '{SECRET}'", "must begin with"),
    (f"'postgresql://dave:{SECRET}@host/db", "must begin with"),
    (f"sqlite:///{SECRET}.db", "must begin with"),
    (f"postgresql+psycopg://dave:{SECRET}@host/db", "must begin with"),
    (f"postgresql:dave:{SECRET}@host/db", ""),
    (f"postgresql:/dave:{SECRET}@host/db", ""),
    (f"postgresql://dave:{SECRET}\n@host/db", "control characters"),
    (f"{WITH_SECRET}?connect_timeout=301", "at most 300"),
    (f"postgresql://dave:{SECRET}\x7f@host/db", "control characters"),
    (f"postgresql://dave:{SECRET}#x@host/db", "percent-encode the password"),
    (f"postgresql://dave:{SECRET}/x@host/db", "percent-encode the password"),
    (f"postgresql://dave:{SECRET}?x@host/db", ""),
    (f"postgresql://dave:[{SECRET}@host/db", "percent-encode the password"),
    (f"postgresql://dave:{SECRET}@host:port/db", "cannot be read"),
    (f"postgresql://dave:{SECRET}@host:65536/db", "port must be"),
    (f"postgresql://dave:{SECRET}@host:0/db", "port must be"),
    (f"postgresql://dave:{SECRET}@host/db?port=x", "port must be"),
    (f"postgresql://dave:{SECRET}@host/db?port=1,2", "port must be"),
    (f"postgresql://dave:{SECRET}%00@host/db", ""),
    (f"postgresql://dave:{SECRET}@host/db%00", ""),
    (f"postgresql://dave%00:{SECRET}@host/db", ""),
    # One host: asyncpg would try the others with the rules of the first.
    (f"postgresql://dave:{SECRET}@one,two/db", "one host"),
    (f"postgresql://dave:{SECRET}@one:5432,two:5433/db", ""),
    (f"postgresql://dave:{SECRET}@one%2Ctwo/db", "one host"),
    (f"postgresql://dave:{SECRET}@/db?host=one,two", "one host"),
    (f"postgresql://dave:{SECRET}@/db?host=/one,/two", "one host"),
    # The line around it: a value is taken as it is, or not at all.
    (f"DATABASE_URL=postgresql://dave:{SECRET}@host/db", "must begin with"),
    (f'"DATABASE_URL": "postgresql://dave:{SECRET}@host/db",', "must begin with"),
    (f"psql 'postgresql://dave:{SECRET}@host/db';", "must begin with"),
    (f"{WITH_SECRET}?sslmode=require;", "sslmode must be one of"),
    # Parameters.
    (f"{WITH_SECRET}?sslmode=", "sslmode must be one of"),
    (f"OTHER_URL=postgresql://dave:{SECRET}@host/db", "must begin with"),
    (f"postgresql://dave:{SECRET}@<host>/db", "is it a placeholder"),
    (f"postgresql://dave:{SECRET}@dbho\\st/db", "is it a placeholder"),
    (f"postgresql://dave:{SECRET}@dbhost..example.com/db", "one host"),
    (f"postgresql://dave:{SECRET}@{'h' * 64}.example.com/db", "one host"),
    (f"postgresql://dave:{SECRET}@[::1]x:5/db", "percent-encode"),
    # A password that was not percent-encoded: a piece of it may look like a host, a port, or a database's name.
    (f"postgresql://dave:12/{SECRET}@dbhost.example.com/ledger", "percent-encode"),
    (f"postgresql://dave:a@b/{SECRET}@dbhost.example.com/ledger", "percent-encode"),
    (f"postgresql://dave:12?{SECRET}@dbhost.example.com/ledger", "percent-encode"),
    (f"postgresql://dave:12#{SECRET}@dbhost.example.com/ledger", "percent-encode"),
    (f"postgresql://dave:{SECRET}@dbhost.example.com/ledger#", "percent-encode"),
    (f"postgresql://dave:{SECRET}%ff@dbhost.example.com/ledger", "percent-encode"),
    (f"postgresql://dave@dbhost.example.com/ledger?password={SECRET}%ff", "percent-encode"),
    (f"{WITH_SECRET}&sslmode=require", "cannot be read"),
    (f"postgresql://dave:{SECRET}@dbhost.example.com//ledger", "cannot be read"),
    (f"postgresql://dave:{SECRET}@dbhost.example.com//", "cannot be read"),
    (f"postgresql://dave:12?user={SECRET}@dbhost.example.com/ledger", "cannot be read"),
    (f"postgresql://dave:12/x?{SECRET}@dbhost.example.com/ledger", "has an unknown parameter"),
    # A piece of a password looks like a parameter's name.
    ("postgresql://me@dave:3?hunter=:3@dbhost/ledger", "cannot be read"),
    ("postgresql://dave:@?hunter=@dbhost/ledger", "cannot be read"),
    ("postgresql://me@dave:?hunter=", "has an unknown parameter"),
    ("postgresql://me@dave:3/x?hunter=:3@dbhost/ledger", "has an unknown parameter"),
    (f"postgresql://dave:{SECRET}@dbhost.example.com/ledger/x", "percent-encode"),
    (f"postgresql://dave:{SECRET}@${{PGHOST}}/db", "is it a placeholder"),
    (f"host=localhost user=dave password={SECRET}", "must begin with"),
    (f"jdbc:postgresql://host/db?user=dave&password={SECRET}", "must begin with"),
    (f"postgresql://dave:[{SECRET}]@host/db", "percent-encode the password"),
    (f"{WITH_SECRET}?client_encoding=latin1", "client_encoding must be one of"),
    (f"{WITH_SECRET}?channel_binding=yes", "channel_binding must be one of"),
    (f"{WITH_SECRET}?sslmode=disable&channel_binding=require", "channel_binding"),
    (f"{WITH_SECRET}?connect_timeout=soon", "connect_timeout must be"),
    (f"{WITH_SECRET}?connect_timeout=1.5", "connect_timeout must be"),
    (f"{WITH_SECRET}?connect_timeout=", "connect_timeout must be"),
    (f"{WITH_SECRET}?connect_timeout=9999999999", "connect_timeout must be"),
    (f"{WITH_SECRET}?connect_timeout=%D9%A3", "connect_timeout must be"),
    (f"{WITH_SECRET}?sslrootcert=/no/{SECRET}.crt", "must name a file of certificates"),
    (f"{WITH_SECRET}?sslrootcert=", "must name a file of certificates"),
    (f"{WITH_SECRET}?sslmode=verify-full&sslrootcert={quote(__file__)}", "sslrootcert"),  # a file, but no certificate
    (f"{WITH_SECRET}?sslmode=require&sslrootcert=system", "sslrootcert=system needs"),
    (f"{WITH_SECRET}?sslnegotiation=direct", "sslnegotiation=direct needs"),
    (f"{WITH_SECRET}?sslmode=prefer&sslnegotiation=direct", "sslnegotiation=direct needs"),
    (f"{WITH_SECRET}?sslnegotiation=tls", "sslnegotiation must be one of"),
    (f"{WITH_SECRET}?sslcert=/x", "sslcert is not supported"),
    (f"{WITH_SECRET}?hostaddr=127.0.0.1", "hostaddr is not supported"),
    (f"{WITH_SECRET}?target_session_attrs=primary", "target_session_attrs must be one of"),
    (f"{WITH_SECRET}?gssencmode=require", "gssencmode=require is not supported"),
    (f"postgresql://dave:{SECRET}@{POOLED}/db?schema=todo", "set the role's search_path"),
    (f"{WITH_SECRET}?{SECRET}1=1", "has an unknown parameter"),
    (f"{WITH_SECRET}?{SECRET.upper()}", "has an unknown parameter"),
    (f"postgresql://dave:pass?{SECRET}=1@host/db", "percent-encode the password"),
    (f"{WITH_SECRET}?statement_timeout=0", "statement_timeout is not supported"),
    (f"{WITH_SECRET}?sslmode=require&sslmode=disable", "has a parameter twice"),
    # Neon is reached over the open internet: never without TLS, however the host is written.
    (f"postgresql://dave:{SECRET}@{NEON}/db?sslmode=disable", "without TLS"),
    (f"postgresql://dave:{SECRET}@{NEON}/db?sslmode=allow", "without TLS"),
    (f"postgresql://dave:{SECRET}@{NEON.upper()}/db?sslmode=disable", "without TLS"),
    (f"postgresql://dave:{SECRET}@/db?host={NEON}&sslmode=disable", "without TLS"),
    (f"postgresql://dave:{SECRET}@/db?host={NEON.upper()}&sslmode=disable", "without TLS"),
    (f"postgresql://dave:{SECRET}@{NEON.replace('.', '%2E').upper()}/db?sslmode=disable", "without TLS"),
    (f"postgresql://dave:{SECRET}@{NEON}./db?sslmode=disable", "without TLS"),
    # SQLite.
    (f"sqlite+aiosqlite:{SECRET}.db", "must begin with"),
    (f"postgresql:{SECRET}", "must begin with"),
    ("postgresql", "must begin with"),
    (f"sqlite+aiosqlite://{SECRET}/todo.db", "must be sqlite+aiosqlite:///path"),
    ("sqlite+aiosqlite:///todo.db?mode=ro", "must be sqlite+aiosqlite:///path"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_cannot_be_honoured_is_refused_without_a_word_of_it(text: str, reason: str) -> None:
    message = refusal(text)
    assert message.startswith("DATABASE_URL: ")
    assert reason in message
    for part in (SECRET, "hunter", "dave", "dbhost", "ledger", "aws"):
        assert part not in message
    assert message.isprintable()


def test_a_refusal_names_the_variable_that_the_url_came_from() -> None:
    assert refusal("nonsense", "DATABASE_URL_DIRECT").startswith("DATABASE_URL_DIRECT: ")


def test_a_url_does_not_show_its_password() -> None:
    assert SECRET not in repr(parse(WITH_SECRET))
    assert SECRET not in str(parse(WITH_SECRET))


@pytest.mark.parametrize(
    ("query", "verify_mode", "check_hostname"),
    [
        ("sslmode=require", ssl.CERT_NONE, False),
        ("sslmode=no-verify", ssl.CERT_NONE, False),
        ("sslmode=verify-ca", ssl.CERT_REQUIRED, False),
        ("sslmode=verify-full", ssl.CERT_REQUIRED, True),
        ("sslrootcert=system", ssl.CERT_REQUIRED, True),
        (f"sslmode=require&sslrootcert={quote(certifi.where())}", ssl.CERT_REQUIRED, False),
        (f"sslmode=verify-full&sslrootcert={quote(certifi.where())}", ssl.CERT_REQUIRED, True),
        ("sslmode=require&sslnegotiation=direct", ssl.CERT_NONE, False),
    ],
)
def test_a_mode_verifies_what_libpq_would_verify(query: str, verify_mode: ssl.VerifyMode, check_hostname: bool) -> None:
    url = parse(f"postgresql://u:p@host/db?{query}")
    context = url.tls
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (verify_mode, check_hostname)
    assert url.tls is context, "made once: each one costs as much as a handshake"
    assert url.connect_arguments()["direct_tls"] is ("direct" in query)


@pytest.mark.parametrize(("mode", "verifies"), [("require", True), ("prefer", True), ("no-verify", False)])
def test_the_certificate_of_neon_is_verified_unless_told_otherwise(mode: str, verifies: bool) -> None:
    context = parse(f"postgresql://u:p@{NEON}/db?sslmode={mode}").tls
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (verifies, verifies)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_the_weak_modes_are_left_to_asyncpg(mode: str) -> None:
    assert parse(f"postgresql://u:p@host/db?sslmode={mode}").connect_arguments()["ssl"] == mode


def test_asyncpg_is_told_where_and_as_whom() -> None:
    assert parse("postgresql://u:p@host:6432/db?sslmode=disable&application_name=app").connect_arguments() == {
        "host": "host",
        "port": 6432,
        "user": "u",
        "password": "p",
        "database": "db",
        "ssl": "disable",
        "direct_tls": False,
        "server_settings": {"application_name": "app"},
        "target_session_attrs": "any",
    }


DIRECT = [
    (f"postgresql://{CONSOLE_POOLED}", NEON, {}),
    (f"postgresql://{CONSOLE}", NEON, {}),
    ("postgresql://u:p@my-pooler.example.com/db", "my-pooler.example.com", {}),
    (
        f"postgresql://u:p@{POOLED}/db?options=endpoint%3Dep-cool-darkness-a1b2c3d4-pooler",
        NEON,
        {"options": "endpoint=ep-cool-darkness-a1b2c3d4"},
    ),
    (
        f"postgresql://u:p@{POOLED}/db?application_name=ep-cool-darkness-a1b2c3d4-pooler",
        NEON,
        {"application_name": "ep-cool-darkness-a1b2c3d4-pooler"},
    ),
]


@pytest.mark.parametrize(("text", "host", "server_settings"), DIRECT)
def test_the_direct_address_has_no_pooler(text: str, host: str, server_settings: dict[str, str]) -> None:
    direct = parse(text).direct()
    assert (direct.host, direct.server_settings) == (host, server_settings)
    assert not direct.is_pooled
    assert (direct.user, direct.password, direct.sslmode) == (
        parse(text).user,
        parse(text).password,
        parse(text).sslmode,
    )


def test_migrations_use_the_direct_address_that_is_set() -> None:
    settings = make_settings(f"postgresql://{CONSOLE_POOLED}", database_url_direct="postgresql://u:p@other/db")
    url = direct_database_url(settings)
    assert isinstance(url, PostgresURL)
    assert url.host == "other"


def test_migrations_derive_the_direct_address_where_none_is_set() -> None:
    url = direct_database_url(make_settings(f"postgresql://{CONSOLE_POOLED}"))
    assert isinstance(url, PostgresURL)
    assert url.host == NEON


def test_a_wrong_direct_address_is_refused_under_its_own_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL_DIRECT: "):
        direct_database_url(make_settings(WITH_SECRET, database_url_direct="nonsense"))


SQLITE = [
    ("sqlite+aiosqlite:///~/todo.db", Path.home() / "todo.db"),
    ("sqlite+aiosqlite:///./todo.db", Path("todo.db")),
    ("sqlite+aiosqlite:///todo.db", Path("todo.db")),
    ("sqlite+aiosqlite:////var/lib/todo.db", Path("/var/lib/todo.db")),
    ("sqlite+aiosqlite:///a b#c%20d.db", Path("a b#c%20d.db")),
    ("sqlite+aiosqlite:///:memory:", None),
    ("sqlite+aiosqlite:///", None),
    ("sqlite+aiosqlite://", None),
]


@pytest.mark.parametrize(("text", "path"), SQLITE)
def test_an_sqlite_url_names_a_file_or_memory(text: str, path: Path | None) -> None:
    url = parse_database_url(text)
    assert url == SQLiteURL(path)
    assert direct_database_url(make_settings(text)) == url


# Any text that PostgreSQL can take and UTF-8 can write.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@given(user=names, password=names, database=names)
def test_what_was_percent_encoded_comes_out_equal(user: str, password: str, database: str) -> None:
    text = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@host/{quote(database, safe='')}"
    url = parse(text)
    assert (url.host, url.user, url.password, url.database) == ("host", user, password, database)


@given(user=names, password=names, database=names, application=names)
def test_what_was_percent_encoded_into_parameters_comes_out_equal(
    user: str, password: str, database: str, application: str
) -> None:
    parameters = {"user": user, "password": password, "dbname": database, "application_name": application}
    url = parse(
        "postgresql://host/?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    )
    assert (url.user, url.password, url.database) == (user, password, database)
    assert url.server_settings == {"application_name": application}


CANARY = "c4n4ry"
PIECES = ("c4n4", "4n4r", "n4ry")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
delimiters = st.sampled_from(["", ":", "@", "/", "//", "?", "#", "[", "]", "=", "&", ",", "%", "%00", "%2C", " "])
schemes = st.sampled_from(["postgresql://", "postgres:", "postgresql+asyncpg://", "sqlite+aiosqlite:///", "x://", ""])
parameters = st.sampled_from(["", "sslmode=", "connect_timeout=", "port=", "host=", "sslrootcert=", "options="])


@given(scheme=schemes, parts=st.lists(st.tuples(texts, delimiters, parameters), max_size=6))
@example(scheme="sqlite+aiosqlite:///", parts=[("", "?", ""), ("", "", "")])
def test_no_refusal_repeats_four_characters_of_a_url(scheme: str, parts: list[tuple[str, str, str]]) -> None:
    text = scheme + "".join(f"{text}{CANARY}{delimiter}{parameter}" for text, delimiter, parameter in parts)
    try:
        parse_database_url(text)
    except ConfigurationError as error:
        message = str(error)
        assert not any(piece in message for piece in PIECES), message
