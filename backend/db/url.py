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
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import unquote

from backend.config import ConfigurationError, Settings

SslMode = Literal["disable", "allow", "prefer", "no-verify", "require", "verify-ca", "verify-full"]
SSL_MODES: tuple[SslMode, ...] = get_args(SslMode)
SslNegotiation = Literal["postgres", "direct"]
SSL_NEGOTIATIONS: tuple[SslNegotiation, ...] = get_args(SslNegotiation)

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

# libpq's other parameters, and some of other tools. Only these are named: an unknown one may be a piece of a password.
_REFUSED = frozenset(
    """
    hostaddr passfile require_auth replication sslcompression sslcert sslkey sslpassword
    sslcertmode sslkeylogfile sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version
    min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key scram_server_key service
    load_balance_hosts tcp_user_timeout oauth_issuer oauth_client_id oauth_client_secret oauth_scope
    search_path timezone statement_timeout lock_timeout command_timeout timeout socket_timeout sslaccept
    """.split()  # noqa: SIM905 # a list would be forty lines
)

# What stands behind the scheme. As in libpq an @ may stand in the query where a path is before it; without one, and
# in the path, it is more likely the end of a password with a ? or / in it.
_POSTGRES = re.compile(
    r"""
    ((?P<user>[^:/?#\[\]]*) (:(?P<password>[^/?#\[\]]*))? @)?
    (\[(?P<ipv6>[^\[\]]*)\] | (?P<host>[^:@/?#\[\]]*)) (:(?P<port>[0-9]*))?
    (/(?P<dbname>[^/?#@&]*) /? | (?!.*@))
    (\?(?P<query>[^#]*))?
    """,
    re.VERBOSE,
)
_HOST = re.compile(r"[\w.-]*|[0-9a-fA-F:.]+(%[\w.-]+)?")


_Word = TypeVar("_Word", bound=str)


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
        return self.host is not None and self.host.removesuffix(".").endswith((".neon.tech", ".neon.build"))

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
    url = url.strip().removeprefix("psql ").strip()
    if url[:1] in {"'", '"', "`"} and url.endswith(url[0]):
        url = url[1:-1].strip()
    scheme, separator, rest = url.partition("://")
    try:
        if not url.isprintable():
            raise _Unusable("must not contain control characters")
        if separator and scheme.lower() == SQLITE_SCHEME:
            return _parse_sqlite(rest)
        if separator and scheme.lower() in POSTGRES_SCHEMES:
            return _parse_postgres(rest)
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


def _parse_sqlite(rest: str) -> SQLiteURL:
    if "?" in rest or (rest and not rest.startswith("/")):
        raise _Unusable(f"must be {SQLITE_SCHEME}:///path, without parameters")
    path = rest.removeprefix("/")
    if not path or path == ":memory:":
        return SQLiteURL(None)
    try:
        return SQLiteURL(Path(path).expanduser())
    except RuntimeError:
        raise _Unusable("~ is the home folder of a user, and there is none") from None


def _parse_postgres(rest: str) -> PostgresURL:
    parameters = _parameters(rest)
    server_settings: dict[str, str] = {
        name: parameters.pop(name) for name in ("application_name", "options") if name in parameters
    }
    if "fallback_application_name" in parameters:
        server_settings.setdefault("application_name", parameters.pop("fallback_application_name"))
    if "schema" in parameters:
        server_settings["search_path"] = parameters.pop("schema")
    _one_of(parameters, "client_encoding", ("utf8", "utf-8", "auto"))
    if _one_of(parameters, "gssencmode", ("disable", "prefer", "require")) == "require":
        raise _Unusable("gssencmode=require is not supported")
    result = PostgresURL(
        host=_host(parameters.pop("host")),
        port=_port(parameters.pop("port") or "5432"),
        user=parameters.pop("user") or None,
        password=parameters.pop("password") or None,
        database=parameters.pop("dbname") or None,
        sslmode="prefer",
        channel_binding_required=_one_of(parameters, "channel_binding", ("disable", "prefer", "require")) == "require",
        connect_timeout=_connect_timeout(parameters.pop("connect_timeout", "0")),
        must_be_writable=_one_of(parameters, "target_session_attrs", ("any", "read-write")) == "read-write",
        server_settings=server_settings,
    )
    result = _with_tls(result, parameters)
    # "public" is the default, and Prisma writes it always.
    if "search_path" in server_settings and result.is_pooled and server_settings.pop("search_path") != "public":
        raise _Unusable("schema is not supported by Neon's pooler: set the role's search_path")
    for name in parameters.keys() - _IGNORED:
        raise _Unusable(f"{name} is not supported" if name in _REFUSED else "has an unknown parameter")
    return result


