"""From any PostgreSQL URL, such as a Neon console's, to what asyncpg takes: each parameter with libpq's meaning.

asyncpg and SQLAlchemy each read a URL in a way of their own and fail on what Neon's console gives out, so neither sees
one: the URL is taken apart here (specs/decisions/0004-neon-connection.md). What cannot be honoured is refused by name.
"""

import ssl
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from backend.config import ConfigurationError, Settings
from backend.db.parameters import (
    Unusable,
    check_certificates,
    connect_timeout_of,
    host_of,
    one_of,
    port_of,
    read_parameters,
    refuse_others,
)

SslMode = Literal["disable", "allow", "prefer", "no-verify", "require", "verify-ca", "verify-full"]
SSL_MODES: tuple[SslMode, ...] = get_args(SslMode)
SslNegotiation = Literal["postgres", "direct"]
SSL_NEGOTIATIONS: tuple[SslNegotiation, ...] = get_args(SslNegotiation)

POSTGRES_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
SQLITE_SCHEME = "sqlite+aiosqlite"


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
            raise Unusable("must not contain control characters")
        if separator and scheme.lower() == SQLITE_SCHEME:
            return _parse_sqlite(rest)
        if separator and scheme.lower() in POSTGRES_SCHEMES:
            return _parse_postgres(rest)
        raise Unusable(f"must begin with postgresql:// or {SQLITE_SCHEME}:///")
    except Unusable as error:
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
        raise Unusable(f"must be {SQLITE_SCHEME}:///path, without parameters")
    path = rest.removeprefix("/")
    if not path or path == ":memory:":
        return SQLiteURL(None)
    try:
        return SQLiteURL(Path(path).expanduser())
    except RuntimeError:
        raise Unusable("~ is the home folder of a user, and there is none") from None


def _parse_postgres(rest: str) -> PostgresURL:
    parameters = read_parameters(rest)
    server_settings: dict[str, str] = {
        name: parameters.pop(name) for name in ("application_name", "options") if name in parameters
    }
    if "fallback_application_name" in parameters:
        server_settings.setdefault("application_name", parameters.pop("fallback_application_name"))
    if "schema" in parameters:
        server_settings["search_path"] = parameters.pop("schema")
    one_of(parameters, "client_encoding", ("utf8", "utf-8", "auto"))
    if one_of(parameters, "gssencmode", ("disable", "prefer", "require")) == "require":
        raise Unusable("gssencmode=require is not supported")
    result = PostgresURL(
        host=host_of(parameters.pop("host")),
        port=port_of(parameters.pop("port") or "5432"),
        user=parameters.pop("user") or None,
        password=parameters.pop("password") or None,
        database=parameters.pop("dbname") or None,
        sslmode="prefer",
        channel_binding_required=one_of(parameters, "channel_binding", ("disable", "prefer", "require")) == "require",
        connect_timeout=connect_timeout_of(parameters.pop("connect_timeout", "0")),
        must_be_writable=one_of(parameters, "target_session_attrs", ("any", "read-write")) == "read-write",
        server_settings=server_settings,
    )
    result = _with_tls(result, parameters)
    # "public" is the default, and Prisma writes it always.
    if "search_path" in server_settings and result.is_pooled and server_settings.pop("search_path") != "public":
        raise Unusable("schema is not supported by Neon's pooler: set the role's search_path")
    refuse_others(parameters)
    return result


def _with_tls(url: PostgresURL, parameters: dict[str, str]) -> PostgresURL:
    if "ssl" in parameters:
        # So spelled by JDBC, which libpq understands, and by many recipes for SQLAlchemy with asyncpg.
        value = parameters.pop("ssl").lower()
        words = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
        parameters.setdefault("sslmode", words.get(value, value))
    root = parameters.pop("sslrootcert", None)
    mode = one_of(parameters, "sslmode", SSL_MODES) or ("verify-full" if root == "system" else "prefer")
    negotiation = one_of(parameters, "sslnegotiation", SSL_NEGOTIATIONS)
    if root == "system" and mode != "verify-full":
        raise Unusable("sslrootcert=system needs sslmode=verify-full")
    if root not in {None, "system"}:
        check_certificates(root)
    if url.channel_binding_required and mode == "disable":
        raise Unusable("channel_binding=require needs TLS, which sslmode=disable excludes")
    if url.is_neon and mode in {"disable", "allow"}:
        raise Unusable(f"sslmode={mode} is refused: a Neon host is never spoken to without TLS")
    if url.is_neon and mode == "prefer":
        mode = "require"
    if negotiation == "direct" and mode in {"disable", "allow", "prefer"}:
        raise Unusable("sslnegotiation=direct needs sslmode=require or stronger")
    if mode == "require" and root is not None:
        mode = "verify-ca"  # libpq: with a root certificate at hand, "require" checks against it
    return replace(url, sslmode=mode, sslrootcert=root, sslnegotiation=negotiation)
