"""From any PostgreSQL URL, such as a Neon console's, to what asyncpg takes: each parameter with libpq's meaning.

asyncpg and SQLAlchemy each read a URL in a way of their own and fail on what Neon's console gives out, so neither sees
one: the URL is taken apart here (specs/decisions/0004-neon-connection.md). What cannot be honoured is refused by name.
A message never holds a part of the URL, since any part may be a piece of a badly encoded password.

libpq's meanings: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import re
import ssl
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from backend.config import ConfigurationError, Settings

SslMode = Literal["disable", "allow", "prefer", "no-verify", "require", "verify-ca", "verify-full"]
SSL_MODES: tuple[SslMode, ...] = get_args(SslMode)
SslNegotiation = Literal["postgres", "direct"]

MAX_CONNECT_TIMEOUT = 300

POSTGRES_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
SQLITE_SCHEME = "sqlite+aiosqlite"

_IGNORED = frozenset(
    """
    pgbouncer connection_limit pool_timeout supa uselibpqcompat
    statement_cache_size prepared_statement_cache_size prepared_statement_name_func
    keepalives keepalives_idle keepalives_interval keepalives_count
    """.split()  # noqa: SIM905 # as below
)
"""What other tools need in a URL, and what is always so here: keepalives, and no statement that the server keeps."""

# libpq's other parameters. Known by name, so that the message may repeat the name: an unknown one may be a secret.
_REFUSED = frozenset(
    """
    hostaddr passfile require_auth replication sslcompression sslcert sslkey sslpassword
    sslcertmode sslkeylogfile sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version
    min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key scram_server_key service
    load_balance_hosts tcp_user_timeout oauth_issuer oauth_client_id oauth_client_secret oauth_scope
    """.split()  # noqa: SIM905 # a list would be forty lines
)


_NO_HOST = frozenset(" <>{}$\\")
_NOT_UTF_8 = "has a percent-encoded byte that is no UTF-8; percent-encode the % of a password, too"


class _Unusable(ValueError):
    """Why a URL cannot be used, without a word of it."""


@dataclass(frozen=True)
class SQLiteURL:
    """An SQLite file, or a database in memory where `path` is None."""

    path: Path | None

    @property
    def sqlalchemy_url(self) -> str:
        """The URL as SQLAlchemy reads it."""
        return f"{SQLITE_SCHEME}:///{'' if self.path is None else self.path}"


@dataclass(frozen=True)
class PostgresURL:
    """A PostgreSQL server and how to speak to it."""

    host: str | None
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    sslmode: SslMode
    sslrootcert: str | None = None
    sslnegotiation: SslNegotiation | None = None
    """Whether TLS is asked for first; None where the URL does not say."""
    channel_binding_required: bool = False
    connect_timeout: int | None = None
    must_be_writable: bool = False
    """Whether a server that only reads, such as a replica, is refused when connecting; that costs a round trip."""
    server_settings: dict[str, str] = field(default_factory=dict)

    @property
    def is_neon(self) -> bool:
        """True for Neon's cloud, which is reached over the open internet and so never without TLS."""
        return self.host is not None and self.host.lower().removesuffix(".").endswith((".neon.tech", ".neon.build"))

    @property
    def direct_tls(self) -> bool:
        """True where TLS begins at once, without a round trip that asks for it: where the URL says so, and on Neon."""
        return self.is_neon if self.sslnegotiation is None else self.sslnegotiation == "direct"

    @property
    def is_pooled(self) -> bool:
        """True for the address of Neon's pooler (PgBouncer in transaction mode)."""
        return self.is_neon and self._endpoint.endswith("-pooler")

    @property
    def _endpoint(self) -> str:
        return (self.host or "").partition(".")[0]

    def direct(self) -> "PostgresURL":
        """Return the address of the server itself, which migrations need: on a Neon host without `-pooler`."""
        if not self.is_pooled or self.host is None:
            return self
        pooled, endpoint = self._endpoint, self._endpoint.removesuffix("-pooler")
        settings = {
            name: value.replace(f"endpoint={pooled}", f"endpoint={endpoint}") if name == "options" else value
            for name, value in self.server_settings.items()
        }
        return replace(self, host=endpoint + self.host.removeprefix(pooled), server_settings=settings)

    @property
    def _verifies(self) -> bool:
        """Whether the certificate is verified. In libpq "require" does not; Neon's is public, so there it can be."""
        return self.sslmode in {"verify-ca", "verify-full"} or (self.sslmode == "require" and self.is_neon)

    @cached_property
    def tls(self) -> ssl.SSLContext | SslMode:
        """What asyncpg takes as `ssl`. The context is made once: each one costs as much as a connection's handshake."""
        if self.sslmode in {"disable", "allow", "prefer"}:
            return self.sslmode  # asyncpg tries the one and the other as libpq does
        if not self._verifies:  # encryption without proof of who is there
            # No authorities: OpenSSL would look for the issuer in all of them, in each handshake, to no end.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context(cafile=None if self.sslrootcert == "system" else self.sslrootcert)
            context.check_hostname = self.sslmode != "verify-ca"
        if self.direct_tls:
            context.set_alpn_protocols(["postgresql"])
        return context

    def connect_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `asyncpg.connect` that say where and as whom; not the timeouts."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "ssl": self.tls,
            "direct_tls": self.direct_tls,
            "server_settings": dict(self.server_settings),
            "target_session_attrs": "read-write" if self.must_be_writable else "any",
        }