def _parameters(rest: str) -> dict[str, str]:
    """Return libpq's parameters: host, port, user, password and dbname, and over them those of the query."""
    found = _POSTGRES.fullmatch(rest)
    if found is None:
        raise _Unusable("cannot be read; percent-encode the password, and the names of user and database")
    parts = found.groupdict(default="")
    pairs = [pair.partition("=") for pair in parts.pop("query").split("&") if pair]
    query = {_decoded(name): _decoded(value) for name, _, value in pairs}
    if len(query) != len(pairs):
        raise _Unusable("has a parameter twice")
    parts["host"] += parts.pop("ipv6")
    return {name: _decoded(part) for name, part in parts.items()} | query


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _Unusable(
            "has a percent-encoded byte that is no UTF-8; percent-encode the % of a password, too"
        ) from None
    if "\0" in decoded:
        raise _Unusable("must not contain NUL")
    return decoded


def _host(host: str) -> str | None:
    if host.startswith("/"):
        return host  # the folder of a socket
    try:
        usable = _HOST.fullmatch(host) and host.encode("idna").isascii()  # as asyncio will
    except UnicodeError:  # an empty or too long label
        usable = False
    if not usable:
        raise _Unusable("must name one host: is it a placeholder?")
    return host.lower() or None


def _one_of(parameters: dict[str, str], name: str, allowed: tuple[_Word, ...]) -> _Word | None:
    if name not in parameters:
        return None
    value = parameters.pop(name).lower()
    for word in allowed:
        if word == value:
            return word
    raise _Unusable(f"{name} must be one of {', '.join(allowed)}")


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65_536:
        raise _Unusable("port must be a number from 1 to 65535")
    return int(text)


def _connect_timeout(text: str) -> int | None:
    if not re.fullmatch("-?[0-9]{1,9}", text) or int(text) > MAX_CONNECT_TIMEOUT:
        raise _Unusable(f"connect_timeout must be a whole number of seconds, at most {MAX_CONNECT_TIMEOUT}")
    # Zero or less is libpq's "wait for ever". Here every wait has a limit: DATABASE_CONNECT_TIMEOUT then holds.
    return int(text) if int(text) > 0 else None


def _with_tls(url: PostgresURL, parameters: dict[str, str]) -> PostgresURL:
    if "ssl" in parameters:
        # So spelled by JDBC, which libpq understands, and by many recipes for SQLAlchemy with asyncpg.
        value = parameters.pop("ssl").lower()
        words = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
        parameters.setdefault("sslmode", words.get(value, value))
    root = parameters.pop("sslrootcert", None)
    mode = _one_of(parameters, "sslmode", SSL_MODES) or ("verify-full" if root == "system" else "prefer")
    negotiation = _one_of(parameters, "sslnegotiation", SSL_NEGOTIATIONS)
    if root == "system" and mode != "verify-full":
        raise _Unusable("sslrootcert=system needs sslmode=verify-full")
    if root not in {None, "system"}:
        _check_certificates(root)
    if url.channel_binding_required and mode == "disable":
        raise _Unusable("channel_binding=require needs TLS, which sslmode=disable excludes")
    if url.is_neon and mode in {"disable", "allow"}:
        raise _Unusable(f"sslmode={mode} is refused: a Neon host is never spoken to without TLS")
    if url.is_neon and mode == "prefer":
        mode = "require"
    if negotiation == "direct" and mode in {"disable", "allow", "prefer"}:
        raise _Unusable("sslnegotiation=direct needs sslmode=require or stronger")
    if mode == "require" and root is not None:
        mode = "verify-ca"  # libpq: with a root certificate at hand, "require" checks against it
    return replace(url, sslmode=mode, sslrootcert=root, sslnegotiation=negotiation)


def _check_certificates(path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:  # SSLError is one; its message would repeat the path
        raise _Unusable("sslrootcert must name a file of certificates that exists and can be read") from None
