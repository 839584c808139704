"""From the text of a PostgreSQL URL to libpq's parameters, each of which is read or refused.

All of them raise `Unusable`. Its text never holds a part of the URL, which may be a piece of a badly encoded password.

libpq's meanings: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import re
import ssl
from typing import TypeVar
from urllib.parse import unquote

MAX_CONNECT_TIMEOUT = 300

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
    (/ ((?P<dbname>[^/?#@&]+) /?)? | (?!.*@))
    (\?(?P<query>[^#]*))?
    """,
    re.VERBOSE,
)
_HOST = re.compile(r"[\w.-]*|[0-9a-fA-F:.]+(%[\w.-]+)?")

_Word = TypeVar("_Word", bound=str)


class Unusable(ValueError):
    """Why a URL cannot be used, without a word of it."""


def read_parameters(rest: str) -> dict[str, str]:
    """Return libpq's parameters: host, port, user, password and dbname, and over them those of the query."""
    found = _POSTGRES.fullmatch(rest)
    if found is None:
        raise Unusable("cannot be read; percent-encode the password, and the names of user and database")
    parts = found.groupdict(default="")
    pairs = [pair.partition("=") for pair in parts.pop("query").split("&") if pair]
    query = {_decoded(name): _decoded(value) for name, _, value in pairs}
    if len(query) != len(pairs):
        raise Unusable("has a parameter twice")
    parts["host"] += parts.pop("ipv6")
    return {name: _decoded(part) for name, part in parts.items()} | query


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Unusable("has a percent-encoded byte that is no UTF-8; percent-encode the % of a password, too") from None
    if "\0" in decoded:
        raise Unusable("must not contain NUL")
    return decoded


def host_of(host: str) -> str | None:
    """Return the host, in lower case, or the folder of a socket; None for an empty one."""
    if host.startswith("/") and "," not in host:
        return host
    try:
        usable = _HOST.fullmatch(host) and host.encode("idna").isascii()  # as asyncio will
    except UnicodeError:  # an empty or too long label
        usable = False
    if not usable:
        raise Unusable("must name one host: is it a placeholder?")
    return host.lower() or None


def one_of(parameters: dict[str, str], name: str, allowed: tuple[_Word, ...]) -> _Word | None:
    """Take a parameter out and return its value, which is one of a few words; None where it is not there."""
    if name not in parameters:
        return None
    value = parameters.pop(name).lower()
    for word in allowed:
        if word == value:
            return word
    raise Unusable(f"{name} must be one of {', '.join(allowed)}")


def port_of(text: str) -> int:
    """Return the port."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65_536:
        raise Unusable("port must be a number from 1 to 65535")
    return int(text)


def connect_timeout_of(text: str) -> int | None:
    """Return the seconds; None for zero or less."""
    if not re.fullmatch("-?[0-9]{1,9}", text) or int(text) > MAX_CONNECT_TIMEOUT:
        raise Unusable(f"connect_timeout must be a whole number of seconds, at most {MAX_CONNECT_TIMEOUT}")
    # Zero or less is libpq's "wait for ever". Here every wait has a limit: DATABASE_CONNECT_TIMEOUT then holds.
    return int(text) if int(text) > 0 else None


def check_certificates(path: str) -> None:
    """Refuse a file that holds no authorities."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:  # SSLError is one; its message would repeat the path
        raise Unusable("sslrootcert must name a file of certificates that exists and can be read") from None


def refuse_others(parameters: dict[str, str]) -> None:
    """Refuse what is left of the parameters, unless it changes nothing here."""
    for name in parameters.keys() - _IGNORED:
        raise Unusable(f"{name} is not supported" if name in _REFUSED else "has an unknown parameter")