DatabaseURL = SQLiteURL | PostgresURL


@lru_cache(maxsize=16)  # several places ask for the same address
def parse_database_url(url: str, variable: str = "DATABASE_URL") -> DatabaseURL:
    """Read a database URL. Raises `ConfigurationError`, which names `variable` and repeats nothing of the URL."""
    url = _unwrapped(url, variable)
    try:
        if not url.isprintable():
            raise _Unusable("must not contain control characters")
        scheme, _, rest = url.partition(":")
        if scheme.lower() == SQLITE_SCHEME:
            return _parse_sqlite(url)
        if scheme.lower() in POSTGRES_SCHEMES and rest.startswith("//"):
            return _parse_postgres(url)
        raise _Unusable(f"must begin with postgresql:// or {SQLITE_SCHEME}:///")
    except _Unusable as error:
        raise ConfigurationError(variable, str(error)) from None


def database_url(settings: Settings) -> DatabaseURL:
    """Return the database that serves requests."""
    return parse_database_url(settings.database_url.get_secret_value())


def direct_database_url(settings: Settings) -> DatabaseURL:
    """Return the database without a pooler in between: `DATABASE_URL_DIRECT`, or derived from `DATABASE_URL`."""
    if settings.database_url_direct is not None:
        return parse_database_url(settings.database_url_direct.get_secret_value(), "DATABASE_URL_DIRECT")
    url = database_url(settings)
    return url.direct() if isinstance(url, PostgresURL) else url


def _unwrapped(text: str, variable: str) -> str:
    """Return the URL in what was pasted: a line that sets the variable, a console's `psql 'postgresql://…'`."""
    ends = " \t\r\n;,"
    text = re.sub(rf"^([^/]*\b{variable}\b['\"]?\s*[=:\s]|psql\s+(-d\s+)?)", "", text.strip(ends)).strip(ends)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`"
    return text[1:-1].strip(ends) if quoted else text


def _parse_sqlite(url: str) -> SQLiteURL:
    _, found, path = url.partition(":///")
    if "?" in path or (not found and url != f"{SQLITE_SCHEME}://"):
        raise _Unusable(f"must be {SQLITE_SCHEME}:///path, without parameters")
    if not path or path == ":memory:":
        return SQLiteURL(None)
    try:
        return SQLiteURL(Path(path).expanduser())
    except RuntimeError:
        raise _Unusable("~ is the home folder of a user, and there is none") from None


def _take_apart(url: str) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return host, port, user, password and dbname, and the other parameters."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message would repeat the URL
        raise _Unusable("has a host or port that cannot be read; percent-encode the password") from None
    if "#" in url or "[" in parts.path:
        raise _Unusable("must not contain #; percent-encode the password")
    path = parts.path.strip("/")
    if "@" in path or ("@" in url and "@" not in parts.netloc):
        raise _Unusable("has an @ that is in no place for one; percent-encode the password")
    if not set("/&='\"`").isdisjoint(path) or re.search(r"\][^:]", parts.netloc):
        raise _Unusable("cannot be read; percent-encode the password and the database's name")
    query = _query(parts.query)
    address = {
        "host": _decoded(parts.hostname),
        "port": str(port) if port is not None else None,
        "user": _decoded(parts.username),
        "password": _decoded(parts.password),
        "dbname": _decoded(path),
    }
    # As in libpq, a parameter of the query wins over the same part before it: `?host=/run/postgresql` is a socket.
    address |= {name: query.pop(name) or None for name in address.keys() & query.keys()}
    if "\0" in "".join(filter(None, (*address.values(), *query.values()))):
        raise _Unusable("must not contain NUL")
    _check_host(address["host"] or "")
    return address, query


def _parse_postgres(url: str) -> PostgresURL:
    address, query = _take_apart(url)
    server_settings: dict[str, str] = {
        name: query.pop(name) for name in ("application_name", "options") if name in query
    }
    if "fallback_application_name" in query:
        server_settings.setdefault("application_name", query.pop("fallback_application_name"))
    if "schema" in query:
        server_settings["search_path"] = query.pop("schema")
    _one_of(query, "client_encoding", ("utf8", "utf-8", "auto"))
    if _one_of(query, "gssencmode", ("disable", "prefer", "require")) == "require":
        raise _Unusable("gssencmode=require is not supported")
    result = PostgresURL(
        host=address["host"],
        port=_port(address["port"]),
        user=address["user"],
        password=address["password"],
        database=address["dbname"],
        sslmode="prefer",
        channel_binding_required=_one_of(query, "channel_binding", ("disable", "prefer", "require")) == "require",
        connect_timeout=_connect_timeout(query),
        must_be_writable=_one_of(query, "target_session_attrs", ("any", "read-write")) == "read-write",
        server_settings=server_settings,
    )
    result = _with_tls(result, query)
    # "public" is the default, and Prisma writes it always.
    if "search_path" in server_settings and result.is_pooled and server_settings.pop("search_path") != "public":
        raise _Unusable("schema is not supported by Neon's pooler: set the role's search_path")
    for name in query.keys() - _IGNORED:
        # Where no host was found before it, it is likely a piece of a password that was not percent-encoded.
        is_word = re.fullmatch("[a-z_]{2,40}", name) and "@" in url.partition("?")[0]
        raise _Unusable(f"{name} is not supported" if name in _REFUSED or is_word else "has an unknown parameter")
    return result


def _decoded(part: str | None) -> str | None:
    try:
        return unquote(part or "", errors="strict") or None
    except UnicodeDecodeError:
        raise _Unusable(_NOT_UTF_8) from None


def _check_host(host: str) -> None:
    if "," in host:
        raise _Unusable("must name one host")
    if not host.startswith("/") and not _NO_HOST.isdisjoint(host):
        raise _Unusable("has a host that cannot be one: is it a placeholder?")
    try:
        _ = host.startswith("/") or host.encode("idna")  # as asyncio will
    except UnicodeError:
        raise _Unusable("has a host with an empty or too long label") from None


def _query(text: str) -> dict[str, str]:
    # Not parse_qsl's own decoding: in libpq's URIs a plus sign is a plus sign.
    try:
        pairs = parse_qsl(text.replace("+", "%2B"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise _Unusable(_NOT_UTF_8) from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Unusable("has a parameter twice")
    return dict(pairs)


def _one_of(query: dict[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = query.pop(name, None)
    value = value if value is None else value.lower()
    if value is not None and value not in allowed:
        raise _Unusable(f"{name} must be one of {', '.join(allowed)}")
    return value


def _port(text: str | None) -> int:
    if text is None:
        return 5432
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536):
        raise _Unusable("port must be a number from 1 to 65535")
    return int(text)


def _connect_timeout(query: dict[str, str]) -> int | None:
    text = query.pop("connect_timeout", None)
    if text is None:
        return None
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10):
        raise _Unusable("connect_timeout must be a whole number of seconds")
    if int(text) > MAX_CONNECT_TIMEOUT:
        raise _Unusable(f"connect_timeout must be at most {MAX_CONNECT_TIMEOUT} seconds")
    # Zero or less is libpq's "wait for ever". Here every wait has a limit: DATABASE_CONNECT_TIMEOUT then holds.
    return int(text) if int(text) > 0 else None


def _with_tls(url: PostgresURL, query: dict[str, str]) -> PostgresURL:
    if "ssl" in query:
        # So spelled by JDBC, which libpq understands, and by many recipes for SQLAlchemy with asyncpg.
        value = query.pop("ssl").lower()
        query.setdefault(
            "sslmode", {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(value, value)
        )
    mode = _one_of(query, "sslmode", SSL_MODES)
    root = query.pop("sslrootcert", None)
    negotiation: SslNegotiation | None = _one_of(query, "sslnegotiation", get_args(SslNegotiation))  # type: ignore[assignment] # it has checked it
    if root == "system":
        if mode not in {None, "verify-full"}:
            raise _Unusable("sslrootcert=system needs sslmode=verify-full")
        mode = "verify-full"
    elif root is not None:
        _check_certificates(root)
    if url.channel_binding_required and mode == "disable":
        raise _Unusable("channel_binding=require needs TLS, which sslmode=disable excludes")
    if url.is_neon and mode in {"disable", "allow"}:
        raise _Unusable(f"sslmode={mode} is refused: a Neon host is never spoken to without TLS")
    if url.is_neon and mode in {None, "prefer"}:
        mode = "require"
    if negotiation == "direct" and mode not in {"no-verify", "require", "verify-ca", "verify-full"}:
        raise _Unusable("sslnegotiation=direct needs sslmode=require or stronger")
    if mode == "require" and root is not None:
        mode = "verify-ca"  # libpq: with a root certificate at hand, "require" checks against it
    sslmode: SslMode = mode or "prefer"  # type: ignore[assignment] # _one_of has checked it
    return replace(url, sslmode=sslmode, sslrootcert=root, sslnegotiation=negotiation)


def _check_certificates(path: str) -> None:
    if not Path(path).is_file():
        raise _Unusable("sslrootcert names a file that does not exist")
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # SSLError is one; its message would repeat the path
        raise _Unusable("sslrootcert names a file that holds no certificate or cannot be read") from None
